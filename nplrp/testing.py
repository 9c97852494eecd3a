"""For other projects' tests: compare arrays with golden values and fail with the report as the message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nplrp.golden.candidate import Candidate, sorted_out
from nplrp.golden.checking import check
from nplrp.golden.errors import DEFAULT_MODE
from nplrp.golden.judging import DIVERGED, judge
from nplrp.golden.report import Report
from nplrp.golden.values import UNIT, Golden, GoldenLayer


def assert_lrp_close(
    actual: np.ndarray | Mapping[str, np.ndarray] | Candidate,
    golden: Golden | GoldenLayer,
    *,
    mode: str = DEFAULT_MODE,
    precision: str | None = None,
    **options: Any,
) -> Report | None:
    """Raise AssertionError, with the report as its message, if anything diverged.

    Parameters
    ----------
    actual : ndarray, or mapping of str to ndarray
        A layer's relevance for a `GoldenLayer`; arrays under the names that candidates have (docs/golden.md) for `Golden`.
    golden : Golden or GoldenLayer
    mode : "chained" (default), "isolated" or "local"
    precision : "float16", "float32", "float64" or None
        None goes by the arrays' dtype.
    **options
        Further arguments of `nplrp.golden.check`: layout, model, rtol, atol, ...

    Raises
    ------
    AssertionError
    NplrpError
        If nothing can be compared.
    """
    if isinstance(golden, GoldenLayer):
        _assert_layer(np.asarray(actual), golden, mode, precision)
        return None
    if isinstance(actual, np.ndarray):
        actual = {"relevance": actual}
    candidate = actual if isinstance(actual, Candidate) else sorted_out({k: np.asarray(v) for k, v in actual.items()}, {}, {}, "actual")
    report = check(golden, candidate, mode=mode, precision=precision, **options)
    if not report.passed:
        raise AssertionError(str(report))
    return report


def _assert_layer(actual: np.ndarray, layer: GoldenLayer, mode: str, precision: str | None) -> None:
    tensor = layer.relevance
    assert tensor is not None, f"there is no golden relevance at {layer.name!r}"
    assert actual.shape == tensor.shape, f"relevance of {layer.name!r} has shape {actual.shape}, expected {tensor.shape}"
    got = actual if layer.indices is None else actual.reshape(-1)[layer.indices]
    known = actual.dtype.name if actual.dtype.name in ("float16", "float32") else "float64"
    j = judge(got, tensor, precision=precision or known, mode=mode, indices=layer.indices)
    if j.verdict == DIVERGED:
        raise AssertionError(
            f"relevance of {layer.name!r} diverges by {j.ratio:.3g} tolerances ({j.over} of {j.elements} elements over bound, u = "
            f"{UNIT:.2g}); worst at {j.worst}: got {j.got:.9g} expected {j.expected:.9g} tol {j.tolerance:.3g} {j.note}"
        )
