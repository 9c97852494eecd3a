"""Record golden values: one run in float64, its error bounds, and what float32 makes of it from end to end."""

from __future__ import annotations

import dataclasses
import functools
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nplrp import __version__, layers
from nplrp.errors import RuleError
from nplrp.explanation import explain
from nplrp.files.hdf5 import path_name
from nplrp.golden import edges
from nplrp.golden.blocks import in_blocks
from nplrp.golden.bounds import (
    Bounds,
    Forward,
    activation_scales,
    chain_noise,
    forward_bounds,
    relevance_errors,
    start_bounds,
)
from nplrp.golden.errors import GoldenError, ProvenanceError
from nplrp.golden.orders import reordered_runs
from nplrp.golden.threads import side_by_side
from nplrp.golden.values import FORMAT, PROFILES, UNIT, VERSIONS, Golden, GoldenLayer, Scales, Tensor, sha256
from nplrp.golden.whole_run import Progress, Run, whole_run
from nplrp.layers import Step
from nplrp.model import Model
from nplrp.plan import last_sum, make_plan, make_steps
from nplrp.rules.composites import Composite
from nplrp.rules.dialects import Dialect, dialect_named
from nplrp.rules.recorded import composite_of, rule_facts
from nplrp.scores import scoring_of
from nplrp.subnormals import refuse_flushed
from nplrp.targets import find_targets

#: Samples of each array in a digest; and the largest input that it holds whole.
SAMPLES = 576
SMALL_INPUT = 8192
#: Since this version of the file, relevance is computed from the activations that are stored, where batch norms are merged too.
ONE_PASS = 3


def record(
    model: Model,
    x: np.ndarray,
    composite: str | Composite | Mapping[str, Any] = "notebook",
    target: Any = None,
    *,
    dialect: str | Dialect | None = None,
    start: str | None = None,
    profile: str = "full",
    input_name: str = "",
    progress: Progress = lambda what: None,
) -> Golden:
    """Run LRP in float64 and keep everything, with a derived tolerance for each number.

    Parameters
    ----------
    model : Model
    x : ndarray [n, *input_shape]
        Preprocessed images.
    composite, target, dialect, start
        As for `nplrp.explain`; one target for each image.
    profile : "full" or "digest"
        Every number, or hashes, sums and 576 seeded samples of each array.
    input_name : str
        What to call the input in reports.
    progress : callable
        Told what is being done.

    Raises
    ------
    GoldenError
        If the profile is unknown, or there are no images or several maps for an image.
    NumericsError
        If this process flushes subnormal numbers to zero, or a number isn't finite.
    """
    return _recorded(model, x, composite, target, dialect, start, profile, input_name, progress)


def check_profile(profile: str) -> None:
    """Raise `GoldenError` if there is no such profile."""
    if profile not in PROFILES:
        raise GoldenError(f"there is no profile {profile!r}; expected {' or '.join(PROFILES)}")


def _recorded(
    model: Model,
    x: np.ndarray,
    composite: str | Composite | Mapping[str, Any],
    target: Any,
    dialect: str | Dialect | None,
    start: str | None,
    profile: str,
    input_name: str = "",
    progress: Progress = lambda what: None,
    version: int = VERSIONS[-1],
) -> Golden:
    """Record as `record` does, or as it was done for an older version of the file."""
    check_profile(profile)
    refuse_flushed()
    last = model.layers[-1].name if model.layers else None
    if scoring_of(model).binary:
        target = 1 if target is None else target
        found = find_targets(model, target, len(x))
        if found is not None and not np.all(found == 1):
            raise GoldenError("golden values are the network's own, whose one sigmoid unit speaks for class 1; leave out the target")
    checked = explain(model, x, composite, target, until=last, dialect=dialect, start=start)  # one quick pass: do the arguments fit?
    if not len(checked.x) or (checked.targets is not None and len(checked.targets) != len(checked.x)):
        raise GoldenError(
            f"golden values hold one map for each of at least one image, not {len(checked.relevance)} of {len(checked.x)}; record each"
        )
    if checked.plan.composite.gradient:
        raise RuleError(f"{checked.plan.composite.name!r} is a gradient: tolerances are derived for the rules of LRP; choose one of these")
    progress("float64 run")
    plan = make_plan(model, composite, "float64", "direct", dialect)
    largest = target is None and checked.targets is not None
    chosen = None if checked.targets is None else [int(t) for t in checked.targets]
    e = whole_run(plan, np.asarray(x, np.float64), str(checked.start), chosen, largest, one_pass=version >= ONE_PASS)
    facts = _facts(e, "full", input_name)
    layers, facts["runs"] = _layers(e, progress)
    golden = Golden(facts, tuple(layers), e.x, e.trace.output.copy(), e.trace.logits.copy())
    facts["content_sha256"] = golden.content_sha256
    return golden if profile == "full" else digest_of(golden)


