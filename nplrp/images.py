"""From picture files, Pillow images or arrays to the tensor a model was trained on, bit for bit as Keras makes it.

`preprocess` is `load_pixels` (decode, convert, resize: values 0 to 255) followed by `normalize` (the arithmetic of one mode);
`display` turns the same pixels into what a figure shows.

What Keras's `load_img` does is done here too: transparency is dropped, not blended; the EXIF orientation is ignored
unless asked for. Where Keras and Pillow would silently give nonsense (16-bit grey clipped at 255, one frame of an animation) it isn't.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nplrp import containers
from nplrp.errors import ImageError, brief
from nplrp.files.plain import open_plain
from nplrp.model import Model
from nplrp.preprocessing import Preprocessing, arithmetic, check_mode

#: Holds so many bytes while it is entered.
Room = Callable[[int], AbstractContextManager[Any]]
ImageLike = str | os.PathLike[str] | IO[bytes] | Image.Image | np.ndarray

#: Pillow's decoders that files are tried with: pictures only, nothing that starts another program (EPS) or draws (SVG, WMF).
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

#: Width x height above which a file isn't decoded. Above every camera of the day, below Pillow's own warning.
MAX_PIXELS = 64_000_000
#: Longest side of a picture, JPEG's own: filters keep a table, and Pillow a pointer, for each row.
MAX_SIDE = 65_535
#: Bytes that a pixel takes at most while it is decoded and converted: four in each of two pictures, and what a decoder has beside them.
_BYTES, _BYTES_OF = 10, {"JPEG": 12, "WEBP": 16, "JPEG2000": 26}
#: Bytes that a pixel takes in a file at most (four channels of 32 bits), and those that may come on top: metadata, a film behind a photo.
_STORED, _BESIDE = 16, 64 << 20

# What Pillow logs of a damaged file it raises as well; without a handler of the program's own it would come out on stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())

RESAMPLE = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


def preprocess(
    images: ImageLike | Iterable[ImageLike],
    model: Model,
    *,
    preprocessing: str | None = None,
    resample: str | None = None,
    crop: bool | None = None,
    resize_to: int | None = None,
    exif: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_side: int = MAX_SIDE,
) -> np.ndarray:
    """Turn pictures into a model's input, bit for bit as Keras's `load_img`, `img_to_array` and `preprocess_input` do.

    Parameters
    ----------
    images : path, binary file, Pillow image, array, or an iterable of these
        Arrays are (H, W), (H, W, 1), (H, W, 3) or with a batch axis (N, H, W, 1 or 3): uint8; uint16, whose full range 0 to 65535
        is scaled by 1/257; or floating with values 0 to 255, which are resized without rounding.
    model : Model
        Gives the size and, in ``model.preprocessing``, the filter and the mode.
    preprocessing : str or None
        The mode, where the model's isn't known or isn't meant: see `nplrp.Preprocessing`.
    resample, crop, resize_to
        Override those of ``model.preprocessing``.
    exif : bool
        Turn a photograph upright by its EXIF orientation first. Keras doesn't.
    max_pixels : int
        Largest width x height that is decoded; read from the header. Pillow's own limit, ``PIL.Image.MAX_IMAGE_PIXELS``, holds too. What
        a resize makes on its way, the model's width times the picture's height, may be no larger either.
    max_side : int
        Largest width and largest height.

    Returns
    -------
    ndarray (N, H, W, C), float32

    Raises
    ------
    ImageError
        If a picture can't be read or isn't one; the message names the file or the position in `images`. If nothing tells how the model's
        pictures were prepared.
    """
    mode = model.preprocessing.mode if preprocessing is None else check_mode(preprocessing)
    pixels = load_pixels(
        images, model, resample=resample, crop=crop, resize_to=resize_to, exif=exif, max_pixels=max_pixels, max_side=max_side
    )
    return normalize(pixels, mode)


def load_pixels(
    images: ImageLike | Iterable[ImageLike],
    model: Model,
    *,
    resample: str | None = None,
    crop: bool | None = None,
    resize_to: int | None = None,
    exif: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_side: int = MAX_SIDE,
    formats: tuple[str, ...] = FORMATS,
    room: Room = nullcontext,
) -> np.ndarray:
    """Decode pictures and bring them to a model's size and number of channels; other parameters as `preprocess`.

    Parameters
    ----------
    formats : tuple of str
        Pillow's names of the formats to accept.
    room : callable
        Is told how many bytes a picture will take at most, before it is decoded; holds them until it is done.

    Returns
    -------
    ndarray (N, H, W, C)
        0 to 255, RGB or grey; uint8, or float32 if one of the arrays given was floating.

    Raises
    ------
    ImageError
    """
    if not takes_pictures(model.input_shape):
        raise ImageError(
            f"model {model.name!r} takes input of shape {model.input_shape}, pictures give (H, W, 3) or (H, W, 1): "
            "make its input array yourself, and hand it to nplrp.explain, or write it as a file X.npy"
        )
    overrides: dict[str, Any] = {"resample": resample, "crop": crop, "resize_to": resize_to}
    how = dataclasses.replace(model.preprocessing, **{key: value for key, value in overrides.items() if value is not None})
    return sized_pixels(images, model.input_shape, how, exif=exif, max_pixels=max_pixels, max_side=max_side, formats=formats, room=room)


def sized_pixels(
    images: ImageLike | Iterable[ImageLike],
    shape: tuple[int, ...],
    how: Preprocessing,
    *,
    exif: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_side: int = MAX_SIDE,
    formats: tuple[str, ...] = FORMATS,
    room: Room = nullcontext,
) -> np.ndarray:
    """Decode pictures and bring them to a shape (height, width, 1 or 3): `load_pixels` without a model.

    Raises
    ------
    ImageError
    """
    check_resample(str(how.resample))  # here there is no other to fall back on
    height, width, channels = shape
    done = []
    for where, image in _named(images):
        try:
            picture = _from_array(image, where) if isinstance(image, np.ndarray) else image
        except MemoryError:  # a view can be larger than what it is of
            raise ImageError(f"{where}: its array of shape {image.shape} takes more memory than there is: make it smaller first") from None
        with _opened(picture, formats, where) as opened:
            size = opened.shape[1::-1] if isinstance(opened, np.ndarray) else opened.size
            if not isinstance(image, np.ndarray):  # which has its memory already
                _check_size(size, max_pixels, max_side, where)
            between = _size_between(size, (height, width), how, max_pixels, where)
            each = _BYTES_OF.get(getattr(opened, "format", None) or "", _BYTES)
            with room(each * size[0] * size[1] + 4 * (between[0] * size[1] + between[0] * between[1])):
                decoded = opened if isinstance(image, np.ndarray) else _decoded(opened, exif, where)
                done.append(_resized(_converted(decoded, channels, where), (height, width), between, how, where))
    if not done:
        raise ImageError("no images: the list is empty; give at least one path, Pillow image or array")
    return np.stack(done)


def normalize(pixels: np.ndarray, mode: str) -> np.ndarray:
    """Apply the arithmetic of one preprocessing mode, in float32 and in Keras's order.

    Parameters
    ----------
    pixels : ndarray (N, H, W, C)
        0 to 255, RGB.
    mode : str
        See `nplrp.Preprocessing`.

    Returns
    -------
    ndarray (N, H, W, C), float32

    Raises
    ------
    ImageError
        If the mode is unknown or is for colour and the pixels are grey.
    """
    bgr, divisor, mean, deviation = arithmetic(mode, pixels.shape[-1])
    x = np.array(pixels[..., ::-1] if bgr else pixels, dtype=np.float32, order="C")
    if divisor is not None:
        x /= np.float32(divisor)
    if mean is not None:
        x -= np.array(mean, dtype=np.float32)
    if deviation is not None:
        x /= np.array(deviation, dtype=np.float32)
    return x


def denormalize(x: np.ndarray, mode: str) -> np.ndarray:
    """Return the pixels that `normalize` made an input of, (N, H, W, C), 0 to 255, RGB.

    Raises
    ------
    ImageError
        As `normalize`.
    """
    bgr, divisor, mean, deviation = arithmetic(mode, x.shape[-1])
    pixels = np.asarray(x, np.float64) * (1.0 if deviation is None else np.array(deviation)) + (0.0 if mean is None else np.array(mean))
    pixels = pixels * (divisor or 1.0)
    return np.ascontiguousarray(pixels[..., ::-1] if bgr else pixels)


def display(pixels: np.ndarray) -> np.ndarray:
    """Turn pixels at the model's size into what a figure shows.

    Parameters
    ----------
    pixels : ndarray (N, H, W, 1 or 3)
        From `load_pixels`.

    Returns
    -------
    ndarray (N, H, W, 3), uint8
    """
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:-1], 3)))


def open_image(
    source: str | os.PathLike[str] | IO[bytes],
    *,
    formats: tuple[str, ...] = FORMATS,
    exif: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_side: int = MAX_SIDE,
    where: str | None = None,
) -> Image.Image:
    """Read one picture file as 8-bit RGB or grey, checking its header before decoding.

    Parameters
    ----------
    source : path or binary file
        What to read.
    formats : tuple of str
        Pillow's names of the formats to accept.
    exif, max_pixels, max_side
        As in `preprocess`.
    where : str, optional
        What messages call the file; the default is its path.

    Raises
    ------
    ImageError
        If it is missing, damaged, of another format, too large, has several frames or pages (MPO, a JPEG with previews, counts as one), or
        thousands of pieces beside its pixels.
    """
    where = where or (str(source) if isinstance(source, str | os.PathLike) else "the image")
    with _opened(source, formats, where) as image:
        _check_size(image.size, max_pixels, max_side, where)
        decoded = _decoded(image, exif, where)
        return decoded.copy() if decoded is image else decoded


def takes_pictures(input_shape: Sequence[int]) -> bool:
    """Whether a model's input [h, w, c] is a picture's: grey, or three colours."""
    return len(input_shape) == 3 and input_shape[2] in (1, 3)


def look(image: ImageLike, *, formats: tuple[str, ...] = FORMATS, max_pixels: int = MAX_PIXELS, max_side: int = MAX_SIDE) -> None:
    """Read a picture file's header, and no more: what is missing, no picture or too large is told before anything else costs time.

    Raises
    ------
    ImageError
        As `open_image`.
    """
    for where, each in _named(image):
        if isinstance(each, str | os.PathLike):
            with _opened(each, formats, where) as opened:
                _check_size(opened.size, max_pixels, max_side, where)


def read_picture(path: str | os.PathLike[str], where: str) -> bytes:
    """Return a picture file's bytes, of a large one only if its pixels can take so many.

    Raises
    ------
    ImageError
    """
    with ExitStack() as stack:
        with _pillow_errors(where):
            file = stack.enter_context(open_plain(path))
            content = file.read(_BESIDE + 1)
        if content is None:  # a pipe of the system's that looks like a file
            raise ImageError(f"{where}: can't be opened: it is no plain file; copy it into one")
        if len(content) <= _BESIDE:
            return content
        with _opened(file, FORMATS, where) as opened:
            _check_size(opened.size, MAX_PIXELS, MAX_SIDE, where)
            width, height = opened.size
        most = _BESIDE + _STORED * width * height
        file.seek(len(content))
        content += file.read(most + 1 - len(content))
        if len(content) > most:
            raise ImageError(
                f"{where}: has more than {most} bytes, too many for {width} x {height} pixels: save it again without what is appended to it"
            )
        return content


def check_resample(name: str | None) -> None:
    """Refuse a filter that there isn't; None is the model's own.

    Raises
    ------
    ImageError
    """
    if name is not None and name not in RESAMPLE:
        raise ImageError(f"unknown resample filter {brief(name)}; there are {', '.join(RESAMPLE)}")


def import_decoders() -> None:
    """Import the usual decoders now: Pillow never tries again where it couldn't, such as for want of a file descriptor."""
    Image.preinit()


