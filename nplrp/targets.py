"""Which output is explained: indices, class ids and class names; and labels of the outputs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nplrp.errors import ModelError, brief
from nplrp.layers.config import is_size
from nplrp.model import Model
from nplrp.scores import Scoring, scoring_of

#: Names that a wrong one is compared with, and letters of it: a comparison takes some 50 us.
_COMPARED, _LONGEST = 5000, 100


class Label(NamedTuple):
    """One output unit of one image.

    Attributes
    ----------
    unit : int
        Its index; of a single sigmoid unit the class, 1 or 0; in outputs that are no vector the place, row by row.
    id, name : str
        The class's id (ImageNet: its WordNet id) and description; the index as text where the model has no class names.
    score : float
        What the model gives.
    what : str
        What that is: "probability", "log-probability", "score" (of one of several labels), "logit" or "value".
    """

    unit: int
    id: str
    name: str
    score: float
    what: str = "probability"

    @property
    def said(self) -> str:
        """The score as figures and lists show it, named unless it is a probability."""
        return f"{self.score:.4f}" if self.what == "probability" else f"{self.what} {self.score:.4g}"

    @property
    def plain(self) -> str:
        """The name as people write it."""
        return self.name.replace("_", " ")

    @property
    def heading(self) -> str:
        """Name, id where it says more, and score, as above a picture."""
        known = self.id in (str(self.unit), self.name) or self.name.replace(" ", "").endswith(self.id)  # a position's id is in its name
        more = "" if known or self.unit < 0 else f" ({self.id})"
        return f"{self.plain}{more}, {self.said}"


def find_targets(model: Model, target: Any, images: int) -> np.ndarray | None:
    """Return the index of the output to explain for each image, or None for the composite's default.

    Parameters
    ----------
    model : Model
    target : int, str, a sequence of them (one for each image), or None
        A unit's index, a class id, or a class name (case, spaces and underscores don't matter). Of a single sigmoid unit 1 is the class
        that it speaks for, 0 the other one. Of outputs that are no vector a position, such as (row, column, channel).
    images : int
        Number of images.

    Raises
    ------
    ModelError
        If the model has no such output, or the name belongs to several.
    """
    if target is None:
        return None
    if isinstance(target, (str, int, np.integer)) or _is_position(model, target):
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
    units = scoring_of(model).classes
    target = target.item() if isinstance(target, np.ndarray) and target.ndim == 0 else target
    top = re.fullmatch(r"top-?([0-9]{1,9})", target.strip()) if isinstance(target, str) else None
    if top:
        if not 1 <= int(top[1]) <= units:
            raise ModelError(f"target {target!r}: the model has {units} outputs; give a number from 1 to {units}")
        return int(top[1])
    if isinstance(target, Iterable) and not isinstance(target, (str, bytes, dict, list, tuple, np.ndarray)):
        target = list(target)
    if target is not None and (isinstance(target, (bytes, dict)) or not isinstance(target, (str, int, np.integer, Iterable))):
        raise ModelError(f"a target is an index, a class id or a class name, or a list of them, not {brief(target)}")
    positions = len(model.output_shape) > 1
    if isinstance(target, Iterable) and not isinstance(target, str) and not positions and any(_is_list(each) for each in target):
        rows = [list(each) if _is_list(each) else [each] for each in target]
        if len(rows) != images or len({len(row) for row in rows}) != 1 or not rows[0]:
            raise ModelError(
                f"there are lists of {[len(row) for row in rows]} targets for {images} images; give one for each image, all alike"
            )
        return np.array([[find_target(model, each) for each in row] for row in rows], dtype=np.int64)
    found = find_targets(model, target, images)
    return None if found is None else found[:, None]


def check_word(target: Any) -> None:
    """Raise what would be raised of a target with any model, before one is read.

    Raises
    ------
    ModelError
    """
    if isinstance(target, str) and re.fullmatch(r"top-?0{1,9}", target.strip()):
        raise ModelError(f"target {target!r}: give a number of outputs from 1 on")


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _is_position(model: Model, target: Any) -> bool:
    """Whether a target is a place in an output that is no vector."""
    shape = model.output_shape
    return len(shape) > 1 and _is_list(target) and len(target) == len(shape) and all(is_size(each, 0) for each in target)


def find_target(model: Model, target: Any) -> int:
    """Return the index of one output, given by index, class id or class name, or in outputs that are no vector by its position.

    Raises
    ------
    ModelError
        If there is no such output, or several.
    """
    scoring = scoring_of(model)
    units = scoring.classes
    if len(scoring.shape) > 1:
        return _find_position(scoring, target)
    if isinstance(target, (int, np.integer)) and not isinstance(target, bool):
        if not 0 <= target < units and scoring.binary:
            raise ModelError(f"there is no class {int(target)}: the model's one sigmoid unit tells class 1 from class 0")
        if not 0 <= target < units:
            raise ModelError(f"there is no output {int(target)}; the model has {units} outputs, 0 to {units - 1}")
        return int(target)
    if not isinstance(target, str):
        raise ModelError(f"a target is an index, a class id or a class name, not {brief(target)}")
    classes = naming_of(model).classes if model.classes else ()
    wanted = _plain(target)
    found = [i for i, (id_, name) in enumerate(classes) if wanted in (_plain(id_), _plain(name))]
    if len(found) == 1:
        return found[0]
    if found:
        choices = ", ".join(f"{classes[i][0]} (index {i})" for i in found)
        raise ModelError(f"the class name {brief(target)} belongs to several outputs: {choices}; give the id or the index")
    if re.fullmatch(r"-?[0-9]{1,9}", target.strip()):
        return find_target(model, int(target))
    if not classes:
        raise ModelError(
            f"the model has no class names, so the target {brief(target)} can't be looked up; give an index from 0 to {units - 1}"
        )
    close = _similar(wanted, classes)
    hint = f"; did you mean {close}?" if close else f"; its {units} classes start with {', '.join(name for _, name in classes[:4])}"
    raise ModelError(f"the model has no class {brief(target)}{hint}")


def _find_position(scoring: Scoring, target: Any) -> int:
    """Return the place of (row, column, channel), or of "row,column,channel", in a flattened output."""
    if isinstance(target, str):
        found = re.fullmatch(r"\s*\(?\s*(\d{1,9}(?:\s*,\s*\d{1,9})*)\s*\)?\s*", target, re.ASCII)
        target = [int(each) for each in found[1].split(",")] if found else target
    position = tuple(int(each) for each in target) if _is_list(target) and all(is_size(each, 0) for each in target) else ()
    if len(position) != len(scoring.shape):
        raise ModelError(
            f"the model ends in an output of shape {scoring.shape}, where a target is a position ({position_in(scoring.shape)}), "
            f"not {brief(target)}"
        )
    if not all(0 <= each < side for each, side in zip(position, scoring.shape, strict=True)):
        raise ModelError(f"there is no position {position} in the model's output, whose shape is {scoring.shape}; counting begins at 0")
    return int(np.ravel_multi_index(position, scoring.shape))


def position_in(shape: Sequence[int]) -> str:
    """Return what messages call a position in an output that is no vector, by its axes."""
    return {2: "step, channel", 3: "row, column, channel"}.get(len(shape), "an index along each axis")


@dataclass(frozen=True)
class Naming:
    """What outputs are called.

    Attributes
    ----------
    scoring : Scoring
    own : tuple of (str, str) or None
        (class id, description) of every output unit, if the model has them.
    """

    scoring: Scoring
    own: tuple[tuple[str, str], ...] | None

    @property
    def classes(self) -> Sequence[tuple[str, str]]:
        """Id and name of every class of a vector; of one sigmoid unit those of both."""
        own, scoring = self.own or (), self.scoring
        if not scoring.binary or len(own) == 2:
            return own or [(str(unit), f"output {unit}") for unit in range(scoring.classes)]
        id_, name = own[0] if own else ("1", "class 1")
        return [("0", f"not {name}" if own else "class 0"), (id_, name)]

    def label(self, unit: int, score: float) -> Label:
        """Return the label of one output."""
        scoring = self.scoring
        if len(scoring.shape) > 1:
            position = tuple(int(each) for each in np.unravel_index(unit, scoring.shape))
            return Label(unit, ",".join(map(str, position)), f"output {position}", score, scoring.what)
        id_, name = self.classes[unit]
        return Label(unit, id_, name, score, scoring.what)

    def largest(self, scores: np.ndarray, top: int) -> list[Label]:
        """Return the `top` outputs of one image with the largest scores [classes], the first of equal ones first.

        Raises
        ------
        ModelError
            If the outputs are no vector.
        """
        if len(self.scoring.shape) != 1:
            raise ModelError(
                f"the model ends in an output of shape {self.scoring.shape}, so it has no classes to name; look at its numbers "
                "(nplrp.predict), or explain all of it with nplrp.explain(..., start='all') or one position with "
                f"target=({position_in(self.scoring.shape)})"
            )
        return self.foremost(scores, top)

    def foremost(self, scores: np.ndarray, top: int) -> list[Label]:
        """Return the `top` outputs of one image as `largest` does; of outputs that are no vector the positions with the largest scores."""
        order = np.argsort(-scores, kind="stable")[: max(top, 0)]
        return [self.label(int(i), float(scores[i])) for i in order]

    def chosen(self, scores: np.ndarray, targets: np.ndarray | None) -> list[Label]:
        """Return the label of every map's target; without targets that of the largest output, or one of all outputs that are no vector.

        Parameters
        ----------
        scores : ndarray [maps, classes]
        targets : ndarray [maps] of int, or None
        """
        if targets is None and len(self.scoring.shape) != 1:
            return [Label(-1, "all", "all outputs", float(each.sum(dtype=float)), "sum") for each in scores]
        units = np.argmax(scores, axis=-1) if targets is None else targets
        return [self.label(int(unit), float(each[unit])) for unit, each in zip(units, scores, strict=True)]


def naming_of(model: Model) -> Naming:
    """Return what a model's outputs are called."""
    return Naming(scoring_of(model), model.classes)


def classes_of(model: Model) -> Sequence[tuple[str, str]]:
    """Return id and name of every class that can be explained; none of an output that is no vector."""
    naming = naming_of(model)
    return naming.classes if len(naming.scoring.shape) == 1 else ()


def _plain(text: str) -> str:
    return " ".join(text.replace("_", " ").replace("-", " ").lower().split())


def _similar(wanted: str, classes: Sequence[tuple[str, str]]) -> str:
    import difflib

    names = {_plain(name): name for _, name in classes}
    few = itertools.islice(names, _COMPARED)
    close = difflib.get_close_matches(wanted[:_LONGEST], few, n=3, cutoff=0.6) or [name for name in names if wanted in name][:3]
    return ", ".join(names[name] for name in close)
