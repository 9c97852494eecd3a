"""What the conformance suite asks, as tables: rules, layers, and inputs that are hard for them.

A case is one layer with its numbers, relevance of its output, and a rule; its name is `rule.layer.input`. What the rule's open switches
are, a dialect says: so one case has an answer for each dialect that has the rule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nplrp.conformance import seeded
from nplrp.conformance.seeded import INPUTS, RELEVANCE, WEIGHTS, grid
from nplrp.layers import Layer, Step, Window, forward
from nplrp.model import build
from nplrp.plan import make_steps
from nplrp.rules import AS_IS, STABILISERS, Rule

Shape = tuple[int, ...]
Shapes = tuple[Shape, ...]

#: Of a rule: "own" is what a dialect does where nobody gives a rule.
WEIGHTED: Mapping[str, Rule] = {
    "zero": Rule("zero"),
    "epsilon": Rule("epsilon"),
    "epsilon_0.1": Rule("epsilon", epsilon=0.1),
    "epsilon_no_bias": Rule("epsilon", bias="none"),
    "gamma": Rule("gamma", gamma=0.25),
    "gamma_plain": Rule("gamma", gamma=0.25, split=False),
    "gamma_no_bias": Rule("gamma", gamma=0.25, bias="none"),
    "zplus": Rule("zplus"),
    "zplus_no_bias": Rule("zplus", bias="none"),
    "zplus_clamped": Rule("zplus", bias="none", split=False),
    "alpha1_beta0": Rule("alpha_beta", alpha=1.0, beta=0.0),
    "alpha2_beta1": Rule("alpha_beta", alpha=2.0, beta=1.0),
    "alpha2_beta1_no_bias": Rule("alpha_beta", alpha=2.0, beta=1.0, bias="none"),
    "alpha_beta_x": Rule("alpha_beta_x", alpha=2.0, beta=1.0),
    "wsquare": Rule("wsquare"),
    "flat": Rule("flat"),
    "zbox": Rule("zbox", low=-2.5, high=2.5),
    "gradient": Rule("gradient"),
}
#: Systems that have a rule only with a switch of its own; other rules every dialect has that knows their name.
WHOSE: Mapping[str, tuple[str, ...]] = {
    "gamma_plain": ("nplrp", "captum-0.9", "rp.jl-3", "montavon"),
    "zplus_clamped": ("nplrp", "innvestigate-2.1", "captum-0.9"),
    "epsilon_no_bias": ("nplrp", "zennit-0.5", "innvestigate-2.1"),
    **dict.fromkeys(("gamma_no_bias", "zplus_no_bias"), ("nplrp", "zennit-0.5", "innvestigate-2.1", "captum-0.9")),
    **dict.fromkeys(("alpha2_beta1_no_bias", "gradient"), ("nplrp", "zennit-0.5", "innvestigate-2.1")),
}
#: On scales, beside these.
SCALED: Mapping[str, Rule | None] = {"own": None, "pass": Rule("pass")}
_SUMS: Mapping[str, Rule | None] = {
    "own": None,
    "norm": Rule("norm"),
    **{name: WEIGHTED[name] for name in ("zero", "epsilon", "zplus", "alpha2_beta1", "wsquare", "flat", "gradient")},
}
_CHOICES: Mapping[str, Rule | None] = {
    "own": None,
    "winner": Rule("winner"),
    "winner_ties": Rule("winner_ties"),
    "average": Rule("average"),
    "flat": Rule("flat"),
}
_MEANS = {**_SUMS, "average": Rule("average")}
_WINDOWS = {**_CHOICES, "winner_epsilon": Rule("winner_epsilon")}
_GATES: Mapping[str, Rule | None] = {"own": None, **{name: Rule(name) for name in ("signal", "half", "gradient")}}
_BENDS: Mapping[str, Rule | None] = {"own": None, **{name: Rule(name) for name in ("pass", "slope", "norm")}}
_NORMS: Mapping[str, Rule | None] = {
    "own": None,
    **{name: Rule(name) for name in ("epsilon", "zero", "norm", "slope", "pass", "gradient")},
}
_MOVED: Mapping[str, Rule | None] = {"own": None}
#: On layers without weights other systems have their own rules, or those that don't ask for weights; all else there is ours alone.
OURS, USUAL = ("nplrp",), ("own", "norm", "epsilon", "zero", "gradient")
_UNUSUAL = (_SUMS, _MEANS, _CHOICES, _WINDOWS, _GATES, _NORMS)


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """A layer with its numbers.

    Attributes
    ----------
    layer, input : str
        The second and third part of a case's name.
    made : Layer
        Shapes derived; it reads "a", or "a0", "a1" and so on.
    inputs : tuple of ndarray [n, *input_shape], float64
        Float32 holds them, the weights and R exactly.
    R : ndarray [n, *output_shape]
    exact : bool
        All sums that rules form of them are exact in float32, in any order.
    """

    layer: str
    input: str
    made: Layer
    inputs: tuple[np.ndarray, ...]
    R: np.ndarray
    exact: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """A case before anybody has computed it: a setting, a rule (None is the dialect's own), and dialects (None for all that know it)."""

    name: str
    rule_name: str
    rule: Rule | None
    setting: Setting
    dialects: tuple[str, ...] | None = None


def all_cases() -> Iterator[Asked]:
    """Yield every case of the suite, in order; names are unique."""
    for settings, rules in _tables():
        for setting in settings:
            for name, rule in rules.items():
                whose = OURS if rules in _UNUSUAL and name not in USUAL else WHOSE.get(name)
                yield Asked(f"{name}.{setting.layer}.{setting.input}", name, rule, setting, whose)
    for setting in (*_hard("dense", ("mixed", "z-zero")), *_hard("conv-same-stride2", ("z-zero",))):
        for stabiliser in STABILISERS:
            if stabiliser == "split" and setting.input == "z-zero":
                continue  # what stands in for 0 depends on the precision
            rule = Rule("epsilon", epsilon=0.1, stabiliser=stabiliser)
            yield Asked(f"epsilon_{stabiliser}.{setting.layer}.{setting.input}", f"epsilon_{stabiliser}", rule, setting, ("nplrp",))


def _tables() -> Iterator[tuple[Iterator[Setting] | Sequence[Setting], Mapping[str, Rule | None]]]:
    """Yield settings with the rules that they are asked with."""
    yield [_weighted(layer, "mixed") for layer in LAYERS if layer not in HARD], WEIGHTED
    for layer in HARD:
        yield _hard(layer, HARD_INPUTS), WEIGHTED
    yield [_cancelling("dense-4", (4,)), _cancelling("conv-patches", (4, 4, 1))], WEIGHTED
    yield [_scale(each) for each in ("mixed", "z-zero", "batch")], {**WEIGHTED, **SCALED}
    for kind, several in (("maxpool", ("2x2", "overlapping", "global")), ("avgpool", ("2x2", "overlapping", "global"))):
        for form in several:
            chosen = kind == "maxpool"
            inputs = ("mixed", "ties", "near-ties", "zeros", "negative", "constant", "batch") if chosen else ("mixed", "zeros", "batch")
            yield [_pool(kind, form, each) for each in inputs], _WINDOWS if chosen else _MEANS
    for kind in ("add", "add-3", "average", "subtract"):
        yield [_join(kind, each) for each in ("mixed", "z-zero", "batch", "vectors")], _SUMS
    for kind in ("maximum", "minimum"):
        yield [_join(kind, each) for each in ("mixed", "ties", "batch")], _CHOICES
    for kind in ("multiply", "multiply-gate"):
        yield [_join(kind, each) for each in ("mixed", "zeros")], _GATES
    yield [_join("concatenate", "mixed"), _join("concatenate", "vectors"), *map(_move, MOVES)], _MOVED
    yield [_bend(each) for each in BENDS], _BENDS
    yield [_norm(kind, each) for kind in NORMS for each in ("mixed", "batch")], _NORMS


# Layers with weights


def _conv(window: Window, kind: str = "conv", activation: str = "linear", **options: Any) -> Callable[[Any, Any], Layer]:
    def made(kernel: np.ndarray, bias: np.ndarray) -> Layer:
        return Layer("layer", kind, activation=activation, window=window, arrays=_single(kernel=kernel, bias=bias), options=options)

    return made


def _dense(activation: str = "linear") -> Callable[[Any, Any], Layer]:
    return lambda kernel, bias: Layer("layer", "dense", activation=activation, arrays=_single(kernel=kernel, bias=bias))


def _single(**arrays: np.ndarray) -> dict[str, np.ndarray]:
    found = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays), "a weight that float32 doesn't hold"
    return found