@contextmanager
def _opened(source: Any, formats: tuple[str, ...], where: str) -> Iterator[Any]:
    """Read a picture file's header; an image or an array is there already."""
    if isinstance(source, Image.Image | np.ndarray):
        yield source
        return
    with ExitStack() as stack:
        with _pillow_errors(where, formats):
            file = stack.enter_context(open_plain(source)) if isinstance(source, str | os.PathLike) else source
            file = _seekable(file)
            containers.check(file)
            image = stack.enter_context(_open(file, formats))
            # An MPO's further pictures are previews or a second eye, so the first one is the photograph.
            if image.format != "MPO" and getattr(image, "is_animated", False):
                # Counted only where the file says it: to count the pages of a TIFF or a GIF, all of them would be read.
                frames = vars(image).get("n_frames", "several")
                raise ImageError(
                    f"{where}: has {frames} frames or pages, expected one picture: save the one you mean as PNG, "
                    "or open it with Pillow, seek(k), and give that image"
                )
        yield image


def _seekable(file: IO[bytes]) -> IO[bytes]:
    """Return a file that can be read twice, at its start."""
    try:
        file.seek(0)
        return file
    except (AttributeError, io.UnsupportedOperation):
        return io.BytesIO(file.read())


def _open(file: IO[bytes], formats: tuple[str, ...]) -> Image.Image:
    """Open a picture file with the usual decoders, or import the others: that takes longer than most pictures."""
    Image.preinit()
    usual = tuple(name for name in formats if name in Image.OPEN)
    try:
        return Image.open(file, formats=usual)
    except UnidentifiedImageError:
        if usual == formats:
            raise
        return Image.open(file, formats=formats)


