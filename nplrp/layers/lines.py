"""What the four lines do to arrays, whatever the layer: changed inputs, weights and biases, the stabilised division, the product.

Arrays are NHWC or (n, c), C-contiguous, all of the plan's dtype. Relevance, and what is made of it, may hold maps of k targets one behind
the other, [k n, ...], where everything else is of n images: that is computed once and serves every target.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nplrp.layers.base import Division, Step
from nplrp.rules.rule import AS_IS, NOTHING, Change, Clamp, Part, Rule
from nplrp.workspace import Workspace


def runs(maps: np.ndarray, images: np.ndarray) -> list[slice]:
    """Return which maps [k n, ...] belong to each target, where there are n images."""
    n = len(images)
    return [slice(k, k + n) for k in range(0, len(maps), n)] if n else [slice(0)]


def by_target(maps: np.ndarray, images: np.ndarray) -> np.ndarray:
    """View maps [k n, *shape] as [k, n, *shape], which NumPy broadcasts against images [n, *shape]."""
    return maps.reshape(len(maps) // max(1, len(images)), *images.shape)


def changed_inputs(a: np.ndarray, rule: Rule, part: Part) -> list[np.ndarray]:
    """Return what each term of a part works on: the activation a [n, *input_shape], a part of it, ones, or an end of the rule's box."""
    return [_changed_input(a, rule, term.input) for term in part.terms]


def _changed_input(a: np.ndarray, rule: Rule, change: str) -> np.ndarray:
    from nplrp.kernels import elementwise

    if change == "a":
        return a
    if change == "1":
        return np.ones_like(a)
    if change in ("low", "high"):
        return np.ascontiguousarray(np.broadcast_to(np.asarray(getattr(rule.box or rule, change), a.dtype), a.shape))
    part = np.empty_like(a)
    (elementwise.positive_part if change == "a+" else elementwise.negative_part)(a, part, threads())
    return part


def signed_parts(a: np.ndarray, parts: Sequence[Part], workspace: Workspace) -> dict[str, np.ndarray]:
    """Return what the terms of parts work on, by name: the activation a itself, and those of its parts that any of them asks for."""
    from nplrp.kernels import elementwise

    found = {"a": a}
    for name, function in (("a+", elementwise.positive_part), ("a-", elementwise.negative_part)):
        if any(term.input == name for part in parts for term in part.terms):
            found[name] = workspace.empty(a.shape, a.dtype)
            function(a, found[name], threads())
    return found


def change_weight(w: np.ndarray | None, change: Change) -> np.ndarray:
    """Return positive * max(w, 0) + negative * min(w, 0), or w^2, or ones."""
    assert w is not None
    if change == AS_IS:
        return w
    if isinstance(change, str):
        return w * w if change == "square" else np.ones_like(w)
    return w.dtype.type(change.positive) * np.maximum(w, 0) + w.dtype.type(change.negative) * np.minimum(w, 0)


def changed_bias(step: Step, change: Change) -> np.ndarray:
    """Return a linear step's bias after a change, made once for each; zeros for `NOTHING`."""
    assert step.bias is not None
    if change == AS_IS:
        return step.bias
    key = "bias", change
    if key not in step.prepared:
        step.prepared[key] = np.zeros_like(step.bias) if change == NOTHING else change_weight(step.bias, change)
    bias: np.ndarray = step.prepared[key]
    return bias


def clamps(parts: Sequence[Part]) -> list[Clamp]:
    """Return the change of weights of each part, which has one term."""
    return [Clamp(*part.terms[0].weight) for part in parts]


def scale_of_ones(change: Change) -> float:
    """Return what a change does to weights that are positive and all alike, as those of an average pool."""
    return change.positive if isinstance(change, Clamp) else 1.0


