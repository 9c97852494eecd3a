"""Are explanations any good? `evaluate` measures several composites by several metrics on the same images, and gives an `Evaluation`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp import __version__
from nplrp.errors import NumericsError, nearest
from nplrp.evaluate.errors import EvaluationError
from nplrp.evaluate.partial import Walk
from nplrp.evaluate.perturbing import Bounds, whole
from nplrp.evaluate.predicting import CHUNK, Once, check_features, check_score, scores_of
from nplrp.evaluate.table import ARROWS, HIGHER, ZERO, Job, Metric, Outcome, metrics_named
from nplrp.explanation import Explanation, explain_each
from nplrp.model import Model
from nplrp.plan import make_plan
from nplrp.preprocessing import UNKNOWN, WAY_OUT
from nplrp.rules.composites import Composite, split_names
from nplrp.scores import scoring_of
from nplrp.targets import find_targets, naming_of

#: What is measured unless something else is asked for: nothing that takes more than a hundred forward passes.
DEFAULT = ("deletion", "insertion", "sparseness", "complexity", "completeness")

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What metrics say of composites on some images; prints itself as a table.

    Attributes
    ----------
    about : mapping
        What was measured, and with what: plain JSON values.
    images : tuple of str
        What the inputs are called.
    targets : ndarray [n] of int
        The outputs whose score was followed.
    labels : tuple of dict
        What these are called, and their scores.
    composites : tuple of str
    metrics : tuple of Metric
    outcomes : mapping of (composite, metric) to Outcome
    notes : tuple of str
        What is to be known of the numbers.
    """

    about: Mapping[str, Any]
    images: tuple[str, ...]
    targets: np.ndarray
    labels: tuple[dict[str, Any], ...]
    composites: tuple[str, ...]
    metrics: tuple[Metric, ...]
    outcomes: Mapping[tuple[str, str], Outcome] = field(repr=False)
    notes: tuple[str, ...] = ()

    def __getitem__(self, key: tuple[str, str]) -> Outcome:
        if key not in self.outcomes:
            composite, metric = key if isinstance(key, tuple) and len(key) == 2 else (key, "")
            known = self.composites if composite not in self.composites else [each.name for each in self.metrics]
            wanted = composite if composite not in self.composites else metric
            raise EvaluationError(f"nothing was measured under {key!r}; {nearest(wanted, known)} (evaluation[composite, metric])")
        return self.outcomes[key]

    def summary(self) -> list[dict[str, Any]]:
        """Return mean, standard deviation (n - 1) and number of images of every composite and metric, as JSON values."""
        return [
            {"composite": composite, "metric": metric.name, "better": metric.better, **_moments(self[composite, metric.name].values)}
            for metric in self.metrics
            for composite in self.composites
        ]

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values; what isn't defined is null."""
        images = [
            {
                "image": name,
                "target": label,
                "scores": {
                    composite: {metric.name: _image(self[composite, metric.name], i) for metric in self.metrics}
                    for composite in self.composites
                },
            }
            for i, (name, label) in enumerate(zip(self.images, self.labels, strict=True))
        ]
        return {"about": dict(self.about), "summary": self.summary(), "images": images, "notes": list(self.notes)}

    def __str__(self) -> str:
        head = ["", "", *self.composites]
        rows = [head]
        for metric in self.metrics:
            means = [_moments(self[composite, metric.name].values) for composite in self.composites]
            best = _best(means, metric.better)
            rows.append([metric.name, ARROWS[metric.better], *(_cell(each, i == best) for i, each in enumerate(means))])
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            "  ".join([f"{row[0]:<{widths[0]}} {row[1]}", *(f"{c:<{w}}" for c, w in zip(row[2:], widths[2:], strict=True))]).rstrip()
            for row in rows
        ]
        n = len(self.images)
        spread = "mean ± standard deviation over the images" if n > 1 else "one image"
        star = "; * the best of a row" if len(self.composites) > 1 else ""
        lines.append(f"{n} image{'s' if n != 1 else ''} of {self.about['model']}, score: {self.about['score']}; {spread}{star}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def evaluate(
    model: Model,
    x: np.ndarray,
    composites: str | Composite | Mapping[str, Any] | Sequence[str | Composite | Mapping[str, Any]] = "notebook",
    metrics: str | Metric | Sequence[str | Metric] = DEFAULT,
    *,
    target: Any = None,
    score: str = "probability",
    features: str = "pixels",
    dialect: Any = None,
    start: str | None = None,
    dtype: Any = "float32",
    algorithm: str = "auto",
    seed: int = 0,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure how good composites' explanations of some images are.

    Images that several metrics or composites ask the model about are computed once. No number depends on what else is measured, or on the
    other images (but for metrics that compare images, such as sufficiency).

    Parameters
    ----------
    model : Model
    x : ndarray [n, *input_shape]
        Preprocessed images (`nplrp.preprocess`), or whatever the model takes.
    composites : str, Composite, mapping, or a sequence of them
        As for `nplrp.explain`; a text may name several, with commas between them.
    metrics : str, Metric, or a sequence of them
        Names in `nplrp.evaluate.METRICS`, perhaps with parameters as in ``"pixel_flipping(order=lerf, baseline=mean)"``.
    target : int, str, a sequence of them, or None
        The output that is explained and followed, one for all images or one for each, as for `nplrp.explain`; None: what the composite's
        start explains, and the largest score.
    score : {"probability", "logit"}
        What is followed: the model's own score (of several logits their softmax), or the logit.
    features : {"pixels", "values"}
        What is perturbed, counted and compared: pixels, whose relevance is the sum over their channels, or every value by itself.
    dialect, start, dtype, algorithm
        As for `nplrp.explain`.
    seed : int
        Of everything that is drawn.
    names : sequence of str, or None
        What the images are called.
    progress : callable or None
        Called with (steps done, steps in all, what is done next).

    Returns
    -------
    Evaluation

    Raises
    ------
    EvaluationError
        If a metric, parameter or score is unknown, or there are no images.
    NplrpError
        As `nplrp.explain`.
    """
    chosen = metrics_named(metrics if isinstance(metrics, str | Metric) else list(metrics))
    check_score(score)
    whole(seed, "seed", 0)
    check_features(features)
    runs = _runs(model, composites, dtype, algorithm, dialect)
    x = np.asarray(x)
    if x.shape[:1] == (0,) or x.ndim == 0:
        raise EvaluationError("there are no images to evaluate explanations of; give one at least")
    names = tuple(f"image {i}" for i in range(len(x))) if names is None else tuple(map(str, names))
    if len(names) != len(x):
        raise EvaluationError(f"there are {len(names)} names for {len(x)} images; give one for each")
    wanted = None if target is None else find_targets(model, target, len(x))
    bounds = bounds_of(model, chosen)
    options = {"dtype": dtype, "algorithm": algorithm, "dialect": dialect, "start": start}

    def explained(model: Model, x: np.ndarray, names: Sequence[str], targets: np.ndarray | None) -> list[Explanation]:
        return explain_each(model, x, [runs[name] for name in names], None if targets is None else _as_given(model, targets), **options)

    def shown(relevance: np.ndarray) -> np.ndarray:
        return relevance.sum(axis=-1) if features == "pixels" and relevance.ndim > 2 else relevance

    def maps(model: Model, x: np.ndarray, names: Sequence[str], targets: np.ndarray | None) -> np.ndarray:
        return np.stack([shown(each.relevance) for each in explained(model, x, names, targets)], axis=1)

    def walker(patch: int) -> Walk:
        return Walk(model, (patch, patch), score, dtype, algorithm)

    predict = Once(lambda some: scores_of(model, some, score, dtype, algorithm))
    parts = [metric for metric in chosen if not metric.row.whole]
    wholes = [metric for metric in chosen if metric.row.whole]
    chunks = [slice(at, min(at + CHUNK, len(x))) for at in range(0, len(x), CHUNK)]
    steps = _Steps(progress, len(chunks) * (1 + len(runs) * len(parts)) + len(runs) * len(wholes))
    found: dict[tuple[str, str], list[Outcome]] = {}
    kept: dict[str, list[tuple[np.ndarray, np.ndarray | None]]] = {name: [] for name in runs}
    followed: list[np.ndarray] = []
    labels: list[dict[str, Any]] = []
    for chunk in chunks:
        predict.forget()
        steps.next(f"{names[chunk.start]}: explanations")
        explanations = dict(zip(runs, explained(model, x[chunk], list(runs), None if wanted is None else wanted[chunk]), strict=True))
        some = next(iter(explanations.values())).x
        scores = predict(some)
        targets = scores.argmax(axis=1) if wanted is None else np.asarray(wanted[chunk])
        followed.append(targets)
        labels += [naming_of(model).label(int(t), float(row[t]))._asdict() for t, row in zip(targets, scores, strict=True)]
        explainers = _explainers(model, maps, {name: each.targets for name, each in explanations.items()}, len(some))
        for name, explanation in explanations.items():
            relevance = shown(explanation.relevance)
            if wholes:
                kept[name].append((relevance, explanation.targets))
            asked: dict[str, Any] = {"predict": predict, "explain": explainers[name], "explain_with": _nothing, "walker": walker}
            job = Job(some, relevance, targets, model=model, explanation=explanation, bounds=bounds, seed=seed, **asked)
            for metric in parts:
                steps.next(f"{names[chunk.start]}: {name}, {metric.name}")
                found.setdefault((name, metric.name), []).append(metric(job))
    outcomes = {key: _join(each) for key, each in found.items()}
    targets, notes = np.concatenate(followed), list[str]()
    if wholes:
        relevances = {name: np.concatenate([each for each, _ in kept[name]]) for name in runs}
        those = {name: [each for _, each in kept[name] if each is not None] for name in runs}
        all_targets = {name: np.concatenate(each) if each else None for name, each in those.items()}
        nothing = np.zeros_like(next(iter(relevances.values())))
        for metric in wholes:
            with_models = _explainers_with(maps, x, all_targets, nothing, notes)
            for name, relevance in relevances.items():
                steps.next(f"{name}, {metric.name}")
                asked = {"predict": predict, "explain": _nothing, "explain_with": with_models[name]}
                job = Job(x, relevance, targets, model=model, explanation=None, bounds=bounds, seed=seed, **asked)
                outcomes[name, metric.name] = metric(job)
    steps.next("")
    about = {
        "nplrp": __version__,
        "model": model.name,
        "content_sha256": model.content_hash,
        "composites": list(runs),
        "dialect": None if dialect is None else str(getattr(dialect, "name", dialect)),
        "metrics": [{"name": m.name, "source": m.row.source, "better": m.better, "parameters": dict(m.parameters)} for m in chosen],
        "score": f"{score} of the target" if score == "logit" else f"{_word(model)} of the target",
        "features": features,
        "dtype": str(np.dtype(dtype)),
        "seed": seed,
        "inputs_asked": predict.asked,
        "inputs_computed": predict.computed,
    }
    order = {(name, metric.name): outcomes[name, metric.name] for metric in chosen for name in runs}
    notes += [
        f"{metric}: not defined for {bad} of {len(x)} images by {name}"
        for (name, metric), outcome in order.items()
        if (bad := int(np.count_nonzero(~np.isfinite(outcome.values))))
    ]
    return Evaluation(
        MappingProxyType(about), names, targets, tuple(labels), tuple(runs), chosen, MappingProxyType(order), tuple(dict.fromkeys(notes))
    )


def bounds_of(model: Model, metrics: Sequence[Metric] = ()) -> Bounds | None:
    """Return the values of a black and of a white pixel after preprocessing, [channels] each; None where inputs are no pictures.

    Raises
    ------
    EvaluationError
        If one of the metrics needs them, and nothing tells how the model's pictures were prepared.
    """
    from nplrp.images import normalize

    shape, mode = model.input_shape, model.preprocessing.mode
    if len(shape) != 3 or shape[2] not in (1, 3):
        return None
    if mode == UNKNOWN:
        for metric in metrics:
            parameters = dict(metric.parameters)
            if parameters.get("baseline") in ("black", "uniform") or "radius" in parameters:
                raise EvaluationError(
                    f"{metric.name} needs to know what a black and a white pixel are, and nothing tells how this model's pictures were "
                    f"prepared; {WAY_OUT}, or choose the baseline mean, blur or a number"
                )
        return None
    black, white = (normalize(np.full((1, 1, 1, shape[2]), value, np.float32), mode)[0, 0, 0] for value in (0, 255))
    return black, white


class _Steps:
    """Counts what is done, and tells it."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, -1

    def next(self, what: str) -> None:
        """Say that something is done, and what comes next."""
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total, what)


