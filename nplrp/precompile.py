"""What the worker process of `nplrp.jit.ahead` runs while the first explanation from the shell is on its way.

The explanation itself begins at the image: structural ties, direct convolution. The worker begins with what it comes to later.
"""

from __future__ import annotations

import sys

import numpy as np

from nplrp.explanation import explain
from nplrp.model import Layer, Window, chain


def main(composite: str, dtype: str) -> None:
    """Explain what a small network says, without and with a max-pool: sizes don't matter to the code.

    Parameters
    ----------
    composite, dtype : str
        As for `nplrp.explain`.
    """
    top = [
        Layer("flat", "flatten", (), ()),
        Layer("dense", "dense", (), (), "relu", arrays={"kernel": _array(4096, 8)}),
        Layer("last", "dense", (), (), "softmax", arrays={"kernel": _array(8, 8)}),
    ]
    pool = Layer("pool", "maxpool", (), (), window=Window((2, 2), (2, 2)))
    for size, pools in ((8, []), (16, [pool])):
        model = chain((size, size, 64), [_conv("first"), _conv("second"), *pools, *top])
        explain(model, _array(1, *model.input_shape), composite, dtype=dtype)


def _array(*shape: int) -> np.ndarray:
    return np.linspace(-0.1, 0.1, np.prod(shape), dtype=np.float32).reshape(shape)


def _conv(name: str) -> Layer:
    return Layer(name, "conv", (), (), "relu", Window((3, 3), padding="same"), arrays={"kernel": _array(3, 3, 64, 64)})


if __name__ == "__main__":
    main(*sys.argv[1:])