#: Name -> input's shape, kernel's shape, number of biases, layer.
LAYERS: Mapping[str, tuple[Shape, Shape, int, Callable[[Any, Any], Layer]]] = {
    "dense": ((6,), (6, 4), 4, _dense()),
    "dense-relu": ((6,), (6, 4), 4, _dense("relu")),
    "conv-valid": ((5, 5, 2), (3, 3, 2, 3), 3, _conv(Window((3, 3)))),
    "conv-same": ((4, 4, 2), (3, 3, 2, 3), 3, _conv(Window((3, 3), padding="same"))),
    "conv-same-even": ((4, 4, 2), (2, 2, 2, 2), 2, _conv(Window((2, 2), padding="same"))),
    "conv-same-stride2": ((4, 4, 2), (3, 3, 2, 3), 3, _conv(Window((3, 3), (2, 2), padding="same"))),
    "conv-pads": ((4, 4, 2), (3, 3, 2, 2), 2, _conv(Window((3, 3), (2, 1), padding=(1, 0, 2, 1)))),
    "conv-stride3": ((5, 5, 2), (2, 2, 2, 3), 3, _conv(Window((2, 2), (3, 3)))),
    "conv-dilated": ((5, 5, 2), (2, 2, 2, 3), 3, _conv(Window((2, 2), dilation=(2, 2)))),
    "conv-1x1": ((3, 3, 3), (1, 1, 3, 3), 3, _conv(Window((1, 1)))),
    "conv-grouped": ((4, 4, 4), (3, 3, 2, 4), 4, _conv(Window((3, 3)), groups=2)),
    "conv-relu": ((4, 4, 2), (3, 3, 2, 3), 3, _conv(Window((3, 3), padding="same"), activation="relu")),
    "depthwise": ((4, 4, 2), (3, 3, 2, 2), 4, _conv(Window((3, 3), padding="same"), "depthwise")),
    "conv-transpose": ((3, 3, 2), (3, 3, 3, 2), 3, _conv(Window((3, 3), (2, 2), padding="same"), "conv_transpose")),
}
#: Layers that get every hard input.
HARD = ("dense", "conv-same-stride2")
HARD_INPUTS = (
    "mixed",
    "positive",
    "no-bias",
    "bias-positive",
    "bias-negative",
    "z-zero",
    "one-sided",
    "dead",
    "constant",
    "large",
    "small",
    "rounded",
    "batch",
)


