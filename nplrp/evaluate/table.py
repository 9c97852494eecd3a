"""The metrics as a table: what each is called, says and costs, where it comes from, which way is better, and how it runs.

Each row calls one function on arrays (`nplrp.evaluate.faithful` and its neighbours) with what a `Job` has: the inputs of a few images, maps
by one composite, and functions that predict and explain.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from nplrp.errors import RuleError, nearest
from nplrp.evaluate import faithful, randomising, robust, simple
from nplrp.evaluate.errors import EvaluationError
from nplrp.evaluate.perturbing import ORDERS, Bounds
from nplrp.rules.composites import split_names
from nplrp.rules.rule import parse_call

if TYPE_CHECKING:
    from nplrp.evaluate.partial import Walk
    from nplrp.explanation import Explanation
    from nplrp.model import Model

HIGHER, LOWER, ZERO, NEITHER = "higher", "lower", "zero", ""
#: How a table shows which way is better.
ARROWS = MappingProxyType({HIGHER: "↑", LOWER: "↓", ZERO: "0", NEITHER: " "})


@dataclass(frozen=True, eq=False)
class Job:
    """What a metric may look at.

    Attributes
    ----------
    x : ndarray [n, *input_shape]
    relevance : ndarray [n, ...]
        Maps of x: one number a pixel, or a value.
    targets : ndarray [n] of int
        The outputs whose score is followed.
    predict : callable
        (x [m, *input_shape]) -> scores [m, classes].
    explain : callable
        (x [m, *input_shape]) -> maps [m, ...], the i-th for the target of input i modulo n.
    explain_with : callable
        (model) -> maps [n, ...] of x by that model.
    model : Model
    explanation : Explanation or None
        Of x; None for metrics that see all images at once.
    bounds : (ndarray, ndarray) or None
        What a feature's value may be.
    seed : int
    walker : callable or None
        As for `nplrp.evaluate.pixel_flipping`.
    """

    x: np.ndarray
    relevance: np.ndarray
    targets: np.ndarray
    predict: Callable[[np.ndarray], np.ndarray]
    explain: Callable[[np.ndarray], np.ndarray]
    explain_with: Callable[[Model], np.ndarray]
    model: Model
    explanation: Explanation | None
    bounds: Bounds | None
    seed: int
    walker: Callable[[int], Walk | None] | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a metric found.

    Attributes
    ----------
    values : ndarray [n], float64
        NaN where it is not defined.
    curve : ndarray [n, k] or None
        What the values summarise.
    axis : sequence of float or of str
        Where the curve's points are: shares, or layers.
    parts : mapping of str to ndarray [n]
        What else is to be known.
    """

    values: np.ndarray
    curve: np.ndarray | None = None
    axis: tuple[float, ...] | tuple[str, ...] = ()
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A metric.

    Attributes
    ----------
    name : str
    family : str
    says : str
        In a line.
    source : str
    better : callable
        (parameters) -> "higher", "lower", "zero" (the nearer to it) or "".
    run : callable
        (job, **parameters) -> Outcome; the parameters' defaults are those of this function.
    whole : bool
        It sees all images at once.
    steps : str
        What its curve is drawn over; empty: it has none.
    """

    name: str
    family: str
    says: str
    source: str
    better: Callable[[Mapping[str, Any]], str]
    run: Callable[..., Outcome]
    whole: bool = False
    steps: str = ""

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters and their defaults."""
        return {name: each.default for name, each in inspect.signature(self.run).parameters.items() if name != "job"}


@dataclass(frozen=True)
class Metric:
    """A row with its parameters set.

    Attributes
    ----------
    name : str
        As it was asked for.
    row : Row
    parameters : tuple of (str, value)
        All of them.
    """

    name: str
    row: Row
    parameters: tuple[tuple[str, Any], ...]

    @property
    def better(self) -> str:
        """Which way is better: "higher", "lower", "zero" or ""."""
        return self.row.better(dict(self.parameters))

    def __call__(self, job: Job) -> Outcome:
        """Run the metric."""
        return self.row.run(job, **dict(self.parameters))


def _by_order(morf: str, lerf: str) -> Callable[[Mapping[str, Any]], str]:
    better = dict(zip(ORDERS, (morf, lerf, NEITHER), strict=True))
    return lambda parameters: better.get(parameters["order"], NEITHER)


