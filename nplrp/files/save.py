"""Write an explanation's numbers to a file, .npz or .h5, all of it or nothing; `nplrp.files.saved` reads them back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nplrp.errors import OutputError, RuleError
from nplrp.files.atomic import atomic
from nplrp.ledger import SUMS
from nplrp.plan import Plan
from nplrp.rules.recorded import rule_facts
from nplrp.scores import scoring_of
from nplrp.span import INPUT

if TYPE_CHECKING:
    from nplrp.explanation import Explanation

SUFFIXES = (".npz", ".h5")
#: What an .h5 begins with (`nplrp.files.sealed`).
KIND, VERSION = "nplrp-explanation", 1


def save(explanation: Explanation, path: str | os.PathLike[str], layers: bool = False, ledger: bool = False) -> None:
    """Write an explanation's arrays under their names, with what they were computed from as JSON under ``about``.

    Parameters
    ----------
    explanation : Explanation
    path : path
        Ending in .npz (NumPy) or .h5 (HDF5).
    layers : bool
        Also write every layer's activation and relevance, as ``activations/<layer>`` and ``relevances/<layer>``. In .h5 a slash in a
        layer's name is written as ``%2F`` (and ``%`` as ``%25``), as in golden files: there it would begin a group.
    ledger : bool
        Also write the ledger: each sum as ``ledger/<sum>``, [layers, maps].

    Raises
    ------
    OutputError
        If the suffix is unknown or the file can't be written; a file that was there before stays as it was.
    RuleError
        If the ledger is asked for of a gradient, which has none.
    """
    path = Path(path)
    check_suffix(path)
    arrays = {"x": explanation.x, "relevance": explanation.relevance, "output": explanation.output, "logits": explanation.logits}
    arrays["images"] = explanation.images
    if explanation.targets is not None:
        arrays["targets"] = explanation.targets
    if not isinstance(explanation.start, str):
        arrays["start"] = explanation.start
    written: Callable[[str], str] = str
    if path.suffix == ".h5":
        from nplrp.files.hdf5 import path_name as written
    arrays |= {f"masks/{written(name)}": mask for name, mask in _masks(explanation).items()}
    if layers:
        arrays |= {f"activations/{written(name)}": array for name, array in explanation.activations.items()}
        arrays |= {f"relevances/{written(name)}": array for name, array in explanation.relevances.items()}
    facts = about(explanation) | {"recorded": _recorded(explanation.plan), "classes": explanation.model.classes}
    if ledger:
        book = explanation.ledger
        facts["ledger"] = [{"layer": e.layer, "rule": e.rule, "edges": list(e.edges)} for e in book.entries]
        arrays |= {f"ledger/{term}": np.stack([getattr(e, term) for e in book.entries]) for term in SUMS}
        arrays["ledger/edges"] = np.stack([edge for e in book.entries for edge in e.edges.values()])
    note = json.dumps(facts)  # the rules stay in the order of the layers
    if path.suffix == ".npz":
        with atomic(path) as temporary, temporary.open("wb") as content:
            np.savez(content, about=np.array(note), **arrays)  # type: ignore[arg-type]
        return
    from nplrp.files.sealed import sealed_hdf5

    with sealed_hdf5(path, KIND, VERSION, track_order=True) as file:
        file.attrs["about"] = note
        for name, array in arrays.items():
            file.create_dataset(name, data=array)


def _masks(explanation: Explanation) -> dict[str, np.ndarray]:
    steps = explanation.plan.steps
    return {INPUT if i < 0 else steps[i].name: mask for i, mask in explanation.span.masks.items()}


def about(explanation: Explanation) -> dict[str, Any]:
    """Return what an explanation was computed from, as JSON values: model, rules, numerics."""
    from nplrp import __version__

    plan, model, span = explanation.plan, explanation.model, explanation.span
    scoring = scoring_of(model)
    return {
        "generator": f"nplrp {__version__}",
        "model": model.name,
        "weights_sha256": model.content_hash,
        "composite": plan.composite.name,
        "dialect": plan.dialect.name,
        "preprocessing": vars(model.preprocessing),
        "input_shape": list(model.input_shape),
        "scores": scoring.what,
        "scoring": {"function": scoring.function, "shape": list(scoring.shape)},
        "start": explanation.start if isinstance(explanation.start, str) else "given",
        "begins_with": explanation.begins_with or None,
        "at": None if span.top == len(plan.steps) - 1 else plan.steps[span.top].name if span.top >= 0 else INPUT,
        "relevance_of": explanation.layer,
        "rules": {step.name: str(rule) for step, rule in zip(plan.steps, plan.rules, strict=True)},
        "dtype": plan.dtype.name,
        "algorithm": plan.algorithm,
        "merge": plan.merge,
        "layout": "NHWC",
    }


def _recorded(plan: Plan) -> dict[str, Any] | None:
    """Return the rules with every constant, to make the plan again should the preset have changed; None if they can't be written down."""
    try:
        rules = [[step.name, rule_facts(rule)] for step, rule in zip(plan.steps, plan.rules, strict=True)]
    except RuleError:
        return None
    return {"rules": rules, "slopes": plan.composite.slopes, "stand_ins": plan.dialect.stand_ins, "gradient": plan.composite.gradient}


def check_suffix(path: Path) -> None:
    """Refuse a file name whose format is unknown.

    Raises
    ------
    OutputError
    """
    if path.suffix not in SUFFIXES:
        raise OutputError(f"{path}: results are saved as {' or '.join(SUFFIXES)}; give a name that ends so")
