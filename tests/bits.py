"""Print a hash of every composite's whole explanation of a seeded network: `python -m tests.bits [COMPOSITE ...]`.

The network is wide enough for Winograd's convolutions; a flat patch and a black border in its images make ties.
"""

import hashlib
import sys

import numpy as np

import nplrp
from nplrp.composites import COMPOSITES
from nplrp.model import chain
from tests.networks import conv, dense, images, plain, pool, random_kernel


def network():
    """[n, 16, 16, 3] -> [n, 6]."""
    rng = np.random.default_rng(5)
    layers = [
        conv("block1_conv1", random_kernel(rng, 3, 3, 3, 64), 0.2 * rng.normal(size=64)),
        conv("block1_conv2", random_kernel(rng, 3, 3, 64, 64), 0.2 * rng.normal(size=64)),
        pool("block1_pool"),
        conv("block2_conv1", random_kernel(rng, 3, 3, 64, 80), 0.2 * rng.normal(size=80)),
        pool("block2_pool"),
        plain("flatten", "flatten"),
        dense("fc1", random_kernel(rng, 4 * 4 * 80, 40), 0.2 * rng.normal(size=40)),
        dense("predictions", random_kernel(rng, 40, 6), 0.2 * rng.normal(size=6), "softmax"),
    ]
    return chain((16, 16, 3), layers, "wide VGG")


def pictures():
    """Three images: noise, noise with flat patches, constant."""
    x = images(6, 3, (16, 16, 3))
    x[1, 3:11, 2:13], x[1, :2] = 0.5, -1.0
    x[2] = 0.25
    return x


def digest(explanation):
    """Hash everything that an explanation holds, layer by layer."""
    content = hashlib.sha256()
    for arrays in ({"relevance": explanation.relevance, "logits": explanation.logits}, explanation.relevances, explanation.activations):
        for name, array in arrays.items():
            content.update(name.encode() + array.tobytes())
    return content.hexdigest()


def main(names):
    """Print `composite dtype hash` lines."""
    model, x = network(), pictures()
    for name in names or sorted(COMPOSITES):
        for dtype in ("float32", "float64"):
            print(name, dtype, digest(nplrp.explain(model, x, name, dtype=dtype)))


if __name__ == "__main__":
    main(sys.argv[1:])
