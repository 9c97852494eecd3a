"""LRP on networks that aren't chains, slow and obvious: a Jacobian for every linear layer, a formula for every join, all in float64.

It computes what Zennit 0.5.1, iNNvestigate 2.1.2, Captum 0.9.0 and LXT 2.1 compute on the networks of `tests.peers.graph_file`, from
their plain description and without the engine: `explain(network, plan(peer, case))`. A `Plan` says which formula each kind of layer has:
the plans below are what there is to know about these systems. Relevances are vectors; one image at a time. The formulas keep the dtype of
what they get, so that `tests.golden.plain_graph` can run them in float32.
"""

import ast
import math
from dataclasses import dataclass, field, replace

import numpy as np

from tests.peers import graph_forward as plain


@dataclass(frozen=True)
class Plan:
    """Which formula each kind of layer has.

    Attributes
    ----------
    dense, conv : (rule, its settings), or "gradient"; for layers with weights, convolutions are all but dense
    first, first_of : the same, for the first of the layers that are in `first_of`, in the description's order
    reads_input : the same, for layers with weights that read the input (and for no other kind)
    until : the same, for layers with weights whose name is among `below`
    join : (stabiliser, epsilon) of Add, or "gradient"
    pairs : an Add takes two inputs at a time, from the left
    average : (stabiliser, epsilon) of average pools, or "gradient"
    function : what activations inside a layer with weights do: "pass", "gradient", "deconvnet", "guided"
    activation : the same for activations that are layers of their own, by function; "" is any other
    norm : "pass", "gradient", "dedicated", or (function, settings) on iNNvestigate's surrogate, or "z" on the batch norm itself
    gate : "gradient", "signal" (takes all) or "half", for Multiply
    layer_norm : "gradient", or (stabiliser, epsilon) with the deviation held constant
    winners : how ties are settled in max-pools: "first", or with R y / (y + e) for "captum"
    global_winners : the same for global max-pools: "first" or "shared"
    ties : of Maximum and Minimum: "first" or "half"
    start : "one", "logit" or "relu"
    times_input : multiply the result by the input
    twice : iNNvestigate's way with an output that one layer reads twice: each of the two gets what belongs to both
    hooks : Captum's bookkeeping: a layer without a rule (Concatenate, a bare +) hands on R, and what reads beside a layer
            with a rule is multiplied by the tensor's value
    """

    dense: object = "gradient"
    conv: object = "gradient"
    first: object = None
    first_of: tuple = ()
    reads_input: object = None
    until: object = None
    below: tuple = ()
    join: object = "gradient"
    pairs: bool = False
    average: object = "gradient"
    function: str = "gradient"
    activation: dict = field(default_factory=lambda: {"": "gradient"})
    norm: object = "gradient"
    gate: str = "gradient"
    layer_norm: object = "gradient"
    winners: str = "first"
    global_winners: str = "first"
    ties: str = "first"
    start: str = "one"
    times_input: bool = False
    twice: bool = False
    hooks: bool = False


# The layers as matrices


def jacobian(layer, shape, kernel):
    """[out, in] of a layer with that kernel, column by column"""
    size = math.prod(shape)
    return plain.linear(layer, np.eye(size).reshape(size, *shape), kernel).reshape(size, -1).T


class Matrices:
    """The Jacobian of a linear layer and what the rules make of it: w, its positive and negative parts, its squares, all weights 1."""

    def __init__(self, make):
        self.make, self.kept = make, {}

    def __getitem__(self, which):
        if which not in self.kept:
            ones = which == "1"
            w = self.make(ones) if ones or which == "w" else self["w"]
            self.kept[which] = {"+": w.positive, "-": w.negative, "2": w.square}.get(which, lambda: w)()
        return self.kept[which]


