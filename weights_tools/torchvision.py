"""torchvision's classification networks as data: what their state dicts don't tell.

A state dict has every layer's name, kernel size, width and groups. Missing are strides, padding, activations, pools, and who reads whom:
these are in the tables here, and in one short function for each family. Sources: torchvision 0.28, `torchvision/models/*.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp.errors import WeightsError
from nplrp.model import Window
from weights_tools.graph import Graph

#: torch.nn.BatchNorm2d's default; a state dict doesn't hold it.
EPSILON = 1e-5
#: What some families set it to.
LARGE_EPSILON = 1e-3
#: torchvision's `transform_input`: from ImageNet's mean and deviation to (x - 0.5) / 0.5, for weights that came from TensorFlow.
TRANSFORM_SCALE = (0.229 / 0.5, 0.224 / 0.5, 0.225 / 0.5)
TRANSFORM_OFFSET = ((0.485 - 0.5) / 0.5, (0.456 - 0.5) / 0.5, (0.406 - 0.5) / 0.5)

RELU, RELU6, SILU, HARD_SILU = "relu", "relu(max_value=6.0)", "silu", "hard_silu"
#: torch.nn.BatchNorm2d's names -> ours.
NORM = MappingProxyType({"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "variance"})


@dataclass(frozen=True)
class Told:
    """What the caller says about a head, which a state dict doesn't tell; None where nothing is said.

    Attributes
    ----------
    head : str or None
        ``"flatten"``, ``"avg"`` or ``"max"``: how the pixels of a VGG's last image come to its dense layers.
    head_activation : str or None
        Between dense layers of a head that isn't torchvision's.
    last_activation : str or None
    """

    head: str | None = None
    head_activation: str | None = None
    last_activation: str | None = None


AS_TRAINED = Told()


class Missing(WeightsError):
    """The state dict lacks a tensor."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the state dict has no {name!r}")
        self.name = name


