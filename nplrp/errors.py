"""The one family of errors that nplrp raises on bad input.

Every message says what is wrong, where, what was expected, what was found, and what to do about it.
"""

import difflib
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

#: Of so many names all are shown to whoever has mistyped one; of more only those that look like it.
FEW = 8


def brief(value: Any, most: int = 80) -> str:
    """Write a value as messages show it: in one line, cut, and however deep it is nested.

    Examples
    --------
    >>> brief([None, "a", [1.5]]), brief("x" * 100, 20)
    ("[None, 'a', [1.5]]", "'xxxxxxx...xxxxxxxx'")
    """
    writer = reprlib.Repr()
    writer.maxlist = writer.maxtuple = writer.maxdict = 20
    writer.maxstring = writer.maxother = writer.maxlong = most
    text = writer.repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def brief_reason(error: Exception, most: int = 200) -> str:
    """Write what an error of Python or of a library says of a file, as a reason in a message of ours: in one line, cut, never empty.

    Examples
    --------
    >>> brief_reason(ValueError("no  number")), brief_reason(EOFError()), brief_reason(OSError(28, "No space", "x"))
    ('no number', 'EOFError', 'No space')
    """
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join(said.split()) or type(error).__name__
    return text if len(text) <= most else text[: most - 3] + "..."


def nearest(name: Any, names: Iterable[Any], listed: str = "") -> str:
    """Go on about a name that there isn't: with those that look like it, else with all if they are few, else with where they are listed.

    Examples
    --------
    >>> nearest("epsilom", ["zero", "epsilon", "gamma"]), nearest("x", ["zero", "epsilon"])
    ("did you mean 'epsilon'?", 'there are zero, epsilon')
    >>> nearest("Conv_7", [f"conv_{i}" for i in range(20)]), nearest("x", map(str, range(20)), "nplrp info lists them")
    ("did you mean 'conv_7', 'conv_17' or 'conv_9'?", 'there are 20, such as 0, 1, 2 (nplrp info lists them)')
    """
    known = list(dict.fromkeys(map(str, names)))
    wanted, plain = str(name).strip().lower(), {each.lower(): each for each in reversed(known)}
    close = [plain[each] for each in difflib.get_close_matches(wanted, plain, 3, 0.6)]
    close += [each for each in known if len(wanted) > 2 and wanted in each.lower() and each not in close][: 3 - len(close)]
    if close:
        *others, last = (repr(each) for each in close)
        return f"did you mean {', '.join(others)}{' or ' if others else ''}{last}?"
    if len(known) <= FEW:
        return f"there are {', '.join(known)}" if known else "there are none"
    return f"there are {len(known)}, such as {', '.join(known[:3])}{f' ({listed})' if listed else ''}"


class NplrpError(Exception):
    """Base of every error that nplrp raises on purpose; the command line prints it as one line and exits with 2."""


class WeightsError(NplrpError):
    """A weight file that is missing, damaged, of an unknown layout, or that does not describe a network of supported layers."""


class ImageError(NplrpError):
    """An image that can't be read, or an array that is no image."""


class ModelError(NplrpError):
    """Layers that don't fit together, or a target that the model doesn't have."""


class LayerError(ModelError, KeyError):
    """A name that no layer has."""

    __str__ = Exception.__str__  # a KeyError puts its message into quotes


class RuleError(NplrpError):
    """A rule or composite that is unknown, has a parameter out of range, or doesn't fit the layer it was given to."""


class NumericsError(NplrpError):
    """A NaN or an infinity; the message names the layer and the unit."""


class UnitError(NumericsError):
    """A NaN or an infinity of one unit.

    Parameters
    ----------
    what : str
    image : int
        Its number among those that were computed together, see `numbered`.
    unit : tuple of int
        Row, column and channel, or what the layer's output has of these.
    more : str
        What follows in the message.
    """

    def __init__(self, what: str, image: int, unit: tuple[int, ...], more: str) -> None:
        super().__init__(what, image, unit, more)

    def __str__(self) -> str:
        what, image, unit, more = self.args
        return f"{what} at image {image}, unit {unit if len(unit) > 1 else unit[0] if unit else 0}{more}"


@contextmanager
def numbered(images: Sequence[int]) -> Iterator[None]:
    """Let errors in the block, which computes some images, call each by its number among all."""
    try:
        yield
    except UnitError as error:
        what, image, *rest = error.args
        error.args = what, int(images[image]), *rest
        raise


class InputWarning(UserWarning):
    """An input that the model can hardly have been trained on, such as pixels as they are; the message names the call to make."""


class NumericsWarning(UserWarning):
    """The process computes otherwise than it should: it flushes subnormal numbers to zero."""


class OutputError(NplrpError):
    """A result that could not be written; the file that was there before is untouched."""
