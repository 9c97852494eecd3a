"""What Quantus is run on: a small network, inputs, maps and settings, for `tests/peers/run_quantus.py` and the tests that compare."""

import numpy as np

import nplrp
from tests.networks import small_vgg

COMPOSITE = "epsilon(epsilon=0.01)"
#: Name -> Quantus's class, the model it runs (the port in torch, or ours by the adapter), its arguments, those of the call, NumPy's seed.
CASES = {
    "pixel_flipping": ("PixelFlipping", "port", {"features_in_step": 16}, {}, 0),
    "pixel_flipping mean": ("PixelFlipping", "port", {"features_in_step": 32, "perturb_baseline": "mean"}, {}, 0),
    "pixel_flipping uniform": ("PixelFlipping", "port", {"features_in_step": 32, "perturb_baseline": "uniform"}, {}, 3),
    "pixel_flipping auc": ("PixelFlipping", "port", {"features_in_step": 64, "return_auc_per_sample": True}, {}, 0),
    "pixel_flipping zero": ("PixelFlipping", "port", {"features_in_step": 64, "perturb_baseline": 0.0}, {"softmax": False}, 0),
    "region_perturbation": ("RegionPerturbation", "port", {"patch_size": 4}, {}, 0),
    "region_perturbation lerf": ("RegionPerturbation", "port", {"patch_size": 5, "order": "lerf", "regions_evaluation": 10}, {}, 0),
    "region_perturbation random": ("RegionPerturbation", "port", {"patch_size": 8, "order": "random"}, {}, 7),
    "region_perturbation mean": ("RegionPerturbation", "port", {"patch_size": 5, "perturb_baseline": "mean"}, {}, 0),
    "faithfulness_correlation": (
        "FaithfulnessCorrelation",
        "port",
        {"nr_runs": 20, "subset_size": 50, "return_aggregate": False},
        {"softmax": False},
        11,
    ),
    "sufficiency": ("Sufficiency", "port", {"threshold": 0.9}, {}, 0),
    "sparseness": ("Sparseness", "port", {}, {}, 0),
    "complexity": ("Complexity", "port", {}, {}, 0),
    "local_lipschitz": ("LocalLipschitzEstimate", "adapter", {"nr_samples": 4}, {}, 5),
    "max_sensitivity": ("MaxSensitivity", "adapter", {"nr_samples": 4}, {}, 6),
    "mprt": ("MPRT", "adapter", {}, {}, 0),
    "mprt independent": ("MPRT", "adapter", {"layer_order": "independent"}, {}, 0),
}


def model():
    return small_vgg(size=16, seed=7, biases=0.1)


def inputs():
    """Return x [6, 16, 16, 3] float32, targets [6] and maps [6, 16, 16, 3] float64 by a rule with an epsilon."""
    x = np.random.default_rng(4).normal(size=(6, 16, 16, 3)).astype(np.float32)
    explanation = nplrp.explain(model(), x, COMPOSITE, start="logit", dtype="float64")
    return x, explanation.targets, explanation.relevance