def _runs(model: Model, composites: Any, dtype: Any, algorithm: str, dialect: Any) -> dict[str, Composite]:
    """Return composites by what a table calls them; each is tried on the model before anything is computed."""
    several = split_names(composites) if isinstance(composites, str) else composites
    several = [several] if isinstance(several, Composite | Mapping) else list(several)
    runs: dict[str, Composite] = {}
    for each in several:
        composite = make_plan(model, each, dtype, algorithm, dialect).composite
        name = each if isinstance(each, str) else composite.name
        runs[name] = composite if dialect is None else make_plan(model, each, dtype, algorithm).composite
    if not runs:
        raise EvaluationError("no composite is given; give one at least, such as 'zplus'")
    return runs


def _as_given(model: Model, targets: np.ndarray) -> Any:
    """Return found targets as `nplrp.explain` takes them: positions, where the output is no vector."""
    if len(model.output_shape) == 1:
        return [int(t) for t in targets]
    return [tuple(int(each) for each in np.unravel_index(t, model.output_shape)) for t in targets]


def _groups(targets: Mapping[str, np.ndarray | None]) -> list[list[str]]:
    """Return composites that explain the same targets together: they can share forward passes."""
    groups: list[list[str]] = []
    for name, own in targets.items():
        for group in groups:
            other = targets[group[0]]
            if own is other or (own is not None and other is not None and np.array_equal(own, other)):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


