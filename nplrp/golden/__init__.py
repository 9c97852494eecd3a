"""Golden values: record what LRP gives in float64, check other implementations against it, and say where they differ and why.

>>> from nplrp import golden
>>> recorded = golden.record(model, x, "epsilon_plus", target=0)      # doctest: +SKIP
>>> golden.write(recorded, "dog.lrpgold.h5")                          # doctest: +SKIP
>>> print(golden.check(golden.read("dog.lrpgold.h5"), golden.read_candidate("mine.npz")))   # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nplrp.lazy import names_of

if TYPE_CHECKING:  # the table below, for those who read types; a test holds them equal
    from nplrp.golden.auditing import audit
    from nplrp.golden.backend import run_backend
    from nplrp.golden.candidate import read_candidate
    from nplrp.golden.checking import check
    from nplrp.golden.diagnosis import diagnose
    from nplrp.golden.errors import GoldenError, NothingComparedError, ProvenanceError
    from nplrp.golden.exporting import export
    from nplrp.golden.file import read, write
    from nplrp.golden.picture import report_figure
    from nplrp.golden.recording import recompute, record
    from nplrp.golden.values import Golden, GoldenLayer

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

__all__ = [
    "Golden",
    "GoldenError",
    "GoldenLayer",
    "NothingComparedError",
    "ProvenanceError",
    "audit",
    "check",
    "diagnose",
    "export",
    "read",
    "read_candidate",
    "recompute",
    "record",
    "report_figure",
    "run_backend",
    "write",
]

if not TYPE_CHECKING:  # a checker would take every name for one of ours
    __getattr__, __dir__ = names_of(__name__, _PUBLIC)