def _flip(job: Job, **parameters: Any) -> faithful.Curves:
    own: dict[str, Any] = {"bounds": job.bounds, "seed": job.seed, "walker": job.walker}
    return faithful.pixel_flipping(job.predict, job.x, job.relevance, job.targets, **own, **parameters)


def _below(curves: faithful.Curves) -> Outcome:
    return Outcome(curves.auc, curves.scores, tuple(map(float, curves.shares)))


def _pixel_flipping(job: Job, order: str = "morf", baseline: Any = "black", step: Any = None, most: Any = None) -> Outcome:
    return _below(_flip(job, order=order, baseline=baseline, step=step, most=most))


def _region_perturbation(
    job: Job, order: str = "morf", baseline: Any = "black", patch: Any = None, step: Any = None, most: Any = None
) -> Outcome:
    if job.x.ndim < 3:
        patch = 1
    patch = max(max(job.x.shape[1:-1], default=1) // 14, 1) if patch is None else patch
    curves = _flip(job, order=order, baseline=baseline, patch=patch, step=step, most=most)
    return Outcome(curves.aopc, curves.scores, tuple(map(float, curves.shares)))


def _deletion(job: Job, baseline: Any = "black", step: Any = None) -> Outcome:
    return _below(_flip(job, baseline=baseline, step=step))


def _insertion(job: Job, baseline: Any = None, step: Any = None) -> Outcome:
    baseline = ("blur" if job.x.ndim > 2 else "black") if baseline is None else baseline
    return _below(_flip(job, baseline=baseline, step=step, insert=True))


def _faithfulness_correlation(job: Job, baseline: Any = "black", subset: Any = 0.1, runs: Any = 100) -> Outcome:
    found = faithful.faithfulness_correlation(
        job.predict, job.x, job.relevance, job.targets, baseline=baseline, subset=subset, runs=runs, bounds=job.bounds, seed=job.seed
    )
    return Outcome(found)


def _sufficiency(job: Job, threshold: Any = 0.6) -> Outcome:
    return Outcome(faithful.sufficiency(job.relevance, job.predict(job.x).argmax(axis=1), threshold=threshold))


def _local_lipschitz(job: Job, samples: Any = 10, radius: Any = 0.02, scale: str = "map") -> Outcome:
    options = {"samples": samples, "radius": radius, "scale": scale, "bounds": job.bounds, "seed": job.seed}
    return Outcome(robust.local_lipschitz(job.explain, job.x, job.relevance, **options))


def _max_sensitivity(job: Job, samples: Any = 10, radius: Any = 0.02) -> Outcome:
    options = {"samples": samples, "radius": radius, "bounds": job.bounds, "seed": job.seed}
    return Outcome(robust.max_sensitivity(job.explain, job.x, job.relevance, **options))


def _completeness(job: Job) -> Outcome:
    from nplrp.evaluate.balance import completeness

    assert job.explanation is not None
    found = completeness(job.explanation)
    return Outcome(found["gap"], parts={key: values for key, values in found.items() if key != "gap"})


def _mprt(job: Job, order: str = "top_down", how: str = "initial", absolute: Any = False) -> Outcome:
    decay = randomising.mprt(job.explain_with, job.model, job.relevance, order=order, how=how, absolute=bool(absolute), seed=job.seed)
    return Outcome(decay.mean, decay.correlations, decay.layers)


def _always(better: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda parameters: better


_FAITHFUL, _SIMPLE, _ROBUST, _AXIOM, _RANDOM = "faithfulness", "complexity", "robustness", "axiom", "randomisation"

#: All metrics by name.
METRICS = MappingProxyType(
    {
        row.name: row
        for row in (
            Row(
                "pixel_flipping",
                _FAITHFUL,
                "area below the score while pixels are replaced, one after the other",
                "Bach et al. 2015",
                _by_order(LOWER, HIGHER),
                _pixel_flipping,
                steps="share of pixels replaced",
            ),
            Row(
                "region_perturbation",
                _FAITHFUL,
                "mean fall of the score while square patches are replaced (AOPC)",
                "Samek et al. 2017",
                _by_order(HIGHER, LOWER),
                _region_perturbation,
                steps="share of patches replaced",
            ),
            Row(
                "deletion",
                _FAITHFUL,
                "area below the score while the most relevant pixels become black",
                "Petsiuk et al. 2018",
                _always(LOWER),
                _deletion,
                steps="share of pixels deleted",
            ),
            Row(
                "insertion",
                _FAITHFUL,
                "area below the score while the most relevant pixels come back into a blurred picture",
                "Petsiuk et al. 2018",
                _always(HIGHER),
                _insertion,
                steps="share of pixels inserted",
            ),
            Row(
                "faithfulness_correlation",
                _FAITHFUL,
                "correlation of the relevance of random sets of pixels with what the score loses without them",
                "Bhatt et al. 2020",
                _always(HIGHER),
                _faithfulness_correlation,
            ),
            Row(
                "sufficiency",
                _FAITHFUL,
                "share of the images with a similar map that have the same class",
                "Dasgupta et al. 2022",
                _always(HIGHER),
                _sufficiency,
                whole=True,
            ),
            Row(
                "sparseness",
                _SIMPLE,
                "Gini index of |R|: how few pixels have most of it",
                "Chalasani et al. 2020",
                _always(HIGHER),
                lambda job: Outcome(simple.sparseness(job.relevance)),
            ),
            Row(
                "complexity",
                _SIMPLE,
                "entropy of the pixels' shares of |R|, in nats",
                "Bhatt et al. 2020",
                _always(LOWER),
                lambda job: Outcome(simple.complexity(job.relevance)),
            ),
            Row(
                "local_lipschitz",
                _ROBUST,
                "how many times as far as the input the map moves, at most",
                "Alvarez-Melis and Jaakkola 2018",
                _always(LOWER),
                _local_lipschitz,
            ),
            Row(
                "max_sensitivity",
                _ROBUST,
                "largest relative change of the map in a neighbourhood of the input",
                "Yeh et al. 2019",
                _always(LOWER),
                _max_sensitivity,
            ),
            Row(
                "completeness",
                _AXIOM,
                "share of the relevance that doesn't arrive at the input, by the ledger",
                "Bach et al. 2015, equation 2",
                _always(LOWER),
                _completeness,
            ),
            Row(
                "mprt",
                _RANDOM,
                "mean rank correlation with the maps of the same network with random weights",
                "Adebayo et al. 2018",
                _always(ZERO),
                _mprt,
                whole=True,
                steps="layers randomised",
            ),
        )
    }
)


def metric_named(name: str | Metric) -> Metric:
    """Return the metric of that name, perhaps with parameters as in ``"pixel_flipping(order=lerf, baseline=mean)"``.

    Raises
    ------
    EvaluationError
        If there is no such metric or parameter.
    """
    if isinstance(name, Metric):
        return name
    if not isinstance(name, str):
        raise EvaluationError(f"a metric is a name such as 'deletion', perhaps with parameters; found a {type(name).__name__}")
    try:
        called, parameters = parse_call(name, "a metric")
    except RuleError as error:
        raise EvaluationError(str(error)) from None
    row = METRICS.get(called)
    if row is None:
        raise EvaluationError(f"there is no metric {called!r}; {nearest(called, METRICS, 'nplrp evaluate --list lists them')}")
    known = row.parameters
    for key in parameters:
        if key not in known:
            raise EvaluationError(f"metric {called!r} has no parameter {key!r}; {nearest(key, known) if known else 'it has none'}")
    return Metric(" ".join(name.split()), row, tuple((known | parameters).items()))


def metrics_named(names: str | Metric | list[Any] | tuple[Any, ...]) -> tuple[Metric, ...]:
    """Return several metrics: a text with commas between them, or a sequence; each once.

    Raises
    ------
    EvaluationError
    """
    several: list[Any] = split_names(names) if isinstance(names, str) else [names] if isinstance(names, Metric) else list(names)
    found = {metric.name: metric for metric in map(metric_named, several)}
    if not found:
        raise EvaluationError(f"no metric is given; {nearest('', METRICS, 'nplrp evaluate --list lists them')}")
    return tuple(found.values())


def listing() -> str:
    """Return all metrics as text, a line each, with their parameters below."""
    lines = []
    for row in METRICS.values():
        arrow = ARROWS[row.better(row.parameters)]
        lines.append(f"{row.name:<25} {arrow} {row.says} ({row.source})")
        if row.parameters:
            lines.append(f"{'':<27} {', '.join(f'{key}={_shown(value)}' for key, value in row.parameters.items())}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return "auto" if value is None else str(value)
