"""From a model and a composite to the list of steps that run: batch norms merged, weights checked and converted, a rule for each step.

Batch normalisation is y = g x + h per channel, g = gamma / sqrt(variance + epsilon), h = beta - mean g. It is merged into the linear
layer before it when nothing lies between, else into the dense layer (or the convolution without padding) that follows; where neither is
exact it stays a linear step of its own, "scale". A merged batch norm passes relevance on as it is.

An affine layer that reads the model's input alone, such as a Rescaling, prepares the picture: where rules ask who reads the input they see
through it. It passes relevance on as it is where that hasn't its output as a factor, as from zB or flat: divided by an output that may be
near 0, as epsilon would, it would have no bound. Where it has the factor, the rule gives what merging it would give.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nplrp import layers
from nplrp.box import with_box
from nplrp.errors import ModelError, NumericsError, RuleError, brief, nearest
from nplrp.layers import INPUT, KINDS, Layer, Step, activation, operation
from nplrp.layers.activations import CURVE, OVER_AXIS, RECTIFIER, function
from nplrp.layers.moves import IDENTITY
from nplrp.layers.scale import AFFINE, BATCH_NORM, SCALE
from nplrp.model import Model, sources
from nplrp.rules import Part, Rule
from nplrp.rules.composites import PASS, STARTS, Composite, composite_named
from nplrp.rules.dialects import Dialect, dialect_named
from nplrp.scores import last_computing

if TYPE_CHECKING:
    from nplrp.fused import Fusion

DTYPES = ("float32", "float64")
ALGORITHMS = ("auto", "direct")
#: Columns that the names of a layer's inputs are given in a printed plan; longer ones push the rule to the right.
_INPUTS_WIDTH = 50


@dataclass(frozen=True, eq=False)
class Plan:
    """Which rule with which constants runs on which step; prints itself.

    Attributes
    ----------
    model : Model
    composite : Composite
    dtype : numpy.dtype
    algorithm : str
    steps : tuple of Step
    rules : tuple of Rule
        One for each step.
    parts : tuple of tuple of Part
        For each step what its rule runs: the rule's parts, without the terms that vanish because the step's input can't be negative, and
        without parts for units that get no relevance.
    dialect : Dialect
    consumers : tuple of tuple of int
        For each step those that read its output.
    merge : bool
        Batch norms are merged where that is exact.
    fusion : list of Fusion
        What `nplrp.fused` has found out about the steps, once it has.
    """

    model: Model
    composite: Composite
    dtype: np.dtype
    algorithm: str
    steps: tuple[Step, ...]
    rules: tuple[Rule, ...]
    parts: tuple[tuple[Part, ...], ...]
    dialect: Dialect
    consumers: tuple[tuple[int, ...], ...]
    merge: bool = True
    fusion: list[Fusion] = field(default_factory=list, init=False, repr=False)

    @property
    def start(self) -> str:
        """What the pass begins with, unless it is told otherwise."""
        return self.composite.start or self.dialect.start

    @property
    def _head(self) -> str:
        return f"{self.composite.name} on {self.model.name}, {self.dtype}, start {self.start}, dialect {self.dialect.name}"

    def _rows(self) -> tuple[list[tuple[str, ...]], list[str]]:
        """Return the table that it prints, and notes on it; a chain needs no column of inputs."""
        from nplrp.fused import by_page

        rules = [str(rule) + ("" if self.dialect.knows(rule) else f"  (as in nplrp: {self.dialect.name} has none)") for rule in self.rules]
        notes = []
        if self.composite.gradient:
            rules = [self.composite.gradient] * len(self.steps)
        elif any(page := by_page(self)):
            rules = [rule + "  (page)" if slow else rule for rule, slow in zip(rules, page, strict=True)]
            notes = ["(page): by the four lines as they are written; all else by kernels that do several at once"]
        graph = not self.model.is_chain
        names = [step.name for step in self.steps] + [INPUT]
        rows = [("layer", "kind", *(["inputs"] if graph else []), "rule")]
        for step, rule in zip(self.steps, rules, strict=True):
            rows.append((step.name, step.kind, *([", ".join(names[j] for j in step.inputs)] if graph else []), rule))
        return rows, notes

    def __str__(self) -> str:
        rows, notes = self._rows()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
        widths[2:] = [min(width, _INPUTS_WIDTH) for width in widths[2:]]
        lines = ["  ".join([*(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows]
        return "\n".join([self._head, *lines, *notes])

    def __repr__(self) -> str:
        head = f"{self.composite.name} on {self.model.name!r}, {self.dtype}, start {self.start}, dialect {self.dialect.name}"
        return f"Plan({head}, {len(self.steps)} steps)"

    def _repr_html_(self) -> str:
        from nplrp.tables import table

        (head, *rows), notes = self._rows()
        return table(head, rows, self._head, notes)


def make_plan(
    model: Model,
    composite: str | Composite | Mapping[str, Any] = "notebook",
    dtype: Any = "float32",
    algorithm: str = "auto",
    dialect: str | Dialect | None = None,
    merge: bool = True,
) -> Plan:
    """Choose a rule for each layer of a model and prepare its weights.

    Parameters
    ----------
    model : Model
    composite : str, Composite or mapping
        A name, a name with parameters, a TOML file, or your own (see `nplrp.rules.composites.composite_named`).
    dtype : "float32" or "float64"
    algorithm : "auto" or "direct"
        ``"direct"``: every convolution by its definition, also where a faster algorithm would run.
    dialect : str, Dialect or None
        Whose switches to set (see `nplrp.rules.dialects`); None is the composite's own.
    merge : bool
        Merge batch norms into their neighbours where that is exact; False keeps each as a layer of its own, with the dialect's rule for it.

    Raises
    ------
    RuleError
        If the composite, dialect, dtype or algorithm is unknown, or a rule doesn't fit a layer.
    ModelError
        If a softmax stands inside.
    NumericsError
        If a weight is NaN or infinite.
    """
    composite = composite_named(composite)
    dtype = check_dtype(dtype)
    check_algorithm(algorithm)
    if dialect is not None:
        dialect = dialect_named(dialect)
        composite = dataclasses.replace(composite, start=None)  # a dialect that is asked for brings its start with it
    else:
        dialect = dialect_named(composite.dialect)
    key = (composite, dialect, dtype.name, algorithm, merge)
    plan = model.kept.plans.get(key)
    if plan is None:
        steps = make_steps(model, dtype, algorithm, merge)
        if dialect.stand_ins:
            steps = tuple(_with_stand_in(step, layer) for step, layer in zip(steps, model.layers, strict=True))
        rules, readers = _rules(model, steps, composite, dialect), consumers(steps)
        for step, rule in zip(steps, rules, strict=True):
            _check_fits(rule, step.name, dtype)
        parts = parts_below(steps, rules, len(steps) - 1, composite.slopes)
        plan = model.kept.plans[key] = Plan(model, composite, dtype, algorithm, steps, rules, parts, dialect, readers, merge)
    return plan


def _check_fits(rule: Rule, layer: str, dtype: np.dtype) -> None:
    """Raise `RuleError` for a parameter that is an infinity or 0 in the plan's dtype, and isn't as it was given."""
    numbers = {name: getattr(rule, name) for name in ("epsilon", "gamma", "alpha", "beta", "low", "high")}
    for k, part in enumerate(rule.made[0] if rule.made else ()):
        numbers[f"the weight of its part {k}"] = part.weight
        for change in (part.bias, *(term.weight for term in part.terms)):
            if not isinstance(change, str):
                numbers[f"a Clamp of its part {k}, {tuple(change)},"] = change
    for name, given in numbers.items():
        if given is None:
            continue
        with np.errstate(all="ignore"):
            fits = np.asarray(given, float).astype(dtype)
        if not np.isfinite(fits).all() or not np.array_equal(fits == 0, np.asarray(given, float) == 0):
            limits = np.finfo(dtype)
            raise RuleError(
                f"layer {layer!r}, rule {rule}: {name} is {brief(given)}, which {dtype} can't hold (from "
                f"{limits.smallest_subnormal:.2g} to {limits.max:.3g}); give another, or dtype='float64'"
            )


def _rules(model: Model, steps: Sequence[Step], composite: Composite, dialect: Dialect) -> tuple[Rule, ...]:
    """Return every step's rule with all its switches and constants set."""
    if composite.gradient:
        return (Rule("pass"),) * len(steps)
    families = [
        (step.name, "input" if layer.kind == "input" else operation(step).family) for step, layer in zip(steps, model.layers, strict=True)
    ]
    readers, preparing = _of_input(model, steps)
    chosen = list(composite.choose(families, readers))
    kept = composite.batch_norm or dialect.batch_norm
    if kept is not None:
        stay = [KINDS[layer.kind] is BATCH_NORM and not step.merged for layer, step in zip(model.layers, steps, strict=True)]
        chosen = [kept if stays else rule for rule, stays in zip(chosen, stay, strict=True)]
    rules = [dialect.resolve(rule, family) for rule, (_, family) in zip(chosen, families, strict=True)]
    for i in sorted(preparing, reverse=True):
        if i < len(steps) - 1 and not dead_get_nothing(steps, rules, len(steps) - 1, composite.slopes)[i]:
            rules[i] = dialect.resolve(PASS, families[i][1])
    return tuple(with_box(rule, steps, i, model) if rule.row.boxed else rule for i, rule in enumerate(rules))


