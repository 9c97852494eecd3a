"""Read explanations back that were saved: to look at them, to compute with the model what wasn't saved, or to carry a pass on."""

from __future__ import annotations

import dataclasses
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from nplrp.errors import ModelError, NplrpError, OutputError, RuleError, WeightsError
from nplrp.explanation import Explanation, explain
from nplrp.files.plain import open_plain
from nplrp.files.save import KIND, VERSION, check_suffix
from nplrp.files.sealed import opened_sealed
from nplrp.ledger import SUMS, Entry, Ledger
from nplrp.model import Model
from nplrp.outputs import ByLayer
from nplrp.plan import Plan, make_plan
from nplrp.rules.composites import Composite, composite_named
from nplrp.rules.dialects import dialect_named
from nplrp.rules.recorded import composite_of
from nplrp.scores import Scoring
from nplrp.span import INPUT, find_span
from nplrp.targets import Label, Naming

if TYPE_CHECKING:
    from nplrp.drawing import Drawing
    from nplrp.shown import Facts

#: What a file that isn't ours, or is cut short, makes the readers raise.
_DAMAGE = (
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    EOFError,
    MemoryError,
    BadZipFile,
    zlib.error,
    WeightsError,
)


@dataclass(frozen=True, eq=False)
class SavedExplanation:
    """What was saved of an explanation, without its model; what it has in common with `Explanation` has the same name and shape.

    Attributes
    ----------
    about : dict
        What it was computed from, as JSON values.
    x, relevance, output, logits, targets, images
        As of an `Explanation`.
    start : str or ndarray
    masks : mapping of str to ndarray
        By layer.
    activations, relevances : mapping of str to ndarray
        By layer; empty unless they were saved (``layers=True``).
    """

    about: dict[str, Any] = field(repr=False)
    x: np.ndarray = field(repr=False)
    relevance: np.ndarray = field(repr=False)
    output: np.ndarray = field(repr=False)
    logits: np.ndarray = field(repr=False)
    targets: np.ndarray | None
    images: np.ndarray = field(repr=False)
    start: str | np.ndarray = field(repr=False)
    masks: Mapping[str, np.ndarray] = field(repr=False)
    activations: Mapping[str, np.ndarray] = field(repr=False)
    relevances: Mapping[str, np.ndarray] = field(repr=False)
    path: Path = field(repr=False)
    sums: Mapping[str, np.ndarray] = field(repr=False)

    @property
    def layer(self) -> str:
        """The layer whose relevance `relevance` is."""
        return str(self.about["relevance_of"])

    @property
    def begins_with(self) -> str:
        """What the pass began with, where the name of its start would mislead; else an empty text."""
        return self.about["begins_with"] or ""

    @cached_property
    def ledger(self) -> Ledger:
        """Where the relevance went.

        Raises
        ------
        OutputError
            If it wasn't saved.
        """
        if "ledger" not in self.about:
            raise OutputError(f"{self.path}: holds no ledger; save it with ledger=True, or give load_explanation the model as well")
        entries, edges = [], iter(self.sums["edges"])
        for i, row in enumerate(self.about["ledger"]):
            terms = {term: self.sums[term][i] for term in SUMS}
            entries.append(Entry(row["layer"], row["rule"], **terms, edges={name: next(edges) for name in row["edges"]}))
        return Ledger(tuple(entries))

    def labels(self, top: int = 5) -> list[list[Label]]:
        """Return for each image its `top` outputs with the largest scores."""
        return [self._naming.largest(scores, top) for scores in self._scores]

    def target_labels(self) -> list[Label]:
        """Return for each map the label of the output that was explained, or of the largest one where all were."""
        return self._naming.chosen(self._scores[self.images], self.targets)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.x)

    def plot(
        self,
        image: np.ndarray | None = None,
        *,
        title: str | None = None,
        cmap: str | None = None,
        clip: float = 99.5,
        overlay: bool = False,
    ) -> Drawing:
        """Draw each image beside its maps, as `Explanation.plot` does."""
        from nplrp.shown import plot

        return plot(self, image, title, cmap, clip, overlay)

    @property
    def facts(self) -> Facts:
        """How it was made, in a few words."""
        from nplrp.shown import Facts

        about = self.about
        return Facts(about["composite"], about["dialect"], about["model"], about["dtype"], about["preprocessing"]["mode"])

    def one_labels(self, i: int, top: int) -> list[Label]:
        """Return one image's `top` outputs with the largest scores."""
        return self._naming.largest(self._scores[i], top)

    def __repr__(self) -> str:
        from nplrp.shown import said

        return f"SavedExplanation({said(self)})"

    def _repr_html_(self) -> str:
        """Return what Jupyter shows: pictures, maps, labels, and where the relevance went if that was saved."""
        from nplrp.shown import html

        return html(self, self.ledger if "ledger" in self.about else None, "the file holds no ledger")

    def _repr_png_(self) -> bytes | None:
        from nplrp.shown import png

        return png(self)

    @property
    def _naming(self) -> Naming:
        facts, classes = self.about["scoring"], self.about["classes"]
        scoring = Scoring(facts["function"], tuple(facts["shape"]))
        return Naming(scoring, None if classes is None else tuple((id_, name) for id_, name in classes))

    @property
    def _scores(self) -> np.ndarray:
        return self._naming.scoring.scores(self.output)

    def with_model(self, model: Model, composite: str | Composite | Mapping[str, Any] | None = None) -> Explanation:
        """Return the explanation with its model, so that everything else can be computed: layers, ledger, with the bits of the first time.

        Parameters
        ----------
        model : Model
            The one that it was computed with.
        composite : str, Composite, mapping or None
            None is the file's.

        Raises
        ------
        ModelError
            If it was computed with other weights.
        RuleError
            If its composite has parts of somebody's own, and none is given.
        """
        plan = self._plan(model, composite)
        span = find_span(plan.steps, self.about["at"], None if self.layer == INPUT else self.layer, self.masks)
        e = Explanation(plan, self.x, self.targets, self.relevance, self.output, self.logits, self.start, span)
        kept = {name: found for name in ("activations", "relevances") if (found := getattr(self, name))}
        e.__dict__.update(kept | ({"books": self.ledger} if "ledger" in self.about else {}))  # where cached properties look first
        return e

    def _plan(self, model: Model, composite: str | Composite | Mapping[str, Any] | None) -> Plan:
        about, recorded = self.about, self.about["recorded"]
        if about["weights_sha256"] != model.content_hash:
            raise ModelError(
                f"{self.path}: was computed with other weights than those of {model.name} (SHA-256 {about['weights_sha256'][:12]}...)"
            )
        numerics = {"dtype": about["dtype"], "algorithm": about["algorithm"], "merge": about["merge"]}
        if composite is not None:
            return make_plan(model, composite, dialect=about["dialect"], **numerics)
        try:  # the preset by its name, if it is still what it was
            plan = make_plan(model, composite_named(about["composite"]), dialect=about["dialect"], **numerics)
            if {step.name: str(rule) for step, rule in zip(plan.steps, plan.rules, strict=True)} == about["rules"]:
                return plan
        except NplrpError:
            pass
        if recorded is None or recorded["gradient"]:
            raise RuleError(f"{self.path}: its composite {about['composite']!r} is no preset; give the composite itself")
        rebuilt = composite_of(about["composite"], recorded["rules"], None, recorded["slopes"])
        dialect = dataclasses.replace(dialect_named("nplrp"), name=about["dialect"], stand_ins=recorded["stand_ins"])
        return make_plan(model, rebuilt, dialect=dialect, **numerics)


