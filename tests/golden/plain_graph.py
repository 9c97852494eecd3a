"""A plain float32 backend for graphs, without nplrp: the twin's formulas (`tests.graph_twin`), every result rounded to float32.

Sums are BLAS's. It gives what other people's code would: activations, relevance of every output, and what each layer gives to each of its
inputs.
"""

import numpy as np

from tests import graph_twin
from tests.peers import graph_forward
from tests.peers.graph_file import Network


class Single:
    """A network in float32, run by a twin's plan; its input is called "input", as in golden files."""

    def __init__(self, network, plan):
        layers = []
        for layer in network.layers:
            renamed = {"name": ours(layer["name"]), "inputs": [ours(name) for name in layer["inputs"]]}
            layers.append({**layer, **renamed, "arrays": {key: np.float32(each) for key, each in layer.get("arrays", {}).items()}})
        self.network, self.plan = Network(network.name, layers, np.float32(network.x), network.targets), plan
        shapes = {ours(name): value.shape[1:] for name, value in graph_forward.forward(network).items()}
        weighted = [layer for layer in layers if "kernel" in layer["arrays"]]
        self.made = {layer["name"]: graph_twin.Matrices(_matrix(layer, shapes[layer["inputs"][0]])) for layer in weighted}

    def forward(self):
        """Return {layer: its output}."""
        values = {"input": self.network.x}
        for layer in self.network.layers[1:]:
            values[layer["name"]] = np.float32(graph_forward.apply(layer, [values[name] for name in layer["inputs"]])[1])
        return values

    def back(self, layer, xs, R):
        """Return {input: what a layer gives to it}, given its inputs and the relevance of its output."""
        z, y = (np.float32(each) for each in graph_forward.apply(layer, xs))
        images = [
            graph_twin.step(self.plan, self.network, self.made, layer, [x[i] for x in xs], z[i], y[i], R[i].reshape(y[i].shape))
            for i in range(len(R))
        ]
        found = {}
        for name, part in zip(layer["inputs"], (np.float32(np.stack(parts)) for parts in zip(*images, strict=True)), strict=True):
            found[name] = found[name] + part if name in found else part
        return found

    def isolated(self, activations, relevances):
        """Run every layer on given numbers: return ({layer: relevance}, {(layer, input): relevance})."""
        found, edges = {}, {}
        for layer in self.network.layers[:0:-1]:
            xs = [np.float32(activations[name]) for name in layer["inputs"]]
            self._give(layer, self.back(layer, xs, np.float32(relevances[layer["name"]])), found, edges)
        return found, edges

    def chained(self, start):
        """Run the network from end to end: return (activations, {layer: relevance}, {(layer, input): relevance})."""
        values, edges = self.forward(), {}
        found = {self.network.layers[-1]["name"]: np.float32(start)}
        for layer in self.network.layers[:0:-1]:
            self._give(layer, self.back(layer, [values[name] for name in layer["inputs"]], found[layer["name"]]), found, edges)
        return values, found, edges

    @staticmethod
    def _give(layer, parts, found, edges):
        for name, part in parts.items():
            edges[layer["name"], name] = part
            found[name] = found[name] + part if name in found else part


def ours(name):
    """Return a layer's name in golden files."""
    return "input" if name == "x" else name


def _matrix(layer, shape):
    kernel = layer["arrays"]["kernel"]
    return lambda ones: graph_twin.Dense(np.float32(graph_twin.jacobian(layer, shape, np.ones_like(kernel) if ones else kernel)))
