"""What a model gives for an input, without explaining it: `predict`, `logits`, and every layer's activation, `forward`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from nplrp import fused, layers
from nplrp.errors import InputWarning, LayerError, ModelError, nearest, numbered
from nplrp.lrp import check_finite, run_forward, walk_forward
from nplrp.model import Model
from nplrp.plan import Plan, check_dtype, make_plan, make_steps
from nplrp.preprocessing import suspicion
from nplrp.span import INPUT
from nplrp.subnormals import warn_if_flushed
from nplrp.targets import Label, naming_of
from nplrp.trace import Trace
from nplrp.workspace import Workspace, workspace_of

#: Images that are in memory at once, and maps that are carried back together; results don't depend on it. A map on its way needs less than
#: an image, whose every layer is kept.
CHUNK = 8


class ByLayer(Mapping[str, np.ndarray]):
    """Arrays by layer, to be read."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = dict(arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            raise LayerError(f"there is no layer {name!r} here; {nearest(name, self._arrays, 'they are its keys')}")
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __repr__(self) -> str:
        return f"ByLayer({', '.join(f'{name}: {array.shape}' for name, array in self._arrays.items())})"


def predict(model: Model, x: np.ndarray, dtype: Any = "float32", algorithm: str = "auto") -> np.ndarray:
    """Return what the model gives, as its framework's own predict does; no layer is kept.

    Parameters
    ----------
    model : Model
    x : ndarray [n, *input_shape]
    dtype, algorithm
        As for `explain`.

    Returns
    -------
    ndarray [n, *output_shape]
        Probabilities, scores, logits or values: `nplrp info` says which.

    Raises
    ------
    ModelError
        If x doesn't fit the model.
    NumericsError
        If a weight or an activation is NaN or infinite.
    """
    return _outputs(model, x, dtype, algorithm)[0]


def logits(model: Model, x: np.ndarray, dtype: Any = "float32", algorithm: str = "auto") -> np.ndarray:
    """Return what the model gives before its last activation, where that makes scores of it; no layer is kept.

    Parameters, errors and the result's shape are those of `predict`.
    """
    return _outputs(model, x, dtype, algorithm)[1]


def top_labels(model: Model, x: np.ndarray, top: int = 5, dtype: Any = "float32", algorithm: str = "auto") -> list[list[Label]]:
    """Return for each image the `top` outputs with the largest scores, as the model gives them: `Label.what` says what they are."""
    output, naming = predict(model, x, dtype, algorithm), naming_of(model)
    return [naming.largest(scores, top) for scores in naming.scoring.scores(output)]


