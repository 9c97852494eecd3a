"""Explain a model's decision: `explain`, and what it gives, an `Explanation`."""

from __future__ import annotations

import logging
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nplrp import fused, layers
from nplrp.errors import ModelError, RuleError, numbered
from nplrp.ledger import Entry, Ledger, balance
from nplrp.lrp import Keep, check_finite, run_backward, step_back
from nplrp.model import Model
from nplrp.outputs import ByLayer, chunks, forward, most_targets, run, tensor
from nplrp.plan import Plan, check_start, last_sum, make_plan, parts_below
from nplrp.rules.composites import Composite
from nplrp.rules.dialects import Dialect
from nplrp.scores import WHOLE, scoring_of
from nplrp.span import INPUT, Span, find_span
from nplrp.targets import Label, find_several, naming_of
from nplrp.trace import Trace
from nplrp.workspace import Workspace, workspace_of

if TYPE_CHECKING:
    from nplrp.drawing import Drawing
    from nplrp.shown import Facts

#: Called with (images done, images in all).
Progress = Callable[[int, int], None]

_logger = logging.getLogger(__name__)


def carry_back(
    plan: Plan,
    trace: Trace,
    start: np.ndarray,
    span: Span,
    workspace: Workspace | None = None,
    keep: Keep | None = None,
    spend: bool = False,
) -> np.ndarray:
    """Carry relevance along a span, fused where that is possible, and by the page if a number turns out not to be finite.

    Parameters
    ----------
    plan : Plan
    trace : Trace
        From `run`.
    start : ndarray [k n, *output_shape of the span's top]
        Of k targets, all images of one after all of another.
    span : Span
    workspace : Workspace or None
    keep : callable or None
        As for `run_backward`.
    spend : bool
        Nobody needs the trace afterwards.

    Returns
    -------
    ndarray [k n, *output_shape of the span's bottom]

    Raises
    ------
    NumericsError
        Naming layer and unit.
    """
    with np.errstate(all="ignore"):
        if plan.composite.gradient or not span.begins_at_the_top(plan.steps):  # else signs of relevance aren't known
            return run_backward(plan, trace, start, keep, span)
        R = fused.run_backward(plan, trace, start, lambda i, R: step_back(plan, trace, i, R), workspace, keep, spend, span)
        if layers.first_nonfinite(R) is not None:
            run_backward(plan, run(plan, trace.activations[0]) if spend else trace, start, span=span)
            check_finite(R, "the relevance where the pass ends", len(trace.output))
    return R


def explain(
    model: Model,
    x: np.ndarray,
    composite: str | Composite | Mapping[str, Any] = "notebook",
    target: Any = None,
    dtype: Any = "float32",
    algorithm: str = "auto",
    *,
    dialect: str | Dialect | None = None,
    start: str | np.ndarray | None = None,
    at: str | None = None,
    until: str | None = None,
    masks: Mapping[str, Any] | None = None,
    merge: bool = True,
    progress: Progress | None = None,
) -> Explanation:
    """Explain a model's decision: which parts of its input it was made of.

    Parameters
    ----------
    model : Model
    x : ndarray [n, *input_shape], float32 or float64
        Preprocessed images (see `nplrp.preprocess`); converted to `dtype`.
    composite : str, Composite or mapping
        Rules for every layer: a name in `nplrp.rules.composites.COMPOSITES`, perhaps with parameters as in ``"gamma(gamma=0.5)"``, a TOML
        file, or your own.
    target : int, str, a sequence of them, or None
        Which output to explain, by index, class id or class name, one for all images or one for each; ``"top-3"``, or a list for each
        image, gives several maps of each image. A single sigmoid unit stands for the classes 1 and 0. In an output that is no vector a
        target is a position, such as (row, column, channel). None leaves it to the start: all of the output for "softmax" and "all",
        else the largest logit.
    dtype : "float32" or "float64"
    algorithm : "auto" or "direct"
        ``"direct"``: every convolution by its definition.
    dialect : str, Dialect or None
        Compute as this system does (see `nplrp.rules.dialects`); None is the composite's own.
    start : str, ndarray [n, *output_shape], or None
        What to begin with: one of `nplrp.rules.composites.STARTS`, or relevance given at the layer `at`; None is the dialect's.
    at, until : str or None
        Begin and end at the output of these layers, ``"input"`` being the model's input; None is the logits, and the input.
    masks : mapping of str to array, or None
        By layer: the channels whose relevance goes on (a list of whole numbers), or what it is multiplied with.
    merge : bool
        Merge batch norms into their neighbours where that is exact; False keeps each as a layer of its own, with the dialect's rule for it.
    progress : callable or None
        Called with (images done, images in all) whenever some are done.

    Returns
    -------
    Explanation

    Raises
    ------
    ModelError
        If x doesn't fit the model, or there is no such target.
    RuleError
        If the composite or dtype is unknown, or a rule doesn't fit a layer.
    NumericsError
        If a weight, activation or relevance is NaN or infinite.
    """
    plan = make_plan(model, composite, dtype, algorithm, dialect, merge)
    return _explain([plan], x, target, start, (at, until, masks), progress)[0]