class Dense:
    """A matrix [out, in]."""

    def __init__(self, w):
        self.w = w

    def forward(self, a):
        """[in] -> [out]"""
        with np.errstate(invalid="ignore"):  # OpenBLAS may tell of lanes that it reads beside an array
            return self.w @ a

    def back(self, r):
        """[out] -> [in]"""
        with np.errstate(invalid="ignore"):  # OpenBLAS may tell of lanes that it reads beside an array
            return self.w.T @ r

    def positive(self):
        """The matrix of the positive weights."""
        return type(self)(np.maximum(self.w, 0))

    def negative(self):
        """The matrix of the negative weights."""
        return type(self)(np.minimum(self.w, 0))

    def square(self):
        """The matrix of the squares."""
        return type(self)(self.w**2)


class Diagonal(Dense):
    """A matrix with `w` [in] on its diagonal and nothing else: a batch norm."""

    def forward(self, a):
        """[in] -> [in]"""
        return self.w * a

    back = forward


def matrices(network):
    """Return {layer: its Matrices} for the layers with a kernel; made when they are asked for."""
    shapes = {name: value.shape[1:] for name, value in plain.forward(network).items()}

    def of(layer):
        kernel = layer["arrays"]["kernel"]
        return Matrices(lambda ones: Dense(jacobian(layer, shapes[layer["inputs"][0]], np.ones_like(kernel) if ones else kernel)))

    return {layer["name"]: of(layer) for layer in network.layers if "kernel" in layer["arrays"]}


def averages(layer, shape):
    """[out, in] of an average pool"""
    size = math.prod(shape)
    units = np.eye(size).reshape(size, *shape)
    if layer["kind"] == "global_avgpool":
        return units.mean(axis=(1, 2)).reshape(size, -1).T
    counts = sum(part for _, part in plain.windows(np.ones((1, *shape)), layer["size"], layer["stride"], layer["padding"]))
    total = sum(part for _, part in plain.windows(units, layer["size"], layer["stride"], layer["padding"]))
    return (total / counts).reshape(size, -1).T


def winners(layer, a, shared):
    """[out, in]: 1 where a max-pool took its value from, the first of equals in a window's rows; shares with `shared`"""
    if layer["kind"] == "global_maxpool":
        layer = {"size": a.shape[:2], "stride": (1, 1), "padding": "valid"}
    window = layer["size"], layer["stride"], layer["padding"], -np.inf
    values = np.stack([part[0].ravel() for _, part in plain.windows(a[None], *window)])  # [places in the window, out]
    indices = np.arange(a.size, dtype=float).reshape(1, *a.shape)
    places = np.stack([part[0].ravel() for _, part in plain.windows(indices, *window)])
    won = values == values.max(axis=0)
    if not shared:
        won &= np.cumsum(won, axis=0) == 1
    W = np.zeros((values.shape[1], a.size))
    for k, out in zip(*np.nonzero(won), strict=True):
        W[out, int(places[k, out])] = 1 / won[:, out].sum()
    return W


def slope(layer, z):
    """The derivative of an activation at z"""
    function, y = layer.get("function", layer.get("activation")), plain.activate(layer, z)
    if function in ("linear", "relu", "relu6", "leaky_relu", "elu"):
        low = {"linear": 1, "leaky_relu": layer.get("slope"), "elu": y + 1}.get(function, 0)
        return np.where(z > 0, 1.0, low) * (z < 6 if function == "relu6" else 1)
    if function == "sigmoid":
        return y * (1 - y)
    if function == "tanh":
        return 1 - y**2
    if function == "silu":
        s = plain.sigmoid(z)
        return s * (1 + z * (1 - s))
    normal = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return (1 + np.vectorize(math.erf)(z / math.sqrt(2))) / 2 + z * normal  # gelu


# The rules: lists of parts (factor, terms, bias, units), where a term is (factor, which matrix, vector)


def redistribute(parts, M, R, s, e):
    """The four lines, for every part of a rule: z, R / z, carried back, times the vector"""
    total = 0
    for factor, terms, bias, units in parts:
        z = sum(f * M[which].forward(v) for f, which, v in terms) + bias
        ratio = R * units / stabilise(z, s, e)
        total = total + factor * sum(f * v * M[which].back(ratio) for f, which, v in terms)
    return total


