"""nplrp: Layer-wise Relevance Propagation of Keras networks in NumPy and Numba.

>>> import nplrp
>>> model = nplrp.load("demo")                                  # doctest: +SKIP
>>> x = nplrp.preprocess(nplrp.demo_image(), model)             # doctest: +SKIP
>>> explanation = nplrp.explain(model, x, "epsilon_plus")       # doctest: +SKIP
>>> explanation.relevance, explanation.labels()                 # doctest: +SKIP
>>> explanation                                                 # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nplrp.lazy import names_of

if TYPE_CHECKING:  # the table below, for those who read types; a test holds them equal
    from nplrp.demo import demo_image
    from nplrp.errors import NplrpError
    from nplrp.explanation import Explanation, explain, explain_each
    from nplrp.files.fetch import find_weights
    from nplrp.files.saved import SavedExplanation, load_explanation, resume
    from nplrp.files.weights import load
    from nplrp.heatmaps import figure, heatmap, panel, save_png
    from nplrp.images import preprocess
    from nplrp.layers import Layer
    from nplrp.ledger import Ledger
    from nplrp.model import Model, Preprocessing
    from nplrp.outputs import forward, logits, predict
    from nplrp.plan import Plan, make_plan
    from nplrp.rules import Rule
    from nplrp.rules.composites import Composite
    from nplrp.stream import explain_many
    from nplrp.targets import Label

__version__ = "0.1.0"

#: Public name -> the module that holds it; imported when first asked for, so that `import nplrp` costs nothing.
_PUBLIC = {
    "Composite": "rules.composites",
    "Explanation": "explanation",
    "Label": "targets",
    "Layer": "layers",
    "Ledger": "ledger",
    "Model": "model",
    "NplrpError": "errors",
    "Plan": "plan",
    "Preprocessing": "model",
    "Rule": "rules",
    "SavedExplanation": "files.saved",
    "demo_image": "demo",
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

__all__ = [
    "Composite",
    "Explanation",
    "Label",
    "Layer",
    "Ledger",
    "Model",
    "NplrpError",
    "Plan",
    "Preprocessing",
    "Rule",
    "SavedExplanation",
    "demo_image",
    "explain",
    "explain_each",
    "explain_many",
    "figure",
    "find_weights",
    "forward",
    "heatmap",
    "load",
    "load_explanation",
    "logits",
    "make_plan",
    "panel",
    "predict",
    "preprocess",
    "resume",
    "save_png",
]

if not TYPE_CHECKING:  # a checker would take every name for one of ours
    __getattr__, __dir__ = names_of(__name__, _PUBLIC)
