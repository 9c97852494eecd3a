"""What a layer is as data (`Layer`, `Window`), as it is computed (`Step`), and what the engine asks of every kind (`Kind`, `Operation`).

Two tables in `nplrp.layers` hold all kinds: `KINDS` says what a model's layers may be, and how each becomes a step; `OPERATIONS` says how
steps are computed. Several kinds share an operation: a global average pool is an average pool, a batch norm is a scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nplrp.errors import ModelError
from nplrp.rules.rule import Part, Rule

if TYPE_CHECKING:
    from nplrp.workspace import Room, Workspace

Shape = tuple[int, ...]
Pads = tuple[int, int, int, int]
Weights = tuple[np.ndarray, np.ndarray]

#: What a model's input is called among its layers.
INPUT = "input"
#: The most numbers that one layer may give for one image, 8 GB in float32; more is taken for a mistake.
MAX_VALUES = 1 << 31

#: How many inputs a kind has that joins several: Keras has no limit, but nobody means more, and a winner's number takes 16 bits.
SEVERAL = (2, 1 << 16)

#: What an operation does to relevance: it is linear; linear once its forward pass has decided something (which place of a window won);
#: or it only moves numbers.
LINEAR, DECIDES, MOVES = "linear", "decides", "moves"


@dataclass(frozen=True)
class Window:
    """How a convolution or a pooling window moves over an image.

    Attributes
    ----------
    size : (int, int)
        Height and width of the window, before dilation.
    stride, dilation : (int, int)
    padding : str or (int, int, int, int)
        ``"same"`` or ``"valid"``, as TensorFlow defines them, or rows and columns at top, bottom, left and right. Padding is zeros for a
        convolution, and nothing at all for a pool: its windows end at the image's border.
    """

    size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: str | Pads = "valid"

    def pads(self, height: int, width: int) -> Pads:
        """Return the rows and columns around an image: top, bottom, left, right.

        TensorFlow's 'same': out = ceil(in / stride), the odd row or column goes to the bottom or right.
        """
        if not isinstance(self.padding, str):
            return self.padding
        sides = []
        for n, k, s, d in zip((height, width), self.size, self.stride, self.dilation, strict=True):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) if self.padding == "same" else 0
            sides += [total // 2, total - total // 2]
        return sides[0], sides[1], sides[2], sides[3]

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the output; zero or less when the window doesn't fit."""
        top, bottom, left, right = self.pads(height, width)
        rows, columns = (
            (n - (k - 1) * d - 1) // s + 1
            for n, k, s, d in zip((height + top + bottom, width + left + right), self.size, self.stride, self.dilation, strict=True)
        )
        return rows, columns


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of a model: what it is called, what it does, what it reads, and its arrays.

    Attributes
    ----------
    name : str
        Keras's name.
    kind : str
        One of `nplrp.layers.KINDS`.
    input_shape, output_shape : tuple of int
        Without the batch axis; of several inputs the first one's.
    activation : str
        Applied after the layer's own operation: a name in `nplrp.layers.activations.ACTIVATIONS`, perhaps with parameters as in
        ``"relu(max_value=6.0)"``.
    window : Window or None
        Of convolutions and pools.
    pads : (int, int, int, int) or None
        Of ``pad`` and ``crop``: rows and columns at top, bottom, left, right.
    keepdims : bool
        Of the global poolings: the output keeps its axes, (1, 1, C).
    epsilon : float
        Of normalisations: added to the variance.
    arrays : mapping of str to ndarray, float32
        ``kernel`` and ``bias`` (which may be absent), and what else the kind has; constants of a configuration are float64.
    inputs : tuple of str
        Names of the layers that it reads, ``"input"`` for the model's input; empty for the layer before it.
    options : mapping
        What else the kind has to know, as plain JSON values (`Kind.options`).
    input_shapes : tuple of tuple of int
        Of all inputs.
    """

    name: str
    kind: str
    input_shape: Shape = ()
    output_shape: Shape = ()
    activation: str = "linear"
    window: Window | None = None
    pads: Pads | None = None
    keepdims: bool = False
    epsilon: float = 0.0
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    inputs: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    input_shapes: tuple[Shape, ...] = ()

    def __post_init__(self) -> None:
        for name in ("arrays", "options"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the mappings as plain dicts: a read-only view of one can't be pickled."""
        values = (getattr(self, one.name) for one in fields(self))
        return Layer, tuple(dict(value) if isinstance(value, MappingProxyType) else value for value in values)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(a.size for a in self.arrays.values())

    def describe(self) -> dict[str, Any]:
        """Return everything but the arrays' contents as plain JSON values; what chains don't have is left out where it isn't there."""
        window = self.window
        found: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "input_shape": list(self.input_shape),
            "output_shape": list(self.output_shape),
            "activation": self.activation,
            "window": window
            and [
                list(window.size),
                list(window.stride),
                list(window.dilation),
                window.padding if isinstance(window.padding, str) else list(window.padding),
            ],
            "pads": self.pads and list(self.pads),
            "keepdims": self.keepdims,
            "epsilon": self.epsilon,
            "arrays": {key: list(a.shape) for key, a in sorted(self.arrays.items())},
        }
        if self.inputs:
            found["inputs"] = list(self.inputs)
        if self.options:
            found["options"] = dict(sorted(self.options.items()))
        if len(self.input_shapes) > 1:
            found["input_shapes"] = [list(shape) for shape in self.input_shapes]
        return found

    @classmethod
    def described(cls, row: Mapping[str, Any]) -> Layer:
        """Return the layer that `describe` has described, without its arrays."""
        window, pads, shape = row.get("window"), row.get("pads"), tuple(row["input_shape"])
        if window is not None:
            size, stride, dilation, padding = window
            window = Window(tuple(size), tuple(stride), tuple(dilation), padding if isinstance(padding, str) else tuple(padding))
        return cls(
            row["name"],
            row["kind"],
            shape,
            tuple(row["output_shape"]),
            row["activation"],
            window,
            None if pads is None else tuple(pads),
            row["keepdims"],
            row["epsilon"],
            inputs=tuple(row.get("inputs", ())),
            options=row.get("options", {}),
            input_shapes=tuple(map(tuple, row.get("input_shapes", [shape]))),
        )