def _with_stand_in(step: Step, layer: Layer) -> Step:
    """Return a step with what rules run on in its place, if its kind has such a function."""
    stand_in = KINDS[layer.kind].stand_in
    if stand_in is None or step.weight is None:
        return step
    weight, bias = (np.asarray(array, step.weight.dtype) for array in stand_in(layer))
    return dataclasses.replace(step, stand_in=dataclasses.replace(step, weight=weight, bias=bias, prepared={}))


def _of_input(model: Model, steps: Sequence[Step]) -> tuple[set[int], set[int]]:
    """Return the steps that read the model's input alone, seen through what only moves numbers and what prepares it; and the latter."""
    seen, readers, preparing = {-1}, set[int](), set[int]()
    for i, (layer, step) in enumerate(zip(model.layers, steps, strict=True)):
        if not all(j in seen for j in step.inputs):
            continue
        if step.kind == SCALE.name and KINDS[layer.kind] is AFFINE and step.activation == "linear":
            preparing.add(i)
        elif not layers.only_moves(step) or step.activation != "linear":
            readers.add(i)
            continue
        seen.add(i)
    return readers, preparing


def consumers(steps: Sequence[Step]) -> tuple[tuple[int, ...], ...]:
    """Return for each step those that read its output, in order."""
    found: list[list[int]] = [[] for _ in steps]
    for i, step in enumerate(steps):
        for j in dict.fromkeys(step.inputs):
            if j >= 0:
                found[j].append(i)
    return tuple(map(tuple, found))