#: (model, x, composites' names, targets) -> maps [n, composites, ...].
_Maps = Callable[[Model, np.ndarray, Sequence[str], np.ndarray | None], np.ndarray]


def _explainers(model: Model, maps: _Maps, targets: Mapping[str, np.ndarray | None], n: int) -> dict[str, Callable[..., np.ndarray]]:
    """Return by composite what explains batches of the same n images, changed, for the targets of the originals.

    Who asks first has the maps by the others in its group computed as well.
    """
    found: dict[str, Callable[..., np.ndarray]] = {}
    for group in _groups(targets):

        def explain_changed(x: np.ndarray, places: np.ndarray, group: list[str] = group) -> np.ndarray:
            own = targets[group[0]]
            return maps(model, x, group, None if own is None else own[places])

        once = Once(explain_changed, cycle=n)
        found |= {name: partial(_column, once, i) for i, name in enumerate(group)}
    return found


def _explainers_with(
    maps: _Maps, x: np.ndarray, targets: Mapping[str, np.ndarray | None], nothing: np.ndarray, notes: list[str]
) -> dict[str, Callable[..., np.ndarray]]:
    """Return by composite what explains all images by another model; maps are `nothing` where it gives a NaN or an infinity.

    Models are told apart by their sources; maps by others of a group are computed together, if they find room until they are asked for.
    """
    found: dict[str, Callable[..., np.ndarray]] = {}
    for group in _groups(targets):

        def explain_with(model: Model, group: list[str] = group) -> np.ndarray:
            own, made = targets[group[0]], []
            for at in range(0, len(x), CHUNK):
                some = slice(at, at + CHUNK)
                wanted = None if own is None else own[some]
                try:
                    made.append(maps(model, x[some], group, wanted))
                except NumericsError:  # of one of them, at least
                    each = [_finite(maps, model, x[some], name, wanted, nothing[some], notes) for name in group]
                    made.append(np.stack(each, axis=1))
            return np.concatenate(made)

        shared = _Shared(explain_with)
        found |= {name: partial(_column, shared, i) for i, name in enumerate(group)}
    return found


