"""Print a hash of every composite's whole explanation of a seeded network: `python -m tests.bits [COMPOSITE ...]`.

The network is wide enough for Winograd's convolutions; a flat patch and a black border in its images make ties.

`python -m tests.bits --store` writes the hashes of all `NETWORKS` to `tests/data/bits.json`: after a change of numbers that the changelog
gives a reason for, and at no other time. `--compare [NETWORK/COMPOSITE ...]` compares with them, on whatever machine.
"""

import hashlib
import json
import platform
import sys
from pathlib import Path

import numpy as np

import nplrp
from nplrp.model import Preprocessing, Window, chain
from nplrp.rules.composites import COMPOSITES
from tests.engine_graph import model_of
from tests.networks import batch_norm, conv, dense, images, plain, pool, random_kernel
from tests.peers.graph_file import read

STORED = Path(__file__).parent / "data" / "bits.json"
GRAPHS = Path(__file__).parent / "data" / "peers" / "graphs_networks.npz"


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
    return chain((16, 16, 3), layers, "wide VGG", preprocessing=Preprocessing("caffe"))


def every_kind():
    """[n, 15, 13, 3] -> [n, 5]: padding, strides, dilation, batch norms that merge and one that doesn't, separate activations."""
    rng = np.random.default_rng(11)
    layers = [
        plain("pad", "pad", pads=(1, 2, 0, 1)),
        conv("conv1", random_kernel(rng, 3, 3, 3, 8), None, "linear", Window((3, 3), (2, 1))),
        batch_norm("norm1", rng, 8),
        plain("relu1", "activation", "relu"),
        pool("pool1", "maxpool", Window((3, 3), (2, 2), padding="same")),
        batch_norm("norm2", rng, 8),
        conv("conv2", random_kernel(rng, 3, 2, 8, 6), 0.2 * rng.normal(size=6), "relu", Window((3, 2), (1, 1), (2, 1), "same")),
        plain("dropout", "identity"),
        pool("pool2", "avgpool", Window((2, 2), (1, 1), padding="same")),
        conv("conv3", random_kernel(rng, 1, 1, 6, 10), 0.2 * rng.normal(size=10), "linear", Window((1, 1))),
        plain("relu3", "activation", "relu"),
        pool("top", "global_avgpool", None),
        dense("predictions", random_kernel(rng, 10, 5), 0.2 * rng.normal(size=5), "linear"),
        plain("softmax", "activation", "softmax"),
    ]
    return chain((15, 13, 3), layers, "every kind", preprocessing=Preprocessing("caffe"))


def vectors():
    """[n, 12] -> [n, 3]: dense layers alone, logits at the end."""
    rng = np.random.default_rng(12)
    layers = [
        dense("fc1", random_kernel(rng, 12, 300), 0.2 * rng.normal(size=300)),
        dense("fc2", random_kernel(rng, 300, 9), None),
        dense("logits", random_kernel(rng, 9, 3), 0.2 * rng.normal(size=3), "linear"),
    ]
    return chain((12,), layers, "vectors")


def global_max():
    """[n, 9, 9, 3] -> [n, 4]: ends in a global max-pool that keeps its axes."""
    rng = np.random.default_rng(13)
    layers = [
        conv("conv1", random_kernel(rng, 3, 3, 3, 64), 0.2 * rng.normal(size=64)),
        conv("conv2", random_kernel(rng, 3, 3, 64, 64), 0.2 * rng.normal(size=64)),
        plain("top", "global_maxpool", keepdims=True),
        plain("flatten", "flatten"),
        dense("predictions", random_kernel(rng, 64, 4), 0.2 * rng.normal(size=4), "softmax"),
    ]
    return chain((9, 9, 3), layers, "global max", preprocessing=Preprocessing("caffe"))


