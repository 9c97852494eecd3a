"""Explain any number of images one after the other: decoding runs ahead of computing, memory is bounded, a bad image ends nothing."""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from nplrp.errors import ImageError, InputWarning, ModelError, NplrpError
from nplrp.explanation import Explanation, check_question, explain_each
from nplrp.files.arrays import NPY, parse_npy
from nplrp.files.plain import open_plain
from nplrp.images import ImageLike, check_resample, load_pixels, look, normalize, read_picture, takes_pictures
from nplrp.model import Model
from nplrp.outputs import CHUNK, top_labels
from nplrp.plan import check_words, make_plan
from nplrp.progress import Progress
from nplrp.rules.composites import Composite, composite_named
from nplrp.rules.dialects import Dialect
from nplrp.targets import Label, check_word

#: Threads that decode, and images that are decoded or on their way there beyond those that are being explained.
_DECODERS, _AHEAD = 2, 2 * CHUNK

#: How many bytes may stand before the numbers of an array's file.
_HEADER = 1 << 16


@dataclass(frozen=True)
class Wanted:
    """What is asked of every image; as the arguments of `nplrp.explain` and `nplrp.preprocess` of the same names.

    Attributes
    ----------
    composites : tuple
        They share the forward pass.
    """

    composites: tuple[str | Composite | Mapping[str, Any], ...] = ("notebook",)
    target: Any = None
    dtype: Any = "float32"
    algorithm: str = "auto"
    dialect: str | Dialect | None = None
    start: str | None = None
    resample: str | None = None
    crop: bool | None = None

    def check_words(self) -> None:
        """Raise what would be raised with any model, before one is read."""
        for composite in self.composites:
            composite_named(composite)
        check_words(self.dtype, self.algorithm, self.dialect, self.start)
        check_word(self.target)
        check_resample(self.resample)

    def check(self, model: Model) -> None:
        """Raise what every image would raise, before any is read: of rules, targets, and how pictures are prepared."""
        for composite in self.composites:
            check_question(make_plan(model, composite, self.dtype, self.algorithm, self.dialect), self.target, self.start)
        if not takes_pictures(model.input_shape):
            return
        grey = np.zeros((2, 2, 1), np.uint8)
        normalize(load_pixels(grey, model, resample=self.resample, crop=self.crop), model.preprocessing.mode)

    def of_each(self, model: Model, x: np.ndarray) -> list[tuple[Explanation, ...]]:
        """Explain prepared images [n, *input_shape] by every composite, and return each image's explanations."""
        numerics = (self.dtype, self.algorithm)
        found = explain_each(model, x, self.composites, self.target, *numerics, dialect=self.dialect, start=self.start)
        return [tuple(e.image(i) for e in found) for i in range(len(x))]


class Question(Protocol):
    """What is asked of every image: `Wanted`, or how to get any other tuple for each."""

    @property
    def resample(self) -> str | None: ...  # noqa: D102
    @property
    def crop(self) -> bool | None: ...  # noqa: D102
    def of_each(self, model: Model, x: np.ndarray) -> list[tuple[Any, ...]]: ...  # noqa: D102


class Read(NamedTuple):
    """A picture that was read, or an array, for a model that takes no pictures.

    Attributes
    ----------
    pixels : ndarray (H, W, C)
        At the model's size, 0 to 255; of an array [*input_shape] its own numbers.
    sha256 : str
        Of the file's bytes; empty for what isn't a file.
    """

    pixels: np.ndarray
    sha256: str


@dataclass(frozen=True, eq=False)
class Explained:
    """One image of a stream.

    Attributes
    ----------
    index : int
        Its place among the images.
    image : path, Pillow image or array
        As it was given.
    read : Read or None
    explanations : tuple of Explanation
        Of this image alone, one for each composite (of another question than `Wanted`: its answer); none if it failed.
    error : NplrpError or None
        Why it failed.
    """

    index: int
    image: ImageLike
    read: Read | None
    explanations: tuple[Any, ...]
    error: NplrpError | None

    @property
    def reason(self) -> str:
        """Why it failed, in one line that names it; empty if it didn't."""
        said = " ".join(str(self.error).split()) if self.error else ""
        name = " ".join(str(self.image).split()) if isinstance(self.image, str | os.PathLike) else ""
        return said if not said or name in said else f"{name}: {said}"

    @property
    def pixels(self) -> np.ndarray:
        """The picture at the model's size, (1, H, W, C); of an image that was read."""
        assert self.read is not None
        return self.read.pixels[None]


