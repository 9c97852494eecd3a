"""Error bounds of one layer in floating point, derived from its own numbers by convolutions with |w|.

With unit roundoff u, n terms in a sum, and a gain g(n) = n (certified: no order of summation does worse; Higham 2002, sec. 4.2) or
min(n, 8 sqrt n) (expected: rounding errors don't all point the same way), for one part of a rule whose denominator is d = stabilise(z):

    A_k   = sum_j |a_j w_jk| + |b_k|              rho_k = g u A_k / |d_k|            relative error of the denominator
    ds_k  = |s_k| rho_k / (1 - rho_k)                                                error of s = R / d
    E_j   = |a_j| (sum_k |w_jk| ds_k  +  g' u sum_k |w_jk s_k|)                      error of R_j = a_j sum_k w_jk s_k

To n are added the roundings of the inputs to the backend's precision, of changed weights, and of lines 2 and 4 (`EXTRA`). Where
rho_k >= 1/2, ds_k is set to |s_k|. Where the error may be half of d_k without being more than `SPREAD` times what it is in the mean (as
`chain_noise` has it), d_k may come near 0, so that s_k has no bound: what hangs on such units is returned apart as `undecided`.
The bounds hold for sums in any order. What Winograd and FFT convolutions lose takes the place of g A (`nplrp.golden.fast_convolutions`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nplrp import layers
from nplrp.golden import fast_convolutions
from nplrp.golden.values import UNIT
from nplrp.layers import Step
from nplrp.plan import Plan
from nplrp.rules import AS_IS, NOTHING, Change
from nplrp.rules.composites import PASSED
from nplrp.trace import Trace

#: Roundings beside those of the sum itself.
EXTRA = 6
#: The smallest float32, an absolute error that underflow adds to each operation.
TINY = 2.0**-149
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
    n = max(_terms_forward(step), _terms_back(step))
    return np.asarray(expected / gains(n)[0] + UNIT * (n / 3) ** 0.5 * np.abs(values))


def forward_bounds(step: Step, a: np.ndarray, y: np.ndarray, a_error: np.ndarray, convolutions: str = "direct") -> Forward:
    """Bound the error of a step's output y that its own arithmetic makes, and find its ambiguous decisions.

    Parameters
    ----------
    step : Step
    a : ndarray [n, *input_shape]
        Its input.
    y : ndarray [n, *output_shape]
        What follows its activation.
    a_error : ndarray [n, *input_shape]
        Error of the input as far as a pool or ReLU decides by it: `Forward.carried` of the step below.
    convolutions : "direct", "winograd" or "fft"
    """
    ambiguous, undecided = np.zeros(y.shape, bool), np.zeros(y.shape)
    if step.kind in PASSED or step.kind == "maxpool":
        expected = certified = (1 + EXTRA) * UNIT * np.abs(y) + TINY
        if step.kind == "maxpool":
            taps, errors = _stacked(step, a), _stacked(step, a_error)
            near = near_ties(step, a, a_error)
            lowest = np.where(near, taps, np.inf).min(axis=-1)
            undecided = np.where(near.any(axis=-1), taps.max(axis=-1) - lowest, 0.0).reshape(y.shape)
            equal = (taps == taps.max(axis=-1, keepdims=True)) & (errors > 0)  # keeps equal only if all places are summed alike
            ambiguous = (near.any(axis=-1) | (equal.sum(axis=-1) > 1)).reshape(y.shape)
            carried = np.maximum(errors.max(axis=-1), 0.0).reshape(y.shape)
        else:
            z, carried = layers.move(step, a), layers.move(step, a_error)
            if step.activation == "relu":
                ambiguous = (np.abs(z) <= carried) & (carried > 0)
                carried = np.where(z + carried < 0, 0.0, carried)
    else:
        _, expected, certified = _errors_of_sums(step, [a], [AS_IS], AS_IS, convolutions)
        expected, certified = expected + TINY, certified + TINY
        if step.activation == "relu":
            z = layers.forward(step, [a], [AS_IS], AS_IS)
            ambiguous = np.abs(z) <= expected
            expected, certified = (np.where(z + each < 0, 0, each) for each in (expected, certified))
        carried = expected
    if step.activation == "softmax":
        n = y.shape[-1]
        worst = [np.max(each, axis=-1, keepdims=True) for each in (expected, certified)]
        expected, certified = (y * np.expm1(np.minimum(2 * w + g * UNIT, 50)) + TINY for w, g in zip(worst, gains(n), strict=True))
    return Forward(Bounds(expected, certified, undecided), ambiguous, carried)


def relevance_bounds(
    plan: Plan, i: int, trace: Trace, R: np.ndarray, a_error: np.ndarray | None = None, convolutions: str = "direct"
) -> Bounds:
    """Bound the error of the relevance that step i's rule gives to its input.

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

    Returns
    -------
    Bounds of arrays [n, *input_shape]
    """
    step, rule, parts = plan.steps[i], plan.rules[i], plan.parts[i]
    a, y, winner = layers.gather(step, trace.activations), trace.activations[i + 1], trace.held.get(i)
    if not parts:
        same = (1 + EXTRA) * UNIT * np.abs(layers.move_back(step, R))
        return Bounds(same, same, np.zeros_like(same))
    step = layers.linear_step(step, rule)
    if rule.name == "winner_ties":
        winner = layers.share_ties(step, a, None)
    total = [np.zeros(a.shape) for _ in range(3)]
    terms = len(parts[0].terms)
    back_gains = gains(_terms_back(step) + len(parts) + 1)
    fast = fast_convolutions.is_fast(step, convolutions)
    fast_gains = gains(fast_convolutions.terms(step, convolutions, step.output_shape[-1]) + len(parts) + 1) if fast else (0.0, 0.0)
    unsure = _unsure_halves(step, a, parts[0].units, convolutions)
    for part in parts:
        inputs, changes = layers.changed_inputs(a, rule, part), [term.weight for term in part.terms]
        R_part = layers.relevance_of_units(R, step, a, part.units, y).reshape(R.shape[0], *step.output_shape)
        z = layers.forward(step, inputs, changes, part.bias)
        d, s = np.abs(layers.denominator(z, rule)), np.abs(layers.divide(R_part, z, rule, part.weight))
        A, *errors = _errors_of_sums(step, inputs, changes, part.bias, convolutions)
        if step.kind == "maxpool":
            A, errors = np.abs(z), [g * UNIT * np.abs(z) for g in gains(_terms_forward(step) * terms)]
        carried = [_error_of_s(s, each, d) for each in errors]
        lost = (d == 0) & (A > 0) & (R_part != 0)  # dropped as 0 / 0 here, but rounding may leave a denominator there
        blind = np.where(_rho(_likely_error(step, A, z, errors[0], fast), d) >= 0.5, s, 0.0) + np.where(
            lost, np.abs(R_part) / (UNIT * A + TINY), 0.0
        )
        if unsure is not None:
            blind = np.where(unsure, np.abs(R) / np.where(d > 0, d, UNIT * A + TINY), blind)
        stacked = np.concatenate([*carried, s, blind])
        for a_term, change in zip(inputs, changes, strict=True):
            moved = _transposed(step, stacked, change, winner)
            c_expected, c_certified, c_all, c_blind = moved.reshape(4, *a.shape)
            size = np.abs(a_term)
            floor = size * TINY * (_terms_back(step) + 1) * (1 + _largest(step, change)) + TINY
            summed = [g * UNIT * c_all for g in back_gains]
            if fast:
                M = _fast_back(step, s, change, convolutions)
                summed = [np.maximum(each, g * UNIT * M) for each, g in zip(summed, fast_gains, strict=True)]
            total[0] += size * (c_expected + summed[0]) + floor
            total[1] += size * (c_certified + summed[1]) + floor
            total[2] += size * c_blind
    if step.kind == "maxpool":
        total[2] += _relevance_of_near_ties(step, a, R, a_error)
    return Bounds(*total)


def start_bounds(start: str, R: np.ndarray, probabilities: np.ndarray, logits: Bounds) -> Bounds:
    """Bound the error of the relevance that a pass begins with, from that of the logits."""
    nothing, small = np.zeros(R.shape), (1 + EXTRA) * UNIT * np.abs(R)
    if start not in ("logit", "relu_logit", "all", "softmax", "contrastive"):
        return Bounds(small, small, nothing)
    found = []
    for error, g in ((logits.expected, gains(R.shape[-1])[0]), (logits.certified, gains(R.shape[-1])[1])):
        largest = np.max(error, axis=-1, keepdims=True)
        if start == "softmax":
            found.append(np.abs(R) * np.expm1(np.minimum(2 * largest + g * UNIT, 50)) + TINY)
        else:
            found.append(np.where(R != 0, largest, 0) + small)
    return Bounds(found[0], found[1], nothing)


def near_ties(step: Step, a: np.ndarray, a_error: np.ndarray | None = None) -> np.ndarray:
    """Return which places of each max-pool window come second by less than the error, [n, ho, wo, c, places] of bool.

    Without an error the input is taken to be rounded to float32. Exact ties aren't meant: given an input, rounding keeps them, and which
    of them wins is the rule's to say.
    """
    taps = _stacked(step, a)
    errors = UNIT * np.abs(taps) if a_error is None else _stacked(step, a_error)
    errors[~np.isfinite(taps)] = 0.0
    at_winner = np.take_along_axis(errors, np.argmax(taps, axis=-1)[..., None], axis=-1)
    largest = taps.max(axis=-1, keepdims=True)
    return np.asarray((taps < largest) & (taps + errors >= largest - at_winner))


def _stacked(step: Step, a: np.ndarray) -> np.ndarray:
    return np.stack([tap for _, _, tap in layers.window_taps(step, a)], axis=-1)


def _relevance_of_near_ties(step: Step, a: np.ndarray, R: np.ndarray, a_error: np.ndarray | None) -> np.ndarray:
    """Return for each input the relevance of windows that it might win or lose."""
    near = near_ties(step, a, a_error)
    if not near.any():
        return np.zeros(a.shape)
    taps = _stacked(step, a)
    shares = (near | ((taps == taps.max(axis=-1, keepdims=True)) & near.any(axis=-1, keepdims=True))).astype(float)
    return layers.transpose(step, np.abs(R), [AS_IS], shares)[0]


def _rho(error: np.ndarray, d: np.ndarray) -> np.ndarray:
    return np.divide(error, d, out=np.zeros_like(d), where=d > 0)


def _error_of_s(s: np.ndarray, error: np.ndarray, d: np.ndarray) -> np.ndarray:
    rho = np.minimum(_rho(error, d), 0.5)
    return np.asarray(s * rho / (1 - rho))


def _likely_error(step: Step, A: np.ndarray, z: np.ndarray, expected: np.ndarray, fast: bool) -> np.ndarray:
    """Return the error that a sum hardly ever exceeds, in any order: below the expected bound, which holds for all of them at once."""
    if fast or step.kind == "maxpool":
        return expected
    chain = UNIT * (A + (_terms_forward(step) / 3) ** 0.5 * np.abs(z))  # sqrt(3) times the root mean square
    return np.minimum(expected, SPREAD / 3**0.5 * chain + EXTRA * UNIT * np.abs(z))


def _unsure_halves(step: Step, a: np.ndarray, units: str, convolutions: str) -> np.ndarray | None:
    """Return where a rule that treats z > 0 and z < 0 apart may take the other half; None if the rule doesn't."""
    if not units:
        return None
    z = layers.forward(step, [a], [AS_IS], AS_IS)
    A, expected, _ = _errors_of_sums(step, [a], [AS_IS], AS_IS, convolutions)
    return np.asarray(np.abs(z) <= _likely_error(step, A, z, expected, fast_convolutions.is_fast(step, convolutions)))


