"""The one family of errors that nplrp raises on bad input.

Every message says what is wrong, where, what was expected, what was found, and what to do about it.
"""


class NplrpError(Exception):
    """Base of every error that nplrp raises on purpose; the command line prints it as one line and exits with 2."""


class WeightsError(NplrpError):
    """A weight file that is missing, damaged, of an unknown layout, or that does not describe a chain of supported layers."""


class ImageError(NplrpError):
    """An image that can't be read, or an array that is no image."""


class ModelError(NplrpError):
    """Layers that don't fit together, or a target that the model doesn't have."""


class RuleError(NplrpError):
    """A rule or composite that is unknown, has a parameter out of range, or doesn't fit the layer it was given to."""


class NumericsError(NplrpError):
    """A NaN or an infinity; the message names the layer and the unit."""


class OutputError(NplrpError):
    """A result that could not be written; the file that was there before is untouched."""
