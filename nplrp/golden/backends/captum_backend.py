"""Captum's relevance of every layer, by its rules layer by layer, with its own start: the target's logit.

python captum_backend.py isolated|chained IN OUT.npz      needs torch and captum; IN is what `nplrp golden export --to raw -w W` writes
"""

import sys
import warnings

import torch
from captum.attr import LRP
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule
from exchange import Job
from torch_chain import entered, left, modules, nchw, nhwc, softmaxed

warnings.simplefilter("ignore")


def rule(layer):
    """Return Captum's rule for a layer; None where it moves relevance only."""
    r, name = layer.rule, layer.rule["name"]
    if layer.kind not in ("conv", "dense", "maxpool", "avgpool"):
        return None
    if layer.kind in ("maxpool", "avgpool") or name in ("epsilon", "zero"):
        return EpsilonRule(r.get("epsilon", EpsilonRule().STABILITY_FACTOR))
    none = {"set_bias_to_zero": r.get("bias") == "none"}
    if name == "gamma":
        return GammaRule(r["gamma"], **none)
    if name == "zplus" or (name == "alpha_beta" and (r["alpha"], r["beta"]) == (1, 0)):
        return Alpha1_Beta0_Rule(**none)
    raise SystemExit(f"{layer.name}: Captum has no rule {name!r} with these constants")


class Chain(torch.nn.Module):
    """Layers one after the other; with relevance of their output, its sum weighted by that, so that a pass begins with just that."""

    def __init__(self, layers, parts, R=None):
        super().__init__()
        self.layers, self.R = layers, R
        self.parts = torch.nn.ModuleList(part for part in parts if not isinstance(part, torch.nn.Identity))
        self.order = parts

    def forward(self, a):
        """Return [n, units], or [n]."""
        for layer, part in zip(self.layers, self.order, strict=True):
            a = part(entered(layer, a))
        return a if self.R is None else (a * self.R).flatten(1).sum(1)


def relevances_of(layers, parts, x, R, target=None):
    """Return the relevance of each layer's input, and what the pass was normalised by."""
    rules = [rule(layer) for layer in layers]
    for part, each in zip(parts, rules, strict=True):
        if each is not None:
            (part[0] if isinstance(part, torch.nn.Sequential) else part).rule = each
    seen = []
    handles = [part.register_forward_hook(lambda module, inputs, output: seen.append(output.detach())) for part in parts]
    model = Chain(layers, list(parts), R)
    with torch.no_grad():
        output = model(x)
    for handle in handles:
        handle.remove()
    LRP(model).attribute(x, target=target)
    if R is None:
        R = torch.nn.functional.one_hot(torch.tensor(target), output.shape[1]).to(output)
    found = {layers[-1].name: R}
    for layer, each in reversed(list(zip(layers, rules, strict=True))):
        R = left(layer, R) if each is None else each.relevance_input[x.device]
        found[layer.below] = R
    return found, seen, output


def main(mode, source, target):
    """Run every layer on golden inputs, or the network from end to end."""
    job, relevances, activations = Job(source), {}, {}
    chain = modules(job)
    if mode == "isolated":
        for layer, module in zip(job.layers, chain, strict=True):
            a, R = nchw(job.activation(layer)), nchw(job.relevance(layer))
            found = left(layer, R) if rule(layer) is None else relevances_of([layer], [module], a, R)[0][layer.below]
            relevances[layer.below] = nhwc(found)
    else:
        targets = job.about["targets"]
        if targets is None:
            raise SystemExit("Captum explains one output at a time: record with a target")
        found, seen, logits = relevances_of(job.layers, chain, nchw(job.input), None, targets)
        scale = logits[range(len(logits)), targets]  # Captum's pass begins with 1, and what it gives is multiplied by the logit
        relevances = {name: nhwc(R * scale.reshape(-1, *[1] * (R.ndim - 1))) for name, R in found.items()}
        activations = {layer.name: nhwc(softmaxed(layer, a)) for layer, a in zip(job.layers, seen, strict=True)}
    job.write(target, relevances, activations)


if __name__ == "__main__":
    main(*sys.argv[1:])