def of_bias(b, bias, change):
    """The bias in a denominator: changed as the weights are, raw, or none"""
    return {"changed": change(b), "raw": b, "none": 0 * b}[bias]


def positive(x):
    return np.maximum(x, 0)


def negative(x):
    return np.minimum(x, 0)


def epsilon(M, b, a, R, s, e, bias):
    return redistribute([(1, [(1, "w", a)], of_bias(b, bias, lambda b: b), 1)], M, R, s, e)


def gamma(M, b, a, R, s, e, bias, gamma, split):
    if not split:
        terms = [(1, "w", a), (gamma, "+", a)]
        return redistribute([(1, terms, of_bias(b, bias, lambda b: b + gamma * positive(b)), 1)], M, R, s, e)
    z, p, n = M["w"].forward(a) + b, positive(a), negative(a)
    favoured = [(1, "w", a), (gamma, "+", p), (gamma, "-", n)], of_bias(b, bias, lambda b: b + gamma * positive(b)), z > 0
    against = [(1, "w", a), (gamma, "-", p), (gamma, "+", n)], of_bias(b, bias, lambda b: b + gamma * negative(b)), z < 0
    return redistribute([(1, *favoured), (1, *against)], M, R, s, e)


def alpha_beta(M, b, a, R, s, e, bias, alpha, beta, split):
    p, n = (positive(a), negative(a)) if split else (a, 0 * a)
    parts = [(alpha, [(1, "+", p), (1, "-", n)], of_bias(b, bias, positive), 1)]
    if beta:
        parts.append((-beta, [(1, "-", p), (1, "+", n)], of_bias(b, bias, negative), 1))
    return redistribute(parts, M, R, s, e)


def wsquare(M, b, a, R, s, e, bias):
    return redistribute([(1, [(1, "2", np.ones_like(a))], b**2 if bias == "changed" else 0, 1)], M, R, s, e)


def flat(M, b, a, R, s, e):
    return redistribute([(1, [(1, "1", np.ones_like(a))], 0, 1)], M, R, s, e)


def box(M, b, a, R, s, e, low, high):
    """zB; the bounds are numbers, or one for each channel"""
    low, high = (np.resize(end, len(a)).astype(a.dtype) for end in (low, high))
    terms = [(1, "w", a), (-1, "+", low), (-1, "-", high)]
    return redistribute([(1, terms, 0, 1)], M, R, s, e)


def four_parts(M, b, a, R, s, e):
    """iNNvestigate's AlphaBetaX2m100: positive inputs with positive and with negative weights, each divided by itself and its bias"""
    p = positive(a)
    return redistribute([(2, [(1, "+", p)], positive(b), 1), (-1, [(1, "-", p)], negative(b), 1)], M, R, s, e)


def stabilise(z, s, e):
    """Return the denominators."""
    return {"zero": np.where(z == 0, e, z), "sign": z + e * np.where(z < 0, -1.0, 1.0), "plus": z + e}[s].astype(z.dtype)


def apply_rule(rule, M, b, a, R):
    """Redistribute R over the inputs of a layer; the rule is "gradient" or (function, settings)."""
    if rule == "gradient":
        return M["w"].back(R)
    function, settings = rule
    return function(M, b, a, R, **settings)


def share(W, a, b, R, s, e):
    """Redistribute over a matrix that isn't kept."""
    return a * (W.T @ (R / stabilise(W @ a + b, s, e)))


# The backward pass


def through(how, layer, z, R):
    """Carry R through an activation."""
    function = layer.get("function", layer.get("activation", "linear"))
    if function == "linear" or how == "pass":
        return R
    if function in ("relu", "relu6") and how in ("deconvnet", "guided"):
        return np.maximum(R, 0) * (slope(layer, z) if how == "guided" else 1)
    return R * slope(layer, z)


