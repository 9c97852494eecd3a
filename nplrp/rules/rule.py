"""LRP's rules as data.

Once the ReLU and max decisions are made, every layer is linear: z = sum_j a_j w_jk + b_k. A rule says which changes of
(input, weight, bias) the four steps of `nplrp.lrp.redistribute` are run with. A rule is a sum of `Part`s, a part is a
list of `Term`s that share one denominator:

    z_k = sum over terms, sum_j  a'_j w'_jk  +  b'_k
    R_j = sum over parts,        weight * sum over terms  a'_j sum_k w'_jk R_k / stabilise(z_k)

Implementations of LRP disagree on what a' and b' are and on how z is stabilised. These are switches of a rule; one that is left at None is
set by the dialect that the rule is run in (`nplrp.rules.dialects`), and without a dialect to the default in `RULES`.

References
----------
Bach et al. 2015, PLoS ONE 10(7) (LRP, eq. 56 LRP-0, eq. 58 epsilon, eq. 60 alpha-beta, eq. 62 pooling); Montavon et al. 2017, Pattern
Recognition 65 (w^2, eq. 12; z+, eq. 19; zB, eq. 15); Lapuschkin et al. 2019, Nature Communications 10 (flat); Montavon et al. 2019,
"Layer-wise relevance propagation: an overview" (the four steps, gamma, sec. 10.2); Andeol et al. 2021 (gamma for both signs of z).
"""

from __future__ import annotations

import ast
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nplrp.errors import RuleError, brief, nearest


class Clamp(NamedTuple):
    """A change of weights or biases by sign: w' = positive * max(w, 0) + negative * min(w, 0)."""

    positive: float
    negative: float

    @property
    def absolute(self) -> Clamp:
        """The change that gives the absolute values of what this one gives, to the bit: |p| max(w, 0) - |n| min(w, 0)."""
        return Clamp(abs(self.positive), -abs(self.negative))


AS_IS = Clamp(1.0, 1.0)
POSITIVE = Clamp(1.0, 0.0)
NEGATIVE = Clamp(0.0, 1.0)
NOTHING = Clamp(0.0, 0.0)

#: A change of weights: by sign, or ``"square"`` (w^2), or ``"ones"``.
Change = Clamp | str

#: What a term may take as a layer's input: the activation, its positive or negative part, ones, or the ends of the box it can lie in.
INPUTS = ("a", "a+", "a-", "1", "low", "high")

#: What a rule makes of a step that is linear only once something is decided (a max-pool, a product, an activation): it goes by what was
#: decided; or places that are equal share it; or all places count alike; or the signal of a product takes all; or by the derivative.
DECISIONS = ("held", "shared", "average", "signal", "slope")

#: Which outputs a part carries relevance of, by the sign of z (with the unchanged weights and bias) or of y, what follows the activation.
UNITS = ("", "z>0", "z<0", "y>0", "y<0")

#: Denominators by id; e is the rule's epsilon, sgn(0) = +1, rms the root of the mean square over all units of one image's layer.
STABILISERS = {
    "plus": "z + e",
    "sign": "z + e sgn(z)",
    "zero": "z, or e where z = 0",
    "sign_skip": "z + e sgn(z); where z = 0, R passes undivided",
    "sign_drop": "z + e sgn(z); where z = 0, R is dropped",
    "guard": "z; R is dropped unless z > 0",
    "drop": "z; where z = 0, R is dropped",
    "split": "z + e sgn(z); where z = 0, 1e-6 in float32 and 1e-15 in float64",
    "clip": "sgn(z) max(|z|, e)",
    "rms": "z + 1e-9 + e rms(z)",
    "rms_sign": "z + e rms(z) sgn(z)",
    "rms_clip": "sgn(z) max(|z|, e rms(z))",
}

#: What of a layer's bias stands in the denominators: changed as the weights are, as it is in each of them, or none of it.
BIASES = ("changed", "raw", "none")


