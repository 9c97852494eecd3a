"""Where weights are found on this machine, and how the official ones get there.

The download is our own, by the standard library: pooch 1.9, which others use for this, begins again after each break, and half a gigabyte
meets breaks. Here it goes on, unless the server has another version of the file by now (If-Range), and is checked by its hash.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING

from nplrp import __version__, cache
from nplrp.errors import WeightsError
from nplrp.files.locks import locked
from nplrp.pipes import draw, readable

if TYPE_CHECKING:
    import http.client

#: Called with (bytes so far, bytes in all or None if unknown).
Progress = Callable[[int, int | None], None]

#: What stands for the demonstration's model where a file is asked for, unless there is a file of that name.
DEMO = "demo"
_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Download:
    """A file on the net that is known by its content.

    Attributes
    ----------
    url : str
        http or https.
    md5 : str
        Of the whole file, in hexadecimal.
    size : int
        Of the whole file, in bytes; where the server says otherwise, it is believed, and the MD5 decides.
    """

    url: str
    md5: str
    size: int

    @property
    def file_name(self) -> str:
        """The last part of the URL's path."""
        import urllib.parse

        return urllib.parse.urlsplit(self.url).path.rsplit("/", 1)[-1]


#: Keras's ImageNet weights, with the dense layers.
OFFICIAL = MappingProxyType(
    {
        "vgg16": Download(f"{_KERAS}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels.h5", "64373286793e3c8b2b4e3219cbf3544b", 553_467_096),
        "vgg19": Download(f"{_KERAS}/vgg19/vgg19_weights_tf_dim_ordering_tf_kernels.h5", "cbe5617147190e668d6c5d5026f83318", 574_710_816),
    }
)


# Finding


def find_weights(explicit: str | os.PathLike[str] | None = None, name: str = "vgg16") -> Path:
    """Find a weight file: the one named, ``$NPLRP_WEIGHTS``, Keras's cache, our cache, in this order.

    Parameters
    ----------
    explicit : path or None
        ``"demo"``: the demonstration's model, unless there is a file of that name.
    name : str
        ``"vgg16"`` or ``"vgg19"``: whose official file is looked for in the caches.

    Raises
    ------
    WeightsError
        If there is none; the message says how to get one.
    """
    named = {"": explicit, "$NPLRP_WEIGHTS: ": os.environ.get("NPLRP_WEIGHTS") or None}
    for origin, given in named.items():
        if given is not None:
            path = Path(given).expanduser()
            if os.fspath(given) == DEMO and not _exists(path):
                return demo_weights()
            if not _exists(path):
                raise WeightsError(f"{origin}{path}: there is no such file; give the path of Keras weights (.h5, .keras)")
            return path
    file_name = official(name).file_name
    for folder in (keras_directory(), cache_directory()):
        if (folder / file_name).is_file():
            return folder / file_name
    raise WeightsError(
        f"no {name} weights found: neither --weights nor $NPLRP_WEIGHTS is given, and {file_name} is neither in {keras_directory()} nor in "
        f"{cache_directory()}; run 'nplrp fetch {name}' to download it ({official(name).size / 1e6:.0f} MB), or make a file "
        "with 'nplrp import FILE' from PyTorch or ONNX"
    )


def demo_weights() -> Path:
    """Return the file of the demonstration's model, which is made when it is first asked for.

    Raises
    ------
    WeightsError
        As `nplrp.demo.demo_weights`.
    """
    from nplrp.demo import demo_weights

    return demo_weights()


def _exists(path: Path) -> bool:
    """Tell whether there is a file; of a name that no file can have there is none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def official(name: str) -> Download:
    """Return where the official file of a network is.

    Raises
    ------
    WeightsError
        If there is none of that name.
    """
    if name not in OFFICIAL:
        raise WeightsError(f"there are no official weights {name!r}; there are {', '.join(OFFICIAL)}")
    return OFFICIAL[name]


def keras_directory() -> Path:
    """Return where Keras keeps its downloads: ``$KERAS_HOME/models``, by default ``~/.keras/models``."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras").expanduser() / "models"


def cache_directory() -> Path:
    """Return where weights of ours are kept: the user's cache directory (`nplrp.cache`)."""
    return cache.directory()


# Downloading


def fetch(name: str, url: str | None = None, directory: str | os.PathLike[str] | None = None, progress: Progress | None = None) -> Path:
    """Download the official weights of a network into our cache, unless they are there.

    Parameters
    ----------
    name : str
        ``"vgg16"`` or ``"vgg19"``.
    url : str or None
        A mirror of the same file.
    directory : path or None
        Instead of the cache.
    progress : callable or None
        None: a bar on stderr, or a line now and then where stderr is no terminal.

    Returns
    -------
    Path

    Raises
    ------
    WeightsError
        If it can't be downloaded; nothing is left under the final name, and the next call goes on where this one stopped.
    """
    source = official(name)
    target = (cache_directory() if directory is None else Path(directory)) / source.file_name
    try:
        download(Download(url or source.url, source.md5, source.size), target, progress or show_progress(source.file_name))
    except BaseException:
        if progress is None and sys.stderr.isatty():
            sys.stderr.write("\n")  # the bar keeps its line, the error gets one of its own
        raise
    return target


