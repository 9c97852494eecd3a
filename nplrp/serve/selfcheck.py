"""A small golden case with weights of its own: whether this machine's kernels compute the bits that they should.

The network has a direct and a Winograd convolution, a max-pool, and a dense layer. `golden_case.npz` holds its weights, an image, and
the SHA-256 of what `nplrp.explain` makes of it; tests/serve/make_golden_case.py has made it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from importlib import resources

import numpy as np

from nplrp import explanation
from nplrp.model import Layer, Model, Preprocessing, Window, chain
from nplrp.serve.problems import ServeError

FILE = "golden_case.npz"
COMPOSITES = ("notebook", "zplus", "alpha_beta")


def network(arrays: dict[str, np.ndarray]) -> Model:
    """Return the golden case's network: weights are small whole numbers, scaled."""
    same = Window((3, 3), padding="same")

    def weights(name: str) -> dict[str, np.ndarray]:
        kernel = arrays[name].astype(np.float32)
        scale = np.float32(np.sqrt(2 / np.prod(kernel.shape[:-1])))
        return {"kernel": kernel * scale, "bias": arrays[f"{name}_bias"].astype(np.float32) / 8}

    layers = [
        Layer("conv1", "conv", (), (), "relu", same, arrays=weights("conv1")),
        Layer("conv2", "conv", (), (), "relu", same, arrays=weights("conv2")),
        Layer("pool", "maxpool", (), (), window=Window((4, 4), (4, 4))),
        Layer("flatten", "flatten", (), ()),
        Layer("dense", "dense", (), (), "softmax", arrays=weights("dense")),
    ]
    return chain(arrays["image"].shape, layers, "golden case", preprocessing=Preprocessing("caffe"))


def read() -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the golden case's arrays, and its digests by composite and dtype."""
    content = (resources.files("nplrp.serve") / FILE).read_bytes()
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = dict(file)
    return arrays, json.loads(str(arrays.pop("sha256")))


def digest(model: Model, image: np.ndarray, composite: str, dtype: str) -> str:
    """Return the SHA-256 of an explanation's logits and relevance."""
    e = explanation.explain(model, image[None].astype(np.float32), composite, dtype=dtype)
    return hashlib.sha256(b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in (e.logits, e.relevance))).hexdigest()


def check(dtypes: Sequence[str] = ("float32",)) -> None:
    """Reproduce the golden case bit for bit.

    Raises
    ------
    ServeError
        If a bit differs.
    """
    for case, found, expected in cases(dtypes):
        if found != expected:
            raise ServeError(
                f"this machine computes other numbers than it should: the golden case {case} has SHA-256 {found}, expected {expected}; "
                "run nplrp doctor, and trust no result of this installation"
            )


def cases(dtypes: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Compute every case, and yield (composite and dtype, digest found, digest expected)."""
    arrays, expected = read()
    model = network(arrays)
    for composite in COMPOSITES:
        for dtype in dtypes:
            yield f"{composite} in {dtype}", digest(model, arrays["image"], composite, dtype), expected[f"{composite} {dtype}"]