def forward(
    model: Model, x: np.ndarray, dtype: Any = "float32", algorithm: str = "auto", *, layers: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Run a model and return activations by layer, ``"input"`` first, the last one after its softmax.

    Parameters
    ----------
    model : Model
    x : ndarray [n, *input_shape]
    dtype, algorithm
        As for `explain`.
    layers : names, or None
        Which to return, in forward order; no other is kept. None: all.

    Returns
    -------
    dict of str to ndarray [n, *output_shape]

    Raises
    ------
    LayerError
        If there is no such layer.
    """
    dtype = check_dtype(dtype)
    steps = make_steps(model, dtype, algorithm, merge=False)
    model.check_files()
    x = tensor(model, x, dtype)
    names = [INPUT, *(step.name for step in steps)]
    wanted = set(names if layers is None else (layers,) if isinstance(layers, str) else layers)
    for name in sorted(wanted.difference(names)):
        raise LayerError(f"the model has no layer {name!r}; {nearest(name, names, 'nplrp info lists them')}")
    found: dict[str, list[np.ndarray]] = {name: [] for name in names if name in wanted}
    with np.errstate(all="ignore"):
        for chunk in chunks(len(x)):
            if INPUT in found:
                found[INPUT].append(x[chunk])
            with numbered(range(chunk.start, chunk.stop)):
                for step, done in zip(steps, walk_forward(steps, x[chunk]), strict=True):
                    if step.name in found:
                        found[step.name].append(done.a)
    return {name: np.concatenate(arrays) for name, arrays in found.items()}


def run(plan: Plan, x: np.ndarray, workspace: Workspace | None = None, given: tuple[Plan, Trace] | None = None) -> Trace:
    """Run a plan forward in a workspace's memory, and by the checking pass if a number turns out not to be finite.

    `given` is another plan and what it left of the same x, to share what both compute.

    Raises
    ------
    NumericsError
        Naming layer and unit.
    """
    with np.errstate(all="ignore"):  # what overflows is looked for, and named, below
        trace = fused.run_forward(plan, x, workspace, given)
        if layers.first_nonfinite(trace.logits) is not None:
            run_forward(plan.steps, x)
            check_finite(trace.logits, "the logits")
    return trace


def _outputs(model: Model, x: np.ndarray, dtype: Any, algorithm: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (output, logits), each [n, *output_shape]."""
    plan = make_plan(model, "gradient", dtype, algorithm)  # the plan that prepares no weights for rules
    model.check_files()
    x = tensor(model, x, plan.dtype, 4)
    done = []
    with workspace_of(model) as workspace, np.errstate(all="ignore"):  # what overflows is looked for, and named
        for chunk in chunks(len(x)):
            trace = fused.run_outputs(plan, x[chunk], workspace)
            if layers.first_nonfinite(trace.logits) is not None:
                with numbered(range(chunk.start, chunk.stop)):
                    run(plan, x[chunk])
            done.append((trace.output.copy(), trace.logits.copy()))
            workspace.give_all()
    return np.concatenate([each[0] for each in done]), np.concatenate([each[1] for each in done])


def chunks(n: int, size: int = CHUNK) -> list[slice]:
    """Return slices of at most `size` images; one empty slice for none, so that shapes come out right."""
    return [slice(i, i + size) for i in range(0, max(n, 1), size)]


def most_targets(images: int) -> int:
    """Return how many targets of as many images, at most `CHUNK`, are carried back together."""
    return max(1, CHUNK // max(1, images))


def tensor(model: Model, x: Any, dtype: np.dtype, depth: int = 3) -> np.ndarray:
    """Check and convert the input; a warning points `depth` calls up.

    Raises
    ------
    ModelError
        If its shape or dtype doesn't fit.
    NumericsError
        If it holds a NaN or an infinity.
    """
    takes = model.input_shape
    pictures = len(takes) == 3 and takes[2] in (1, 3)
    make = "make it with nplrp.preprocess(images, model)" if pictures else "make it of the numbers that the model was trained on"
    expected = f"{model.name} takes (n, {', '.join(map(str, takes))})"
    try:
        if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
            raise ModelError("the input is masked in places, which have no number; give them one with x.filled(value)")
        x = np.asarray(x)
    except ValueError:
        raise ModelError(f"the input is no array (its lists have different lengths), but {expected}; {make}") from None
    if x.shape[1:] != takes or x.ndim != len(takes) + 1:
        if x.shape == takes:
            make = "add the batch axis with x[None]"
        elif x.shape[1:] == (*takes[-1:], *takes[:-1]):
            make = "bring its channels to the end with np.moveaxis(x, 1, -1)"
        raise ModelError(f"the input has shape {x.shape}, but {expected}; {make}")
    if x.dtype.kind not in "fiu":
        raise ModelError(f"the input has dtype {x.dtype}, expected float32 or float64; {make}")
    try:
        with np.errstate(over="ignore"):
            taken = np.ascontiguousarray(x, dtype=dtype)
    except MemoryError:  # a view can be larger than what it is of
        raise ModelError(f"the input of shape {x.shape} takes more memory than there is; give fewer images at a time") from None
    check_finite(taken, "the input")
    warn_if_flushed(depth)
    doubt = suspicion(x, model.preprocessing.mode)
    if doubt:
        warnings.warn(doubt, InputWarning, stacklevel=depth)
    return taken