def _named(images: ImageLike | Iterable[ImageLike]) -> Iterator[tuple[str, Any]]:
    """Yield every path, binary file, Pillow image or array with the name that messages give it."""
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images = list(images)
    alone = isinstance(images, str | bytes | os.PathLike | Image.Image | np.ndarray) or hasattr(images, "read")
    if not alone and not isinstance(images, Iterable):
        raise ImageError(f"images: expected paths, Pillow images or arrays, found {type(images).__name__}")
    several: Iterable[Any] = [images] if alone else images  # type: ignore[assignment]
    for index, image in enumerate(several):
        where = f"image {index}"
        if isinstance(image, str | os.PathLike):
            yield str(image), image
        elif isinstance(image, Image.Image | np.ndarray):
            yield where, image
        elif hasattr(image, "read"):
            yield image.name if isinstance(getattr(image, "name", None), str) else where, image
        else:
            raise ImageError(f"{where}: expected a path, a binary file, a Pillow image or an array, found {type(image).__name__}")


@contextmanager
def _pillow_errors(where: str, formats: tuple[str, ...] = FORMATS) -> Iterator[None]:
    """Turn whatever Pillow raises or warns of into one ImageError."""
    with warnings.catch_warnings():
        # Odd metadata and a palette's dropped transparency are no reason to print anything.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        except ImageError:
            raise
        except containers.Excess as error:
            raise ImageError(f"{where}: {error}") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            found = str(error).split(",")[0]
            raise ImageError(f"{where}: {found} (Pillow's own, PIL.Image.MAX_IMAGE_PIXELS): make it smaller first") from error
        except UnidentifiedImageError as error:
            names = ", ".join(formats)
            if str(where).lower().endswith((".npy", ".npz")):
                raise ImageError(
                    f"{where}: an array isn't a picture: hand it to nplrp.explain(model, numpy.load(...)) in Python, or as --input X.npy"
                ) from error
            raise ImageError(f"{where}: not a picture, or damaged at its start; expected {names}: convert it to PNG or JPEG") from error
        except OSError as error:
            if error.errno is None:
                raise _damaged(where, error) from error
            raise ImageError(f"{where}: can't be {'opened' if error.filename else 'read'}: {error.strerror}") from error
        except MemoryError:
            raise ImageError(f"{where}: takes more memory than there is: make it smaller first") from None
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
            raise _damaged(where, error) from error


