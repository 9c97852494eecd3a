"""Write an explanation's numbers to a file, .npz or .h5, all of it or nothing; carry on from such a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from nplrp.errors import ModelError, OutputError, RuleError
from nplrp.explanation import Explanation, explain
from nplrp.files.atomic import atomic
from nplrp.model import Model
from nplrp.rules.composites import Composite, composite_named
from nplrp.scores import scoring_of
from nplrp.span import INPUT

SUFFIXES = (".npz", ".h5")


def save(explanation: Explanation, path: str | os.PathLike[str], layers: bool = False) -> None:
    """Write an explanation's arrays under their names, with what they were computed from as JSON under ``about``.

    Parameters
    ----------
    explanation : Explanation
    path : path
        Ending in .npz (NumPy) or .h5 (HDF5).
    layers : bool
        Also write every layer's activation and relevance, as ``activations/<layer>`` and ``relevances/<layer>``. In .h5 a slash in a
        layer's name is written as ``%2F`` (and ``%`` as ``%25``), as in golden files: there it would begin a group.

    Raises
    ------
    OutputError
        If the suffix is unknown or the file can't be written; a file that was there before stays as it was.
    """
    path = Path(path)
    check_suffix(path)
    arrays = {"x": explanation.x, "relevance": explanation.relevance, "output": explanation.output, "logits": explanation.logits}
    arrays["images"] = explanation.images
    if explanation.targets is not None:
        arrays["targets"] = explanation.targets
    written: Callable[[str], str] = str
    if path.suffix == ".h5":
        from nplrp.files.hdf5 import path_name as written
    if layers:
        arrays |= {f"activations/{written(name)}": array for name, array in explanation.activations.items()}
        arrays |= {f"relevances/{written(name)}": array for name, array in explanation.relevances.items()}
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
        "preprocessing": vars(plan.model.preprocessing),
        "input_shape": list(plan.model.input_shape),
        "scores": scoring_of(plan.model).what,
        "start": explanation.start if isinstance(explanation.start, str) else "given",
        "begins_with": explanation.begins_with or None,
        "relevance_of": explanation.layer,
        "rules": {step.name: str(rule) for step, rule in zip(plan.steps, plan.rules, strict=True)},
        "dtype": plan.dtype.name,
        "algorithm": plan.algorithm,
        "layout": "NHWC",
    }


def resume(
    path: str | os.PathLike[str],
    model: Model,
    composite: str | Composite | None = None,
    until: str | None = None,
    masks: Mapping[str, Any] | None = None,
) -> Explanation:
    """Carry on a pass that ended at a layer inside and was saved: same image, rules and numerics, with the bits of an unbroken pass.

    Parameters
    ----------
    path : path
        Written by `save`.
    model : Model
        The one that the pass ran on.
    composite : str, Composite or None
        None is the file's, which must be a preset.
    until, masks
        As for `nplrp.explain`.

    Returns
    -------
    Explanation

    Raises
    ------
    OutputError
        If the file can't be read, or isn't one of `save`.
    ModelError
        If it was computed with other weights, or the pass is already at the input.
    RuleError
        If its composite is no preset, and none is given.
    """
    path = Path(path)
    check_suffix(path)
    try:
        note, x, relevance, image = _read(path)
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise OutputError(f"{path}: is not an explanation that nplrp saved: {error}; save it again with nplrp.files.save.save") from None
    if note["weights_sha256"] != model.content_hash:
        raise ModelError(f"{path}: was computed with other weights than those of {model.name} (SHA-256 {note['weights_sha256'][:12]}...)")
    layer = note["relevance_of"]
    if layer == INPUT:
        raise ModelError(f"{path}: its pass is already at the model's input; there is nothing to carry on")
    if composite is None:
        try:
            composite = composite_named(note["composite"])
        except RuleError:
            raise RuleError(f"{path}: its composite {note['composite']!r} is no preset; give the composite itself") from None
    return explain(
        model,
        x[image],
        composite,
        dtype=note["dtype"],
        algorithm=note["algorithm"],
        dialect=note["dialect"],
        start=relevance,
        at=layer,
        until=until,
        masks=masks,
    )


def _read(path: Path) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray]:
    """Return (about, x, relevance, the image of each map)."""
    names = ("x", "relevance", "images")
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return json.loads(str(file["about"])), *(file[name] for name in names)
    import h5py

    with h5py.File(path) as file:
        return json.loads(file.attrs["about"]), *(file[name][...] for name in names)


def check_suffix(path: Path) -> None:
    """Refuse a file name whose format is unknown.

    Raises
    ------
    OutputError
    """
    if path.suffix not in SUFFIXES:
        raise OutputError(f"{path}: results are saved as {' or '.join(SUFFIXES)}; give a name that ends so")
