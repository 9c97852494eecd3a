"""A state dict of one of torchvision's classification networks -> Model; found by its tensors' names and shapes, or named.

torchvision's models end in logits; a softmax is added, as in Keras. Its images are resized and cut, then normalised per channel: recorded
as the model's preprocessing. What a state dict doesn't tell and had to be assumed is logged.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nplrp.errors import ModelError, WeightsError
from nplrp.files.weights import imagenet_classes
from nplrp.model import Model, Preprocessing
from nplrp.preprocessing import UNKNOWN
from weights_tools.safetensors_file import is_safetensors, read_safetensors
from weights_tools.torch_file import read_tensors
from weights_tools.torchvision import AS_TRAINED, ROWS, TRANSFORM_OFFSET, TRANSFORM_SCALE, Missing, Plan, Row, Told, new_name

_logger = logging.getLogger(__name__)

#: What training wraps around a model puts in front of every name.
WRAPPERS = ("module.", "_orig_mod.")
#: The most names of models around the network that are taken away.
MAX_PREFIXES = 4
#: A state dict of which less is used is one of another network altogether.
LEAST = 0.05
#: Tensors of a state dict that is looked at; the largest network has some two thousand.
MOST = 10_000
#: Where the first convolution is.
STEMS = ("conv1", "conv1.conv", "features.0", "features.0.0", "features.conv0", "Conv2d_1a_3x3.conv")
FLOATS = (np.float16, np.float32, np.float64)


def from_pytorch(
    path: str | os.PathLike[str],
    architecture: str | None = None,
    input_size: tuple[int, int] | None = None,
    transform_input: bool | None = None,
    told: Told = AS_TRAINED,
) -> Model:
    """Read a state dict: what `torch.save` writes (``.pth``, ``.pt``; no PyTorch needed) or ``.safetensors``.

    Parameters
    ----------
    path : path
    architecture : str or None
        torchvision's name of the network, as in `ROWS`; None: the tensors tell.
    input_size : (H, W) or None
        None is what torchvision trained it on, or what its dense layers were made for.
    transform_input : bool or None
        Of GoogLeNet and Inception v3, torchvision's option of that name; None: as with torchvision's own weights, on.
    told : Told
        What else the caller says about the head.

    Raises
    ------
    WeightsError
        If it can't be read, or isn't that of one of these networks.
    """
    path = Path(path)
    tensors = read_safetensors(path) if is_safetensors(path) else read_tensors(path)
    try:
        return model_of(tensors, architecture, input_size, transform_input, told)
    except (WeightsError, ModelError) as error:
        raise WeightsError(f"{path}: {error}") from None


def model_of(
    tensors: Mapping[str, np.ndarray],
    architecture: str | None = None,
    input_size: tuple[int, int] | None = None,
    transform_input: bool | None = None,
    told: Told = AS_TRAINED,
) -> Model:
    """Lay out a network over a state dict; widths, kernels, groups and the number of classes come from the shapes.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        As torchvision names them, perhaps with prefixes: ``features.0.weight`` [cout, cin, 3, 3], ...
    architecture, input_size, transform_input, told
        As for `from_pytorch`.

    Raises
    ------
    WeightsError
        If names or shapes are those of another network; names the nearest one, and what doesn't fit.
    """
    if len(tensors) > MOST:
        raise WeightsError(f"the state dict has {len(tensors)} tensors, no network of torchvision more than {MOST}; export it to ONNX")
    rows = [_named(architecture)] if architecture is not None else list(ROWS.values())
    tries: list[Try] = []
    for given in _without_prefixes(_floats(tensors)):
        for row in rows:
            tries.append(_try(given, row, input_size, transform_input, told))
            if tries[-1].error is None and all(given[name].shape == shape for name, shape in row.marks.items()):
                return _finished(tries[-1])
    fitting = next((each for each in tries if each.error is None), None)
    if fitting is not None:
        return _finished(fitting)
    best = max(tries, key=lambda each: (each.used, not isinstance(each.error, Missing)))
    if best.used < LEAST * len(tensors) and architecture is None and isinstance(best.error, Missing):
        raise WeightsError(
            f"the state dict has {len(tensors)} tensors ({', '.join(sorted(tensors)[:3])}, ...), which aren't those of torchvision's "
            f"{', '.join(ROWS)}; export other networks to ONNX and use from-onnx (nplrp import model.onnx)"
        )
    why, plan = str(best.error), best.plan
    if isinstance(best.error, Missing):
        near = difflib.get_close_matches(best.error.name, plan.left, 1, 0.5)
        why += f" (there is {near[0]!r}, of shape {plan.tensors[near[0]].shape})" if near else ""
        why += "; give its name (--architecture), or export it to ONNX and use from-onnx"
    raise WeightsError(f"{'it was to be read as' if architecture else 'it looks like'} torchvision's {best.row.name}, but {why}")


@dataclass(frozen=True)
class Try:
    """A network laid out over a state dict, as far as that went.

    Attributes
    ----------
    row : Row
    plan : Plan
    used : int
        How many tensors were taken.
    error : Exception or None
        Why they don't fit.
    transformed : bool
        Whether it begins with torchvision's `transform_input`.
    """

    row: Row
    plan: Plan
    used: int
    error: WeightsError | ModelError | None = None
    transformed: bool = False


def _named(architecture: str) -> Row:
    wanted = architecture.lower().replace("-", "_")
    if wanted in ROWS:
        return ROWS[wanted]
    near = difflib.get_close_matches(wanted, ROWS, 3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(ROWS)}; export other networks to ONNX"
    raise WeightsError(f"there is no architecture {architecture!r}: {hint}")


def _floats(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights in float32: half precision is widened, double is rounded; counters are left out."""
    found, rounded = {}, ""
    for name, array in tensors.items():
        if name.endswith("num_batches_tracked"):
            continue
        if array.dtype.newbyteorder("=") not in FLOATS:
            raise WeightsError(f"{name!r} has shape {array.shape} and type {array.dtype}, expected floats; save model.float().state_dict()")
        rounded = rounded or (name if array.dtype == np.float64 else "")
        found[new_name(name)] = array.astype(np.float32, copy=False)
    if rounded:
        _logger.info("weights are float64 (%s), and are rounded to float32", rounded)
    return found


