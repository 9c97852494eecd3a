"""Compare a candidate with golden values, layer by layer in the direction of relevance."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from nplrp import preprocessing
from nplrp.errors import ImageError, brief
from nplrp.golden.again import Key, Name, derived_again
from nplrp.golden.candidate import Candidate
from nplrp.golden.decisions import Decisions, comparable_runs, decided_otherwise, deciding_layers, excuse
from nplrp.golden.diagnosis import diagnose
from nplrp.golden.errors import DEFAULT_MODE, GoldenError, NothingComparedError, ProvenanceError
from nplrp.golden.fast_convolutions import CONVOLUTIONS
from nplrp.golden.judging import DIVERGED, INHERITED, SUSPECT, UNITS, Judgement, judge
from nplrp.golden.recording import check_weights
from nplrp.golden.report import MODES, Report, Row, with_inherited
from nplrp.golden.values import Golden, GoldenLayer, Tensor, sha256
from nplrp.golden.whole_run import Progress
from nplrp.layers import INPUT
from nplrp.model import Model

#: How many of the layers that made a sum are named.
NAMED = 3
#: Verdicts from which on a report doesn't pass.
FAIL_ON = ("diverged", "suspect")
#: End to end, relevance that may differ by this share of all without being told from rounding leaves something open.
WIDE = 1e-4
#: In the note of what a local check can't compute again.
END_TO_END = "from end to end"
LAYOUTS = ("NHWC", "NCHW")
#: That many different numbers, among so many of each array, tell that a candidate holds bfloat16; a start of ones and zeros doesn't.
TELLING, LOOKED_AT = 32, 4096


def check(
    golden: Golden,
    candidate: Candidate,
    *,
    mode: str = DEFAULT_MODE,
    layout: str = "NHWC",
    precision: str | None = None,
    first: int | None = None,
    convolutions: str = "direct",
    rtol: float | None = None,
    atol: float | None = None,
    model: Model | None = None,
    require_all: bool = False,
    fail_on: str = "diverged",
    progress: Progress = lambda what: None,
) -> Report:
    """Compare everything that a candidate has.

    Parameters
    ----------
    golden : Golden
    candidate : Candidate
        From `read_candidate`, or made of arrays.
    mode : "chained" (default), "isolated" or "local"
        Chained: it ran from end to end, and is judged against the spread of reordered float32 runs; with a model a local check follows
        where that leaves anything open. Isolated: each layer was given golden inputs, and is judged by derived bounds. Local: it ran from
        end to end, and each layer is computed again from the candidate's own numbers around it (needs the model), and judged by derived
        bounds; what has no numbers around it is judged as from end to end.
    layout : "NHWC" or "NCHW"
        Of the candidate's arrays.
    precision : "float16", "float32", "float64" or None
        What it was computed in; None goes by its arrays' dtype.
    first : int or None
        Where in the candidate's batch the golden images begin; None if it holds just these.
    convolutions : "direct", "winograd" or "fft"
        What the backend's convolutions are; bounds of the fast ones are derived when they are asked for (needs the model).
    rtol, atol : float or None
        Judge by |d| <= atol + rtol |golden| instead.
    model : Model or None
        With it the first diverging layer is run again under every known deviation.
    require_all : bool
        Pass only what gave every array.
    fail_on : "diverged" or "suspect"
        The verdict from which on nothing passes.
    progress : callable
        Told what is being done.

    Raises
    ------
    NothingComparedError
        If candidate and golden values have no array in common.
    ProvenanceError
        If the candidate says that it has other weights or another input, or the model has other weights.
    GoldenError
        If an array has another shape, or an argument is unknown.
    """
    _check_arguments(mode, layout, precision, convolutions, fail_on, model)
    if model is not None:
        check_weights(golden, model)
    _check_provenance(golden, candidate, first, layout)
    given = Given(
        _fitted(golden, candidate.relevances, "relevance", layout, first),
        _fitted(golden, candidate.activations, "activation", layout, first),
        _fitted_edges(golden, candidate.edges, layout, first),
    )
    if not (given.relevances or given.activations or (given.along and mode != "chained")):
        theirs = [*candidate.relevances, *candidate.activations, *candidate.ignored]
        raise NothingComparedError(
            f"{candidate.source}: nothing was compared: it has {', '.join(theirs[:8]) or 'no arrays'}, the golden values have "
            f"{', '.join(golden.names)}; name the arrays after the layers, or give --map"
        )
    tolerances = None if rtol is None and atol is None else (rtol or 0.0, atol or 0.0)

    def compare(mode: str) -> Report:
        seen = given._replace(activations={}) if mode == "local" and _of_two_passes(golden, candidate) else given
        found = _compare(golden, candidate, seen, mode, precision, convolutions, tolerances, model, progress)
        return dataclasses.replace(found, require_all=require_all, fail_on=fail_on)

    report = compare(mode)
    if mode == "chained" and model is not None and tolerances is None and golden.input is not None and _open(report):
        report = _followed(golden, report, compare("local"))
    told = report if report.first is not None or report.local is None else report.local
    if told.first is not None and model is not None:
        progress(f"what {told.first.layer} may have done otherwise")
        sentences = diagnose(golden, model, told, given.relevances, given.activations, given.along, convolutions)
        report = dataclasses.replace(report, diagnosis=sentences)
    return report


def _of_two_passes(golden: Golden, candidate: Candidate) -> bool:
    """Whether a candidate is an explanation that nplrp saved, of a model whose batch norms the pass had merged.

    Its activations are those of the model as it is, and relevance was computed from others, which are rounded otherwise: no layer can be
    computed again from both.
    """
    ours = {"generator", "rules", "relevance_of"} <= set(candidate.about)  # as nplrp.files.save writes
    return ours and bool(candidate.activations) and any(row.get("merged") for row in golden.facts["layers"])


class Given(NamedTuple):
    """A candidate's arrays in golden shapes: relevances and activations by layer, relevances along edges by layer and input."""

    relevances: dict[str, np.ndarray]
    activations: dict[str, np.ndarray]
    along: dict[tuple[str, str], np.ndarray]


