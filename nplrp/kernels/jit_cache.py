"""Where compiled kernels are kept between runs.

Every entry is one file named by everything that it depends on: the source of the kernel and of those it imports, the versions of Python,
Numba and llvmlite, Numba's settings, the CPU and its features, the function and its argument types. It carries its own digest; whatever
can't be read or written is compiled again, silently. (Numba's own cache doesn't notice an edit in a file that a kernel imports, mixes up
entries that two processes write at once, and fails the program when its files are damaged or no directory can be written.)
"""

import contextlib
import functools
import hashlib
import importlib.util
import logging
import os
import re
import sys
from pathlib import Path

import llvmlite

from nplrp import cache
from nplrp.kernels import arguments, target

#: Compiled versions of one function that are kept: dtypes, CPUs, and states of the sources. The oldest go first.
KEPT = 12
_DIGEST_BYTES = 32
#: Settings that don't change the compiled code.
_IRRELEVANT = ("NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "NUMBA_CACHE", "NUMBA_DEBUG_CACHE", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")
#: Files that shape every kernel's code.
_COMPILER = ("arguments", "compiling", "target")


@functools.cache
def cache_directory():
    """Return the directory that compiled kernels are written to as a Path, or None if no place for it can be written.

    The first of these that can be: ``$NUMBA_CACHE_DIR``, ``$NPLRP_CACHE``, ``__pycache__`` beside the kernels, the user's cache directory.
    """
    return next(filter(_writable, _places()), None)


@functools.cache
def _places():
    """Return every directory that may hold compiled kernels, the first one asked for first."""
    roots = [Path(__file__).parent / "__pycache__"]
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
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK | os.X_OK)


@functools.cache
def announce():
    """Tell whoever listens, once in a process, that time goes into compiling."""
    kept = "kept for the next time" if cache_directory() else "no folder can be written to keep them: set NPLRP_CACHE to one"
    logging.getLogger(__name__).info("compiling kernels for this CPU, which takes some seconds (%s)", kept)


def load(function, kinds):
    """Return the object code of a function for types of arguments, or None."""
    for place in _readable():
        with contextlib.suppress(OSError):
            content = (place / _name(function, kinds)).read_bytes()
            code = content[_DIGEST_BYTES:]
            if hashlib.sha256(code).digest() == content[:_DIGEST_BYTES]:
                return code
    return None


def save(function, kinds, code):
    """Keep object code, if that is possible."""
    directory = cache_directory()
    if directory is None:
        return
    with contextlib.suppress(OSError):  # a full disk, a removed directory, or a kernel that isn't from here
        path = directory / _name(function, kinds)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(hashlib.sha256(code).digest() + code)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
        forget(function, keep=KEPT)


def forget(function, keep=0):
    """Remove all but the `keep` newest entries of a function from the cache directory."""
    directory = cache_directory()
    if directory is not None:
        files = sorted(directory.glob(f"{_prefix(function)}*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in files[keep:]:
            path.unlink(missing_ok=True)


def _prefix(function):
    return f"{_module(function)}.{function.__qualname__}-"


def _module(function):
    return function.__module__.rpartition(".")[2]


def _name(function, kinds):
    key = repr((_stamp(_module(function)), _settings(), function.__code__.co_firstlineno, arguments.name(kinds)))
    return f"{_prefix(function)}{hashlib.sha256(key.encode()).hexdigest()[:32]}.bin"


@functools.cache
def _settings():
    """Return all but the sources and types that shapes the code."""
    numba = Path(importlib.util.find_spec("numba").origin).with_name("_version.py")
    versions = sys.version, llvmlite.__version__, hashlib.sha256(numba.read_bytes()).hexdigest()
    settings = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_") and not item[0].startswith(_IRRELEVANT))
    return versions, settings, target.cpu()


@functools.cache
def _stamp(module):
    """Return a hash of the source of a kernel module and of those it imports."""
    digest, seen, todo = hashlib.sha256(), set(), [module, *_COMPILER]
    while todo:
        name = todo.pop()
        source, imports = _source(name)
        digest.update(f"{name}\0{source}".encode())
        seen.add(name)
        todo += sorted(imports - seen - set(todo), reverse=True)
    return digest.hexdigest()


@functools.cache
def _source(name):
    """Return a kernel module's digest, and the modules that it imports from here."""
    source = Path(__file__).with_name(f"{name}.py").read_bytes()
    imports = re.findall(r"^from nplrp\.kernels(?:\.(\w+))? import ([\w, ]*)", source.decode(), re.MULTILINE)
    return hashlib.sha256(source).hexdigest(), {each for module, names in imports for each in ([module] if module else names.split(", "))}
