"""Quantus 0.6 on a small network in torch, and on the same network by the adapter: python run_quantus.py IN.npz OUT.json

Needs torch, quantus and what nplrp needs; run with PYTHONPATH at nplrp's root. IN: x [n, h, w, c], relevance, targets
(tests/evaluate/test_quantus.py).
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import quantus
import torch

from nplrp.evaluate.quantus_adapter import QuantusModel, channels_first, explain_func
from tests.evaluate.cases import CASES, COMPOSITE, model


class Port(torch.nn.Module):
    """The network in torch, in float64: Quantus hands everything over as float32."""

    def __init__(self, network):
        super().__init__()
        self.steps = []
        for layer in network.layers:
            arrays = {key: torch.from_numpy(np.array(array, np.float64)) for key, array in layer.arrays.items()}
            self.steps.append((layer.kind, layer.activation, arrays))

    def forward(self, x):
        x = x.double()
        for kind, activation, arrays in self.steps:
            if kind == "conv":
                x = torch.nn.functional.conv2d(x, arrays["kernel"].permute(3, 2, 0, 1), arrays["bias"], padding="same")
            elif kind == "maxpool":
                x = torch.nn.functional.max_pool2d(x, 2)
            elif kind == "flatten":
                x = x.permute(0, 2, 3, 1).flatten(1)
            elif kind == "dense":
                x = x @ arrays["kernel"] + arrays["bias"]
            x = torch.relu(x) if activation == "relu" else x
        return x


def plain(value):
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return np.asarray(value, float).tolist()


def main(source, target):
    warnings.simplefilter("ignore")
    given, network, found = np.load(source), model(), {}
    x, targets = channels_first(given["x"]), given["targets"]
    port, ours = Port(network).eval(), QuantusModel(network, "float64")
    for name, (metric, by, options, call, seed) in CASES.items():
        if by == "adapter":
            call |= {"explain_func": explain_func, "explain_func_kwargs": {"composite": COMPOSITE}}
        np.random.seed(seed)
        run = getattr(quantus, metric)(disable_warnings=True, display_progressbar=False, **options)
        scores = run(ours if by == "adapter" else port, x, targets, channels_first(given["relevance"]).copy(), **call)
        found[name] = plain(scores)
    about = {"quantus": quantus.__version__, "torch": torch.__version__.partition("+")[0], "found": found}
    Path(target).write_text(json.dumps(about))


if __name__ == "__main__":
    main(*sys.argv[1:])
