"""Composites: which rule runs on which layer, and what the top of the network starts with.

The presets bear their owners' names and run in their owners' dialects (`nplrp.rules.dialects`) unless another one is asked for.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nplrp.errors import RuleError, brief, brief_reason, nearest
from nplrp.files.plain import read_text
from nplrp.rules import SWITCHES, Rule, parse_call
from nplrp.rules.dialects import OWN

#: What the last layer starts with (`nplrp.targets.start_relevance`).
STARTS = ("one", "logit", "softmax", "all", "relu_logit", "contrastive")

#: How the gradient family treats ReLUs (`nplrp.gradients`).
GRADIENTS = ("gradient", "input_t_gradient", "guided_backprop", "deconvnet")

#: Which activations hand down their slope (`Composite.slopes`).
SLOPES = ("", "layers", "all")

PASS = Rule("pass")
PASSED = ("reshape", "pad", "identity")
LINEAR = ("conv", "dense", "scale", "avgpool")
WEIGHTED = ("conv", "dense", "scale")
POOL = ("maxpool",)
POOLS = ("maxpool", "avgpool")
#: Bytes of a composite's file: a row is some dozens.
_MOST = 1 << 20
#: Families that a composite may leave to the dialect.
JOINS = ("add", "mean", "subtract", "maximum", "gate", "norm", "activation", "rectifier")
KINDS = (*LINEAR, *POOL, *JOINS)


@dataclass(frozen=True)
class Select:
    """Which layers a row of a composite is for: those that meet every condition given.

    Attributes
    ----------
    kinds : tuple of str
        ``conv``, ``dense``, ``scale``, ``avgpool``, ``maxpool``; empty for any.
    names : tuple of str
        Names or patterns (``"block[12]_*"``); empty for any.
    range : (int or None, int or None)
        Start and stop, as of a Python slice, among the layers that meet the other conditions: (0, 1) is the first, (-1, None) the last.
    reads_input : bool
        Only layers that read nothing but the model's input, seen through what moves numbers: all of them, where several do.
    """

    kinds: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    range: tuple[int | None, int | None] = (None, None)
    reads_input: bool = False

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in (*KINDS, *PASSED):
                raise RuleError(f"there is no kind of layer {brief(kind)}; {nearest(kind, (*KINDS, *PASSED))}")
        if len(self.range) != 2 or not all(end is None or (isinstance(end, int) and not isinstance(end, bool)) for end in self.range):
            raise RuleError(f"a range of layers is a pair (start, stop) of whole numbers or None, not {self.range!r}")

    def choose(self, layers: Sequence[tuple[str, str]], readers: Collection[int] = ()) -> set[int]:
        """Return the places of the chosen layers among (name, kind); `readers` are those that read the input alone."""
        found = [
            i
            for i, (name, kind) in enumerate(layers)
            if (kind in self.kinds if self.kinds else kind in KINDS)
            and (not self.names or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.names))
            and (not self.reads_input or i in readers)
        ]
        return set(found[slice(*self.range)])


FIRST = (0, 1)


@dataclass(frozen=True)
class Composite:
    """A named table of rules.

    Attributes
    ----------
    name : str
    rows : tuple of (Select or tuple of kinds, Rule or None)
        The first row that chooses a layer gives its rule; None is the dialect's own rule for pools. Layers that only reshape always pass
        relevance on.
    start : str or None
        What the pass begins with, one of `STARTS`; None is the dialect's.
    source : str
        Where the composite comes from.
    dialect : str
        The dialect that it runs in unless one is asked for.
    gradient : str
        One of `GRADIENTS`, for composites that are no LRP; they have no rows.
    slopes : str
        Which activations hand down their slope times R, as systems do that have no rule for them: ``"layers"`` that are nothing else, or
        ``"all"``, those inside other layers too; all others hand down R.
    batch_norm : Rule or None
        Of batch norms that stay: those that can't be merged, and all with `merge=False`; None is the dialect's, or else the rows'.
    """

    name: str
    rows: tuple[tuple[Select | tuple[str, ...], Rule | None], ...]
    start: str | None = None
    source: str = ""
    dialect: str = "nplrp"
    gradient: str = ""
    slopes: str = ""
    batch_norm: Rule | None = None

    def __post_init__(self) -> None:
        if self.slopes not in SLOPES:
            raise RuleError(f"composite {self.name!r}: there is no slopes {self.slopes!r}; expected one of {', '.join(map(repr, SLOPES))}")
        if self.start is not None and self.start not in STARTS:
            raise RuleError(f"composite {self.name!r}: there is no start {self.start!r}; {nearest(self.start, STARTS)}")

    def choose(self, layers: Sequence[tuple[str, str]], readers: Collection[int] = ()) -> tuple[Rule | None, ...]:
        """Return the rule of each layer, given as (name, kind of step or "input"); None where the dialect decides.

        `readers` are the places of layers that read the model's input alone.

        Raises
        ------
        RuleError
            If no row chooses a layer, or the row's rule isn't defined for its kind; the message names the layer.
        """
        chosen = [((select if isinstance(select, Select) else Select(select)).choose(layers, readers), rule) for select, rule in self.rows]
        rules: list[Rule | None] = []
        for i, (name, kind) in enumerate(layers):
            if kind in (*PASSED, "input"):
                rules.append(PASS)
                continue
            fitting = [rule for places, rule in chosen if i in places] + [None] * (kind in JOINS)
            if not fitting:
                raise RuleError(f"composite {self.name!r} has no rule for layer {name!r} of kind {kind!r}; add a row for {kind!r}")
            rule = fitting[0]
            if kind not in (OWN if rule is None else rule.fits):
                what = "the dialect's rule" if rule is None else f"rule {rule}"
                fits = ", ".join(OWN if rule is None else rule.fits)
                raise RuleError(f"composite {self.name!r}: {what} doesn't fit layer {name!r} of kind {kind!r}; it fits {fits}")
            rules.append(rule)
        return tuple(rules)

    def with_parameters(self, **parameters: Any) -> Composite:
        """Return the composite with parameters of its rules changed, in every rule that takes them.

        ``epsilon`` goes to the rules called "epsilon" if there are any, as in Zennit, where the others have a stabiliser.

        Raises
        ------
        RuleError
            If no rule takes a parameter, or its value is out of range.
        """
        rules = {rule.name: rule.row.parameters for _, rule in self.rows if rule is not None}
        takers = {key: {name for name, takes in rules.items() if key in takes} for key in parameters}
        if "epsilon" in takers.get("epsilon", ()):
            takers["epsilon"] = {"epsilon"}
        for key, names in takers.items():
            if not names:
                raise RuleError(
                    f"composite {self.name!r} has no rule that takes {key!r}; its rules are {', '.join(sorted(rules)) or 'none'}"
                )

        def change(rule: Rule | None) -> Rule | None:
            if rule is None:
                return None
            given = {key: value for key, value in parameters.items() if rule.name in takers[key]}
            if "alpha" in given or "beta" in given:  # the other one follows
                given = {"alpha": None, "beta": None} | given
            return dataclasses.replace(rule, **given)

        settings = ", ".join(f"{key}={value}" for key, value in parameters.items())
        rows = tuple((select, change(rule)) for select, rule in self.rows)
        return dataclasses.replace(self, name=f"{self.name}({settings})" if settings else self.name, rows=rows)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Composite:
        """Return a composite from plain values, as a TOML file holds them.

        Parameters
        ----------
        table : mapping
            ``name``, ``start``, ``dialect`` (each may be left out), ``base`` (a preset whose rows follow these), and ``rows``: a list of
            tables with ``rule`` (such as ``"gamma(gamma=0.5)"``; ``"dialect"`` for pools) and any of ``kind``, ``name`` (a text or a list
            of them), ``first``, ``last``, ``reads_input`` (true) and ``range`` ([start, stop]). ``slopes`` is the class's.

        Raises
        ------
        RuleError
            If a key or a value is wrong; the message names the row.
        """
        known = {"name", "start", "dialect", "base", "rows", "slopes"}
        _refuse_unknown(table, known, "a composite")
        if str(table.get("base", "")).endswith(".toml"):  # no file leads to others, or to itself
            raise RuleError(f"base is {brief(table['base'])}, expected a preset; copy the other file's rows")
        for key in known - {"rows"}:
            if not isinstance(table.get(key, ""), str | (type(None) if key == "start" else str)):
                raise RuleError(f"{key} is {brief(table[key])}, expected a text")
        if not isinstance(table.get("rows", ()), list | tuple):
            raise RuleError(f"rows is {brief(table['rows'])}, expected a list of tables")
        base = composite_named(table["base"]) if "base" in table else None
        rows = tuple(_row(row, i) for i, row in enumerate(table.get("rows", ()), 1))
        if not rows and base is None:
            raise RuleError("a composite needs rows; give rows = [{kind = 'conv', rule = 'zplus'}, ...]")
        return cls(
            name=str(table.get("name", "custom")),
            rows=rows + (base.rows if base else ()),
            start=table.get("start", base.start if base else None),
            source="given",
            dialect=str(table.get("dialect", base.dialect if base else "nplrp")),
            slopes=str(table.get("slopes", base.slopes if base else "")),
            batch_norm=base.batch_norm if base else None,
        )

    @classmethod
    def from_file(cls, path: str | Path) -> Composite:
        """Return a composite from a TOML file (see `from_dict`); without a name it takes the file's.

        Raises
        ------
        RuleError
            If the file can't be read or isn't a composite.
        """
        import tomllib

        path = Path(path)
        try:
            table = tomllib.loads(read_text(path, _MOST))
        except (OSError, ValueError, RecursionError) as error:
            raise RuleError(f"{path}: can't be read as TOML: {brief_reason(error)}") from None
        try:
            return cls.from_dict({"name": path.stem, **table})
        except RuleError as error:
            raise RuleError(f"{path}: {error}") from None


def _row(row: Any, number: int) -> tuple[Select, Rule | None]:
    """Read one row of `Composite.from_dict`."""
    try:
        if not isinstance(row, Mapping) or "rule" not in row:
            raise RuleError(f"expected a table with a rule, found {brief(row)}")
        _refuse_unknown(row, {"rule", "kind", "name", "first", "last", "range", "reads_input"}, "a row")
        for key in ("first", "last", "reads_input"):
            if not isinstance(row.get(key, False), bool):
                raise RuleError(f"{key} is {brief(row[key])}, expected true or false")
        spans = [key for key in ("first", "last", "range") if row.get(key)]
        if len(spans) > 1:
            raise RuleError(f"{' and '.join(spans)} exclude each other")
        span = {"first": FIRST, "last": (-1, None), "range": row.get("range")}[spans[0]] if spans else (None, None)
        if not isinstance(span, (tuple, list)):
            raise RuleError(f"range is [start, stop], not {brief(span)}")
        if not isinstance(row["rule"], str | Rule):
            raise RuleError(f"rule is {brief(row['rule'])}, expected a text such as 'gamma(gamma=0.5)'")
        rule = None if row["rule"] == "dialect" else Rule.parse(str(row["rule"]))
        kinds = _texts(row, "kind")
        select = Select(kinds or (rule.fits if rule is not None else POOLS), _texts(row, "name"), tuple(span), bool(row.get("reads_input")))
        return select, rule
    except RuleError as error:
        raise RuleError(f"row {number}: {error}") from None


def _texts(row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = row.get(key, ())
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise RuleError(f"{key} is {brief(value)}, expected a text or a list of texts")
    return tuple(value)


def _refuse_unknown(table: Mapping[str, Any], known: set[str], what: str) -> None:
    unknown = sorted(map(str, set(table) - known))
    if unknown:
        raise RuleError(f"{what} has no {brief(unknown[0])}; {nearest(unknown[0], sorted(known))}")


def _everywhere(
    name: str, rule: Rule, source: str, dialect: str = "nplrp", start: str | None = None, avgpool: Rule | None = None
) -> Composite:
    """Return the composite that runs one rule on every layer with weights, and the dialect's on pools."""
    return Composite(name, ((WEIGHTED, rule), (("avgpool",), avgpool), (POOL, None)), start, source, dialect)


