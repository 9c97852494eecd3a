"""How much a golden file could let through, or turn away: what tolerances hide, which seeded faults are caught, which right code isn't."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nplrp.golden.candidate import Candidate
from nplrp.golden.checking import check
from nplrp.golden.diagnosis import plan_of
from nplrp.golden.errors import GoldenError
from nplrp.golden.faults import FAULTS, SOFTMAX_START, Place, too_slow
from nplrp.golden.isolated import candidate_of, places_of
from nplrp.golden.judging import DIVERGED, REACH, SUSPECT, Judgement
from nplrp.golden.recording import check_recorded
from nplrp.golden.report import write_json
from nplrp.golden.values import Golden, Tensor
from nplrp.golden.whole_run import Progress, whole_run
from nplrp.lrp import step_back
from nplrp.model import Model
from nplrp.outputs import run
from nplrp.schema import versioned

#: Above this share of a layer's relevance its tolerance is called vacuous.
VACUOUS = 0.01


@dataclass(frozen=True)
class Vacuity:
    """What a layer's tolerance could hide.

    Attributes
    ----------
    layer : str
        Whose relevance it is.
    expected, certified : float
        sum min(|R|, tolerance) / sum |R| for either bound; the certified one counts what hangs on undecided choices.
    """

    layer: str
    expected: float
    certified: float

    @property
    def vacuous(self) -> bool:
        """Whether that is more than one per cent."""
        return self.certified > VACUOUS


@dataclass(frozen=True)
class Mutant:
    """A seeded fault in one layer, and what the comparison made of it.

    Attributes
    ----------
    number : int
    fault, layer, verdict : str
    ratio : float
        err/tol.
    undecided : int
        Elements beyond their bound that undecided choices could explain.
    same : bool
        The fault changes no bit here.
    rejected : bool
        Right code diverges here, too, so that a divergence tells nothing.
    """

    number: int
    fault: str
    layer: str
    verdict: str
    ratio: float
    undecided: int
    same: bool
    rejected: bool = False

    @property
    def caught(self) -> bool:
        """Whether it diverged, and because of the fault."""
        return self.verdict == DIVERGED and not self.same and not self.rejected

    @property
    def reason(self) -> str:
        """Why it wasn't caught."""
        if self.caught:
            return ""
        if self.same:
            return "changes nothing here"
        if self.rejected:
            return "diverges, as right code does here"
        if self.undecided:
            return f"{self.undecided} elements beyond the bound, but denominators without a sure sign could explain them"
        return "between expected and certified bound" if self.verdict == SUSPECT else "below the tolerance"


@dataclass(frozen=True)
class Rejection:
    """Right code that a tolerance turns away.

    Attributes
    ----------
    layer : str
        Whose relevance it is, or whose rule made it for several inputs.
    code : str
        Which right code.
    ratio : float
        err/tol.
    """

    layer: str
    code: str
    ratio: float

    def __str__(self) -> str:
        return f"{self.layer}: {self.code} is off by {self.ratio:.3g} tolerances"