def explain_each(
    model: Model,
    x: np.ndarray,
    composites: Iterable[str | Composite | Mapping[str, Any]],
    target: Any = None,
    dtype: Any = "float32",
    algorithm: str = "auto",
    *,
    dialect: str | Dialect | None = None,
    start: str | np.ndarray | None = None,
    progress: Progress | None = None,
) -> list[Explanation]:
    """Explain the same decisions by several composites, which share the forward pass; the bits are those of `explain`.

    Parameters and errors are those of `explain`; the result has an `Explanation` for each composite.
    """
    plans = [make_plan(model, composite, dtype, algorithm, dialect) for composite in composites]
    if not plans:
        raise RuleError("there is no composite to explain with; give one at least, such as 'zplus'")
    return _explain(plans, x, target, start, (None, None, None), progress)


def check_question(plan: Plan, target: Any, start: str | None) -> None:
    """Raise what `explain` would raise of a target and a start, whatever the image.

    Raises
    ------
    ModelError
        If there is no such target.
    RuleError
        If there is no such start.
    """
    begin = _check_start(plan, plan.start if start is None else start, find_span(plan.steps, None, None, None), target, 1)
    if isinstance(begin, str):
        find_several(plan.model, target, 1)


def _explain(
    plans: Sequence[Plan],
    x: np.ndarray,
    target: Any,
    start: str | np.ndarray | None,
    ends: tuple[str | None, str | None, Mapping[str, Any] | None],
    progress: Progress | None,
) -> list[Explanation]:
    """Run every plan on every chunk of images, each on what the first one's forward pass left."""
    model, span = plans[0].model, find_span(plans[0].steps, *ends)
    model.check_files()
    given, scoring = x, scoring_of(model)
    x = tensor(model, given, plans[0].dtype, 4)
    if isinstance(given, np.ndarray) and np.may_share_memory(x, given):  # what is computed later has to be of the same numbers
        x = x.copy()
    begins = [_check_start(plan, plan.start if start is None else start, span, target, len(x)) for plan in plans]
    wanted = None if isinstance(begins[0], np.ndarray) else find_several(model, target, len(x))
    done: list[list[_Part]] = [[] for _ in plans]
    with workspace_of(model) as workspace:
        for chunk in chunks(len(x)):
            first: tuple[Plan, Trace] | None = None
            for plan, begin, parts in zip(plans, begins, done, strict=True):
                with numbered(range(chunk.start, chunk.stop)):
                    trace = run(plan, x[chunk], workspace, first)
                    first = first or (plan, trace)
                    targets = _targets(wanted, begin, scoring.logits(trace.logits), chunk)
                    outputs = trace.output.copy(), trace.logits.copy()
                    R = _maps(plan, x[chunk], trace, begin, targets, chunk, span, workspace, spend=len(plans) == 1)
                _tell_nothing(plan, R, span)
                if len(plans) > 1:
                    fused.release(plan, trace, workspace)
                parts.append(_Part(*outputs, R, None if targets is None else targets.reshape(-1)))
            workspace.give_all()
            if progress:
                progress(min(chunk.stop, len(x)), len(x))
    return [_joined(*each, x, span) for each in zip(plans, begins, done, strict=True)]