def digest_of(golden: Golden) -> Golden:
    """Return what a digest keeps of whole golden values."""
    facts = {**golden.facts, "profile": "digest"}
    indices = {layer.name: _places(layer, facts["content_key"]) for layer in golden.layers}
    layers = tuple(_sampled(layer, indices) for layer in golden.layers)
    x = golden.input if golden.input is not None and golden.input.size <= SMALL_INPUT else None
    digest = Golden(facts, layers, x, golden.output, golden.logits)
    facts["content_sha256"] = digest.content_sha256
    return digest


def recompute(golden: Golden, model: Model, x: np.ndarray | None = None) -> list[str]:
    """Record a golden run again and name every array whose bits differ; an empty list is a pass.

    Parameters
    ----------
    golden : Golden
    model : Model
    x : ndarray [n, *input_shape] or None
        The preprocessed input, for a digest that doesn't hold it.

    Raises
    ------
    ProvenanceError
        If the model's weights or the input are others than the recorded ones.
    GoldenError
        If the file doesn't hold the input and none is given.
    """
    x = golden.input if x is None else np.asarray(x)
    if x is None:
        raise GoldenError("this digest doesn't hold its input, which is large; give the image or tensor that was recorded")
    check_recorded(golden, model, x)
    facts = golden.facts
    composite, dialect = rebuilt_composite(facts), rebuilt_dialect(facts)
    shape, targets = model.output_shape, facts["targets"]
    if targets is not None and len(shape) > 1:  # places, row by row
        targets = [tuple(int(each) for each in np.unravel_index(target, shape)) for target in targets]
    again = _recorded(model, x, composite, targets, dialect, facts["start"], golden.profile, version=facts["format_version"])
    old, new = dict(golden.arrays()), dict(again.arrays())
    other = [path for path in old if path not in new or old[path].tobytes() != new[path].tobytes()]
    for mine, theirs in zip(golden.layers, again.layers, strict=True):
        path = f"layers/{path_name(mine.name)}"
        pairs = [(f"{path}/{what}", getattr(mine, what), getattr(theirs, what)) for what in ("activation", "relevance")]
        pairs += [(f"{path}/edges/{path_name(name)}/relevance", edge, theirs.edges.get(name)) for name, edge in mine.edges.items()]
        for place, one, two in pairs:  # by hash, since a digest has only samples
            if place not in other and one is not None and two is not None and one.sha256 != two.sha256:
                other.append(place)
    return other


def check_recorded(golden: Golden, model: Model, x: np.ndarray) -> None:
    """Stop if a model or an input isn't the one that was recorded.

    Raises
    ------
    ProvenanceError
    """
    check_weights(golden, model)
    facts = golden.facts
    if sha256(x) != facts["input_sha256"]:
        raise ProvenanceError(
            f"this is another input: SHA-256 {sha256(x)}, recorded was {facts['input_sha256']}; give the tensor that was recorded"
        )


def check_weights(golden: Golden, model: Model) -> None:
    """Stop if a model isn't the one that was recorded.

    Raises
    ------
    ProvenanceError
    """
    if model.fresh_hash() != golden.facts["weights_sha256"]:
        raise ProvenanceError(
            f"these are other weights: {model.source or model.name} has content SHA-256 {model.content_hash}, "
            f"the golden values were recorded with {golden.facts['weights_sha256']}; give the model that was recorded"
        )


