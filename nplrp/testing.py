"""For other projects' tests: compare arrays with golden values and fail with the report as the message."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from nplrp.errors import NplrpError
from nplrp.golden.auditing import VACUOUS, vacuity_of
from nplrp.golden.candidate import Candidate, read_candidate, read_map, sorted_out
from nplrp.golden.checking import FAIL_ON, check
from nplrp.golden.errors import DEFAULT_MODE, GoldenError
from nplrp.golden.file import read
from nplrp.golden.judging import DIVERGED, SUSPECT, judge
from nplrp.golden.report import Report
from nplrp.golden.values import UNIT, Golden, GoldenLayer
from nplrp.model import Model

#: What the command line's flags, which reports and errors name, are called in a test.
_ARGUMENTS = {
    "weights": "model=",
    "w": "model=",
    "map": "names=",
    "require-all": "require_all=True",
    "fail-on": "fail_on=",
    **{flag: f"{flag}=" for flag in ("mode", "layout", "precision", "first", "convolutions", "rtol", "atol")},
}


class VacuousToleranceWarning(UserWarning):
    """A tolerance that was given by hand could hide more than one per cent of a layer's relevance."""


def assert_lrp_close(
    actual: np.ndarray | Mapping[str, np.ndarray] | Candidate | str | os.PathLike[str],
    golden: Golden | GoldenLayer | str | os.PathLike[str],
    *,
    mode: str = DEFAULT_MODE,
    precision: str | None = None,
    model: Model | str | os.PathLike[str] | None = None,
    names: Mapping[str, str] | str | os.PathLike[str] | None = None,
    require_all: bool = False,
    fail_on: str = "diverged",
    picture: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Report | None:
    """Raise AssertionError, with the report as its message, if anything diverged.

    Parameters
    ----------
    actual : ndarray, mapping of str to ndarray, or path
        A layer's relevance for a `GoldenLayer`; for `Golden` the input's relevance, arrays under the names that candidates have
        (docs/golden.md), or a file or folder of them.
    golden : Golden, GoldenLayer, or path
    mode : "chained", "isolated" or "local"
        As `nplrp.golden.check`, and as the command line.
    precision : "float16", "float32", "float64" or None
        None goes by the arrays' dtype.
    model : Model, path or None
        With it the report says why the first diverging layer diverges; mode "local" needs it.
    names : mapping, path or None
        A table of layer names: theirs to ours, or a file of it (JSON, or lines "theirs ours").
    require_all : bool
        Fail also if an array that the golden values have isn't among those given.
    fail_on : "diverged" or "suspect"
        Suspect is more than rounding is expected to do, but not more than it can do.
    picture : path or None
        Where to draw the report, if it fails: a PNG.
    **options
        Further arguments of `nplrp.golden.check`: layout, first, convolutions, rtol, atol.

    Raises
    ------
    AssertionError
    NplrpError
        If nothing can be compared, or an argument doesn't fit.

    Warns
    -----
    VacuousToleranceWarning
        If rtol and atol could hide more than one per cent of a layer's relevance: the share that ``golden audit`` prints.
    """
    __tracebackhide__ = True
    failure = None
    try:
        if isinstance(golden, str | os.PathLike):
            golden = read(golden)
        if isinstance(golden, GoldenLayer):
            _warn([golden], options)
            failure = _layer_failure(np.asarray(actual), golden, mode, precision, fail_on, options)
            report = None
        else:
            _warn(golden.layers, options)
            options |= {"mode": mode, "precision": precision, "require_all": require_all, "fail_on": fail_on}
            report = check(golden, _candidate(actual, names), model=_model(model), **options)
            failure = None if report.passed else str(report)
            if failure and picture is not None:
                from nplrp.golden.picture import report_figure
                from nplrp.heatmaps import save_png

                save_png(report_figure(report), picture)
                failure = f"{failure}\npicture: {picture}"
    except NplrpError as error:
        _raise_as_in_python(error)
    if failure:
        raise AssertionError(_as_in_python(failure))
    return report


def _model(model: Model | str | os.PathLike[str] | None) -> Model | None:
    from nplrp import load

    return model if model is None or isinstance(model, Model) else load(model)


def _candidate(
    actual: np.ndarray | Mapping[str, np.ndarray] | Candidate | str | os.PathLike[str],
    names: Mapping[str, str] | str | os.PathLike[str] | None,
) -> Candidate:
    if isinstance(actual, Candidate):
        if names is not None:
            raise GoldenError("names= is for arrays and files; a Candidate has its names already")
        return actual
    table = dict(names) if isinstance(names, Mapping) else {} if names is None else read_map(names)
    if isinstance(actual, str | os.PathLike):
        return read_candidate(actual, table)
    arrays = actual if isinstance(actual, Mapping) else {"relevance": actual}
    return sorted_out({key: np.asarray(each) for key, each in arrays.items()}, {}, table, "actual")


def _layer_failure(
    actual: np.ndarray, layer: GoldenLayer, mode: str, precision: str | None, fail_on: str, options: Mapping[str, Any]
) -> str | None:
    others = sorted(options.keys() - {"rtol", "atol"})
    if others:
        raise GoldenError(f"{', '.join(others)}: a single layer is compared by mode, precision, rtol and atol alone; give the Golden")
    if fail_on not in FAIL_ON:
        raise GoldenError(f"there is no verdict to fail on {fail_on!r}; expected {', '.join(FAIL_ON)}")
    tensor = layer.relevance
    if tensor is None:
        raise GoldenError(f"there is no golden relevance at {layer.name!r}: the pass began below it")
    if actual.shape != tensor.shape:
        return f"relevance of {layer.name!r} has shape {actual.shape}, expected {tensor.shape}"
    got = actual if layer.indices is None else actual.reshape(-1)[layer.indices]
    known = actual.dtype.name if actual.dtype.name in ("float16", "float32") else "float64"
    j = judge(
        got,
        tensor,
        precision=precision or known,
        mode="chained" if mode == "chained" else "isolated",
        indices=layer.indices,
        tolerances=_tolerances(options),
    )
    if j.verdict != DIVERGED and not (fail_on == "suspect" and j.verdict == SUSPECT):
        return None
    return (
        f"relevance of {layer.name!r} {'diverges' if j.verdict == DIVERGED else 'is suspect'} ({mode}) by {j.ratio:.3g} tolerances "
        f"({j.over} of {j.elements} elements over bound, u = {UNIT:.2g}); worst at {j.worst}: got {j.got:.9g} expected {j.expected:.9g} "
        f"tol {j.tolerance:.3g} {j.note}".rstrip()
    )


def _tolerances(options: Mapping[str, Any]) -> tuple[float, float] | None:
    rtol, atol = options.get("rtol"), options.get("atol")
    return None if rtol is None and atol is None else (rtol or 0.0, atol or 0.0)


def _warn(layers: tuple[GoldenLayer, ...] | list[GoldenLayer], options: Mapping[str, Any]) -> None:
    """Say what a tolerance that was given by hand could hide."""
    given = _tolerances(options)
    if given is None:
        return
    found = [vacuity_of(layer.name, layer.relevance, *given) for layer in layers if layer.relevance is not None]
    worst = max(found, key=lambda each: each.certified, default=None)
    if worst is not None and worst.vacuous:
        count = sum(each.vacuous for each in found)
        warnings.warn(
            f"rtol={given[0]:g}, atol={given[1]:g} could hide {worst.certified:.2g} of the relevance of {worst.layer!r}, and more than "
            f"{VACUOUS:.0%} in {count} of {len(found)} layers; leave them out, and the derived tolerances hold",
            VacuousToleranceWarning,
            stacklevel=3,
        )


def _as_in_python(text: str) -> str:
    """Return a report or an error with Python's arguments in place of the command line's flags."""
    return re.sub(r"(?<![\w-])--?([a-z][a-z-]*)(?: (?=[A-Z\d])|\b)", lambda flag: _ARGUMENTS.get(flag[1], flag[0]), text)


def _raise_as_in_python(error: NplrpError) -> NoReturn:
    __tracebackhide__ = True
    raise type(error)(_as_in_python(str(error))) from None
