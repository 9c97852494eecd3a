"""Runs nplrp's evaluation for the coordinator, with Quantus's settings and draws."""

import json
import sys
from pathlib import Path

import numba
import numpy as np
from evaluating import DRAWS, JOBS, given
from protocol import Jobs, serve

import nplrp
from nplrp.evaluate import as_quantus, pixel_flipping, scores_of
from nplrp.evaluate.partial import Walk
from nplrp.evaluate.predicting import Once

COMPOSITE = "epsilon(epsilon=0.25)"


def main(network):
    """Serve jobs on the weight file that a network table is of."""
    model = nplrp.load(json.loads(Path(network).read_text("utf-8"))["file"])

    def predict(x):
        return scores_of(model, x, "logit")

    def explainer(model, targets):
        return lambda x: nplrp.explain(model, x, COMPOSITE, list(np.resize(targets, len(x))), dialect="zennit-0.5", start="logit").relevance

    def evaluate(what, batch):
        settings, (x, targets, maps) = JOBS[what], given(batch, 3 if "3 maps" in what else 1)
        explain = explainer(model, targets)

        def regions():
            how = {"patch": settings["patch_size"], "most": settings["regions_evaluation"], "step": 1, "baseline": "minimum"}
            found = pixel_flipping(predict, x, maps[0], targets, **how, walker=lambda patch: Walk(model, (patch, patch), "logit")).scores
            return found[:, :1] - found[:, 1:]

        def flipping():
            step = settings["features_in_step"]
            return pixel_flipping(predict, x, maps[0], targets, step=step, baseline="minimum").scores[:, 1:]

        def correlation():
            once = Once(predict)
            return np.stack([as_quantus.faithfulness_correlation(once, x, each, targets, **settings, seed=DRAWS) for each in maps])

        def sensitivity():
            return as_quantus.max_sensitivity(explain, x, explain(x), **settings, seed=DRAWS)

        def lipschitz():
            return as_quantus.local_lipschitz_estimate(explain, x, explain(x), **settings, seed=DRAWS)

        def simple():
            return np.stack([as_quantus.sparseness(maps[0]), as_quantus.complexity(maps[0])])

        def randomisation():
            maps = explain(x)
            return as_quantus.mprt(lambda changed: explainer(changed, targets)(x), model, maps, **settings).correlations

        names = (regions, flipping, correlation, sensitivity, lipschitz, simple, randomisation)
        return dict(zip(JOBS, names, strict=True))[what]

    jobs = Jobs({"evaluate": evaluate}, numba.set_num_threads)
    serve({"facts": lambda: {"nplrp": nplrp.__version__}, **jobs.commands()})


if __name__ == "__main__":
    main(*sys.argv[1:])
