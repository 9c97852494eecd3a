"""From a request's bytes to tensors: JSON, multipart uploads, and bare images. Nothing is fetched, nothing touches the disk."""

from __future__ import annotations

import base64
import binascii
import functools
import io
import itertools
import math
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from nplrp import containers
from nplrp.errors import ImageError, NplrpError
from nplrp.images import Room, load_pixels, normalize
from nplrp.model import Model
from nplrp.serve.budget import Budget, Share
from nplrp.serve.problems import Problem, problem_of
from nplrp.serve.reading import read_request
from nplrp.serve.settings import Settings
from nplrp.serve.wanted import Wanted, read_parameters

JSON, MULTIPART = "application/json", "multipart/form-data"
IMAGES = ("image/jpeg", "image/png")
#: Pillow's decoders; nothing else is tried.
FORMATS = ("JPEG", "PNG")


@dataclass(frozen=True)
class Body:
    """A request's body as it arrived.

    Attributes
    ----------
    kind : str
        One of `JSON`, `MULTIPART` and `IMAGES`.
    data : bytes
        Of JSON and images.
    uploads : tuple of bytes
        Of multipart: the files.
    texts : mapping
        Parameters of a query or a form.
    """

    kind: str
    data: bytes = b""
    uploads: tuple[bytes, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a request is computed from.

    Attributes
    ----------
    wanted : Wanted
    x : ndarray [n, *input_shape]
        As `nplrp.explain` takes it.
    pixels : list of (ndarray [H, W, C] or None)
        The images at the model's size, 0 to 255; None for a tensor.
    size : int
        About how many bytes the answer's maps will take.
    """

    wanted: Wanted
    x: np.ndarray
    pixels: list[np.ndarray | None]
    size: int = 0

    @property
    def held(self) -> int:
        """Bytes of `x` and `pixels`."""
        return self.x.nbytes + sum(each.nbytes for each in self.pixels if each is not None)


def body_kind(headers: Headers) -> str:
    """Return what a body is, by its headers.

    Raises
    ------
    Problem
        unsupported_type.
    """
    encoding = ", ".join(headers.getlist("content-encoding")).strip().lower() or "identity"
    if encoding != "identity":
        raise Problem("unsupported_type", f"Content-Encoding {encoding[:40]!a} isn't understood; send the body as it is")
    if len(headers.getlist("content-type")) > 1:
        raise Problem("unsupported_type", "there are several Content-Type headers; send one")
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    kinds = (JSON, MULTIPART, *IMAGES)
    if given not in kinds:
        raise Problem("unsupported_type", f"Content-Type is {given[:80]!a}; expected {', '.join(kinds)}")
    return given


async def read_form(headers: Headers, stream: AsyncGenerator[bytes, None], settings: Settings) -> tuple[tuple[bytes, ...], dict[str, str]]:
    """Return a multipart upload's files and fields, all in memory: the stream is bounded already.

    Raises
    ------
    Problem
        bad_form or bad_instances.
    """
    parser = _InMemory(headers, stream, max_files=settings.max_instances + 1, max_fields=100, max_part_size=1 << 16)
    uploads, texts = [], {}
    try:
        for key, value in (await parser.parse()).multi_items():
            if isinstance(value, UploadFile):
                uploads.append(value.file.read())
            elif key in texts:
                raise Problem("bad_form", f"the field {key[:80]!a} is there twice")
            else:
                texts[key] = value
        if not parser.whole:
            raise Problem("bad_form", "the multipart body breaks off before its last boundary")
    except (MultiPartException, KeyError, ValueError, LookupError) as error:
        reason = getattr(error, "message", None) or f"damaged ({type(error).__name__})"
        raise Problem("bad_form", f"the multipart body can't be read: {reason}") from None
    finally:
        parser.close()
    return tuple(uploads), texts


class _InMemory(MultiPartParser):
    """Never spools to a file: a full disk is no reason to fail."""

    spool_max_size = sys.maxsize
    whole = False

    def on_end(self) -> None:
        """Note that the last boundary has come."""
        self.whole = True

    def close(self) -> None:
        """Let go of all files, also when the body has broken off."""
        for file in self._files_to_close_on_error:
            file.close()


def read_inputs(body: Body, model: Model, settings: Settings, verb: str, deadline: float = math.inf, share: Share | None = None) -> Inputs:
    """Decode a body and its images, as long as `time.monotonic` isn't past the deadline and `share` has memory for it.

    Raises
    ------
    Problem
    """
    share = share or Budget(sys.maxsize).share()
    parameters: Mapping[str, Any]
    if body.kind == JSON:
        share.take(2 * len(body.data))  # as text, and as files or numbers
        instances, parameters = read_request(body.data, model.input_shape, settings.max_instances, _from_base64)
    else:
        instances, parameters = [_Encoded(each) for each in (body.uploads if body.kind == MULTIPART else (body.data,))], {}
    if not 1 <= len(instances) <= settings.max_instances:
        raise Problem("bad_instances", f"there are {len(instances)} instances; expected 1 to {settings.max_instances}")
    wanted = read_parameters(parameters, body.texts, model, settings, verb)
    size = _check_amount(wanted, len(instances), model, settings) if verb == "explain" else 0
    x = np.empty((len(instances), *model.input_shape), np.float32)
    share.take(2 * x.nbytes)  # with its pixels
    pixels: list[np.ndarray | None] = []
    for i, instance in enumerate(instances):
        where = f"instance {i}"
        if time.monotonic() > deadline:
            raise Problem("deadline", f"there was no time left to decode {where}")
        if isinstance(instance, _Encoded):
            pixels.append(_decoded(instance.data, model, wanted, settings, where, functools.partial(share.room, deadline=deadline)))
            try:
                x[i] = normalize(pixels[i][None], model.preprocessing.mode)[0]  # type: ignore[index]
            except ImageError as error:  # nothing tells how pictures are prepared
                raise problem_of(error) from None
        else:
            pixels.append(None)
            x[i] = _tensor(instance, model, where)
    return Inputs(wanted, x, pixels, size)


@dataclass(frozen=True)
class _Encoded:
    """An image file."""

    data: bytes


def _from_base64(text: str, i: int) -> _Encoded:
    try:
        return _Encoded(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise Problem("bad_instances", f"instance {i}: b64 is no base64: {error}") from None


class _File(io.BytesIO):
    """An image file in memory, with the name that messages give it."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def _decoded(data: bytes, model: Model, wanted: Wanted, settings: Settings, where: str, room: Room) -> np.ndarray:
    """Return an image file at the model's size [H, W, C], 0 to 255."""
    if data.startswith(b"\xff\xd8") and containers.has_many_scans(data, settings.max_scans):
        raise Problem("bad_image", f"{where}: has more than {settings.max_scans} scans (--max-scans): save it as a baseline JPEG")
    limits: dict[str, Any] = {"max_pixels": settings.max_pixels, "max_side": settings.max_side, "formats": FORMATS}
    try:
        return load_pixels(_File(data, where), model, resample=wanted.resample, crop=wanted.crop, **limits, room=room)[0]
    except NplrpError as error:
        raise problem_of(error) from None


def _tensor(instance: Any, model: Model, where: str) -> np.ndarray:
    """Return one tensor given as nested lists, [*input_shape] float32."""
    expected = " x ".join(map(str, model.input_shape))
    try:
        array = np.asarray(instance)
    except (ValueError, OverflowError):  # ragged, or numbers beyond every dtype
        array = np.empty(0, object)
    if array.dtype.kind not in "fiu":
        raise Problem("bad_instances", f"{where}: is no rectangular array of numbers; expected {expected}, or an object with b64")
    if array.shape != model.input_shape:
        found = " x ".join(map(str, array.shape)) or "one number"
        raise Problem("bad_instances", f"{where}: its shape is {found}; the model takes {expected}")
    numbers = instance
    for _ in model.input_shape[1:]:
        numbers = itertools.chain.from_iterable(numbers)
    if bool in set(map(type, numbers)):
        raise Problem("bad_instances", f"{where}: holds true or false; expected numbers")
    with np.errstate(over="ignore"):
        x = array.astype(np.float32)
    if not np.isfinite(x).all():
        place = np.unravel_index(int(np.argmin(np.isfinite(x))), x.shape)
        raise Problem("not_finite", f"{where}: the number at {list(map(int, place))} is beyond float32")
    return x


def _check_amount(wanted: Wanted, instances: int, model: Model, settings: Settings) -> int:
    """Refuse what would take too long or too much memory, before it is computed; return the answer's bytes."""
    if isinstance(wanted.target, tuple) and len(wanted.target) != instances:
        raise Problem("bad_target", f"there are {len(wanted.target)} targets for {instances} instances; give one, or one for each")
    maps = instances * wanted.maps()
    if maps > settings.max_maps:
        raise Problem(
            "too_large", f"{instances} instances with {wanted.maps()} targets each are {maps} maps; the limit is {settings.max_maps}"
        )
    size = maps * _bytes_of_a_map(wanted, model)
    if size > settings.max_response:
        raise Problem(
            "too_large",
            f"the answer would take about {size / 1e6:.0f} MB, the limit is {settings.max_response / 1e6:.0f} MB: ask for fewer layers, "
            "images or targets, or for encoding b64",
        )
    return size


def _bytes_of_a_map(wanted: Wanted, model: Model) -> int:
    """Return about how many bytes one map's layers take in an answer."""
    shapes = {layer.name: layer.output_shape for layer in model} | {"input": model.input_shape}
    numbers = sum(int(np.prod(shapes[name])) for name in wanted.layers)
    double = wanted.dtype == "float64"
    return numbers * ({"b64": 11, "list": 22} if double else {"b64": 6, "list": 20}).get(wanted.encoding, 3)
