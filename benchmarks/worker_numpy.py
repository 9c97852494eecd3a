"""Runs the plain NumPy twin for the coordinator."""

import sys

import numpy as np
import numpy_twin as twin
from protocol import Jobs, images, read_network, serve


def main(network):
    """Serve jobs; the number of threads is the BLAS library's, set by the environment."""
    layers = read_network(network)

    def explain(rule, batch):
        x = images(batch)
        return lambda: twin.explain(layers, x, rule)

    def forward(batch):
        x = images(batch)
        return lambda: twin.forward(layers, x)[0][-1]

    def convs(batch):
        inputs, _ = twin.forward(layers, images(batch))
        work = [(layer, a) for layer, a in zip(layers, inputs[:-1], strict=True) if layer["kind"] == "conv"]

        def run():
            for layer, a in work:
                z = np.maximum(twin.linear(layer, a, layer["kernel"]) + layer["bias"], 0)
            return z

        return run

    jobs = Jobs({"explain": explain, "forward": forward, "convs": convs}, lambda threads: None)
    serve({"facts": lambda: {"numpy": np.__version__}, **jobs.commands()})


if __name__ == "__main__":
    main(sys.argv[1])