def _compare(
    golden: Golden,
    candidate: Candidate,
    given: Given,
    mode: str,
    precision: str | None,
    convolutions: str,
    tolerances: tuple[float, float] | None,
    model: Model | None,
    progress: Progress,
) -> Report:
    """Judge every array that was given in one mode."""
    relevances, activations, along = given if mode != "chained" else given._replace(along={})
    own: dict[Key, Tensor] = {}
    if model is not None and (mode == "local" or (mode == "isolated" and convolutions != "direct")):
        own = derived_again(golden, relevances, activations, along, model, mode, convolutions, progress)
    precisions = _precisions([relevances, activations, along], precision)
    finest = min(precisions.values(), key=UNITS.__getitem__)
    decisions: tuple[Decisions, ...] = ()
    comparable, excused = dict[str, Any](), dict[str, float]()
    if mode != "isolated":
        progress("decisions that fell otherwise")
        decisions = decided_otherwise(golden, activations, finest)
        comparable, excused = comparable_runs(golden, activations, decisions), excuse(golden, decisions)
    progress("comparing")

    def judged(item: tuple[tuple[str, Name, GoldenLayer], np.ndarray]) -> Row | None:
        (what, key, layer), array = item
        got, tensor, indices = array, _tensor(golden, what, key), layer.indices
        again = (what, key) in own
        if mode == "local" and not again and isinstance(key, tuple):
            return None  # an edge has no spread
        if again:
            tensor, indices = own[what, key], None
        elif indices is not None:
            got = got.reshape(-1)[indices]
        assert tensor is not None
        runs, smooth = comparable.get(layer.name if what == "relevance" else golden.names[-1], (None, None))
        end_to_end = mode == "chained" or (mode == "local" and not again)
        judgement = judge(
            got,
            tensor,
            precision=precisions[what, key],
            mode="chained" if end_to_end else "isolated",
            indices=indices,
            tolerances=tolerances,
            runs=runs,
            smooth=smooth,
            excused=excused.get(layer.name) if what == "relevance" else None,
            whole=array,
        )
        if end_to_end and mode == "local":
            judgement = dataclasses.replace(judgement, note=f"{judgement.note}: {END_TO_END}, since {_lacking(golden, what, key, given)}")
        return _row(golden, what, key, layer, judgement)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy lets go of the interpreter
        rows = [row for row in pool.map(judged, _in_order(golden, relevances, activations, along)) if row is not None]
    if mode != "isolated":
        rows = _inherited(golden, rows, mode)
    missing, lookalikes = _missing(golden, mode, rows), _lookalikes(golden, candidate, rows)
    if not rows:
        raise NothingComparedError(f"{candidate.source}: no two neighbouring layers have arrays, so nothing could be compared locally")
    return Report(
        tuple(rows),
        mode,
        ", ".join(sorted(set(precisions.values()))),
        candidate.source,
        f"{golden.facts['composite']} of {golden.facts['model_name']}",
        missing,
        _unknown(golden, candidate),
        ambiguous=sum(layer.ambiguous_count for layer in golden.layers),
        decisions=decisions,
        maps=_maps(golden, relevances),
        lookalikes=lookalikes,
    )