def _hard(layer: str, inputs: Sequence[str]) -> Iterator[Setting]:
    return (_weighted(layer, each) for each in inputs)


def _weighted(layer: str, kind: str) -> Setting:
    """Return a layer with weights and one of `HARD_INPUTS`.

    positive: inputs > 0. bias-positive, bias-negative: all biases are large and of one sign. z-zero: of each channel one unit has z = 0.
    one-sided: positive inputs, one channel with positive weights alone and one with negative ones. dead: half of the inputs are 0, as
    behind a ReLU. constant: all inputs are equal. large: z of order 1e4, which absorbs epsilon; small: of order 1e-6. rounded: inputs and
    weights use all bits of float32, so that sums round. batch: two images, all else has one.
    """
    shape, kernel_shape, biases, make = LAYERS[layer]
    seed = f"{layer}.{kind}"
    n = 2 if kind in ("batch", "rounded") else 1
    a, kernel = grid(f"{seed}.a", (n, *shape), INPUTS), grid(f"{seed}.kernel", kernel_shape, WEIGHTS)
    bias = grid(f"{seed}.bias", (biases,), WEIGHTS, 8)
    if kind in ("positive", "one-sided", "dead"):
        a = np.abs(a)
    if kind == "one-sided":
        kernel[..., 0], kernel[..., 1] = np.abs(kernel[..., 0]), -np.abs(kernel[..., 1])
    if kind in ("no-bias", "one-sided", "z-zero"):
        bias = np.zeros_like(bias)
    if kind.startswith("bias-"):
        bias = np.abs(bias) + 4
        bias = -bias if kind == "bias-negative" else bias
    if kind == "dead":
        a[seeded.integers(f"{seed}.dead", a.size).reshape(a.shape) % np.uint64(2) == 0] = 0.0
    if kind == "constant":
        a[...] = 0.625
    if kind in ("large", "small"):
        scale = 2.0**13 if kind == "large" else 2.0**-20
        a, bias = a * scale, bias * scale
    if kind == "rounded":
        a, kernel = 2 * seeded.dense(f"{seed}.a", a.shape), seeded.dense(f"{seed}.kernel", kernel_shape)
        bias = seeded.dense(f"{seed}.bias", bias.shape) / 2
    if kind == "z-zero":
        z = _sums(make(kernel, bias), a)
        places = z.reshape(-1, biases)
        bias = -np.array([places[k % len(places), k] for k in range(biases)])
        bias[-1] += WEIGHTS  # one channel stays without
    return _setting(layer, kind, make(kernel, bias), (a,), kind != "rounded")


