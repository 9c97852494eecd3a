"""Make nplrp/serve/golden_case.npz: python -m tests.serve.make_golden_case.

To be run again, with a word in the changelog, whenever the library's numbers change on purpose. First holds what the check is worth: the
digests come from kernels that this script has compared with the float64 page on the same network.
"""

import json
from pathlib import Path

import numpy as np

import nplrp.serve.selfcheck
from nplrp import explanation
from nplrp.serve.selfcheck import COMPOSITES, FILE, digest, network

TARGET = Path(nplrp.serve.selfcheck.__file__).with_name(FILE)
#: Of the largest relevance; the notebook divides by denominators near 0.
BOUNDS = {"notebook": 0.1, "zplus": 1e-5, "alpha_beta": 1e-4}
SHAPES = {"conv1": (3, 3, 3, 64), "conv2": (3, 3, 64, 64), "dense": (256, 5)}


def arrays():
    """Small whole numbers: weights -1, 0, 1, biases and the image of both signs."""
    rng = np.random.default_rng(0)
    found = {name: rng.choice([-1, 0, 1], size=shape, p=[0.2, 0.6, 0.2]).astype(np.int8) for name, shape in SHAPES.items()}
    found |= {f"{name}_bias": rng.integers(-4, 5, shape[-1]).astype(np.int8) for name, shape in SHAPES.items()}
    return found | {"image": rng.integers(-100, 100, (8, 8, 3)).astype(np.int8)}


def main():
    """Compare dtypes and algorithms, then write."""
    case = arrays()
    model, x = network(case), case["image"][None].astype(np.float64)
    for composite in COMPOSITES:
        exact = explanation.explain(model, x, composite, dtype="float64", algorithm="direct").relevance
        single = explanation.explain(model, x.astype(np.float32), composite).relevance
        error = np.abs(single - exact).max() / np.abs(exact).max()
        print(f"{composite}: float32 is within {error:.2g} of float64")
        assert error < BOUNDS[composite]
    digests = {
        f"{composite} {dtype}": digest(model, case["image"], composite, dtype)
        for composite in COMPOSITES
        for dtype in ("float32", "float64")
    }
    np.savez_compressed(TARGET, sha256=np.array(json.dumps(digests)), **case)
    print(f"wrote {TARGET.name}, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