def _inherited(golden: Golden, rows: list[Row], mode: str) -> list[Row]:
    """Mark rows as inherited whose numbers were made of a diverging row's: end to end, all relevance of a diverging forward pass."""
    relevance, activation = ([row for row in rows if row.what == what] for what in ("relevance", "activation"))
    if mode == "local":  # what was judged by its own surroundings inherits nothing
        bad = any(row.verdict == DIVERGED for row in rows if END_TO_END not in row.judgement.note)
        return [
            with_inherited([row], lambda name: {name}, {row.array})[0] if bad and END_TO_END in row.judgement.note else row for row in rows
        ]
    activation = with_inherited(activation, golden.below)
    wrong = {row.array for row in activation if row.verdict == DIVERGED}
    return [*with_inherited(relevance, lambda name: golden.above(name) | wrong, wrong), *activation]


def _open(report: Report) -> bool:
    """Tell whether an end-to-end check leaves something open: nearly right, or as wide as runs that decided otherwise."""
    relevance = [row.judgement for row in report.rows if row.what == "relevance"]
    wide = any(j.relative_sum > WIDE or (j.ratio and j.relative_sum / j.ratio > WIDE) for j in relevance)
    decided = any(each.other for each in report.decisions)
    return wide or decided or any(row.verdict == SUSPECT for row in report.rows) or not {row.what for row in report.rows} >= {"activation"}


def _followed(golden: Golden, report: Report, local: Report) -> Report:
    """Put a local check beside the one from end to end: it says which of two is so where rounding may have decided otherwise."""
    rows = report.rows
    known = {each.layer for each in report.decisions}
    may = any(each.other for each in report.decisions) or not deciding_layers(golden) <= known
    wrong = any(each.unexplained for each in report.decisions) or any(row.verdict == DIVERGED for row in rows if row.what == "activation")
    if may and not wrong and local.first is None and not any(END_TO_END in row.judgement.note for row in local.rows):
        notes = "each layer alone is right: decisions that fell otherwise make the difference"
        rows = tuple(
            dataclasses.replace(row, judgement=dataclasses.replace(row.judgement, verdict=SUSPECT, note=notes))
            if row.verdict in (DIVERGED, INHERITED)
            else row
            for row in rows
        )
    return dataclasses.replace(report, rows=rows, local=local)


def _lacking(golden: Golden, what: str, key: Name, given: Given) -> str:
    """Say why an array can't be computed again from the candidate's own numbers."""
    if what == "activation":
        return "nothing below it was given"
    name = key[1] if isinstance(key, tuple) else key
    lacking = [reader.name for reader in golden.owners(name) if reader.name not in given.relevances]
    return f"relevance of {', '.join(lacking[:NAMED])} wasn't given" if lacking else "what is above it isn't finite"