def rebuilt_composite(facts: Mapping[str, Any]) -> Composite:
    """Return the composite that a file describes rule by rule, so that presets may change without changing old files."""
    rules = [(layer["name"], layer["rule"]) for layer in facts["layers"]]
    return composite_of(str(facts["composite"]), rules, facts["start"], facts.get("slopes", ""))


def rebuilt_dialect(facts: Mapping[str, Any]) -> Dialect | None:
    """Return the dialect that a rebuilt composite needs, which has every constant itself: one with stand-ins, if there were any."""
    return dataclasses.replace(dialect_named("nplrp"), stand_ins=True) if facts.get("stand_ins") else None


def _layers(e: Run, progress: Progress) -> tuple[list[GoldenLayer], list[dict[str, Any]]]:
    """Return every layer's golden values, in forward order, and what the float32 runs were."""
    plan, trace = e.plan, e.trace
    names, above = edges.names_of(plan.steps), edges.readers(plan.steps)
    activations, relevances = e.activations, e.relevances
    own = make_steps(e.model, plan.dtype, plan.algorithm, merge=False)
    R = [relevances[name] for name in names]
    back, bounds, shares = dict[int, np.ndarray](), dict[int, Bounds](), dict[int, dict[int, edges.Share]]()
    sums = dict[int, Scales | None]()

    def bound(i: int) -> None:
        """Bound what step i gives back; all relevance is there, so that each step stands for itself."""
        progress(f"bounds of relevance: {names[i + 1]}")
        back[i] = edges.given_back(plan, trace, R, above, i)
        whole = len(plan.steps[i].inputs) == 1  # what it works on is one layer's output
        bounds[i], sums[i] = relevance_errors(plan, i, trace, R[i + 1], back[i] if whole else None)
        shares[i] = edges.cut_bounds(plan.steps[i], back[i], bounds[i])

    jobs: list[Callable[[], Any]] = [lambda: _forward(e, own, progress)]
    jobs += [functools.partial(bound, i) for i in range(len(plan.steps) - 1, -1, -1)]
    (forward, scales), *_ = side_by_side(lambda job: job(), jobs)
    top = start_errors(e.model, plan.steps, trace.activations, trace.logits, e.start, relevances[names[-1]], None)
    of_sums = {names[-1]: top}
    for j, readers in above.items():
        if readers:
            of_sums[names[j + 1]] = edges.add([shares[i][j] for i in readers]).bounds

    def noise_of(i: int) -> tuple[np.ndarray, np.ndarray]:
        step = plan.steps[i]
        z = trace.logits if step.score else trace.activations[i + 1]
        error = _sum_errors(step, own[i], layers.gather(step, trace.activations), forward[step.name])
        return chain_noise(step, error, z.reshape(error.shape)), chain_noise(step, bounds[i].expected, back[i])

    noise = side_by_side(noise_of, range(len(plan.steps)))
    spreads, shifts, runs = reordered_runs(e, [there for there, _ in noise], [back for _, back in noise], progress)

    def put_together(i: int) -> GoldenLayer:
        name = names[i]
        kind, rule = ("input", "") if i == 0 else (e.model.layers[i - 1].kind, str(plan.rules[i - 1]))
        of_sum, ambiguous, _ = forward[name]
        of_sum = of_sum._replace(undecided=np.zeros(activations[name].shape))
        activation = tensor_of(activations[name], of_sum, spreads[name, "activation"], scales.get(name), shifts[name, "activation"])
        alone = sums[above[i - 1][0]] if len(above[i - 1]) == 1 else None
        relevance = tensor_of(relevances[name], of_sums[name], spreads[name, "relevance"], alone, shifts[name, "relevance"])
        given = {names[j + 1]: share for j, share in shares.get(i - 1, {}).items() if len(above[j]) > 1}
        of_edges = {other: tensor_of(*share, np.zeros((0, 2)), sums[i - 1]) for other, share in given.items()}
        in_order = dict(sorted(of_edges.items(), key=lambda item: path_name(item[0])))
        return GoldenLayer(name, kind, rule, activation, relevance, None, ambiguous, int(ambiguous.sum()), in_order)

    progress("tolerances")
    return side_by_side(put_together, range(len(names))), runs