def _damaged(where: str, error: Exception) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"{where}: truncated or damaged, can't be decoded ({reason}): get the file again")


def _check_size(size: tuple[int, ...], max_pixels: int, max_side: int, where: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{where}: has no pixels, its size is {width} x {height}")
    if width * height > max_pixels:
        raise ImageError(
            f"{where}: {width} x {height} is {width * height / 1e6:.1f} megapixels, the limit is {max_pixels / 1e6:g}: "
            "make it smaller first, or raise max_pixels"
        )
    if max(size) > max_side:
        raise ImageError(f"{where}: {width} x {height}, the longest side may be {max_side}: cut it first, or raise max_side")


def _decoded(image: Image.Image, exif: bool, where: str) -> Image.Image:
    """Decode, and bring what Pillow would clip to 8 bits; other modes stay for `_converted`."""
    with _pillow_errors(where):
        file_format = image.format
        file = getattr(image, "fp", None)  # until it is decoded
        if file_format in ("JPEG", "MPO") and file is not None:
            containers.check_scans(file)
        elif file_format == "TIFF":
            _hush_libtiff()
        image.load()
        if exif:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM")):
            return Image.fromarray(_scaled_16_bit(np.asarray(image)))
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            raise ImageError(
                f"{where}: its pixels are 32-bit numbers (Pillow's mode {image.mode!r}) without a known range: "
                "scale them to 0..255 and give a uint8 array"
            )
        return image


@functools.cache
def _hush_libtiff() -> None:
    """Have libtiff not print what Pillow raises anyway, on stderr and without a name; where the library can be reached."""
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(Image.core.__file__)  # it and what it is linked with
        library.TIFFSetErrorHandler.argtypes, library.TIFFSetErrorHandler.restype = [ctypes.c_void_p], ctypes.c_void_p
        library.TIFFSetErrorHandler(None)


def _scaled_16_bit(values: np.ndarray) -> np.ndarray:
    """Scale 0..65535 to 0..255 by 1/257, rounded to the nearest."""
    return ((values.astype(np.int64) + 128) // 257).astype(np.uint8)


def _from_array(array: np.ndarray, where: str) -> Image.Image | np.ndarray:
    """Check an array; return an 8-bit Pillow image, or float32 (H, W, 1 or 3) for floating ones."""
    expected = "expected (H, W), (H, W, 1) or (H, W, 3), or all of them in one array (N, H, W, 1 or 3)"
    if array.ndim == 3 and array.shape[2] == 4:
        raise ImageError(f"{where}: its array has 4 channels, {expected}: drop alpha with array[..., :3]")
    if array.ndim == 2:
        array = array[..., np.newaxis]
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise ImageError(f"{where}: its array is masked in places, which have no value; give them one with array.filled(value)")
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise ImageError(f"{where}: its array has shape {array.shape}, {expected}")
    if array.size == 0:
        raise ImageError(f"{where}: has no pixels, its array has shape {array.shape}")
    if array.dtype == np.uint16:
        array = _scaled_16_bit(array)
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array))
    if not np.issubdtype(array.dtype, np.floating):
        raise ImageError(
            f"{where}: its array has dtype {array.dtype}, expected uint8, uint16 or floating: convert it with .astype(np.uint8)"
        )
    if not np.isfinite(array).all():
        row, column, channel = np.argwhere(~np.isfinite(array))[0]
        raise ImageError(f"{where}: its array holds {array[row, column, channel]} at row {row}, column {column}, channel {channel}")
    low, high = array.min(), array.max()
    if low < 0 or high > 255:
        raise ImageError(
            f"{where}: its array has values from {low:g} to {high:g}, expected 0 to 255: if it is preprocessed already, "
            "hand it to nplrp.explain as it is"
        )
    if 0 < high <= 1:
        raise ImageError(f"{where}: its array has values from {low:g} to {high:g}, expected 0 to 255: multiply it by 255")
    return array.astype(np.float32)


