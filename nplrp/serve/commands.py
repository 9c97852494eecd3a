"""The command line: `nplrp serve` and `nplrp warmup`. Each imports only what it needs."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import Any

from nplrp.files.given import Given, given
from nplrp.files.given import add_flags as add_model_flags
from nplrp.serve.problems import ServeError
from nplrp.serve.settings import add_flags, settings_of


def add_commands(commands: Any) -> None:
    """Add ``serve`` and ``warmup`` to the parser of all commands."""
    serve = commands.add_parser(
        "serve",
        help="predictions and explanations over HTTP (needs the extra serve)",
        description="Serve a model over HTTP: a web page, KServe V1 :predict and :explain, health, metrics, /openapi.json.",
    )
    which = serve.add_mutually_exclusive_group()
    which.add_argument("--weights", "-w", metavar="FILE", help="Keras weights or model; default: as for nplrp explain")
    which.add_argument("--demo", action="store_true", help="serve the demonstration's model (needs the extra demo)")
    serve.add_argument("--settings", metavar="FILE.toml", help="options in a file; default: $NPLRP_SERVE_SETTINGS")
    serve.add_argument("--show-settings", action="store_true", help="print all options as such a file, and where each was set; don't serve")
    add_model_flags(serve)
    add_flags(serve)
    serve.set_defaults(run=run_serve)

    warmup = commands.add_parser(
        "warmup",
        help="compile all kernels ahead",
        description="Compile every kernel ahead; keep it in $NPLRP_CACHE if that is set, else beside the package or in the user's cache.",
    )
    warmup.add_argument("--weights", "-w", metavar="FILE", help="also explain once with these, so that their hash is known")
    add_model_flags(warmup)
    warmup.add_argument("--dtype", default="float32", metavar="LIST", help="float32 (default), float64 or both, by comma")
    warmup.set_defaults(run=run_warmup)


def run_serve(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM."""
    from nplrp.serve.configuration import complete, shown

    complete(arguments, os.environ)
    settings = settings_of(arguments)
    if arguments.show_settings:
        print(shown(arguments, settings))
        return 0
    _check_extra()
    os.environ["NUMBA_NUM_THREADS"] = str(settings.numba_threads())  # read when Numba is first imported
    from nplrp.serve.source import Source

    source = Source(given(arguments), arguments.demo)
    if source.demo and source.given != Given():
        raise ServeError("--demo serves a model of its own; leave out what is about a file of weights, or give --weights")
    from nplrp.serve.ports import address, bound, listen

    sock = bound(settings)
    try:
        model = source.load()
        listen(sock, settings)
    except BaseException:
        sock.close()
        raise
    for handler in logging.getLogger("nplrp").handlers:  # what was assumed is said now, not when the server stops
        getattr(handler, "let_go", lambda: None)()
    print(f"nplrp: {model.name} at {address(sock)}, {settings.workers} x {settings.numba_threads()} threads", file=sys.stderr, flush=True)
    if settings.workers > 1:
        from nplrp.serve.workers import supervise

        return supervise(source, settings, sock)
    from nplrp.serve.server import serve

    return serve(model, settings, source.sample, sock)


def run_warmup(arguments: argparse.Namespace) -> None:
    """Compile ahead."""
    from nplrp.jit.cache import cache_directory
    from nplrp.plan import check_dtype
    from nplrp.serve.warmup import warm_up

    dtypes = [check_dtype(each).name for each in arguments.dtype.split(",")]
    directory = cache_directory()
    if directory is None:
        raise ServeError("no folder can be written to keep compiled kernels: set NPLRP_CACHE to one")
    models = [given(arguments).load()] if arguments.weights else []
    before = set(directory.glob("*.bin"))
    count = warm_up(dtypes, models, lambda line: print(line, flush=True))
    for model in models:
        print(f"content sha256 {model.content_hash}")
    print(f"{count} runs, {len(set(directory.glob('*.bin')) - before)} kernels compiled, kept in {directory}")


def _check_extra() -> None:
    """Refuse early and in one line.

    Raises
    ------
    ServeError
        If a package of the extra is missing.
    """
    import importlib.util

    missing = [name for name in ("starlette", "uvicorn", "python_multipart", "prometheus_client") if importlib.util.find_spec(name) is None]
    if missing:
        raise ServeError(f"serving needs packages that aren't installed ({', '.join(missing)}): pip install 'nplrp[serve]'")
