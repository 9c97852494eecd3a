"""What the lane computes: the library, called for batches of requests, and its results cut up again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nplrp import lrp
from nplrp.errors import NplrpError
from nplrp.model import Model
from nplrp.save import about
from nplrp.serve.bodies import Inputs
from nplrp.serve.lane import Job, Overdue
from nplrp.serve.wanted import Wanted
from nplrp.span import INPUT
from nplrp.targets import Label


@dataclass(frozen=True, eq=False)
class Map:
    """One relevance map.

    Attributes
    ----------
    instance : int
    target : Label or None
        None: all outputs at once.
    relevance : mapping of str to ndarray
        By layer, without the batch axis; always with the input's.
    ledger : list of dict or None
        None if it wasn't asked for, or for a gradient.
    alarms : list of str
        What the ledger warns of.
    """

    instance: int
    target: Label | None
    relevance: Mapping[str, np.ndarray]
    ledger: list[dict[str, Any]] | None
    alarms: list[str]


@dataclass(frozen=True, eq=False)
class Result:
    """What a request is answered with.

    Attributes
    ----------
    predictions : list of list of Label
        For each instance.
    maps : list of Map
        Of `:explain`.
    provenance : dict
        What it was computed from, as JSON values.
    """

    predictions: list[list[Label]]
    maps: list[Map]
    provenance: dict[str, Any]


class Engine:
    """Computes predictions and explanations with one model; for one thread.

    Parameters
    ----------
    model : Model
    max_prepared : int
        Bytes of weights prepared for rules that are kept.
    """

    def __init__(self, model: Model, max_prepared: int = 1 << 30) -> None:
        self.model = model
        self._max_prepared = max_prepared

    def compute(self, jobs: Sequence[Job]) -> list[Any]:
        """Return for each job, all of one kind, its `Result` or an exception. A job's payload is (verb, Inputs)."""
        results = [self._one(job) for job in jobs]
        self._forget()
        return results

    def _one(self, job: Job) -> Result | BaseException:
        verb, inputs = job.payload
        try:
            parts = []
            for i in range(len(inputs.x)):
                if not job.wanted():
                    raise Overdue
                parts.append(self.predict(inputs, i) if verb == "predict" else self.explain(inputs, i))
        except (NplrpError, Overdue, MemoryError) as error:
            return error
        return Result([part.predictions[0] for part in parts], [each for part in parts for each in part.maps], parts[0].provenance)

    def predict(self, inputs: Inputs, i: int) -> Result:
        """Predict one instance."""
        wanted = inputs.wanted
        labels = lrp.predict(self.model, inputs.x[i : i + 1], wanted.top, wanted.dtype, wanted.algorithm)
        return Result(labels, [], {})

    def explain(self, inputs: Inputs, i: int) -> Result:
        """Explain one instance."""
        wanted = inputs.wanted
        e = lrp.explain(
            self.model,
            inputs.x[i : i + 1],
            wanted.composite,
            wanted.target_of(i),
            wanted.dtype,
            wanted.algorithm,
            dialect=wanted.dialect,
            start=wanted.start,
        )
        return Result(e.labels(wanted.top), [self._map(e, m, i, wanted) for m in range(len(e.relevance))], about(e))

    def _map(self, e: lrp.Explanation, m: int, i: int, wanted: Wanted) -> Map:
        inside = [name for name in wanted.layers if name != INPUT]
        relevance = {INPUT: e.relevance[m]} | {name: e.relevances[name][m] for name in inside}
        ledger, alarms = None, []
        if wanted.ledger and not e.plan.composite.gradient:
            book = e._record[1].image(m)
            ledger, alarms = book.as_rows(), book.alarms()
        return Map(i, None if e.targets is None else e.target_labels()[m], relevance, ledger, alarms)

    def _forget(self) -> None:
        """Drop prepared weights when clients' own parameters have made too many of them."""