class Plan:
    """A network being laid out over a state dict.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        The state dict.
    input_shape : (H, W, C)
    epsilon : float
        Of all batch norms.
    told : Told
        What the caller says about the head.

    Attributes
    ----------
    left : set of str
        Tensors that nothing has taken yet.
    modules : set of str
        What stands before any dot in their names.
    at : int
        Place of the layer put down last; -1 is the input.
    notes : list of str
        What was assumed of the head.
    """

    def __init__(
        self, tensors: Mapping[str, np.ndarray], input_shape: tuple[int, int, int], epsilon: float = EPSILON, told: Told = AS_TRAINED
    ) -> None:
        self.tensors, self.graph, self.epsilon, self.told = tensors, Graph(input_shape), epsilon, told
        self.notes: list[str] = []
        self.left = set(tensors)
        self.modules = {name[: dot.start()] for name in tensors for dot in re.finditer(r"\.", name)}
        self.at = -1

    def has(self, name: str) -> bool:
        """Tell whether the state dict has a tensor."""
        return name in self.tensors

    def count(self, name: str) -> int:
        """Return how many parts a module has, numbered from 0.

        Raises
        ------
        Missing
            If it has none.
        """
        number = 0
        while f"{name}.{number}" in self.modules:
            number += 1
        if not number:
            raise Missing(f"{name}.0.0.weight")
        return number

    def take(self, name: str, dims: int) -> np.ndarray:
        """Take a tensor.

        Raises
        ------
        Missing
        WeightsError
            If it has another number of axes.
        """
        if name not in self.tensors:
            raise Missing(name)
        array = self.tensors[name]
        if array.ndim != dims:
            raise WeightsError(f"{name!r} has shape {array.shape}, expected {dims} axes; the weights are those of another network")
        self.left.discard(name)
        return array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape at the place where the plan is."""
        return self.graph.shape(self.at)

    def put(self, kind: str, name: str, *inputs: int, **fields: Any) -> int:
        """Put a layer down, behind the last one if no inputs are given, and go there."""
        self.at = self.graph.add(kind, name, *(inputs or (self.at,)), **fields)
        return self.at

    def conv(self, name: str, stride: int = 1, pad: int | None = None, called: str = "") -> None:
        """Put a convolution down: OIHW -> HWIO, depthwise where every channel has filters of its own; by default it pads by size // 2."""
        weight = self.take(f"{name}.weight", 4)
        arrays = {"bias": self.take(f"{name}.bias", 1)} if self.has(f"{name}.bias") else {}
        filters, inner, height, width = weight.shape
        channels = self.shape[-1]
        if inner == 0 or channels % inner or filters % (channels // inner):
            raise WeightsError(f"{name}.weight has shape {weight.shape}, but the layer before it gives {channels} channels")
        groups = channels // inner
        more: dict[str, Any] = {"options": {"groups": groups}} if groups > 1 else {}
        if groups > 1 and inner == 1:
            kind, kernel, more = "depthwise", weight.reshape(groups, filters // groups, height, width).transpose(2, 3, 0, 1), {}
        else:
            kind, kernel = "conv", weight.transpose(2, 3, 1, 0)
        rows, columns = (height // 2, width // 2) if pad is None else (pad, pad)
        window = padded(Window((height, width), (stride, stride)), (rows, columns), (self.shape[0], self.shape[1]))
        self.put(kind, called or name, window=window, arrays={"kernel": kernel, **arrays}, **more)

    def norm(self, name: str, called: str = "") -> None:
        """Put a batch norm down."""
        arrays = {ours: self.take(f"{name}.{theirs}", 1) for theirs, ours in NORM.items()}
        self.put("batchnorm", called or name, epsilon=self.epsilon, arrays=arrays)

    def act(self, activation: str, name: str) -> None:
        """Put an activation down."""
        self.put("activation", name, activation=activation)

    def conv_norm(self, conv: str, norm: str, activation: str = "", stride: int = 1, pad: int | None = None) -> None:
        """Put a convolution, a batch norm and an activation down."""
        self.conv(conv, stride, pad)
        self.norm(norm)
        if activation:
            self.act(activation, f"{norm}.{activation.split('(', maxsplit=1)[0]}")

    def maxpool(self, name: str, size: int, stride: int, pad: int = 0, ceil: bool = False) -> None:
        """Put a max-pool down; with `ceil` its last windows may reach over the border."""
        image = self.shape[0], self.shape[1]
        window = Window((size, size), (stride, stride))
        over = [(-(n + 2 * pad - size) % stride) if ceil else 0 for n in image]
        over = [0 if n + 2 * pad - size + extra >= n + pad else extra for n, extra in zip(image, over, strict=True)]
        self.put("maxpool", name, window=padded(window, (pad, pad), image, (over[0], over[1])))

    def avgpool(self, name: str, size: int, stride: int, pad: int = 0) -> None:
        """Put an average pool down, which counts the zeros around the image."""
        if pad:
            self.put("pad", f"{name}.pad", pads=(pad,) * 4)
        self.put("avgpool", name, window=Window((size, size), (stride, stride)))

    def join(self, kind: str, name: str, *places: int, **fields: Any) -> None:
        """Put down what joins several layers."""
        self.put(kind, name, *places, **fields)

    def concatenate(self, name: str, places: Sequence[int]) -> None:
        """Put channels of several layers behind each other."""
        self.join("concatenate", name, *places, options={"axis": 2})

    def dense(self, name: str, activation: str = "linear", called: str = "", needs_bias: bool = True) -> None:
        """Put a dense layer down; of an image that was flattened, rows in the order (C, H, W) are brought to (H, W, C)."""
        weight = self.take(f"{name}.weight", 2)
        bias = {"bias": self.take(f"{name}.bias", 1)} if needs_bias or self.has(f"{name}.bias") else {}
        if len(self.shape) == 3:
            height, width, channels = self.shape
            if weight.shape[1] != height * width * channels:
                raise WeightsError(
                    f"{name}.weight has {weight.shape[1]} columns, but the layer before it gives {self.shape}, a square image"
                )
            weight = weight.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(weight.shape)
            self.put("flatten", "flatten")
        self.put("dense", called or name, activation=activation, arrays={"kernel": weight.T, **bias})

    def head(self, *own: tuple[str, str, str], auxiliary: tuple[str, ...] = ()) -> None:
        """Put the dense layers down that end a network: torchvision's own, or whatever stands in their place.

        Parameters
        ----------
        *own : (name, activation, called)
            torchvision's.
        auxiliary : tuple of str
            Tensors that begin so are none of the head's.

        Raises
        ------
        Missing
            If neither torchvision's are there nor others that fit one behind the other.
        """
        left = {name for name in self.left if not name.startswith(auxiliary or ("\0",))}
        parts, missing = self.parts(left), [f"{name}.weight" for name, _, _ in own if not self.has(f"{name}.weight")]
        strange = left - {name for name in left if name.rpartition(".")[0] in parts}
        if not missing and (strange or len(parts) <= len(own)):
            for name, activation, called in own:
                self.dense(name, activation, called)
            return
        if not parts or strange:
            raise Missing(missing[0])
        before = ""
        waiting = False  # for the first place behind a dense layer where an activation may stand
        activation, put = self.told.head_activation or RELU, 0
        for place, part in enumerate(parts):
            if waiting and _gap(before, part) != 0:
                if activation != "linear":
                    self.act(activation, f"{before}.activation")
                waiting, put = False, put + 1
            if self.tensors[f"{part}.weight"].ndim == 2:
                called = own[place][2] if [name for name, _, _ in own[: place + 1]] == parts[: place + 1] else ""
                self.dense(part, called=called, needs_bias=False)
                waiting = True
            else:
                self.norm(part)
            before = part
        between = f", with {activation} assumed between them (another: --head-activation NAME)"
        between = between if put and not self.told.head_activation else ""
        self.notes.append(f"its head is made of {', '.join(map(repr, parts))}{between}")

    def parts(self, left: set[str]) -> list[str]:
        """Return the names of dense layers and batch norms among tensors, in forward order: by number if they have any, else as filed."""
        found = [name.removesuffix(".weight") for name in self.tensors if name in left and name.endswith(".weight")]
        found = [part for part in found if self.tensors[f"{part}.weight"].ndim == 2 or f"{part}.running_mean" in left]
        return sorted(found, key=_numbered) if all(re.search(r"\d", part) for part in found) else found

    def pooled(self) -> None:
        """Put the mean over rows and columns down."""
        self.put("global_avgpool", "avgpool")


def padded(window: Window, pads: tuple[int, int], image: tuple[int, int], over: tuple[int, int] = (0, 0)) -> Window:
    """Return a window with as much padding at both sides, and more at the bottom and right; by TensorFlow's name where it has one."""
    whole = (pads[0], pads[0] + over[0], pads[1], pads[1] + over[1])
    if not any(whole):
        return window
    same = Window(window.size, window.stride, window.dilation, "same")
    own = Window(window.size, window.stride, window.dilation, whole)
    return same if same.pads(*image) == whole and same.output_size(*image) == own.output_size(*image) else own


def _numbered(name: str) -> tuple[tuple[str, int], ...]:
    """Return a key that sorts fc10 behind fc9."""
    return tuple((word, int(digits or -1)) for word, digits in re.findall(r"(\D*)(\d{0,9})", name))


def _gap(before: str, after: str) -> int | None:
    """Return how many modules without parameters stand between two of nested Sequentials; None if their names aren't numbers."""
    one, two = before.split("."), after.split(".")
    same = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), 0)
    numbers = [one[same], *two[same:]]
    if one[:same] != two[:same] or not all(each.isdecimal() for each in [*numbers, *one[same:]]):
        return None
    return int(two[same]) - int(one[same]) - 1 + sum(int(each) for each in two[same + 1 :])


# Families


def _vgg(plan: Plan, row: Row) -> None:
    """Simonyan and Zisserman 2014, table 1, under Keras's names."""
    place, with_norm = 0, row.name.endswith("_bn")
    for block, count in enumerate(row.table, 1):
        for i in range(1, count + 1):
            plan.conv(f"features.{place}", called=f"block{block}_conv{i}")
            if with_norm:
                plan.norm(f"features.{place + 1}", called=f"block{block}_bn{i}")
            plan.act(RELU, f"block{block}_relu{i}")
            place += 3 if with_norm else 2
        plan.maxpool(f"block{block}_pool", 2, 2)
        place += 1
    if plan.told.head in ("avg", "max"):
        plan.put(f"global_{plan.told.head}pool", f"{plan.told.head}pool")
    plan.head(("classifier.0", RELU, "fc1"), ("classifier.3", RELU, "fc2"), ("classifier.6", "linear", "predictions"))


def _alexnet(plan: Plan, row: Row) -> None:
    for place, stride, pad, pooled in row.table:
        plan.conv(f"features.{place}", stride, pad)
        plan.act(RELU, f"features.{place + 1}")
        if pooled:
            plan.maxpool(f"features.{place + 2}", 3, 2)
    plan.head(("classifier.1", RELU, ""), ("classifier.4", RELU, ""), ("classifier.6", "linear", ""))


def _resnet(plan: Plan, row: Row) -> None:
    """ResNet, wide ResNet and ResNeXt: two or three convolutions in a block; the one before the last has the stride."""
    plan.conv_norm("conv1", "bn1", RELU, 2)
    plan.maxpool("maxpool", 3, 2, 1)
    last, counts = row.table
    for stage, count in enumerate(counts, 1):
        for i in range(count):
            block, stride, start = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1, plan.at
            for k in range(1, last + 1):
                plan.conv_norm(f"{block}.conv{k}", f"{block}.bn{k}", RELU if k < last else "", stride if k == last - 1 else 1)
            end, short = plan.at, start
            if plan.has(f"{block}.downsample.0.weight"):
                plan.at = start
                plan.conv_norm(f"{block}.downsample.0", f"{block}.downsample.1", "", stride)
                short = plan.at
            plan.join("add", f"{block}.add", end, short)
            plan.act(RELU, f"{block}.relu")
    plan.pooled()
    plan.head(("fc", "linear", ""), auxiliary=row.auxiliary)


def _densenet(plan: Plan, row: Row) -> None:
    """Batch norm and ReLU stand before each convolution; a layer reads all before it in its block."""
    plan.conv_norm("features.conv0", "features.norm0", RELU, 2)
    plan.maxpool("features.pool0", 3, 2, 1)
    for block, count in enumerate(row.table, 1):
        features = [plan.at]
        for i in range(1, count + 1):
            layer = f"features.denseblock{block}.denselayer{i}"
            if len(features) > 1:
                plan.concatenate(f"{layer}.concat", features)
            for k in (1, 2):
                plan.norm(f"{layer}.norm{k}")
                plan.act(RELU, f"{layer}.relu{k}")
                plan.conv(f"{layer}.conv{k}")
            features.append(plan.at)
        plan.concatenate(f"features.denseblock{block}", features)
        if block < len(row.table):
            name = f"features.transition{block}"
            plan.norm(f"{name}.norm")
            plan.act(RELU, f"{name}.relu")
            plan.conv(f"{name}.conv")
            plan.avgpool(f"{name}.pool", 2, 2)
    plan.norm("features.norm5")
    plan.act(RELU, "relu")
    plan.pooled()
    plan.head(("classifier", "linear", ""))


def _squeezenet(plan: Plan, row: Row) -> None:
    plan.conv("features.0", 2, 0)
    plan.act(RELU, "features.1")
    for place in range(2, 13):
        name = f"features.{place}"
        if place in row.table:
            plan.maxpool(name, 3, 2, ceil=True)
            continue
        plan.conv(f"{name}.squeeze")
        plan.act(RELU, f"{name}.squeeze_activation")
        squeezed, expanded = plan.at, []
        for size in ("1x1", "3x3"):
            plan.at = squeezed
            plan.conv(f"{name}.expand{size}")
            plan.act(RELU, f"{name}.expand{size}_activation")
            expanded.append(plan.at)
        plan.concatenate(name, expanded)
    plan.conv("classifier.1")
    plan.act(RELU, "classifier.2")
    plan.pooled()


def _squeeze_excite(plan: Plan, name: str, inner: str, outer: str) -> None:
    """Put down a gate for each channel, computed from the mean over rows and columns."""
    start = plan.at
    plan.put("global_avgpool", f"{name}.avgpool", keepdims=True)
    plan.conv(f"{name}.fc1")
    plan.act(inner, f"{name}.activation")
    plan.conv(f"{name}.fc2")
    plan.act(outer, f"{name}.scale_activation")
    plan.join("multiply", name, plan.at, start)


def _inverted(plan: Plan, name: str, stride: int, activation: str, gates: tuple[str, str]) -> None:
    """Put an inverted residual block down, whose parts are numbered: expansion (which may be missing), depthwise, gate, projection."""
    start, count = plan.at, plan.count(name)
    for i in range(count):
        part = f"{name}.{i}"
        if plan.has(f"{part}.fc1.weight"):
            _squeeze_excite(plan, part, *gates)
            continue
        depthwise = plan.take(f"{part}.0.weight", 4).shape[1] == 1 and i < count - 1
        plan.conv_norm(f"{part}.0", f"{part}.1", activation if i < count - 1 else "", stride if depthwise else 1)
    if stride == 1 and plan.graph.shape(start)[-1] == plan.shape[-1]:
        plan.join("add", f"{name.rpartition('.')[0]}.add", plan.at, start)


def _mobilenet_v2(plan: Plan, row: Row) -> None:
    plan.conv_norm("features.0.0", "features.0.1", RELU6, 2)
    for i, stride in enumerate(row.table, 1):
        start, name = plan.at, f"features.{i}.conv"
        count = plan.count(name)
        for k in range(count - 2):  # then a convolution and a batch norm without a module around them
            depthwise = k == count - 3
            plan.conv_norm(f"{name}.{k}.0", f"{name}.{k}.1", RELU6, stride if depthwise else 1)
        plan.conv_norm(f"{name}.{count - 2}", f"{name}.{count - 1}")
        if stride == 1 and plan.graph.shape(start)[-1] == plan.shape[-1]:
            plan.join("add", f"features.{i}.add", plan.at, start)
    last = f"features.{len(row.table) + 1}"
    plan.conv_norm(f"{last}.0", f"{last}.1", RELU6)
    plan.pooled()
    plan.head(("classifier.1", "linear", ""))


def _mobilenet_v3(plan: Plan, row: Row) -> None:
    plan.conv_norm("features.0.0", "features.0.1", HARD_SILU, 2)
    for i, (stride, activation) in enumerate(row.table, 1):
        _inverted(plan, f"features.{i}.block", stride, activation, (RELU, "hard_sigmoid"))
    last = f"features.{len(row.table) + 1}"
    plan.conv_norm(f"{last}.0", f"{last}.1", HARD_SILU)
    plan.pooled()
    if not (plan.has("classifier.0.weight") and plan.has("classifier.3.weight")):
        plan.head(("classifier.0", "", ""), ("classifier.3", "", ""))
        return
    plan.dense("classifier.0")
    plan.act(HARD_SILU, "classifier.1")
    plan.dense("classifier.3")


def _efficientnet(plan: Plan, row: Row) -> None:
    plan.conv_norm("features.0.0", "features.0.1", SILU, 2)
    for stage, (stride, count) in enumerate(row.table, 1):
        for i in range(count):
            _inverted(plan, f"features.{stage}.{i}.block", stride if i == 0 else 1, SILU, (SILU, "sigmoid"))
    last = f"features.{len(row.table) + 1}"
    plan.conv_norm(f"{last}.0", f"{last}.1", SILU)
    plan.pooled()
    plan.head(("classifier.1", "linear", ""))


#: Parts of a branch: a convolution's name, perhaps with its stride; a pool; a fork into two that are joined again.
Part = str | tuple[Any, ...]


def _branches(plan: Plan, name: str, branches: Sequence[Sequence[Part]]) -> None:
    """Put an inception module down: its branches, their channels behind each other."""
    start, ends = plan.at, []
    for branch in branches:
        plan.at = start
        for part in branch:
            _part(plan, name, part)
        ends.append(plan.at)
    plan.concatenate(name, ends)


def _part(plan: Plan, name: str, part: Part) -> None:
    what, *more = (part,) if isinstance(part, str) else part
    if what in ("max", "avg"):
        pool = plan.maxpool if what == "max" else plan.avgpool
        pool(f"{name}.branch_pool.pool" if more[0] == "" else f"{name}.{more[0]}", *more[1:])
    elif what == "fork":
        forked, ends = plan.at, []
        for each in more[1:]:
            plan.at = forked
            _part(plan, name, each)
            ends.append(plan.at)
        plan.concatenate(f"{name}.{more[0]}", ends)
    else:
        stride, pad = (more or [1])[0], 0 if more else None
        plan.conv_norm(f"{name}.{what}.conv", f"{name}.{what}.bn", RELU, stride, pad)


_GOOGLENET_BRANCHES: tuple[tuple[Part, ...], ...] = (
    ("branch1",),
    ("branch2.0", "branch2.1"),
    ("branch3.0", "branch3.1"),
    (("max", "branch4.0", 3, 1, 1, True), "branch4.1"),
)


def _googlenet(plan: Plan, row: Row) -> None:
    plan.conv_norm("conv1.conv", "conv1.bn", RELU, 2)
    plan.maxpool("maxpool1", 3, 2, ceil=True)
    for name in ("conv2", "conv3"):
        plan.conv_norm(f"{name}.conv", f"{name}.bn", RELU)
    for number, (size, modules) in enumerate(row.table, 2):
        plan.maxpool(f"maxpool{number}", size, 2, ceil=True)
        for letter in modules:
            _branches(plan, f"inception{number + 1}{letter}", _GOOGLENET_BRANCHES)
    plan.pooled()
    plan.head(("fc", "linear", ""), auxiliary=row.auxiliary)


_MEAN: Part = ("avg", "", 3, 1, 1)
_MAXIMUM: Part = ("max", "", 3, 2)
_INCEPTION_MODULES: Mapping[str, tuple[tuple[Part, ...], ...]] = MappingProxyType(
    {
        "A": (
            ("branch1x1",),
            ("branch5x5_1", "branch5x5_2"),
            ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
            (_MEAN, "branch_pool"),
        ),
        "B": ((("branch3x3", 2),), ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3", 2)), (_MAXIMUM,)),
        "C": (
            ("branch1x1",),
            ("branch7x7_1", "branch7x7_2", "branch7x7_3"),
            ("branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"),
            (_MEAN, "branch_pool"),
        ),
        "D": (
            ("branch3x3_1", ("branch3x3_2", 2)),
            ("branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", ("branch7x7x3_4", 2)),
            (_MAXIMUM,),
        ),
        "E": (
            ("branch1x1",),
            ("branch3x3_1", ("fork", "branch3x3", "branch3x3_2a", "branch3x3_2b")),
            ("branch3x3dbl_1", "branch3x3dbl_2", ("fork", "branch3x3dbl", "branch3x3dbl_3a", "branch3x3dbl_3b")),
            (_MEAN, "branch_pool"),
        ),
    }
)


def _inception_v3(plan: Plan, row: Row) -> None:
    for name, stride, pad, pool in (
        ("Conv2d_1a_3x3", 2, 0, ""),
        ("Conv2d_2a_3x3", 1, 0, ""),
        ("Conv2d_2b_3x3", 1, 1, "maxpool1"),
        ("Conv2d_3b_1x1", 1, 0, ""),
        ("Conv2d_4a_3x3", 1, 0, "maxpool2"),
    ):
        plan.conv_norm(f"{name}.conv", f"{name}.bn", RELU, stride, pad)
        if pool:
            plan.maxpool(pool, 3, 2)
    for name, kind in row.table:
        _branches(plan, f"Mixed_{name}", _INCEPTION_MODULES[kind])
    plan.pooled()
    plan.head(("fc", "linear", ""), auxiliary=row.auxiliary)


@dataclass(frozen=True)
class Row:
    """A network.

    Attributes
    ----------
    name : str
        torchvision's.
    lay_out : callable
        (plan, row): put the layers down, up to the logits.
    table : tuple
        What its family's networks differ in.
    side, resize_to : int
        Of the images that it was trained for: the sides of the cut, and the shorter side before it. `resize_to` is what torchvision's first
        weights of it say; later ones may say 232.
    resample : str
    epsilon : float
        Of its batch norms.
    marks : mapping of str to shape
        What tells it from networks of the same names; of other widths the first one of these names is taken.
    auxiliary : tuple of str
        Tensors that only training needs begin with one of these.
    transforms : bool
        Its official weights came from TensorFlow, and turn torchvision's preprocessing into TensorFlow's by themselves.
    flat : str
        A dense layer behind a flatten, made for images of one size: 7 x 7 pixels there are `side`.
    """

    name: str
    lay_out: Callable[[Plan, Row], None]
    table: tuple[Any, ...] = ()
    side: int = 224
    resize_to: int = 256
    resample: str = "bilinear"
    epsilon: float = EPSILON
    marks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    auxiliary: tuple[str, ...] = ()
    transforms: bool = False
    flat: str = ""


_VGG_BLOCKS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_MOBILENET_V2 = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
_R, _H = RELU, HARD_SILU
_V3_LARGE = (
    *((1, _R), (2, _R), (1, _R), (2, _R), (1, _R), (1, _R)),
    *((2, _H), (1, _H), (1, _H), (1, _H), (1, _H), (1, _H), (2, _H), (1, _H), (1, _H)),
)
_V3_SMALL = ((2, _R), (2, _R), (1, _R), (2, _H), (1, _H), (1, _H), (1, _H), (1, _H), (2, _H), (1, _H), (1, _H))
#: EfficientNet's strides by stage.
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
#: Blocks in each stage; side of the cut and of the image before it; epsilon.
_EFFICIENTNETS = {
    "efficientnet_b0": ((1, 2, 2, 3, 3, 4, 1), 224, 256, EPSILON),
    "efficientnet_b1": ((2, 3, 3, 4, 4, 5, 2), 240, 256, EPSILON),
    "efficientnet_b2": ((2, 3, 3, 4, 4, 5, 2), 288, 288, EPSILON),
    "efficientnet_b3": ((2, 3, 3, 5, 5, 6, 2), 300, 320, EPSILON),
    "efficientnet_b4": ((2, 4, 4, 6, 6, 8, 2), 380, 384, EPSILON),
    "efficientnet_b5": ((3, 5, 5, 7, 7, 9, 3), 456, 456, LARGE_EPSILON),
    "efficientnet_b6": ((3, 6, 6, 8, 8, 11, 3), 528, 528, LARGE_EPSILON),
    "efficientnet_b7": ((4, 7, 7, 10, 10, 13, 4), 600, 600, LARGE_EPSILON),
}
#: b1 and b2 are equally deep.
_WIDER = {"efficientnet_b1": {"features.3.0.block.3.1.weight": (40,)}, "efficientnet_b2": {"features.3.0.block.3.1.weight": (48,)}}
_MIXED = (
    *(("5b", "A"), ("5c", "A"), ("5d", "A"), ("6a", "B"), ("6b", "C"), ("6c", "C"), ("6d", "C"), ("6e", "C")),
    *(("7a", "D"), ("7b", "E"), ("7c", "E")),
)
_WIDTH = "layer1.0.conv2.weight"

_ROWS = (
    *(Row(f"{name}{norm}", _vgg, blocks, flat="classifier.0") for norm in ("", "_bn") for name, blocks in _VGG_BLOCKS.items()),
    Row("alexnet", _alexnet, ((0, 4, 2, True), (3, 1, 2, True), (6, 1, 1, False), (8, 1, 1, False), (10, 1, 1, True))),
    Row("resnet18", _resnet, (2, (2, 2, 2, 2))),
    Row("resnet34", _resnet, (2, (3, 4, 6, 3))),
    Row("resnet50", _resnet, (3, (3, 4, 6, 3)), marks={_WIDTH: (64, 64, 3, 3)}),
    Row("resnet101", _resnet, (3, (3, 4, 23, 3)), marks={_WIDTH: (64, 64, 3, 3)}),
    Row("resnet152", _resnet, (3, (3, 8, 36, 3))),
    Row("resnext50_32x4d", _resnet, (3, (3, 4, 6, 3)), marks={_WIDTH: (128, 4, 3, 3)}),
    Row("resnext101_32x8d", _resnet, (3, (3, 4, 23, 3)), marks={_WIDTH: (256, 8, 3, 3)}),
    Row("resnext101_64x4d", _resnet, (3, (3, 4, 23, 3)), resize_to=232, marks={_WIDTH: (256, 4, 3, 3)}),
    Row("wide_resnet50_2", _resnet, (3, (3, 4, 6, 3)), marks={_WIDTH: (128, 128, 3, 3)}),
    Row("wide_resnet101_2", _resnet, (3, (3, 4, 23, 3)), marks={_WIDTH: (128, 128, 3, 3)}),
    Row("densenet121", _densenet, (6, 12, 24, 16)),
    Row("densenet161", _densenet, (6, 12, 36, 24)),
    Row("densenet169", _densenet, (6, 12, 32, 32)),
    Row("densenet201", _densenet, (6, 12, 48, 32)),
    Row("squeezenet1_0", _squeezenet, (2, 6, 11)),
    Row("squeezenet1_1", _squeezenet, (2, 5, 8)),
    Row("mobilenet_v2", _mobilenet_v2, _MOBILENET_V2),
    Row("mobilenet_v3_large", _mobilenet_v3, _V3_LARGE, epsilon=LARGE_EPSILON),
    Row("mobilenet_v3_small", _mobilenet_v3, _V3_SMALL, epsilon=LARGE_EPSILON),
    *(
        Row(name, _efficientnet, tuple(zip(_STRIDES, counts, strict=True)), side, before, "bicubic", epsilon, _WIDER.get(name, {}))
        for name, (counts, side, before, epsilon) in _EFFICIENTNETS.items()
    ),
    Row(
        "googlenet",
        _googlenet,
        ((3, "ab"), (3, "abcde"), (2, "ab")),
        epsilon=LARGE_EPSILON,
        auxiliary=("aux1.", "aux2."),
        transforms=True,
    ),
    Row("inception_v3", _inception_v3, _MIXED, 299, 342, epsilon=LARGE_EPSILON, auxiliary=("AuxLogits.",), transforms=True),
)
ROWS: Mapping[str, Row] = MappingProxyType({row.name: row for row in _ROWS})

#: DenseNet's weights were saved before module names lost their dots.
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def new_name(name: str) -> str:
    """Return what a tensor of an old state dict is called today."""
    return _OLD_NAME.sub(r"\1\2", name)