def _without_prefixes(tensors: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Yield the state dict with names as they are, then without what stands in front of all of them, word after word."""
    for _ in range(MAX_PREFIXES):
        wrapper = next((each for each in WRAPPERS if tensors and all(name.startswith(each) for name in tensors)), None)
        if wrapper is None:
            yield tensors
            firsts = {name.partition(".")[0] for name in tensors}
            if len(firsts) != 1:
                yield from _without_inner_prefix(tensors)
                return
            wrapper = f"{firsts.pop()}."
        tensors = {name.removeprefix(wrapper): array for name, array in tensors.items()}
    yield tensors


def _without_inner_prefix(tensors: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Yield the state dict without what stands before the first convolution's name, where a head beside the network has other names."""
    ends = tuple(f".{stem}.weight" for stem in STEMS)
    stems = {name: next(end for end in ends if name.endswith(end)) for name in tensors if name.endswith(ends) and tensors[name].ndim == 4}
    prefixes = {name.removesuffix(end) + "." for name, end in stems.items()}
    for prefix in sorted(prefixes, key=lambda each: (each.count("."), each))[:MAX_PREFIXES]:
        found = {name.removeprefix(prefix): array for name, array in tensors.items()}
        if len(found) == len(tensors):
            yield found


def _try(tensors: Mapping[str, np.ndarray], row: Row, input_size: tuple[int, int] | None, transform_input: bool | None, told: Told) -> Try:
    """Lay out a network as far as it fits."""
    plan = Plan(tensors, _input_shape(tensors, row, input_size, told), row.epsilon, told)
    transformed = row.transforms if transform_input is None else transform_input
    error: WeightsError | ModelError | None = None
    try:
        if transformed and row.transforms:
            plan.put("affine", "transform_input", arrays={"scale": np.array(TRANSFORM_SCALE), "offset": np.array(TRANSFORM_OFFSET)})
        if told.head and not row.flat:
            raise WeightsError(f"--head {told.head} is for VGGs; leave it away")
        row.lay_out(plan, row)
        last = told.last_activation or ("sigmoid" if plan.shape == (1,) else "softmax")
        if last != "linear":
            plan.act(last, last)
        plan.left -= {name for name in plan.left if name.startswith(row.auxiliary or ("\0",))}
        if plan.left:
            listed = ", ".join(sorted(plan.left)[:3])
            raise WeightsError(f"that has no {listed}; give its name (--architecture), or export it to ONNX and use from-onnx")
        if transformed and not row.transforms:
            raise WeightsError("that has no transform_input, which is GoogLeNet's and Inception v3's; leave it away")
    except (WeightsError, ModelError) as found:
        error = found
    return Try(row, plan, len(tensors) - len(plan.left), error, transformed)


def _input_shape(
    tensors: Mapping[str, np.ndarray], row: Row, input_size: tuple[int, int] | None, told: Told = AS_TRAINED
) -> tuple[int, int, int]:
    """Return what a network reads: its channels from the first convolution, a VGG's side from the rows of its first dense layer."""
    stem = next((tensors[f"{name}.weight"] for name in STEMS if f"{name}.weight" in tensors), None)
    channels = stem.shape[1] if stem is not None and stem.ndim == 4 else 3
    side = row.side
    flat = _flat(tensors, row)
    if flat and told.head in (None, "flatten"):
        places = [
            int(found[1]) for name in tensors if (found := re.fullmatch(r"features\.(\d+)\.weight", name)) and tensors[name].ndim == 4
        ]
        deep = tensors[f"features.{max(places)}.weight"].shape[0] if places else 1
        pixels = math.isqrt(tensors[flat].shape[-1] // max(deep, 1))
        side = max(row.side * pixels // 7, 1)
    height, width = input_size or (side, side)
    return height, width, channels


def _flat(tensors: Mapping[str, np.ndarray], row: Row) -> str:
    """Return the first dense kernel behind a flatten, "" if the network has none."""
    if not row.flat or f"{row.flat}.weight" in tensors:
        return f"{row.flat}.weight" if row.flat else ""
    dense = Plan(tensors, (1, 1, 1)).parts({name for name in tensors if not name.startswith("features.")})
    return f"{dense[0]}.weight" if dense and tensors[f"{dense[0]}.weight"].ndim == 2 else ""


def _deep(plan: Plan) -> int:
    """Return how many channels the last convolution gives."""
    return next((draft.shape[-1] for draft in reversed(plan.graph.drafts) if draft.kind == "conv"), 0)


def _finished(found: Try) -> Model:
    """Build the model, and log what was assumed."""
    plan, row = found.plan, found.row
    height, width, _ = plan.graph.input_shape
    if not row.flat or plan.told.head in ("avg", "max"):
        _logger.info("%s: input %d x %d (another: --input-size)", row.name, height, width)
    elif _flat(plan.tensors, row) and plan.told.head is None and plan.tensors[_flat(plan.tensors, row)].shape[-1] == _deep(plan):
        _logger.info(
            "%s: input %d x %d, since its first dense layer reads a number for each channel (if it stands behind a mean over the pixels of "
            "larger images: --head avg; a maximum: --head max)",
            *(row.name, height, width),
        )
    for note in plan.notes:
        _logger.info("%s: %s", row.name, note)
    if plan.told.last_activation is None and (plan.notes or plan.shape != (1000,)):
        last = "sigmoid" if plan.shape == (1,) else "softmax"
        _logger.info("%s: %s assumed behind its %d outputs (another: --last-activation NAME)", row.name, last, plan.shape[-1])
    if row.auxiliary and any(name.startswith(row.auxiliary) for name in plan.tensors):
        _logger.info("%s: its auxiliary heads (%s) are for training only, and are left out", row.name, ", ".join(row.auxiliary))
    if row.transforms:
        _logger.info(
            "%s: transform_input is %s, as %s (the other: --%stransform-input)",
            row.name,
            "on" if found.transformed else "off",
            "with torchvision's own weights" if found.transformed else "asked for",
            "no-" if found.transformed else "",
        )
    how = Preprocessing("torch", row.resample, crop=True, resize_to=min(height, width) * row.resize_to // row.side)
    drafts = plan.graph.drafts
    for place, draft in enumerate(drafts):
        if draft.arrays:
            drafts[place] = draft.given(arrays={key: np.ascontiguousarray(array) for key, array in draft.arrays.items()})
    classes = imagenet_classes() if plan.shape == (1000,) else None
    model = plan.graph.model(plan.at, row.name, preprocessing=how, classes=classes)
    if model.input_shape[-1] != 3:
        return dataclasses.replace(model, preprocessing=dataclasses.replace(how, mode=UNKNOWN))
    return model
