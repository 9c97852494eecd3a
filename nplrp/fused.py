"""The page at speed: the same four lines, with what repeats done once and what follows each other done in one pass over memory.

Four things are saved, and nothing else changes:

- line 1: z is what the forward pass computed anyway, where the rule's weights and bias are the layer's own; or it is computed beside
  it from the same input, where the rule changes them. Below a ReLU the pass has max(z, 0) instead of z. That serves as well if the
  relevance comes from a rule with a factor a: units with z <= 0 then have R = 0, and so s = 0.
- lines 4 and 2: R = a * c of one layer and s = R / stabilise(z) of the layer below are the last thing that the kernel of line 3 does
  with a number, in this order and so with the page's bits.
- Python: kernels that don't wait for it are run by one team of threads, one after the other (see `nplrp.jit.queue`). Between them
  nothing may read or write an array but by a kernel. So from the third pass of a kind on they are run as noted down before
  (`nplrp.replay`).
- checks: a NaN or an infinity can't be lost on its way to the logits or to the input, so only these are looked at. If one is found,
  the pass is run again by the page, which names the layer.

Whatever isn't one of these cases is done by the page itself. All of it has the page's bits, but for one case: in a convolution whose rule
has two parts, each one product with the same input (alpha_beta with beta > 0 behind a ReLU), a (c + d) stands for a c + a d: one
multiplication instead of two. Such a layer's relevance is rounded otherwise, by up to 1e-6 of its largest number in float32, 1e-15 in
float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nplrp import layers
from nplrp.gradients import behind_activation
from nplrp.layers import Division, Operation, Step, operation
from nplrp.layers.moves import IDENTITY
from nplrp.lrp import Keep
from nplrp.plan import Plan, dead_get_nothing, hands_slope
from nplrp.replay import Passage
from nplrp.rules import AS_IS, Clamp, Part, Rule, Term
from nplrp.span import Span, find_span
from nplrp.trace import Trace
from nplrp.workspace import Workspace

if TYPE_CHECKING:
    from nplrp.jit import Queue

#: Stabilisers that the convolution kernels can divide by.
_STABILISERS = ("plus", "sign")

StepBack = Callable[[int, np.ndarray], np.ndarray]


class Begun(NamedTuple):
    """What the first steps of a forward pass left, as in a `Trace`; an output that is a view of x is only its shape."""

    outputs: tuple[np.ndarray | tuple[int, ...], ...]
    held: Mapping[int, Any]
    denominators: Mapping[int, tuple[np.ndarray, ...]]


@dataclass(frozen=True, eq=False)
class Fusion:
    """How one step runs in the fused pass.

    Attributes
    ----------
    step : Step
        As it runs: an activation that is a layer of its own may be done by the step before it.
    relu : bool or float
        Line 1 ends with a clamp at 0, and at a number too if it is one.
    parts : tuple of Part
        Those of its rule as the pass runs them; none if the page has to.
    beside : tuple of Part
        The parts whose z is computed beside the step's own from the same input.
    plain : bool
        The kernels can run every part. All can where each is one product with the activation itself, as behind a ReLU.
    queued : bool
        Forward, it may be noted down in a queue.
    source : int
        The step whose line 2 may be done together with lines 3 and 4 of this one: the one that it alone reads, with a denominator; -1 if
        there is none.
    bends : bool
        Its activation changes relevance (`nplrp.rules.composites.Composite.slopes`).
    """

    step: Step
    relu: bool | float
    parts: tuple[Part, ...]
    beside: tuple[Part, ...]
    plain: bool
    queued: bool
    source: int
    bends: bool


def run_forward(plan: Plan, x: np.ndarray, workspace: Workspace | None = None, given: tuple[Plan, Trace] | None = None) -> Trace:
    """Run a plan's steps on x [n, *input_shape]; nothing is checked. The arrays are the workspace's, if there is one.

    `given` is another plan of the same model and what it left of the same x: what both compute is taken from there, with the same bits.
    """
    workspace = workspace or Workspace(reuse=False)
    logits, queue = None, layers.queue()
    ties = layers.tie_labels(plan.steps, x)
    passage = Passage(workspace, queue, plan, ("forward", *ties), [x, *ties.values()], possible=given is None)
    begun: Begun = passage.again() or Begun((), {}, {})
    activations = [x, *(x.reshape(a) if isinstance(a, tuple) else a for a in begun.outputs)]
    held, denominators = dict(begun.held), dict(begun.denominators)
    for i, fusion in enumerate(fusions(plan)):
        if i < len(begun.outputs):
            continue
        step, inputs = fusion.step, [activations[j + 1] for j in fusion.step.inputs]
        known = None if given is None else _known(fusion, i, *given)
        queued = fusion.queued and (known is None or not fusion.beside or _beside_by_kernels(fusion))
        if not queued:
            passage.run(_begun, activations, held, denominators)
        with queue if queued else nullcontext():
            if known is not None and given is not None:
                z, a, besides = known, given[1].activations[i + 1], _beside(plan, i, fusion, inputs, workspace)
                held |= {i: given[1].held[i]} if i in given[1].held else {}
            else:
                z, a, besides = _run_step(fusion, inputs, held, i, ties.get(i), workspace)
        if fusion.parts:
            computed = iter(besides)
            if not fusion.plain:
                queue.run()
            denominators[i] = tuple(
                z if _is_own(step, part) else next(computed) if part in fusion.beside else _of_part(plan, i, inputs, part)
                for part in fusion.parts
            )
        if step.score:
            logits = z
        activations.append(a)
    passage.run(_begun, activations, held, denominators)
    return Trace(tuple(activations), held, activations[-1] if logits is None else logits.reshape(activations[-1].shape), denominators)


def _begun(activations: Sequence[np.ndarray], held: Mapping[int, Any], denominators: Mapping[int, tuple[np.ndarray, ...]]) -> Begun | None:
    """Return what a forward pass has left so far; None if that is in x elsewhere than where x begins."""
    x, *outputs = activations
    same = [a.ctypes.data == x.ctypes.data and (a.size, a.dtype) == (x.size, x.dtype) for a in outputs]
    arrays = [a for a, view in zip(outputs, same, strict=True) if not view] + _arrays(held.values()) + _arrays(denominators.values())
    if any(np.may_share_memory(x, array) for array in arrays):
        return None
    return Begun(tuple(a.shape if view else a for a, view in zip(outputs, same, strict=True)), dict(held), dict(denominators))


def _still_read(x: np.ndarray, activations: Mapping[int, np.ndarray], done: int) -> tuple[int, dict[int, np.ndarray]] | None:
    """Return how many steps are done, and the outputs that are still read; None if something of x is."""
    outputs = {j: a for j, a in activations.items() if j >= 0}
    return None if any(np.may_share_memory(x, a) for a in activations.values()) else (done, outputs)


def _arrays(values: Iterable[Any]) -> list[np.ndarray]:
    """Return the arrays among values, also of those in tuples."""
    found: list[np.ndarray] = []
    for value in values:
        found += _arrays(value) if isinstance(value, tuple) else [value] if isinstance(value, np.ndarray) else []
    return found


def run_outputs(plan: Plan, x: np.ndarray, workspace: Workspace) -> Trace:
    """Run a plan's steps on x [n, *input_shape] and keep the output and the logits alone: an array goes when its last reader is done."""
    last = {j: i for i, fusion in enumerate(fusions(plan)) for j in fusion.step.inputs}
    logits, queue = None, layers.queue()
    ties = layers.tie_labels(plan.steps, x)
    passage = Passage(workspace, queue, plan, ("outputs", *ties), [x, *ties.values()])
    begun, still_read = passage.again() or (0, dict[int, np.ndarray]())
    activations: dict[int, np.ndarray] = {-1: x, **still_read}
    for i, fusion in enumerate(fusions(plan)):
        if i < begun:
            continue
        step = fusion.step
        if not fusion.queued:
            passage.run(_still_read, x, activations, i)
        with queue if fusion.queued else nullcontext():
            z, activations[i], _ = _run_step(
                replace(fusion, beside=()), [activations[j] for j in step.inputs], {}, i, ties.get(i), workspace
            )
        if step.score:
            logits = z
        elif z is not activations[i]:
            _give(workspace, z, activations)
        for j in dict.fromkeys(step.inputs):
            if last[j] == i:
                _give(workspace, activations.pop(j), activations)
    passage.run(_still_read, x, activations, len(plan.steps))
    output = activations[len(plan.steps) - 1]
    return Trace((output,), {}, output if logits is None else logits.reshape(output.shape), {})