def divide(R: np.ndarray, z: np.ndarray, rule: Rule, weight: float = 1.0, out: np.ndarray | None = None) -> np.ndarray:
    """Return s = weight * R / stabilise(z), 0 where the rule's stabiliser drops a unit; in `out` if it is given."""
    from nplrp.kernels import elementwise

    R = R.reshape(len(R), *z.shape[1:])
    s = np.empty(R.shape, z.dtype) if out is None else out
    if rule.undivided:
        np.multiply(R, z.dtype.type(weight), out=s)
        return s
    for images, kind, epsilon in stabilisers(z, rule):
        for maps in runs(R, z):
            elementwise.stabilise_divide(R[maps][images], z[images], kind, epsilon, weight, s[maps][images], threads())
    return s


def divide_parts(R: np.ndarray, division: Division, workspace: Workspace) -> list[np.ndarray]:
    """Do line 2 for each part: s = weight * R / stabilise(z). R's memory may be used again afterwards."""
    outs = [workspace.empty((len(R), *z.shape[1:]), z.dtype) for z in division.z]
    for z, weight, out in zip(division.z, division.weights, outs, strict=True):
        divide(R, z, division.rule, weight, out)
    workspace.give(R)
    return outs


def denominator(z: np.ndarray, rule: Rule) -> np.ndarray:
    """Return the stabilised z; 0 where the unit is dropped."""
    from nplrp.kernels import elementwise

    if rule.undivided:
        return np.ones_like(z)
    d = np.empty_like(z)
    for images, kind, epsilon in stabilisers(z, rule):
        elementwise.stabilise(z[images], kind, epsilon, d[images], threads())
    return d


def stabilisers(z: np.ndarray, rule: Rule) -> list[tuple[slice, int, float]]:
    """Return (images, the kernels' number of a stabiliser, epsilon): one for all images, or one for each if it is relative to z."""
    from nplrp.kernels import elementwise

    if rule.stabiliser is None or rule.epsilon is None:
        rule = rule.resolved()
    name, epsilon = rule.stabiliser or "sign", rule.epsilon or 0.0
    if name == "sign" and epsilon == 0:  # without an epsilon, a unit with z = 0 passes nothing on
        name = "drop"
    if not name.startswith("rms"):
        kinds = {"zero": "ZERO_REPLACE", "sign_skip": "SIGN_ZERO_SKIP", "sign_drop": "SIGN_ZERO_DROP", "drop": "NONE_DROP"}
        return [(slice(None), getattr(elementwise, kinds.get(name, name.upper())), epsilon)]
    kind = {"rms": elementwise.PLUS, "rms_sign": elementwise.SIGN, "rms_clip": elementwise.CLIP}[name]
    shift = 1e-9 if name == "rms" else 0.0
    roots = np.sqrt(np.mean(np.square(z, dtype=np.float64).reshape(len(z), -1), axis=1)) if z.size else np.zeros(len(z))
    return [(slice(i, i + 1), kind, shift + epsilon * float(root)) for i, root in enumerate(roots)]


def multiply(inputs: Sequence[np.ndarray], carried: Sequence[np.ndarray], R: np.ndarray | None = None) -> np.ndarray:
    """Return the sum over terms of a * c, added to R if one is given."""
    from nplrp.kernels import elementwise

    for a, c in zip(inputs, carried, strict=True):
        function = elementwise.multiply if R is None else elementwise.multiply_add
        R = np.empty(c.shape, a.dtype) if R is None else R
        for maps in runs(c, a):
            function(a, c[maps], R[maps], threads())
    assert R is not None
    return R


def sums(x: np.ndarray) -> np.ndarray:
    """Return the sum over each image's units: [n, ...] -> [n] float64, accurate to rounding and in a fixed order."""
    from nplrp.kernels import sums as kernel

    return np.asarray(kernel.image_sums(np.ascontiguousarray(x), threads()))


def first_nonfinite(x: np.ndarray) -> tuple[int, ...] | None:
    """Return the index of the first NaN or infinity, or None."""
    from nplrp.kernels import elementwise

    if not x.size:
        return None
    i = elementwise.first_nonfinite(np.require(x, requirements=["C", "A"]), threads())
    return None if i < 0 else tuple(int(k) for k in np.unravel_index(i, x.shape))


def threads() -> int:
    """Return the number of threads that kernels may use."""
    from nplrp import jit

    return int(jit.threads())
