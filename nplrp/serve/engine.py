"""What the lane computes: the library, called for several requests at once, and its results cut up again.

The library's results don't depend on what else is in a batch, so neither do the answers.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nplrp import explanation, outputs
from nplrp.errors import InputWarning, NplrpError
from nplrp.files.save import about
from nplrp.layers import Step
from nplrp.model import Model
from nplrp.preprocessing import suspicion
from nplrp.serve.bodies import Inputs
from nplrp.serve.lane import Job, Overdue
from nplrp.serve.wanted import Wanted
from nplrp.span import INPUT
from nplrp.targets import Label, naming_of

#: Plans that are kept; clients may make any number of them with parameters of their own.
_PLANS = 200


@dataclass(frozen=True, eq=False)
class Map:
    """One relevance map.

    Attributes
    ----------
    target : Label or None
        None: all outputs at once.
    relevance : mapping of str to ndarray
        By layer, without the batch axis; always with the input's.
    ledger : list of dict or None
        None if it wasn't asked for, or for a gradient.
    alarms : list of str
        What the ledger warns of, and what makes the input doubtful.
    """

    target: Label | None
    relevance: Mapping[str, np.ndarray]
    ledger: list[dict[str, Any]] | None
    alarms: list[str]


@dataclass(frozen=True, eq=False)
class Instance:
    """What was computed of one instance: its labels, what makes it doubtful, and of `:explain` its maps and what they were made from."""

    labels: list[Label]
    maps: list[Map] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)


#: For each instance of a request.
Result = list[Instance]


class Engine:
    """Computes predictions and explanations with one model; for one thread.

    Parameters
    ----------
    model : Model
    batch : int
        Images that are computed together.
    max_prepared : int
        Bytes of weights prepared for rules that are kept; at most half of them for speed alone.
    """

    def __init__(self, model: Model, batch: int = 1, max_prepared: int = 1 << 30) -> None:
        self.model = model
        self._batch, self._max_prepared = batch, max_prepared
        model.kept.room.size = min(model.room, max_prepared // 2)

    @staticmethod
    def kind(verb: str, wanted: Wanted) -> Hashable:
        """Return what must be equal for requests to be computed together."""
        if verb == "predict":
            return (verb, wanted.dtype, wanted.algorithm, wanted.top)
        target = wanted.target if wanted.target is None or isinstance(wanted.target, str) else "given"
        rules = (wanted.composite, wanted.dialect, wanted.start, target)
        return (verb, *rules, wanted.dtype, wanted.algorithm, wanted.layers, wanted.ledger, wanted.top)

    def compute(self, jobs: Sequence[Job]) -> list[Result | Exception]:
        """Return for each job, all of one kind, its result or an error. A job's payload is (verb, Inputs)."""
        results: list[Result | Exception] = [[] for _ in jobs]
        images = [(j, i) for j, job in enumerate(jobs) for i in range(len(job.payload[1].x))]
        for begin in range(0, len(images), self._batch):
            chosen = images[begin : begin + self._batch]
            for j in {j for j, _ in chosen}:
                if isinstance(results[j], list) and not jobs[j].wanted():
                    results[j] = Overdue()
            chosen = [(j, i) for j, i in chosen if isinstance(results[j], list)]
            for j, instance in zip((j for j, _ in chosen), self._compute(jobs, chosen), strict=True):
                kept = results[j]
                if isinstance(instance, Exception):
                    results[j] = instance
                elif isinstance(kept, list):
                    kept.append(instance)
        self._forget()
        return results

    def _compute(self, jobs: Sequence[Job], chosen: Sequence[tuple[int, int]]) -> Sequence[Instance | Exception]:
        """Compute some images (job, instance); if something is wrong, each alone, so that only its owner hears of it."""
        if not chosen:
            return []
        verb = jobs[chosen[0][0]].payload[0]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", InputWarning)  # it stands in the answer
                return (self._predict if verb == "predict" else self._explain)(
                    [jobs[j].payload[1] for j, _ in chosen], [i for _, i in chosen]
                )
        except (NplrpError, MemoryError) as error:
            if len(chosen) == 1:
                return [error]
        return [self._compute(jobs, [each])[0] for each in chosen]

    def _predict(self, inputs: Sequence[Inputs], places: Sequence[int]) -> list[Instance]:
        wanted = inputs[0].wanted
        x = _stacked(inputs, places)
        labels = self._labels(outputs.predict(self.model, x, wanted.dtype, wanted.algorithm), wanted.top)
        return [Instance(each, doubts=self._doubts(x[i])) for i, each in enumerate(labels)]

    def _labels(self, output: np.ndarray, top: int) -> list[list[Label]]:
        """Return each image's outputs with the largest scores, from the model's output [n, *output_shape]; of maps they are positions."""
        naming = naming_of(self.model)
        return [naming.foremost(scores, top) for scores in naming.scoring.scores(output)]

    def _asked(self, targets: Sequence[int | str | None]) -> Any:
        """Return the images' targets as `nplrp.explain` takes them: a word for all, or each one's output, of maps its position."""
        shape, numbers = self.model.output_shape, [target for target in targets if isinstance(target, int)]
        if not numbers:
            return targets[0]
        return numbers if len(shape) == 1 else [tuple(map(int, np.unravel_index(number, shape))) for number in numbers]

    def _doubts(self, image: np.ndarray) -> list[str]:
        """Return what makes an image doubtful; pictures that the server has prepared itself never are."""
        doubt = suspicion(image[None], self.model.preprocessing.mode)
        return [doubt] if doubt else []

    def _explain(self, inputs: Sequence[Inputs], places: Sequence[int]) -> list[Instance]:
        wanted = inputs[0].wanted
        targets = [each.wanted.target_of(i) for each, i in zip(inputs, places, strict=True)]
        e = explanation.explain(
            self.model,
            _stacked(inputs, places),
            wanted.composite,
            self._asked(targets),
            wanted.dtype,
            wanted.algorithm,
            dialect=wanted.dialect,
            start=wanted.start,
        )
        labels, note = self._labels(e.output, wanted.top), about(e)
        maps = self._maps(e, wanted)
        count = len(maps) // len(labels)
        return [Instance(labels[i], maps[i * count : (i + 1) * count], note) for i in range(len(labels))]

    def _maps(self, e: explanation.Explanation, wanted: Wanted) -> list[Map]:
        inside = {name: e.relevances[name] for name in wanted.layers if name != INPUT}
        book = e.books if wanted.ledger and not e.plan.composite.gradient else None  # `ledger` would warn; we say it in the answer
        chosen = [None] * len(e.relevance) if e.targets is None else e.target_labels()
        maps = []
        for m, R in enumerate(e.relevance):
            ledger = None if book is None else book.image(m)
            rows, alarms = (None, []) if ledger is None else (ledger.as_rows(), ledger.alarms())
            if not R.any():
                alarms = [*alarms, f"{e.plan.composite.name}: the map is 0 everywhere: {explanation.NOTHING}"]
            alarms = [*alarms, *self._doubts(e.x[e.images[m]])]
            maps.append(Map(chosen[m], {INPUT: R.copy()} | {name: each[m].copy() for name, each in inside.items()}, rows, alarms))
        return maps

    def _forget(self) -> None:
        """Drop plans and prepared weights when there are too many; what is used again is prepared again."""
        plans = self.model.kept.plans
        if len(plans) > _PLANS or self.prepared_bytes() > self._max_prepared:
            plans.clear()
            for step in self._steps():
                step.prepared.clear()
            for workspace in list(self.model.kept.workspaces):
                workspace.replays.clear()  # which hold such weights

    def prepared_bytes(self) -> int:
        """Return how much memory the weights prepared for rules take."""
        return sum(_size(value) for step in self._steps() for value in step.prepared.values())

    def _steps(self) -> list[Step]:
        tuples = {id(steps): steps for steps in self.model.kept.steps.values()}  # with nothing to merge, two names for the same
        return [step for steps in tuples.values() for step in steps]


def _stacked(inputs: Sequence[Inputs], places: Sequence[int]) -> np.ndarray:
    return np.stack([each.x[i] for each, i in zip(inputs, places, strict=True)])


def _size(prepared: Any) -> int:
    """Return the bytes of one prepared thing: a matrix, or a convolution's packed weights."""
    if isinstance(prepared, np.ndarray):
        return prepared.nbytes
    return prepared.weights.blocks.nbytes if hasattr(prepared, "weights") else 0