def _errors_of_sums(
    step: Step, inputs: Sequence[np.ndarray], changes: Sequence[Change], bias: Change, convolutions: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sum of what is added up, and the expected and certified error of z, [n, *output_shape]."""
    if step.kind == "maxpool":
        nothing = np.zeros((len(inputs[0]), *step.output_shape))
        return nothing, nothing, nothing
    A = _magnitudes(step, inputs, changes, bias)
    errors = [g * UNIT * A for g in gains(_terms_forward(step) * len(inputs))]
    if fast_convolutions.is_fast(step, convolutions):
        assert step.window is not None
        pads, M = step.window.pads(*step.input_shape[:2]), np.zeros(A.shape)
        for a, change in zip(inputs, changes, strict=True):
            weight = _absolute(step, change, NOTHING).weight
            assert weight is not None
            M += fast_convolutions.magnitudes(np.abs(a), weight, pads, convolutions)
        M += np.abs(layers.changed_bias(step, bias))
        more = gains(fast_convolutions.terms(step, convolutions, step.input_shape[-1] * len(inputs)))
        errors = [np.maximum(each, g * UNIT * M) for each, g in zip(errors, more, strict=True)]
        A = np.maximum(A, M)
    return A, errors[0], errors[1]


def _fast_back(step: Step, s: np.ndarray, change: Change, convolutions: str) -> np.ndarray:
    """Return M of the transposed convolution: one with the flipped kernel."""
    weight = _absolute(step, change, NOTHING).weight
    assert weight is not None and step.window is not None
    top, bottom, left, right = step.window.pads(*step.input_shape[:2])
    up, side = weight.shape[0] - 1, weight.shape[1] - 1
    flipped = np.ascontiguousarray(weight[::-1, ::-1].transpose(0, 1, 3, 2))
    return fast_convolutions.magnitudes(np.abs(s), flipped, (up - top, up - bottom, side - left, side - right), convolutions)


def _magnitudes(step: Step, inputs: Sequence[np.ndarray], changes: Sequence[Change], bias: Change) -> np.ndarray:
    """Return A = sum |a w| + |b|, [n, *output_shape]."""
    total = None
    for t, (a, change) in enumerate(zip(inputs, changes, strict=True)):
        term = layers.forward(_absolute(step, change, bias if t == 0 else NOTHING), [np.abs(a)], [AS_IS], AS_IS)
        total = term if total is None else total + term
    assert total is not None
    return total


def _transposed(step: Step, s: np.ndarray, change: Change, winner: np.ndarray | None) -> np.ndarray:
    if winner is not None:
        winner = np.concatenate([winner] * (len(s) // len(winner)))
    return layers.transpose(_absolute(step, change, NOTHING), s, [AS_IS], winner)[0]


def _absolute(step: Step, change: Change, bias: Change) -> Step:
    """Return a step with the absolute values of its changed weights and bias."""
    if step.weight is None:
        return step
    weight, b = np.abs(layers.change_weight(step.weight, change)), np.abs(layers.changed_bias(step, bias))
    return dataclasses.replace(step, weight=weight, bias=b, activation="linear", prepared={})


def _largest(step: Step, change: Change) -> float:
    return 1.0 if step.weight is None else float(np.max(np.abs(layers.change_weight(step.weight, change)), initial=0.0))


def _terms_forward(step: Step) -> int:
    """Return the number of terms in a sum over a step's inputs, the bias counted."""
    if step.kind == "conv":
        assert step.weight is not None
        return int(np.prod(step.weight.shape[:3])) + 1
    if step.kind == "dense":
        return step.input_shape[0] + 1
    if step.kind == "avgpool" and step.window is not None:
        return int(np.prod(step.window.size))
    return 2


def _terms_back(step: Step) -> int:
    """Return the number of terms in a sum over a step's outputs."""
    if step.kind == "conv":
        assert step.weight is not None
        return int(np.prod(step.weight.shape[:2])) * step.weight.shape[3]
    if step.kind == "dense":
        return step.output_shape[0]
    if step.kind in ("avgpool", "maxpool") and step.window is not None:
        return int(np.prod([-(-size // stride) for size, stride in zip(step.window.size, step.window.stride, strict=True)]))
    return 1
