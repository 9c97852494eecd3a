"""What both sides of `evaluate` are asked: the same images, maps, targets and settings. Needs NumPy and nothing else."""

import numpy as np
from protocol import SEED, images

#: Settings of each job, by Quantus's names.
JOBS = {
    "region perturbation": {"patch_size": 16, "regions_evaluation": 30},
    "pixel flipping": {"features_in_step": 12544},
    "faithfulness correlation of 3 maps": {"nr_runs": 6, "subset_size": 4704},
    "max-sensitivity": {"nr_samples": 2, "lower_bound": 0.2},
    "local Lipschitz": {"nr_samples": 2, "perturb_std": 0.1},
    "sparseness and complexity": {},
    "randomisation": {"seed": 42},
}
#: Images of each job.
BATCHES = {"randomisation": 1, "sparseness and complexity": 16}
BATCH = 2
#: Seed of what Quantus draws.
DRAWS = 5


def given(batch, maps=1):
    """Return images [n, 224, 224, 3], targets [n] and `maps` seeded maps of the images' shape."""
    rng = np.random.default_rng(SEED + 2)
    drawn = [rng.standard_normal((batch, 224, 224, 3)).astype(np.float32) for _ in range(maps)]
    return images(batch), rng.integers(0, 1000, batch), drawn
