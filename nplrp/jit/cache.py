"""Where compiled kernels are kept between runs.

Every entry is one file named by everything that it depends on: the source of the kernel and of all modules that it imports
(`nplrp.jit.dependencies`), the versions of Python, NumPy, Numba and llvmlite, Numba's settings, the CPU and its features, the function and
its argument types. It carries its own digest; whatever can't be read or written is compiled again, silently, and what somebody else could
have written isn't read (`nplrp.cache`). (Numba's own cache doesn't
notice an edit in a file that a kernel imports, mixes up entries that two processes write at once, and fails the program when its files are
damaged or no directory can be written.)
"""

import contextlib
import functools
import hashlib
import importlib.util
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

import llvmlite
import numpy as np

from nplrp import cache
from nplrp.jit import arguments, dependencies, target

#: Compiled versions of one function that are kept: dtypes, CPUs, and states of the sources. The oldest go first.
KEPT = 12
#: Sources whose imports are kept.
_KEPT_SOURCES = 500
_DIGEST_BYTES = 32
#: Settings that don't change the compiled code.
_IRRELEVANT = ("NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "NUMBA_CACHE", "NUMBA_DEBUG_CACHE", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")
_announcing = threading.Lock()
#: When this process began to import kernels.
_BEGUN = time.time()
#: With what it imports it shapes every kernel's code.
_COMPILER = "nplrp.jit.compiler"
#: What is kept here is for everybody who uses the installation.
_INSTALLED = Path(__file__).parent / "__pycache__"


@functools.cache
def cache_directory():
    """Return the directory that compiled kernels are written to as a Path, or None if no place for it can be written.

    The first of these that can be: ``$NUMBA_CACHE_DIR``, ``$NPLRP_CACHE``, ``__pycache__`` beside this file, the user's cache directory.
    """
    return next(filter(_writable, _places()), None)


@functools.cache
def _places():
    """Return every directory that may hold compiled kernels, in the order in which they are tried."""
    roots = [_INSTALLED]
    with contextlib.suppress(RuntimeError):  # no home directory
        roots.insert(0 if os.environ.get("NPLRP_CACHE") else 1, cache.directory())
    if os.environ.get("NUMBA_CACHE_DIR"):
        roots.insert(0, Path(os.environ["NUMBA_CACHE_DIR"]))
    return tuple(root / "nplrp-kernels" for root in roots)


@functools.cache
def _readable():
    """Return the directories to look in: an image or an installation may hold kernels where nothing can be written any more."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    return tuple(dict.fromkeys(filter(None, (_places()[0], cache_directory())))) if given else _places()


def _writable(directory):
    try:
        cache.make(directory, 0o755 if directory.parent == _INSTALLED else 0o700)
    except OSError:
        return False
    return os.access(directory, os.W_OK | os.X_OK)


def announce():
    """Tell whoever listens, once in a process, that time goes into compiling."""
    with _announcing:
        _announce()


@contextlib.contextmanager
def on_first_compile(callback):
    """Call back if the process compiles its first kernel inside the `with` block.

    Parameters
    ----------
    callback : callable
        Takes no arguments; it is called before the kernel is compiled, by the thread that does so.
    """
    _callbacks().append(callback)
    try:
        yield
    finally:
        _callbacks().remove(callback)


@functools.cache
def _callbacks():
    return []


@functools.cache
def _announce():
    kept = "kept for the next time" if cache_directory() else "no folder can be written to keep them: set NPLRP_CACHE to one"
    logging.getLogger(__name__).info("compiling kernels for this CPU, which takes some seconds (%s)", kept)
    for callback in tuple(_callbacks()):
        callback()


def load(function, kinds):
    """Return the object code of a function for types of arguments, or None."""
    with contextlib.suppress(OSError):  # a kernel that isn't kept
        return _read(_name(function, kinds))
    return None


def save(function, kinds, code):
    """Keep object code, if that is possible."""
    with contextlib.suppress(OSError):
        _write(_name(function, kinds), code)
        forget(function, keep=KEPT)


def forget(function, keep=0):
    """Remove all but the `keep` newest entries of a function from the cache directory."""
    _remove_old(_prefix(function), keep)


def _read(name):
    """Return the content of a file whose digest is right, or None."""
    for place in _readable():
        with contextlib.suppress(OSError):
            whole = cache.read(place, name)
            content = whole[_DIGEST_BYTES:]
            if hashlib.sha256(content).digest() == whole[:_DIGEST_BYTES]:
                return content
    return None


def _write(name, content):
    """Write a file with its digest, whole or not at all."""
    directory = cache_directory()
    if directory is None:
        return
    with contextlib.suppress(OSError):
        cache.write(directory, name, hashlib.sha256(content).digest() + content, 0o644 if directory.parent == _INSTALLED else 0o600)


def _remove_old(prefix, keep):
    directory = cache_directory()
    if directory is not None:
        files = sorted(directory.glob(f"{prefix}*"), key=lambda path: path.lstat().st_mtime, reverse=True)
        for path in files[keep:]:
            path.unlink(missing_ok=True)


def _prefix(function):
    return f"{function.__module__}-{function.__qualname__}-"


def _name(function, kinds):
    """Return the name of an entry.

    Raises
    ------
    OSError
        If what the code depends on can't be told: a module without a source, or a function with values of the call that made it.
    """
    if function.__closure__:
        raise FileNotFoundError(f"{function.__qualname__} is a closure")
    key = repr((_stamp(function.__module__), _settings(), function.__code__.co_firstlineno, arguments.name(kinds)))
    return f"{_prefix(function)}{hashlib.sha256(key.encode()).hexdigest()[:32]}.bin"


@functools.cache
def _settings():
    """Return whatever shapes the code, apart from its source and the types of its arguments."""
    numba = Path(importlib.util.find_spec("numba").origin).with_name("_version.py")
    versions = sys.version, np.__version__, llvmlite.__version__, hashlib.sha256(numba.read_bytes()).hexdigest()
    settings = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_") and not item[0].startswith(_IRRELEVANT))
    return versions, settings, target.cpu()


@functools.cache
def _stamp(module):
    """Return a hash of the source of a kernel module and of all that it depends on."""
    return _sources().stamp(module, _COMPILER)


@functools.cache
def _sources():
    """Return the sources, with the imports that earlier processes have found in them: under another name if they were found otherwise."""
    name = f"imports-{hashlib.sha256(Path(dependencies.__file__).read_bytes()).hexdigest()[:32]}.json"
    known = _read(name)

    def keep(known):
        _write(name, json.dumps(dict(list(known.items())[-_KEPT_SOURCES:])).encode())
        _remove_old("imports-", KEPT)

    return dependencies.Sources(known and json.loads(known), keep, _BEGUN)