def _missing(golden: Golden, mode: str, rows: Sequence[Row]) -> tuple[str, ...]:
    """Return what golden values there are that nothing was compared with; activations but for those that only unmerged norms have."""
    compared = {(row.what, row.array) for row in rows}
    names = [layer.name for layer in golden.layers if layer.relevance is not None and ("relevance", layer.name) not in compared]
    if mode == "isolated":  # layers were given activations, and the start isn't theirs
        return tuple(name for name in names if golden.owners(name))
    merged = [row for row in golden.facts["layers"] if row.get("merged")]
    hidden = {name for row in merged for name in (row.get("merged_into"), row["name"], *golden.inputs[row["name"]])}
    wanted = [name for name in golden.names if name not in hidden and name != INPUT]
    return (*names, *(f"activation of {name}" for name in wanted if ("activation", name) not in compared))


def _lookalikes(golden: Golden, candidate: Candidate, rows: Sequence[Row]) -> tuple[str, ...]:
    """Return names that mean nothing, of arrays as large as golden ones which nothing was compared with."""
    compared = {row.array for row in rows if row.what == "relevance"}
    images = golden.facts["images"]
    sizes = {math.prod(layer.activation.shape[1:]) for layer in golden.layers if layer.name not in compared and layer.relevance is not None}
    arrays = {name: array for name, array in {**candidate.activations, **candidate.relevances}.items() if name not in golden.inputs}
    found = [name for name, array in arrays.items() if array.size in sizes or (array.ndim > 1 and math.prod(array.shape[1:]) in sizes)]
    return tuple(name for name in found if arrays[name].size >= images)


def _in_order(
    golden: Golden,
    relevances: Mapping[str, np.ndarray],
    activations: Mapping[str, np.ndarray],
    along: Mapping[tuple[str, str], np.ndarray],
) -> Iterator[tuple[tuple[str, Name, GoldenLayer], np.ndarray]]:
    """Return what is compared as (what, name, layer whose array it is), and the candidate's numbers: as relevance runs, then forward."""
    for layer in golden.layers[::-1]:
        if layer.name in relevances:
            yield ("relevance", layer.name, layer), relevances[layer.name]
        for name in layer.edges:
            if (layer.name, name) in along:
                yield ("relevance", (layer.name, name), golden[name]), along[layer.name, name]
    for layer in golden.layers:
        if layer.name in activations:
            yield ("activation", layer.name, layer), activations[layer.name]


def _tensor(golden: Golden, what: str, name: Name) -> Tensor | None:
    if isinstance(name, tuple):
        return golden[name[0]].edges.get(name[1])
    return golden[name].relevance if what == "relevance" else golden[name].activation


def _row(golden: Golden, what: str, name: Name, layer: GoldenLayer, judgement: Judgement) -> Row:
    """Return a comparison with the names of those who made the numbers."""
    if what == "activation":
        return Row(layer.name, layer.name, what, layer.rule, judgement)
    makers = (golden[name[0]],) if isinstance(name, tuple) else golden.owners(layer.name)
    names = tuple(maker.name for maker in makers)
    shown = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    return Row(shown or "start", layer.name, what, makers[0].rule if len(makers) == 1 else "", judgement, names)


def _unknown(golden: Golden, candidate: Candidate) -> tuple[str, ...]:
    """Return the candidate's names that mean nothing."""
    names = [name for name in (*candidate.relevances, *candidate.activations, *candidate.ignored) if name not in golden.inputs]
    edges = [f"edges/{a}/{b}" for a, b in candidate.edges if a not in golden.inputs or b not in golden.inputs[a]]
    return (*names, *edges)