def _zennit(name: str, conv: Rule, first: tuple[Select, Rule] | None = None) -> Composite:
    """Return one of Zennit's presets: an epsilon in dense layers, another rule in convolutions, perhaps a third in the first layer."""
    rows = ((("conv",), conv), (("dense", "scale"), Rule("epsilon")), (POOLS, None))
    return Composite(name, ((first,) if first else ()) + rows, None, "Zennit 0.5.1, composites.py", "zennit-0.5")


def _innvestigate(name: str, conv: Rule, flat_first: bool = False) -> Composite:
    """Return one of iNNvestigate's presets; layers with weights that read the input may be flat."""
    rows = ((("conv",), conv), (("dense", "scale"), Rule("epsilon", epsilon=0.1)), (POOLS, None))
    flat = ((_READERS, Rule("flat")),) if flat_first else ()
    source = "iNNvestigate 2.1.2, relevance_analyzer.py"
    return Composite(f"lrp.sequential_preset_{name}", flat + rows, None, source, "innvestigate-2.1", batch_norm=Rule("alpha_beta_x"))


def _lrp(name: str, rule: Rule) -> Composite:
    return _everywhere(f"lrp.{name}", rule, "iNNvestigate 2.1.2, relevance_analyzer.py", "innvestigate-2.1")


