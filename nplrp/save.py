"""Write an explanation's numbers to a file, .npz or .h5: all of it or nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from nplrp.atomic import atomic
from nplrp.errors import OutputError
from nplrp.lrp import Explanation

SUFFIXES = (".npz", ".h5")


def save(explanation: Explanation, path: str | os.PathLike[str], layers: bool = False) -> None:
    """Write an explanation's arrays under their names, with what they were computed from as JSON under ``about``.

    Parameters
    ----------
    explanation : Explanation
    path : path
        Ending in .npz (NumPy) or .h5 (HDF5).
    layers : bool
        Also write every layer's activation and relevance, as ``activations/<layer>`` and ``relevances/<layer>``.

    Raises
    ------
    OutputError
        If the suffix is unknown or the file can't be written; a file that was there before stays as it was.
    """
    path = Path(path)
    check_suffix(path)
    arrays = {"x": explanation.x, "relevance": explanation.relevance, "output": explanation.output, "logits": explanation.logits}
    if explanation.targets is not None:
        arrays["targets"] = explanation.targets
    if layers:
        arrays |= {f"activations/{name}": array for name, array in explanation.activations.items()}
        arrays |= {f"relevances/{name}": array for name, array in explanation.relevances.items()}
    note = json.dumps(about(explanation), sort_keys=True)
    with atomic(path) as temporary:
        if path.suffix == ".npz":
            with temporary.open("wb") as file:
                np.savez(file, about=np.array(note), **arrays)  # type: ignore[arg-type]
        else:
            import h5py

            with h5py.File(temporary, "w", track_order=True) as file:
                file.attrs["about"] = note
                for name, array in arrays.items():
                    file.create_dataset(name, data=array)


def about(explanation: Explanation) -> dict[str, Any]:
    """Return what an explanation was computed from, as JSON values: model, rules, numerics."""
    from nplrp import __version__

    plan = explanation.plan
    return {
        "generator": f"nplrp {__version__}",
        "model": plan.model.name,
        "weights_sha256": plan.model.content_hash,
        "composite": plan.composite.name,
        "dialect": plan.dialect.name,
        "start": explanation.start if isinstance(explanation.start, str) else "given",
        "relevance_of": explanation.layer,
        "rules": {step.name: str(rule) for step, rule in zip(plan.steps, plan.rules, strict=True)},
        "dtype": plan.dtype.name,
        "algorithm": plan.algorithm,
        "layout": "NHWC",
    }


def check_suffix(path: Path) -> None:
    """Refuse a file name whose format is unknown.

    Raises
    ------
    OutputError
    """
    if path.suffix not in SUFFIXES:
        raise OutputError(f"{path}: results are saved as {' or '.join(SUFFIXES)}; give a name that ends so")