def load_explanation(path: str | os.PathLike[str], model: Model | None = None) -> SavedExplanation | Explanation:
    """Read an explanation that was saved.

    Parameters
    ----------
    path : path
        Written by `Explanation.save`.
    model : Model or None
        The one that it was computed with, to get an `Explanation` that computes what wasn't saved; None: what the file holds.

    Returns
    -------
    SavedExplanation, or Explanation if there is a model

    Raises
    ------
    OutputError
        If the file can't be read, or is no explanation.
    ModelError
        If it was computed with other weights.
    """
    path = Path(path)
    check_suffix(path)
    try:
        found = _read(path)
    except FileNotFoundError:
        raise OutputError(f"{path}: there is no such file") from None
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise OutputError(f"{path}: is not an explanation that nplrp saved: {reason}; save it again with explanation.save") from None
    return found if model is None else found.with_model(model)


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
        Written by `Explanation.save`.
    model : Model
        The one that the pass ran on.
    composite : str, Composite or None
        None is the file's.
    until, masks
        As for `nplrp.explain`.

    Returns
    -------
    Explanation

    Raises
    ------
    OutputError
        If the file can't be read, or is no explanation.
    ModelError
        If it was computed with other weights, or the pass is already at the input.
    RuleError
        If its composite has parts of somebody's own, and none is given.
    """
    saved = load_explanation(path)
    assert isinstance(saved, SavedExplanation)
    plan = saved._plan(model, composite)
    if saved.layer == INPUT:
        raise ModelError(f"{path}: its pass is already at the model's input; there is nothing to carry on (load_explanation reads it)")
    return explain(
        model,
        saved.x[saved.images],
        plan.composite,
        dtype=plan.dtype,
        algorithm=plan.algorithm,
        dialect=plan.dialect,
        start=saved.relevance,
        at=saved.layer,
        until=until,
        masks=masks,
        merge=plan.merge,
    )


def _read(path: Path) -> SavedExplanation:
    if path.suffix == ".npz":
        with open_plain(path) as content, np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays.pop("about")))
    else:
        from nplrp.files import hdf5

        arrays = {}
        with opened_sealed(path, KIND, (VERSION,)) as (file, source):
            about = json.loads(hdf5.attribute(source, file, "about"))
            for name, dataset in hdf5.datasets(source, file).items():
                group_name, slash, layer = name.partition("/")
                arrays[group_name + slash + hdf5.layer_name(layer)] = hdf5.numbers(source, dataset)

    def group(name: str) -> ByLayer:
        return ByLayer({key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")})

    plain = {name: arrays[name] for name in ("x", "relevance", "output", "logits", "images")}
    start = arrays["start"] if about["start"] == "given" else about["start"]
    ordered = [INPUT, *about["rules"]]
    groups = {name: group(name) for name in ("masks", "activations", "relevances")}
    by_layer: dict[str, Any] = {name: ByLayer({key: found[key] for key in ordered if key in found}) for name, found in groups.items()}
    return SavedExplanation(about, **plain, targets=arrays.get("targets"), start=start, **by_layer, path=path, sums=group("ledger"))
