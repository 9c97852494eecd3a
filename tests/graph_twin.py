"""LRP on networks that aren't chains, slow and obvious: a Jacobian for every linear layer, a formula for every join, all in float64.

It computes what Zennit 0.5.1, iNNvestigate 2.1.2 and Captum 0.9.0 compute on the networks of `tests.peers.graph_file`, from the networks'
plain description and without the engine: `explain(network, plan(peer, case))`. A `Plan` says which formula each kind of layer has, so the
table of plans below is what there is to know about the three systems. Relevances are vectors; one image at a time.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from tests import twins
from tests.peers import graph_forward as plain


@dataclass(frozen=True)
class Plan:
    """Which formula each kind of layer has.

    Attributes
    ----------
    dense, conv : (function, settings) of `tests.twins`, or "gradient"; for layers with weights, convolutions are all but dense
    first, first_of : the same, for the first of the layers that are in `first_of`, in the description's order
    reads_input : the same, for layers with weights that read the input (and for no other kind)
    until : the same, for layers with weights whose name is among `below`
    join : (stabiliser, epsilon) of Add, or "gradient"
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
    hooks: bool = False


# The layers as matrices


def jacobian(layer, shape, kernel):
    """[out, in] of a layer with that kernel, column by column"""
    size = math.prod(shape)
    return plain.linear(layer, np.eye(size).reshape(size, *shape), kernel).reshape(size, -1).T


class Matrices:
    """The Jacobians of a network's layers, made once."""

    def __init__(self):
        self.kept = {}

    def of(self, layer, shape, ones=False):
        """Return the Jacobian of a layer with a kernel; with `ones`, of the layer with all weights 1."""
        key = (id(layer), ones)
        if key not in self.kept:
            kernel = layer["arrays"]["kernel"]
            self.kept[key] = layer, jacobian(layer, shape, np.ones_like(kernel) if ones else kernel)
        return self.kept[key][1]


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


# The rules that tests.twins doesn't have


def box(W, b, a, R, s, e, low, high):
    """zB with the same bounds for all inputs"""
    Z = W * a - np.maximum(W, 0) * low - np.minimum(W, 0) * high
    return twins.share(Z, Z.sum(axis=1), R, s, e)


def four_parts(W, b, a, R, s, e):
    """iNNvestigate's AlphaBetaX2m100: positive inputs with positive and with negative weights, each divided by itself and its bias"""
    total = 0
    for factor, part in ((2, np.maximum), (-1, np.minimum)):
        Z = part(W, 0) * np.maximum(a, 0)
        total = total + factor * twins.share(Z, Z.sum(axis=1) + part(b, 0), R, s, e)
    return total


def flat(W, b, a, R, s, e):
    """W has only ones here."""
    return twins.flat(W, R, s, e)


def apply_rule(rule, W, ones, b, a, R):
    """Redistribute R over the inputs of a layer; the rule is "gradient" or (function, settings)."""
    if rule == "gradient":
        return W.T @ R
    function, settings = rule
    return function(ones() if function is flat else W, b, a, R, **settings)


# The backward pass


def through(how, layer, z, R):
    """Carry R through an activation."""
    function = layer.get("function", layer.get("activation", "linear"))
    if function == "linear" or how == "pass":
        return R
    if function == "relu" and how in ("deconvnet", "guided"):
        return np.maximum(R, 0) * (slope(layer, z) if how == "guided" else 1)
    return R * slope(layer, z)


def batch_norm(how, layer, a, y, R):
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
        return a * gamma / np.sqrt(variance + e) * R / twins.stabilise(y, *how[1:])
    deviation = np.sqrt(variance**2 + e)
    k, b = gamma / deviation, -mean / deviation + beta
    rows = [apply_rule(how, k[i : i + 1, None], lambda: np.ones((1, 1)), b[i : i + 1], a[i : i + 1], R[i : i + 1]) for i in range(a.size)]
    return np.concatenate(rows)


def layer_norm(how, layer, a, R):
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
            out.append(twins.share(W * x, W @ x + beta, r, *how))
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
        s = R / twins.stabilise(sum(xs), *plan.join)
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