def _forward(e: Run, steps: Sequence[Step], progress: Progress) -> tuple[dict[str, Forward], dict[str, Scales | None]]:
    """Bound the error of every layer's activation, and sums over it."""
    exact, names = np.zeros(e.x.shape), edges.names_of(steps)
    found = {names[0]: Forward(Bounds(exact, exact, exact), np.zeros(e.x.shape, bool), UNIT * np.abs(e.x))}
    outputs, carried = [e.activations[name] for name in names], [found[names[0]].carried]
    scales = dict[str, Scales | None]()
    for step in steps:
        progress(f"bounds of activations: {step.name}")
        a, error = layers.gather(step, outputs), layers.gather(step, carried)
        found[step.name] = forward_bounds(step, a, e.activations[step.name], error)
        carried.append(found[step.name].carried)
        scales[step.name] = activation_scales(step, e.activations[step.name], found[step.name].bounds.expected)
    return found, scales


def _sum_errors(step: Step, own: Step, a: np.ndarray, known: Forward) -> np.ndarray:
    """Return the expected error of a plan's step, which a batch norm may be merged into, before its activation."""
    if step.weight is own.weight or step.weight is None or (own.weight is not None and np.array_equal(step.weight, own.weight)):
        return known.carried
    z = np.zeros((len(a), *step.output_shape))
    return forward_bounds(dataclasses.replace(step, activation="linear"), a, z, np.zeros(a.shape)).carried


def start_errors(
    model: Model, steps: Sequence[Step], inputs: Sequence[np.ndarray], logits: np.ndarray, start: str, top: np.ndarray, known: Bounds | None
) -> Bounds:
    """Bound the error of what a pass begins with.

    Parameters
    ----------
    model : Model
    steps : sequence of Step
        Of a plan.
    inputs : sequence of ndarray
        Activations of the input and every step.
    logits : ndarray [n, units]
    start : str
    top : ndarray
        What it begins with.
    known : Bounds or None
        Error of the logits beside that of the last layer's own sums.
    """
    last = last_sum(steps)
    exact = np.zeros(logits.shape)
    numbers, soft = Bounds(exact, exact, exact), start == "softmax" and scoring_of(model).has_softmax
    if last >= 0:
        a, before = layers.gather(steps[last], inputs), start != "softmax" or soft
        step = dataclasses.replace(steps[last], activation="linear") if before else steps[last]
        numbers = forward_bounds(step, a, logits.reshape(-1, *step.output_shape), np.zeros(a.shape)).bounds
        numbers = Bounds(*(each.reshape(logits.shape) for each in numbers))
    if known is not None:
        numbers = Bounds(numbers.expected + known.expected, numbers.certified + known.certified, exact)
    found = start_bounds(start, top.reshape(logits.shape), numbers, soft)
    return Bounds(*(each.reshape(top.shape) for each in found))


def tensor_of(
    values: np.ndarray,
    bounds: Bounds,
    spread: np.ndarray | None = None,
    scales: Scales | None = None,
    shifts: np.ndarray | None = None,
) -> Tensor:
    """Put an array together with its tolerances; without a spread it isn't to be stored, and not hashed."""
    values = np.ascontiguousarray(values, np.float64)
    size = np.abs(values)
    sums = (math.fsum(layers.sums(values)), math.fsum(layers.sums(size)), float(size.max(initial=0.0)))
    expected, certified, undecided = (in_blocks(_rounded_up, each) for each in bounds)
    shifts = np.zeros((0, 2)) if shifts is None else shifts
    if spread is None:
        return Tensor(values.shape, values, expected, certified, undecided, np.zeros((0, 2)), "", sums, scales, shifts)
    return Tensor(values.shape, values, expected, certified, undecided, spread, sha256(values), sums, scales, shifts)


def _rounded_up(bound: np.ndarray) -> np.ndarray:
    """Return a bound as float32, never smaller than it was."""
    single = np.minimum(bound, np.finfo(np.float32).max).astype(np.float32)
    return np.where(single < bound, np.nextafter(single, np.float32(np.inf)), single)


def _short(bound: np.ndarray) -> np.ndarray:
    """Round a float32 bound up to 8 bits of mantissa, so that it packs well."""
    bits = np.ascontiguousarray(bound, np.float32).view(np.uint32)
    return ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)


