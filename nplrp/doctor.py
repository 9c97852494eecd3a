"""What one pastes into a bug report: versions, CPU, threads, caches, and whether this installation computes the bits that it should."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nplrp import __version__

#: Of the engine, of its compiler, and of the extras.
PACKAGES = ("numpy", "numba", "llvmlite", "h5py", "pillow", "matplotlib")
EXTRAS = ("starlette", "uvicorn", "prometheus-client", "python-multipart", "distributed", "onnx", "quantus", "torch", "tensorflow")
#: Features of x86-64 that kernels are made for, widest first.
FEATURES = ("avx512f", "avx512vl", "avx512bw", "avx512dq", "fma", "avx2", "avx", "sse4.2")
#: Variables that change what is computed, by how many, or where it is kept.
VARIABLES = ("NPLRP_", "NUMBA_", "OMP_", "GOMP_", "KMP_", "XDG_CACHE_HOME", "LD_PRELOAD", "CUDA_VISIBLE_DEVICES")


def examine() -> dict[str, Any]:
    """Return the facts about this installation as JSON values.

    Returns
    -------
    dict
        A table of facts by subject, and ``"problems"``: a list of sentences, empty if all is well. No part that fails stops the others.
    """
    found: dict[str, Any] = {}
    problems: list[str] = []
    parts: Mapping[str, Callable[[], tuple[dict[str, Any], list[str]]]] = {
        "nplrp": _installation,
        "python": _python,
        "packages": _packages,
        "cpu": _cpu,
        "threads": _threads,
        "cache": _cache,
        "weights": _weights,
        "environment": _environment,
        "subnormals": _subnormals,
        "golden": _golden,
    }
    for name, look in parts.items():
        try:
            found[name], wrong = look()
        except Exception as error:  # a broken installation is what this is for
            found[name], wrong = {}, [f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"]
        problems += [f"{name}: {each}" for each in wrong]
    return {**found, "problems": problems}


def report(found: Mapping[str, Any]) -> str:
    """Return what was found as lines of text."""
    lines = []
    for name, facts in found.items():
        if name == "problems":
            continue
        rows = [f"{key} {_said(value)}" for key, value in facts.items()] or ["nothing"]
        if name == "packages":
            rows = [", ".join(rows)]
        lines += [f"{name if not i else '':<13}{row}" for i, row in enumerate(rows)]
    problems = found["problems"]
    lines += ["", *(f"PROBLEM      {each}" for each in problems)] if problems else ["", "No problem was found."]
    return "\n".join(lines)


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _installation() -> tuple[dict[str, Any], list[str]]:
    folder = Path(__file__).parent
    kept = (folder.parent / "pyproject.toml").is_file()
    facts = {"version": __version__, "from": f"a checkout, {_home(folder.parent)}" if kept else _home(folder)}
    try:
        stated = importlib.metadata.version("nplrp")
    except importlib.metadata.PackageNotFoundError:
        return facts, []  # it runs from a checkout that isn't installed
    return facts, [] if stated == __version__ else [f"pip knows version {stated}, the code is {__version__}: install it again"]


def _python() -> tuple[dict[str, Any], list[str]]:
    facts: dict[str, Any] = {"version": f"{platform.python_version()} ({platform.python_implementation()})"}
    facts["system"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    facts["C library"] = " ".join(platform.libc_ver()).strip() or "unknown"
    facts["optimised"] = bool(sys.flags.optimize)
    return facts, []


def _packages() -> tuple[dict[str, Any], list[str]]:
    facts, missing = {}, []
    for name in (*PACKAGES, *EXTRAS):
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name in PACKAGES:
                missing.append(f"{name} isn't installed: pip install --force-reinstall nplrp")
    return facts, missing


def _cpu() -> tuple[dict[str, Any], list[str]]:
    from nplrp.jit.target import cpu, vector_bits

    triple, name, features = cpu()
    there = {each[1:] for each in features.split(",") if each.startswith("+")}
    facts = {
        "name": name,
        "target": triple,
        "vectors": f"{vector_bits()} bits",
        "features": [each for each in FEATURES if each in there] or ["none that are known"],
    }
    slow = platform.machine().lower() in ("x86_64", "amd64") and "fma" not in there
    return facts, ["no FMA: results are the same, and slow"] if slow else []


def _threads() -> tuple[dict[str, Any], list[str]]:
    from nplrp.jit.team import cores, openmp, threads

    facts = {
        "team": threads(),
        "by": "OpenMP (libgomp)" if openmp() else "threads of nplrp's own",
        "cores of this process": cores(),
        "cores of the machine": os.cpu_count() or 0,
        "memory": _memory(),
    }
    more = f"{threads()} threads share {cores()} cores: slower than {cores()}" if threads() > cores() else ""
    return facts, [more] if more else []


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):
        return "unknown"


def _cache() -> tuple[dict[str, Any], list[str]]:
    from nplrp import cache
    from nplrp.jit.cache import cache_directory

    folder = cache_directory()
    facts: dict[str, Any] = {"files": _home(cache.directory())}
    if folder is None:
        return facts, ["no folder can be written to keep compiled kernels, so that every run compiles them: set NPLRP_CACHE to one"]
    sizes = [path.stat().st_size for path in folder.glob("*.bin")]
    facts["kernels"] = f"{_home(folder)}, {len(sizes)} of {sum(sizes) / 2**20:.1f} MiB"
    return facts, []


def _weights() -> tuple[dict[str, Any], list[str]]:
    from nplrp.errors import NplrpError
    from nplrp.files.fetch import find_weights

    try:
        return {"without -w": _home(Path(find_weights()))}, []
    except NplrpError:
        said = os.environ.get("NPLRP_WEIGHTS")
        return {"without -w": "none"}, [f"$NPLRP_WEIGHTS names {_home(Path(said))}, which isn't there"] if said else []


def _environment() -> tuple[dict[str, Any], list[str]]:
    return {name: _home(value) for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)}, []


def _subnormals() -> tuple[dict[str, Any], list[str]]:
    from nplrp.subnormals import flushed_subnormals

    flushed = flushed_subnormals()
    wrong = f"{' and '.join(flushed)} numbers below the normal ones are flushed to zero: a library that was loaded sets FTZ or DAZ"
    return {"kept": not flushed}, [wrong] if flushed else []


def _golden() -> tuple[dict[str, Any], list[str]]:
    from nplrp.serve.selfcheck import cases

    begun, wrong, count = time.perf_counter(), [], 0
    for case, found, expected in cases(("float32", "float64")):
        count += 1
        if found != expected:
            wrong.append(f"{case}: SHA-256 {found}, expected {expected}; trust no result of this installation, and please report it")
    seconds = time.perf_counter() - begun
    return {"recomputed": f"{count - len(wrong)} of {count} cases bit for bit, in {seconds:.1f} s"}, wrong


def _home(path: Any) -> str:
    """Write a path, or a text with one in it, without the user's name."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises without one
    return str(path).replace(home, "~") if len(home) > 1 else str(path)