@dataclass(frozen=True, eq=False)
class Step:
    """One layer as it is computed.

    Attributes
    ----------
    name : str
        The layer's.
    kind : str
        One of `nplrp.layers.OPERATIONS`.
    input_shape, output_shape : tuple of int
        Without the batch axis. An operation with several inputs works on one array that holds them all (`Operation.gather`):
        `input_shape` is that array's.
    activation : str
        As of `Layer`.
    window : Window or None
    pads : (int, int, int, int) or None
    weight, bias : ndarray or None
        In the plan's dtype; weights that the kernels widen (`Operation.widens`) as they were, see `wide`. Linear steps always have a bias,
        zeros if the layer has none.
    merged : bool
        A batch norm that lives in the weights of a neighbour, the step at the place of its option ``into``.
    score : bool
        Its activation is the model's score function: LRP begins before it.
    algorithm : str
        ``"auto"`` or ``"direct"``.
    prepared : dict
        Packed weights by change; filled on first use and shared by every plan of the model and dtype.
    room : Room
        What may be held for speed alone, by all steps of the model together.
    inputs : tuple of int
        Places of the steps that it reads; -1 is the model's input.
    options : mapping
        As of `Layer`.
    input_shapes : tuple of tuple of int
        Of all inputs; empty means one, `input_shape`.
    stand_in : Step or None
        What rules run on in the step's place (`nplrp.rules.dialects.Dialect.stand_ins`).
    """

    name: str
    kind: str
    input_shape: Shape
    output_shape: Shape
    activation: str = "linear"
    window: Window | None = None
    pads: Pads | None = None
    weight: np.ndarray | None = field(default=None, repr=False)
    bias: np.ndarray | None = field(default=None, repr=False)
    merged: bool = False
    score: bool = False
    algorithm: str = "auto"
    prepared: dict[Any, Any] = field(default_factory=dict, repr=False)
    room: Room | None = field(default=None, repr=False)
    inputs: tuple[int, ...] = (-1,)
    options: Mapping[str, Any] = field(default_factory=dict)
    input_shapes: tuple[Shape, ...] = ()
    stand_in: Step | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is prepared: it can be made again."""
        return {**self.__dict__, "prepared": {}, "options": dict(self.options)}


class Division(NamedTuple):
    """What line 2 divides by at a step: z of each part of its rule, the rule that stabilises them, and the parts' weights."""

    z: tuple[np.ndarray, ...]
    rule: Rule
    weights: tuple[float, ...]