def _converted(image: Image.Image | np.ndarray, channels: int, where: str) -> Image.Image | np.ndarray:
    """Bring a picture to 1 or 3 channels."""
    if isinstance(image, np.ndarray):
        if channels == 1 and image.shape[2] == 3:
            # Pillow's own weights for convert("L"), ITU-R 601-2, without its rounding.
            return image @ (np.array([[19595], [38470], [7471]], dtype=np.float32) / np.float32(65536))
        return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], channels)))
    mode = "L" if channels == 1 else "RGB"
    with _pillow_errors(where):
        return image if image.mode == mode else image.convert(mode)


def _size_between(size: tuple[int, ...], wanted: tuple[int, int], how: Preprocessing, max_pixels: int, where: str) -> tuple[int, int]:
    """Return width and height that a picture is resized to, perhaps to be cut; refuse what that would take too much memory for."""
    (width, height), (rows, columns) = size, wanted
    between = _size_before_crop((width, height), wanted, how) if how.crop else (columns, rows)
    if between[0] * between[1] > max_pixels:
        raise ImageError(f"{where}: {width} x {height} is too narrow to be cut: resized it would be {between[0]} x {between[1]}")
    if between[0] < columns or between[1] < rows:
        raise ImageError(
            f"{where}: resized to {between[0]} x {between[1]} it is smaller than the model's {columns} x {rows}: make resize_to larger"
        )
    if between[0] * height > max_pixels:  # Pillow resizes the rows first, then the columns
        raise ImageError(
            f"{where}: {width} x {height} is too long: resized to a width of {between[0]} it would have "
            f"{between[0] * height / 1e6:.1f} megapixels on the way, the limit is {max_pixels / 1e6:g}: cut it first"
        )
    return between