def _cancelling(layer: str, shape: Shape) -> Setting:
    """Return sums of four terms, a millionth as large as what is added up."""
    a = np.abs(seeded.dense(f"{layer}.a", (1, 2, 2, 1)))
    w = seeded.dense(f"{layer}.kernel", (2, 2, 1, 3))
    terms = (a.reshape(4, 1) * w.reshape(4, 3))[:3]
    rest = 1e-6 * np.abs(terms).sum(axis=0) - (terms[0] + terms[1] + terms[2])
    w[1, 1, 0] = (rest / a[0, 1, 1, 0]).astype(np.float32)
    if len(shape) == 1:
        made = Layer("layer", "dense", arrays=_single(kernel=w.reshape(4, 3), bias=np.zeros(3)))
        return _setting(layer, "cancelling", made, (a.reshape(1, 4),), False)
    patches = [[a[0] * 2.0 ** (2 * i + j) for j in range(2)] for i in range(2)]  # the same to powers of 2, which change no rounding
    image = np.concatenate([np.concatenate(row, axis=1) for row in patches])[None]
    made = Layer("layer", "conv", window=Window((2, 2), (2, 2)), arrays=_single(kernel=w, bias=np.zeros(3)))
    return _setting(layer, "cancelling", made, (image,), False)


def _scale(kind: str) -> Setting:
    """Return a batch norm with statistics of its own; its g and h are rounded, but for z-zero, where they are powers of 2."""
    shape, seed = (3, 3, 3), f"batchnorm.{kind}"
    a = grid(f"{seed}.a", (2 if kind == "batch" else 1, *shape), INPUTS)
    gamma, beta, mean = (grid(f"{seed}.{key}", (3,), WEIGHTS) for key in ("gamma", "beta", "mean"))
    variance = np.abs(grid(f"{seed}.variance", (3,), WEIGHTS)) + 0.25
    if kind == "z-zero":
        gamma, beta, mean, variance = np.array([1, -2, 4]), np.zeros(3), a[0, 1, 1], np.array([1, 4, 0.25])
    epsilon = 0.0 if kind == "z-zero" else 2.0**-10
    arrays = _single(gamma=gamma, beta=beta, mean=mean, variance=variance)
    return _setting("batchnorm", kind, Layer("layer", "batchnorm", epsilon=epsilon, arrays=arrays), (a,), kind == "z-zero")