def parts_below(steps: Sequence[Step], rules: Sequence[Rule], top: int, slopes: str = "") -> tuple[tuple[Part, ...], ...]:
    """Return what each step's rule runs when relevance is given at the output of step `top`.

    Dropped are terms with negative inputs where the step's input can't be negative, and parts for units with z < 0 where a ReLU follows
    and the rules above multiply with its output, so that such units have no relevance. Neither changes a bit.
    """
    signs = _nonnegative_inputs(steps)
    full = [without_vanishing_terms(rule.parts) if sign else rule.parts for rule, sign in zip(rules, signs, strict=True)]
    dead = dead_get_nothing(steps, rules, top, slopes)
    return tuple(
        tuple(
            p
            for p in parts
            if not (p.units.endswith("<0") and activation(step.activation).opens and (nothing or hands_slope(step, slopes)))
        )
        for step, parts, nothing in zip(steps, full, dead, strict=True)
    )


def dead_get_nothing(steps: Sequence[Step], rules: Sequence[Rule], top: int, slopes: str = "") -> list[bool]:
    """Tell for each step whether the relevance of its output has it as a factor, from every rule above, so that it is 0 where that is.

    Relevance is given at the output of step `top`. With `slopes` (`Composite.slopes`) a ReLU above brings the factor as well.
    """
    found, readers = [False] * len(steps), consumers(steps)
    for i in range(len(steps) - 1, -1, -1):  # a rule that only hands relevance on keeps the factors that it came with
        above = [j for j in readers[i] if j <= top] if i != top else []
        if above:
            found[i] = all(
                operation(steps[j]).keeps_zero and (found[j] or (activation(steps[j].activation).opens and hands_slope(steps[j], slopes)))
                if rules[j].transparent
                else rules[j].has_factor
                for j in above
            )
    return found