def _check_arguments(mode: str, layout: str, precision: str | None, convolutions: str, fail_on: str, model: Model | None) -> None:
    for value, choices, what in (
        (mode, tuple(MODES), "mode"),
        (layout, LAYOUTS, "layout"),
        (precision, (None, *UNITS), "precision"),
        (convolutions, CONVOLUTIONS, "way of convolving"),
        (fail_on, FAIL_ON, "verdict to fail on"),
    ):
        if value not in choices:
            raise GoldenError(f"there is no {what} {value!r}; expected {', '.join(str(each) for each in choices if each)}")
    if mode == "local" and model is None:
        raise GoldenError("a local check computes every layer again; give the model (--weights)")
    if mode == "isolated" and convolutions != "direct" and model is None:
        raise GoldenError(f"bounds of convolutions by {convolutions} are derived from the weights; give the model (--weights)")


def _check_provenance(golden: Golden, candidate: Candidate, first: int | None, layout: str) -> None:
    recorded_mode, shape = golden.facts["preprocessing"]["mode"], list(golden.facts["layers"][0]["output_shape"])
    how = candidate.about.get("preprocessing")
    mode = how.get("mode") if isinstance(how, dict) else how
    if mode is not None and recorded_mode != preprocessing.UNKNOWN and str(mode) != recorded_mode:
        raise ProvenanceError(
            f"{candidate.source}: says that its pictures were prepared as {mode!r}, recorded was {recorded_mode!r}; prepare them alike"
        )
    size = candidate.about.get("input_shape")
    if size is not None and [str(each) for each in np.ravel(size)] != [str(each) for each in shape]:
        raise ProvenanceError(f"{candidate.source}: says that its input has shape {brief(size)}, recorded was {shape}; use the same size")
    for key, what in (("weights_sha256", "weights"), ("input_sha256", "input")):
        stated, recorded = candidate.about.get(key), golden.facts[key]
        if stated is not None and str(stated) != recorded:
            raise ProvenanceError(f"{candidate.source}: says that its {what} have SHA-256 {stated}, recorded were {recorded}; use the same")
    if candidate.x is None:
        return
    x = _oriented(np.asarray(candidate.x), layout, golden.layers[0], None)
    x = x[first or 0 :][: golden.facts["images"]]
    if golden.input is not None:
        wanted = golden.input.astype(x.dtype)
        same = np.array_equal(x, wanted)
        flipped = x.shape == wanted.shape and np.array_equal(x[..., ::-1], wanted)
    else:
        same, flipped = sha256(x) == golden.facts["input_sha256"] or _samples_agree(golden, x), False
    if not same:
        hint = "its channels are in the opposite order (RGB for BGR)" if flipped else "preprocess the same image in the same way"
        if golden.input is not None and x.shape == golden.input.shape and not flipped:
            hint = _prepared_otherwise(golden.input, x, recorded_mode) or hint
        raise ProvenanceError(f"{candidate.source}: its input is not the one that was recorded; {hint}")


def _prepared_otherwise(recorded: np.ndarray, x: np.ndarray, mode: str) -> str:
    """Tell how a candidate's pictures were prepared, if by another mode than the recorded ones."""
    from nplrp.images import denormalize, normalize

    channels = recorded.shape[-1]
    try:
        pixels = denormalize(recorded, mode)
    except ImageError:
        return ""
    for other in preprocessing.MODES:
        with suppress(ImageError):
            if np.allclose(x, normalize(pixels, other), atol=1e-3 * np.ptp(preprocessing.pixel_bounds(other, channels))):
                return f"its pictures were prepared as {other!r}, recorded was {mode!r}: prepare them alike"
    return ""


def _samples_agree(golden: Golden, x: np.ndarray) -> bool:
    """Tell whether an input has a digest's samples, in the precision that it is given in."""
    tensor, indices = golden.layers[0].activation, golden.layers[0].indices
    return indices is not None and x.shape == tensor.shape and np.array_equal(x.reshape(-1)[indices], tensor.values.astype(x.dtype))


