"""The parameters of a request: what a client may ask for, checked before anything is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nplrp.errors import ModelError, RuleError, nearest
from nplrp.model import Model
from nplrp.plan import ALGORITHMS
from nplrp.rules.composites import COMPOSITES, STARTS, composite_named
from nplrp.rules.dialects import dialect_named
from nplrp.scores import scoring_of
from nplrp.serve.problems import Problem
from nplrp.serve.settings import Settings
from nplrp.span import INPUT
from nplrp.targets import find_target

ENCODINGS = ("b64", "list", "png")
PICTURES = ("heatmap", "figure", "panel")
#: Filters of a resize, as `nplrp.images.RESAMPLE` (which imports Pillow).
RESAMPLE = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
#: Longer names of composites, and numbers in them, are nobody's.
_LONGEST = 300

Target = int | str | tuple[int | str, ...] | None


@dataclass(frozen=True)
class Wanted:
    """What a request asks for.

    Attributes
    ----------
    composite, dialect, start, dtype, algorithm
        As for `nplrp.explain`.
    target : int, str, tuple of them (one for each instance), or None
        As for `nplrp.explain`; ``"argmax"`` is the largest output, ``"top-3"`` three maps; None is the start's default.
    layers : tuple of str
        Whose relevance is in the answer; ``"input"`` is the image's.
    encoding : str
        ``"b64"`` (little-endian bytes, base64), ``"list"`` (nested lists) or ``"png"`` (a picture, base64).
    ledger : bool
        Whether the answer says where the relevance went; it takes a second pass.
    top : int
        How many labels.
    picture, cmap : str
        Of PNG: ``"heatmap"`` (one pixel for each of the model's), ``"figure"`` (the image beside it) or ``"panel"`` (with a colour
        bar), and a colour map of matplotlib's.
    resample, crop
        How images are brought to the model's size, unless as the model says.
    seen : bool
        Whether the answer has the image at the model's size, before the arithmetic of its preprocessing, as PNG.
    """

    composite: str = "notebook"
    dialect: str | None = None
    target: Target = None
    start: str | None = None
    layers: tuple[str, ...] = (INPUT,)
    encoding: str = "b64"
    ledger: bool = True
    top: int = 5
    dtype: str = "float32"
    algorithm: str = "auto"
    picture: str = "heatmap"
    cmap: str = "rainbow"
    resample: str | None = None
    crop: bool | None = None
    seen: bool = False

    def target_of(self, instance: int) -> int | str | None:
        """Return the target of one instance, as `nplrp.explain` takes it."""
        target = self.target[instance] if isinstance(self.target, tuple) else self.target
        return "top-1" if target == "argmax" else target

    def maps(self) -> int:
        """Return how many maps each instance has."""
        return int(self.target.partition("-")[2]) if isinstance(self.target, str) and self.target.startswith("top-") else 1


_FIELDS = {field.name: field.default for field in dataclasses.fields(Wanted)}
#: What `:predict` takes; `:explain` takes all.
PREDICT = ("top", "dtype", "algorithm", "resample", "crop", "seen")


def read_parameters(given: Mapping[str, Any], texts: Mapping[str, str], model: Model, settings: Settings, verb: str) -> Wanted:
    """Check parameters.

    Parameters
    ----------
    given : mapping
        JSON values.
    texts : mapping
        Of a query or a form, where lists are separated by commas; JSON counts for more.
    model : Model
    settings : Settings
    verb : "predict" or "explain"

    Raises
    ------
    Problem
        bad_parameter, bad_rule or bad_target.
    """
    known = PREDICT if verb == "predict" else tuple(_FIELDS)
    found: dict[str, Any] = {}
    for key, value in ({key: _from_text(key, text) for key, text in texts.items()} | dict(given)).items():
        if key not in known:
            raise Problem("bad_parameter", f"there is no parameter {_quoted(key)} of {verb}; there are {', '.join(known)}")
        if value is not None or _FIELDS[key] is not None:
            found[key] = _READ[key](key, value)
    wanted = Wanted(**found)
    if wanted.dtype not in settings.dtypes:
        raise Problem("bad_parameter", f"dtype {_quoted(wanted.dtype)} isn't served; there is {', '.join(settings.dtypes)} (--dtypes)")
    _check_rules(wanted)
    _check_layers(wanted, model)
    return dataclasses.replace(wanted, target=_target(wanted.target, model))


def _from_text(key: str, text: str) -> Any:
    """Turn a query's or a form's text into what JSON would have."""
    if key in ("ledger", "crop", "seen"):
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    if key == "top":
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text
    if key == "layers":
        return [name.strip() for name in text.split(",")]
    return text


def _quoted(value: Any) -> str:
    """Show a client's own value in a message, short and in one line."""
    text = repr(value) if not isinstance(value, str) else ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _word(key: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
        raise Problem("bad_parameter", f"{key} is {_quoted(value)}; expected a text of 1 to {_LONGEST} letters")
    return value


def _one_of(*choices: str) -> Callable[[str, Any], str]:
    def read(key: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise Problem("bad_parameter", f"{key} is {_quoted(value)}; expected one of {', '.join(choices)}")
        return value

    return read


def _yes_or_no(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise Problem("bad_parameter", f"{key} is {_quoted(value)}; expected true or false")
    return value


def _count(key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 100_000:
        raise Problem("bad_parameter", f"{key} is {_quoted(value)}; expected a whole number from 0 to 100000")
    return value


def _names(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or len(value) > 1000 or not all(isinstance(each, str) for each in value):
        raise Problem("bad_parameter", f"{key} is {_quoted(value)}; expected a list of layers' names, such as ['input']")
    return tuple(dict.fromkeys(value))


def _colour_map(key: str, value: Any) -> str:
    import matplotlib

    if not isinstance(value, str) or value not in matplotlib.colormaps:
        raise Problem("bad_parameter", f"{key} is {_quoted(value)}; expected one of matplotlib's, such as rainbow, seismic, bwr or viridis")
    return str(value)


def _target_value(key: str, value: Any) -> Target:
    several = isinstance(value, list)
    values = value if several else [value]
    if not values or len(values) > 1000 or not all(isinstance(each, (int, str)) and not isinstance(each, bool) for each in values):
        raise Problem(
            "bad_parameter",
            f"{key} is {_quoted(value)}; expected an index, a class id or name, 'argmax', 'top-3', or a list with an index or name for "
            "each instance",
        )
    return tuple(values) if several else value


_READ: dict[str, Callable[[str, Any], Any]] = {
    "composite": _word,
    "dialect": _word,
    "target": _target_value,
    "start": _one_of(*STARTS),
    "layers": _names,
    "encoding": _one_of(*ENCODINGS),
    "ledger": _yes_or_no,
    "top": _count,
    "dtype": _one_of("float32", "float64"),
    "algorithm": _one_of(*ALGORITHMS),
    "picture": _one_of(*PICTURES),
    "cmap": _colour_map,
    "resample": _one_of(*RESAMPLE),
    "crop": _yes_or_no,
    "seen": _yes_or_no,
}


def _check_rules(wanted: Wanted) -> None:
    """Look the composite and the dialect up: presets with parameters only, never a client's path to a file of the server's."""
    name = wanted.composite.partition("(")[0].strip()
    if name not in COMPOSITES:
        raise Problem("bad_rule", f"there is no composite {_quoted(name)}; {nearest(name[:100], COMPOSITES)}")
    if "(" in wanted.composite and not wanted.composite.rstrip().endswith(")"):
        raise Problem("bad_rule", f"{_quoted(wanted.composite)} is no composite; expected name or name(parameter=value, ...)")
    try:
        composite_named(wanted.composite)
        if wanted.dialect is not None:
            dialect_named(wanted.dialect)
    except RuleError as error:
        raise Problem("bad_rule", str(error)) from None
    except (RecursionError, MemoryError, OverflowError, TypeError) as error:  # Python's own parser on nonsense
        raise Problem("bad_rule", f"{_quoted(wanted.composite)} is no composite: {type(error).__name__}") from None


def _check_layers(wanted: Wanted, model: Model) -> None:
    names = [INPUT, *(layer.name for layer in model)]
    for name in wanted.layers:
        if name not in names:
            raise Problem("bad_parameter", f"layers: the model has no layer {_quoted(name)}; {nearest(name[:100], names)}")


def _target(target: Target, model: Model) -> Target:
    """Look targets up, as indices."""
    if target is None or target == "argmax":
        return target
    units = scoring_of(model).classes
    if isinstance(target, str) and target.startswith("top-"):
        digits = target[4:]
        if not (digits.isascii() and digits.isdigit() and len(digits) < 10 and 1 <= int(digits) <= units):
            raise Problem("bad_target", f"target {_quoted(target)}: expected top-1 to top-{units}, as the model has {units} outputs")
        return f"top-{int(digits)}"
    try:
        if isinstance(target, tuple):
            return tuple(find_target(model, each) for each in target)
        return find_target(model, target)
    except (ModelError, ValueError) as error:
        raise Problem("bad_target", " ".join(str(error).split())[:500]) from None
