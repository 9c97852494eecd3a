"""`nplrp warmup`: compile every kernel that explanations need, once, for images and installations that can't be written later."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from nplrp import explanation, outputs
from nplrp.errors import InputWarning
from nplrp.heatmaps import encode_png, figure, heatmap
from nplrp.model import Layer, Model, Preprocessing, Window, chain
from nplrp.plan import ALGORITHMS
from nplrp.rules.composites import COMPOSITES
from nplrp.rules.dialects import DIALECTS
from nplrp.serve import selfcheck


def warm_up(dtypes: Sequence[str], models: Sequence[Model] = (), say: Callable[[str], None] = lambda _: None) -> int:
    """Run every preset, dialect and algorithm on small networks with every kind of layer, and return how many runs that were.

    Which kernels are compiled depends on dtypes and kinds of layers, not on sizes.

    Parameters
    ----------
    dtypes : sequence of "float32" and "float64"
    models : sequence of Model
        Further ones, explained once with each dtype under the default composite.
    say : callable
        Is told about the progress.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # its inputs are no pictures
        return _run(dtypes, models, say)


def _run(dtypes: Sequence[str], models: Sequence[Model], say: Callable[[str], None]) -> int:
    begun, count = time.monotonic(), 0
    for dtype in dtypes:
        for model in _networks():
            x = np.linspace(-1, 1, 2 * np.prod(model.input_shape)).reshape(2, *model.input_shape)
            for composite, dialect, algorithm in _cases():
                e = explanation.explain(model, x, composite, dtype=dtype, algorithm=algorithm, dialect=dialect)
                if not COMPOSITES[composite].gradient:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # networks of no meaning lose relevance
                        _ = e.ledger
                count += 1
            outputs.forward(model, x, dtype)
            for picture in (x, np.zeros_like(x)):  # the flat one has ties
                outputs.top_labels(model, picture, dtype=dtype)
            say(f"{dtype}, {model.name}: {time.monotonic() - begun:.0f} s")
        for model in models:
            explanation.explain(model, np.zeros((1, *model.input_shape)), dtype=dtype)
            count += 1
    selfcheck.check(dtypes)
    grey = np.full((8, 8, 3), 0.5)
    encode_png(figure(grey, heatmap(grey[None])[0], "", "", 0.0))  # matplotlib keeps a list of fonts
    return count


def _cases() -> Iterator[tuple[str, str | None, str]]:
    """Yield (composite, dialect, algorithm): every preset in its own dialect, and every dialect's rules."""
    for algorithm in ALGORITHMS:
        for name, composite in COMPOSITES.items():
            yield name, None, algorithm
            if composite.dialect == "nplrp" and name != "zplus":
                for dialect in DIALECTS:
                    yield name, dialect, algorithm


def _networks() -> list[Model]:
    """Return networks that together have every kind of layer."""
    rng = np.random.default_rng(0)
    golden = selfcheck.network(selfcheck.read()[0])
    norm = {key: rng.uniform(0.5, 1.5, 3).astype(np.float32) for key in ("gamma", "beta", "mean", "variance")}
    kernel = (rng.normal(size=(3, 3, 3, 64)) / 5).astype(np.float32)
    other = [
        Layer("norm", "batchnorm", (), (), epsilon=1e-3, arrays=norm),
        Layer("pad", "pad", (), (), pads=(1, 0, 0, 1)),
        Layer("conv", "conv", (), (), window=Window((3, 3), padding="same"), arrays={"kernel": kernel}),
        Layer("relu", "activation", (), (), "relu"),
        Layer("mean", "avgpool", (), (), window=Window((2, 2), (2, 2))),
        *(replace(golden["conv2"], name=f"deep{i}") for i in range(2)),
        Layer("max", "global_maxpool", (), ()),
        Layer("dense", "dense", (), (), arrays={"kernel": (rng.normal(size=(64, 5)) / 8).astype(np.float32)}),
    ]
    return [golden, chain((15, 15, 3), other, "every other kind", preprocessing=Preprocessing("caffe"))]
