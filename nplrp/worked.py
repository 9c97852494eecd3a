"""Worked examples: one rule on one unit, small enough to follow by hand."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np

from nplrp.explanation import explain
from nplrp.model import INPUT, Layer, build, chain
from nplrp.rules import Rule
from nplrp.rules.composites import LINEAR, Composite
from nplrp.rules.dialects import OWN


def one_unit(
    rule: str | Rule, w: Sequence[float], a: Sequence[float], b: float = 0.0, R: float | None = None, dialect: str = "nplrp"
) -> list[float]:
    """Carry relevance through one unit z = sum_j a_j w_j + b, in float64, rounded to 6 decimals.

    Parameters
    ----------
    rule : str or Rule
        Such as ``"gamma(gamma=0.5)"``.
    w, a : sequences of float
        Weights and inputs.
    b : float
    R : float or None
        The unit's relevance; None is its output z.
    dialect : str

    Examples
    --------
    >>> one_unit("zplus", w=(2, -1), a=(1, 1), b=0.5)
    [1.2, 0.0]
    """
    rule = Rule.parse(rule) if isinstance(rule, str) else rule
    arrays = {"kernel": np.array(w, np.float32)[:, None], "bias": np.array([b], np.float32)}
    model = chain((len(w),), [Layer("unit", "dense", (), (), arrays=MappingProxyType(arrays))])
    start = float(np.dot(w, a) + b) if R is None else R
    composite = Composite("worked", ((LINEAR, rule),))
    found = explain(model, np.array([a], float), composite, dtype="float64", dialect=dialect, start=np.array([[start]]))
    return [round(float(value), 6) + 0.0 for value in found.relevance[0]]


def one_join(rule: str | Rule, kind: str, inputs: Sequence[float], R: float, dialect: str = "nplrp") -> list[float]:
    """Carry relevance through one number that a layer makes of several, in float64, rounded to 6 decimals.

    Parameters
    ----------
    rule : str or Rule
        Such as ``"norm(epsilon=0)"``; ``"dialect"`` is the dialect's own.
    kind : str
        ``"add"``, ``"average"``, ``"subtract"``, ``"maximum"``, ``"minimum"`` or ``"multiply"``.
    inputs : sequence of float
    R : float
        The number's relevance.
    dialect : str

    Examples
    --------
    >>> one_join("norm(epsilon=0)", "add", inputs=(3, -1), R=4)
    [6.0, -2.0]
    """
    names = tuple(f"a{i}" for i in range(len(inputs)))
    eye = np.eye(len(inputs), dtype=np.float32)
    layers = [Layer(name, "dense", inputs=(INPUT,), arrays=MappingProxyType({"kernel": eye[:, i : i + 1]})) for i, name in enumerate(names)]
    model = build((len(inputs),), [*layers, Layer("join", kind, inputs=names)])
    own = None if rule == "dialect" else Rule.parse(rule) if isinstance(rule, str) else rule
    rows = ((LINEAR, Rule("zero")), *([(OWN if own is None else own.fits, own)]))
    found = explain(model, np.array([inputs], float), Composite("worked", rows), dtype="float64", dialect=dialect, start=np.array([[R]]))
    return [round(float(found.relevances[name][0, 0]), 6) + 0.0 for name in names]