def _finite(
    maps: _Maps, model: Model, x: np.ndarray, name: str, targets: np.ndarray | None, nothing: np.ndarray, notes: list[str]
) -> np.ndarray:
    """Return maps by one composite, or `nothing` if they aren't finite."""
    try:
        return maps(model, x, [name], targets)[:, 0]
    except NumericsError:
        notes.append(f"{name}: some maps of randomised networks are not finite; they are left out of the correlations")
        return nothing


class _Shared:
    """Maps by models that are asked for again and again, once for each composite."""

    def __init__(self, function: Callable[[Model], np.ndarray], size: int = 512_000_000) -> None:
        self._function, self._size = function, size
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, model: Model) -> np.ndarray:
        """Return a model's maps [n, composites, ...]."""
        key = str(model.source)
        maps = self._known.get(key)
        if maps is None:
            maps = self._function(model)
            if maps.shape[1] > 1 and sum(each.nbytes for each in self._known.values()) + maps.nbytes <= self._size:
                self._known[key] = maps
        return maps


def _column(function: Callable[[Any], np.ndarray], i: int, argument: Any) -> np.ndarray:
    return function(argument)[:, i]


def _nothing(x: Any) -> np.ndarray:
    raise AssertionError("this metric's row says that it doesn't call this")


def _join(outcomes: Sequence[Outcome]) -> Outcome:
    """Join what was found of several chunks of images."""
    first = outcomes[0]
    curve = None if first.curve is None else np.concatenate([each.curve for each in outcomes if each.curve is not None])
    parts = {key: np.concatenate([each.parts[key] for each in outcomes]) for key in first.parts}
    return replace(first, values=np.concatenate([each.values for each in outcomes]), curve=curve, parts=MappingProxyType(parts))


