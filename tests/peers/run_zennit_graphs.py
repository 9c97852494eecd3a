"""Write what Zennit computes on networks that aren't chains: python run_zennit_graphs.py graphs_networks.npz out.npz.

Needs torch and zennit, not nplrp. Keys: NETWORK/CASE, NETWORK[VARIANT]/CASE, NETWORK/logits; maps in the form of `graph_file.stored`.

| variant | what |
|---|---|
| (none) | every Add is zennit.layer.Sum over a stack, under Norm; other joins are bare operators; batch norms stay |
| plus | every Add is a bare `+` |
| folded | batch norms folded in float64 where one can (`Network.folded`) |
| merged | the same batch norms merged by Zennit's NamedMergeBatchNorm |

`rules` is JSON: {NETWORK/CASE: {module: its rule}} for the composites; `failed` is JSON: {key: message}; `versions` is JSON.
The start is 1 at the target.
"""

import json
import sys

import allow_torchvision  # noqa: F401 - before Zennit
import numpy as np
import torch
import zennit.composites as zc
import zennit.rules as zr
from graph_file import read, stored
from graph_forward import forward
from torch_graph import Graph, to_nchw, to_nhwc
from zennit.attribution import Gradient
from zennit.canonizers import NamedMergeBatchNorm, SequentialMergeBatchNorm
from zennit.layer import Sum
from zennit.types import Linear

LOW, HIGH = -3.0, 3.0


def everywhere(rule):
    """One rule in all layers with weights, on Zennit's own base map."""
    return lambda canonizers: zc.LayerMapComposite([*zc.layer_map_base(), (Linear, rule)], canonizers=canonizers)


def preset(composite, *args):
    """One of Zennit's composites."""
    return lambda canonizers: composite(*args, canonizers=canonizers)


CASES = {
    "epsilon": everywhere(zr.Epsilon()),
    "epsilon(epsilon=0.25)": everywhere(zr.Epsilon(0.25)),
    "epsilon(bias=none)": everywhere(zr.Epsilon(zero_params="bias")),
    "gamma": everywhere(zr.Gamma()),
    "zplus": everywhere(zr.ZPlus()),
    "alpha_beta": everywhere(zr.AlphaBeta()),
    "wsquare": everywhere(zr.WSquare()),
    "flat": everywhere(zr.Flat()),
    "epsilon_gamma_box(low=-3.0, high=3.0)": preset(zc.EpsilonGammaBox, LOW, HIGH),
    "epsilon_plus": preset(zc.EpsilonPlus),
    "epsilon_plus_flat": preset(zc.EpsilonPlusFlat),
    "epsilon_alpha2_beta1": preset(zc.EpsilonAlpha2Beta1),
    "epsilon_alpha2_beta1_flat": preset(zc.EpsilonAlpha2Beta1Flat),
    "excitation_backprop": preset(zc.ExcitationBackprop),
    "guided_backprop": preset(zc.GuidedBackprop),
    "deconvnet": preset(zc.DeconvNet),
    "gradient": lambda canonizers: None,
}
FEW = ("epsilon", "epsilon_plus", "alpha_beta", "flat")  #: of the variants


class StackedSum(torch.nn.Module):
    """Zennit's own layer for sums, fed with a list."""

    def __init__(self, inputs):
        super().__init__()
        self.sum = Sum()

    def forward(self, xs):
        """Sum the stack."""
        return self.sum(torch.stack(xs, dim=-1))


def variants(network):
    """Yield (variant, network, how an Add is done, canonizers, cases)."""
    kinds = {layer["kind"] for layer in network.layers}
    yield "", network, StackedSum, [], CASES
    if "add" in kinds:
        yield "[plus]", network, None, [], FEW
    if pairs := network.pairs():
        yield "[folded]", network.folded(), StackedSum, [], CASES
        names = [([linear["name"]], norm["name"]) for norm, linear in pairs]
        yield "[merged]", network, StackedSum, [NamedMergeBatchNorm(names)], FEW


def rules(model, composite):
    """Return {module: the rule that the composite gives it}."""
    context, found = {}, {}
    for name, module in model.named_modules():
        rule = composite.module_map(context, name, module)
        if rule is not None:
            found[name] = type(rule).__name__
    return found


def sequential_merge(model):
    """Return what SequentialMergeBatchNorm pairs: [[linear, batch norm]], or its message."""
    names = {id(module): name for name, module in model.named_modules()}
    try:
        instances = SequentialMergeBatchNorm().apply(model)
    except Exception as error:  # whatever it says is the answer
        return f"{type(error).__name__}: {error}"
    found = [[names[id(one.linears[0])], names[id(one.batch_norm)]] for one in instances]
    for one in instances:
        one.remove()
    return found


def main(source, target):
    """Run every case on every network and variant."""
    found, failed, given, merges = {}, {}, {}, {}
    for name, network in read(source).items():
        for variant, described, add, canonizers, cases in variants(network):
            model, x = Graph(described, add), to_nchw(network.x)
            logits = model(x)
            wanted = forward(described)[described.layers[-1]["name"]]
            assert np.allclose(logits.detach().numpy(), wanted, rtol=1e-13, atol=1e-14), (name, variant)
            found[f"{name}{variant}/logits"] = logits.detach().numpy()
            start = torch.nn.functional.one_hot(torch.tensor(network.targets), logits.shape[1]).double()
            if variant == "" and network.pairs():
                merges[name] = sequential_merge(Graph(described, add))
            for case in cases:
                key, composite = f"{name}{variant}/{case}", CASES[case](canonizers)
                if composite is not None and variant == "":
                    given[key] = rules(model, composite)
                try:
                    with Gradient(model=model, composite=composite) as attributor:
                        output, relevance = attributor(x.clone(), start)
                except Exception as error:
                    failed[key] = f"{type(error).__name__}: {error}"
                    continue
                if variant == "[merged]":
                    found[f"{name}{variant}/logits"] = output.detach().numpy()
                relevance = to_nhwc(relevance)
                assert np.isfinite(relevance).all(), key
                if np.abs(relevance).max() < 1e-12:
                    failed[key] = f"nothing but rounding is left: {np.abs(relevance).max():.1e}"
                    continue
                found[key] = stored(relevance)
        print(name, flush=True)
    versions = {"torch": torch.__version__, "zennit": "0.5.1"}
    texts = {"rules": given, "failed": failed, "sequential_merge": merges, "versions": versions}
    np.savez_compressed(target, **found, **{key: np.array(json.dumps(value)) for key, value in texts.items()})
    print(failed, {k: (v if isinstance(v, str) else len(v)) for k, v in merges.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
