"""Where compiled kernels are kept between runs.

Numba's own cache doesn't notice an edit in a file that a kernel imports, mixes up entries that two processes write at once, and fails
the program when its files are damaged or no directory is writable. Here every entry is one file named by everything it depends on: the
source of the kernel and of those it imports, the versions of Python, Numba and llvmlite, Numba's settings, the CPU and its features, the
function and its argument types. It carries its own digest; whatever can't be read or written is compiled again, silently.
"""

import contextlib
import functools
import hashlib
import logging
import os
import pickle
import re
import sys
import tempfile
from pathlib import Path

import llvmlite
import numba
from numba.core import config
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from nplrp import cache

#: Compiled versions of one function that are kept: dtypes, CPUs, and states of the sources. The oldest go first.
KEPT = 12
_DIGEST_BYTES = 32
#: Settings that don't change the compiled code.
_IRRELEVANT = ("NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "NUMBA_CACHE", "NUMBA_DEBUG_CACHE", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")


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
    if config.CACHE_DIR:
        roots.insert(0, Path(config.CACHE_DIR))
    return tuple(root / "nplrp-kernels" for root in roots)


@functools.cache
def _readable():
    """Return the directories to look in: an image or an installation may hold kernels where nothing can be written any more."""
    return _places() if not config.CACHE_DIR else tuple(dict.fromkeys(filter(None, (_places()[0], cache_directory()))))


def _writable(directory):
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError:
        return False
    return True


@functools.cache
def _announce():
    """Tell whoever listens, once in a process, that time goes into compiling."""
    kept = "kept for the next time" if cache_directory() else "no folder can be written to keep them: set NPLRP_CACHE to one"
    logging.getLogger(__name__).info("compiling kernels for this CPU, which takes some seconds (%s)", kept)


@functools.cache
def _stamp(module):
    """Return a hash of a kernel module's source, of those it imports, and of all else that shapes the code but the CPU."""
    digest, seen, todo = hashlib.sha256(), set(), [module]
    while todo:
        name = todo.pop()
        source = Path(__file__).with_name(f"{name}.py").read_bytes()
        digest.update(f"{name}\0".encode() + hashlib.sha256(source).digest())
        seen.add(name)
        imports = {
            name
            for module, names in re.findall(r"^from nplrp\.kernels(?:\.(\w+))? import ([\w, ]*)", source.decode(), re.MULTILINE)
            for name in ([module] if module else names.split(", "))
        }
        todo += sorted(imports - seen - set(todo), reverse=True)
    settings = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_") and not item[0].startswith(_IRRELEVANT))
    digest.update(repr((sys.version, numba.__version__, llvmlite.__version__, settings)).encode())
    return digest.hexdigest()


class KernelCache(_Cache):
    """Numba's cache protocol for one function, over one file per compiled signature."""

    def __init__(self, function):
        self._function = function
        self._module = function.__module__.rpartition(".")[2]
        self._prefix = f"{self._module}.{function.__qualname__}-"
        self._enabled = True

    @property
    def cache_path(self):
        """The directory, as Numba's statistics show it."""
        return str(cache_directory())

    def enable(self):
        """Use the cache."""
        self._enabled = True

    def disable(self):
        """Neither read nor write."""
        self._enabled = False

    def flush(self):
        """Forget this function."""
        self._remove(keep=0)

    def load_overload(self, sig, target_context):
        """Return the compiled function, or None."""
        if self._enabled:
            target_context.refresh()
            for directory in _readable():
                try:
                    content = self._path(directory, sig, target_context.codegen()).read_bytes()
                    payload = content[_DIGEST_BYTES:]
                    if hashlib.sha256(payload).digest() == content[:_DIGEST_BYTES]:
                        return CompileResult._rebuild(target_context, *pickle.loads(payload))
                except Exception:  # a damaged entry is no reason to fail: the kernel is compiled instead
                    pass
        _announce()
        return None

    def save_overload(self, sig, data):
        """Write the compiled function, if that is possible."""
        if not self._enabled or cache_directory() is None:
            return
        with contextlib.suppress(Exception):  # a full disk or a removed directory: the next process compiles again
            payload = dumps(data._reduce())
            path = self._path(cache_directory(), sig, data.codegen)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            try:
                temporary.write_bytes(hashlib.sha256(payload).digest() + payload)
                temporary.replace(path)
            except OSError:
                temporary.unlink(missing_ok=True)
            self._remove(keep=KEPT)

    def _path(self, directory, sig, codegen):
        key = repr((_stamp(self._module), codegen.magic_tuple(), self._function.__code__.co_firstlineno, sig))
        return directory / f"{self._prefix}{hashlib.sha256(key.encode()).hexdigest()[:32]}.bin"

    def _remove(self, keep):
        directory = cache_directory()
        if directory is not None:
            files = sorted(directory.glob(f"{self._prefix}*"), key=lambda path: path.stat().st_mtime, reverse=True)
            for path in files[keep:]:
                path.unlink(missing_ok=True)