def hands_slope(step: Step, slopes: str) -> bool:
    """Tell whether a step's activation hands down its slope times R (`Composite.slopes`)."""
    return bool(slopes) and step.activation != "linear" and not step.score and (slopes == "all" or operation(step).view)


def _nonnegative_inputs(steps: Sequence[Step]) -> list[bool]:
    """Tell for each step whether its input can't be negative: there are ReLUs below, and nothing since but what keeps the sign."""
    outputs: list[bool] = []
    inputs = []
    for step in steps:
        inputs.append(all(j >= 0 and outputs[j] for j in step.inputs))
        kept = step.activation == "linear" and (operation(step).positive(step) or (inputs[-1] and operation(step).keeps_sign))
        outputs.append(activation(step.activation).positive or kept)
    return inputs


def without_vanishing_terms(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Return a rule's parts for an input that can't be negative: its positive part is itself, its negative part is 0."""
    return tuple(
        dataclasses.replace(
            part, terms=tuple(term._replace(input="a" if term.input == "a+" else term.input) for term in part.terms if term.input != "a-")
        )
        for part in parts
    )


def check_words(dtype: Any = "float32", algorithm: str = "auto", dialect: str | Dialect | None = None, start: str | None = None) -> None:
    """Raise what would be raised of these with any model, before one is read.

    Raises
    ------
    RuleError
    """
    check_dtype(dtype)
    check_algorithm(algorithm)
    if dialect is not None:
        dialect_named(dialect)
    if start is not None:
        check_start(start)


def check_algorithm(algorithm: str) -> None:
    """Raise `RuleError` if there is no such algorithm."""
    if algorithm not in ALGORITHMS:
        raise RuleError(f"there is no algorithm {algorithm!r}; expected one of {', '.join(ALGORITHMS)}")


def check_start(start: str) -> None:
    """Raise `RuleError` if there is no start of that name."""
    if start not in STARTS:
        raise RuleError(f"there is no start {start!r}, and it is no array of relevance; {nearest(start, STARTS)}")


def check_dtype(dtype: Any) -> np.dtype:
    """Return the dtype to compute in.

    Raises
    ------
    RuleError
        If it is not float32 or float64.
    """
    try:
        found = None if dtype is None else np.dtype(dtype)  # None would be float64
    except (TypeError, ValueError, SyntaxError):  # NumPy reads a text as a program
        found = None
    if found is None or found.name not in DTYPES:
        raise RuleError(f"there is no dtype {brief(dtype)} to compute in; expected {' or '.join(DTYPES)}")
    return found


def make_steps(model: Model, dtype: np.dtype, algorithm: str, merge: bool) -> tuple[Step, ...]:
    """Return a model's layers as steps, with batch norms merged or (``merge=False``) each as a scale of its own."""
    key = (dtype.name, algorithm, merge)
    steps = model.kept.steps.get(key)
    if steps is None:
        check_weights(model)
        bare = [_step(layer, reads, algorithm) for layer, reads in zip(model.layers, sources(model.layers), strict=True)]
        own = _with_scores(bare, last_computing(model.layers))
        merged = _merged_scales(own)
        same = all(one is other for one, other in zip(own, merged, strict=True))
        steps = model.kept.steps.get((dtype.name, algorithm, not merge)) if same else None  # they share what is prepared
        if steps is None:
            room = model.kept.room
            steps = tuple(
                dataclasses.replace(step, weight=_cast(step.weight, _dtype_of_weight(step, dtype)), bias=_cast(step.bias, dtype), room=room)
                for step in (merged if merge else own)
            )
        model.kept.steps[key] = steps
    return steps


def check_weights(model: Model) -> None:
    """Look for NaN and infinity in a model's weights, once for each model.

    Raises
    ------
    NumericsError
        Naming file, layer, array and index.
    """
    if model.kept.weights_checked:
        return
    for layer in model:
        for key, array in layer.arrays.items():
            index = layers.first_nonfinite(array)
            if index is not None:
                raise NumericsError(
                    f"{model.source or model.name}: layer {layer.name!r}: {key}{list(index)} is {array[index]}; "
                    "weights must be finite: export the model again"
                )
    model.kept.weights_checked = True


def _dtype_of_weight(step: Step, dtype: np.dtype) -> np.dtype:
    """Return what a step's weight is kept in for a plan of this dtype."""
    kept = step.weight is not None and step.weight.dtype == np.float32 and operation(step).widens
    return np.dtype(np.float32) if kept else dtype


def _cast(array: np.ndarray | None, dtype: np.dtype) -> np.ndarray | None:
    return None if array is None else np.require(array, dtype=dtype, requirements=["C", "A"])  # a file may hold it unaligned


def _step(layer: Layer, inputs: tuple[int, ...], algorithm: str) -> Step:
    """Translate one layer."""
    several = layer.input_shapes if len(layer.input_shapes) > 1 else ()
    facts: dict[str, Any] = {"input_shape": layer.input_shape, "input_shapes": several, "window": layer.window, "options": layer.options}
    facts["activation"] = layer.activation
    facts |= KINDS[layer.kind].step(layer)
    return Step(name=layer.name, output_shape=layer.output_shape, algorithm=algorithm, inputs=inputs, **facts)


def _with_scores(steps: Sequence[Step], last: int) -> list[Step]:
    """Return steps of which the last that computes is marked where its activation makes scores of the logits.

    Raises
    ------
    ModelError
        If a softmax stands elsewhere.
    """
    done = list(steps)
    for i, step in enumerate(steps):
        if activation(step.activation).name in OVER_AXIS and (i != last or len(step.output_shape) != 1):
            raise ModelError(
                f"layer {step.name!r} has a softmax of shape {step.output_shape} inside the network; LRP is defined up to the logits, "
                "so a softmax may only be the last thing that the model does, on a vector; save a model that ends before it"
            )
    if last >= 0 and steps[last].kind in (CURVE.name, RECTIFIER.name) and activation(function(steps[last])).score:
        done[last] = dataclasses.replace(steps[last], kind=IDENTITY.name, activation=function(steps[last]), options={})
    if last >= 0 and activation(done[last].activation).score:
        done[last] = dataclasses.replace(done[last], score=True)
    return done


def last_sum(steps: Sequence[Step]) -> int:
    """Return the step whose sums the logits are: the last one but for those that only look at its numbers; -1 if there is none."""
    last = len(steps) - 1
    while last >= 0 and operation(steps[last]).view and steps[last].input_shape == steps[last].output_shape:
        last = steps[last].inputs[0]
    return last


def _computes(step: Step) -> bool:
    return not operation(step).view or step.output_shape != step.input_shape or step.activation != "linear"


def _merged_scales(steps: Sequence[Step]) -> list[Step]:
    """Return steps in which every scale is merged into a neighbour where that is exact, in float64, and an identity in its own place."""
    after, done = consumers(steps), list(steps)
    for i, step in enumerate(steps):
        if step.kind != SCALE.name:
            continue
        g, h = np.asarray(step.weight), np.asarray(step.bias)
        below, above = _neighbour_below(done, after, i), _neighbour_above(done, after, i)
        left = None if below is None else operation(done[below]).scale_outputs
        right = None if above is None or step.activation != "linear" else operation(done[above]).scale_inputs
        if left and below is not None and done[below].activation == "linear":
            j, changed = below, left(done[below], g, h)
        elif right and above is not None:
            j, changed = above, right(done[above], g, h)
        else:
            continue
        if changed is not None:
            done[j] = dataclasses.replace(done[j], weight=changed[0], bias=changed[1])
            done[i] = dataclasses.replace(done[i], kind=IDENTITY.name, weight=None, bias=None, merged=True, options={"into": j})
    return done


def _neighbour_below(steps: Sequence[Step], after: Sequence[Sequence[int]], i: int) -> int | None:
    """Return the step whose output step i alone reads, through what computes nothing; None if somebody else reads it too."""
    while True:
        if len(steps[i].inputs) != 1 or steps[i].inputs[0] < 0 or len(after[steps[i].inputs[0]]) != 1:
            return None
        i = steps[i].inputs[0]
        if _computes(steps[i]):
            return i


def _neighbour_above(steps: Sequence[Step], after: Sequence[Sequence[int]], i: int) -> int | None:
    """Return the one step that reads step i's output, through what computes nothing or only reshapes; None if there are several."""
    while len(after[i]) == 1:
        i = after[i][0]
        if len(steps[i].inputs) != 1:
            return None
        if _computes(steps[i]) and not (operation(steps[i]).view and steps[i].activation == "linear"):
            return i
    return None