def _fitted(golden: Golden, arrays: Mapping[str, np.ndarray], what: str, layout: str, first: int | None) -> dict[str, np.ndarray]:
    """Return the arrays that the golden values have, in their shape and layout."""
    found = {}
    tables = {row["name"]: row for row in golden.facts["layers"]}
    for layer in golden.layers:
        tensor = layer.relevance if what == "relevance" else layer.activation
        if layer.name not in arrays or tensor is None:
            continue
        array = _oriented(np.asarray(arrays[layer.name]), layout, layer, tables[layer.name].get("input_shape"))
        given = array.shape
        if first is not None and array.ndim == len(tensor.shape):
            array = array[first : first + tensor.shape[0]]
        if array.shape != tensor.shape:
            hint = _hint(given, tensor.shape, first)
            raise GoldenError(f"{what} of {layer.name!r} has shape {given}, expected {tensor.shape}{hint}")
        found[layer.name] = array if array.dtype.kind == "f" else array.astype(np.float64)
    return found


def _fitted_edges(
    golden: Golden, arrays: Mapping[tuple[str, str], np.ndarray], layout: str, first: int | None
) -> dict[tuple[str, str], np.ndarray]:
    """Return the edges that the golden values have, in their shape and layout."""
    found: dict[tuple[str, str], np.ndarray] = {}
    for layer in golden.layers:
        inputs = {name: arrays[layer.name, name] for name in layer.edges if (layer.name, name) in arrays}
        fitted = _fitted(golden, inputs, "relevance", layout, first)
        found |= {(layer.name, name): array for name, array in fitted.items()}
    return found


def _oriented(array: np.ndarray, layout: str, layer: GoldenLayer, input_shape: list[int] | None) -> np.ndarray:
    """Return an array as NHWC with a batch axis."""
    shape = layer.activation.shape
    if array.ndim == len(shape) - 1 and shape[0] == 1:
        array = array[None]
    if layout == "NCHW" and array.ndim == 4:
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1))
    flattened = input_shape is not None and len(input_shape) == 3 and len(shape) == 2 and math.prod(input_shape) == shape[1]
    if layout == "NCHW" and input_shape and flattened and array.shape[1:] == shape[1:]:
        height, width, channels = input_shape
        return array.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(array.shape)
    return array


def _hint(given: tuple[int, ...], wanted: tuple[int, ...], first: int | None) -> str:
    if len(given) == 4 and (given[0], given[2], given[3], given[1]) == wanted:
        return "; it looks like NCHW: give --layout NCHW"
    if given[1:] == wanted[1:] and first is None:
        return "; say with --first where in its batch the golden images begin"
    return "; is it the same model?"


def _precisions(given: Sequence[Mapping[Any, np.ndarray]], stated: str | None) -> dict[Key, str]:
    """Return what each array was computed in: as stated, or by its dtype; float32 that holds only bfloat16's numbers is bfloat16."""
    kinds = ("relevance", "activation", "relevance")
    arrays: dict[Key, np.ndarray] = {(kind, name): array for kind, each in zip(kinds, given, strict=True) for name, array in each.items()}
    singles = [np.ascontiguousarray(array).view(np.uint32) for array in arrays.values() if array.dtype == np.float32]
    coarse = bool(singles) and not any((bits & 0xFFFF).any() for bits in singles)
    enough = coarse and len(np.unique(np.concatenate([bits.reshape(-1)[:LOOKED_AT] for bits in singles]))) >= TELLING
    known = {"float32": "bfloat16"} if enough else {}
    found = {name: array.dtype.name if array.dtype.name in UNITS else "float64" for name, array in arrays.items()}
    return {name: stated or known.get(each, each) for name, each in found.items()}


def _maps(golden: Golden, relevances: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return golden and candidate relevance summed over channels, of the first image, for the layers that are images."""
    found = {}
    for layer in golden.layers:
        if layer.indices is None and layer.relevance is not None and layer.name in relevances and len(layer.relevance.shape) == 4:
            pair = (layer.relevance.values[0], np.asarray(relevances[layer.name][0], np.float64))
            found[layer.name] = (pair[0].sum(axis=-1), np.nan_to_num(pair[1]).sum(axis=-1))
    return found