def _resized(
    image: Image.Image | np.ndarray, size: tuple[int, int], between: tuple[int, int], how: Preprocessing, where: str
) -> np.ndarray:
    """Bring a picture to (H, W), by way of `between`; return uint8 or float32 (H, W, C)."""
    if isinstance(image, np.ndarray):
        planes = [Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[2])]
        resized = [_resized(plane, size, between, how, where)[..., 0] for plane in planes]
        return np.stack(resized, axis=-1).clip(0, 255)  # bicubic and lanczos overshoot
    height, width = size
    with _pillow_errors(where):
        image = image.resize(between, Image.Resampling[how.resample.upper()])
    left, top = round((between[0] - width) / 2), round((between[1] - height) / 2)
    pixels = np.asarray(image)[top : top + height, left : left + width]
    return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels


def _size_before_crop(image: tuple[int, int], size: tuple[int, int], how: Preprocessing) -> tuple[int, int]:
    """Return width and height that a picture is resized to before its centre is cut out, rounded as torchvision's `Resize` does."""
    (width, height), (rows, columns) = image, size
    if how.resize_to is not None:
        by_width, short = width <= height, (how.resize_to, how.resize_to)
    else:
        by_width, short = width * rows <= height * columns, (columns, rows)
    return (short[0], int(short[0] * height / width)) if by_width else (int(short[1] * width / height), short[1])
