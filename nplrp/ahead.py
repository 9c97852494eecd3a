"""Compile kernels in a second process too, so that the first explanation from the shell waits half as long: the cache brings them together.

The explanation itself begins at the image: structural ties, direct convolution. The second process begins with what it comes to later.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess


@contextmanager
def compiling_ahead(composite: str, dtype: str) -> Iterator[None]:
    """Start the second process if something has to be compiled inside the `with` block; it ends with the block, if not before.

    Parameters
    ----------
    composite : str
        As for `nplrp.explain`.
    dtype : str
    """
    helper, logger = _Helper(composite, dtype), logging.getLogger("nplrp")
    logger.addHandler(helper)
    try:
        yield
    finally:
        logger.removeHandler(helper)
        helper.close()


class _Helper(logging.Handler):
    def __init__(self, composite: str, dtype: str) -> None:
        super().__init__()
        self._command = [sys.executable, "-m", "nplrp.ahead", composite, dtype]
        self._process: subprocess.Popen[bytes] | None = None

    def emit(self, record: logging.LogRecord) -> None:  # the cache says once that kernels are being compiled
        from nplrp.kernels import jit_cache, launch

        if record.name != jit_cache.__name__ or jit_cache.cache_directory() is None or launch.cores() < 2 or not sys.executable:
            return
        import subprocess

        nowhere = subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(self._command, stdin=nowhere, stdout=nowhere, stderr=nowhere)
        except OSError:  # alone it works as well
            return

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        super().close()


def main(composite: str, dtype: str) -> None:
    """Explain what a small network says, without and with a max-pool: sizes don't matter to the code."""
    import numpy as np

    from nplrp.explanation import explain
    from nplrp.model import Layer, Window, chain

    def array(*shape: int) -> np.ndarray:
        return np.linspace(-0.1, 0.1, np.prod(shape), dtype=np.float32).reshape(shape)

    def conv(name: str) -> Layer:
        return Layer(name, "conv", (), (), "relu", Window((3, 3), padding="same"), arrays={"kernel": array(3, 3, 64, 64)})

    top = [
        Layer("flat", "flatten", (), ()),
        Layer("dense", "dense", (), (), "relu", arrays={"kernel": array(4096, 8)}),
        Layer("last", "dense", (), (), "softmax", arrays={"kernel": array(8, 8)}),
    ]
    pool = Layer("pool", "maxpool", (), (), window=Window((2, 2), (2, 2)))
    for size, pools in ((8, []), (16, [pool])):
        model = chain((size, size, 64), [conv("first"), conv("second"), *pools, *top])
        explain(model, array(1, *model.input_shape), composite, dtype=dtype)


if __name__ == "__main__":
    main(*sys.argv[1:])
