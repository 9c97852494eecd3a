"""Runs Zennit for the coordinator: one rule on every layer with weights."""

import sys

import numpy as np
import torch
import torch_graph
import zennit_import
from folder_torch import draw, folder_job
from protocol import Jobs, images, is_graph, read_network, serve
from torch_vgg import array, build, tensor
from zennit.attribution import Gradient
from zennit.canonizers import NamedMergeBatchNorm
from zennit.composites import EpsilonPlus, LayerMapComposite
from zennit.layer import Sum
from zennit.rules import AlphaBeta, Epsilon, Pass, ZPlus
from zennit.types import Activation, Linear

RULES = {"epsilon": Epsilon, "zplus": ZPlus, "alpha_beta": lambda: AlphaBeta(2, 1)}


class StackedSum(torch.nn.Module):
    """Zennit's own layer for sums, fed with a list, as in its ResNet."""

    def __init__(self):
        super().__init__()
        self.sum = Sum()

    def forward(self, xs):
        """Sum the stack."""
        return self.sum(torch.stack(xs, dim=-1))


def main(network):
    """Serve jobs."""
    layers = read_network(network)
    models, side = {}, layers[0]["input_shape"][0]

    def net(dtype, channels_last):
        key = dtype, channels_last
        if key not in models:
            model = torch_graph.build(layers, StackedSum) if is_graph(layers) else build(layers)
            model = model.to(getattr(torch, dtype))
            models[key] = model.to(memory_format=torch.channels_last) if channels_last else model
        return models[key]

    def explain(rule, batch=1, dtype="float32", channels_last=False, x=None):
        x = images(batch, side) if x is None else np.load(x)["x"]
        x, model = tensor(x, channels_last, getattr(torch, dtype)), net(dtype, channels_last)

        def run():
            composite = LayerMapComposite([(Linear, RULES[rule]()), (Activation, Pass())])
            with Gradient(model=model, composite=composite, attr_output=_largest) as attributor:
                _, relevance = attributor(x)
            return array(relevance)

        return run

    def epsilon_plus(batch, channels_last=False):
        x, model = tensor(images(batch, side), channels_last), net("float32", channels_last)
        canonizers = [NamedMergeBatchNorm(torch_graph.merges(layers))] if is_graph(layers) else []

        def run():
            with Gradient(model=model, composite=EpsilonPlus(canonizers=canonizers), attr_output=_largest) as attributor:
                _, relevance = attributor(x)
            return array(relevance)

        return run

    def folder(folder, channels_last):
        model = net("float32", channels_last)
        canonizers = [NamedMergeBatchNorm(torch_graph.merges(layers))] if is_graph(layers) else []

        def explain(x):
            x = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
            with Gradient(model=model, composite=EpsilonPlus(canonizers=canonizers), attr_output=_largest) as attributor:
                return attributor(x)[1]

        return folder_job(folder, side, explain, draw)

    jobs = Jobs({"explain": explain, "epsilon_plus": epsilon_plus, "folder": folder}, torch.set_num_threads)
    from importlib import metadata

    facts = {"torch": torch.__version__, "zennit": metadata.version("zennit")}
    serve({"facts": lambda: facts, **jobs.commands()})


def _largest(logits):
    """Return the start: the largest logit, zero elsewhere."""
    return torch.where(logits == logits.max(1, keepdim=True).values, logits, torch.zeros_like(logits))


if __name__ == "__main__":
    assert zennit_import
    main(sys.argv[1])
