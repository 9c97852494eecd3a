"""The conformance suite: small, hard cases of every rule on every kind of layer, whose answers are known in each dialect.

`load` gives the cases, `answers_of` asks a backend, `judged` tells what it passes, `export` writes the cases for any language, and
`identified` names the dialect that answers were computed in. On the command line: `nplrp conformance` (docs/conformance.md).
"""

from __future__ import annotations

from nplrp.lazy import names_of

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


__getattr__, __dir__ = names_of(__name__, _PUBLIC)
