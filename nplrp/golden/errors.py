"""Errors of the golden commands, each with the exit code that the command line gives for it."""

from __future__ import annotations

from nplrp.errors import NplrpError

#: Exit codes: everything within its tolerance; something diverged; bad usage or file; other weights or input; nothing to compare.
PASSED, DIVERGED, BAD, PROVENANCE, NOTHING = 0, 1, 2, 3, 4
#: How candidates are taken to have run, unless it is said (`nplrp.golden.report.MODES`).
DEFAULT_MODE = "chained"


class GoldenError(NplrpError):
    """A golden file or a candidate that can't be read or doesn't fit."""

    exit_code = BAD


class ProvenanceError(GoldenError):
    """Values that were computed from other weights, or from another input, than the golden ones."""

    exit_code = PROVENANCE


class NothingComparedError(GoldenError):
    """A candidate that has no array in common with the golden file: that is never a pass."""

    exit_code = NOTHING