_FIRST_CONV, _FIRST_LINEAR = Select(("conv",), range=FIRST), Select(("conv", "dense"), range=FIRST)
_READERS = Select(WEIGHTED, reads_input=True)
_BACH, _MONTAVON = "Bach et al. 2015", "Montavon et al. 2017 (Pattern Recognition 65)"
_TAYLOR = (
    (WEIGHTED, Rule("zplus")),
    (("avgpool",), Rule("flat")),
    (POOL, None),
    (("add",), Rule("gradient")),
    (("activation", "rectifier"), Rule("slope")),
)
_TAYLOR_SOURCE = "iNNvestigate 2.1.2, deeptaylor.py; Montavon et al. 2017"

COMPOSITES: dict[str, Composite] = {
    composite.name: composite
    for composite in (
        Composite(
            name="notebook",
            rows=((LINEAR, Rule("epsilon")), (POOL, None)),
            start="softmax",
            source="the notebook's code: unsigned epsilon 1e-7, biases, winner-take-all pooling, start = softmax vector",
            dialect="notebook",
        ),
        Composite(
            name="zplus",
            rows=((LINEAR, Rule("zplus")), (POOL, None)),
            source="the w+ rule of the notebook's text, b+ in the denominator; Montavon et al. 2017, eq. 19",
        ),
        # each rule's own name: that rule everywhere
        _everywhere("zero", Rule("zero"), f"{_BACH}, eq. 56"),
        _everywhere("epsilon", Rule("epsilon"), f"{_BACH}, eq. 58"),
        _everywhere("gamma", Rule("gamma"), "Montavon et al. 2019; Andeol et al. 2021"),
        _everywhere("alpha_beta", Rule("alpha_beta"), f"{_BACH}, eq. 60"),
        _everywhere("alpha1_beta0", Rule("alpha_beta", alpha=1.0, beta=0.0), f"{_BACH}, eq. 60"),
        _everywhere("wsquare", Rule("wsquare"), f"{_MONTAVON}, eq. 12"),
        _everywhere("flat", Rule("flat"), "Lapuschkin et al. 2019"),
        _everywhere("zbox", Rule("zbox", widest=True), f"{_MONTAVON}, eq. 15"),
        # Zennit
        _zennit("epsilon_gamma_box", Rule("gamma"), (_FIRST_CONV, Rule("zbox"))),
        _zennit("epsilon_plus", Rule("zplus")),
        _zennit("epsilon_plus_flat", Rule("zplus"), (_FIRST_LINEAR, Rule("flat"))),
        _zennit("epsilon_alpha2_beta1", Rule("alpha_beta", alpha=2.0, beta=1.0)),
        _zennit("epsilon_alpha2_beta1_flat", Rule("alpha_beta", alpha=2.0, beta=1.0), (_FIRST_LINEAR, Rule("flat"))),
        Composite(
            "excitation_backprop",
            ((WEIGHTED, Rule("zplus")), (POOLS, None), (("activation", "rectifier"), Rule("slope"))),
            source="Zennit 0.5.1, composites.py; Zhang et al. 2016",
            dialect="zennit-0.5",
            slopes="all",
            batch_norm=Rule("gradient"),
        ),
        # iNNvestigate
        _lrp("z", Rule("zero")),
        _lrp("epsilon", Rule("epsilon")),
        _lrp("w_square", Rule("wsquare")),
        _lrp("flat", Rule("flat")),
        _lrp("alpha_beta", Rule("alpha_beta")),
        _lrp("alpha_2_beta_1", Rule("alpha_beta", alpha=2.0, beta=1.0)),
        _lrp("alpha_2_beta_1_IB", Rule("alpha_beta", alpha=2.0, beta=1.0, bias="none")),
        _lrp("alpha_1_beta_0", Rule("alpha_beta", alpha=1.0, beta=0.0)),
        _lrp("alpha_1_beta_0_IB", Rule("alpha_beta", alpha=1.0, beta=0.0, bias="none")),
        _lrp("z_plus", Rule("zplus")),
        _lrp("z_plus_fast", Rule("zplus", split=False)),
        _innvestigate("a", Rule("alpha_beta", alpha=1.0, beta=0.0)),
        _innvestigate("b", Rule("alpha_beta", alpha=2.0, beta=1.0)),
        _innvestigate("a_flat", Rule("alpha_beta", alpha=1.0, beta=0.0), flat_first=True),
        _innvestigate("b_flat", Rule("alpha_beta", alpha=2.0, beta=1.0), flat_first=True),
        _innvestigate("b_flat_until_idx", Rule("alpha_beta", alpha=2.0, beta=1.0), flat_first=True),
        Composite("deep_taylor", _TAYLOR, "relu_logit", _TAYLOR_SOURCE, "innvestigate-2.1", slopes="layers", batch_norm=Rule("gradient")),
        Composite(
            "deep_taylor.bounded",
            ((_READERS, Rule("zbox")), *_TAYLOR),
            "relu_logit",
            _TAYLOR_SOURCE,
            "innvestigate-2.1",
            slopes="layers",
            batch_norm=Rule("gradient"),
        ),
        Composite(
            name="montavon_vgg16",
            rows=(
                (_FIRST_CONV, Rule("zbox")),
                (Select(("conv",), range=(0, 7)), Rule("gamma", gamma=0.25)),
                (("conv",), Rule("epsilon", epsilon=0.25, stabiliser="rms")),
                (("dense", "scale"), Rule("epsilon", epsilon=1e-9)),
                (Select(POOLS, range=(0, 3)), Rule("average", epsilon=1e-9)),
                (POOLS, Rule("average", epsilon=0.25, stabiliser="rms")),
            ),
            source="Montavon's LRP tutorial on VGG16: gamma below, epsilon in the middle, LRP-0 on top, zB on pixels; average pools",
            dialect="montavon",
        ),
        # no LRP: the gradient family, for cross-checks
        Composite("gradient", (), "one", "Simonyan et al. 2014", "zennit-0.5", "gradient"),
        Composite("input_t_gradient", (), "one", "Shrikumar et al. 2016", "innvestigate-2.1", "input_t_gradient"),
        Composite("guided_backprop", (), "one", "Springenberg et al. 2015", "zennit-0.5", "guided_backprop"),
        Composite("deconvnet", (), "one", "Zeiler and Fergus 2014", "zennit-0.5", "deconvnet"),
    )
}