@dataclass(frozen=True)
class Audit:
    """What an audit found; prints itself.

    Attributes
    ----------
    golden : str
    vacuities : tuple of Vacuity
    mutants : tuple of Mutant
        Empty without the model.
    rejections : tuple of Rejection
        Without the model only of runs from end to end.
    """

    golden: str
    vacuities: tuple[Vacuity, ...]
    mutants: tuple[Mutant, ...]
    rejections: tuple[Rejection, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no tolerance is vacuous, nor rejects right code. A fault that no layer shows may lie below rounding: read why."""
        return not self.rejections and not any(v.vacuous for v in self.vacuities)

    @property
    def kill_rate(self) -> float | None:
        """The share of faults that are caught among those that change a bit; None if there are none."""
        telling = [m for m in self.mutants if not m.same]
        return sum(m.caught for m in telling) / len(telling) if telling else None

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Write the audit as JSON; ``"-"`` is standard output."""
        write_json(self.as_json(), path)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return versioned(
            "golden.audit",
            {
                "golden": self.golden,
                "passed": self.passed,
                "kill_rate": self.kill_rate,
                "vacuities": [{**dataclasses.asdict(v), "vacuous": v.vacuous} for v in self.vacuities],
                "rejections": [dataclasses.asdict(r) for r in self.rejections],
                "mutants": [{**dataclasses.asdict(m), "caught": m.caught, "reason": m.reason} for m in self.mutants],
            },
        )

    def __str__(self) -> str:
        width = max(len(v.layer) for v in self.vacuities)
        lines = [f"{self.golden}: what the tolerances could hide of each layer's relevance", f"{'layer':<{width}}  expected  certified"]
        for v in self.vacuities:
            lines.append(f"{v.layer:<{width}}  {v.expected:>8.1e}  {v.certified:>9.1e}{'  VACUOUS' if v.vacuous else ''}")
        if self.rejections:
            lines += ["right code is rejected", *(f"  {each}" for each in self.rejections)]
        if not self.mutants:
            return "\n".join([*lines, "no faults were seeded: give the model (--weights)"])
        lines.append("seeded faults, each in one layer at a time")
        for name, group in itertools.groupby(sorted(self.mutants, key=lambda m: m.number), lambda m: f"{m.number} {m.fault}"):
            mutants = list(group)
            missed: dict[str, list[str]] = {}
            for m in mutants:
                if not m.caught:
                    missed.setdefault(m.reason if m.same or not m.undecided else "undecided", []).append(f"{m.layer} ({m.ratio:.2g})")
            why = "".join(f"; {reason}: {', '.join(where)}" for reason, where in missed.items())
            lines.append(f"{name}: caught in {sum(m.caught for m in mutants)} of {len(mutants)} layers{why}")
        if self.kill_rate is not None:
            lines.append(f"caught {self.kill_rate:.0%} of the {sum(not m.same for m in self.mutants)} faults that change a bit")
        absent = [f"{f.number} {f.name}" for f in FAULTS if f.number not in {m.number for m in self.mutants}]
        return "\n".join([*lines, *([f"no layer has what these change: {', '.join(absent)}"] if absent else [])])


def audit(
    golden: Golden,
    model: Model | None = None,
    x: np.ndarray | None = None,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    progress: Progress = lambda what: None,
) -> Audit:
    """Measure what the tolerances hide, which faults the isolated check catches, and which right code is rejected.

    Right code is nplrp's own in float32, each layer given golden inputs, as it is and with its sums taken in two halves; and the float32
    runs from end to end that were recorded (`nplrp.golden.orders`), of which the file knows how far off they were.

    Parameters
    ----------
    golden : Golden
    model : Model or None
        Without it no faults are seeded.
    x : ndarray [n, *input_shape] or None
        The input, for a digest that doesn't hold it.
    rtol, atol : float or None
        Audit |d| <= atol + rtol |golden| instead of the derived tolerances.
    progress : callable
        Told what is being done.

    Raises
    ------
    GoldenError
        If the model or the input isn't the recorded one, or the input is missing.
    """
    options: dict[str, Any] = {"rtol": rtol, "atol": atol}
    vacuities = [vacuity_of(layer.name, layer.relevance, rtol, atol) for layer in reversed(golden.layers) if layer.relevance is not None]
    rejections = [] if rtol is None and atol is None else list(_chained_rejections(golden, rtol or 0.0, atol or 0.0))
    mutants: list[Mutant] = []
    if model is not None:
        places = _places(golden, model, x).values()
        rejected = {at.step.name: found for at in places if (found := _rejected(golden, at, options)) is not None}
        rejections += rejected.values()
        mutants = list(_mutants(golden, places, rejected, options, progress))
    return Audit(f"{golden.facts['composite']} of {golden.facts['model_name']}", tuple(vacuities), tuple(mutants), tuple(rejections))


def vacuity_of(name: str, tensor: Tensor, rtol: float | None = None, atol: float | None = None) -> Vacuity:
    """Return what a layer's derived tolerance could hide, or |d| <= atol + rtol |golden|."""
    size = np.abs(tensor.values)
    bounds: tuple[np.ndarray, np.ndarray] = (tensor.expected, tensor.certified + REACH * tensor.undecided)
    if rtol is not None or atol is not None:
        bounds = ((atol or 0.0) + (rtol or 0.0) * size,) * 2
    whole = float(size.sum())
    hidden = [float(np.minimum(size, bound).sum()) / whole if whole else 0.0 for bound in bounds]
    return Vacuity(name, *hidden)


def _chained_rejections(golden: Golden, rtol: float, atol: float) -> Iterator[Rejection]:
    """Return layers where a recorded run's largest error is beyond what any element may be off by."""
    for layer in reversed(golden.layers):
        if layer.relevance is None or not layer.relevance.spread.size:
            continue
        largest = layer.relevance.sums[2]
        error, allowed = float(layer.relevance.spread[:, 1].max()) * largest, atol + rtol * largest
        if error > allowed:
            yield Rejection(layer.name, "a float32 run from end to end", error / allowed if allowed else math.inf)


def _two_halves(at: Place) -> np.ndarray:
    """Run a step for every second output, and for the others: rules are linear in R, so the sum is right, in another order of summation."""
    odd = np.arange(at.R.size).reshape(at.R.shape) % 2 == 1
    halves = [step_back(at.plan, at.trace, at.i, np.where(odd == half, at.R, 0).astype(at.R.dtype)) for half in (True, False)]
    return halves[0] + halves[1]


#: Code without a fault, in float32.
RIGHT: Mapping[str, Callable[[Place], np.ndarray]] = {
    "nplrp in float32": lambda at: step_back(at.plan, at.trace, at.i, at.R),
    "nplrp in float32, summed in two halves": _two_halves,
}


def _rejected(golden: Golden, at: Place, options: Mapping[str, Any]) -> Rejection | None:
    """Return what right code diverges in a layer, the worst."""
    found = [(name, _worst(golden, at, run(at), options)) for name, run in RIGHT.items()]
    name, j = max(found, key=lambda each: (each[1].verdict == DIVERGED, each[1].ratio))
    return Rejection(at.step.name, name, j.ratio) if j.verdict == DIVERGED else None


def _worst(golden: Golden, at: Place, got: np.ndarray, options: Mapping[str, Any]) -> Judgement:
    """Judge what one layer gives to its inputs."""
    rows = check(golden, candidate_of(at, got), mode="isolated", **options).rows
    return max((row.judgement for row in rows), key=lambda j: (j.verdict == DIVERGED, j.ratio, j.undecided))


def _mutants(
    golden: Golden, places: Iterable[Place], rejected: Container[str], options: Mapping[str, Any], progress: Progress
) -> Iterator[Mutant]:
    for at in places:
        right = step_back(at.plan, at.trace, at.i, at.R)
        for fault in FAULTS:
            if too_slow(fault, at):
                continue
            progress(f"fault {fault.number} in {at.step.name}")
            got = fault.run(at)
            if got is not None:
                j, name = _worst(golden, at, got, options), at.step.name
                same = bool(np.array_equal(got, right))
                yield Mutant(fault.number, fault.name, name, j.verdict, j.ratio, j.undecided, same, name in rejected)
    top = golden.layers[-1]
    if top.relevance is not None and golden.facts["start"] != "softmax":
        values = top.relevance.values
        if top.indices is not None:
            values = np.zeros(top.relevance.shape)
            values.reshape(-1)[top.indices] = top.relevance.values
        got = (golden.output.reshape(values.shape) * (values != 0)).astype(np.float32)
        j = check(golden, Candidate({top.name: got}), mode="isolated", precision="float32", **options).rows[0].judgement
        same = bool(np.array_equal(got, values.astype(np.float32)))
        yield Mutant(SOFTMAX_START, "softmax start for logit", "start", j.verdict, j.ratio, j.undecided, same)


def _places(golden: Golden, model: Model, x: np.ndarray | None) -> dict[str, Place]:
    """Return every layer's backward step in float32 with golden inputs, by the layer's name."""
    if golden.profile == "full":
        return places_of(golden, model, "float32")
    x = golden.input if x is None else np.asarray(x)
    if x is None:
        raise GoldenError("this digest doesn't hold its input, which is large; give the image or tensor that was recorded")
    check_recorded(golden, model, x)
    whole = whole_run(plan_of(golden, model), x, golden.facts["start"], golden.facts["targets"])
    plan = plan_of(golden, model, "float32")
    single = [np.ascontiguousarray(a, np.float32) for a in whole.trace.activations]
    trace = dataclasses.replace(run(plan, single[0]), activations=tuple(single), held=whole.trace.held, denominators={})
    return {
        step.name: Place(plan, trace, i, np.ascontiguousarray(whole.relevances[step.name], np.float32)) for i, step in enumerate(plan.steps)
    }