def step(plan, network, matrices, layer, xs, z, y, R):
    """Return the relevance of every input of one layer, shaped as the inputs."""
    kind = layer["kind"]
    if kind in plain.JOINS:
        return join(plan, layer, xs, R)
    (a,) = xs
    flat_a, flat_r = a.ravel(), R.ravel()
    if "kernel" in layer["arrays"]:
        flat_r = through(plan.function, layer, z.ravel(), flat_r)
        W = matrices.of(layer, a.shape)
        b = np.resize(layer["arrays"].get("bias", 0.0), len(W))
        found = apply_rule(linear_rule(plan, network, layer), W, lambda: matrices.of(layer, a.shape, ones=True), b, flat_a, flat_r)
    elif kind == "activation":
        found = through(plan.activation.get(layer["function"], plan.activation[""]), layer, flat_a, flat_r)
    elif kind == "batchnorm":
        found = batch_norm(plan.norm, layer, flat_a, y.ravel(), flat_r)
    elif kind == "layernorm":
        found = layer_norm(plan.layer_norm, layer, flat_a, flat_r)
    elif kind in ("avgpool", "global_avgpool"):
        W = averages(layer, a.shape)
        found = W.T @ flat_r if plan.average == "gradient" else twins.share(W * flat_a, W @ flat_a, flat_r, *plan.average)
    elif kind in ("maxpool", "global_maxpool"):
        W = winners(layer, a, kind == "global_maxpool" and plan.global_winners == "shared")
        found = W.T @ (flat_r * y.ravel() / twins.stabilise(y.ravel(), "sign", 1e-9) if plan.winners == "captum" else flat_r)
    elif kind == "upsample":
        f, (h, w, c) = layer["factor"], a.shape
        found = R.reshape(h, f, w, f, c).sum(axis=(1, 3))
    else:
        found = R  # reshape, flatten
    return [found.reshape(a.shape)]


RULED = ("conv", "depthwise", "conv_transpose", "dense", "batchnorm", "avgpool", "global_avgpool", "maxpool", "add")


def explain(network, plan, matrices=None):
    """Return the map [n, ...] of the network's inputs."""
    return np.stack([explain_one(network, plan, matrices or Matrices(), i) for i in range(len(network.x))])


def explain_one(network, plan, matrices, i):
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
        parts = step(plan, network, matrices, layer, [values[one] for one in layer["inputs"]], before[name], values[name], total[name])
        for source, part in zip(layer["inputs"], parts, strict=True):
            if plan.hooks and not ruled and any(ruled_kind(plan, reader) for reader in network.readers(source)):
                part = part * values[source]  # noqa: PLW2901
            total[source] = total.get(source, 0) + part
    return total["x"] * network.x[i] if plan.times_input else total["x"]


def ruled_kind(plan, layer):
    """Tell whether Captum has a rule for the layer; a bare + has none."""
    return layer["kind"] in RULED and (layer["kind"] != "add" or plan.join != "gradient")


# What the three systems do


def plan(peer, case, variant="", below=()):
    """Return the plan of a peer's case, by the names in the files of tests/data/peers.

    `below` has the names of the layers that "until_idx" reaches.
    """
    return {"zennit": zennit, "innvestigate": innvestigate, "captum": captum}[peer](case, variant, below)


def zennit(case, variant, below):
    """Return the plan of a case of Zennit 0.5.1."""
    sign = {"s": "sign", "e": 1e-6}
    epsilon, gamma = (twins.epsilon, {**sign, "bias": "changed"}), (twins.gamma, {**sign, "bias": "changed", "gamma": 0.25, "split": True})
    zplus = (twins.zplus, {**sign, "bias": "changed", "split": True})
    alpha_beta = (twins.alpha_beta, {**sign, "bias": "changed", "alpha": 2, "beta": 1, "split": True})
    flat_rule = (flat, sign)
    add = "gradient" if "plus" in variant else ("sign", 1e-6)
    base = Plan(join=add, average=("sign", 1e-6), function="pass", activation={"": "pass"}, norm="pass", ties="half")
    convolutions = ("conv", "depthwise", "conv_transpose")
    everywhere = {
        "epsilon": epsilon,
        "epsilon(epsilon=0.25)": (twins.epsilon, {"s": "sign", "e": 0.25, "bias": "changed"}),
        "epsilon(bias=none)": (twins.epsilon, {**sign, "bias": "none"}),
        "gamma": gamma,
        "zplus": zplus,
        "alpha_beta": alpha_beta,
        "wsquare": (twins.wsquare, {**sign, "bias": "changed"}),
        "flat": flat_rule,
    }
    if case in everywhere:
        return replace(base, dense=everywhere[case], conv=everywhere[case])
    if case.startswith("epsilon_"):
        conv = gamma if "gamma" in case else zplus if "plus" in case else alpha_beta
        first, of = {
            "epsilon_gamma_box(low=-3.0, high=3.0)": ((box, {**sign, "low": -3.0, "high": 3.0}), convolutions),
            "epsilon_plus_flat": (flat_rule, (*convolutions, "dense")),
            "epsilon_alpha2_beta1_flat": (flat_rule, (*convolutions, "dense")),
        }.get(case, (None, ()))
        return replace(base, dense=epsilon, conv=conv, first=first, first_of=of)
    if case == "excitation_backprop":
        return Plan(dense=zplus, conv=zplus, join=add, average=("sign", 1e-6), ties="half")
    how = {"gradient": "gradient", "guided_backprop": "guided", "deconvnet": "deconvnet"}[case]
    return Plan(function=how, activation={"relu": how, "": "gradient"}, ties="half")