def split_names(text: str) -> list[str]:
    """Split names at the commas that aren't between parentheses: ``"zplus,gamma(gamma=1, epsilon=0.1)"`` has two."""
    names, depth = [""], 0
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            names.append("")
        else:
            names[-1] += letter
    return [name.strip() for name in names]


def composite_named(composite: str | os.PathLike[str] | Composite | Mapping[str, Any]) -> Composite:
    """Return the composite of that name, or the argument if it is one.

    Parameters
    ----------
    composite : str, path, Composite or mapping
        A preset, perhaps with parameters (``"epsilon_gamma_box(gamma=0.5, low=-1, high=1)"``), a path to a TOML file, or a table (see
        `Composite.from_dict`).

    Raises
    ------
    RuleError
        If the name is unknown, or the argument is something else; the message says what is near, or expected.
    """
    if isinstance(composite, Composite):
        return composite
    if isinstance(composite, Mapping):
        return Composite.from_dict(composite)
    if isinstance(composite, os.PathLike):
        return Composite.from_file(Path(composite))
    if not isinstance(composite, str):
        several = isinstance(composite, tuple | list)
        raise RuleError(
            f"a composite is a name such as 'epsilon_plus', perhaps with parameters, a Composite, a table or a TOML file; found a "
            f"{type(composite).__name__}, {brief(composite)}"
            + ("; of several composites explain each by itself, and give rows of rules as a table, {'rows': [...]}" if several else "")
        )
    if composite in COMPOSITES:
        return COMPOSITES[composite]
    if composite.endswith(".toml"):
        return Composite.from_file(composite)
    name, parameters = parse_call(composite, "a composite") if "(" in composite else (composite, {})
    if name not in COMPOSITES:
        raise RuleError(f"there is no composite {brief(name)}; {nearest(name, COMPOSITES, 'nplrp composites lists them')}")
    indexed = name == "lrp.sequential_preset_b_flat_until_idx"
    unknown = [key for key in parameters if key not in SWITCHES and not (indexed and key == "until_idx")]
    if unknown:
        raise RuleError(f"composite {name!r} has no parameter {unknown[0]!r}; {nearest(unknown[0], SWITCHES)}")
    return _until_index(**parameters) if indexed else COMPOSITES[name].with_parameters(**parameters)


def _until_index(until_idx: Any = 1, **parameters: Any) -> Composite:
    """Return iNNvestigate's preset that is flat up to and with a layer, by its place among all of Keras's layers, the input being 0."""
    if not isinstance(until_idx, int) or isinstance(until_idx, bool) or until_idx < 1:
        raise RuleError(
            f"until_idx is a layer's place among all layers, the input being 0; expected a whole number >= 1, not {until_idx!r}"
        )
    base = COMPOSITES["lrp.sequential_preset_b_flat"]
    below = Select((*KINDS, *PASSED), range=(0, until_idx))
    name = f"lrp.sequential_preset_b_flat_until_idx(until_idx={until_idx})"
    return dataclasses.replace(base, name=name, rows=((OWN, None), (below, Rule("flat")), *base.rows)).with_parameters(**parameters)