# Pools, joins, moves, activations, norms


def _pool(kind: str, form: str, inputs: str) -> Setting:
    shape = (3, 3, 2) if form == "global" else (4, 4, 2)
    window = {"2x2": Window((2, 2), (2, 2)), "overlapping": Window((3, 3), (2, 2), padding="same"), "global": None}[form]
    made = Layer("layer", f"global_{kind}" if window is None else kind, window=window)
    seed = f"{kind}-{form}.{inputs}"
    a = grid(f"{seed}.a", (2 if inputs == "batch" else 1, *shape), INPUTS)
    if inputs == "ties":  # of positive, negative and no numbers
        a = grid(f"{seed}.a", a.shape, INPUTS, 2)
        a[..., 0] = np.abs(a[..., 0])
        a[seeded.integers(f"{seed}.zero", a.size).reshape(a.shape) % np.uint64(4) == 0] = 0.0
    if inputs == "near-ties":
        a = 1 + seeded.integers(f"{seed}.a", a.size).reshape(a.shape).astype(np.float64) % 4 * 2.0**-23
    if inputs == "zeros":  # windows of zeros; and such that sum to 0, where that is exact whatever is multiplied first
        a[:, :, :, 0] = 0.0
        if form == "2x2":
            a[:, 1::2, :, 1] = -a[:, ::2, :, 1]
    if inputs == "negative":
        a = -np.abs(a)
    if inputs == "constant":
        a[...] = 0.625
    return _setting(f"{kind}-{form}", inputs, made, (a,), kind == "maxpool" or form == "2x2")


def _join(kind: str, inputs: str) -> Setting:
    count = 3 if kind == "add-3" else 2
    shape: Shape = (5,) if inputs == "vectors" else (3, 3, 2)
    seed, n = f"{kind}.{inputs}", 2 if inputs == "batch" else 1
    several = [grid(f"{seed}.a{i}", (n, *shape), INPUTS, 2 if inputs == "ties" else 16) for i in range(count)]
    if kind == "multiply-gate":
        several[1] = np.abs(grid(f"{seed}.a1", (n, 1, 1, 2), INPUTS, 8))
    if kind == "concatenate" and len(shape) == 3:
        several[1] = grid(f"{seed}.a1", (n, 3, 3, 3), INPUTS)
    if inputs == "z-zero":
        several[-1][:, ::2] = (several[0] if kind == "subtract" else -np.sum(several[:-1], axis=0))[:, ::2]
    if inputs == "zeros":
        several[0][:, 0], several[1][..., 0] = 0.0, 0.0
    options = {"axis": len(shape) - 1} if kind == "concatenate" else {}
    made = Layer("layer", {"add-3": "add", "multiply-gate": "multiply"}.get(kind, kind), options=options)
    return _setting(kind, inputs, made, tuple(several))


#: What only moves numbers: input's shape, and the layer.
MOVES: Mapping[str, tuple[Shape, Layer]] = {
    "flatten": ((2, 3, 2), Layer("layer", "flatten")),
    "reshape": ((2, 3, 2), Layer("layer", "reshape", options={"shape": (3, 4)})),
    "permute": ((2, 3, 2), Layer("layer", "permute", options={"dims": (3, 1, 2)})),
    "pad": ((2, 3, 2), Layer("layer", "pad", pads=(1, 0, 2, 1))),
    "crop": ((4, 4, 2), Layer("layer", "crop", pads=(1, 0, 2, 1))),
    "upsample": ((2, 2, 2), Layer("layer", "upsample", options={"size": (2, 3)})),
}


def _move(name: str) -> Setting:
    shape, made = MOVES[name]
    return _setting(name, "mixed", made, (grid(f"{name}.a", (1, *shape), INPUTS),))


BENDS = ("relu", "relu(max_value=1.0)", "leaky_relu", "elu", "sigmoid", "tanh", "silu", "gelu")


