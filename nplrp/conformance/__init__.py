"""The conformance suite: small, hard cases of every rule on every kind of layer, whose answers are known in each dialect.

`load` gives the cases, `answers_of` asks a backend, `judged` tells what it passes, `export` writes the cases for any language, and
`identified` names the dialect that answers were computed in. On the command line: `nplrp conformance` (docs/conformance.md).
"""

from nplrp.conformance.backends import Question, answers_of
from nplrp.conformance.exporting import Refused, export, read_answers
from nplrp.conformance.identify import Identity, identified, identified_run
from nplrp.conformance.running import Outcome, Result, judged, read_xfails
from nplrp.conformance.suite import VERSION, Answer, Case, Suite, load

__all__ = [
    "VERSION",
    "Answer",
    "Case",
    "Identity",
    "Outcome",
    "Question",
    "Refused",
    "Result",
    "Suite",
    "answers_of",
    "export",
    "identified",
    "identified_run",
    "judged",
    "load",
    "read_answers",
    "read_xfails",
]
