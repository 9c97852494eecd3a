"""Golden values: record what LRP gives in float64, check other implementations against it, and say where they differ and why.

>>> from nplrp import golden
>>> recorded = golden.record(model, x, "epsilon_plus", target=0)      # doctest: +SKIP
>>> golden.write(recorded, "dog.lrpgold.h5")                          # doctest: +SKIP
>>> print(golden.check(golden.read("dog.lrpgold.h5"), golden.read_candidate("mine.npz")))   # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "Golden": "values",
    "GoldenError": "errors",
    "GoldenLayer": "values",
    "NothingComparedError": "errors",
    "ProvenanceError": "errors",
    "audit": "auditing",
    "check": "checking",
    "diagnose": "diagnosis",
    "export": "exporting",
    "read": "file",
    "read_candidate": "candidate",
    "record": "recording",
    "recompute": "recording",
    "report_figure": "picture",
    "run_backend": "backend",
    "write": "file",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'nplrp.golden' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"nplrp.golden.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
