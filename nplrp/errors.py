"""The one family of errors that nplrp raises on bad input.

Every message says what is wrong, where, what was expected, what was found, and what to do about it.
"""

import reprlib
from typing import Any


def brief(value: Any, most: int = 80) -> str:
    """Write a value as messages show it: in one line, cut, and however deep it is nested.

    Examples
    --------
    >>> brief([None, "a", [1.5]]), brief("x" * 100, 20)
    ("[None, 'a', [1.5]]", "'xxxxxxxxxxxxxxxx...")
    """
    writer = reprlib.Repr()
    writer.maxlist = writer.maxtuple = writer.maxdict = 20
    writer.maxstring = writer.maxother = writer.maxlong = most
    text = writer.repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


class NplrpError(Exception):
    """Base of every error that nplrp raises on purpose; the command line prints it as one line and exits with 2."""


class WeightsError(NplrpError):
    """A weight file that is missing, damaged, of an unknown layout, or that does not describe a network of supported layers."""


class ImageError(NplrpError):
    """An image that can't be read, or an array that is no image."""


class ModelError(NplrpError):
    """Layers that don't fit together, or a target that the model doesn't have."""


class RuleError(NplrpError):
    """A rule or composite that is unknown, has a parameter out of range, or doesn't fit the layer it was given to."""


class NumericsError(NplrpError):
    """A NaN or an infinity; the message names the layer and the unit."""


class InputWarning(UserWarning):
    """An input that the model can hardly have been trained on, such as pixels as they are; the message names the call to make."""


class OutputError(NplrpError):
    """A result that could not be written; the file that was there before is untouched."""
