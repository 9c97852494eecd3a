"""Composites: which rule runs on which kind of layer, and what the top of the network starts with."""

from __future__ import annotations

from dataclasses import dataclass

from nplrp.errors import RuleError
from nplrp.rules import Rule

#: What the last layer starts with, before `target` picks units.
STARTS = ("softmax", "logit")


@dataclass(frozen=True)
class Composite:
    """A named table of rules.

    Attributes
    ----------
    name : str
    rows : tuple of (kinds, Rule)
        The first row whose kinds hold the layer's kind gives its rule. Layers that only reshape always pass relevance on.
    start : str
        ``"softmax"``: the softmax vector, all of it unless a target is given; ``"logit"``: the target's logit, by default the largest.
    source : str
        Where the composite comes from.
    """

    name: str
    rows: tuple[tuple[tuple[str, ...], Rule], ...]
    start: str
    source: str

    def rule_for(self, kind: str, layer: str) -> Rule:
        """Return the rule for a layer.

        Raises
        ------
        RuleError
            If no row fits, or the row's rule isn't defined for this kind; the message names the layer.
        """
        if kind in PASSED:
            return PASS
        for kinds, rule in self.rows:
            if kind in kinds:
                if kind not in rule.fits:
                    raise RuleError(
                        f"composite {self.name!r}: rule {rule} doesn't fit layer {layer!r} of kind {kind!r}; it fits {', '.join(rule.fits)}"
                    )
                return rule
        raise RuleError(f"composite {self.name!r} has no rule for layer {layer!r} of kind {kind!r}; add a row for {kind!r}")


PASS = Rule("pass")
PASSED = PASS.fits
LINEAR = ("conv", "dense", "scale", "avgpool")
POOL = ("maxpool",)

COMPOSITES = {
    composite.name: composite
    for composite in (
        Composite(
            name="notebook",
            rows=(
                (LINEAR, Rule("epsilon", epsilon=1e-7, stabiliser="plus")),
                (POOL, Rule("winner_epsilon", epsilon=1e-7, stabiliser="plus")),
            ),
            start="softmax",
            source="the notebook's code: unsigned epsilon 1e-7, biases, winner-take-all pooling, start = softmax vector",
        ),
        Composite(
            name="zplus",
            rows=(
                (LINEAR, Rule("zplus", epsilon=1e-7, stabiliser="plus")),
                (POOL, Rule("winner")),
            ),
            start="logit",
            source="the w+ rule of the notebook's text, b+ in the denominator; Montavon et al. 2017, eq. 19",
        ),
    )
}


def composite_named(composite: str | Composite) -> Composite:
    """Return the composite of that name, or the argument if it is one.

    Raises
    ------
    RuleError
        If the name is unknown; the message lists the names.
    """
    if isinstance(composite, Composite):
        return composite
    if composite not in COMPOSITES:
        raise RuleError(f"there is no composite {composite!r}; the composites are {', '.join(COMPOSITES)}")
    return COMPOSITES[composite]