def download(source: Download, target: Path, progress: Progress, attempts: int = 5, timeout: float = 30, pause: float = 1) -> None:
    """Bring a file here whole and checked, or not at all.

    What has come so far is kept in ``<target>.part``, and gone on with if the server can and its file is the same.

    Parameters
    ----------
    source : Download
    target : Path
    progress : callable
    attempts : int
        Failures in a row, without a megabyte between them, before giving up.
    timeout : float
        Seconds without a byte that count as a failure.
    pause : float
        Seconds before the second attempt; doubled each time.

    Raises
    ------
    WeightsError
    """
    import urllib.parse

    if urllib.parse.urlsplit(source.url).scheme not in ("http", "https"):
        raise WeightsError(f"{source.url}: isn't an http or https address")
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target):
            if target.is_file() and file_md5(target) == source.md5:
                return
            resumed = part.exists()
            _complete(source, part, progress, attempts, timeout, pause)
            if resumed and file_md5(part) != source.md5:
                # The old beginning may be of another version of the file than the new end.
                _forget(part)
                _complete(source, part, progress, attempts, timeout, pause)
            found = file_md5(part)
            if found != source.md5:
                _forget(part)
                raise WeightsError(
                    f"{source.url}: the file that came has MD5 {found}, expected {source.md5}; it was deleted: "
                    "the server has another file, or something on the way changed it; try again, or another network"
                )
            part.replace(target)
            _validator(part).unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(f"{target}: can't be written: {error.strerror or error}; choose another place with $NPLRP_CACHE") from error


def _complete(source: Download, part: Path, progress: Progress, attempts: int, timeout: float, pause: float) -> None:
    """Ask until the partial file is as long as the server says the whole is."""
    import http.client
    import urllib.error

    failures, kept = 0, _size(part)
    while True:
        try:
            if _ask(source, part, progress, timeout):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            if error.code == 416:  # nothing lies behind what is here: too much of an older file
                _forget(part)
            elif error.code < 500 and error.code not in (408, 429):
                raise WeightsError(
                    f"{source.url}: {reason}; check the address, or download the file with a browser to {_final(part)}"
                ) from None
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        failures = 1 if _size(part) >= kept + _CHUNK else failures + 1
        kept = _size(part)
        if failures >= attempts:
            raise WeightsError(
                f"{source.url}: {reason}, {failures} times in a row; {kept} bytes are kept, and the same command goes on from there"
            )
        time.sleep(min(pause * 2 ** (failures - 1), 60))


def _ask(source: Download, part: Path, progress: Progress, timeout: float) -> bool:
    """Send one request, append what comes, and say whether the file is complete."""
    import http.client
    import urllib.error
    import urllib.request

    have, validator = _size(part), _read(_validator(part))
    headers = {"User-Agent": f"nplrp/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = validator
    try:
        answer = urllib.request.urlopen(urllib.request.Request(source.url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range", "") == f"bytes */{have}":
            return True  # all of it was here already
        raise
    with answer:
        start, total = _range_of(answer)
        if start not in (0, have):
            raise http.client.HTTPException(f"the server sends bytes from {start}, asked for from {have}")
        _check_space(part, (total or source.size) - start)
        if start == 0:
            _keep_validator(part, answer.headers)
        with part.open("ab" if start else "wb") as file:
            done = start
            progress(done, total or source.size)
            while block := _receive(answer):
                done += len(block)
                if done > (total or source.size):
                    break
                file.write(block)
                progress(done, total or source.size)
    if done > (total or source.size):
        _forget(part)
        raise WeightsError(
            f"{source.url}: the server sends more than the {total or source.size} bytes that the file should have; nothing of it is kept: "
            "check the address, or try again"
        )
    return done == total if total is not None else done >= source.size


def _range_of(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Return where an answer's bytes begin in the file, and how long the file is, None if the server doesn't say."""
    import http.client

    if answer.status != 206:
        length = answer.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    value = answer.headers.get("Content-Range", "")  # like "bytes 100-199/200"
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", value)
    if not found:
        raise http.client.HTTPException(f"the server sends a part without saying which (Content-Range {value!r})")
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _receive(answer: http.client.HTTPResponse) -> bytes:
    import urllib.error

    try:
        return answer.read1(_CHUNK)
    except OSError as error:  # also TLS's own; must not be taken for a failure to write
        raise urllib.error.URLError(error) from error


def _keep_validator(part: Path, headers: http.client.HTTPMessage) -> None:
    """Remember by what the server's file can be told from a later version of it."""
    tag = headers.get("ETag", "")
    value = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
    if value:
        _validator(part).write_text(value, "latin-1")
    else:
        _validator(part).unlink(missing_ok=True)


def _check_space(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise WeightsError(
            f"{part.parent}: {needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free; "
            "free some space, or set $NPLRP_CACHE to a folder on another disk"
        )


def _validator(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _final(part: Path) -> Path:
    return part.with_name(part.name.removesuffix(".part"))


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _read(path: Path) -> str:
    with suppress(FileNotFoundError):
        return path.read_text("latin-1")
    return ""


def file_md5(path: Path) -> str:
    """Return a file's MD5 in hexadecimal: what Keras publishes; it tells damage, not malice."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def show_progress(label: str, stream: IO[str] | None = None) -> Progress:
    """Return a `Progress` that draws a bar on a terminal, and elsewhere writes a line for every tenth.

    Parameters
    ----------
    label : str
        Written before it.
    stream : file or None
        None: stderr.
    """
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    width, shown = 30, -1

    def show(done: int, total: int | None) -> None:
        nonlocal shown
        share = min(done / total, 1.0) if total else 0.0
        step = int(share * (1000 if terminal else 10)) if total else done >> 26
        if step == shown:
            return
        shown = step
        text = f"{label} {done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else f"{label} {done / 1e6:.0f} MB"
        if terminal:
            bar = "#" * int(share * width)
            draw(stream, f"\r{readable(text)} [{bar:<{width}}] {share:4.0%}" + ("\n" if share == 1 else ""))
        else:
            stream.write(f"{text} ({share:.0%})\n")
        stream.flush()

    return show
