"""nplrp: Layer-wise Relevance Propagation of Keras networks in NumPy and Numba.

>>> import nplrp
>>> model = nplrp.load("vgg16.h5")                        # doctest: +SKIP
>>> x = nplrp.preprocess("dog.jpg", model)                # doctest: +SKIP
>>> explanation = nplrp.explain(model, x, "zplus")        # doctest: +SKIP
>>> explanation.relevance, explanation.labels()           # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

#: Public name -> the module that holds it; imported when first asked for, so that `import nplrp` costs nothing.
_PUBLIC = {
    "Composite": "rules.composites",
    "Explanation": "explanation",
    "Layer": "layers",
    "Ledger": "ledger",
    "Model": "model",
    "NplrpError": "errors",
    "Preprocessing": "model",
    "Rule": "rules",
    "explain": "explanation",
    "explain_each": "explanation",
    "explain_many": "stream",
    "figure": "heatmaps",
    "find_weights": "files.fetch",
    "forward": "outputs",
    "heatmap": "heatmaps",
    "load": "files.weights",
    "load_explanation": "files.saved",
    "logits": "outputs",
    "make_plan": "plan",
    "panel": "heatmaps",
    "predict": "outputs",
    "preprocess": "images",
    "resume": "files.saved",
    "save_png": "heatmaps",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'nplrp' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"nplrp.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
