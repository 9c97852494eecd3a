"""Where Quantus 0.6 is wrong or depends on its batch, on cases worked by hand (docs/evaluate.md): python run_quantus_cases.py OUT.json"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import quantus
import torch

QUIET = {"disable_warnings": True, "display_progressbar": False}


class Linear(torch.nn.Module):
    """Two classes of vectors: 0, and 3 x_0 - x_1."""

    def forward(self, x):
        score = x.double() @ torch.tensor([3.0, -1.0], dtype=torch.float64)
        return torch.stack([torch.zeros_like(score), score], dim=1)


def main(target):
    warnings.simplefilter("ignore")
    model, x, y = Linear().eval(), np.array([[1.0, 2.0]]), np.array([1])
    found = {}
    complete = np.array([[3.0, -2.0]])  # x * w: 3 - 2 = f(x) - f(0)
    for name, options in (("default", {}), ("as it is", {"normalise": False})):
        metric = quantus.Completeness(perturb_baseline=0.0, **options, **QUIET)
        found[f"completeness {name}"] = bool(metric(model, x, y, complete.copy())[0])
    rounded = quantus.Completeness(perturb_baseline=0.0, normalise=False, **QUIET)
    found["completeness rounded"] = bool(rounded(model, np.array([[0.1, 0.0]]), y, np.array([[0.3, 0.0]]))[0])

    small = np.array([[0.0, 0.0, 0.0, 1e-6]])
    both = np.concatenate([small, [[0.0, 0.0, 1.0, 1.0]]])
    sparse = quantus.Sparseness(**QUIET)
    found["sparseness alone"] = float(sparse(None, np.ones((1, 4)), y, small.copy())[0])
    found["sparseness in company"] = float(sparse(None, np.ones((2, 4)), np.array([1, 1]), both.copy())[0])

    maps = np.array([[1.0, 0.0], [10.0, 0.0]])

    def constant(model, inputs, targets, **_):  # a map that doesn't depend on the input: maps[0] for class 0, maps[1] for class 1
        return maps[targets].copy()

    for size in (1, 2):
        metric = quantus.LocalLipschitzEstimate(nr_samples=1, **QUIET)
        np.random.seed(0)
        scores = metric(model, np.ones((2, 2)), np.array([0, 1]), maps.copy(), explain_func=constant, batch_size=size)
        found[f"lipschitz in batches of {size}"] = [float(each) for each in scores]

    class Classes(torch.nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0] < 1.5, x[:, 0] > 1.5], dim=1).double()

    four = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [10.0, 0.0]])  # the second pixel has no relevance in any map
    found["sufficiency"] = [
        float(each) for each in quantus.Sufficiency(**QUIET)(Classes().eval(), four, np.array([0, 0, 1, 1]), four.copy())
    ]

    def quarter(x):
        return np.full((len(x), 2), 0.25)

    class Constant(torch.nn.Module):
        def forward(self, x):
            return torch.from_numpy(quarter(x))

    eight = np.arange(8.0)[None, None]
    np.trapz = getattr(np, "trapz", None) or np.trapezoid
    for features in (2, 1):
        metric = quantus.PixelFlipping(features_in_step=features, return_auc_per_sample=True, **QUIET)
        found[f"auc in steps of {features}"] = float(metric(Constant().eval(), eight, y, eight.copy(), softmax=False)[0])

    three = np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
    try:
        found["spearman"] = len(quantus.similarity_func.correlation_spearman(three, three[:, ::-1].copy(), batched=True))
    except AttributeError as error:
        found["spearman"] = str(error)
    Path(target).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