def through_batch_norm(how, layer, a, y, R):
    """Carry R through a batch norm."""
    p, e = layer["arrays"], layer["epsilon"]
    repeat = a.size // p["gamma"].size
    gamma, beta, mean, variance = (np.tile(p[key], repeat) for key in ("gamma", "beta", "mean", "variance"))
    if how == "pass":
        return R
    if how == "gradient":
        return R * gamma / np.sqrt(variance + e)
    if how == "dedicated":
        d = (a - mean) * y
        return a * (y - beta) * R / (d + 1e-7 * np.where(d >= 0, 1, -1))
    if how[0] == "z":  # (z, stabiliser, epsilon): the Z rule on the batch norm as a linear layer
        return a * gamma / np.sqrt(variance + e) * R / stabilise(y, *how[1:])
    deviation = np.sqrt(variance**2 + e)
    k, b = gamma / deviation, -mean / deviation + beta
    return apply_rule(how, Matrices(lambda ones: Diagonal(np.ones_like(k) if ones else k)), b, a, R)


def through_layer_norm(how, layer, a, R):
    """Carry R through a layer norm over the last axis, of length c."""
    gamma, beta = layer["arrays"]["gamma"], layer["arrays"]["beta"]
    c, out = gamma.size, []
    for x, r in zip(a.reshape(-1, c), R.reshape(-1, c), strict=True):
        deviation = math.sqrt(x.var() + layer["epsilon"])
        centre = np.eye(c) - 1 / c
        if how == "gradient":
            n = centre @ x / deviation
            out.append((centre - np.outer(n, n) / c) / deviation @ (gamma * r))
        else:
            W = gamma[:, None] * centre / deviation
            out.append(share(W, x, beta, r, *how))
    return np.concatenate(out)


def join(plan, layer, xs, R):
    """Return the relevance of every input of a join."""
    kind = layer["kind"]
    if kind == "concatenate":
        ends = np.cumsum([x.shape[-1] for x in xs])[:-1]
        return np.split(R, ends, axis=-1)
    if kind == "add":
        if plan.join == "gradient":
            return [R for _ in xs]
        if plan.pairs and len(xs) > 2:
            left, right = join(plan, layer, [sum(xs[:-1]), xs[-1]], R)
            return [*join(plan, layer, xs[:-1], left), right]
        s = R / stabilise(sum(xs), *plan.join)
        return [x * s for x in xs]
    if kind == "average":
        return [R / len(xs) for _ in xs]
    if kind == "subtract":
        return [R, -R]
    if kind in ("maximum", "minimum"):
        sign = 1 if kind == "maximum" else -1
        first = np.where(xs[0] == xs[1], 0.5 if plan.ties == "half" else 1.0, sign * xs[0] > sign * xs[1])
        return [R * first, R * (1 - first)]
    x, gate = xs  # multiply
    share = {"gradient": (R * gate, R * x), "signal": (R, 0 * R), "half": (R / 2, R / 2)}[plan.gate]
    return [share[0], share[1].sum(axis=(0, 1), keepdims=True) if gate.shape != x.shape else share[1]]


def linear_rule(plan, network, layer):
    """Return the rule of a layer with weights."""
    weighted = [one for one in network.layers if "kernel" in one["arrays"]]
    if plan.until and layer["name"] in plan.below:
        return plan.until
    if plan.reads_input and all(reads_only_input(network, name) for name in layer["inputs"]):
        return plan.reads_input
    if plan.first and layer is next((one for one in weighted if one["kind"] in plan.first_of), None):
        return plan.first
    return plan.dense if layer["kind"] == "dense" else plan.conv


def reads_only_input(network, name):
    """Tell whether a layer's output is the input, seen through reshapes."""
    layer = network[name]
    return layer["kind"] == "input" or (layer["kind"] in ("flatten", "reshape") and reads_only_input(network, layer["inputs"][0]))


