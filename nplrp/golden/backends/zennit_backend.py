"""Zennit's relevance of every layer: its own composites by name, else its rules layer by layer.

python zennit_backend.py isolated|chained IN OUT.npz      needs torch and zennit; IN is what `nplrp golden export --to raw -w W` writes
"""

import sys

import torch
from exchange import Job
from torch_chain import entered, modules, nchw, nhwc, softmaxed

_register = torch.library.register_fake
# Zennit imports torchvision and uses none of its operators: one of another build will do
torch.library.register_fake = lambda op, *a, **k: (lambda f: f) if str(op).startswith("torchvision::") else _register(op, *a, **k)

import zennit.composites as zc  # noqa: E402
import zennit.rules as zr  # noqa: E402

COMPOSITES = {
    "epsilon_plus": zc.EpsilonPlus,
    "epsilon_plus_flat": zc.EpsilonPlusFlat,
    "epsilon_alpha2_beta1": zc.EpsilonAlpha2Beta1,
    "epsilon_alpha2_beta1_flat": zc.EpsilonAlpha2Beta1Flat,
    "excitation_backprop": zc.ExcitationBackprop,
}


def rule(layer, dtype):
    """Return Zennit's rule for a layer."""
    r, name = layer.rule, layer.rule["name"]
    zero = {"zero_params": "bias"} if r.get("bias") == "none" else {}
    e = {"stabilizer": r["epsilon"]} if "epsilon" in r else {}
    if name == "winner" and layer.kind == "maxpool":
        return None
    if name in ("epsilon", "zero"):
        return zr.Epsilon(r["epsilon"], **zero)
    if name == "zbox" and "box" in r:
        raise SystemExit(f"{layer.name}: its box isn't the same all over a channel; record with low and high given")
    if name == "zbox":
        low, high = (torch.tensor(r[end], dtype=dtype).reshape(1, -1, *[1] * (len(layer.shape) - 1)) for end in ("low", "high"))
        return zr.ZBox(low, high, **e, **zero)
    makers = {
        "pass": zr.Pass,
        "norm": lambda: zr.Norm(**e),
        "gamma": lambda: zr.Gamma(r["gamma"], **e, **zero),
        "zplus": lambda: zr.ZPlus(**e, **zero),
        "alpha_beta": lambda: zr.AlphaBeta(r["alpha"], r["beta"], **e, **zero),
        "wsquare": lambda: zr.WSquare(**e, **zero),
        "flat": lambda: zr.Flat(**e),
    }
    if name not in makers:
        raise SystemExit(f"{layer.name}: Zennit has no rule {name!r} for layers of kind {layer.kind!r}")
    return makers[name]()


def composite(job, chain):
    """Return Zennit's composite of the recorded name, else one with the recorded rule for each module."""
    if job.about["composite"] in COMPOSITES and job.about["dialect"].startswith("zennit"):
        return COMPOSITES[job.about["composite"]]()
    named, dtype = [], nchw(job.input).dtype
    for i, (layer, module) in enumerate(zip(job.layers, chain, strict=True)):
        found = rule(layer, dtype)
        parts = isinstance(module, torch.nn.Sequential)
        named += [((f"{i}.0" if parts else f"{i}",), found)] if found else []
        named += [((f"{i}.1",), zr.Pass())] if parts else []
    return zc.NameMapComposite(named)


def main(mode, source, target):
    """Run every layer on golden inputs, or the network from end to end."""
    job, relevances, activations = Job(source), {}, {}
    chain = modules(job)
    with composite(job, chain).context(chain):
        if mode == "isolated":
            for layer, module in zip(job.layers, chain, strict=True):
                a, R = nchw(job.activation(layer)).requires_grad_(), nchw(job.relevance(layer))
                relevances[layer.below] = nhwc(torch.autograd.grad(module(entered(layer, a)), a, R)[0])
        else:
            a = nchw(job.input).requires_grad_()
            trail = [a]
            for layer, module in zip(job.layers, chain, strict=True):
                trail.append(module(entered(layer, trail[-1])))
                activations[layer.name] = nhwc(softmaxed(layer, trail[-1]))
            start = torch.tensor(job.start(trail[-1].detach().numpy()))
            names = [job.layers[0].below, *(layer.name for layer in job.layers)]
            found = torch.autograd.grad(trail[-1], trail, start)
            relevances = {name: nhwc(R) for name, R in zip(names, found, strict=True)}
    job.write(target, relevances, activations)


if __name__ == "__main__":
    main(*sys.argv[1:])
