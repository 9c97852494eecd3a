"""Captum's relevance of every layer, by its rules layer by layer, with its own start: the target's logit.

python captum_backend.py isolated|chained IN OUT.npz      needs torch and captum; IN is what `nplrp golden export --to raw -w W` writes
"""

import functools
import warnings

import torch
from captum.attr import LRP
from captum.attr._utils.custom_modules import Addition_Module
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule
from exchange import MOVES, POOLS, SCALES, WEIGHTED, Job, command
from torch_graph import Graph, nchw, nhwc, reported

warnings.simplefilter("ignore")

#: Rules that are plain autograd, and the kinds that have it for them.
GRADIENTS = {
    "winner": ("maximum", "minimum"),
    "winner_ties": ("maximum", "minimum"),
    "gradient": ("add", "average", "subtract", "multiply"),
}


class Additions(torch.nn.Module):
    """Captum's module for a sum of two, as often as needed, from the left."""

    def __init__(self, inputs):
        super().__init__()
        self.additions = torch.nn.ModuleList(Addition_Module() for _ in range(inputs - 1))

    def forward(self, xs):
        """Add up."""
        total = xs[0]
        for addition, x in zip(self.additions, xs[1:]):
            total = addition(total, x)
        return total


def join(layer):
    """Return the module of a join that has a rule; without one it is the operator alone."""
    return Additions(len(layer.inputs)) if layer.kind == "add" and layer.rule["name"] != "gradient" else None


def rule(layer):
    """Return what makes Captum's rule for a layer; None where relevance only moves or goes by autograd."""
    r, name = layer.rule, layer.rule["name"]
    if layer.kind in MOVES or layer.kind in GRADIENTS.get(name, ()) or (layer.kind, name) == ("activation", "pass"):
        return None
    epsilon = r.get("epsilon", EpsilonRule().STABILITY_FACTOR)
    none = {"set_bias_to_zero": r.get("bias") == "none"}
    if layer.kind in POOLS or (layer.kind == "add" and name in ("norm", "epsilon", "zero")):
        return lambda: EpsilonRule(epsilon)
    if layer.kind in (*WEIGHTED, *SCALES):
        if name in ("epsilon", "zero"):
            return lambda: EpsilonRule(epsilon)
        if name == "gamma":
            return lambda: GammaRule(r["gamma"], **none)
        if name == "zplus" or (name == "alpha_beta" and (r["alpha"], r["beta"]) == (1, 0)):
            return lambda: Alpha1_Beta0_Rule(**none)
    layer.no_rule("Captum")
    return None


class Explained(Graph):
    """A graph with Captum's rules that keeps the relevance of every output; with that of the last, its sum weighted by it."""

    def __init__(self, layers, dtype, R=None):
        super().__init__(layers, dtype, join)
        self.R, self.values, self.found = R, {}, {}
        for layer in layers:
            bent, made = self.bends[layer.name], rule(layer)
            if bent is not None and (layer.slope or not isinstance(bent, (torch.nn.ReLU, torch.nn.Tanh))):
                layer.refuse(f"Captum has no rule for the activation {layer.activation!r}, it passes ReLU and tanh")
            if made is not None:
                done = self.operations[layer.name]
                for module in done.additions if isinstance(done, Additions) else [done]:
                    module.rule = made()

    def forward(self, *inputs):
        """Return the last output, [n, units] or [n]; readers share a tensor, as Captum's hooks are per tensor."""
        self.values = dict(zip(self.reads, inputs))
        for layer in self.layers:
            self.values[layer.name] = self.run(layer, [self.values[name] for name in layer.inputs])
        for name, x in self.values.items():
            if x.requires_grad:  # registered last, so that Captum has done what it does to them
                x.register_hook(functools.partial(self.found.__setitem__, name))
        last = self.values[self.layers[-1].name]
        return last if self.R is None else (last * self.R).flatten(1).sum(1)


def isolated(job):
    """Return what each layer gives to its inputs, by (layer, input), from golden inputs."""
    edges = {}
    for layer in job.layers:
        graph = Explained([layer], job.dtype, nchw(job.relevance(layer)))
        LRP(graph).attribute(tuple(map(nchw, job.inputs(layer).values())))
        edges |= {(layer.name, name): nhwc(graph.found[name]) for name in graph.reads}
    return {}, {}, edges


def chained(job):
    """Return relevances and activations from end to end."""
    targets = job.about["targets"]
    if targets is None:
        raise SystemExit("Captum explains one output at a time: record with a target")
    graph, x = Explained(job.layers, job.dtype), nchw(job.input)
    with torch.no_grad():
        logits = graph(x)
    activations = reported(job, {layer.name: graph.values[layer.name] for layer in job.layers})
    LRP(graph).attribute(x, target=targets)
    scale = logits[range(len(logits)), targets]  # Captum's pass begins with 1, and what it gives is multiplied by the logit
    return {name: nhwc(R * scale.reshape(-1, *[1] * (R.ndim - 1))) for name, R in graph.found.items()}, activations, {}


def main(mode, source, target):
    """Run every layer on golden inputs, or the network from end to end."""
    job = Job(source)
    job.write(target, *(isolated if mode == "isolated" else chained)(job))


if __name__ == "__main__":
    command(main)