def step(plan, network, made, layer, xs, z, y, R):
    """Return the relevance of every input of one layer, shaped as the inputs."""
    kind = layer["kind"]
    if kind in plain.JOINS:
        return join(plan, layer, xs, R)
    (a,) = xs
    flat_a, flat_r = a.ravel(), R.ravel()
    if "kernel" in layer["arrays"]:
        flat_r = through(plan.function, layer, z.ravel(), flat_r)
        b = np.resize(layer["arrays"].get("bias", 0.0), flat_r.size).astype(flat_r.dtype)
        found = apply_rule(linear_rule(plan, network, layer), made[layer["name"]], b, flat_a, flat_r)
    elif kind == "activation":
        found = through(plan.activation.get(layer["function"], plan.activation[""]), layer, flat_a, flat_r)
    elif kind == "batchnorm":
        found = through_batch_norm(plan.norm, layer, flat_a, y.ravel(), flat_r)
    elif kind == "layernorm":
        found = through_layer_norm(plan.layer_norm, layer, flat_a, flat_r)
    elif kind in ("avgpool", "global_avgpool"):
        W = averages(layer, a.shape).astype(a.dtype)
        found = W.T @ flat_r if plan.average == "gradient" else share(W, flat_a, 0, flat_r, *plan.average)
    elif kind in ("maxpool", "global_maxpool"):
        W = winners(layer, a, kind == "global_maxpool" and plan.global_winners == "shared").astype(a.dtype)
        found = W.T @ (flat_r * y.ravel() / stabilise(y.ravel(), "sign", 1e-9) if plan.winners == "captum" else flat_r)
    elif kind == "upsample":
        f, (h, w, c) = layer["factor"], a.shape
        found = R.reshape(h, f, w, f, c).sum(axis=(1, 3))
    else:
        found = R  # reshape, flatten
    return [found.reshape(a.shape)]


RULED = ("conv", "depthwise", "conv_transpose", "dense", "batchnorm", "avgpool", "global_avgpool", "maxpool", "add")


def explain(network, plan, made=None):
    """Return the map [n, ...] of the network's inputs; `made` is `matrices(network)`, to be used again."""
    made = made or matrices(network)
    return np.stack([explain_one(network, plan, made, i) for i in range(len(network.x))])


def explain_one(network, plan, made, i):
    """Return the map of input i."""
    values, before, total = {"x": network.x[i]}, {}, {}
    for layer in network.layers[1:]:
        z, y = plain.apply(layer, [values[name][None] for name in layer["inputs"]])
        before[layer["name"]], values[layer["name"]] = z[0], y[0]
    last, target = network.layers[-1]["name"], network.targets[i]
    logit = values[last][target]
    total[last] = np.eye(len(values[last]))[target] * {"one": 1, "logit": logit, "relu": max(logit, 0)}[plan.start]
    for layer in reversed(network.layers[1:]):
        name, ruled = layer["name"], ruled_kind(plan, layer)
        parts = step(plan, network, made, layer, [values[one] for one in layer["inputs"]], before[name], values[name], total[name])
        for source, part in zip(layer["inputs"], parts, strict=True):
            if plan.hooks and not ruled and any(ruled_kind(plan, reader) for reader in network.readers(source)):
                part = part * values[source]  # noqa: PLW2901
            total[source] = total.get(source, 0) + part * (layer["inputs"].count(source) if plan.twice else 1)
    return total["x"] * network.x[i] if plan.times_input else total["x"]


def ruled_kind(plan, layer):
    """Tell whether Captum has a rule for the layer; a bare + has none."""
    return layer["kind"] in RULED and (layer["kind"] != "add" or plan.join != "gradient")


# What the systems do


def plan(peer, case, variant="", below=()):
    """Return the plan of a peer's case, by the names in the files of tests/data/peers.

    `below` has the names of the layers that "until_idx" reaches.
    """
    if peer == "innvestigate":
        return replace(innvestigate(case, variant, below), global_winners="shared", twice=True)
    return {"zennit": zennit, "captum": captum, "lxt": lxt}[peer](case, variant, below)