def explain_many(
    images: Iterable[ImageLike],
    model: Model,
    composite: str | Composite | Mapping[str, Any] = "notebook",
    target: Any = None,
    dtype: Any = "float32",
    algorithm: str = "auto",
    *,
    dialect: str | Dialect | None = None,
    start: str | None = None,
    resample: str | None = None,
    crop: bool | None = None,
    progress: bool | Callable[[int, int | None], None] = False,
    skip: Callable[[ImageLike, NplrpError], None] | None = None,
) -> Iterator[Explanation]:
    """Explain images as they come, yielding each one's explanation in their order: memory doesn't grow with their number.

    Parameters
    ----------
    images : iterable of path, binary file, Pillow image or array (H, W, C)
        Read when they are needed, a few ahead. For a model that takes no pictures: arrays [*input_shape], or paths of ``.npy`` files of
        them.
    model : Model
    composite, dtype, algorithm, dialect, start
        As for `nplrp.explain`.
    target : int, str or None
        One for all images; ``"top-3"`` gives several maps of each.
    resample, crop
        As for `nplrp.preprocess`.
    progress : bool or callable
        True shows a bar on stderr; a callable is called with (images done, images in all or None) after each.
    skip : callable or None
        Called with (image, error) for an image that can't be read or explained, which is then left out. None: the error is raised where
        the image stands, after all before it.

    Yields
    ------
    Explanation
        Of one image.

    Raises
    ------
    NplrpError
        As `nplrp.explain` and `nplrp.preprocess`.
    """
    wanted = Wanted((composite,), target, dtype, algorithm, dialect, start, resample, crop)
    wanted.check(model)
    total = len(images) if isinstance(images, Sized) else None
    return _explanations(stream(images, model, wanted), total, progress, skip)


def _explanations(
    done: Generator[Explained, None, None],
    total: int | None,
    progress: bool | Callable[[int, int | None], None],
    skip: Callable[[ImageLike, NplrpError], None] | None,
) -> Iterator[Explanation]:
    shown = Progress(total, quiet=progress is not True)
    try:
        for count, each in enumerate(done, 1):
            shown.update(count)
            if callable(progress):
                progress(count, total)
            if each.error is None:
                yield each.explanations[0]
            elif skip is None:
                raise each.error
            else:
                skip(each.image, each.error)
    finally:
        done.close()  # whoever stops in the middle needs no more pictures read
        shown.close()


def stream(images: Iterable[ImageLike], model: Model, wanted: Question, root: Path | None = None) -> Generator[Explained, None, None]:
    """Explain images in their order; errors of single images are yielded, and whatever is left is put away when the iterator is closed.

    Parameters
    ----------
    images : iterable of path, binary file, Pillow image or array
    model : Model
    wanted : Question
    root : path or None
        Where names of files count from; None: from here.
    """
    with ThreadPoolExecutor(_DECODERS, "nplrp-reader") as pool:
        waiting: deque[tuple[int, ImageLike, Future[Read]]] = deque()
        numbered = enumerate(images)
        try:
            while True:
                for index, image in itertools.islice(numbered, CHUNK + _AHEAD - len(waiting)):
                    waiting.append((index, image, pool.submit(read, image, model, wanted, root)))
                if not waiting:
                    return
                yield from _explained(model, wanted, [waiting.popleft() for _ in range(min(CHUNK, len(waiting)))])
        finally:
            for _, _, future in waiting:
                future.cancel()


@dataclass(frozen=True)
class Labels:
    """The question of an image's labels with the largest scores; attributes as of `Wanted`."""

    top: int = 5
    dtype: Any = "float32"
    algorithm: str = "auto"
    resample: str | None = None
    crop: bool | None = None

    def check_words(self) -> None:
        """Raise what would be raised with any model, before one is read."""
        if self.top < 1:
            raise ModelError(f"the number of labels is {self.top}, expected 1 or more (--top)")
        check_words(self.dtype, self.algorithm)
        check_resample(self.resample)

    def of_each(self, model: Model, x: np.ndarray) -> list[tuple[list[Label]]]:
        """Return each image's labels."""
        return [(labels,) for labels in top_labels(model, x, self.top, self.dtype, self.algorithm)]