class Carried(NamedTuple):
    """What a fused step back gives: relevance of each input, or, of the one input, s of the step below part by part."""

    arrays: list[np.ndarray]
    divided: bool


@dataclass(frozen=True)
class Fused:
    """How an operation runs in the fused pass (`nplrp.fused`): nothing is checked, memory is the workspace's, kernels may be queued.

    Attributes
    ----------
    forward : callable
        (step, inputs, relu, parts, workspace) -> (z, each part's z): line 1 with the step's own weights and bias, clamped at 0 if `relu`,
        and beside it with those of parts.
    carry : callable
        (step, s part by part, parts, inputs, workspace) -> Carried: lines 3 and 4.
    beside : callable or None
        (step, inputs, parts, workspace) -> each part's z, without the step's own, which another pass has computed.
    whole : callable or None
        (step, R, division, part, inputs, workspace) -> Carried: lines 2, 3 and 4 of a rule of one part, whose division is the step's own.
    fits : callable
        Whether a step can run so.
    terms : int
        How many terms a part may have. If it is 1, that is one with the activation itself; else also with parts of it by sign.
    tops : bool
        `relu` may also be a number to clamp at.
    divides : bool
        `carry` takes a division as well, None or what line 2 of the step below divides by, which it then does as the last thing.
    singly : bool
        Its kernels may be queued for one part alone.
    """

    forward: Callable[[Step, Sequence[np.ndarray], bool | float, Sequence[Part], Workspace], tuple[np.ndarray, list[np.ndarray]]]
    carry: Callable[..., Carried]
    beside: Callable[[Step, Sequence[np.ndarray], Sequence[Part], Workspace], list[np.ndarray]] | None = None
    whole: Callable[[Step, np.ndarray, Division, Part, Sequence[np.ndarray], Workspace], Carried] | None = None
    fits: Callable[[Step], bool] = lambda step: True
    terms: int = 1
    tops: bool = False
    divides: bool = False
    singly: bool = False


@dataclass(frozen=True)
class Routes:
    """How an operation that has decided gives its relevance to those who won, in the fused pass.

    Attributes
    ----------
    route : callable
        (step, R, held, division, workspace) -> Carried: R to the winners.
    times : callable or None
        (step, s, held, a, division, workspace) -> Carried: s to the winners, times a.
    """

    route: Callable[..., Carried]
    times: Callable[..., Carried] | None = None


@dataclass(frozen=True)
class Choice:
    """How every output of an operation is chosen from numbers that it sees.

    Attributes
    ----------
    places : callable
        (step, a) -> numbers [n, *output_shape, places] of which each output is the first largest; -inf for a place that there isn't.
    held : callable
        (step, shares [n, *output_shape, places]) -> shares as the operation's transpose takes them.
    """

    places: Callable[[Step, np.ndarray], np.ndarray]
    held: Callable[[Step, np.ndarray], np.ndarray]