#: What a map that is 0 everywhere means.
NOTHING = "nothing spoke for the class, or an epsilon is too large (--ledger tells where it went)"


def _tell_nothing(plan: Plan, R: np.ndarray, span: Span) -> None:
    """Log that maps [maps, *shape] of a pass without masks are 0 everywhere: nothing else shows that a parameter is out of proportion."""
    nothing = sum(not each.any() for each in R) if span.covers(plan.steps) else 0
    if nothing:
        _logger.warning("%s: %d of %d maps are 0 everywhere: %s", plan.composite.name, nothing, len(R), NOTHING)


class _Part(NamedTuple):
    """What a chunk of images gives: output and logits [n, *output_shape], relevance [maps, *shape], and its targets [maps]."""

    output: np.ndarray
    logits: np.ndarray
    relevance: np.ndarray
    targets: np.ndarray | None


def _joined(plan: Plan, begin: str | np.ndarray, parts: Sequence[_Part], x: np.ndarray, span: Span) -> Explanation:
    output, logits, relevance = (np.concatenate([getattr(part, name) for part in parts]) for name in ("output", "logits", "relevance"))
    chosen = [part.targets for part in parts if part.targets is not None]
    return Explanation(plan, x, np.concatenate(chosen) if chosen else None, relevance, output, logits, begin, span)


def joined(explanations: Sequence[Explanation]) -> Explanation:
    """Return one explanation of all images of several, of one plan and start, in their order."""
    first = explanations[0]
    arrays = {name: np.concatenate([getattr(e, name) for e in explanations]) for name in ("x", "relevance", "output", "logits")}
    targets = None if first.targets is None else np.concatenate([e.targets for e in explanations if e.targets is not None])
    start = first.start if isinstance(first.start, str) else np.concatenate([np.asarray(e.start) for e in explanations])
    return Explanation(first.plan, targets=targets, start=start, span=first.span, **arrays)