def thresholds():
    """[n, 14, 14, 3] -> [n, 4]: convolutions on either side of where their algorithm changes, by channels and by size."""
    rng = np.random.default_rng(14)
    layers = [
        conv("conv1", random_kernel(rng, 3, 3, 3, 32), 0.2 * rng.normal(size=32)),
        conv("conv2", random_kernel(rng, 3, 3, 32, 64), 0.2 * rng.normal(size=64)),
        conv("conv3", random_kernel(rng, 3, 3, 64, 48), 0.2 * rng.normal(size=48)),
        conv("conv4", random_kernel(rng, 3, 3, 48, 64), 0.2 * rng.normal(size=64)),
        pool("pool1"),
        conv("conv5", random_kernel(rng, 3, 3, 64, 64), 0.2 * rng.normal(size=64)),
        conv("conv6", random_kernel(rng, 1, 1, 64, 96), 0.2 * rng.normal(size=96)),
        pool("pool2"),
        conv("conv7", random_kernel(rng, 3, 3, 96, 64), 0.2 * rng.normal(size=64)),
        plain("flatten", "flatten"),
        dense("predictions", random_kernel(rng, 64 * 9, 4), 0.2 * rng.normal(size=4), "softmax"),
    ]
    return chain((14, 14, 3), layers, "thresholds", preprocessing=Preprocessing("caffe"))


def notebook():
    """VGG16 of few channels, from a file of Keras's."""
    return nplrp.load(STORED.parent / "keras_files" / "small32_k3.keras")


NETWORKS = {
    "wide": network,
    "every kind": every_kind,
    "vectors": vectors,
    "global max": global_max,
    "thresholds": thresholds,
    "notebook": notebook,
}


def stored_hashes():
    """Return {network: {composite: {dtype: hash}}} of the code as it is."""
    return {name: hashes_of(name, sorted(COMPOSITES)) for name in NETWORKS}


def hashes_of(name, composites):
    """Return {composite: {dtype: hash}} of one of `NETWORKS`."""
    model = NETWORKS[name]()
    x = pictures() if name == "wide" else images(6, 2, model.input_shape)
    if x.ndim == 4:
        x[0, 2:6, 1:7] = 0.5
    return {
        composite: {dtype: digest(nplrp.explain(model, x, boxed(composite, x), dtype=dtype)) for dtype in ("float32", "float64")}
        for composite in composites
    }


def compare(names):
    """Return how many hashes are as stored, and those that aren't; names are NETWORK/COMPOSITE, none of them are all."""
    stored = json.loads(STORED.read_text())
    wanted = [name.rsplit("/", 1) for name in names] or [(network, composite) for network in NETWORKS for composite in sorted(COMPOSITES)]
    same, other = 0, []
    for network in dict.fromkeys(network for network, _ in wanted):
        for composite, hashes in hashes_of(network, [composite for each, composite in wanted if each == network]).items():
            for dtype, found in hashes.items():
                fits = stored[network][composite][dtype] == found
                same += fits
                other += [] if fits else [f"{network}/{composite} {dtype}"]
    return same, other


def boxed(composite, x):
    """Return a composite for inputs that are no pictures, which have no box of their own: with the one that the hashes were taken with."""
    return f"{composite}(low=-123.68, high=151.061)" if x.ndim == 2 and composite in ("zbox", "epsilon_gamma_box") else composite


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
    """Print `composite dtype hash` lines; a composite may stand behind the name of one of the peers' networks, as in d_densenet/epsilon."""
    if names[:1] == ["--compare"]:
        same, other = compare(names[1:])
        print(f"{platform.machine()}: {same} hashes as stored, {len(other)} others: {', '.join(other) or 'none'}")
        return int(bool(other))
    if names == ["--store"]:
        STORED.write_text(json.dumps(stored_hashes(), indent=1) + "\n")
        return 0
    graphs = read(GRAPHS) if any("/" in name for name in names) else {}
    for name in names or sorted(COMPOSITES):
        graph, _, composite = name.rpartition("/")
        model, x = (model_of(graphs[graph]), graphs[graph].x) if graph else (network(), pictures())
        for dtype in ("float32", "float64"):
            print(name, dtype, digest(nplrp.explain(model, x, composite, dtype=dtype)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
