"""Every metric of Quantus 0.6 on a model of ours, by the adapter, without changing Quantus: python run_quantus_metrics.py OUT.json

OUT: metric -> [null or the error, how many scores]. Run with PYTHONPATH at nplrp's root.
"""

import inspect
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import quantus

from nplrp.evaluate.quantus_adapter import QuantusModel, channels_first, explain_func, impute_pixels, replace_by_mask
from tests.evaluate.cases import COMPOSITE, inputs, model

#: Arguments of all metrics that have them, to be quick and to fit a 16 x 16 picture of three channels.
COMMON = {"nr_samples": 3, "features_in_step": 32, "k": 20, "num_classes": 5, "disable_warnings": True, "display_progressbar": False}
#: What else a metric needs: Quantus's defaults are for other sizes, or for one channel.
OWN = {
    "FaithfulnessCorrelation": {"nr_runs": 5, "subset_size": 50},
    "IROF": {"segmentation_method": "slic", "perturb_func": replace_by_mask},
    "Infidelity": {"perturb_patch_sizes": [4], "n_perturb_samples": 3},
    "NonSensitivity": {"features_in_step": 1},
    "ROAD": {"perturb_func": impute_pixels, "percentages": [10, 50]},
    "RegionPerturbation": {"patch_size": 4},
    "Selectivity": {"patch_size": 4},
}


def main(target):
    warnings.simplefilter("ignore")
    x, targets, _ = inputs()
    masks = np.zeros((len(x), 1, 16, 16))
    masks[:, :, 3:9, 4:10] = 1
    network, found = QuantusModel(model()), {}
    for family, metrics in quantus.AVAILABLE_METRICS.items():
        for metric in metrics.values():
            takes = inspect.signature(metric.__init__).parameters
            options = {key: value for key, value in COMMON.items() if key in takes} | OWN.get(metric.__name__, {})
            features = "pixels" if family == "Localisation" else "values"
            how = {"explain_func": explain_func, "explain_func_kwargs": {"composite": COMPOSITE, "features": features}}
            call = {"s_batch": masks, "device": "cpu", **how}
            if metric.__name__ == "Focus":
                call["custom_batch"] = [(0, 1, 0, 1)] * len(x)
            np.random.seed(0)
            try:
                scores = metric(**options)(model=network, x_batch=channels_first(x), y_batch=targets, a_batch=None, **call)
                found[metric.__name__] = [None, len(scores)]
            except Exception as error:
                found[metric.__name__] = [f"{type(error).__name__}: {' '.join(str(error).split())[:150]}", 0]
    Path(target).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