def _places(layer: GoldenLayer, key: str) -> np.ndarray:
    """Return the places of a layer's samples: half of them anywhere, half where relevance isn't zero."""
    total = layer.activation.values.size
    seed = np.frombuffer(bytes.fromhex(key), np.uint32)
    rng = np.random.Generator(np.random.PCG64([*map(int, seed), *layer.name.encode()]))
    if total <= SAMPLES:
        indices = np.arange(total)
    else:
        R = layer.relevance.values if layer.relevance else layer.activation.values
        alive = np.flatnonzero(R)
        chosen = alive[np.unique(rng.integers(0, len(alive), SAMPLES // 2))] if len(alive) else np.zeros(0, int)
        indices = np.unique(np.concatenate([chosen, rng.integers(0, total, SAMPLES // 2)]))
    return indices.astype(np.uint32 if total < 2**32 else np.uint64)


def _sampled(layer: GoldenLayer, places: Mapping[str, np.ndarray]) -> GoldenLayer:
    """Reduce a layer to samples; an edge has those of its input."""
    own = places[layer.name]
    relevance = None if layer.relevance is None else _taken(layer.relevance, own)
    of_edges = {name: _taken(edge, places[name]) for name, edge in layer.edges.items()}
    activation = _taken(layer.activation, own)
    return dataclasses.replace(layer, activation=activation, relevance=relevance, indices=own, ambiguous=None, edges=of_edges)


def _taken(tensor: Tensor, indices: np.ndarray) -> Tensor:
    expected, certified, undecided = (_short(bound.reshape(-1)[indices]) for bound in (tensor.expected, tensor.certified, tensor.undecided))
    values = tensor.values.reshape(-1)[indices]
    scales = None if tensor.scales is None else Scales(tensor.scales.layer, np.zeros((0, 2)))  # channels' sums aren't kept
    return dataclasses.replace(tensor, values=values, expected=expected, certified=certified, undecided=undecided, scales=scales)


def _facts(e: Run, profile: str, input_name: str) -> dict[str, Any]:
    """Return where the numbers come from, as JSON values."""
    plan, model, how = e.plan, e.model, e.model.preprocessing
    table: list[dict[str, Any]] = [{"name": "input", "kind": "input", "rule": None, "output_shape": list(model.input_shape)}]
    for layer, step, rule in zip(model.layers, plan.steps, plan.rules, strict=True):
        into = {"merged_into": plan.steps[step.options["into"]].name} if step.merged and not model.is_chain else {}
        table.append({**layer.describe(), "merged": step.merged, **into, "rule": rule_facts(rule)})
    facts: dict[str, Any] = {
        "format": FORMAT,
        "format_version": VERSIONS[-1],
        "profile": profile,
        "analyzer_name": plan.composite.name,
        "model_name": model.name,
        "input_name": input_name,
        "weights_sha256": model.fresh_hash(),
        "input_sha256": sha256(e.x),
        "layout": "NHWC",
        "preprocessing": {"mode": how.mode, "resample": how.resample, "crop": how.crop, "resize_to": how.resize_to, "source": how.source},
        "images": len(e.x),
        "start": e.start,
        "targets": None if e.targets is None else list(e.targets),
        "composite": plan.composite.name,
        "dialect": plan.dialect.name,
        "layers": table,
        "numerics": "float64, every convolution by its definition, a fixed order of operations",
        "unit_roundoff": 2.0**-24,
        "generator": "nplrp",
        "generator_version": __version__,
        "env": _environment(),
    }
    if plan.composite.slopes:
        facts["slopes"] = plan.composite.slopes
    if any(step.stand_in for step in plan.steps):
        facts["stand_ins"] = True
    facts["content_key"] = sha256(np.concatenate([e.relevances["input"].reshape(-1), e.trace.logits.reshape(-1)]))
    return facts


def _environment() -> dict[str, str]:
    """Return versions of what computed the numbers; no part of the content, since the bits don't depend on it."""
    from importlib.metadata import version

    packages = {name: version(name) for name in ("numpy", "numba", "h5py")}
    return {"python": platform.python_version(), "machine": platform.machine(), **packages}