def release(plan: Plan, trace: Trace, workspace: Workspace) -> None:
    """Give back what a forward pass computed for this plan's rules alone; another plan may still be `given` the rest."""
    for i, computed in trace.denominators.items():
        fusion = fusions(plan)[i]
        workspace.give(*(z for z, part in zip(computed, fusion.parts, strict=True) if not _is_own(fusion.step, part)))


def _give(workspace: Workspace, array: np.ndarray, alive: Mapping[int, np.ndarray]) -> None:
    """Give an array back unless one that is still read is a view of it."""
    if not any(np.may_share_memory(array, other) for other in alive.values()):
        workspace.give(array)


def _run_step(
    fusion: Fusion, inputs: Sequence[np.ndarray], held: dict[int, Any], i: int, ties: np.ndarray | None, workspace: Workspace
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Run one step: what it computes, that behind its activation, and what is computed beside it; note down in `held` what it decides."""
    step = fusion.step
    if layers.only_moves(step):
        z = layers.move(step, operation(step).gather(step, inputs, workspace), workspace)
        a = layers.bend(step.activation, z, workspace.empty(z.shape, z.dtype)) if step.activation != "linear" else z
        return z, a, []
    if layers.decides(step):
        z, decided = operation(step).decide(step, operation(step).gather(step, inputs), ties, workspace)  # type: ignore[misc]
        held |= {} if decided is None else {i: decided}
        return z, layers.activate(step, z, in_place=True), []
    z, besides = _forward(fusion, inputs, workspace)
    done = fusion.relu or step.activation == "linear"
    return z, z if done else layers.bend(step.activation, z, workspace.empty(z.shape, z.dtype)), besides


def _known(fusion: Fusion, i: int, other: Plan, trace: Trace) -> np.ndarray | None:
    """Return what step i computes from what another plan left, or None if that pass did the step otherwise or didn't keep it."""
    step, theirs = fusion.step, fusions(other)[i]
    if (step.kind, step.activation, fusion.relu) != (theirs.step.kind, theirs.step.activation, theirs.relu):
        return None
    if step.score:
        return trace.logits.reshape(-1, *step.output_shape)
    if fusion.relu or step.activation == "linear" or not any(_is_own(step, part) for part in fusion.parts):
        return trace.activations[i + 1]
    kept = [z for z, part in zip(trace.denominators.get(i, ()), theirs.parts, strict=False) if _is_own(step, part)]
    return kept[0] if kept else None


def run_backward(
    plan: Plan,
    trace: Trace,
    R: np.ndarray,
    step_back: StepBack,
    workspace: Workspace | None = None,
    keep: Keep | None = None,
    spend: bool = False,
    span: Span | None = None,
) -> np.ndarray:
    """Carry relevance from the logits to the input, or down to the bottom of a span; nothing is checked.

    Parameters
    ----------
    plan : Plan
    trace : Trace
        From `run_forward`.
    R : ndarray [n, units], or of several targets
        Relevance of the logits.
    step_back : callable
        The page for step i: (i, relevance of its output) -> relevance of what it works on.
    workspace : Workspace or None
        None, or one that doesn't use memory again, if there is a `keep`.
    keep : callable or None
        Called with (i, relevance of the output of step i, after its mask), and with -1 for the input. The bits are the same with and
        without.
    spend : bool
        Nobody needs the trace afterwards: what it holds of a step is given back to the workspace once the pass has gone by.
    span : Span or None
        One that begins at the logits; None is all of the network.

    Returns
    -------
    ndarray [n, *output_shape of the span's bottom]
    """
    workspace, span = workspace or Workspace(reuse=False), span or find_span(plan.steps, None, None, None)
    queue = layers.queue()
    read = [R, *trace.activations, *_arrays(trace.held.values()), *_arrays(trace.denominators.values())]
    what = "backward", span.bottom, spend, *trace.held, *trace.denominators
    passage = Passage(workspace, queue, plan, what, read, possible=keep is None and not span.masks)
    found: np.ndarray | None = passage.again()
    if found is not None:
        return found
    arrived = {len(plan.steps) - 1: R}
    divided: dict[int, list[np.ndarray]] = {}  # s, part by part, of steps for which the one above has divided already
    spent = _by_last_use(trace) if spend else {}
    for i in range(len(plan.steps) - 1, span.bottom, -1):
        workspace.give(*spent.pop(i + 1, ()))
        fusion, rule = fusions(plan)[i], plan.rules[i]
        step, s = fusion.step, divided.pop(i, [])
        if not s:
            if i not in arrived:
                continue
            R = arrived.pop(i)
            if keep or i in span.masks:
                queue.run()
                R = span.mask(i, R)
            if keep:
                keep(i, R)
            if fusion.bends:
                queue.run()
                R = behind_activation(plan, trace, i, R)
        inputs = [trace.activations[j + 1] for j in step.inputs]
        whole = fusion.source > span.bottom and not any(j in span.masks for j in range(fusion.source, i))
        division = _division(plan, trace, fusion.source) if whole and not keep else None
        op, carried = operation(step), None
        if i in trace.denominators:
            own = _division(plan, trace, i)
            assert own is not None and op.fused is not None
            if op.fused.whole and fusion.plain and not s and own.weights == (1.0,):
                with queue:
                    carried = op.fused.whole(step, R, own, fusion.parts[0], inputs, workspace)
            else:
                with queue:
                    s = s or layers.divide_parts(R, own, workspace)
                if not fusion.plain or (op.fused.singly and len(fusion.parts) > 1):
                    queue.run()
                if fusion.plain:
                    with queue:
                        below = (division,) if op.fused.divides else ()
                        carried = op.fused.carry(step, s, fusion.parts, inputs, workspace, *below)
                else:
                    carried = layers.Carried(layers.scatter(step, _carry_parts(plan, i, s, inputs, fusion.parts)), False)
                workspace.give(*s)
        elif op.routes and _hands_on(op, rule):
            with queue:
                carried = op.routes.route(step, R, trace.held[i], division, workspace)
        elif op.routes and op.routes.times and _divides_and_hands_on(op, rule):
            with queue:
                s = layers.divide_parts(R, Division((trace.activations[i + 1],), rule, (1.0,)), workspace)
                carried = op.routes.times(step, s[0], trace.held[i], inputs[0], division, workspace)
            workspace.give(*s)
        elif _passes(step, plan.parts[i]):
            with queue:
                moved = layers.move_back(step, R, workspace)
                carried = layers.Carried(layers.scatter(step, moved, workspace), False)
            workspace.give(*(each for each in (R, moved) if not any(np.may_share_memory(each, other) for other in carried.arrays)))
        else:
            queue.run()
            carried = layers.Carried(layers.scatter(step, step_back(i, R)), False)
        if carried.divided:
            divided[fusion.source] = carried.arrays
            continue
        for j, share in zip(step.inputs, carried.arrays, strict=True):
            arrived[j] = _sum(arrived[j], share, queue, workspace) if j in arrived else share
    passage.run(lambda R: R if all(workspace.holds([R])) else None, arrived[span.bottom])
    R = span.mask(span.bottom, arrived[span.bottom])
    if keep:
        keep(span.bottom, R)
    return R


def _by_last_use(trace: Trace) -> dict[int, list[np.ndarray]]:
    """Return arrays of a trace by the step where a pass back needs each for the last time: the lowest that has it, or a view of it."""
    found: dict[int, tuple[int, np.ndarray]] = {}
    for i in range(len(trace.activations) - 2, -1, -1):
        held = trace.held.get(i)
        for array in (trace.activations[i + 1], *trace.denominators.get(i, ()), *([held] if isinstance(held, np.ndarray) else [])):
            found[array.ctypes.data] = i, array
    x = trace.activations[0].ctypes.data
    spent: dict[int, list[np.ndarray]] = {}
    for address, (i, array) in found.items():
        if address != x:
            spent.setdefault(i, []).append(array)
    return spent


def _sum(R: np.ndarray, share: np.ndarray, queue: Queue, workspace: Workspace) -> np.ndarray:
    """Add relevance that arrives later to what has arrived."""
    from nplrp.kernels import elementwise

    total = workspace.empty(R.shape, R.dtype)
    with queue:
        elementwise.add(R, share, total, layers.threads())
    workspace.give(R, share)
    return total


def fusions(plan: Plan) -> list[Fusion]:
    """Return how every step runs in the fused pass; found once for a plan."""
    if len(plan.fusion) < len(plan.steps):
        slopes = plan.composite.slopes
        dead = dead_get_nothing(plan.steps, plan.rules, len(plan.steps) - 1, slopes)
        steps = list(plan.steps)
        for i in range(len(steps)):
            _fold(plan, steps, dead, i)
        found = []
        for i, step in enumerate(steps):
            opens = layers.activation(step.activation).opens
            bends = hands_slope(step, slopes) and not (opens and dead[i])
            found.append(_fusion(plan, step, i, dead[i] or (bends and opens), bends))
        below = [_below(plan, steps, i) for i in range(len(steps))]
        plan.fusion[:] = [
            replace(each, source=j if j >= 0 and found[j].parts and not found[j].bends else -1)
            for each, j in zip(found, below, strict=True)
        ]
    return plan.fusion


def by_page(plan: Plan) -> list[bool]:
    """Tell for each step whether the fused pass leaves the way back through it to the page."""
    found = []
    for fusion, rule, parts in zip(fusions(plan), plan.rules, plan.parts, strict=True):
        op = operation(fusion.step)
        kernels = fusion.parts and fusion.plain
        found.append(not (kernels or _passes(fusion.step, parts) or _hands_on(op, rule) or _divides_and_hands_on(op, rule)))
    return found


def _fold(plan: Plan, steps: list[Step], dead: list[bool], i: int) -> None:
    """Let a ReLU that is a layer of its own be done by the linear step that it alone reads, if units that it shuts get no relevance."""
    op = operation(steps[i])
    name = op.alone(steps[i]) if op.alone and not plan.parts[i] else steps[i].activation if op.view else "linear"
    below = _below(plan, steps, i)
    if not (layers.activation(name).clamps and dead[i]) or below < 0 or steps[below].activation != "linear":
        return
    halves = any(part.units for part in plan.parts[below])  # the half for z < 0 adds 0, which makes 0 of -0
    fused, folded = operation(steps[below]).fused, replace(steps[below], activation=name)
    if fused and fused.fits(folded) and not halves and _relu(folded, plan.parts[below], True):
        steps[below], dead[below] = folded, True
        steps[i] = replace(steps[i], kind=IDENTITY.name if op.alone else steps[i].kind, activation="linear")


def _relu(step: Step, parts: Sequence[Part], dead: bool) -> bool | float:
    """Return how line 1 of a linear step may be clamped for its activation: at a top only if nobody asks for what is cut off."""
    clamps, fused = layers.activation(step.activation).clamps, operation(step).fused
    if not clamps or isinstance(clamps, bool):
        return clamps
    fits = fused and fused.tops and fused.fits(step) and dead and not any(_is_own(step, part) for part in parts)
    return clamps if fits else False


def _below(plan: Plan, steps: Sequence[Step], i: int) -> int:
    """Return the step that step i alone reads, past those that do nothing; -1 if there is none."""
    while len(steps[i].inputs) == 1:
        i, above = steps[i].inputs[0], i
        if i < 0 or plan.consumers[i] != (above,):
            return -1
        if not (operation(steps[i]).view and steps[i].activation == "linear" and steps[i].input_shape == steps[i].output_shape):
            return i
    return -1


def _fusion(plan: Plan, step: Step, i: int, dead: bool, bends: bool) -> Fusion:
    parts = _fusible_parts(plan, step, i, dead)
    fused = operation(step).fused
    plain = all(map(_is_plain, parts)) or (fused is not None and 1 < max(len(part.terms) for part in parts) <= fused.terms)
    beside = tuple(part for part in parts if (plain or _is_plain(part)) and not _is_own(step, part))
    by_kernels = not layers.is_linear(step) or (fused is not None and fused.fits(step))  # else NumPy reads what a queue hasn't written
    queued = operation(step).queueable and by_kernels and not (fused is not None and fused.singly and beside) and plain and not step.score
    return Fusion(step, _relu(step, plan.parts[i], dead), parts, beside, plain, queued, -1, bends)


def _fusible_parts(plan: Plan, step: Step, i: int, dead: bool) -> tuple[Part, ...]:
    """Return the parts of step i's rule as the fused pass runs them; none if the page has to.

    Each is made of products with the activation or a part of it, over a denominator that the kernels can divide by. Parts for units
    that a ReLU has set to 0 are left out where such units get no relevance.
    """
    parts, fused = plan.parts[i], operation(step).fused
    if not fused or not fused.fits(step) or step.stand_in is not None or not _divides(plan.rules[i]):
        return ()
    if layers.activation(step.activation).opens:
        if not dead:
            return ()
        parts = tuple(replace(part, units="") for part in parts if part.units not in ("z<0", "y<0"))
    return parts if all(_is_simple(part) for part in parts) and len(parts) <= 2 else ()


def _passes(step: Step, parts: Sequence[Part]) -> bool:
    """Tell whether relevance passes a step as it is, or is only moved, and there are kernels for that."""
    return operation(step).queueable and (layers.only_moves(step) or not parts)


def _hands_on(op: Operation, rule: Rule) -> bool:
    """Tell whether a step gives its relevance to those who won, and there are kernels for it."""
    return op.routes is not None and rule.transparent and rule.row.decision == "held"


def _divides_and_hands_on(op: Operation, rule: Rule) -> bool:
    """Tell whether a step gives its relevance, over its output, to those who won, and there are kernels for it."""
    return op.routes is not None and op.routes.times is not None and _divides(rule) and not rule.averages


def _divides(rule: Rule) -> bool:
    """Tell whether the kernels can divide by what a rule's stabiliser makes of z."""
    return rule.stabiliser in _STABILISERS and bool(rule.epsilon)


def _is_simple(part: Part) -> bool:
    return all(term.input in ("a", "a+", "a-") and isinstance(term.weight, Clamp) for term in part.terms) and not part.units


def _is_plain(part: Part) -> bool:
    """Tell whether a part is one product with the activation itself, as every one is behind a ReLU."""
    return [term.input for term in part.terms] == ["a"]


def _is_own(step: Step, part: Part) -> bool:
    """Tell whether a part's denominator is what the layer itself computes."""
    return part.terms == (Term("a", AS_IS),) and (part.bias == AS_IS or step.bias is None or not step.bias.any())


def _forward(fusion: Fusion, inputs: Sequence[np.ndarray], workspace: Workspace) -> tuple[np.ndarray, list[np.ndarray]]:
    """Do line 1 of a linear step, clamped where its activation is a ReLU, and beside it for parts of its rule."""
    step, op = fusion.step, operation(fusion.step)
    if op.fused and op.fused.fits(step):
        return op.fused.forward(step, inputs, fusion.relu, fusion.beside, workspace)
    return layers.forward(step, [op.gather(step, inputs)], [AS_IS], AS_IS, bool(fusion.relu)), []


def _beside(plan: Plan, i: int, fusion: Fusion, inputs: Sequence[np.ndarray], workspace: Workspace) -> list[np.ndarray]:
    """Do line 1 of step i for parts of its rule alone."""
    fused = operation(fusion.step).fused
    if fused and fused.beside and _beside_by_kernels(fusion):
        return fused.beside(fusion.step, inputs, fusion.beside, workspace)
    return [_of_part(plan, i, inputs, part) for part in fusion.beside]


def _beside_by_kernels(fusion: Fusion) -> bool:
    fused = operation(fusion.step).fused
    return bool(fusion.beside and fused and fused.beside and fused.fits(fusion.step))


def _of_part(plan: Plan, i: int, inputs: Sequence[np.ndarray], part: Part) -> np.ndarray:
    """Do line 1 for one part of step i's rule."""
    step = plan.steps[i]
    a = operation(step).gather(step, inputs)
    return layers.forward(step, layers.changed_inputs(a, plan.rules[i], part), [term.weight for term in part.terms], part.bias)


def _carry_parts(plan: Plan, i: int, s: Sequence[np.ndarray], inputs: Sequence[np.ndarray], parts: Sequence[Part]) -> np.ndarray:
    """Do lines 3 and 4 for all parts of step i's rule, part by part."""
    step = plan.steps[i]
    a = operation(step).gather(step, inputs)
    total: np.ndarray | None = None
    for each, part in zip(s, parts, strict=True):
        carried = layers.transpose(step, each, [term.weight for term in part.terms])
        share = layers.multiply(layers.changed_inputs(a, plan.rules[i], part), carried)
        total = share if total is None else np.add(total, share, out=total)
    assert total is not None
    return total


def _division(plan: Plan, trace: Trace, i: int) -> Division | None:
    """Return what line 2 divides by at step i, if the forward pass has it."""
    if i not in trace.denominators:
        return None
    return Division(trace.denominators[i], plan.rules[i], tuple(part.weight for part in fusions(plan)[i].parts))