def _word(model: Model) -> str:
    scoring = scoring_of(model)
    return "probability" if scoring.what == "logit" and scoring.has_softmax else scoring.what


def _moments(values: np.ndarray) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    mean = float(known.mean()) if len(known) else None
    deviation = float(known.std(ddof=1)) if len(known) > 1 else None
    return {"mean": mean, "std": deviation, "images": len(known)}


def _best(means: Sequence[Mapping[str, Any]], better: str) -> int | None:
    """Return the place of the one best mean; None if there is none, or nothing to choose from."""
    known = [(abs(each["mean"]) if better == ZERO else each["mean"], i) for i, each in enumerate(means) if each["mean"] is not None]
    if not better or len(known) < 2:
        return None
    values = [value for value, _ in known]
    top = max(values) if better == HIGHER else min(values)
    return next(i for value, i in known if value == top) if values.count(top) == 1 else None


def _cell(moments: Mapping[str, Any], best: bool) -> str:
    if moments["mean"] is None:
        return "not defined"
    spread = "" if moments["std"] is None else f" ± {_number(moments['std'])}"
    return f"{_number(moments['mean'])}{spread}{' *' if best else ''}"


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 else f"{value:.2e}"


def _image(outcome: Outcome, i: int) -> dict[str, Any]:
    """Return one image's numbers."""
    found: dict[str, Any] = {"value": _json(outcome.values[i])}
    if outcome.curve is not None:
        found |= {"at": list(outcome.axis), "curve": [_json(each) for each in outcome.curve[i]]}
    return found | {key: _json(each[i]) for key, each in outcome.parts.items()}


def _json(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
