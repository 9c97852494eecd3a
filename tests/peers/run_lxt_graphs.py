"""Write what LXT computes on networks that aren't chains: python run_lxt_graphs.py graphs_networks.npz out.npz.

Needs torch and lxt 2.1 (`pip install --no-deps lxt`), not nplrp. Keys: NETWORK/CASE; maps in the form of `graph_file.stored`.

The only case is "epsilon": EpsilonRule(1e-8) for layers with weights, average pools and batch norms, IdentityRule for activations,
functional.add2 for Add (from the left), functional.mul2 for Multiply, functional.layer_norm; all else by PyTorch's gradient.
It stands here for Multiply and for layer norms, for which Zennit, iNNvestigate and Captum have no rule. The start is the target's logit.
`failed` is JSON: {key: message}; `versions` is JSON.
"""

import functools
import json
import sys

import numpy as np
import torch
from graph_file import read, stored
from lxt.explicit import functional, rules
from torch_graph import Graph, to_nchw, to_nhwc

RULED = ("conv", "depthwise", "conv_transpose", "dense", "batchnorm", "avgpool", "global_avgpool")


class LxtGraph(Graph):
    """Calls LXT's rules where it has one."""

    def run(self, layer, xs):
        """Run one layer."""
        kind, name = layer["kind"], layer["name"]
        if kind == "add":
            return functools.reduce(functional.add2, xs)
        if kind == "multiply":
            return functional.mul2(*xs)
        if kind == "layernorm":
            norm = getattr(self, name).norm
            return functional.layer_norm(xs[0].movedim(1, -1), norm.weight, norm.bias, norm.eps).movedim(-1, 1)
        if kind == "activation":
            return rules.identity(getattr(self, name), xs[0])
        if kind in RULED:
            z = rules.epsilon_lrp(getattr(self, name), 1e-8, xs[0])
            z = z.flatten(1) if kind == "global_avgpool" else z
            function = f"{name}_activation"
            return rules.identity(getattr(self, function), z) if hasattr(self, function) else z
        return super().run(layer, xs)


def main(source, target):
    """Run the case on every network."""
    found, failed = {}, {}
    for name, network in read(source).items():
        key = f"{name}/epsilon"
        try:
            model, x = LxtGraph(network), to_nchw(network.x).requires_grad_()
            logits = model(x)
            chosen = logits[torch.arange(len(x)), torch.tensor(network.targets)]
            chosen.backward(chosen.detach())
        except Exception as error:
            failed[key] = f"{type(error).__name__}: {error}"
            continue
        relevance = to_nhwc(x.grad)
        assert np.isfinite(relevance).all(), key
        found[key], found[f"{name}/logits"] = stored(relevance), logits.detach().numpy()
    texts = {"failed": failed, "versions": {"torch": torch.__version__, "lxt": "2.1"}}
    np.savez_compressed(target, **found, **{key: np.array(json.dumps(value)) for key, value in texts.items()})
    print(failed)


if __name__ == "__main__":
    main(*sys.argv[1:])