class Back(NamedTuple):
    """What one pass back leaves: which maps they are, relevance by step at the output of every layer it came by, and the balances."""

    maps: np.ndarray
    relevance: dict[int, np.ndarray]
    book: Sequence[Entry]


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a decision was made of: one map for each image and target, those of one image next to each other.

    Everything but the attributes below is computed when it is first asked for, with the same bits.

    Attributes
    ----------
    plan : Plan
        Which rule ran on which layer.
    x : ndarray [n, *input_shape]
    targets : ndarray [maps] of int, or None
        The explained outputs; None: all of them at once, or relevance that was given.
    relevance : ndarray [maps, *input_shape]
        Relevance of the input, or of the layer where the pass ended, in the units of the start (probability or logit).
    output, logits : ndarray [n, *output_shape]
        The model's output, and the same before its last activation.
    start : str or ndarray
        What the pass began with.
    span : Span
        From which layer to which it ran, and what was masked.
    """

    plan: Plan
    x: np.ndarray = field(repr=False)
    targets: np.ndarray | None
    relevance: np.ndarray = field(repr=False)
    output: np.ndarray = field(repr=False)
    logits: np.ndarray = field(repr=False)
    start: str | np.ndarray = field(repr=False)
    span: Span = field(repr=False)

    @property
    def images(self) -> np.ndarray:
        """The image that each map belongs to, [maps] of int."""
        return np.repeat(np.arange(len(self.x)), self._maps_per_image)

    def image(self, i: int) -> Explanation:
        """Return the explanation of one image of the batch, with all its maps; its arrays are views."""
        return self._some(slice(i, i + 1))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.x)

    def __getitem__(self, i: int | slice) -> Explanation:
        """Return the explanation of one image of the batch, or of a range of them, with all their maps; its arrays are views.

        Raises
        ------
        IndexError
            If there is no such image.
        """
        if isinstance(i, slice):
            if i.step not in (None, 1):
                raise IndexError(f"images are taken in their order, [i:j], not in steps of {i.step}")
            first, last, _ = i.indices(len(self))
            return self._some(slice(first, max(first, last)))
        place = operator.index(i)
        if not -len(self) <= place < len(self):
            raise IndexError(f"there is no image {place}; the explanation holds {len(self)}, counting begins at 0")
        return self.image(place % len(self))

    def __iter__(self) -> Iterator[Explanation]:
        return (self.image(i) for i in range(len(self)))

    def _some(self, images: slice) -> Explanation:
        each, start = self._maps_per_image, self.start
        maps = slice(images.start * each, images.stop * each)
        targets = None if self.targets is None else self.targets[maps]
        given = start if isinstance(start, str) else start[images]
        arrays = (self.relevance[maps], self.output[images], self.logits[images])
        found = Explanation(self.plan, self.x[images], targets, *arrays, given, self.span)
        if "books" in self.__dict__ and len(self.books):  # a cached property looks there first
            found.__dict__["books"] = self.books.take(np.arange(len(self.relevance))[maps])
        return found

    def plot(
        self,
        image: np.ndarray | None = None,
        *,
        title: str | None = None,
        cmap: str | None = None,
        clip: float = 99.5,
        overlay: bool = False,
    ) -> Drawing:
        """Draw each image beside its maps, one row for each; maps that are no pictures as bars.

        Parameters
        ----------
        image : ndarray (H, W, 3) or (N, H, W, 3), or None
            What is shown; None is the input, its preprocessing undone.
        title : str or None
            Above each row; None is the largest output.
        cmap : str or None
            A colour map of matplotlib's, around 0; None is seismic, or viridis for maps of one sign without contrast around 0.
        clip : float
            Percentile of |R| where the colours end; 100 cuts nothing off.
        overlay : bool
            Draw the maps over the picture in grey.

        Returns
        -------
        Drawing
            A `matplotlib.figure.Figure` that Jupyter shows, with ``save("x.png")``.

        Raises
        ------
        ImageError
            If there are more than 16 images: ``explanation[:16].plot()``; or an argument doesn't fit.
        """
        from nplrp.shown import plot

        return plot(self, image, title, cmap, clip, overlay)

    @property
    def facts(self) -> Facts:
        """How it was made, in a few words."""
        from nplrp.shown import Facts

        plan = self.plan
        return Facts(plan.composite.name, plan.dialect.name, self.model.name, plan.dtype.name, self.model.preprocessing.mode)

    def one_labels(self, i: int, top: int) -> list[Label]:
        """Return one image's `top` outputs with the largest scores."""
        return naming_of(self.model).largest(self._scores[i], top)

    def _repr_html_(self) -> str:
        """Return what Jupyter shows: pictures, maps, labels, and of a single image where the relevance went."""
        from nplrp.shown import html

        if self.plan.composite.gradient:
            return html(self, None, "a gradient conserves nothing, so it has no ledger")
        known = len(self) == 1 or "books" in self.__dict__  # of a batch it takes as long as all of the explanation
        return html(self, self.books if known else None, "where the relevance went: e.ledger, or of one image e[i]")

    def _repr_png_(self) -> bytes | None:
        from nplrp.shown import png

        return png(self)

    @property
    def begun(self) -> np.ndarray:
        """Relevance that each pass began with: its sum over the outputs, [maps], float64."""
        if not isinstance(self.start, str):
            return layers.sums(self.start)
        columns = _columns(None if self.targets is None else self.targets.reshape(len(self.x), -1))
        scoring, gradient = scoring_of(self.model), bool(self.plan.composite.gradient)
        sums = [layers.sums(scoring.begin(self.start, self.logits, self.output, chosen, gradient)) for chosen in columns]
        return np.stack(sums, axis=1).reshape(-1)

    @property
    def layer(self) -> str:
        """The layer whose relevance `relevance` is: "input" unless the pass ended before."""
        return INPUT if self.span.bottom < 0 else self.plan.steps[self.span.bottom].name

    @property
    def model(self) -> Model:
        """The model that was explained."""
        return self.plan.model

    @cached_property
    def activations(self) -> Mapping[str, np.ndarray]:
        """Activation of every layer by name, [n, *output_shape]; the last one after its softmax."""
        return ByLayer(forward(self.model, self.x, self.plan.dtype, self.plan.algorithm))

    @cached_property
    def relevances(self) -> Mapping[str, np.ndarray]:
        """Relevance at the output of every layer of the pass by name, down to the ``"input"``, [maps, *shape]; after masks."""
        passes = list(self._passes(balanced=False))
        rows = np.argsort(np.concatenate([each.maps for each in passes]), kind="stable")
        names = [INPUT, *(step.name for step in self.plan.steps)]
        return ByLayer({names[i + 1]: np.concatenate([each.relevance[i] for each in passes])[rows] for i in sorted(passes[0].relevance)})

    @property
    def ledger(self) -> Ledger:
        """Where the relevance went, layer by layer; warns if a layer loses or creates more than the pass began with.

        Raises
        ------
        RuleError
            For a gradient, which conserves nothing.
        """
        if self.plan.composite.gradient:
            raise RuleError(f"{self.plan.composite.name!r} is a gradient: it conserves nothing, so it has no ledger; choose a rule of LRP")
        ledger = self.books
        ledger.warn()
        return ledger

    @cached_property
    def books(self) -> Ledger:
        """The `ledger` without its warnings; made image by image, so that one image's layers alone are in memory. A gradient's is empty."""
        if self.plan.composite.gradient:
            return Ledger(())
        passes = [(each.maps, each.book) for each in self._passes(balanced=True)]
        rows = np.argsort(np.concatenate([maps for maps, _ in passes]), kind="stable")
        return Ledger.join([book for _, book in passes]).take(rows)

    def labels(self, top: int = 5) -> list[list[Label]]:
        """Return for each image its `top` outputs with the largest scores (of equal ones the first)."""
        return [naming_of(self.model).largest(scores, top) for scores in self._scores]

    def target_labels(self) -> list[Label]:
        """Return for each map the label of the output that was explained, or of the largest one where all were.

        Where all of an output were explained that is no vector, there is no largest one: the label says so, and has the unit -1.
        """
        return naming_of(self.model).chosen(self._scores[self.images], self.targets)

    @property
    def begins_with(self) -> str:
        """What the pass began with, where the name of its start would mislead; else an empty text."""
        return scoring_of(self.model).told(self.start) if isinstance(self.start, str) else ""

    @property
    def _scores(self) -> np.ndarray:
        return scoring_of(self.model).scores(self.output)

    def save(self, path: str | os.PathLike[str], layers: bool = False, ledger: bool = False) -> None:
        """Write it to a file, .npz or .h5, whole or not at all; `nplrp.load_explanation` reads it. See `nplrp.files.save.save`."""
        from nplrp.files.save import save

        save(self, path, layers, ledger)

    def _passes(self, balanced: bool) -> Iterator[Back]:
        """Run the passes back again, keeping every layer; balanced ones image by image and target by target."""
        plan, span = self.plan, self.span
        other_parts = span.top != len(plan.steps) - 1
        if other_parts:
            plan = replace(plan, parts=parts_below(plan.steps, plan.rules, span.top, plan.composite.slopes))
        targets = None if self.targets is None else self.targets.reshape(-1, self._maps_per_image)
        for chunk in chunks(len(self.x), 1) if balanced else chunks(len(self.x)):
            with numbered(range(chunk.start, chunk.stop)):
                whole = run(self.plan, self.x[chunk])
            columns = _columns(None if targets is None else targets[chunk])
            for first, some in _together(plan, columns, 1 if balanced else most_targets(len(whole.output))):
                start = _starts(self.start, plan, whole, some, chunk)
                for negative, images in _sides(plan, some[0], len(whole.output)):
                    own, below = (_negated(each) for each in (self.plan, plan)) if negative else (self.plan, plan)
                    alone = negative or len(images) < len(whole.output)  # then `some` is one target
                    trace, began = (run(own, self.x[chunk][images]), start[images]) if alone else (whole, start)
                    at: dict[int, np.ndarray] = {}
                    carry_back(own, trace, began, span, keep=at.__setitem__)
                    plain = replace(trace, denominators={}) if other_parts else trace
                    book = balance(below, plain, began, span, at) if balanced else ()
                    maps = [(chunk.start + images) * len(columns) + first + k for k in range(len(some))]
                    yield Back(np.concatenate(maps), at, book)

    @property
    def _maps_per_image(self) -> int:
        return 1 if self.targets is None or not len(self.x) else len(self.targets) // len(self.x)

    def __repr__(self) -> str:
        some = [] if self.targets is None else self.targets[:8].tolist()
        more = ", ..." if self.targets is not None and len(self.targets) > 8 else ""
        what = "all outputs" if self.targets is None else f"targets [{', '.join(map(str, some))}{more}]"
        return f"Explanation({self.plan.composite.name} of {self.model.name!r}, {len(self.x)} images, {what}, {self.plan.dtype})"


