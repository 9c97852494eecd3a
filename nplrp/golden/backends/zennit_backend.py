"""Zennit's relevance of every layer: its own composites by name, else its rules layer by layer.

python zennit_backend.py isolated|chained IN OUT.npz      needs torch and zennit; IN is what `nplrp golden export --to raw -w W` writes
"""

import torch
from exchange import JOINS, MOVES, NORMS, Job, command
from torch_graph import Graph, nchw, nhwc, reported

_register = torch.library.register_fake
# Zennit imports torchvision and uses none of its operators: one of another build will do
torch.library.register_fake = lambda op, *a, **k: (lambda f: f) if str(op).startswith("torchvision::") else _register(op, *a, **k)

import zennit.composites as zc  # noqa: E402
import zennit.core  # noqa: E402
import zennit.layer  # noqa: E402
import zennit.rules as zr  # noqa: E402

COMPOSITES = {
    "epsilon_plus": zc.EpsilonPlus,
    "epsilon_plus_flat": zc.EpsilonPlusFlat,
    "epsilon_alpha2_beta1": zc.EpsilonAlpha2Beta1,
    "epsilon_alpha2_beta1_flat": zc.EpsilonAlpha2Beta1Flat,
    "excitation_backprop": zc.ExcitationBackprop,
}
#: Rules that are plain autograd, and the kinds that have it for them.
GRADIENTS = {
    "winner": ("maxpool", "maximum", "minimum"),
    "winner_ties": ("maximum", "minimum"),
    "slope": ("activation", "prelu", *NORMS),
    "gradient": ("conv", "depthwise", "conv_transpose", "dense", "batchnorm", "affine", "avgpool", *JOINS),
}


class Stacked(torch.nn.Module):
    """A join as a module over a stack, the last axis: Zennit's rules are for modules with one input."""

    def __init__(self, over):
        super().__init__()
        self.over = over

    def forward(self, xs):
        """Stack, and join."""
        return self.over(torch.stack(torch.broadcast_tensors(*xs), -1))


class Mean(torch.nn.Module):
    """The mean over a stack."""

    def forward(self, x):
        """[..., m] -> [...]."""
        return x.mean(-1)


class Difference(torch.nn.Module):
    """The first of a stack minus the second."""

    def forward(self, x):
        """[..., 2] -> [...]."""
        return x[..., 0] - x[..., 1]


def join(layer):
    """Return the module of a join that has a rule; without one it is the operator alone."""
    made = {"add": zennit.layer.Sum, "average": Mean, "subtract": Difference}.get(layer.kind)
    return None if made is None or layer.rule["name"] == "gradient" else Stacked(made())


def rule(layer, dtype):
    """Return Zennit's rule for a layer; None for plain autograd."""
    r, name = layer.rule, layer.rule["name"]
    if layer.kind in MOVES or layer.kind in GRADIENTS.get(name, ()):
        return None
    zero = {"zero_params": "bias"} if r.get("bias") == "none" else {}
    e = {"stabilizer": r["epsilon"]} if "epsilon" in r else {}
    if name == "zbox" and "box" in r:
        raise SystemExit(f"{layer.name}: its box isn't the same all over a channel; record with low and high given")
    if name == "zbox":
        low, high = (torch.tensor(r[end], dtype=dtype).reshape(1, -1, *[1] * (len(layer.shape) - 1)) for end in ("low", "high"))
        return zr.ZBox(low, high, **e, **zero)
    makers = {
        "pass": zr.Pass,
        "norm": lambda: zr.Norm(**e),
        "epsilon": lambda: zr.Epsilon(r["epsilon"], **zero),
        "zero": lambda: zr.Epsilon(r["epsilon"], **zero),
        "gamma": lambda: zr.Gamma(r["gamma"], **e, **zero),
        "zplus": lambda: zr.ZPlus(**e, **zero),
        "alpha_beta": lambda: zr.AlphaBeta(r["alpha"], r["beta"], **e, **zero),
        "wsquare": lambda: zr.WSquare(**e, **zero),
        "flat": lambda: zr.Flat(**e),
    }
    # these rules are for linear layers; under them an activation's gradient would count
    bent = layer.kind in ("activation", "prelu", *NORMS) or (layer.kind in JOINS and join(layer) is None)
    if name not in makers or layer.kind == "maxpool" or (bent and name != "pass"):
        layer.no_rule("Zennit")
    return makers[name]()


def composite(job, graph):
    """Return Zennit's composite of the recorded name, else one with the recorded rule for each module."""
    dtype, rules = nchw(job.input).dtype, {}
    own = job.about["composite"] in COMPOSITES and job.about["dialect"].startswith("zennit")
    for layer in job.layers:
        if own and layer.kind != "affine":  # it knows no such layer
            continue
        found = rule(layer, dtype)
        if layer.kind != "activation":
            done = graph.operations[layer.name]
            rules[done.over if isinstance(done, Stacked) else done] = found
        rules[graph.bends[layer.name]] = None if layer.slope else found if layer.kind == "activation" else zr.Pass()
    named = COMPOSITES[job.about["composite"]]().module_map if own else lambda *names: None
    return zennit.core.Composite(lambda context, name, module: rules[module] if module in rules else named(context, name, module))


def isolated(job, graph):
    """Return what each layer gives to its inputs, by (layer, input), from golden inputs."""
    edges = {}
    for layer in job.layers:
        xs = {name: nchw(a).requires_grad_() for name, a in job.inputs(layer).items()}
        y = graph.run(layer, [xs[name] for name in layer.inputs])
        R = torch.autograd.grad(y, list(xs.values()), nchw(job.relevance(layer)))
        edges |= {(layer.name, name): nhwc(each) for name, each in zip(xs, R)}
    return {}, {}, edges


def chained(job, graph):
    """Return relevances, activations, and what each layer gives to its inputs, from end to end."""
    values, along = {"input": nchw(job.input).requires_grad_()}, {}
    for layer in job.layers:
        for name in layer.inputs:
            along[layer.name, name] = values[name].view_as(values[name])  # a tensor, and so a gradient, for each edge
        values[layer.name] = graph.run(layer, [along[layer.name, name] for name in layer.inputs])
    last = values[job.layers[-1].name]
    start = torch.tensor(job.start(last.detach().numpy()))
    found = [nhwc(R) for R in torch.autograd.grad(last, [*values.values(), *along.values()], start)]
    edges = dict(zip(along, found[len(values) :]))
    return dict(zip(values, found)), reported(job, {layer.name: values[layer.name] for layer in job.layers}), edges


def main(mode, source, target):
    """Run every layer on golden inputs, or the network from end to end."""
    job = Job(source)
    graph = Graph(job.layers, job.dtype, join)
    with composite(job, graph).context(graph):
        job.write(target, *(isolated if mode == "isolated" else chained)(job, graph))


if __name__ == "__main__":
    command(main)
