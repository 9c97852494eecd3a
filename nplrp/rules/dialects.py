"""Dialects: how each implementation of LRP sets the switches that a composite leaves open.

The same rule name means different formulas in different systems: on one layer with two weights alpha1-beta0 gives -1 in Zennit, -1e7 in
iNNvestigate and -1e9 in Captum. A dialect is a table of rules with their switches set as that system has them, its rules for pools, and
what it starts with. Rules that a system doesn't have keep nplrp's own switches, with that system's stabiliser and epsilon.

    nplrp dialects                        lists them
    nplrp dialects --diff zennit captum   prints where two differ, with the formulas
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from nplrp.errors import RuleError, brief, nearest
from nplrp.rules import AS_IS, NOTHING, RULES, STABILISERS, SWITCHES, Change, Clamp, Part, Rule

WINNER, NORM, SIGNAL, EPSILON, PASS = Rule("winner"), Rule("norm"), Rule("signal"), Rule("epsilon"), Rule("pass")


@dataclass(frozen=True)
class Dialect:
    """How one system sets the switches.

    Attributes
    ----------
    name : str
        System and version.
    system : str
        What it is, and where its formulas were read.
    start : str
        What its pass begins with, one of `nplrp.rules.composites.STARTS`.
    epsilon, stabiliser
        Of the rules that don't say themselves; None is each rule's default.
    rules : tuple of Rule
        The rules that the system has, with its switches.
    maxpool, avgpool : Rule
        Of pools.
    add, mean, subtract, maximum, gate, norm, activation, rectifier : Rule
        Of sums, means, differences and maxima of several inputs, of products, of normalisations by their own deviation, and of activations
        that are layers of their own and no ReLUs: smooth ones, and ReLU6, leaky ReLU, ELU, PReLU.
    batch_norm : Rule or None
        Of batch norms that stay: those that can't be merged, and all with `merge=False`; None is the composite's.
    stand_ins : bool
        Rules run on another function in place of a batch norm that is kept: divided by sqrt(variance^2 + epsilon), the mean not scaled.
    clipped : bool
        Guided backpropagation and deconvnet take a ReLU with a ceiling for a ReLU.
    notes : tuple of str
        What else differs; what isn't reproduced.
    """

    name: str
    system: str
    start: str
    epsilon: float | None
    stabiliser: str | None
    rules: tuple[Rule, ...]
    maxpool: Rule = WINNER
    avgpool: Rule = NORM
    add: Rule = NORM
    mean: Rule = NORM
    subtract: Rule = NORM
    maximum: Rule = WINNER
    gate: Rule = SIGNAL
    norm: Rule = EPSILON
    activation: Rule = PASS
    rectifier: Rule = PASS
    batch_norm: Rule | None = None
    stand_ins: bool = False
    clipped: bool = False
    notes: tuple[str, ...] = ()

    def knows(self, rule: Rule) -> bool:
        """Tell whether the system has a rule of that name."""
        own = {each.name for each in (*self.rules, *(getattr(self, family) for family in OWN))}
        return rule.made is not None or rule.name in own or (rule.transparent and not rule.row.parameters)

    def resolve(self, rule: Rule | None, kind: str) -> Rule:
        """Return a rule with every open switch set; None is the dialect's own rule for one of `OWN`.

        Parameters
        ----------
        rule : Rule or None
        kind : str
            The operation's family.
        """
        if rule is None:
            own: Rule = getattr(self, kind)
            rule = own
        unset: dict[str, Any] = dict.fromkeys(SWITCHES)
        bare = dataclasses.replace(rule, **unset)
        template = next((each for each in self.rules if each.name == rule.name), bare)
        takes = rule.row.parameters
        if rule.name != "zero" and "epsilon" in takes:
            epsilon = self.epsilon if template.epsilon is None else template.epsilon
            stabiliser = template.stabiliser or self.stabiliser
            template = dataclasses.replace(template, epsilon=epsilon, stabiliser=stabiliser)
        return rule.resolved(template)

    def __str__(self) -> str:
        rows = [self.resolve(Rule(name), RULES[name].fits[0]) for name in RULES if RULES[name].parameters and name not in _POOL_RULES]
        lines = [f"{self.name}: {self.system}", f"  start {self.start}; max-pools {self.maxpool}; average pools {self.avgpool}"]
        lines += [f"  {rule}{'' if self.knows(rule) else '  (not in that system: as in nplrp)'}" for rule in rows]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


_POOL_RULES = ("winner_epsilon", "average", "norm")

#: Families for which a dialect has a rule of its own.
OWN = ("maxpool", "avgpool", "add", "mean", "subtract", "maximum", "gate", "norm", "activation", "rectifier")
_BARE: dict[str, Any] = {"mean": Rule("gradient"), "subtract": Rule("gradient"), "gate": Rule("gradient"), "norm": Rule("slope")}
_TORCH: dict[str, Any] = {**_BARE, "maximum": Rule("winner_ties")}

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "nplrp",
            "the documented defaults of each rule",
            start="logit",
            epsilon=None,
            stabiliser=None,
            rules=tuple(Rule(name) for name in RULES),
        ),
        Dialect(
            "notebook",
            "the notebook that this engine replaces",
            start="softmax",
            epsilon=1e-7,
            stabiliser="plus",
            rules=(Rule("epsilon"), Rule("zplus")),
            maxpool=Rule("winner_epsilon"),
            avgpool=Rule("epsilon"),
            add=Rule("epsilon"),
            mean=Rule("epsilon"),
            subtract=Rule("epsilon"),
        ),
        Dialect(
            "zennit-0.5",
            "Zennit 0.5.1 and 1.0.0 (rules.py, core.py, composites.py)",
            start="one",
            epsilon=1e-6,
            stabiliser="sign",
            rules=(
                Rule("epsilon"),
                Rule("gamma", gamma=0.25, bias="changed", split=True, branch="z"),
                Rule("zplus", bias="changed", split=True),
                Rule("alpha_beta", alpha=2.0, beta=1.0, bias="changed", split=True),
                Rule("wsquare", bias="changed"),
                Rule("flat"),
                Rule("zbox"),
            ),
            **_TORCH,
            batch_norm=PASS,
            notes=(
                "zero_params='bias' is bias=none; gamma still chooses its half by z with the bias",
                "Epsilon(epsilon=0) gives 0/0 at units with z = 0; here they are dropped",
                "a LayerMapComposite without an entry for activations multiplies R by the ReLU's gradient; these rules pass activations",
            ),
        ),
        Dialect(
            "innvestigate-2.1",
            "iNNvestigate 2.1.2 (relevance_rule.py, relevance_analyzer.py, deeptaylor.py)",
            start="logit",
            epsilon=1e-7,
            stabiliser="zero",
            rules=(
                Rule("zero", epsilon=1e-7, stabiliser="zero"),
                Rule("epsilon", epsilon=1e-7, stabiliser="sign"),
                Rule("zplus", bias="none", split=True),
                Rule("alpha_beta", alpha=2.0, beta=1.0, bias="raw", split=True),
                Rule("alpha_beta_x", alpha=2.0, beta=1.0, bias="changed"),
                Rule("wsquare", bias="none"),
                Rule("flat"),
                Rule("zbox", low=-1.0, high=1.0),
            ),
            **_BARE,
            rectifier=Rule("slope"),
            stand_ins=True,
            clipped=True,
            notes=(
                "alpha-beta divides by all of the bias in both halves, so a denominator can vanish or change its sign",
                "a layer behind padding isn't a first layer there",
                "batch norms are never merged there: ask for merge=False; rules run on another function in their place (graph.py:513)",
                "its dedicated rule for batch norms, which no analyzer has by name, is 'zero' in a row for scale, in dialect nplrp",
            ),
        ),
        Dialect(
            "captum-0.9",
            "Captum 0.9.0 (lrp_rules.py, lrp.py)",
            start="logit",
            epsilon=1e-9,
            stabiliser="sign",
            rules=(
                Rule("epsilon"),
                Rule("gamma", gamma=0.25, bias="raw", split=False),
                Rule("zplus", bias="raw", split=False),
                Rule("alpha_beta", alpha=1.0, beta=0.0, bias="raw", split=False),
            ),
            maxpool=Rule("winner_epsilon"),
            avgpool=Rule("epsilon"),
            batch_norm=Rule("epsilon"),
            **_TORCH,
            notes=(
                "set_bias_to_zero is bias=none; the pass runs from 1 and is multiplied by the logit at its end",
                "Alpha1_Beta0 clamps weights, not contributions, and keeps negative biases: denominators can vanish",
            ),
        ),
        Dialect(
            "lrp_toolbox-1.3",
            "lrp_toolbox 1.3.1, its Python part (linear.py, convolution.py, maxpool.py)",
            start="logit",
            epsilon=1e-16,
            stabiliser="sign",
            rules=(
                Rule("zero", epsilon=1e-16, stabiliser="sign"),
                Rule("epsilon"),
                Rule("alpha_beta", alpha=2.0, beta=1.0, bias="changed", split=True),
                Rule("wsquare", bias="none"),
                Rule("flat"),
            ),
            maxpool=Rule("winner_ties"),
            avgpool=Rule("norm", epsilon=1e-12),
            notes=(
                "its beta is 1 - alpha; its negative half is z minus the positive half, with the cancellation that this brings",
                "'flat' and 'ww' there also spread R evenly over pools: give Rule('flat') for them",
            ),
        ),
        Dialect(
            "rp.jl-3",
            "RelevancePropagation.jl 3.0 (rules.jl, composite_presets.jl)",
            start="one",
            epsilon=1e-9,
            stabiliser="sign",
            rules=(
                Rule("zero", epsilon=1e-9, stabiliser="sign"),
                Rule("epsilon", epsilon=1e-6),
                Rule("gamma", gamma=0.25, bias="changed", split=False, branch="y"),
                Rule("zplus", bias="changed", split=True),
                Rule("alpha_beta", alpha=2.0, beta=1.0, bias="changed", split=True),
                Rule("wsquare", bias="none"),
                Rule("flat"),
                Rule("zbox"),
            ),
            maxpool=Rule("winner_epsilon"),
            avgpool=Rule("epsilon", epsilon=1e-9),
            notes=(
                "GeneralizedGammaRule is gamma(split=True): it chooses its half by the output after the activation",
                "ZBoxRule keeps the layer's ReLU: it differs from this one only where an inactive unit has relevance",
            ),
        ),
        Dialect(
            "montavon",
            "Montavon's LRP tutorial on VGG16",
            start="logit",
            epsilon=1e-9,
            stabiliser="plus",
            rules=(Rule("epsilon"), Rule("gamma", gamma=0.25, bias="changed", split=False), Rule("zbox")),
            maxpool=Rule("average"),
            avgpool=Rule("average"),
            notes=("rms is taken over each image; the tutorial's is over the batch, which is one image there",),
        ),
        Dialect(
            "lxt-2.1",
            "LXT 2.1 (explicit/rules.py, explicit/functional.py)",
            start="logit",
            epsilon=1e-8,
            stabiliser="plus",
            rules=(Rule("epsilon"),),
            avgpool=EPSILON,
            maximum=Rule("winner_ties"),
            mean=Rule("gradient"),
            subtract=Rule("gradient"),
            gate=Rule("half"),
            norm=Rule("epsilon", epsilon=1e-6),
            batch_norm=EPSILON,
            notes=(
                "its epsilon has no sign: a denominator of nearly -1e-8 vanishes",
                "an Add of three is added up pair by pair; a matrix product of two activations isn't computed here",
            ),
        ),
    )
}


def dialect_named(dialect: str | Dialect) -> Dialect:
    """Return the dialect of that name (its version may be left out), or the argument if it is one.

    Raises
    ------
    RuleError
        If the name is unknown; the message lists the names.
    """
    if isinstance(dialect, Dialect):
        return dialect
    found = [each for name, each in DIALECTS.items() if dialect and dialect in (name, name.rpartition("-")[0])]
    if not found:
        raise RuleError(f"there is no dialect {brief(dialect)}; {nearest(dialect, DIALECTS, 'nplrp dialects lists them')}")
    return found[0]


def differences(first: str | Dialect, second: str | Dialect) -> str:
    """Return a text that names every rule where two dialects differ, with both formulas.

    Parameters
    ----------
    first, second : str or Dialect
    """
    one, two = dialect_named(first), dialect_named(second)
    lines = []
    if one.start != two.start:
        lines += ["start", f"  {one.name}: {one.start}", f"  {two.name}: {two.start}"]
    for name in ("maxpool", "avgpool", *(name for name in RULES if RULES[name].parameters and name not in _POOL_RULES)):
        kind = name if name in ("maxpool", "avgpool") else RULES[name].fits[0]
        pair = [(d, d.resolve(None if name == kind else Rule(name), kind)) for d in (one, two)]
        if pair[0][1] == pair[1][1]:
            continue
        lines.append(name)
        for dialect, rule in pair:
            own = "" if dialect.knows(rule) else "  (not in that system: as in nplrp)"
            lines += [f"  {dialect.name}: {rule}{own}", *(f"    {line}" for line in formula(rule))]
    return "\n".join(lines) if lines else f"{one.name} and {two.name} set every switch alike"


def formula(rule: Rule) -> list[str]:
    r"""Return what a rule computes as lines of text, written from its parts: R_j from R_k, and the denominators.

    Examples
    --------
    >>> print(*formula(Rule("zplus", epsilon=1e-6, stabiliser="sign")), sep="\n")
    R_j = sum_k (a+ w+ + a- w-)/s(z) R_k
    z = sum_j (a+ w+ + a- w-) + b+
    s(z) = z + e sgn(z), e = 1e-06
    """
    rule = rule.resolved()
    parts = rule.parts
    if rule.row.formula:
        return list(rule.row.formula)
    names = [""] if len(parts) == 1 else [str(i + 1) for i in range(len(parts))]
    shares: list[str] = []
    denominators = []
    for part, number in zip(parts, names, strict=True):
        terms = " + ".join(_product(term.input, term.weight) for term in part.terms).replace("+ -", "- ")
        times = "" if abs(part.weight) == 1 else f"{abs(part.weight):g} "
        where = f" [{part.units}]" if part.units else ""
        joint = "" if not shares else " - " if part.weight < 0 else " + "
        shares.append(f"{joint}{times}({terms})/s(z{number}){where}")
        bias = _bias_term(part)
        denominators.append(f"z{number} = sum_j ({terms}){f' + {bias}' if bias else ''}")
    total = "".join(shares)
    if rule.row.denominator:
        denominators = [rule.row.denominator]
    last = f"s(z) = {STABILISERS[str(rule.stabiliser)]}, e = {rule.epsilon}"
    inner = total if len(parts) == 1 else f"[{total}]"
    return [f"R_j = sum_k {inner} R_k", *denominators, last]


def _product(a: str, weight: Change) -> str:
    """Write a term, such as ``a+ w+``."""
    if isinstance(weight, str):
        return {"square": "w^2", "ones": "1"}[weight]
    sign, text = _clamped("w", weight)
    return f"{sign}{a} {text}" if a != "1" else f"{sign}{text}"


def _clamped(letter: str, change: Clamp) -> tuple[str, str]:
    p, n = change
    if change == AS_IS:
        return "", letter
    if n == 0 or p == 0:
        factor, part = (p, "+") if n == 0 else (n, "-")
        return ("-" if factor < 0 else ""), f"{'' if abs(factor) == 1 else f'{abs(factor):g} '}{letter}{part}"
    return "", f"({letter} + {p - 1:g} {letter}+)" if n == 1 else f"({letter} + {n - 1:g} {letter}-)"


def _bias_term(part: Part) -> str:
    if part.bias == NOTHING:
        return ""
    if isinstance(part.bias, str):
        return "b^2"
    return "".join(_clamped("b", part.bias))
