"""Are explanations any good? Metrics of relevance maps on the engine; each is a function of arrays, and a row in a table.

>>> from nplrp.evaluate import evaluate                                           # doctest: +SKIP
>>> print(evaluate(model, x, "zplus,epsilon_plus", "deletion,insertion,mprt"))    # doctest: +SKIP

`evaluate` measures composites; `pixel_flipping`, `sparseness` and the others take anybody's maps and models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nplrp.lazy import names_of

if TYPE_CHECKING:  # the table below, for those who read types; a test holds them equal
    from nplrp.evaluate.balance import completeness
    from nplrp.evaluate.errors import EvaluationError
    from nplrp.evaluate.evaluating import Evaluation, bounds_of, evaluate
    from nplrp.evaluate.faithful import Curves, faithfulness_correlation, pixel_flipping, sufficiency
    from nplrp.evaluate.perturbing import BASELINES, baseline_values
    from nplrp.evaluate.picture import plot
    from nplrp.evaluate.predicting import scores_of
    from nplrp.evaluate.randomising import Decay, mprt, randomise, spearman
    from nplrp.evaluate.robust import local_lipschitz, max_sensitivity
    from nplrp.evaluate.simple import complexity, sparseness
    from nplrp.evaluate.table import METRICS, Metric, metric_named

#: Public name -> the module that holds it; imported when first asked for.
_PUBLIC = {
    "BASELINES": "perturbing",
    "Curves": "faithful",
    "Decay": "randomising",
    "Evaluation": "evaluating",
    "EvaluationError": "errors",
    "METRICS": "table",
    "Metric": "table",
    "baseline_values": "perturbing",
    "bounds_of": "evaluating",
    "completeness": "balance",
    "complexity": "simple",
    "evaluate": "evaluating",
    "faithfulness_correlation": "faithful",
    "local_lipschitz": "robust",
    "max_sensitivity": "robust",
    "metric_named": "table",
    "mprt": "randomising",
    "pixel_flipping": "faithful",
    "plot": "picture",
    "randomise": "randomising",
    "scores_of": "predicting",
    "spearman": "randomising",
    "sparseness": "simple",
    "sufficiency": "faithful",
}

__all__ = [
    "BASELINES",
    "METRICS",
    "Curves",
    "Decay",
    "Evaluation",
    "EvaluationError",
    "Metric",
    "baseline_values",
    "bounds_of",
    "completeness",
    "complexity",
    "evaluate",
    "faithfulness_correlation",
    "local_lipschitz",
    "max_sensitivity",
    "metric_named",
    "mprt",
    "pixel_flipping",
    "plot",
    "randomise",
    "scores_of",
    "sparseness",
    "spearman",
    "sufficiency",
]

if not TYPE_CHECKING:  # a checker would take every name for one of ours
    __getattr__, __dir__ = names_of(__name__, _PUBLIC)