class Term(NamedTuple):
    """One product inside a denominator: a changed input times a changed weight."""

    input: str = "a"
    weight: Change = AS_IS


@dataclass(frozen=True)
class Part:
    """One pass through the four steps.

    Attributes
    ----------
    terms : tuple of Term
        They share a denominator.
    bias : Clamp or str
        How the bias is changed before it is added to the denominator.
    weight : float
        The part's share of the relevance.
    units : str
        The outputs whose relevance it carries: one of `UNITS`, ``""`` for all.
    """

    terms: tuple[Term, ...]
    bias: Change
    weight: float = 1.0
    units: str = ""


class Box(NamedTuple):
    """The ends of a box number by number, arrays [*input_shape] of a layer: equal where a number is a constant, such as padding."""

    low: Any
    high: Any


@dataclass(frozen=True)
class Rule:
    """How relevance passes one layer. Whatever is None is set by the dialect; its default here is in `RULES`.

    Attributes
    ----------
    name : str
        A row of `RULES`.
    epsilon : float or None
        Added to denominators as the stabiliser says, in units of z.
    stabiliser : str or None
        One of `STABILISERS`.
    bias : str or None
        One of `BIASES`; True and False stand for "changed" and "none".
    gamma : float or None
        How much the favoured sign of weights gains.
    alpha, beta : float or None
        Shares of the positive and the negative contributions, alpha - beta = 1; one of them follows from the other. With Bach's and
        lrp_toolbox's convention alpha + beta = 1 (for example 2, -1) beta is stored with its sign turned.
    low, high : float, tuple of float (one for each channel), or None
        The box that inputs lie in; None takes it from the model's preprocessing (`nplrp.box`).
    split : bool or None
        Treat positive and negative inputs apart, so that it is contributions a w, and not weights, that are told by sign.
    branch : str or None
        Of the split gamma: ``"z"`` or ``"y"``, whether its two halves are chosen before or after the activation.
    made : (parts, families) or None
        Of a rule of one's own (`Rule.from_parts`).
    widest : bool
        Where there is no box of the picture, take the widest pair of ends that a pixel has: of the preset that has the rule everywhere.
    box : Box or None
        Of a box taken from the preprocessing that isn't the same all over a channel; `low` and `high` are its ends where pixels are.

    Raises
    ------
    RuleError
        At construction, if a parameter is unknown, out of range, or the rule doesn't take it.
    """

    name: str
    epsilon: float | None = None
    stabiliser: str | None = None
    bias: str | bool | None = None
    gamma: float | None = None
    alpha: float | None = None
    beta: float | None = None
    low: float | tuple[float, ...] | None = None
    high: float | tuple[float, ...] | None = None
    split: bool | None = None
    branch: str | None = None
    made: tuple[tuple[Part, ...], tuple[str, ...]] | None = None
    widest: bool = False
    box: Box | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.made is None and self.name not in RULES:
            raise RuleError(f"there is no rule {brief(self.name)}; {nearest(self.name, RULES, 'docs/rules has a page for each')}")
        taken = self.row.parameters
        for field in SWITCHES:
            if getattr(self, field) is not None and field not in taken:
                what = f"it takes {', '.join(taken)}" if taken else "it has no parameters"
                raise RuleError(f"rule {self.name!r} takes no {field}; {what}")
        if isinstance(self.bias, bool):
            object.__setattr__(self, "bias", "changed" if self.bias else "none")
        for field, choices in (("stabiliser", tuple(STABILISERS)), ("bias", BIASES), ("split", (True, False)), ("branch", ("z", "y"))):
            value = getattr(self, field)
            if value is not None and value not in choices:
                raise RuleError(f"rule {self.name!r}: there is no {field} {value!r}; there are {', '.join(map(str, choices))}")
        for field in ("epsilon", "gamma"):
            value = getattr(self, field)
            if value is not None and not (_is_number(value) and value >= 0):
                raise RuleError(f"rule {self.name!r}: {field} must be a finite number >= 0, not {value!r}")
        if self.bias is not None and self.bias not in self.row.biases:
            raise RuleError(f"rule {self.name!r}: a raw bias can't stand beside squared weights; bias is 'changed' (b^2) or 'none'")
        self._set_alpha_beta()
        self._set_box()

    def _set_alpha_beta(self) -> None:
        alpha, beta = self.alpha, self.beta
        if alpha is None and beta is None:
            return
        for field, value in (("alpha", alpha), ("beta", beta)):
            if value is not None and not _is_number(value):
                raise RuleError(f"rule {self.name!r}: {field} must be a finite number, not {value!r}")
        if alpha is None and beta is not None:
            beta = abs(beta)
            alpha = 1 + beta
        elif alpha is not None and beta is None:
            beta = alpha - 1
        assert alpha is not None and beta is not None
        if alpha - beta != 1 and alpha + beta == 1:
            beta = -beta
        if alpha - beta != 1 or alpha < 0:
            raise RuleError(
                f"rule {self.name!r}: alpha = {self.alpha!r}, beta = {self.beta!r} conserve nothing; expected alpha >= 0 and "
                "alpha - beta = 1 (or alpha + beta = 1, if beta is meant with its sign)"
            )
        object.__setattr__(self, "alpha", alpha)
        object.__setattr__(self, "beta", beta)

    def _set_box(self) -> None:
        if self.low is None and self.high is None:
            return
        for field in ("low", "high"):
            value = getattr(self, field)
            values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
            if not values or not all(_is_number(v) for v in values):
                raise RuleError(f"rule {self.name!r}: {field} must be a number or one for each channel, not {value!r}; give low and high")
            object.__setattr__(self, field, tuple(map(float, values)) if isinstance(value, (tuple, list)) else float(value))
        ends = _pairs(self.low, self.high)
        if ends is None or not all(low <= high for low, high in ends) or all(low == high for low, high in ends):
            raise RuleError(f"rule {self.name!r}: low = {self.low!r} must lie below high = {self.high!r}, channel by channel")

    @classmethod
    def from_parts(
        cls,
        name: str,
        parts: Sequence[Part],
        fits: Sequence[str] = ("conv", "dense"),
        epsilon: float | None = None,
        stabiliser: str | None = None,
    ) -> Rule:
        """Return a rule of one's own, to stand in a composite's rows like any other.

        Parameters
        ----------
        name : str
            Not one of `RULES`.
        parts : sequence of Part
            What it computes (see the top of this file).
        fits : sequence of str
            The families of layers that it is defined for.
        epsilon, stabiliser
            As of every rule; None leaves them to the dialect.

        Raises
        ------
        RuleError
            If the name is taken, there are no parts, or one of them isn't well formed.

        Examples
        --------
        Squared inputs' share: every input counts by its size alone, whatever its sign.

        >>> rule = Rule.from_parts("sizes", [Part((Term("a+", POSITIVE), Term("a-", NEGATIVE)), NOTHING)], fits=("dense",), epsilon=1e-9)
        >>> rule.parts[0].terms[0]
        Term(input='a+', weight=Clamp(positive=1.0, negative=0.0))
        """
        if name in RULES:
            raise RuleError(f"there is a rule {name!r} already; give yours another name")
        if not re.fullmatch(r"[A-Za-z_][\w.\-]*", name):
            raise RuleError(f"a rule's name is a word, not {name!r}")
        for part in parts:
            _check_part(name, part)
        if not parts or not fits:
            raise RuleError(f"rule {name!r} has no {'families of layers' if parts else 'parts'}; give at least one")
        return cls(name, epsilon=epsilon, stabiliser=stabiliser, made=(tuple(parts), tuple(fits)))

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Return the rule that `str` wrote, such as ``"gamma(gamma=0.5, bias=raw)"``.

        Raises
        ------
        RuleError
            If the text is no rule.
        """
        name, parameters = parse_call(text, "a rule")
        unknown = [key for key in parameters if key not in SWITCHES]
        if unknown:
            raise RuleError(f"rule {name!r} takes no {unknown[0]}; parameters of rules: {nearest(unknown[0], SWITCHES)}")
        return cls(name, **parameters)

    def resolved(self, template: Rule | None = None) -> Rule:
        """Return the rule with nothing left open: as it is given, else as `template` (a dialect's rule of that name), else by default."""
        row = self.row.parameters
        filled = {}
        given = self.alpha is not None  # alpha and beta come together
        for field, default in row.items():
            value = getattr(self, field)
            if value is None and template is not None and not (given and field in ("alpha", "beta")):
                value = getattr(template, field)
            filled[field] = default if value is None else value
        return dataclasses.replace(self, **filled)

    @property
    def row(self) -> Row:
        """What the rule is: its row in `RULES`, or one made of its own parts."""
        if self.made is None:
            return RULES[self.name]
        parts, fits = self.made
        return Row(fits, _DIVIDES, lambda rule: parts)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The rule as passes through the four steps; empty for ``"pass"``, which leaves relevance as it is."""
        rule = self.resolved()
        return rule.row.parts(rule)

    @property
    def fits(self) -> tuple[str, ...]:
        """Families of operations that the rule is defined for."""
        return self.row.fits

    @property
    def averages(self) -> bool:
        """Whether all places of a window count alike, whoever won."""
        return self.row.decision == "average"

    @property
    def undivided(self) -> bool:
        """Whether line 2 leaves R as it is."""
        return self.row.undivided

    @property
    def transparent(self) -> bool:
        """Whether relevance keeps its factors on the way through: it is handed on, whole or in shares."""
        return self.row.transparent

    @property
    def has_factor(self) -> bool:
        """Whether relevance of an input has the input as a factor, so that it is 0 where the input is."""
        return all(term.input in ("a", "a+", "a-") for part in self.parts for term in part.terms)

    def __str__(self) -> str:
        hidden = {field: self.row.parameters.get(field) for field in ("bias", "split", "branch")}
        settings = [
            f"{field}={getattr(self, field)}"
            for field in SWITCHES
            if getattr(self, field) is not None and not (field in hidden and getattr(self, field) == hidden[field])
        ]
        return f"{self.name}({', '.join(settings)})" if settings else self.name


#: A rule's parameters in the order they are printed.
SWITCHES = ("gamma", "alpha", "beta", "low", "high", "epsilon", "stabiliser", "bias", "split", "branch")


_WEIGHTED = ("conv", "dense", "scale")
_JOINS = ("add", "mean", "subtract")
_LINEAR = (*_WEIGHTED, "avgpool", *_JOINS)
_POOLS = ("maxpool", "avgpool")
_BENT = ("activation", "rectifier")
_SHAPE = ("reshape", "pad", "identity")
_DIVIDES = {"epsilon": 1e-7, "stabiliser": "sign"}


def _plain(rule: Rule) -> tuple[Part, ...]:
    return (Part((Term("a"),), _bias(rule, AS_IS)),)


def _without_bias(rule: Rule) -> tuple[Part, ...]:
    return (Part((Term("a"),), NOTHING),)


def _ones(rule: Rule) -> tuple[Part, ...]:
    return (Part((Term("1"),), NOTHING),)


def _wsquare(rule: Rule) -> tuple[Part, ...]:
    return (Part((Term("1", "square"),), "square" if rule.bias == "changed" else NOTHING),)


def _flat(rule: Rule) -> tuple[Part, ...]:
    return (Part((Term("1", "ones"),), NOTHING),)


def _zbox(rule: Rule) -> tuple[Part, ...]:
    return (Part((Term("a"), Term("low", Clamp(-1.0, 0.0)), Term("high", Clamp(0.0, -1.0))), NOTHING),)


def _gamma(rule: Rule) -> tuple[Part, ...]:
    assert rule.gamma is not None
    up, down = Clamp(1.0 + rule.gamma, 1.0), Clamp(1.0, 1.0 + rule.gamma)
    if not rule.split:
        return (Part((Term("a", up),), _bias(rule, up)),)
    return (
        Part((Term("a+", up), Term("a-", down)), _bias(rule, up), units=f"{rule.branch}>0"),
        Part((Term("a+", down), Term("a-", up)), _bias(rule, down), units=f"{rule.branch}<0"),
    )


def _alpha_beta(rule: Rule) -> tuple[Part, ...]:
    alpha, beta = (1.0, 0.0) if rule.alpha is None or rule.beta is None else (rule.alpha, rule.beta)
    gains = (Term("a+", POSITIVE), Term("a-", NEGATIVE)) if rule.split else (Term("a", POSITIVE),)
    losses = (Term("a+", NEGATIVE), Term("a-", POSITIVE)) if rule.split else (Term("a", NEGATIVE),)
    both = (Part(gains, _bias(rule, POSITIVE), alpha), Part(losses, _bias(rule, NEGATIVE), -beta))
    return tuple(part for part in both if part.weight)


def _alpha_beta_x(rule: Rule) -> tuple[Part, ...]:
    assert rule.alpha is not None and rule.beta is not None
    both = (
        Part((Term("a+", POSITIVE),), _bias(rule, POSITIVE), rule.alpha),
        Part((Term("a+", NEGATIVE),), _bias(rule, NEGATIVE), -rule.beta),
    )
    return tuple(part for part in both if part.weight)


@dataclass(frozen=True)
class Row:
    """What a rule is.

    Attributes
    ----------
    fits : tuple of str
        The families of operations that it is defined for.
    parameters : mapping
        Its parameters with their defaults.
    parts : callable
        From the rule, all parameters set, to its passes through the four steps; none leaves relevance as it is.
    decision : str
        One of `DECISIONS`.
    biases : tuple of str
        Which of `BIASES` it may have.
    boxed : bool
        Inputs lie in a box, whose ends come from the model's pixels if they aren't given.
    undivided : bool
        Line 2 doesn't divide: s = R.
    transparent : bool
        Relevance is handed on, whole or in shares: it keeps its factors.
    formula : tuple of str
        What it computes, where its parts don't tell.
    denominator : str
        What z is, where its parts don't tell.
    """

    fits: tuple[str, ...]
    parameters: Mapping[str, Any]
    parts: Callable[[Rule], tuple[Part, ...]]
    decision: str = "held"
    biases: tuple[str, ...] = BIASES
    boxed: bool = False
    undivided: bool = False
    transparent: bool = False
    formula: tuple[str, ...] = ()
    denominator: str = ""


RULES: dict[str, Row] = {
    "zero": Row((*_LINEAR, "norm"), {"epsilon": 0.0, "stabiliser": "drop", "bias": "changed"}, _plain),
    "epsilon": Row((*_LINEAR, "norm"), {**_DIVIDES, "bias": "changed"}, _plain),
    "gamma": Row(_WEIGHTED, {"gamma": 0.25, **_DIVIDES, "bias": "changed", "split": True, "branch": "z"}, _gamma),
    "zplus": Row(_LINEAR, {"epsilon": 1e-7, "stabiliser": "plus", "bias": "changed", "split": True}, _alpha_beta),
    "alpha_beta": Row(_LINEAR, {"alpha": 2.0, "beta": 1.0, **_DIVIDES, "bias": "changed", "split": True}, _alpha_beta),
    "alpha_beta_x": Row(_WEIGHTED, {"alpha": 2.0, "beta": 1.0, **_DIVIDES, "bias": "changed"}, _alpha_beta_x),
    "wsquare": Row(_LINEAR, {**_DIVIDES, "bias": "none"}, _wsquare, biases=("changed", "none")),
    "flat": Row((*_LINEAR, "maxpool", "maximum"), {**_DIVIDES}, _flat, decision="average"),
    "zbox": Row(_WEIGHTED, {"low": None, "high": None, **_DIVIDES}, _zbox, boxed=True),
    "norm": Row(("avgpool", *_JOINS, "norm", *_BENT), {**_DIVIDES}, _without_bias),
    "winner": Row(("maxpool", "maximum"), {}, _ones, transparent=True, formula=("R_j = R_k at the first maximum of each window",)),
    "winner_ties": Row(
        ("maxpool", "maximum"), {}, _ones, "shared", transparent=True, formula=("R_j = R_k / n at each of the n maxima of each window",)
    ),
    "winner_epsilon": Row(("maxpool",), {**_DIVIDES}, _without_bias, denominator="z = the maximum; j its first place in the window"),
    "average": Row((*_POOLS, "maximum"), {**_DIVIDES}, _without_bias, decision="average"),
    "signal": Row(("gate",), {}, _ones, "signal", undivided=True, transparent=True, formula=("R_j = R_k for the signal, 0 for the gate",)),
    "half": Row(("gate",), {}, _ones, "shared", undivided=True, transparent=True, formula=("R_j = R_k / m for each of the m inputs",)),
    "gradient": Row((*_LINEAR, "gate", "norm"), {}, _ones, undivided=True, formula=("R_j = sum_k w_jk R_k",)),
    "slope": Row((*_BENT, "norm"), {}, _ones, "slope", undivided=True, formula=("R_j = f'(z_j) R_j",)),
    "pass": Row((*_SHAPE, "scale", "norm", *_BENT), {}, lambda rule: (), transparent=True, formula=("R_j = R_k",)),
}


def _check_part(name: str, part: Any) -> None:
    """See that a part is well formed.

    Raises
    ------
    RuleError
    """
    if not isinstance(part, Part) or not part.terms:
        raise RuleError(f"rule {name!r}: a part is a Part of at least one Term, not {part!r}")
    for term in part.terms:
        if not isinstance(term, Term) or term.input not in ("a", "a+", "a-", "1"):
            raise RuleError(f"rule {name!r}: a term's input is one of a, a+, a-, 1, not {getattr(term, 'input', term)!r}")
    for change in (part.bias, *(term.weight for term in part.terms)):
        if not (change in ("square", "ones") or (isinstance(change, Clamp) and all(map(_is_number, change)))):
            raise RuleError(f"rule {name!r}: weights and biases change by a Clamp of two numbers, 'square' or 'ones', not {change!r}")
    if part.units not in UNITS or not _is_number(part.weight):
        raise RuleError(f"rule {name!r}: a part has units of {UNITS} and a finite weight, not {part.units!r} and {part.weight!r}")


def _bias(rule: Rule, change: Clamp) -> Clamp:
    return {"changed": change, "raw": AS_IS, "none": NOTHING}[str(rule.bias)]


def parse_call(text: str, what: str) -> tuple[str, dict[str, Any]]:
    """Read ``"name(key=value, ...)"`` with numbers, words, true, false and tuples as values.

    Raises
    ------
    RuleError
        If the text isn't of that form.
    """
    found = re.fullmatch(r"\s*([\w.\-]+)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    try:
        if found is None:
            raise ValueError
        call = ast.parse(f"f({found[2] or ''})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError
        parameters = {str(keyword.arg): _value(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise RuleError(f"{brief(text, 200)} is not {what}; expected name or name(parameter=value, ...)") from None
    if len(parameters) < len(call.keywords):
        raise RuleError(f"{brief(text, 200)} has a parameter twice; give it once")
    return found[1], parameters


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return {"true": True, "false": False, "inf": math.inf}.get(node.id, node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Name) and node.operand.id == "inf":
        return -math.inf
    return ast.literal_eval(node)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def _pairs(low: Any, high: Any) -> list[tuple[float, float]] | None:
    """Pair the ends of a box by channel; None if their numbers of channels differ."""
    n = max(len(v) if isinstance(v, tuple) else 1 for v in (low, high))
    lows, highs = ([v] * n if isinstance(v, float) else list(v) for v in (low, high))
    return list(zip(lows, highs, strict=True)) if len(lows) == len(highs) else None
