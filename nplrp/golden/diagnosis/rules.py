"""Rules with something changed: what implementations of LRP are known to do otherwise, and numbers that are fitted, not listed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from nplrp import layers
from nplrp.golden.diagnosis.fitting import fit
from nplrp.golden.diagnosis.matching import Hypothesis, nice, plain
from nplrp.golden.faults import FAULTS, Place, dialect_switches, in_format, too_slow
from nplrp.golden.forward_faults import FORMATS as COARSE
from nplrp.golden.forward_faults import NORM_EPSILONS, coarse, normalised
from nplrp.gradients import behind_activation
from nplrp.layers import Layer, operation
from nplrp.lrp import as_linear, four_lines
from nplrp.plan import make_steps
from nplrp.rules import AS_IS, NEGATIVE, NOTHING, POSITIVE, Change, Clamp, Part, Rule, Term

Array = np.ndarray
Divided = Callable[[Array, Array, float], Array]
#: Seeded faults that are run last: hundreds of small products, and nobody sums in just that order.
SLOW = 14
ABSOLUTE = Clamp(1.0, -1.0)
#: Units of a layer, over all images, of which the least |z| is worth telling.
FEW_UNITS = 4096
#: Mantissas' bits, the leading 1 not counted.
FORMATS = {"TF32 (float16 has as many bits)": 10, "bfloat16": 7, "float16": 10}
#: Where a search for an epsilon begins, in units of the median |z|; and numbers that people write: a subtracted epsilon makes poles, and no
#: step leads across them.
EPSILONS = (1e-9, 1e-6, 1e-4, 1e-2, 0.1, 0.5, 2.0, 20.0)
USUAL = (1e-3, 1e-2, 0.1, 0.25, 0.5, 1.0)


def lines(
    at: Place,
    parts: Sequence[Part] | None = None,
    *,
    forward: Callable[[Change], Change] | None = None,
    backward: Callable[[Change], Change] | None = None,
    divided: Divided | None = None,
    times: Callable[[Array], Array] | None = None,
    R: Array | None = None,
    bias: Callable[[Array], Array] | None = None,
    weight: Callable[[Array], Array] | None = None,
    carried: Callable[[Array], Array] | None = None,
    a: Array | None = None,
    shared_bias: str = "",
) -> Array:
    """Run the four lines with something in them changed.

    Parameters
    ----------
    at : Place
    parts : sequence of Part, or None
    forward, backward : callable or None
        Change of weights -> that of line 1, or of line 3.
    divided : callable or None
        (R, z, the part's weight) -> s: line 2.
    times : callable or None
        Input of a term -> what line 4 multiplies with.
    R : ndarray or None
    bias, weight : callable or None
        The layer's own -> another one.
    carried : callable or None
        c -> another c, after line 3.
    a : ndarray or None
        The layer's input.
    shared_bias : str
        Line 4 adds a share of the bias for each input of a unit: of those that it sees ("seen"), or that its window has ("window").
    """
    step, own, held = as_linear(at.plan, at.trace, at.i)
    new = {"weight": step.weight if weight is None or step.weight is None else np.ascontiguousarray(weight(layers.wide(step)))}
    new["bias"] = step.bias if bias is None or step.bias is None else np.ascontiguousarray(bias(step.bias))
    # packed weights are kept where they are the layer's own by sign alone; those of fitted numbers would fill the memory
    known = all(_plain_change(term.weight) for part in (at.parts if parts is None else parts) for term in part.terms)
    kept = {key: packed for key, packed in step.prepared.items() if key[0] != "bias"} if bias is not None else step.prepared
    step = dataclasses.replace(step, **new, prepared=kept if known and weight is None else {})  # type: ignore[arg-type]
    a, R = (own if a is None else a), behind_activation(at.plan, at.trace, at.i, at.R if R is None else R)
    rule, total = at.rule, np.zeros_like(own)
    y = at.trace.activations[at.i + 1] if a is own and weight is None and bias is None else None  # or it is other units that are below 0
    if parts is None:
        parts = at.rule.parts if y is None and any(part.units for part in at.parts) else at.parts
    for part in parts:
        of_units = layers.relevance_of_units(R, step, a, part.units, y, held)
        inputs, changes = layers.changed_inputs(a, rule, part), [term.weight for term in part.terms]
        z = layers.forward(step, inputs, [forward(c) for c in changes] if forward else changes, part.bias, held=held)
        with np.errstate(all="ignore"):
            s = divided(of_units.reshape(z.shape), z, part.weight) if divided else layers.divide(of_units, z, rule, part.weight)
        s = np.ascontiguousarray(s)
        if not np.isfinite(s).all():
            return np.full_like(own, np.nan)
        c = layers.transpose(step, s, [backward(c) for c in changes] if backward else changes, held)
        if carried:
            c = [carried(each) for each in c]
        total = total + (layers.multiply(inputs, c) if times is None else sum(times(x) * each for x, each in zip(inputs, c, strict=True)))
        if shared_bias and step.bias is not None:
            b = layers.changed_bias(step, part.bias)
            assert step.weight is not None
            count = layers.forward(step, [np.ones_like(a)], ["ones"], NOTHING) if shared_bias == "seen" else np.prod(step.weight.shape[:-1])
            total = total + layers.transpose(step, np.ascontiguousarray(s * b / count), ["ones"])[0]
    return np.asarray(total)


def _plain_change(change: Change) -> bool:
    return isinstance(change, str) or all(each in (-1.0, 0.0, 1.0) for each in change)


def _lines(**changes: object) -> Callable[[Place], Array]:
    return lambda at: lines(at, **changes)  # type: ignore[arg-type]


def variants(at: Place) -> Iterator[Hypothesis]:
    """Return what may be wrong in a backward step, numbers known beforehand, the most particular first; they run on a piece or on all."""
    for fault in FAULTS:
        if fault.number != SLOW:
            yield Hypothesis(fault.name, fault.run)
    yield from _of_joins(at)
    yield from _unstabilised(at)
    for name, rule in dialect_switches(at):
        yield Hypothesis(name, partial(_with_rule, rule=rule))
    if at.matrix is not None:
        yield from _of_weights(at)
        yield from _of_norms(at)
    if operation(at.step).choice is not None:
        yield from _of_winners()
    yield from _of_relevance()
    if at.matrix is not None:
        yield from _rounded()
        slow = next(fault for fault in FAULTS if fault.number == SLOW)
        yield Hypothesis(slow.name, lambda place: None if too_slow(slow, place) else slow.run(place), whole=True, rounds=True)


def _unstabilised(at: Place) -> Iterator[Hypothesis]:
    """Return what z as it is gives in a layer of few units, which is also what a clip gives that no unit is beneath."""
    if at.matrix is None or len(at.parts) != 1 or at.rule.undivided or not at.rule.epsilon or at.R.size > FEW_UNITS:
        return
    ((_, of_units, of_lines),) = four_lines(at.plan, at.trace, at.i, at.R)
    least = np.abs(of_lines.z[of_units.reshape(of_lines.z.shape) != 0]).min(initial=np.inf)
    if np.isfinite(least) and least > 0:
        below = float(f"{0.9995 * least:.3g}")
        name = f"divided by z, with no epsilon to be seen: none, one far below z, or a clip that no unit is beneath (at {below:g} or less)"
        yield Hypothesis(name, _lines(divided=lambda R, z, w: w * R / _safe(z)))


def _with_rule(at: Place, rule: Rule) -> Array:
    """Run another rule, with a place's own box, which is cut as the place is."""
    return at.run(rule=dataclasses.replace(rule, box=at.rule.box) if rule.box is not None and at.rule.box is not None else rule)


def _of_weights(at: Place) -> Iterator[Hypothesis]:
    """Return what may be wrong where a layer multiplies with weights."""
    yield Hypothesis("not multiplied by a", _lines(times=np.ones_like))
    yield Hypothesis("not multiplied by a, negative inputs' term as well", lambda p: lines(p, p.rule.parts, times=np.ones_like))
    yield Hypothesis("times a once more: multiplied by the input twice", _lines(times=np.square))
    if (at.a < 0).any():
        yield Hypothesis("multiplied by |a|", _lines(times=np.abs))
        yield Hypothesis("masked: 0 where the input isn't positive", lambda p: p.run() * (p.a > 0))
        yield Hypothesis("multiplied by a+, negative inputs cut", _lines(times=lambda x: np.maximum(x, 0)))
        yield Hypothesis("computed from |a|", lambda p: lines(p, a=np.abs(p.a)))
        yield Hypothesis("computed from a+, negative inputs cut", lambda p: lines(p, a=np.maximum(p.a, 0)))
    else:
        yield Hypothesis("masked once more: 0 where the input is 0", lambda p: p.run() * (p.a > 0))
    yield Hypothesis("gradient x input: not divided by z", _lines(parts=_PLAIN, divided=lambda R, z, w: w * R))
    yield Hypothesis("gradient: neither divided by z nor multiplied by a", _lines(parts=_PLAIN, divided=_undivided, times=np.ones_like))
    yield Hypothesis("not divided by z", _lines(divided=_undivided))
    yield Hypothesis("divided by z twice", lambda p: lines(p, divided=lambda R, z, w: w * R / np.where(z == 0, np.inf, z * np.abs(z))))
    for name, of in (("|z|", np.abs), ("max(z, 0)", lambda z: np.maximum(z, 0)), ("-z", np.negative)):
        yield Hypothesis(f"divided by {name} for z", _lines(divided=lambda R, z, w, of=of: w * R / _safe(of(z))))
    if at.step.bias is not None and np.any(at.step.bias):
        yield from _of_bias(at)
    if at.parts and not at.rule.row.boxed:
        yield from _of_lines(at)
    if at.kernel is not None:
        square = at.kernel.shape[0] == at.kernel.shape[1]
        if square:
            yield Hypothesis("rows and columns of the kernel exchanged in line 3", _kernel(lambda w: w.transpose(1, 0, 2, 3)))
            yield Hypothesis("rows and columns of the kernel exchanged", _lines(weight=lambda w: w.transpose(1, 0, 2, 3)))
        yield Hypothesis("kernel flipped in lines 1 and 3", _lines(weight=lambda w: w[::-1, ::-1]))
        for down, across in ((1, 0), (0, 1), (-1, 0), (0, -1), (-1, -1)):
            name = f"c shifted by {down} rows and {across} columns: padding of line 3"
            yield Hypothesis(name, _lines(carried=lambda c, d=down, x=across: _moved(c, d, x)))
        yield Hypothesis("padding at the other side: the odd row and column first", _other_side, whole=True)
        yield Hypothesis("padding alike on both sides, as PyTorch has it", _both_sides, whole=True)
    matrix = at.matrix
    if matrix is not None and matrix.shape[-1] == matrix.shape[-2]:
        yield Hypothesis("input and output channels of the weights exchanged", _lines(weight=lambda w: w.swapaxes(-1, -2)), each=True)
    if at.rule.row.boxed:
        yield from _of_box()


_PLAIN = (Part((Term("a"),), AS_IS),)


def _undivided(R: Array, z: Array, w: float) -> Array:
    return w * R


def _safe(z: Array) -> Array:
    return np.where(z == 0, np.inf, z)


def _kernel(turn: Callable[[Array], Array]) -> Callable[[Place], Array]:
    """Run line 3 with another kernel."""

    def run(at: Place) -> Array:
        total = np.zeros_like(at.a)
        step = dataclasses.replace(at.step, weight=np.ascontiguousarray(turn(at.matrix)), prepared={})  # type: ignore[arg-type]
        R = behind_activation(at.plan, at.trace, at.i, at.R)
        for part in at.parts:
            of_units = layers.relevance_of_units(R, at.step, at.a, part.units, at.trace.activations[at.i + 1])
            inputs, changes = layers.changed_inputs(at.a, at.rule, part), [term.weight for term in part.terms]
            s = layers.divide(of_units, layers.forward(at.step, inputs, changes, part.bias), at.rule, part.weight)
            total += layers.multiply(inputs, layers.transpose(step, s, changes))
        return total

    return run


def _moved(c: Array, down: int, across: int) -> Array:
    moved = np.zeros_like(c)
    h, w = c.shape[1:3]
    moved[:, max(down, 0) : h + min(down, 0), max(across, 0) : w + min(across, 0)] = c[
        :, max(-down, 0) : h + min(-down, 0), max(-across, 0) : w + min(-across, 0)
    ]
    return moved


def _padded(at: Place, pads: tuple[int, int, int, int]) -> Array | None:
    window = at.step.window
    assert window is not None
    if pads == window.pads(*at.step.input_shape[:2]):
        return None
    other = dataclasses.replace(window, padding=pads)
    if other.output_size(*at.step.input_shape[:2]) != at.step.output_shape[:2]:
        return None
    return at.run(step=dataclasses.replace(at.step, window=other, prepared={}))


def _other_side(at: Place) -> Array | None:
    assert at.step.window is not None
    top, bottom, left, right = at.step.window.pads(*at.step.input_shape[:2])
    return _padded(at, (bottom, top, right, left))


def _both_sides(at: Place) -> Array | None:
    """Return what padding by half of the window gives, where as many outputs come out."""
    window = at.step.window
    assert window is not None
    rows, columns = (k // 2 * d for k, d in zip(window.size, window.dilation, strict=True))
    return _padded(at, (rows, rows, columns, columns))


def _of_bias(at: Place) -> Iterator[Hypothesis]:
    """Return what may be wrong with a bias, whatever the rule."""
    if all(part.bias != NOTHING for part in at.parts):
        yield Hypothesis("bias negated: subtracted in the denominators", _lines(bias=np.negative))
        if any(part.units for part in at.parts):
            yield Hypothesis("bias left out, where halves are told as well", _lines(bias=np.zeros_like))
        yield Hypothesis("bias shared among the inputs: in the numerators, too", _lines(shared_bias="window"))
        yield Hypothesis("bias shared among the inputs that a window sees: in the numerators, too", _lines(shared_bias="seen"))
        yield Hypothesis("bias: positive part b+ alone", _lines(bias=lambda b: np.maximum(b, 0)))
        yield Hypothesis("bias: negative part b- alone", _lines(bias=lambda b: np.minimum(b, 0)))
        yield Hypothesis("bias: absolute values", _lines(bias=np.abs))
        for by in (1, -1):
            yield Hypothesis(f"bias of another unit: shifted by one ({by:+d})", _lines(bias=lambda b, by=by: np.roll(b, by)))
        yield Hypothesis("bias of another unit: in opposite order", _lines(bias=lambda b: b[::-1]))
    else:
        yield Hypothesis("bias added to the denominators", lambda p: lines(p, [dataclasses.replace(x, bias=AS_IS) for x in p.parts]))
    if len(at.parts) > 1:
        for k, name in enumerate(("positive", "negative")):

            def without(p: Place, k: int = k) -> Array:
                return lines(p, [dataclasses.replace(x, bias=NOTHING) if i == k else x for i, x in enumerate(p.parts)])

            yield Hypothesis(f"bias left out of the {name} half's denominators", without)


#: Changes of weights by what they are called.
CHANGES: dict[str, Change] = {
    "w as it is": AS_IS,
    "w+": POSITIVE,
    "w-": NEGATIVE,
    "|w|": ABSOLUTE,
    "w^2": "square",
    "1": "ones",
}


def _of_lines(at: Place) -> Iterator[Hypothesis]:
    """Return rules whose lines 1 and 3 have other weights: one of them, or both."""
    own = {term.weight for part in at.parts for term in part.terms}
    halves = len(at.parts) > 1
    for name, change in CHANGES.items():
        if own != {change}:
            swap = lambda _, change=change: change  # noqa: E731
            each = change in ("square", "ones")
            yield Hypothesis(f"{name} in lines 1 and 3 for the rule's weights", _lines(forward=swap, backward=swap), each=each)
            yield Hypothesis(f"{name} in line 1, the denominator, for the rule's weights", _lines(forward=swap), each=each)
            yield Hypothesis(f"{name} in line 3, the numerator, for the rule's weights", _lines(backward=swap), each=each)
    yield Hypothesis(
        "plain z (w as it is, all of a and b) in the denominator",
        lambda p: lines(p, [dataclasses.replace(x, bias=AS_IS) for x in p.parts], divided=_by(_z(p), p.rule)),
    )
    single = [Term("a", term.weight) for part in at.parts for term in part.terms if term.input in ("a", "a+")]
    if single and any(term.input == "a-" for part in at.parts for term in part.terms):
        yield Hypothesis("inputs not split by sign: weights are, not contributions", lambda p: lines(p, _unsplit(p.parts)))
    else:
        split = lambda p: lines(p, _split(p.parts))  # noqa: E731
        yield Hypothesis("inputs split by sign", split)
    yield Hypothesis("w+ and w- exchanged", lambda p: lines(p, [_turned(x) for x in p.parts]))
    yield Hypothesis("w+ and w- exchanged, of the bias as well", lambda p: lines(p, [_turned(x, True) for x in p.parts]))
    if halves:
        for k, name in enumerate(("first", "second")):
            other = ("second", "first")[k]
            yield Hypothesis(f"the rule's {name} half alone, without the {other}", partial(_one_part, k=k))
        if any(part.units for part in at.parts):
            for k, part in enumerate(at.parts):
                yield Hypothesis(f"one half for all units: that of {part.units}", partial(_one_part, k=k, units=""))


def _one_part(p: Place, k: int, units: str | None = None) -> Array:
    part = p.parts[k]
    return lines(p, [part if units is None else dataclasses.replace(part, units=units)])


def _z(p: Place) -> Array:
    return layers.forward(p.step, [p.a], [AS_IS], AS_IS)


def _by(z: Array, rule: Rule) -> Divided:
    return lambda R, _, w: layers.divide(R, z, rule, w)


def _unsplit(parts: Sequence[Part]) -> list[Part]:
    """Drop terms of negative inputs; the others take all inputs."""
    return [
        dataclasses.replace(p, terms=tuple(t._replace(input="a" if t.input == "a+" else t.input) for t in p.terms if t.input != "a-"))
        for p in parts
    ]


def _split(parts: Sequence[Part]) -> list[Part]:
    """Give negative inputs a term of their own, with weights of the other sign."""

    def terms(t: Term) -> list[Term]:
        if t.input != "a" or not isinstance(t.weight, Clamp):
            return [t]
        return [Term("a+", t.weight), Term("a-", Clamp(t.weight.negative, t.weight.positive))]

    return [dataclasses.replace(p, terms=tuple(each for t in p.terms for each in terms(t))) for p in parts]


def _turned(part: Part, bias: bool = False) -> Part:
    """Exchange what is done to weights of either sign."""

    def turn(change: Change) -> Change:
        return Clamp(change.negative, change.positive) if isinstance(change, Clamp) else change

    terms = tuple(term._replace(weight=turn(term.weight)) for term in part.terms)
    return dataclasses.replace(part, terms=terms, bias=turn(part.bias) if bias else part.bias)


def _of_box() -> Iterator[Hypothesis]:
    """Return what may be wrong with the ends of a box."""

    def ends(p: Place, change: Callable[[Array, Array], tuple[Array, Array]]) -> Array:
        low, high = (np.broadcast_to(np.asarray(end, float), p.a.shape[1:]) for end in _ends(p.rule))
        return _with_box(p, *change(low, high))

    def without(p: Place, which: str) -> Array:
        return lines(p, [dataclasses.replace(x, terms=tuple(t for t in x.terms if t.input != which)) for x in p.parts])

    def signs(p: Place) -> Array:
        return lines(p, [dataclasses.replace(x, terms=tuple(t if t.input == "a" else _turned_sign(t) for t in x.terms)) for x in p.parts])

    yield Hypothesis("box of RGB for BGR: its channels in opposite order", lambda p: ends(p, lambda lo, hi: (lo[..., ::-1], hi[..., ::-1])))
    yield Hypothesis("box: low left out", lambda p: without(p, "low"))
    yield Hypothesis("box: high left out", lambda p: without(p, "high"))
    yield Hypothesis("box added for subtracted", signs)
    for low, high in ((0.0, 255.0), (-1.0, 1.0), (0.0, 1.0), (-128.0, 127.0)):
        yield Hypothesis(f"box low={low:g}, high={high:g}", partial(_with_box, low=low, high=high))
    yield Hypothesis("box of the picture's own least and largest number", lambda p: _with_box(p, p.a.min(), p.a.max()), whole=True)


def _turned_sign(term: Term) -> Term:
    assert isinstance(term.weight, Clamp)
    return term._replace(weight=Clamp(-term.weight.positive, -term.weight.negative))


def _ends(rule: Rule) -> tuple[object, object]:
    return (rule.box.low, rule.box.high) if rule.box is not None else (rule.low, rule.high)


def _with_box(p: Place, low: object, high: object) -> Array:
    """Run zB with other ends."""
    rule = p.rule

    class Ends:  # a rule checks its ends, and a candidate's needn't be in order
        box = None

        def __init__(self) -> None:
            self.low, self.high = (np.broadcast_to(np.asarray(end, float), p.a.shape[1:]) for end in (low, high))

    total = np.zeros_like(p.a)
    R = behind_activation(p.plan, p.trace, p.i, p.R)
    for part in p.parts:
        inputs, changes = layers.changed_inputs(p.a, Ends(), part), [term.weight for term in part.terms]  # type: ignore[arg-type]
        s = layers.divide(R, layers.forward(p.step, inputs, changes, part.bias), rule, part.weight)
        total += layers.multiply(inputs, layers.transpose(p.step, s, changes))
    return total


#: A batch norm's factor and shift, and a bias beside the step's own -> (weight, bias) with it; None where they can't be merged.
Merge = Callable[..., tuple[Array, Array] | None]


def _norm_of(at: Place) -> tuple[Layer, Merge] | None:
    """Return the batch norm that is merged into a step, and how."""
    merged = [i for i, step in enumerate(at.plan.steps) if step.merged and step.options.get("into") == at.i]
    if len(merged) != 1 or "variance" not in at.plan.model.layers[merged[0]].arrays or at.step.stand_in is not None:
        return None
    own, op = make_steps(at.plan.model, at.plan.dtype, at.plan.algorithm, merge=False)[at.i], operation(at.step)
    scale = op.scale_outputs if merged[0] > at.i else op.scale_inputs

    def merge(g: Array, h: Array, bias: Array | None = None) -> tuple[Array, Array] | None:
        return scale(own if bias is None else dataclasses.replace(own, bias=bias), g, h) if scale else None

    return at.plan.model.layers[merged[0]], merge


def _with_weights(p: Place, both: tuple[Array, Array] | None) -> Array | None:
    return None if both is None else lines(p, weight=lambda _: both[0], bias=lambda _: both[1])


def _of_norms(at: Place) -> Iterator[Hypothesis]:
    """Return what may be wrong where a batch norm is merged into the weights."""
    norm = _norm_of(at)
    if norm is None or at.matrix is None:
        return
    (layer, merge), whole = norm, at.matrix.ndim == 2  # a piece of a dense layer has other rows
    arrays = {key: np.asarray(array, np.float64) for key, array in layer.arrays.items()}
    mean, variance = arrays["mean"], arrays["variance"]
    one, none = np.ones(mean.shape), np.zeros(mean.shape)
    gamma, beta = arrays.get("gamma", one), arrays.get("beta", none)
    g = gamma / np.sqrt(variance + layer.epsilon)
    h = beta - mean * g
    tries: list[tuple[str, tuple[Array, ...]]] = [
        ("batch norm not merged: the layer's own weights and bias", (one, none)),
        ("batch norm merged without its shift", (g, none)),
        ("batch norm merged without its factor", (one, h)),
        ("beta of the batch norm left out", (g, -mean * g)),
        ("mean of the batch norm left out", (g, beta)),
        ("gamma of the batch norm left out", (g / np.where(gamma, gamma, 1.0), beta - mean * g / np.where(gamma, gamma, 1.0))),
        ("the layer's own bias left out, the batch norm's kept", (g, h, np.zeros(at.matrix.shape[-1]))),
    ]
    for name, d in (
        ("variance of the batch norm taken for its deviation", variance + layer.epsilon),
        ("epsilon of the batch norm outside the root", np.sqrt(variance) + layer.epsilon),
    ):
        tries.append((name, (gamma / d, beta - mean * gamma / d)))
    for name, numbers in tries:
        yield Hypothesis(name, partial(_with_weights, both=merge(*numbers)), whole=whole)
    for epsilon in NORM_EPSILONS:
        if not np.isclose(epsilon, layer.epsilon, rtol=1e-6):
            run = partial(_with_norm, layer=layer, merge=merge, e=epsilon)
            yield Hypothesis(f"epsilon {epsilon:g} in the batch norm", run, whole=whole)


def _with_norm(p: Place, layer: Layer, merge: Merge, e: float) -> Array | None:
    """Run a step with a batch norm of another epsilon merged into it."""
    g, h = (normalised(layer, np.full(layer.arrays["mean"].shape, x), e) for x in (1.0, 0.0))
    return _with_weights(p, merge(g - h, h))


def _of_winners() -> Iterator[Hypothesis]:
    """Return what may be wrong where every output is one of the numbers that a step sees."""

    def by(shares: Callable[[Array, Array], Array]) -> Callable[[Place], Array | None]:
        def run(p: Place) -> Array | None:
            choice = operation(p.step).choice
            if choice is None or not p.decided:
                return None
            places = choice.places(p.step, p.a)
            held = choice.held(p.step, np.ascontiguousarray(shares(places, np.isfinite(places))))
            return layers.transpose(p.step, np.ascontiguousarray(p.R.reshape(len(p.a), *p.step.output_shape)), [AS_IS], held)[0]

        return run

    def one(v: Array, winner: Array) -> Array:
        return np.asarray((np.arange(v.shape[-1]) == winner[..., None]).astype(float))

    def finite(v: Array, there: Array) -> Array:
        return np.where(there, v, 0.0)

    def share(v: Array) -> Array:
        total = v.sum(-1, keepdims=True)
        return np.asarray(np.divide(v, total, out=np.zeros_like(v), where=total != 0))

    yield Hypothesis("every maximum of a tie gets all of R", by(lambda v, there: (v == v.max(-1, keepdims=True)).astype(float)))
    yield Hypothesis("ties share R", by(lambda v, there: share((v == v.max(-1, keepdims=True)).astype(float))))
    yield Hypothesis("R in proportion to the activations, no winner", by(lambda v, there: share(finite(v, there))))
    yield Hypothesis("R in proportion to |a|, no winner", by(lambda v, there: share(np.abs(finite(v, there)))))
    yield Hypothesis("R in proportion to a^2, no winner", by(lambda v, there: share(finite(v, there) ** 2)))
    yield Hypothesis("R evenly to all places of a window, no winner", by(lambda v, there: share(there.astype(float))))
    yield Hypothesis("all of R to every place of a window", by(lambda v, there: there.astype(float)))
    yield Hypothesis("the smallest of a window for the largest", by(lambda v, there: one(v, np.where(there, v, np.inf).argmin(-1))))
    yield Hypothesis("the largest |a| of a window", by(lambda v, there: one(v, np.where(there, np.abs(v), -np.inf).argmax(-1))))
    yield Hypothesis("the first place of each window, whoever won", by(lambda v, there: one(v, there.argmax(-1))))
    yield Hypothesis("softmax of a window for its winner", by(lambda v, there: share(np.exp(v - v.max(-1, keepdims=True)))))
    yield Hypothesis("overwritten where windows meet: the last window's R, not the sum", _overwritten, whole=True)
    yield Hypothesis("padding at the other side: the odd row and column first", lambda p: _pool_padded(p, True), whole=True)


def _overwritten(p: Place) -> Array | None:
    """Return what a window's R gives if it overwrites what other windows gave, window after window."""
    choice, window = operation(p.step).choice, p.step.window
    if choice is None or not p.decided or window is None or (window.size[0] <= window.stride[0] and window.size[1] <= window.stride[1]):
        return None
    places = choice.places(p.step, p.a)
    if places.ndim != 5 or places.shape[-1] != window.size[0] * window.size[1]:
        return None
    top, bottom, left, right = window.pads(*p.step.input_shape[:2])
    n, h, w, c = p.a.shape
    total = np.zeros((n, h + top + bottom, w + left + right, c))
    R, best = p.R.reshape(n, *p.step.output_shape), places.argmax(-1)
    rows, columns = p.step.output_shape[:2]
    for k in range(places.shape[-1]):
        i, j = divmod(k, window.size[1])
        view = total[
            :, i : i + (rows - 1) * window.stride[0] + 1 : window.stride[0], j : j + (columns - 1) * window.stride[1] + 1 : window.stride[1]
        ]
        given = np.where(best == k, R, 0.0)
        view[...] = np.where(given != 0, given, view)
    return total[:, top : top + h, left : left + w]


def _pool_padded(p: Place, swap: bool) -> Array | None:
    window = p.step.window
    if window is None:
        return None
    top, bottom, left, right = window.pads(*p.step.input_shape[:2])
    if (top, left) == (bottom, right):
        return None
    step = dataclasses.replace(p.step, window=dataclasses.replace(window, padding=(bottom, top, right, left)))
    _, held = layers.apply(step, p.a)
    trace = dataclasses.replace(p.trace, held={**p.trace.held, p.i: held})
    return dataclasses.replace(p, trace=trace).run(step=step)


def _of_joins(at: Place) -> Iterator[Hypothesis]:
    """Return what may be wrong where several inputs are joined."""
    several = len(at.step.input_shapes)
    if several < 2:
        return
    op = operation(at.step)

    def shares(p: Place) -> list[Array]:
        return op.scatter(p.step, p.run())

    def gathered(p: Place, each: Sequence[Array]) -> Array:
        return np.ascontiguousarray(op.gather(p.step, [np.ascontiguousarray(x) for x in each]))

    same = len(set(at.step.input_shapes)) == 1
    joined = same and at.step.output_shape == at.step.input_shapes[0]
    if joined:

        def inputs(p: Place) -> list[Array]:
            return [p.trace.activations[j + 1] for j in p.step.inputs]

        def part(p: Place, weight: Callable[[Array], Array]) -> Array:
            xs = [weight(x) for x in inputs(p)]
            total = np.sum(xs, axis=0)
            R = p.R.reshape(xs[0].shape)
            return gathered(p, [np.divide(x, total, out=np.zeros_like(x), where=total != 0) * R for x in xs])

        def fixed(p: Place, factors: Sequence[float]) -> Array:
            R = p.R.reshape(inputs(p)[0].shape)
            return gathered(p, [f * R for f in factors])

        yield Hypothesis("all of R to every input", lambda p: fixed(p, [1.0] * several))
        yield Hypothesis("half of R to each input, evenly", lambda p: fixed(p, [1 / several] * several))
        for k in range(several):
            only = [float(j == k) for j in range(several)]
            what = "first" if k == 0 else f"{k + 1}."
            yield Hypothesis(f"all of R to the {what} input alone", partial(fixed, factors=only))
        yield Hypothesis("shares in proportion to absolute values |a|", lambda p: part(p, np.abs))
        yield Hypothesis("shares in proportion to a^2", lambda p: part(p, np.square))
        yield Hypothesis("shares in proportion to a+", lambda p: part(p, lambda x: np.maximum(x, 0)))
    if same:
        yield Hypothesis("inputs exchanged: each gets another's share", lambda p: gathered(p, shares(p)[::-1]))
    else:

        def other_order(p: Place) -> Array | None:
            shapes = p.step.input_shapes
            axis = next((k for k in range(len(shapes[0])) if len({s[k] for s in shapes}) > 1), None)
            if axis is None or not layers.only_moves(p.step):
                return None
            R = p.R.reshape(len(p.R), *p.step.output_shape)
            cuts = np.cumsum([s[axis] for s in shapes[::-1]])[:-1]
            return gathered(p, np.split(R, cuts, axis + 1)[::-1])

        yield Hypothesis("inputs cut in the other order: exchanged", other_order)


def _of_relevance() -> Iterator[Hypothesis]:
    """Return what may have been done to the relevance that came from above."""
    yield Hypothesis("negative relevance from above cut: R > 0 alone", lambda p: _from(p, np.maximum(p.R, 0)))
    yield Hypothesis("positive relevance from above cut: R < 0 alone", lambda p: _from(p, np.minimum(p.R, 0)))
    yield Hypothesis("absolute values of the relevance from above", lambda p: _from(p, np.abs(p.R)))
    yield Hypothesis(
        "masked: relevance from above cut where the output isn't positive (the ReLU's slope)",
        lambda p: _from(p, p.R * (p.trace.activations[p.i + 1].reshape(p.R.shape) > 0)),
    )
    yield Hypothesis("relevance from above times the output", lambda p: _from(p, p.R * p.trace.activations[p.i + 1].reshape(p.R.shape)))
    yield Hypothesis("handed on as it is", _handed_on)


def _from(p: Place, R: Array) -> Array:
    return dataclasses.replace(p, R=np.ascontiguousarray(R)).run()


def _handed_on(p: Place) -> Array | None:
    return p.R.reshape(p.a.shape).copy() if p.R.size == p.a.size else None


def _rounded() -> Iterator[Hypothesis]:
    """Return lower precisions of what is multiplied."""
    for name, bits in COARSE.items():
        yield Hypothesis(f"inputs and weights rounded to {name}", partial(in_format, bits=bits), each=True, rounds=True)
    yield Hypothesis("inputs and weights rounded to float16", partial(_coarsely, weights=_half, inputs=_half), each=True, rounds=True)
    name = "inputs and weights rounded to float16, a as it is in line 4"
    yield Hypothesis(name, partial(_half_products, to=_half), each=True, rounds=True)
    for name, bits in FORMATS.items():
        to = _half if name == "float16" else partial(coarse, bits=bits)
        yield Hypothesis(f"weights rounded to {name}", partial(_coarsely, weights=to), rounds=True)
        yield Hypothesis(f"inputs rounded to {name}", partial(_coarsely, inputs=to), rounds=True)
        if name != "float16":
            both = partial(_coarsely, weights=to, inputs=to)
            yield Hypothesis(f"inputs and weights rounded to {name}, nothing else", both, each=True, rounds=True)


def _coarsely(p: Place, weights: Callable[[Array], Array] | None = None, inputs: Callable[[Array], Array] | None = None) -> Array:
    return lines(p, weight=weights, a=inputs(p.a) if inputs else None)


def _half(values: Array) -> Array:
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(values.dtype)


def _half_products(p: Place, to: Callable[[Array], Array]) -> Array:
    a = to(p.a)
    R = lines(p, weight=to, a=a)
    return np.asarray(np.divide(R, a, out=np.zeros_like(R), where=a != 0) * p.a)


# Numbers that are fitted


def fitted(at: Place, target: Array, within: tuple[Any, ...], as_good: Callable[[Array, Array], bool]) -> Iterator[Hypothesis]:
    """Return rules with numbers that are fitted to a target, the numbers of a place's relevance `within`.

    Parameters
    ----------
    at : Place
        A piece.
    target : ndarray
    within : tuple
        Index of the target's numbers in what the place gives.
    as_good : callable
        Tells whether numbers fit as well as others do, for the shortest parameters that do.
    """

    def search(
        run: Callable[..., Array | None], starts: Sequence[Sequence[float]], name: Callable[[Array], str], *keys: str
    ) -> Iterator[Hypothesis]:
        def there(theta: Array) -> Array | None:
            values = run(at, theta)
            return None if values is None else values[within]

        theta = fit(there, target, starts)
        if theta is None:
            return
        best = run(at, theta)
        for k in range(len(theta)):

            def works(value: float, k: int = k) -> bool:
                values = run(at, np.array([value if j == k else t for j, t in enumerate(theta)]))
                return values is not None and best is not None and as_good(values, best)

            theta[k] = nice(float(theta[k]), works)
        numbers = dict(zip(keys, map(float, theta), strict=True))
        yield Hypothesis(name(theta), partial(_at, run, theta), numbers)

    if at.matrix is None and not (at.parts and at.rule.epsilon is not None):
        return
    if at.parts and not at.rule.undivided and at.rule.epsilon is not None:
        yield from _epsilons(at, search)
    if at.matrix is None or not at.parts:
        return
    if at.step.bias is not None and np.any(at.step.bias) and any(part.bias != NOTHING for part in at.parts):
        run = lambda p, theta: lines(p, bias=lambda b: theta[0] * b)  # noqa: E731
        yield from search(run, [[0.0], [0.5], [2.0], [-1.0]], lambda t: f"bias x {plain(t[0])} in the denominators", "bias")
    norm = _norm_of(at)
    if norm is not None and at.matrix.ndim == 4:
        layer, merge = norm

        def normed(p: Place, theta: np.ndarray) -> np.ndarray | None:
            return _with_norm(p, layer, merge, max(float(theta[0]), 0.0))

        yield from search(
            normed, [[1e-5], [1e-3], [1e-2], [0.1]], lambda t: f"epsilon {plain(t[0])} in the batch norm", "epsilon of the norm"
        )
    signed = not any(isinstance(term.weight, str) or term.input in ("low", "high", "1") for part in at.parts for term in part.terms)
    if signed:
        for split in (True, False):
            for bias in ("changed", "raw", "none") if np.any(at.step.bias) else ("none",):
                yield from _gammas(at, search, split, bias)
                yield from _halves(at, target, within, split, bias, as_good)
    yield from search(_powers, [[1.0], [2.0], [0.5]], lambda t: f"|w|^{plain(t[0])}: w to a power, inputs taken as 1", "power")
    if signed:
        name = lambda t: f"power {plain(t[0])} of the weights, with their sign"  # noqa: E731
        yield from search(_signed_powers, [[1.5], [2.0], [0.5]], name, "power")
    if at.rule.row.boxed:
        run = lambda p, theta: _with_box(p, theta[0], theta[1])  # noqa: E731
        name = lambda t: f"box low={plain(t[0])}, high={plain(t[1])}"  # noqa: E731
        lo, hi = float(at.a.min()), float(at.a.max())
        yield from search(run, [[lo, hi], [2 * lo, 2 * hi], [0.0, hi], [-1.0, 1.0], [-120.0, 140.0]], name, "low", "high")
        c = at.a.shape[-1]
        if c <= 4:
            low, high = (
                np.broadcast_to(np.asarray(end, float), at.a.shape[1:]).reshape(-1, c)[at.a[0].size // c // 2] for end in _ends(at.rule)
            )
            run = lambda p, theta: _with_box(p, theta[:c], theta[c:])  # noqa: E731
            name = lambda t: f"box low=({', '.join(map(plain, t[:c]))}), high=({', '.join(map(plain, t[c:]))})"  # noqa: E731
            keys = [f"{end} {k}" for end in ("low", "high") for k in range(c)]
            yield from search(run, [[*low, *high]], name, *keys)


Search = Callable[..., Iterator[Hypothesis]]


def _epsilons(at: Place, search: Search) -> Iterator[Hypothesis]:
    """Return stabilisers with an epsilon that is fitted, absolute and in units of the layer's z."""
    linear, a, held = as_linear(at.plan, at.trace, at.i)
    first = at.parts[0]
    z = layers.forward(linear, layers.changed_inputs(a, at.rule, first), [t.weight for t in first.terms], first.bias, held=held)
    unit = float(np.median(np.abs(z[z != 0]))) if z.any() else 1.0
    starts = [[each * unit] for each in EPSILONS] + [[each] for each in USUAL]

    def sign(z: Array) -> Array:
        return np.where(z < 0, -1.0, 1.0)

    forms: dict[str, tuple[Callable[[Array, float], Array], Callable[[float], str]]] = {
        "sign": (lambda z, e: z + e * sign(z), lambda e: f"epsilon={plain(e)}" if e >= 0 else f"epsilon={plain(e)}: subtracted"),
        "plus": (lambda z, e: z + e, lambda e: f"epsilon={plain(e)}, added without the sign of z (unsigned, plus)"),
        "clip": (lambda z, e: sign(z) * np.maximum(np.abs(z), e), lambda e: f"clipped: |z| at least epsilon={plain(e)}"),
        "absolute": (lambda z, e: np.abs(z) + e, lambda e: f"divided by |z| + epsilon={plain(e)}"),
    }
    for key, (stable, name) in forms.items():
        run = lambda p, theta, stable=stable: lines(p, divided=lambda R, z, w: w * R / _safe(stable(z, theta[0])))  # noqa: E731
        if key == "sign":
            below = [[-each * unit] for each in (3e-3, 1e-2, 3e-2, 0.1, 0.3)] + [[-each] for each in USUAL]
            yield from search(run, [*starts, *below], lambda t, name=name: name(t[0]), "epsilon")
        elif key != "absolute" or (z < 0).any():
            at_sizes = [[float(each)] for each in np.quantile(np.abs(z), np.linspace(0.02, 0.98, 13))] if key == "clip" else starts
            yield from search(run, at_sizes, lambda t, name=name: name(t[0]), "epsilon")


#: What an epsilon may be in units of, over all of a layer's z.
SCALES: dict[str, Callable[[Array], float]] = {
    "std(z)": lambda z: float(z.std()),
    "rms(z)": lambda z: float(np.sqrt(np.mean(z * z))),
    "mean |z|": lambda z: float(np.abs(z).mean()),
    "max |z|": lambda z: float(np.abs(z).max()),
}


def likely_scales(at: Place, epsilon: float) -> Iterator[Hypothesis]:
    """Return units of the layer's own z in which an epsilon that was fitted is a short number."""
    linear, a, held = as_linear(at.plan, at.trace, at.i)
    first = at.parts[0]
    z = layers.forward(linear, layers.changed_inputs(a, at.rule, first), [t.weight for t in first.terms], first.bias, held=held)
    for name, scale in SCALES.items():
        e = epsilon / (scale(z) or 1.0)
        short = float(f"{e:.1e}")
        if abs(short - e) <= 3e-4 * abs(e):
            yield Hypothesis(
                f"epsilon={plain(short)} {name}", partial(_scaled, e=short, scale=scale, each=False), {"epsilon": short}, whole=True
            )


def _scaled(p: Place, e: float, scale: Callable[[Array], float], each: bool) -> Array:
    """Run a rule with an epsilon in units of z, of all images or of each."""

    def divided(R: Array, z: Array, w: float) -> Array:
        shape = (-1, *[1] * (z.ndim - 1))
        size = np.reshape([scale(one) for one in z], shape) if each else np.full((1,) * z.ndim, scale(z))
        return w * R / _safe(z + e * size * np.where(z < 0, -1.0, 1.0))

    return lines(p, divided=divided)


def scaled_epsilons(at: Place, target: Array, as_good: Callable[[Array, Array], bool]) -> Iterator[Hypothesis]:
    """Return epsilons in units of the layer's own z, fitted on the whole layer: over all images, or for each."""
    if at.matrix is None or not at.parts or at.rule.undivided:
        return
    n = len(at.a)
    for name, scale in SCALES.items():
        for each in (False, True) if n > 1 else (False,):
            run = partial(_scaled, scale=scale, each=each)
            theta = fit(partial(_first_of, run, at), target, [[1e-3], [0.1], [0.5]])
            if theta is not None:
                best = run(at, float(theta[0]))
                e = nice(float(theta[0]), partial(_still, run, at, as_good, best))
                of = " of each image" if each else ""
                yield Hypothesis(f"epsilon={plain(e)} {name}{of}", partial(run, e=e), {"epsilon": e}, whole=True)


def _at(run: Callable[..., Array | None], theta: Array, p: Place) -> Array | None:
    return run(p, theta)


def _first_of(run: Callable[..., Array], at: Place, theta: Array) -> Array:
    return run(at, theta[0])


def _still(run: Callable[..., Array], at: Place, as_good: Callable[[Array, Array], bool], best: Array, value: float) -> bool:
    return as_good(run(at, value), best)


def _gammas(at: Place, search: Search, split: bool, bias: str) -> Iterator[Hypothesis]:
    """Return gamma rules of any gamma."""

    def parts(p: Place, g: float) -> list[Part]:
        up, down = Clamp(1 + g, 1.0), Clamp(1.0, 1 + g)
        b = {"changed": (up, down), "raw": (AS_IS, AS_IS), "none": (NOTHING, NOTHING)}[bias]
        if not split:
            return [Part((Term("a", up),), b[0])]
        return [
            Part((Term("a+", up), Term("a-", down)), b[0], units="z>0"),
            Part((Term("a+", down), Term("a-", up)), b[1], units="z<0"),
        ]

    if not split and at.rule.name != "gamma" and not (at.a < 0).any():
        return
    told = "" if at.rule.name == "gamma" and bias == at.rule.bias and split == bool(at.rule.split) else f", bias {bias}, split {split}"
    starts = [[0.0], [0.1], [0.5], [2.0], [10.0], [-0.2]]
    for found in search(lambda p, t: lines(p, parts(p, t[0])), starts, lambda t: f"gamma={plain(t[0])}{told}", "gamma"):
        if found.fitted["gamma"]:  # or it is another rule
            yield found
    if at.rule.name == "gamma" and split == bool(at.rule.split) and bias == at.rule.bias:
        name = lambda t: f"gamma of w- for w+: {plain(t[0])}"  # noqa: E731
        yield from search(lambda p, t: lines(p, [_turned(x, True) for x in parts(p, t[0])]), starts, name, "gamma")
        for where in ("numerator", "denominator"):

            def run(p: Place, t: Array, where: str = where) -> Array:
                swap = {"backward" if where == "denominator" else "forward": lambda c: AS_IS}
                b = [dataclasses.replace(x, bias=AS_IS) if where == "numerator" else x for x in parts(p, t[0])]
                return lines(p, b, **swap)  # type: ignore[arg-type]

            yield from search(run, [[0.25], [1.0]], lambda t, where=where: f"gamma={plain(t[0])} in the {where} alone", "gamma")


def _halves(
    at: Place, target: Array, within: tuple[Any, ...], split: bool, bias: str, as_good: Callable[[Array, Array], bool]
) -> Iterator[Hypothesis]:
    """Return alpha-beta rules of any alpha and beta: these are linear in both."""
    if split and not (at.a < 0).any() and at.rule.split is False:
        return

    def parts(alpha: float, beta: float) -> list[Part]:
        gains = (Term("a+", POSITIVE), Term("a-", NEGATIVE)) if split else (Term("a", POSITIVE),)
        losses = (Term("a+", NEGATIVE), Term("a-", POSITIVE)) if split else (Term("a", NEGATIVE),)
        b = {"changed": (POSITIVE, NEGATIVE), "raw": (AS_IS, AS_IS), "none": (NOTHING, NOTHING)}[bias]
        return [Part(gains, b[0], alpha), Part(losses, b[1], -beta)]

    first, second = (lines(at, [part]) for part in parts(1.0, -1.0))
    both = first[within], second[within]
    if not all(np.isfinite(half).all() for half in both):
        return
    weight = 1 / (np.abs(target) + 1e-2 * float(np.abs(target).mean()) + 1e-300)
    m = np.stack([(half * weight).reshape(-1) for half in both], 1)
    (alpha, beta), *_ = np.linalg.lstsq(m, (target * weight).reshape(-1), rcond=None)
    beta = -beta

    best = alpha * first - beta * second

    def works(a: float, b: float) -> bool:
        return as_good(a * first - b * second, best)

    if not works(alpha, beta):
        return
    alpha = nice(alpha, lambda short: works(short, beta))
    beta = 0.0 if works(alpha, 0.0) else nice(beta, lambda short: works(alpha, short))
    own = at.rule
    told = [f"bias {bias}"] if bias != own.bias else []
    told += [f"split {split}"] if split != bool(own.split) else []
    if own.alpha is not None and own.beta is not None and (alpha, beta) == (own.beta, own.alpha):
        told.append("exchanged")
    more = f" ({', '.join(told)})" if told else ""
    name = f"alpha={plain(alpha)}, beta={plain(beta)}{more}"
    yield Hypothesis(name, lambda p: lines(p, [x for x in parts(alpha, beta) if x.weight]), {"alpha": alpha, "beta": beta})


def _powers(p: Place, theta: Array) -> Array:
    return lines(p, [Part((Term("1"),), NOTHING)], weight=lambda w: np.abs(w) ** theta[0])


def _signed_powers(p: Place, theta: Array) -> Array:
    return lines(p, weight=lambda w: np.sign(w) * np.abs(w) ** theta[0])
