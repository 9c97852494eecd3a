"""LRP's rules as data.

Once the ReLU and max decisions are made, every layer is linear: z = sum_j a_j w_jk + b_k. A rule says which changes of
(input, weight, bias) the four steps of `nplrp.lrp.redistribute` are run with. A rule is a sum of `Part`s, a part is a
list of `Term`s that share one denominator:

    z_k = sum over terms, sum_j  a'_j w'_jk  +  b'_k
    R_j = sum over parts,        weight * sum over terms  a'_j sum_k w'_jk R_k / stabilise(z_k)

References
----------
Bach et al. 2015, PLoS ONE 10(7) (LRP, eq. 58 epsilon, eq. 60 alpha-beta); Montavon et al. 2017, Pattern Recognition 65 (z+, eq. 19);
Montavon et al. 2019, "Layer-wise relevance propagation: an overview" (the four steps, sec. 10.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from nplrp.errors import RuleError


class Clamp(NamedTuple):
    """A change of weights or biases by sign: w' = positive * max(w, 0) + negative * min(w, 0)."""

    positive: float
    negative: float


AS_IS = Clamp(1.0, 1.0)
POSITIVE = Clamp(1.0, 0.0)
NEGATIVE = Clamp(0.0, 1.0)
NOTHING = Clamp(0.0, 0.0)

#: What a term may take as a layer's input: the activation itself, its positive or negative part, or ones.
INPUTS = ("a", "a+", "a-", "1")

#: Denominators by id (formulas: `nplrp.kernels.elementwise`).
STABILISERS = ("plus", "sign")


class Term(NamedTuple):
    """One product inside a denominator: a changed input times a changed weight."""

    input: str = "a"
    weight: Clamp = AS_IS


@dataclass(frozen=True)
class Part:
    """One pass through the four steps: terms that share a denominator, its bias, and the part's share of the relevance."""

    terms: tuple[Term, ...]
    bias: Clamp
    weight: float = 1.0


@dataclass(frozen=True)
class Rule:
    """How relevance passes one layer.

    Attributes
    ----------
    name : str
        ``"epsilon"``, ``"zplus"``, ``"winner"``, ``"winner_epsilon"`` or ``"pass"``: a row of `RULES`.
    epsilon : float or None
        Added to denominators, in units of z; None is the rule's own default (0 for rules that divide by nothing).
    stabiliser : str
        ``"plus"``: z + epsilon; ``"sign"``: z + epsilon * sgn(z), sgn(0) = +1.
    bias : bool
        Whether the bias takes part in the denominator and so absorbs its share.

    Raises
    ------
    RuleError
        At construction, if a parameter is unknown or out of range.
    """

    name: str
    epsilon: float | None = None
    stabiliser: str = "sign"
    bias: bool = True

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise RuleError(f"there is no rule {self.name!r}; the rules are {', '.join(RULES)}")
        if self.stabiliser not in STABILISERS:
            raise RuleError(f"rule {self.name!r}: there is no stabiliser {self.stabiliser!r}; there are {', '.join(STABILISERS)}")
        divides = any(term.input != "1" for part in RULES[self.name].parts for term in part.terms)
        if self.epsilon is None:
            object.__setattr__(self, "epsilon", 1e-6 if divides else 0.0)
        elif not divides:
            raise RuleError(f"rule {self.name!r} divides by nothing, so it takes no epsilon")
        if not (isinstance(self.epsilon, (int, float)) and math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise RuleError(f"rule {self.name!r}: epsilon must be a finite number >= 0, not {self.epsilon!r}")

    @property
    def parts(self) -> tuple[Part, ...]:
        """The rule as passes through the four steps; empty for ``"pass"``, which leaves relevance as it is."""
        parts = RULES[self.name].parts
        return parts if self.bias else tuple(Part(part.terms, NOTHING, part.weight) for part in parts)

    @property
    def fits(self) -> tuple[str, ...]:
        """Kinds of steps that the rule is defined for."""
        return RULES[self.name].fits

    def __str__(self) -> str:
        if not self.epsilon:
            return self.name
        settings = [f"epsilon={self.epsilon:g}", f"stabiliser={self.stabiliser}", *([] if self.bias else ["bias=False"])]
        return f"{self.name}({', '.join(settings)})"


class Row(NamedTuple):
    """What a rule's name stands for, and the kinds of layers it fits."""

    parts: tuple[Part, ...]
    fits: tuple[str, ...]


_LINEAR = ("conv", "dense", "scale", "avgpool")
_SHAPE = ("reshape", "pad", "identity")

RULES: dict[str, Row] = {
    #                 terms: (input, weight), ...                              bias
    "epsilon": Row((Part((Term("a", AS_IS),), AS_IS),), _LINEAR),
    "zplus": Row((Part((Term("a+", POSITIVE), Term("a-", NEGATIVE)), POSITIVE),), _LINEAR),
    "winner": Row((Part((Term("1", AS_IS),), NOTHING),), ("maxpool",)),
    "winner_epsilon": Row((Part((Term("a", AS_IS),), NOTHING),), ("maxpool",)),
    "pass": Row((), _SHAPE),
}