def _check_start(plan: Plan, start: str | np.ndarray, span: Span, target: Any, images: int) -> str | np.ndarray:
    """Return what a pass begins with: one of `STARTS`, or given relevance in the plan's dtype.

    Raises
    ------
    RuleError
        If there is no such start, or relevance is needed and not given.
    ModelError
        If given relevance doesn't fit the layer.
    NumericsError
        If it holds a NaN or an infinity.
    """
    steps = plan.steps
    above = steps[span.top + 1 :]
    if isinstance(start, str):
        check_start(start)
        if any(not layers.operation(step).view or step.output_shape != step.input_shape for step in above):
            raise RuleError(f"a pass that begins at layer {steps[span.top].name!r} needs relevance to begin with; give start=array")
        shape = plan.model.output_shape
        if len(shape) != 1 and start not in WHOLE and target is None:
            raise ModelError(
                f"the model ends in an output of shape {shape}, so there is no class to choose; begin with all of it (start='all'), with "
                f"one position (target=(row, column, channel)), or with relevance of your own (start=array, {(images, *shape)})"
            )
        return start
    if target is not None:
        raise ModelError("relevance is given at the start, so there is no target to choose; leave out target, or start")
    given = np.asarray(start)
    shape = steps[span.top].output_shape if span.top >= 0 else plan.model.input_shape
    if given.shape != (images, *shape) or given.dtype.kind not in "fiu":
        where = steps[span.top].name if span.top >= 0 else INPUT
        raise ModelError(
            f"the relevance to start with has shape {given.shape} and dtype {given.dtype}; layer {where!r} takes numbers of shape "
            f"{(images, *shape)}"
        )
    given = np.array(given, plan.dtype, order="C")  # a copy, as of the input
    check_finite(given, "the relevance to start with")
    return given


