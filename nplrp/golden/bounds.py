"""Error bounds of one layer in floating point, derived from its own numbers by convolutions with |w|.

With unit roundoff u, n terms in a sum, and a gain g(n) = n (certified: no order of summation does worse; Higham 2002, sec. 4.2) or
min(n, 8 sqrt n) (expected: rounding errors don't all point the same way), for one part of a rule whose denominator is d = stabilise(z):

    A_k   = sum_j |a_j w_jk| + |b_k|              rho_k = g u A_k / |d_k|            relative error of the denominator
    ds_k  = |s_k| rho_k / (1 - rho_k)                                                error of s = R / d
    E_j   = |a_j| (sum_k |w_jk| ds_k  +  g' u sum_k |w_jk s_k|)                      error of R_j = a_j sum_k w_jk s_k

To n are added the roundings of the inputs to the backend's precision, of changed weights, and of lines 2 and 4 (`EXTRA`). Where
rho_k >= 1/2, ds_k is set to |s_k|. Where the error may be half of d_k without being more than `SPREAD` times what it is in the mean (as
`chain_noise` has it), d_k may come near 0, so that s_k has no bound: what hangs on such units is returned apart as `undecided`.
Decisions that are rounded numbers themselves (a norm's deviation, an activation's slope) are weights with an error. What an operation adds
up, and how well it knows what it holds, its row says (`nplrp.layers.base.Operation`).
The bounds hold for sums in any order. What Winograd and FFT convolutions lose takes the place of g A (`nplrp.golden.fast_convolutions`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nplrp import layers
from nplrp.golden import fast_convolutions
from nplrp.golden.blocks import in_blocks
from nplrp.golden.scales import COMMON, Roundings, chain_deviation, scales_of
from nplrp.golden.values import UNIT, Scales
from nplrp.gradients import behind_activation
from nplrp.layers import Step, operation
from nplrp.layers.base import absolute
from nplrp.lrp import Lines, as_linear, four_lines
from nplrp.plan import Plan
from nplrp.rules import AS_IS, NOTHING, Change, Clamp, Part
from nplrp.trace import Trace

#: Roundings beside those of the sum itself.
EXTRA = 6
#: The smallest float32, an absolute error that underflow adds to each operation.
TINY = 2.0**-149
#: Weights that are squared at a time.
SQUARED = 1 << 20
#: No sum is taken to err by more than this many times the root mean square of a single chain's error.
SPREAD = 6.0


class Bounds(NamedTuple):
    """Error bounds of an array, and what in it hangs on undecided choices; all of the array's shape, float64."""

    expected: np.ndarray
    certified: np.ndarray
    undecided: np.ndarray


class Forward(NamedTuple):
    """What rounding does to a step's output.

    Attributes
    ----------
    bounds : Bounds
    ambiguous : ndarray of bool
        Decisions inside the error: units whose sign before a ReLU, windows whose winner rounding may decide otherwise.
    carried : ndarray
        Expected error of each unit as far as it may decide something further up: through pools and moves it is that of their input.
    """

    bounds: Bounds
    ambiguous: np.ndarray
    carried: np.ndarray


def gains(n: int) -> tuple[float, float]:
    """Return the expected and the certified gain of a sum of n terms, extra roundings included."""
    return min(n, 8 * n**0.5) + EXTRA, float(n + EXTRA)