def absolute(step: Step) -> Step:
    """Return a step with the absolute values of its weights and bias, and no activation: what its sums add up, whatever the signs."""
    weight, bias = (None if array is None else np.abs(array) for array in (step.weight, step.bias))
    return replace(step, weight=weight, bias=bias, activation="linear", prepared={})


@dataclass(frozen=True)
class Operation:
    """How a kind of step is computed.

    Attributes
    ----------
    name : str
    role : str
        `LINEAR`, `DECIDES` or `MOVES`.
    family : str
        What composites and rules call it: convolutions of every kind are ``"conv"``.
    forward : callable or None
        (step, inputs, changes, bias, relu, held) -> z: the sum over terms of (input times changed weight), plus the bias, clamped at 0 if
        `relu`. Of a `MOVES` operation: (step, a, workspace=None) -> moved.
    transpose : callable or None
        (step, s, change, held, c): write s times changed weight, transposed, to c. Of a `MOVES` operation: (step, R,
        workspace=None) -> moved back.
    decide : callable or None
        (step, a, ties, workspace) -> (z, held): run forward and hold what makes the step linear.
    gather, scatter : callable
        (step, inputs, workspace=None) -> the one array that it works on, and (step, relevance of that array, workspace=None) -> that of
        each input. Arrays that are made are the workspace's, if there is one.
    terms : callable
        step -> (terms in a sum over its inputs, the bias counted; terms in a sum over its outputs): what error bounds grow with.
    absolute : callable or None
        step -> the step that adds up the absolute values of what this one adds up; None: the same step with those of its weights and bias.
    unsure : callable or None
        Of one whose decisions are rounded numbers: (step, a, held, decision, unit) -> how far what is held may be off for a unit roundoff,
        in units of what error bounds grow with; like `held`.
    function : callable or None
        Of one that is an activation: step -> its name.
    choice : Choice or None
        Of one whose outputs are numbers that it sees.
    tiled : callable
        Whether a step is an ordinary convolution with stride 1, which some run by tiles or by Fourier transforms.
    fused : Fused or None
        Of a linear operation; None: the page carries relevance back.
    routes : Routes or None
        Of one that decides.
    redecide : callable or None
        Of one that decides: (step, a, ties, decision) -> held, for rules that decide otherwise (`nplrp.rules.rule.DECISIONS`).
    curved : bool
        Of one that decides: its derivative is another one than what it holds.
    average : callable or None
        Of one that decides: step -> the step that weighs all its places alike.
    queueable : bool
        Its fused functions, or those that move, call kernels only: they may be noted down (`nplrp.jit`'s queue).
    widens : bool
        Its kernels take float32 weights in float64 passes: the numbers are the same, and half as many bytes.
    view : bool
        It only looks at the same numbers in another way.
    alone : callable or None
        Of an activation that is a layer of its own: step -> its name and parameters.
    tie : callable or None
        step -> its window, as `nplrp.kernels.ties` has it; None: positions that see the same pixels can't be told behind it.
    windowed : bool
        It decides between the places of a window, so that structural ties matter.
    rounds : callable
        (step, dtype) -> whether its sums round differently by place, so that equal windows may give unequal numbers.
    keeps_sign : bool
        Inputs that can't be negative give outputs that can't.
    positive : callable
        step -> whether its outputs can't be negative, whatever its inputs.
    keeps_zero : bool
        Relevance that is 0 wherever the output is, handed on, is 0 wherever the input is.
    ends : callable or None
        (step, a [2, *input_shape]) -> the least and the largest that its outputs can be before its activation, [2, *output_shape], for
        inputs that lie between the two rows of a, float64; None, or a result of None, where numbers are mixed, so that bounds would be
        loose or unknown.
    scale_outputs, scale_inputs : callable or None
        (step, g, h) -> (weight, bias) of the step followed, or preceded, by y = g x + h channel by channel, in float64; None where that
        isn't exact.
    """

    name: str
    role: str
    family: str
    forward: Callable[..., np.ndarray]
    transpose: Callable[..., Any]
    decide: Callable[..., tuple[np.ndarray, Any]] | None = None
    gather: Callable[..., np.ndarray] = lambda step, inputs, workspace=None: inputs[0]
    scatter: Callable[..., list[np.ndarray]] = lambda step, R, workspace=None: [R]
    terms: Callable[[Step], tuple[int, int]] = lambda step: (2, 1)
    absolute: Callable[[Step], Step] | None = None
    unsure: Callable[[Step, np.ndarray, Any, str, float], Any] | None = None
    function: Callable[[Step], str] | None = None
    choice: Choice | None = None
    tiled: Callable[[Step], bool] = lambda step: False
    fused: Fused | None = None
    routes: Routes | None = None
    redecide: Callable[..., Any] | None = None
    curved: bool = False
    average: Callable[[Step], Step] | None = None
    queueable: bool = False
    widens: bool = False
    view: bool = False
    alone: Callable[[Step], str] | None = None
    tie: Callable[[Step], tuple[int, ...] | None] | None = None
    windowed: bool = False
    rounds: Callable[[Step, np.dtype], bool] = lambda step, dtype: False
    keeps_sign: bool = False
    positive: Callable[[Step], bool] = lambda step: False
    keeps_zero: bool = False
    ends: Callable[[Step, np.ndarray], np.ndarray | None] | None = None
    scale_outputs: Callable[[Step, np.ndarray, np.ndarray], Weights | None] | None = None
    scale_inputs: Callable[[Step, np.ndarray, np.ndarray], Weights | None] | None = None


