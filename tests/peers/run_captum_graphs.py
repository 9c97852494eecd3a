"""Write what Captum computes on networks that aren't chains: python run_captum_graphs.py graphs_networks.npz out.npz.

Needs torch and captum, not nplrp. Keys: NETWORK/CASE, NETWORK[VARIANT]/CASE; maps in the form of `graph_file.stored`.

| variant | what |
|---|---|
| (none) | every Add is captum's Addition_Module, one after the other for more than two; Concatenate is torch.cat; batch norms stay |
| plus | every Add is a bare `+` |
| folded | batch norms folded in float64 where one can (`Network.folded`) |

The rule is in all layers with weights, all else is Captum's default. `failed` is JSON: {key: message}; `versions` is JSON.
"""

import json
import sys
import warnings

import numpy as np
import torch
from captum.attr import LRP
from captum.attr._utils.custom_modules import Addition_Module
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule
from graph_file import read, stored
from torch_graph import Graph, to_nchw, to_nhwc

warnings.simplefilter("ignore")

CASES = {
    "epsilon": EpsilonRule,
    "epsilon(epsilon=0.25)": lambda: EpsilonRule(0.25),
    "gamma": GammaRule,
    "alpha1_beta0(bias=none)": lambda: Alpha1_Beta0_Rule(set_bias_to_zero=True),
}


class Additions(torch.nn.Module):
    """Captum's module for two summands, as often as needed."""

    def __init__(self, inputs):
        super().__init__()
        self.additions = torch.nn.ModuleList(Addition_Module() for _ in range(inputs - 1))

    def forward(self, xs):
        """Sum from the left."""
        total = xs[0]
        for addition, x in zip(self.additions, xs[1:], strict=True):
            total = addition(total, x)
        return total


def variants(network):
    """Yield (variant, network, how an Add is done)."""
    yield "", network, Additions
    if any(layer["kind"] == "add" for layer in network.layers):
        yield "[plus]", network, None
    if network.pairs():
        yield "[folded]", network.folded(), Additions


def main(source, target):
    """Run every case on every network and variant."""
    found, failed = {}, {}
    for name, network in read(source).items():
        for variant, described, add in variants(network):
            for case, rule in CASES.items():
                if "maximum" in name and case in ("gamma", "alpha1_beta0(bias=none)"):
                    failed[f"{name}/{case}"] = "not kept: Maximum takes its winner from a pass with the changed weights"
                    continue
                key, model = f"{name}{variant}/{case}", Graph(described, add)
                for module in model.modules():
                    if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.Linear)):
                        module.rule = rule()
                try:
                    relevance = LRP(model).attribute(to_nchw(network.x).requires_grad_(), target=torch.tensor(network.targets))
                except Exception as error:
                    failed[key] = f"{type(error).__name__}: {error}"
                    continue
                found[key] = stored(to_nhwc(relevance))
                if not np.isfinite(found[key]).all():
                    failed[key] = "values that aren't finite"
                    del found[key]
    versions = {"torch": torch.__version__, "captum": "0.9.0"}
    texts = {"failed": failed, "versions": versions}
    np.savez_compressed(target, **found, **{key: np.array(json.dumps(value)) for key, value in texts.items()})
    print(*failed.items(), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
