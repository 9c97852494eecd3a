"""Predict images that differ in a patch: a change of a patch changes a patch of every layer, so only these are computed again.

A chain of convolutions, poolings and activations is local: an output depends on the inputs of its window. When a patch of the input is
replaced, the outputs whose windows meet it are computed from a crop, with zeros where the layer pads; the rest stays. Where the patch has
grown to most of a layer, and behind what isn't local, the network runs as always. For VGG16 and patches of 16 pixels that is about a fifth
of a forward pass. Scores equal those of whole passes but for rounding: equal pixels may round differently by place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nplrp import fused, layers
from nplrp.errors import NumericsError
from nplrp.evaluate.predicting import of_outputs, scores_of
from nplrp.layers import Step, operation
from nplrp.layers.conv import algorithm as algorithm_of
from nplrp.model import Model
from nplrp.plan import Plan, consumers, make_plan
from nplrp.workspace import workspace_of

#: Winograd's tiles: a crop that begins where a tile does rounds as the whole layer.
TILE = 4
#: Images that run through the rest of the network at once: its dense layers read their weights once for all of them.
TOGETHER = 8
#: A layer is cropped while the crop is smaller than this share of it, and patches are walked if they take less than that of whole passes.
MOST, PAYS = 0.7, 0.5
#: Layers that compute each position, or each window, by itself.
_POINTWISE, _WINDOWED = ("curve", "rectifier"), ("conv", "maxpool", "avgpool")


@dataclass(frozen=True, eq=False)
class Crop:
    """How one step runs on a part of its image.

    Attributes
    ----------
    step : Step
        The step for a crop of fixed size, without padding.
    size, whole : (int, int)
        Rows and columns of the crop's output, and of the layer's.
    kernel, stride, before : (int, int)
        Extent of the window (dilated), its stride, and the zeros above and left of the image.
    align : int
        Crops begin at multiples of it.
    """

    step: Step
    size: tuple[int, int]
    whole: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    before: tuple[int, int]
    align: int

    @property
    def reads(self) -> tuple[int, int]:
        """Rows and columns of the input that the crop's output depends on."""
        rows, columns = ((size - 1) * s + k for size, s, k in zip(self.size, self.stride, self.kernel, strict=True))
        return rows, columns

    def touched(self, box: np.ndarray) -> np.ndarray:
        """Return the outputs whose windows meet boxes of the input, [n, 2, 2] of (first, end) by axis."""
        first, end = box[..., 0], box[..., 1]
        s, k, p, most = (np.array(each) for each in (self.stride, self.kernel, self.before, self.whole))
        return np.stack([np.maximum(-((k - 1 - p - first) // s), 0), np.minimum((end - 1 + p) // s + 1, most)], axis=-1)


class Walk:
    """Scores of images in which one patch after the other is replaced.

    Parameters
    ----------
    model : Model
        A chain.
    patch : (int, int)
        The largest patch, rows and columns.
    score, dtype, algorithm
        As for `nplrp.evaluate.scores_of`.

    Attributes
    ----------
    cost : float
        Multiplications for a patch, as a share of those of a whole forward pass; 1 if nothing can be saved.
    """

    def __init__(self, model: Model, patch: tuple[int, int], score: str = "probability", dtype: Any = "float32", algorithm: str = "auto"):
        self._model, self._score = model, score
        self._plan = make_plan(model, "gradient", dtype, algorithm)
        steps = self._plan.steps
        crops = _crops(steps, patch, self._plan.dtype) if model.is_chain and len(model.input_shape) == 3 else []
        while crops and crops[-1] is None:  # a step that only hands on saves nothing
            crops.pop()
        self._crops = crops
        work = [_work(step, step.output_shape) for step in steps]
        cropped = sum(_work(step, (*crop.size, step.output_shape[-1])) for step, crop in zip(steps, crops, strict=False) if crop)
        rest = sum(work[len(crops) :])
        self.cropped, self.rest = (share / max(sum(work), 1) for share in (cropped, rest))
        self.cost = self.cropped + self.rest if crops else 1.0

    def pays(self, patches: int) -> bool:
        """Tell whether `patches` patches between two scores are cheaper than a forward pass."""
        return bool(self._crops) and patches * self.cropped + self.rest < PAYS

    def __call__(self, first: np.ndarray, then: np.ndarray, boxes: np.ndarray, done: Sequence[int]) -> np.ndarray:
        """Return the scores after done[k] patches, [n, len(done), classes].

        Parameters
        ----------
        first, then : ndarray [n, h, w, c]
            The images, and what patches are replaced with.
        boxes : ndarray [n, patches, 2, 2] of int
            The patches in their order: (first, end) of rows and of columns.
        done : sequence of int
            Ascending.

        Raises
        ------
        NumericsError
            If a score is NaN or infinite.
        """
        plan, at = self._plan, 0
        tail, n = _tail(plan, len(self._crops)), len(first)
        scores: list[np.ndarray] = []
        waiting: list[np.ndarray] = []
        with workspace_of(self._model) as workspace, np.errstate(all="ignore"):
            now = self._begin(np.array(first, plan.dtype, order="C"))
            then = np.asarray(then, plan.dtype)
            for k, count in enumerate(done):
                for turn in range(at, count):
                    self._replace(now, then, boxes[:, turn])
                at = count
                waiting.append(now[-1].copy())
                if len(waiting) * n >= TOGETHER or k == len(done) - 1:
                    trace = fused.run_outputs(tail, np.concatenate(waiting), workspace)
                    if layers.first_nonfinite(trace.logits) is not None:
                        scores_of(self._model, now[0], self._score, plan.dtype, plan.algorithm)  # which names layer and unit
                        raise NumericsError(
                            f"{self._model.name}: a NaN or an infinity while patches were replaced; choose another baseline"
                        )
                    found = of_outputs(self._model, trace.output.copy(), trace.logits.copy(), self._score)
                    scores += np.split(found, len(waiting))
                    waiting.clear()
                    workspace.give_all()
        return np.stack(scores, axis=1)

    def _begin(self, x: np.ndarray) -> list[np.ndarray]:
        """Return the input and the output of every cropped step; one that hands on shares its input's memory."""
        now = [x]
        for step, crop in zip(self._plan.steps, self._crops, strict=False):
            now.append(now[-1] if crop is None else _run(step, now[-1]))
        return now

    def _replace(self, now: list[np.ndarray], then: np.ndarray, box: np.ndarray) -> None:
        """Replace a patch of every image, and what it changes in every layer."""
        for i, ((top, bottom), (left, right)) in enumerate(box):
            now[0][i, top:bottom, left:right] = then[i, top:bottom, left:right]
        for layer, crop in enumerate(self._crops):
            if crop is None:
                continue
            box = crop.touched(box)
            start = box[..., 0] // crop.align * crop.align
            source, target = now[layer], now[layer + 1]
            cut = np.zeros((len(source), *crop.reads, source.shape[-1]), source.dtype)
            begins = start * np.array(crop.stride) - np.array(crop.before)
            for i, (row, column) in enumerate(begins):
                inside = _inside(row, crop.reads[0], source.shape[1]), _inside(column, crop.reads[1], source.shape[2])
                places = tuple(slice(s.start - o, s.stop - o) for s, o in zip(inside, (row, column), strict=True))
                cut[i][places] = source[i][inside]
            made = _run(crop.step, cut)
            for i, (row, column) in enumerate(start):
                rows, columns = min(crop.size[0], crop.whole[0] - row), min(crop.size[1], crop.whole[1] - column)
                target[i, row : row + rows, column : column + columns] = made[i, :rows, :columns]


def _inside(first: int, count: int, most: int) -> slice:
    return slice(max(int(first), 0), max(min(int(first) + count, most), 0))


def _run(step: Step, a: np.ndarray) -> np.ndarray:
    z, _ = layers.apply(step, a)
    return layers.activate(step, z, in_place=True)


def _crops(steps: Sequence[Step], patch: tuple[int, int], dtype: np.dtype) -> list[Crop | None]:
    """Return how steps run on crops, None for one that hands its input on, up to the first that doesn't."""
    found: list[Crop | None] = []
    size = patch
    for step in steps:
        op = operation(step)
        if step.score or len(step.output_shape) != 3:
            break
        if op.view and step.input_shape == step.output_shape and step.activation == "linear":
            found.append(None)
            continue
        crop = _crop(step, size, dtype)
        if crop is None or math.prod(crop.size) > MOST * math.prod(crop.whole):
            break
        found.append(crop)
        size = tuple(  # type: ignore[assignment]
            min((n - 1 + k - 1) // s + 1, most) for n, k, s, most in zip(size, crop.kernel, crop.stride, crop.whole, strict=True)
        )
    return found


def _crop(step: Step, size: tuple[int, int], dtype: np.dtype) -> Crop | None:
    """Return how a step runs where `size` rows and columns of its input change; None if it isn't local."""
    height, width, _ = step.input_shape
    name, whole = operation(step).name, (step.output_shape[0], step.output_shape[1])
    if name in _POINTWISE:
        kernel = stride = (1, 1)
        before, window, tiled = (0, 0), step.window, False
    elif name in _WINDOWED and step.window is not None:
        pads = step.window.pads(height, width)
        if name != "conv" and any(pads):  # a pool's windows end at the border
            return None
        kernel = tuple((k - 1) * d + 1 for k, d in zip(step.window.size, step.window.dilation, strict=True))  # type: ignore[assignment]
        stride, before = step.window.stride, (pads[0], pads[2])
        window, tiled = replace(step.window, padding="valid"), name == "conv" and algorithm_of(step, dtype) != "direct"
    else:
        return None
    out = [min((n - 1 + k - 1) // s + 1, most) for n, k, s, most in zip(size, kernel, stride, whole, strict=True)]
    align = TILE if tiled else 1
    if tiled:
        out = [max(-(-(n + align - 1) // align) * align, 2 * align) for n in out]
    reads = [(n - 1) * s + k for n, s, k in zip(out, stride, kernel, strict=True)]
    cropped = replace(
        step,
        input_shape=(reads[0], reads[1], step.input_shape[2]),
        output_shape=(out[0], out[1], step.output_shape[2]),
        window=window,
        algorithm=step.algorithm if tiled else "direct",
        prepared={},
    )
    return Crop(cropped, (out[0], out[1]), whole, kernel, stride, before, align)


def _tail(plan: Plan, first: int) -> Plan:
    """Return the plan of the steps from `first` on, as a network of its own."""
    steps = tuple(replace(step, inputs=tuple(j - first for j in step.inputs)) for step in plan.steps[first:])
    return replace(plan, steps=steps, rules=plan.rules[first:], parts=plan.parts[first:], consumers=consumers(steps))


def _work(step: Step, shape: tuple[int, ...]) -> int:
    """Return how many multiplications a step takes for an output of this shape, about."""
    terms = operation(step).terms(step)[0] if layers.is_linear(step) else 1
    return terms * math.prod(shape)