#: How the numbers of a layer's output channels follow from those of its inputs: they are its own weights' to choose; the same; or made
#: of them in another way (one input's behind the other's).
FREE, SAME, MADE = "free", "same", "made"


@dataclass(frozen=True)
class Renumbering:
    """How a layer's arrays follow if channels get other numbers, which changes nothing but the order of sums.

    Attributes
    ----------
    how : str
        `FREE`, `SAME` or `MADE`.
    arrays : callable
        (layer, for each input which of the old channels each place holds, the same as wanted of the output) -> (arrays, the same of the
        output).
    """

    how: str
    arrays: Callable[[Layer, Sequence[np.ndarray], np.ndarray], tuple[dict[str, np.ndarray], np.ndarray]]


def _same_channels(layer: Layer, orders: Sequence[np.ndarray], after: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Renumber arrays whose last axis are channels, or a single number for all of them."""
    order, channels = orders[0], layer.input_shape[-1] if layer.input_shape else 0
    return {key: array[..., order] if array.shape[-1:] == (channels,) else array for key, array in layer.arrays.items()}, order


#: Of what treats every channel alike, or by numbers of its own.
CHANNEL_BY_CHANNEL = Renumbering(SAME, _same_channels)


@dataclass(frozen=True)
class Kind:
    """What a model's layers may be.

    Attributes
    ----------
    name : str
    shape : callable
        (layer, shapes of its inputs) -> shape of its output; raises `ModelError` if they or its arrays don't fit.
    step : callable
        layer -> the fields of its `Step` that aren't the layer's own; at least ``kind``.
    arity : (int, int)
        The fewest and the most inputs.
    keras : mapping of str to callable
        Keras's classes -> what reads a use of such a layer (see `nplrp.layers.config`).
    stand_in : callable or None
        layer -> weight and bias, float64, of the function that takes its place in dialects with `Dialect.stand_ins`.
    renumbering : callable
        layer -> its `Renumbering`, None if what it reads must keep its order.
    chooses : bool
        Its outputs are numbers that it sees (`Operation.choice`).
    """

    name: str
    shape: Callable[[Layer, tuple[Shape, ...]], Shape]
    step: Callable[[Layer], dict[str, Any]]
    arity: tuple[int, int] = (1, 1)
    keras: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    stand_in: Callable[[Layer], Weights] | None = None
    renumbering: Callable[[Layer], Renumbering | None] = lambda layer: CHANNEL_BY_CHANNEL
    chooses: bool = False


def window_of(layer: Layer | Step) -> Window:
    """Return a layer's window.

    Raises
    ------
    ModelError
        If it has none.
    """
    if layer.window is None:
        raise ModelError(f"layer {layer.name!r} ({layer.kind}) has no window")
    return layer.window


def check_vector(layer: Layer, key: str, length: int) -> None:
    """See that an array, if the layer has it, is a vector of that length."""
    array = layer.arrays.get(key)
    if array is not None and array.shape != (length,):
        raise ModelError(f"layer {layer.name!r}: its {key} has shape {array.shape}, expected ({length},)")


def image_shape(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """Return the shape of a layer's input, which must be an image."""
    if len(shapes[0]) != 3:
        raise ModelError(f"layer {layer.name!r} ({layer.kind}) needs an image (H, W, C), but gets {shapes[0]} from the layer before it")
    return shapes[0]


def fits(layer: Layer, before: Shape, after: Shape) -> Shape:
    """Return a layer's output shape if it is neither empty nor too large.

    Raises
    ------
    ModelError
    """
    if min(after, default=1) < 1 or min(before, default=1) < 1:
        raise ModelError(f"layer {layer.name!r} ({layer.kind}) doesn't fit: its input has shape {before}, its output would have {after}")
    if math.prod(after) > MAX_VALUES:
        raise ModelError(
            f"layer {layer.name!r} ({layer.kind}): its output would have shape {after}; at most {MAX_VALUES} numbers are supported"
        )
    return after


def output_shape(kind: Kind, layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """Return the shape of what a layer gives.

    Raises
    ------
    ModelError
        If it has too few or too many inputs, they don't fit it, or its fields aren't what its kind has.
    """
    (fewest, most), count = kind.arity, len(shapes)
    if not fewest <= count <= most:
        expected = f"{fewest}" if fewest == most else f"{fewest} or more" if count < fewest else f"at most {most}"
        raise ModelError(f"layer {layer.name!r} ({layer.kind}) has {count} input{'s' * (count != 1)}, expected {expected}")
    try:
        return kind.shape(layer, shapes)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelError(
            f"layer {layer.name!r} ({layer.kind}): its window, options or arrays aren't what a layer of its kind has "
            f"({type(error).__name__}: {error})"
        ) from error


def listed(layer: Layer, shapes: Sequence[Shape]) -> str:
    """Write a layer's inputs with their shapes, the first eight of them, as messages show them."""
    names = layer.inputs if len(layer.inputs) == len(shapes) else [None] * len(shapes)
    found = [str(shape) if name is None else f"{name!r} {shape}" for name, shape in zip(names[:8], shapes, strict=False)]
    return ", ".join(found) + (", ..." if len(shapes) > 8 else "")


def float64(step: Step) -> Weights:
    """Return a step's weight and bias in float64."""
    return np.asarray(step.weight, dtype=np.float64), np.asarray(step.bias, dtype=np.float64)


def wide(step: Step) -> np.ndarray:
    """Return a step's weight in the dtype that it is computed in, for others than its kernels; made once."""
    assert step.weight is not None
    if step.bias is None or step.weight.dtype == step.bias.dtype:
        return step.weight
    source, weight = step.prepared.get("wide", (None, step.weight))
    if source is not step.weight:  # a step with other weights may share what was prepared
        weight = np.asarray(step.weight, step.bias.dtype)
        step.prepared["wide"] = step.weight, weight
    found: np.ndarray = weight
    return found


def scaled_outputs(step: Step, g: np.ndarray, h: np.ndarray) -> Weights:
    """Return weight and bias of a step whose last axis of weights are its output channels, followed by y = g x + h."""
    w, b = float64(step)
    return w * g, b * g + h
