"""The conformance suite: small, hard cases of every rule on every kind of layer, whose answers are known in each dialect.

`load` gives the cases, `answers_of` asks a backend, `judged` tells what it passes, `export` writes the cases for any language, and
`identified` names the dialect that answers were computed in. On the command line: `nplrp conformance` (docs/conformance.md).
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "Answer": "suite",
    "Case": "suite",
    "Identity": "identify",
    "Outcome": "running",
    "Question": "backends",
    "Refused": "exporting",
    "Result": "running",
    "Suite": "suite",
    "VERSION": "suite",
    "answers_of": "backends",
    "export": "exporting",
    "identified": "identify",
    "identified_run": "identify",
    "judged": "running",
    "load": "suite",
    "read_answers": "exporting",
    "read_xfails": "running",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'nplrp.conformance' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"nplrp.conformance.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