def _targets(wanted: np.ndarray | int | None, begin: str | np.ndarray, logits: np.ndarray, chunk: slice) -> np.ndarray | None:
    """Return a chunk's targets [n, k], or None where all outputs are explained at once or relevance was given."""
    if isinstance(begin, np.ndarray) or (wanted is None and begin in WHOLE):
        return None
    if isinstance(wanted, np.ndarray):
        return wanted[chunk]
    return np.argsort(-logits, axis=-1, kind="stable")[:, : wanted or 1]


def _columns(targets: np.ndarray | None) -> list[np.ndarray | None]:
    """Return the first target of every image [n], the second one, and so on; None alone for all outputs at once."""
    return [None] if targets is None else list(targets.T)


def _together(plan: Plan, columns: Sequence[Any], most: int) -> Iterator[tuple[int, Sequence[Any]]]:
    """Yield targets that are carried back together, at most `most`, and which the first of them is; groups are about equal."""
    groups = -(-len(columns) // (1 if scoring_of(plan.model).binary else most))
    for group in range(groups):
        first, last = (len(columns) * k // groups for k in (group, group + 1))
        yield first, columns[first:last]


def _starts(begin: str | np.ndarray, plan: Plan, trace: Trace, columns: Sequence[np.ndarray | None], chunk: slice) -> np.ndarray:
    """Return the relevance that a chunk's pass begins with, target by target, [k n, *shape]."""
    if isinstance(begin, np.ndarray):
        return begin[chunk]
    scoring, gradient = scoring_of(plan.model), bool(plan.composite.gradient)
    return np.concatenate([scoring.begin(begin, trace.logits, trace.output, chosen, gradient) for chosen in columns])


def _maps(
    plan: Plan,
    x: np.ndarray,
    trace: Trace,
    begin: str | np.ndarray,
    targets: np.ndarray | None,
    chunk: slice,
    span: Span,
    workspace: Workspace,
    spend: bool,
) -> np.ndarray:
    """Carry the relevance of a chunk's targets [n, k] back, as many at a time as may be: maps [n k, *shape], an image's side by side.

    With `spend` nobody needs the trace afterwards.
    """
    columns, found = _columns(targets), None
    for first, some in _together(plan, columns, most_targets(len(x))):
        start, last = _starts(begin, plan, trace, some, chunk), spend and first + len(some) == len(columns)
        R = _carried(plan, x, trace, start, some[0], span, workspace, last)
        found = np.empty((len(x), len(columns), *R.shape[1:]), R.dtype) if found is None else found
        found[:, first : first + len(some)] = R.reshape(len(some), *found[:, 0].shape).swapaxes(0, 1)
        workspace.give(R)
    assert found is not None
    return found.reshape(len(x) * len(columns), *found.shape[2:])


def _carried(
    plan: Plan,
    x: np.ndarray,
    trace: Trace,
    start: np.ndarray,
    chosen: np.ndarray | None,
    span: Span,
    workspace: Workspace,
    spend: bool,
) -> np.ndarray:
    """Carry the relevance of a chunk's logits back, each image's class by its own side of the network."""
    sides = _sides(plan, chosen, len(x))
    if sides[0][0] is False and len(sides) == 1:
        return carry_back(plan, trace, start, span, workspace, spend=spend)
    found = None
    for negative, images in sides:
        own = _negated(plan) if negative else plan
        with numbered(images.tolist()):
            R = carry_back(own, run(own, x[images]), start[images], span)
        found = np.empty((len(start), *R.shape[1:]), R.dtype) if found is None else found
        found[images] = R
    assert found is not None
    return found


def _sides(plan: Plan, chosen: np.ndarray | None, count: int) -> list[tuple[bool, np.ndarray]]:
    """Return which images are explained by the network, and which by that whose one sigmoid unit gives -z: (is it that one, images).

    Rules that tell signs apart see the weights that speak for the class. Gradients are negated at the start instead.
    """
    everything = np.arange(count)
    if chosen is None or not scoring_of(plan.model).binary or plan.composite.gradient:
        return [(False, everything)]
    sides = [(False, everything[chosen == 1]), (True, everything[chosen == 0])]
    return [(negative, images) for negative, images in sides if len(images)] or [(False, everything)]


def _negated(plan: Plan) -> Plan:
    """Return the plan of the network whose last linear step has the opposite sign: class 0 of a single sigmoid unit is its logit."""
    steps, last = list(plan.steps), last_sum(plan.steps)
    step = steps[last]
    if last < 0 or step.weight is None or step.bias is None or not (step.score or step.activation == "linear"):
        return plan  # the logit is no sum with weights that a rule could tell apart
    steps[last] = replace(step, weight=-step.weight, bias=-step.bias, prepared={})
    return replace(plan, steps=tuple(steps))