def read(image: ImageLike, model: Model, wanted: Question, root: Path | None = None) -> Read:
    """Read a picture at the model's size; a file's bytes are read once, hashed and decoded.

    Raises
    ------
    ImageError
    """
    if not takes_pictures(model.input_shape):
        return _read_array(image, model, root)
    sha256, source = "", image
    if isinstance(image, str | os.PathLike):
        content = read_picture((root or Path()).joinpath(_not_empty(image)), str(image))
        sha256, source = hashlib.sha256(content).hexdigest(), _Named(content, str(image))
    return Read(load_pixels([source], model, resample=wanted.resample, crop=wanted.crop)[0], sha256)


def _read_array(image: ImageLike, model: Model, root: Path | None) -> Read:
    """Read the input of a model that takes no pictures: one array of its shape, perhaps with a batch axis of 1, as it was trained on."""
    sha256, where, shape = "", "an input", model.input_shape
    if isinstance(image, str | os.PathLike):
        where, most = str(image), _HEADER + 16 * math.prod(shape)
        try:
            with open_plain((root or Path()).joinpath(_not_empty(image))) as file:
                content = file.read(most + 1)
            if not content.startswith(np.lib.format.MAGIC_PREFIX):
                raise ImageError(f"{where}: isn't an array that numpy.save wrote; model {model.name!r} takes arrays of shape {shape}")
            sha256, found = hashlib.sha256(content).hexdigest(), parse_npy(content[:most])
        except OSError as error:
            raise ImageError(f"{where}: can't be opened: {error.strerror or error}") from None
        except ValueError as error:
            raise ImageError(f"{where}: can't be read as an array of shape {shape} ({error}); write it with numpy.save") from None
    else:
        found = np.asarray(image)
    if found.shape not in (shape, (1, *shape)) or found.dtype.kind not in "fiu":
        raise ImageError(f"{where}: has shape {found.shape}, type {found.dtype}; model {model.name!r} takes numbers of shape {shape}")
    return Read(found.reshape(shape), sha256)


def unreadable(images: Sequence[ImageLike], root: Path | None = None) -> list[ImageError]:
    """Return the errors of all images if none of them is a picture, by their headers; else nothing, as soon as one is."""
    errors = []
    for image in images:
        try:
            place = (root or Path()).joinpath(_not_empty(image)) if isinstance(image, str | os.PathLike) else image
            if isinstance(place, Path) and place.suffix.lower() == NPY and place.is_file():
                return []  # whether the model takes it, is known later
            look(place)
        except ImageError as error:
            errors.append(error.with_traceback(None))  # which would hold what was read
            error.__cause__ = error.__context__ = None
        else:
            return []
    return errors


def _not_empty(name: str | os.PathLike[str]) -> str | os.PathLike[str]:
    if not os.fspath(name):
        raise ImageError("an image's name is empty; give the name of a file")
    return name


class _Named(io.BytesIO):
    """A file's bytes, and what messages call it."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def _explained(model: Model, wanted: Question, chunk: Sequence[tuple[int, ImageLike, Future[Read]]]) -> Iterator[Explained]:
    """Explain some images together; if one of them can't be, each on its own."""
    pictures: dict[int, Read] = {}
    errors: dict[int, NplrpError] = {}
    for index, _, future in chunk:
        try:
            pictures[index] = future.result()
        except NplrpError as error:
            errors[index] = error
    found: dict[int, tuple[Any, ...]] = {}
    waiting = [pictures] if pictures else []
    while waiting:
        group = waiting.pop(0)
        try:
            found |= _together(model, wanted, group)
        except NplrpError as error:
            if len(group) == 1:
                errors |= dict.fromkeys(group, error)
            else:
                waiting += [{index: picture} for index, picture in group.items()]
    for index, image, _ in chunk:
        yield Explained(index, image, pictures.get(index), found.get(index, ()), errors.get(index))


def _together(model: Model, wanted: Question, pictures: Mapping[int, Read]) -> dict[int, tuple[Any, ...]]:
    x = np.stack([each.pixels for each in pictures.values()])
    x = normalize(x, model.preprocessing.mode) if takes_pictures(model.input_shape) else x
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # they were prepared here
        return dict(zip(pictures, wanted.of_each(model, x), strict=True))
