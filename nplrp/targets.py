"""Which output is explained: indices, class ids and class names; and labels of the outputs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nplrp.errors import ModelError
from nplrp.model import Model


class Label(NamedTuple):
    """One output unit of one image.

    Attributes
    ----------
    unit : int
        Its index.
    id, name : str
        The class's id (ImageNet: its WordNet id) and description; the index as text where the model has no class names.
    score : float
        Softmax probability.
    """

    unit: int
    id: str
    name: str
    score: float


def find_targets(model: Model, target: Any, images: int) -> np.ndarray | None:
    """Return the index of the output to explain for each image, or None for the composite's default.

    Parameters
    ----------
    model : Model
    target : int, str, a sequence of them (one for each image), or None
        A unit's index, a class id, or a class name (case, spaces and underscores don't matter).
    images : int
        Number of images.

    Raises
    ------
    ModelError
        If the model has no such output, or the name belongs to several.
    """
    if target is None:
        return None
    if isinstance(target, (str, int, np.integer)):
        return np.full(images, find_target(model, target), dtype=np.int64)
    targets = list(target)
    if len(targets) != images:
        raise ModelError(f"there are {len(targets)} targets for {images} images; give one target, or one for each image")
    return np.array([find_target(model, each) for each in targets], dtype=np.int64)


def find_several(model: Model, target: Any, images: int) -> np.ndarray | int | None:
    """Return the outputs to explain for each image.

    Parameters
    ----------
    model : Model
    target : int, str, sequence or None
        As for `find_targets`; or ``"top-3"`` (any number): the outputs with the largest logits; or for each image a list of several
        outputs.
    images : int
        Number of images.

    Returns
    -------
    ndarray [images, k] of int, int, or None
        The outputs; or k, for the k largest ones; or None for the start's default.

    Raises
    ------
    ModelError
        If the model has no such output, or images have different numbers of them.
    """
    units = model.output_shape[-1]
    top = re.fullmatch(r"top-?(\d+)", target.strip()) if isinstance(target, str) else None
    if top:
        if not 1 <= int(top[1]) <= units:
            raise ModelError(f"target {target!r}: the model has {units} outputs; give a number from 1 to {units}")
        return int(top[1])
    if target is not None and not isinstance(target, (str, int, np.integer)) and any(_is_list(each) for each in target):
        rows = [list(each) if _is_list(each) else [each] for each in target]
        if len(rows) != images or len({len(row) for row in rows}) != 1:
            raise ModelError(
                f"there are lists of {[len(row) for row in rows]} targets for {images} images; give one for each image, all alike"
            )
        return np.array([[find_target(model, each) for each in row] for row in rows], dtype=np.int64)
    found = find_targets(model, target, images)
    return None if found is None else found[:, None]


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)


def start_relevance(start: str, logits: np.ndarray, probabilities: np.ndarray, chosen: np.ndarray | None) -> np.ndarray:
    """Return the relevance of the logits that a pass begins with, [n, units].

    Parameters
    ----------
    start : str
        ``"one"``: 1 at the target; ``"logit"``: its logit; ``"relu_logit"``: its logit, or 0 if that is negative; ``"softmax"``: its
        probability, or without a target all of them; ``"all"``: likewise the logits; ``"contrastive"``: the target's logit, and
        minus the same amount spread evenly over all other outputs (CLRP1; Gu, Yang and Tresp 2018).
    logits, probabilities : ndarray [n, units]
    chosen : ndarray [n] of int, or None
        The targets; None: the largest logit, or all for the starts that can.
    """
    if chosen is None and start in WHOLE:
        return probabilities if start == "softmax" else logits.copy()
    chosen = np.argmax(logits, axis=-1) if chosen is None else chosen
    rows = np.arange(len(logits))
    values = (probabilities if start == "softmax" else logits)[rows, chosen]
    if start == "one":
        values = np.ones_like(values)
    if start == "relu_logit":
        values = np.maximum(values, 0)
    R = np.zeros_like(logits)
    if start == "contrastive":
        R[...] = -(values / max(logits.shape[1] - 1, 1))[:, None]
    R[rows, chosen] = values
    return R


#: Starts that begin with all outputs at once unless there is a target.
WHOLE = ("softmax", "all")


def find_target(model: Model, target: Any) -> int:
    """Return the index of one output, given by index, class id or class name.

    Raises
    ------
    ModelError
        If there is no such output, or several.
    """
    units = model.output_shape[-1]
    if isinstance(target, (int, np.integer)) and not isinstance(target, bool):
        if not 0 <= target < units:
            raise ModelError(f"there is no output {int(target)}; the model has {units} outputs, 0 to {units - 1}")
        return int(target)
    if not isinstance(target, str):
        raise ModelError(f"a target is an index, a class id or a class name, not {target!r}")
    classes = model.classes or ()
    wanted = _plain(target)
    found = [i for i, (id_, name) in enumerate(classes) if wanted in (_plain(id_), _plain(name))]
    if len(found) == 1:
        return found[0]
    if found:
        choices = ", ".join(f"{classes[i][0]} (index {i})" for i in found)
        raise ModelError(f"the class name {target!r} belongs to several outputs: {choices}; give the id or the index")
    if target.strip().lstrip("-").isdigit():
        return find_target(model, int(target))
    if not classes:
        raise ModelError(f"the model has no class names, so the target {target!r} can't be looked up; give an index from 0 to {units - 1}")
    close = _similar(wanted, classes)
    hint = f"; did you mean {close}?" if close else f"; its {units} classes start with {', '.join(name for _, name in classes[:4])}"
    raise ModelError(f"the model has no class {target!r}{hint}")


def labels_of(model: Model, probabilities: np.ndarray, top: int) -> list[Label]:
    """Return the `top` outputs of one image with the largest scores, the first of equal ones first; probabilities [classes].

    Raises
    ------
    ModelError
        If the model doesn't end in a vector.
    """
    if probabilities.ndim != 1:
        raise ModelError(
            f"the model ends in an output of shape {model.output_shape}, so it has no classes to name; look at its numbers "
            "(nplrp.forward), or explain all of it with nplrp.explain(..., start='all')"
        )
    order = np.argsort(-probabilities, kind="stable")[: max(top, 0)]
    return [label_of(model, int(i), float(probabilities[i])) for i in order]


def label_of(model: Model, unit: int, score: float) -> Label:
    """Return the label of one output."""
    id_, name = model.classes[unit] if model.classes else (str(unit), f"output {unit}")
    return Label(unit, id_, name, score)


def _plain(text: str) -> str:
    return " ".join(text.replace("_", " ").replace("-", " ").lower().split())


def _similar(wanted: str, classes: Sequence[tuple[str, str]]) -> str:
    import difflib

    names = {_plain(name): name for _, name in classes}
    close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.6) or [name for name in names if wanted in name][:3]
    return ", ".join(names[name] for name in close)