def chain_noise(step: Step, expected: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the size of uniform noise that has the root mean square of a single chain's rounding error.

    The partial sums of n terms in random order run straight to the sum z, and walk at random about that line: the error's mean square is
    (u A / 2)^2 for the walk and (u z)^2 n / 9 for the line.

    Parameters
    ----------
    step : Step
    expected, values : ndarray
        Expected bound, which is a known gain times u A, and z.
    """
    n = max(operation(step).terms(step))
    return in_blocks(lambda bound, z: bound / gains(n)[0] + UNIT * (n / 3) ** 0.5 * np.abs(z), expected, values)


def forward_bounds(
    step: Step, a: np.ndarray, y: np.ndarray, a_error: np.ndarray, convolutions: str = "direct", done: tuple[np.ndarray, Any] | None = None
) -> Forward:
    """Bound the error of a step's output y that its own arithmetic makes, and find its ambiguous decisions.

    Parameters
    ----------
    step : Step
    a : ndarray [n, *input_shape]
        What it works on.
    y : ndarray [n, *output_shape]
        What follows its activation.
    a_error : ndarray [n, *input_shape]
        Error of the input as far as something decides by it: `Forward.carried` of the steps that it reads.
    convolutions : "direct", "winograd" or "fft"
    done : (ndarray [n, *output_shape], object), or None
        What `layers.apply` gave for this step, if that is known.
    """
    op, undecided = operation(step), np.zeros(y.shape)
    if op.choice:
        return _forward_choice(step, a, y, a_error)
    ambiguous, bend = np.zeros(y.shape, bool), layers.activation(step.activation)
    if layers.only_moves(step):
        z, carried = layers.move(step, a), layers.move(step, a_error)
        size = y if bend.name in ("linear", "relu", "softmax") else z
        expected = certified = (1 + EXTRA) * UNIT * np.abs(size) + TINY
        if bend.opens:
            ambiguous = (np.abs(z) <= carried) & (carried > 0)
            carried = np.where(z + carried < 0, 0.0, carried)
    elif op.function:
        z, carried = a, layers.bend_error(op.function(step), a, a_error, UNIT)
        expected = certified = layers.bend_error(op.function(step), a, UNIT * np.abs(a), UNIT) + TINY
    else:
        if done is None:
            done = layers.apply(step, a) if layers.decides(step) or step.activation != "linear" else (y, None)
        z, held = done
        _, expected, certified = _errors_of_sums(step, [a], [AS_IS], AS_IS, convolutions, held, _unsure(step, a, held, "held"))
        expected, certified, joined = expected + TINY, certified + TINY, len(step.input_shapes) > 1
        carried = expected + _magnitudes(step, [a_error], [AS_IS], NOTHING, held) if joined else expected
        if bend.opens:
            ambiguous = np.abs(z) <= carried
            expected, certified, carried = (np.where(z + each < 0, 0, each) for each in (expected, certified, carried))
    if step.activation == "softmax":
        n = y.shape[-1]
        worst = [np.max(each, axis=-1, keepdims=True) for each in (expected, certified)]
        expected, certified = (y * np.expm1(np.minimum(2 * w + g * UNIT, 50)) + TINY for w, g in zip(worst, gains(n), strict=True))
    elif step.activation in ("log_softmax", "sparsemax"):
        expected, certified = (
            2 * np.max(each, axis=-1, keepdims=True) + g * UNIT * (np.abs(y) + 1)
            for each, g in zip((expected, certified), gains(y.shape[-1]), strict=True)
        )
    elif bend.bends:
        expected, certified, carried = (layers.bend_error(step.activation, z, each, UNIT) for each in (expected, certified, carried))
    return Forward(Bounds(expected, certified, undecided), ambiguous, carried)


def carried_error(step: Step, a: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return how far a step's output may be off where its input a is by so much, [n, *input_shape] -> [n, *output_shape]."""
    op, bend = operation(step), layers.activation(step.activation)
    if op.choice:
        places = np.abs(op.choice.places(step, error))
        return np.asarray(np.where(np.isfinite(places), places, 0.0).max(axis=-1))
    if op.function:
        return layers.bend_error(op.function(step), a, error, UNIT)
    if layers.only_moves(step):
        z, moved = layers.move(step, a), layers.move(step, error)
    else:
        z, held = layers.apply(step, a) if layers.decides(step) or bend.bends else (a, None)
        moved = _magnitudes(step, [error], [AS_IS], NOTHING, held)
    if step.activation in ("softmax", "log_softmax", "sparsemax"):
        return np.broadcast_to(2 * moved.max(axis=-1, keepdims=True), moved.shape)
    return layers.bend_error(step.activation, z, moved, UNIT) if bend.bends and not bend.opens else moved


def _forward_choice(step: Step, a: np.ndarray, y: np.ndarray, a_error: np.ndarray) -> Forward:
    """Bound the error of numbers that are chosen among others: which of two that are nearly equal, nobody can tell."""
    choice = operation(step).choice
    assert choice
    expected = (1 + EXTRA) * UNIT * np.abs(y) + TINY
    places, errors = choice.places(step, a), np.abs(choice.places(step, a_error))
    errors[~np.isfinite(places)] = -np.inf
    near = near_ties(step, a, a_error)
    lowest = np.where(near, places, np.inf).min(axis=-1)
    undecided = np.where(near.any(axis=-1), places.max(axis=-1) - lowest, 0.0)
    equal = (places == places.max(axis=-1, keepdims=True)) & (errors > 0)  # keeps equal only if all places are summed alike
    ambiguous = near.any(axis=-1) | (equal.sum(axis=-1) > 1)
    return Forward(Bounds(expected, expected, undecided), ambiguous, np.maximum(errors.max(axis=-1), 0.0))


def relevance_bounds(
    plan: Plan,
    i: int,
    trace: Trace,
    R: np.ndarray,
    a_error: np.ndarray | None = None,
    convolutions: str = "direct",
    exact_sums: bool = False,
) -> Bounds:
    """Bound the error of the relevance that step i's rule gives to what it works on.

    Parameters
    ----------
    plan : Plan
        In float64.
    i : int
    trace : Trace
        The forward pass.
    R : ndarray [n, *output_shape]
        Relevance of the step's output.
    a_error : ndarray [n, *input_shape] or None
        Error of the step's input, for the winners of a pool; None: it is given, and rounded at most.
    convolutions : "direct", "winograd" or "fft"
    exact_sums : bool
        The numbers are such that every partial sum of every denominator is exact, in any order: rounding begins behind it, and what sign
        or zero it has is sure.

    Returns
    -------
    Bounds of arrays [n, *input_shape]
    """
    return relevance_errors(plan, i, trace, R, None, a_error, convolutions, exact_sums=exact_sums)[0]


def relevance_errors(
    plan: Plan,
    i: int,
    trace: Trace,
    R: np.ndarray,
    values: np.ndarray | None,
    a_error: np.ndarray | None = None,
    convolutions: str = "direct",
    unknown: np.ndarray | None = None,
    done: Sequence[tuple[Part, np.ndarray, Lines]] | None = None,
    exact_sums: bool = False,
) -> tuple[Bounds, Scales | None]:
    """Bound the error of step i's relevance as `relevance_bounds` does, and sums over it.

    Parameters
    ----------
    plan, i, trace, R, a_error, convolutions, exact_sums
        As for `relevance_bounds`.
    values : ndarray [n, *input_shape] or None
        The relevance itself; None if nobody asks for sums.
    unknown : ndarray [n, *input_shape] or None
        How far the step's input, of which nothing was told, may be from what it is taken to be.
    done : sequence, or None
        What `four_lines` gave for this step, if that is known.

    Returns
    -------
    (Bounds of arrays [n, *input_shape], Scales or None)
        None where sums aren't bounded: of Winograd and FFT convolutions, of decisions that are rounded numbers.
    """
    rule, parts = plan.rules[i], plan.parts[i]
    if not parts:
        behind = behind_activation(plan, trace, i, R)
        moves = layers.only_moves(plan.steps[i])
        copies = operation(plan.steps[i]).terms(plan.steps[i])[1] if moves else 1
        expected, certified = (g * UNIT * layers.move_back(plan.steps[i], np.abs(behind)) for g in gains(copies))
        return Bounds(expected, certified, np.zeros_like(expected)), None if values is None or not moves else _moved_scales(values, copies)
    step, a, held = as_linear(plan, trace, i)
    unsure = _unsure(step, a, held, rule.row.decision)
    total = [np.zeros(a.shape) for _ in range(3)]
    back = operation(step).terms(step)[1]
    back_gains = gains(back + len(parts) + 1)
    fast = fast_convolutions.is_fast(step, convolutions)
    fast_gains = gains(fast_convolutions.terms(step, convolutions, step.output_shape[-1]) + len(parts) + 1) if fast else (0.0, 0.0)
    halves = None if exact_sums else _unsure_halves(step, a, parts[0].units, convolutions, held)
    sums = None if values is None or fast or unsure is not None or unknown is not None else _Sums(step, values)
    for part, of_units, lines in four_lines(plan, trace, i, R) if done is None else done:
        inputs, changes = layers.changed_inputs(a, rule, part), [term.weight for term in part.terms]
        z, s, R_part = lines.z, np.abs(lines.s), of_units.reshape(lines.z.shape)
        d = np.abs(layers.denominator(z, rule))
        A, *errors = [np.zeros_like(d)] * 3
        if not rule.undivided:
            A, *errors = _errors_of_sums(step, inputs, changes, part.bias, convolutions, held, unsure, z)
            if exact_sums:
                A, errors = np.zeros_like(z), [EXTRA * UNIT * np.abs(z)] * 2
            if unknown is not None:
                more = _magnitudes(step, [unknown] * len(inputs), changes, NOTHING, held)
                errors = [each + more for each in errors]
        carried = [in_blocks(_error_of_s, s, each, d) for each in errors]
        if sums is not None:
            sums.add(rule.undivided, inputs, changes, part.bias, lines, held, A, d)
        lost = (d == 0) & (A > 0) & (R_part != 0)  # dropped as 0 / 0 here, but rounding may leave a denominator there
        likely = _likely_error(step, A, z, errors[0], fast)
        turns = (layers.denominator(z + likely, rule) > 0) != (layers.denominator(z - likely, rule) > 0)  # with an epsilon's sign, say
        blind = np.where(turns | (_rho(likely, d) >= 0.5), s, 0.0) + np.where(lost, np.abs(R_part) / (UNIT * A + TINY), 0.0)
        if halves is not None:
            blind = np.where(halves, np.abs(R.reshape(z.shape)) / np.where(d > 0, d, UNIT * A + TINY), blind)
        unseen = blind.any()
        stacked = np.concatenate([*carried, s, *([blind] if unseen else [])])
        for a_term, change in zip(inputs, changes, strict=True):
            count = 4 if unseen else 3
            c_expected, c_certified, c_all, *c_blind = _transposed(step, stacked, change, held).reshape(count, *a.shape)
            size = np.abs(a_term)
            if sums is not None:
                sums.add_term(size, c_all, change, held)
            floor = size * TINY * (back + 1) * (1 + _largest(step, change)) + TINY
            summed = [g * UNIT * c_all for g in back_gains]
            if fast:
                M = _fast_back(step, s, change, convolutions)
                summed = [np.maximum(each, g * UNIT * M) for each, g in zip(summed, fast_gains, strict=True)]
            if unsure is not None:
                by_held = _transposed(step, s, change, unsure)
                summed = [each + g * UNIT * by_held for each, g in zip(summed, gains(operation(step).terms(step)[0]), strict=True)]
            if unknown is not None:
                floor = floor + unknown * c_all
            total[0] += size * (c_expected + summed[0]) + floor
            total[1] += size * (c_certified + summed[1]) + floor
            if c_blind:
                total[2] += size * c_blind[0]
    if operation(step).choice:
        error = a_error if unknown is None else unknown + (UNIT * np.abs(a) if a_error is None else a_error)
        total[2] += _relevance_of_near_ties(step, a, R, error, unknown is not None)
    return Bounds(*total), None if sums is None else sums.scales()


class _Sums:
    """What a rule's roundings add to sums over its relevance, part by part (`nplrp.golden.scales`)."""

    def __init__(self, step: Step, values: np.ndarray) -> None:
        self.step, self.values = step, values
        self.shared, self.key = list[list[np.ndarray]](), np.zeros(())
        self.own, self.passed = np.zeros(values.shape), np.zeros(values.shape)
        self.size, self.bent = np.zeros(values.shape), np.zeros(2)

    def add(
        self,
        undivided: bool,
        inputs: Sequence[np.ndarray],
        changes: Sequence[Change],
        bias: Change,
        lines: Any,
        held: Any,
        A: np.ndarray,
        d: np.ndarray,
    ) -> None:
        """Add the error of a part's denominators, and remember what `add_term` needs."""
        z, s = lines.z, lines.s
        n, back = operation(self.step).terms(self.step)
        if undivided:
            rho = np.full(z.shape, UNIT)
        else:
            error = np.sqrt(np.square(chain_deviation(n * len(inputs), A, z)) + np.square(UNIT * z))
            rho = np.minimum(_rho(error, d), 1.0)
        weighted = [np.ascontiguousarray(a * self.values) for a in inputs]
        b = _changed_bias(self.step, bias)
        G = (z if b is None else z - b, layers.forward(self.step, weighted, changes, NOTHING, held=held))
        self.shared.append([g * s * rho for g in G])
        self.bent += [4 * float(np.sum(np.abs(g * s) * np.square(rho))) for g in G]
        self.key = self.key + z * 1.7320508 + s
        self.c, self.squares, self.back = iter(lines.c), np.square(s * rho), back

    def add_term(self, size: np.ndarray, c_all: np.ndarray, change: Change, held: Any) -> None:
        """Add the errors of what a term of the part carries back."""
        self.own += np.square(size * chain_deviation(self.back, c_all, next(self.c)))
        self.passed += np.square(size) * _squares_back(self.step, self.squares, change, held)
        self.size += size * c_all

    def scales(self) -> Scales:
        """Return how large sums over the errors are."""
        shared = [np.sqrt(sum(np.square(part[w]) for part in self.shared)) * np.sign(self.shared[0][w]) for w in (0, 1)]
        window, size = self.step.window, np.abs(self.values)
        reach = math.prod(window.size) if window else math.prod(self.step.input_shape[:-1])
        rounded = UNIT * size
        common = COMMON * UNIT * np.array([self.size.sum(), (size * self.size).sum()]) + self.bent
        own, whole = np.sqrt(self.own + rounded**2), np.sqrt(self.own + self.passed + rounded**2)
        made = Roundings((shared[0], shared[1]), self.key, own, whole, reach, tuple(common))
        return scales_of(self.values, made)


def _squares_back(step: Step, squares: np.ndarray, change: Change, held: Any) -> np.ndarray:
    """Carry squares of the step's output back with the squares of its weights."""
    of, weight = _absolute(step, change, NOTHING)
    held = _of_all(held, lambda each: np.square(each) if each.dtype.kind == "f" else each)
    if of.weight is None:
        squared = Clamp(*(each * each for each in weight)) if isinstance(weight, Clamp) else weight
        return layers.transpose(of, squares, [squared], held)[0]
    left = AS_IS if weight == AS_IS else change  # the sign that `_absolute` takes away doesn't matter
    if not operation(of).widens:
        own = layers.wide(of)
        changed = layers.change_weight(own, left)
        whole = dataclasses.replace(of, weight=np.square(changed, out=None if changed is own else changed), prepared={})
        return layers.transpose(whole, squares, [AS_IS], held)[0]
    found, rows = [], max(SQUARED // of.weight.shape[1], 1)
    for begin in range(0, len(of.weight), rows):  # a matrix may be large, and each of its rows stands for itself
        part = layers.change_weight(of.weight[begin : begin + rows].astype(np.float64), left)
        shape = (*of.input_shape[:-1], len(part))
        block = dataclasses.replace(of, weight=np.square(part, out=part), input_shape=shape, prepared={})
        found.append(layers.transpose(block, squares, [AS_IS], held)[0])
    return np.concatenate(found, axis=-1)


def _moved_scales(values: np.ndarray, copies: int) -> Scales:
    """Return how large sums over errors are of numbers that are rounded, and at most added up by a few."""
    own = (COMMON + copies) * UNIT * np.abs(values)
    none = np.zeros(values.shape)
    return scales_of(values, Roundings((none, none), values, own, own, 1, (float(own.sum()), float((own * np.abs(values)).sum()))))


def activation_scales(step: Step, y: np.ndarray, expected: np.ndarray) -> Scales | None:
    """Return how large sums over the errors of a step's output are; None but for sums of products and ReLUs.

    Parameters
    ----------
    step : Step
    y, expected : ndarray [n, *output_shape]
        Its output, and the expected bound of that, a known gain times u A.
    """
    bend = layers.activation(step.activation)
    if step.weight is None or layers.decides(step) or bend.name not in ("linear", "relu"):
        return None
    n = operation(step).terms(step)[0]
    A = np.where(y == 0, 0.0, expected / (gains(n)[0] * UNIT))
    own = chain_deviation(n, A, y)
    none, common = np.zeros(y.shape), COMMON * UNIT * A
    return scales_of(y, Roundings((none, none), y, own, own, 1, (float(common.sum()), float((common * np.abs(y)).sum()))))


def start_bounds(start: str, R: np.ndarray, numbers: Bounds, soft: bool) -> Bounds:
    """Bound the error of the relevance that a pass begins with, from that of the numbers it is made of: by a softmax if `soft`."""
    nothing, small = np.zeros(R.shape), (1 + EXTRA) * UNIT * np.abs(R)
    if start not in ("logit", "relu_logit", "all", "softmax", "contrastive"):
        return Bounds(small, small, nothing)
    found = []
    for error, g in ((numbers.expected, gains(R.shape[-1])[0]), (numbers.certified, gains(R.shape[-1])[1])):
        largest = np.max(error, axis=-1, keepdims=True)
        if soft:
            found.append(np.abs(R) * np.expm1(np.minimum(2 * largest + g * UNIT, 50)) + TINY)
        else:
            found.append(np.where(R != 0, largest, 0) + small)
    return Bounds(found[0], found[1], nothing)


def near_ties(step: Step, a: np.ndarray, a_error: np.ndarray | None = None, exact: bool = False) -> np.ndarray:
    """Return which of the places that a step chooses from come second by less than the error, [n, *output_shape, places] of bool.

    Without an error the input is taken to be rounded to float32. Exact ties aren't meant, but if `exact`: given an input, rounding keeps
    them, and which of them wins is the rule's to say.
    """
    choice = operation(step).choice
    assert choice
    places = choice.places(step, a)
    errors = UNIT * np.abs(places) if a_error is None else np.abs(choice.places(step, a_error))
    errors[~np.isfinite(places)] = 0.0
    at_winner = np.take_along_axis(errors, np.argmax(places, axis=-1)[..., None], axis=-1)
    largest = places.max(axis=-1, keepdims=True)
    close = places + errors >= largest - at_winner
    if exact:
        several = (places == largest).sum(axis=-1, keepdims=True) > 1
        return np.asarray(close & ((places < largest) | (several & (errors > 0))))
    return np.asarray((places < largest) & close)


def _relevance_of_near_ties(step: Step, a: np.ndarray, R: np.ndarray, a_error: np.ndarray | None, exact: bool) -> np.ndarray:
    """Return for each input the relevance of outputs that it might win or lose."""
    choice, near = operation(step).choice, near_ties(step, a, a_error, exact)
    if not choice or not near.any():
        return np.zeros(a.shape)
    places = choice.places(step, a)
    shares = (near | ((places == places.max(axis=-1, keepdims=True)) & near.any(axis=-1, keepdims=True))).astype(float)
    return layers.transpose(step, np.abs(R), [AS_IS], choice.held(step, shares))[0]


def _rho(error: np.ndarray, d: np.ndarray) -> np.ndarray:
    return np.divide(error, d, out=np.zeros_like(d), where=d > 0)


def _error_of_s(s: np.ndarray, error: np.ndarray, d: np.ndarray) -> np.ndarray:
    rho = np.minimum(_rho(error, d), 0.5)
    return np.asarray(s * rho / (1 - rho))


def _likely_error(step: Step, A: np.ndarray, z: np.ndarray, expected: np.ndarray, fast: bool) -> np.ndarray:
    """Return the error that a sum hardly ever exceeds, in any order: below the expected bound, which holds for all of them at once."""
    if fast or layers.decides(step):
        return expected
    chain = UNIT * (A + (operation(step).terms(step)[0] / 3) ** 0.5 * np.abs(z))  # sqrt(3) times the root mean square
    return np.minimum(expected, SPREAD / 3**0.5 * chain + EXTRA * UNIT * np.abs(z))


def _unsure_halves(step: Step, a: np.ndarray, units: str, convolutions: str, held: Any) -> np.ndarray | None:
    """Return where a rule that treats z > 0 and z < 0 apart may take the other half; None if the rule doesn't."""
    if not units:
        return None
    z = layers.forward(step, [a], [AS_IS], AS_IS, held=held)
    A, expected, _ = _errors_of_sums(step, [a], [AS_IS], AS_IS, convolutions, held, None)
    return np.asarray(np.abs(z) <= _likely_error(step, A, z, expected, fast_convolutions.is_fast(step, convolutions)))


def _unsure(step: Step, a: np.ndarray, held: Any, decision: str) -> Any:
    """Return how far what makes a step linear may be off, in gains times unit roundoffs; None where that is nothing more."""
    unsure = operation(step).unsure
    return unsure(step, a, held, decision, UNIT) if unsure and held is not None else None


def _errors_of_sums(
    step: Step,
    inputs: Sequence[np.ndarray],
    changes: Sequence[Change],
    bias: Change,
    convolutions: str,
    held: Any,
    unsure: Any,
    z: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sum of what is added up, and the expected and certified error of z, [n, *output_shape], which may be known."""
    A = z if z is not None and _adds_sizes(step, inputs, changes, bias, held) else _magnitudes(step, inputs, changes, bias, held)
    sure = gains(operation(step).terms(step)[0] * len(inputs))
    errors = [g * UNIT * A for g in sure]
    if unsure is not None:
        by_held = _magnitudes(step, inputs, changes, NOTHING, unsure)
        errors = [each + g * UNIT * by_held for each, g in zip(errors, sure, strict=True)]
    if fast_convolutions.is_fast(step, convolutions):
        assert step.window is not None
        pads, M = step.window.pads(*step.input_shape[:2]), np.zeros(A.shape)
        for a, change in zip(inputs, changes, strict=True):
            weight = _absolute_weight(step, change)
            M += fast_convolutions.magnitudes(np.abs(a), weight, pads, convolutions)
        M += np.abs(layers.changed_bias(step, bias))
        more = gains(fast_convolutions.terms(step, convolutions, step.input_shape[-1] * len(inputs)))
        errors = [np.maximum(each, g * UNIT * M) for each, g in zip(errors, more, strict=True)]
        A = np.maximum(A, M)
    return A, errors[0], errors[1]


def _fast_back(step: Step, s: np.ndarray, change: Change, convolutions: str) -> np.ndarray:
    """Return M of the transposed convolution: one with the flipped kernel."""
    weight = _absolute_weight(step, change)
    assert step.window is not None
    top, bottom, left, right = step.window.pads(*step.input_shape[:2])
    up, side = weight.shape[0] - 1, weight.shape[1] - 1
    flipped = np.ascontiguousarray(weight[::-1, ::-1].transpose(0, 1, 3, 2))
    return fast_convolutions.magnitudes(np.abs(s), flipped, (up - top, up - bottom, side - left, side - right), convolutions)


def _magnitudes(step: Step, inputs: Sequence[np.ndarray], changes: Sequence[Change], bias: Change, held: Any) -> np.ndarray:
    """Return A = sum |a w| + |b|, [n, *output_shape]."""
    total = None
    for t, (a, change) in enumerate(zip(inputs, changes, strict=True)):
        of, weight = _absolute(step, change, bias if t == 0 else NOTHING)
        term = layers.forward(of, [np.abs(a)], [weight], AS_IS, held=_of_all(held, _size))
        total = term if total is None else total + term
    assert total is not None
    return total


def _adds_sizes(step: Step, inputs: Sequence[np.ndarray], changes: Sequence[Change], bias: Change, held: Any) -> bool:
    """Tell whether a step adds up nothing below 0, so that z is A to the bit, as under z+."""
    if held is not None or len(inputs) != 1 or step.weight is None or operation(step).absolute is not None:
        return False
    (change,), (a,), b = changes, inputs, _changed_bias(step, bias)
    positive = isinstance(change, Clamp) and change == change.absolute
    return positive and not (b is not None and np.min(b, initial=0.0) < 0) and not np.min(a, initial=0.0) < 0


def _transposed(step: Step, s: np.ndarray, change: Change, held: Any) -> np.ndarray:
    """Carry arrays of the step's output back, one behind the other, with the absolute values of its weights."""
    of, weight = _absolute(step, change, NOTHING)
    return layers.transpose(of, s, [weight], _of_all(held, _size))[0]


def _of_all(held: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Change what is held: an array, several in a named tuple, or nothing."""
    if held is None or isinstance(held, np.ndarray):
        return None if held is None else change(held)
    return type(held)(*map(change, held))


def _size(held: np.ndarray) -> np.ndarray:
    """Return decisions that are numbers by their absolute values; places of winners stay."""
    return np.abs(held) if held.dtype.kind == "f" else held


def _absolute(step: Step, change: Change, bias: Change) -> tuple[Step, Change]:
    """Return a step that adds up absolute values, and the change of weights that is left to it: its own stay, as they are large."""
    other = operation(step).absolute or absolute
    if step.weight is None:
        return other(step), Clamp(*map(abs, change)) if isinstance(change, Clamp) else change
    b = _changed_bias(step, bias)
    if isinstance(change, Clamp) and operation(step).absolute is None:
        of = dataclasses.replace(step, bias=None if b is None else np.abs(b), activation="linear")  # shares what is packed
        return of, change.absolute
    return other(dataclasses.replace(step, weight=layers.change_weight(layers.wide(step), change), bias=b, prepared={})), AS_IS


def _absolute_weight(step: Step, change: Change) -> np.ndarray:
    return np.abs(layers.change_weight(layers.wide(step), change))


def _changed_bias(step: Step, change: Change) -> np.ndarray | None:
    return None if step.bias is None else layers.changed_bias(step, change)


def _largest(step: Step, change: Change) -> float:
    """Return the largest absolute value of a step's changed weights."""
    if step.weight is None:
        return 1.0
    if isinstance(change, Clamp):
        ends = np.array([np.max(step.weight, initial=0.0), np.min(step.weight, initial=0.0)], np.float64)
        return float(layers.change_weight(ends, change.absolute).max())
    return float(np.max(_absolute_weight(step, change), initial=0.0))