def rules(s, e, **bias):
    """Return {name: (rule, settings)} with a stabiliser, for the rules whose bias is given."""
    alpha_betas = {"zplus": (1, 0), "alpha1_beta0": (1, 0), "alpha2_beta1": (2, 1), "alpha3_beta2": (3, 2)}
    found = {"flat": (flat, {"s": s, "e": e})}
    for name, choice in bias.items():
        common = {"s": s, "e": e, "bias": choice}
        if name in alpha_betas:
            alpha, beta = alpha_betas[name]
            found[name] = alpha_beta, {**common, "alpha": alpha, "beta": beta, "split": True}
        else:
            found[name] = {"epsilon": epsilon, "wsquare": wsquare, "gamma": gamma}[name], common
    return found


def box_of(case, s, e):
    """Return zB with the bounds that a case names: "...(low=-3.0, high=3.0)"."""
    low, high = case[case.index("(low=") + 5 : -1].split(", high=")
    return box, {"s": s, "e": e, "low": ast.literal_eval(low), "high": ast.literal_eval(high)}


def with_settings(rule, **settings):
    """Return a rule with other settings."""
    return rule[0], {**rule[1], **settings}


def zennit(case, variant, below):
    """Return the plan of a case of Zennit 0.5.1."""
    rule = rules("sign", 1e-6, epsilon="changed", gamma="changed", zplus="changed", alpha2_beta1="changed", wsquare="changed")
    rule["gamma"] = with_settings(rule["gamma"], gamma=0.25, split=True)
    add = "gradient" if "plus" in variant else ("sign", 1e-6)
    base = Plan(join=add, average=("sign", 1e-6), function="pass", activation={"": "pass"}, norm="pass", ties="half")
    convolutions = ("conv", "depthwise", "conv_transpose")
    everywhere = {
        "epsilon": rule["epsilon"],
        "epsilon(epsilon=0.25)": with_settings(rule["epsilon"], e=0.25),
        "epsilon(bias=none)": with_settings(rule["epsilon"], bias="none"),
        "gamma": rule["gamma"],
        "zplus": rule["zplus"],
        "alpha_beta": rule["alpha2_beta1"],
        "wsquare": rule["wsquare"],
        "flat": rule["flat"],
    }
    if case in everywhere:
        return replace(base, dense=everywhere[case], conv=everywhere[case])
    if case.startswith("epsilon_"):
        conv = rule["gamma" if "gamma" in case else "zplus" if "plus" in case else "alpha2_beta1"]
        first, of = (rule["flat"], (*convolutions, "dense")) if case.endswith("flat") else (None, ())
        if "box" in case:
            first, of = box_of(case, "sign", 1e-6), convolutions
        return replace(base, dense=rule["epsilon"], conv=conv, first=first, first_of=of)
    if case == "excitation_backprop":
        return Plan(dense=rule["zplus"], conv=rule["zplus"], join=add, average=("sign", 1e-6), ties="half")
    how = {"gradient": "gradient", "guided_backprop": "guided", "deconvnet": "deconvnet"}[case]
    return Plan(function=how, activation={"relu": how, "": "gradient"}, ties="half")