def innvestigate(case, variant, below):
    """Return the plan of a case of iNNvestigate 2.1.2."""
    zero, sign = {"s": "zero", "e": 1e-7}, {"s": "sign", "e": 1e-7}
    if case in ("gradient", "input_t_gradient", "guided_backprop", "deconvnet"):
        how = {"guided_backprop": "guided", "deconvnet": "deconvnet"}.get(case, "gradient")
        return Plan(function=how, activation={"relu": how, "": "gradient"}, global_winners="shared", times_input=case == "input_t_gradient")

    def alpha_beta(alpha, beta, bias):
        return twins.alpha_beta, {**zero, "alpha": alpha, "beta": beta, "bias": bias, "split": True}

    flat_rule, wsquare = (flat, zero), (twins.wsquare, {**zero, "bias": "none"})
    if case.startswith("deep_taylor"):
        first = (box, {**zero, "low": -3.0, "high": 3.0}) if "bounded" in case else None
        positive = alpha_beta(1, 0, "none")
        return Plan(dense=positive, conv=positive, reads_input=first, function="pass", global_winners="shared", start="relu")
    rules = {
        "lrp.z": (twins.epsilon, {**zero, "bias": "changed"}),
        "lrp.epsilon": (twins.epsilon, {**sign, "bias": "changed"}),
        "lrp.epsilon(epsilon=0.25)": (twins.epsilon, {"s": "sign", "e": 0.25, "bias": "changed"}),
        "lrp.epsilon(bias=none)": (twins.epsilon, {**sign, "bias": "none"}),
        "lrp.w_square": wsquare,
        "lrp.flat": flat_rule,
        "lrp.z_plus": alpha_beta(1, 0, "none"),
        "lrp.z_plus_fast": (twins.zplus, {**zero, "bias": "none", "split": False}),
        "lrp.alpha_2_beta_1": alpha_beta(2, 1, "raw"),
        "lrp.alpha_2_beta_1_IB": alpha_beta(2, 1, "none"),
        "lrp.alpha_1_beta_0": alpha_beta(1, 0, "raw"),
        "lrp.alpha_beta(alpha=3.0)": alpha_beta(3, 2, "raw"),
    }
    dedicated = {
        "Z": rules["lrp.z"],
        "Epsilon": rules["lrp.epsilon"],
        "WSquare": wsquare,
        "Flat": flat_rule,
        "ZPlus": rules["lrp.z_plus"],
        "Alpha1Beta0": rules["lrp.alpha_1_beta_0"],
        "Alpha2Beta1": rules["lrp.alpha_2_beta_1"],
    }
    own_layers = dict.fromkeys(("relu6", "leaky_relu", "elu"), "gradient")  # Keras has layers for these, and they aren't Activation
    base = Plan(
        join=("zero", 1e-7),
        average=("zero", 1e-7),
        function="pass",
        activation={**own_layers, "": "pass"},
        global_winners="shared",
        start="logit",
    )
    if case in rules:
        return replace(base, dense=rules[case], conv=rules[case], norm=rules[case])
    if case.startswith("lrp(rule="):
        rule = dedicated[case.removeprefix("lrp(rule=").removesuffix(")")]
        return replace(base, dense=rule, conv=rule, norm="dedicated")
    conv = rules["lrp.alpha_1_beta_0" if "preset_a" in case else "lrp.alpha_2_beta_1"]
    dense = (twins.epsilon, {"s": "sign", "e": 0.1, "bias": "changed"})
    preset = replace(base, dense=dense, conv=conv, norm=(four_parts, zero), reads_input=flat_rule if "flat" in case else None)
    return replace(preset, until=flat_rule, below=tuple(below)) if "until" in case else preset


def captum(case, variant, below):
    """Return the plan of a case of Captum 0.9.0."""
    sign = {"s": "sign", "e": 1e-9}
    rule = {
        "epsilon": (twins.epsilon, {**sign, "bias": "changed"}),
        "epsilon(epsilon=0.25)": (twins.epsilon, {"s": "sign", "e": 0.25, "bias": "changed"}),
        "gamma": (twins.gamma, {**sign, "bias": "raw", "gamma": 0.25, "split": False}),
        "alpha1_beta0(bias=none)": (twins.zplus, {**sign, "bias": "none", "split": False}),
    }[case]
    add = "gradient" if "plus" in variant else ("sign", 1e-9)
    common = {"join": add, "average": ("sign", 1e-9), "norm": ("z", "sign", 1e-9), "winners": "captum", "ties": "half", "hooks": True}
    return Plan(dense=rule, conv=rule, function="pass", activation={"": "pass"}, start="logit", **common)