def _bend(activation: str) -> Setting:
    name = activation.replace("(max_value=1.0)", "-1")
    a = grid(f"{name}.a", (2, 4, 4, 1), INPUTS)
    a[0, 0, 0, 0] = 0.0
    return _setting(name, "mixed", Layer("layer", "activation", activation=activation), (a,), False)


NORMS = ("layernorm", "rmsnorm", "groupnorm", "unitnorm")


def _norm(kind: str, inputs: str) -> Setting:
    shape, seed = ((2, 2, 4) if kind == "groupnorm" else (3, 6)), f"{kind}.{inputs}"
    n = 2 if inputs == "batch" else 1
    gamma, beta = (grid(f"{seed}.{key}", shape[-1:], WEIGHTS) for key in ("gamma", "beta"))
    arrays = {"layernorm": _single(gamma=gamma, beta=beta), "groupnorm": _single(gamma=gamma, beta=beta)}
    arrays["rmsnorm"], arrays["unitnorm"] = _single(gamma=gamma), {}
    made = Layer("layer", kind, epsilon=2.0**-10, arrays=arrays[kind], options={"groups": 2} if kind == "groupnorm" else {})
    return _setting(kind, inputs, made, (grid(f"{seed}.a", (n, *shape), INPUTS),), False)


# Of numbers, a setting


def _setting(name: str, kind: str, made: Layer, inputs: tuple[np.ndarray, ...], exact: bool = True) -> Setting:
    built = build_around(made, tuple(a.shape[1:] for a in inputs))["layer"]
    R = grid(f"{name}.{kind}.R", (len(inputs[0]), *built.output_shape), RELEVANCE, 32)
    return Setting(name, kind, built, inputs, R, exact)


def input_names(count: int) -> tuple[str, ...]:
    """Return what the inputs of a case's layer are called."""
    return ("a",) if count == 1 else tuple(f"a{i}" for i in range(count))


def build_around(made: Layer, shapes: Shapes) -> Any:
    """Return a model that has a layer, sources of its inputs, which stand for whatever gives them, and something that reads it."""
    made = dataclasses.replace(made, inputs=input_names(len(shapes)))
    if len(shapes) == 1:
        size: Shape = shapes[0]
        sources = [Layer(made.inputs[0], "identity", inputs=("input",))]
    elif len(shapes[0]) == 1:
        size = (1,)
        kernels = [np.zeros((1, shape[0]), np.float32) for shape in shapes]
        sources = [Layer(name, "dense", arrays={"kernel": k}, inputs=("input",)) for name, k in zip(made.inputs, kernels, strict=True)]
    else:
        size = (max(shape[0] for shape in shapes), max(shape[1] for shape in shapes), 1)
        sources = []
        for name, shape in zip(made.inputs, shapes, strict=True):
            window = Window((size[0] - shape[0] + 1, size[1] - shape[1] + 1))
            kernel = np.zeros((*window.size, 1, shape[2]), np.float32)
            sources.append(Layer(name, "conv", window=window, arrays={"kernel": kernel}, inputs=("input",)))
    return build(size, [*sources, made, Layer("flat", "flatten"), _reader(sources, made, size)])


def _reader(sources: Sequence[Layer], made: Layer, size: Shape) -> Layer:
    """Return a dense layer, so that an activation isn't the network's last."""
    units = int(np.prod(build(size, [*sources, made, Layer("flat", "flatten")]).output_shape))
    return Layer("top", "dense", arrays={"kernel": np.zeros((units, 1), np.float32)})


def step_of(model: Any, dtype: str = "float64") -> tuple[int, Step]:
    """Return the layer of a case as a step, and its place."""
    steps = make_steps(model, np.dtype(dtype), "direct", merge=False)
    return next((i, step) for i, step in enumerate(steps) if step.name == "layer")


def _sums(made: Layer, a: np.ndarray) -> np.ndarray:
    """Return z of a layer with weights, [n, *output_shape]."""
    _, step = step_of(build_around(made, (a.shape[1:],)))
    return np.asarray(forward(step, [a], [AS_IS], AS_IS))