def innvestigate(case, variant, below):
    """Return the plan of a case of iNNvestigate 2.1.2."""
    if case in ("gradient", "input_t_gradient", "guided_backprop", "deconvnet"):
        how = {"guided_backprop": "guided", "deconvnet": "deconvnet"}.get(case, "gradient")
        start, times = "one" if "gradient" in case else "logit", case == "input_t_gradient"
        return Plan(function=how, activation={"relu": how, "relu6": how, "": "gradient"}, start=start, times_input=times)
    zero = rules("zero", 1e-7, epsilon="changed", zplus="none", alpha1_beta0="raw", alpha2_beta1="raw", alpha3_beta2="raw", wsquare="none")
    if case.startswith("deep_taylor"):
        first = box_of(case, "zero", 1e-7) if "bounded" in case else None
        return Plan(zero["zplus"], zero["zplus"], reads_input=first, function="pass", start="relu")
    signed = with_settings(zero["epsilon"], s="sign")
    own_layers = dict.fromkeys(("relu6", "leaky_relu", "elu"), "gradient")  # Keras has layers for these, and they aren't Activation
    base = Plan(
        join=("zero", 1e-7),
        average=("zero", 1e-7),
        function="pass",
        activation={**own_layers, "": "pass"},
        start="logit",
    )
    named = {
        "lrp.z": zero["epsilon"],
        "lrp.epsilon": signed,
        "lrp.epsilon(epsilon=0.25)": with_settings(signed, e=0.25),
        "lrp.epsilon(bias=none)": with_settings(signed, bias="none"),
        "lrp.w_square": zero["wsquare"],
        "lrp.flat": zero["flat"],
        "lrp.z_plus": zero["zplus"],
        "lrp.z_plus_fast": with_settings(zero["zplus"], split=False),
        "lrp.alpha_2_beta_1": zero["alpha2_beta1"],
        "lrp.alpha_2_beta_1_IB": with_settings(zero["alpha2_beta1"], bias="none"),
        "lrp.alpha_1_beta_0": zero["alpha1_beta0"],
        "lrp.alpha_beta(alpha=3.0)": zero["alpha3_beta2"],
    }
    if case in named:
        return replace(base, dense=named[case], conv=named[case], norm=named[case])
    if case.startswith("lrp(rule="):
        name = case.removeprefix("lrp(rule=").removesuffix(")")
        names = {"WSquare": "wsquare", "Flat": "flat", "ZPlus": "zplus", "Alpha1Beta0": "alpha1_beta0", "Alpha2Beta1": "alpha2_beta1"}
        rule = {"Z": zero["epsilon"], "Epsilon": signed}.get(name) or zero[names[name]]
        return replace(base, dense=rule, conv=rule, norm="dedicated")
    conv = zero["alpha1_beta0" if "preset_a" in case else "alpha2_beta1"]
    first = zero["flat"] if "flat" in case else None
    norm = four_parts, {"s": "zero", "e": 1e-7}
    preset = replace(base, dense=with_settings(signed, e=0.1), conv=conv, norm=norm, reads_input=first)
    return replace(preset, until=zero["flat"], below=tuple(below)) if "until" in case else preset


def captum(case, variant, below):
    """Return the plan of a case of Captum 0.9.0."""
    found = rules("sign", 1e-9, epsilon="changed", gamma="raw", zplus="none")
    rule = {
        "epsilon": found["epsilon"],
        "epsilon(epsilon=0.25)": with_settings(found["epsilon"], e=0.25),
        "gamma": with_settings(found["gamma"], gamma=0.25, split=False),
        "alpha1_beta0(bias=none)": with_settings(found["zplus"], split=False),
    }[case]
    add = "gradient" if "plus" in variant else ("sign", 1e-9)
    common = {"join": add, "average": ("sign", 1e-9), "norm": ("z", "sign", 1e-9), "winners": "captum", "ties": "half"}
    return Plan(rule, rule, function="pass", activation={"": "pass"}, start="logit", pairs=True, hooks=True, **common)


def lxt(case, variant, below):
    """Return the plan of the case of LXT 2.1."""
    plus = "plus", 1e-8
    rule = epsilon, {"s": "plus", "e": 1e-8, "bias": "changed"}
    common = {
        "join": plus,
        "pairs": True,
        "average": plus,
        "norm": ("z", *plus),
        "layer_norm": ("plus", 1e-6),
        "gate": "half",
        "ties": "half",
    }
    return Plan(rule, rule, function="pass", activation={"": "pass"}, start="logit", **common)
