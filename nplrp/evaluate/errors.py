"""The error of evaluations."""

from nplrp.errors import NplrpError


class EvaluationError(NplrpError):
    """A metric that there isn't, a parameter out of range, or maps and inputs that don't fit each other."""
