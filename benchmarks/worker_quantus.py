"""Runs Quantus with PyTorch for the coordinator; maps of changed images and networks by Zennit."""

import sys
import warnings
from importlib.metadata import version

import numpy as np
import zennit_import  # noqa: F401 - before quantus, which imports zennit

# isort: split
import quantus
import torch
from evaluating import DRAWS, JOBS, given
from protocol import Jobs, read_network, serve
from torch_vgg import build
from zennit.attribution import Gradient
from zennit.composites import LayerMapComposite
from zennit.rules import Epsilon, Pass
from zennit.types import Activation, Linear

QUIET = {"disable_warnings": True, "display_progressbar": False}


def explain(model, inputs, targets, **_):
    """Explain as LRP-epsilon does, by Zennit: [n, c, h, w]."""
    x = torch.as_tensor(np.asarray(inputs, np.float32))
    composite = LayerMapComposite([(Linear, Epsilon(0.25)), (Activation, Pass())])

    def chosen(output):
        return output * torch.nn.functional.one_hot(torch.as_tensor(targets), output.shape[1])

    with Gradient(model=model, composite=composite, attr_output=chosen) as attributor:
        return attributor(x)[1].detach().numpy()


def main(network):
    """Serve jobs."""
    warnings.simplefilter("ignore")
    model = build(read_network(network))

    def first(x):
        return np.ascontiguousarray(np.moveaxis(x, -1, 1))

    def evaluate(what, batch):
        settings, (x, targets, maps) = JOBS[what], given(batch, 3 if "3 maps" in what else 1)
        x, maps = first(x), [first(each) for each in maps]

        def run(metric, relevance, **call):
            np.random.seed(DRAWS)
            return metric(model, x, targets, None if relevance is None else relevance.copy(), **call)

        def regions():
            return np.array(run(quantus.RegionPerturbation(**settings, **QUIET), maps[0], softmax=False))

        def flipping():
            return np.array(run(quantus.PixelFlipping(**settings, **QUIET), maps[0], softmax=False))

        def correlation():
            metric = quantus.FaithfulnessCorrelation(**settings, return_aggregate=False, **QUIET)
            return np.array([run(metric, each, softmax=False) for each in maps])

        def sensitivity():
            return np.array(run(quantus.MaxSensitivity(**settings, **QUIET), None, explain_func=explain))

        def lipschitz():
            return np.array(run(quantus.LocalLipschitzEstimate(**settings, **QUIET), None, explain_func=explain))

        def simple():
            return np.array([run(metric(**QUIET), maps[0]) for metric in (quantus.Sparseness, quantus.Complexity)])

        def randomisation():
            found = run(quantus.MPRT(**settings, **QUIET), None, explain_func=explain)
            return np.array([values for name, values in found.items() if name != "original"]).T

        names = (regions, flipping, correlation, sensitivity, lipschitz, simple, randomisation)
        return dict(zip(JOBS, names, strict=True))[what]

    jobs = Jobs({"evaluate": evaluate}, torch.set_num_threads)
    versions = {name: version(name) for name in ("quantus", "torch", "zennit", "numpy")}
    serve({"facts": lambda: versions, **jobs.commands()})


if __name__ == "__main__":
    main(*sys.argv[1:])
