"""Laws that every kind of layer keeps, as functions that tests of the kinds call."""

import hashlib
from functools import partial

import numba
import numpy as np

import nplrp
from nplrp import fused, layers, lrp
from nplrp.errors import ModelError
from nplrp.jit import checked_queues
from nplrp.layers import operation
from nplrp.plan import make_steps
from nplrp.rules import AS_IS, NOTHING, Clamp
from nplrp.span import Span, find_span
from nplrp.workspace import Workspace

#: Changes of weights: as they are, each sign alone, both by factors, and those of the w^2 and flat rules.
CHANGES = (AS_IS, Clamp(1.0, 0.0), Clamp(0.0, 1.0), Clamp(1.25, -0.5), "square", "ones")


def steps_of(model, dtype="float64"):
    """A model's steps, nothing merged."""
    return make_steps(model, np.dtype(dtype), "auto", merge=False)


def adjoint(step, change, seed=0, held=None, n=2, tolerance=1e-13, nothing=False):
    """<forward(a), s> = <a, transpose(s)> for a changed weight, without the bias: to rounding of the terms; 0 and 0 if `nothing`."""
    rng = np.random.default_rng(seed)
    dtype = np.float64 if step.weight is None else layers.wide(step).dtype
    a, s = rng.normal(size=(n, *step.input_shape)).astype(dtype), rng.normal(size=(n, *step.output_shape)).astype(dtype)
    z = layers.forward(step, [a], [change], NOTHING, held=held)
    (c,) = layers.transpose(step, s, [change], held)
    assert z.shape == s.shape and c.shape == a.shape
    left, right = np.sum(z * s, dtype=np.float64), np.sum(a * c, dtype=np.float64)
    size = max(np.sum(np.abs(z * s)), np.sum(np.abs(a * c)))
    assert (size == 0) == nothing
    assert abs(left - right) <= tolerance * size
    return z


def adjoint_of_moves(step, seed=0, n=2):
    """The same for what only moves: with whole numbers exactly."""
    rng = np.random.default_rng(seed)
    shapes = step.input_shapes or (step.input_shape,)
    inputs = [rng.integers(-9, 10, (n, *shape)).astype(float) for shape in shapes]
    s = rng.integers(-9, 10, (n, *step.output_shape)).astype(float)
    moved = layers.move(step, operation(step).gather(step, inputs))
    back = layers.scatter(step, layers.move_back(step, s))
    assert moved.shape == s.shape and [b.shape for b in back] == [a.shape for a in inputs]
    assert np.sum(moved * s) == sum(np.sum(a * b) for a, b in zip(inputs, back, strict=True))
    return moved


def fused_is_the_page(model, x, composite, dtype="float64", tolerance=None, **options):
    """The fused pass gives what the page does: the same bits, or numbers within `tolerance` of the largest."""
    plan = nplrp.make_plan(model, composite, dtype, **options)
    x = x.astype(dtype)
    page, fast = lrp.run_forward(plan.steps, x), fused.run_forward(plan, x)
    close(fast.logits, page.logits, tolerance)
    bent = []  # what a step does for the step that reads it, as well: its ReLU; what lies between has it too
    for step, fusion, one, other in zip(plan.steps, fused.fusions(plan), fast.activations[1:], page.activations[1:], strict=True):
        own = fusion.step.activation if step.activation == "linear" else "linear"
        between = operation(step).view and step.activation == own == "linear" and step.inputs[0] >= 0
        bent.append(bent[step.inputs[0]] if between else own)
        close(one, layers.bend(bent[-1], other), tolerance, step.name)
    R = np.random.default_rng(3).normal(size=page.logits.shape).astype(dtype)
    kept = {}
    by_page = lrp.run_backward(plan, page, R, kept.__setitem__)
    seen = {}
    back, space = partial(lrp.step_back, plan, fast), Workspace()
    with_keep = fused.run_backward(plan, fast, R, back, keep=lambda i, R: seen.update({i: R.copy()}))
    alone = fused.run_backward(plan, fused.run_forward(plan, x, space), R, back, space)
    assert np.array_equal(with_keep, alone)
    assert seen.keys() == kept.keys()
    assert np.abs(by_page).max() > 0
    for i, expected in kept.items():
        close(seen[i], expected, tolerance, i)
    for span in spans_of(plan.steps, kept):
        passed, stopped = {}, {}
        expected = lrp.run_backward(plan, page, R, passed.__setitem__, span)
        close(fused.run_backward(plan, fast, R, back, span=span), expected, tolerance, span)
        space.give_all()
        trace = fused.run_forward(plan, x, space)
        close(
            fused.run_backward(plan, trace, R, partial(lrp.step_back, plan, trace), space, span=span, spend=True), expected, tolerance, span
        )
        fused.run_backward(plan, fast, R, back, keep=lambda i, R, to=stopped: to.update({i: R.copy()}), span=span)
        assert stopped.keys() == passed.keys()
        for i, one in passed.items():
            close(stopped[i], one, tolerance, (span, i))
    return by_page


def spans_of(steps, passed):
    """Return spans from the top: to a layer in the middle and to the input, and both with masks on their way, some negative or 0."""
    rng, names = np.random.default_rng(len(steps)), [step.name for step in steps]
    bottoms = [-1]
    for i in sorted(passed, key=lambda i: abs(i - len(steps) // 2)):
        try:
            find_span(steps, None, names[i] if i >= 0 else None, None)
        except ModelError:  # there are ways past it
            continue
        bottoms.insert(0, i)
        break
    for bottom in bottoms:
        within = [i for i in passed if i >= bottom]
        some = rng.choice(within, min(3, len(within)), replace=False)
        shapes = {i: steps[i].output_shape if i >= 0 else steps[0].input_shape for i in map(int, some)}
        masks = {i: rng.integers(-1, 3, shape).astype(float) for i, shape in shapes.items()}
        yield Span(len(steps) - 1, bottom, {})
        yield Span(len(steps) - 1, bottom, masks)


def close(found, expected, tolerance, what=""):
    if tolerance is None:
        assert np.array_equal(found, expected), what
    else:
        assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max(), what


def batch_is_singles(model, x, composite, dtype="float32", **options):
    """Bit for bit, relevance and output."""
    whole = nplrp.explain(model, x, composite, dtype=dtype, **options)
    for i in range(len(x)):
        one = nplrp.explain(model, x[i : i + 1], composite, dtype=dtype, **options)
        assert one.relevance[0].tobytes() == whole.relevance[i].tobytes()
        assert one.logits[0].tobytes() == whole.logits[i].tobytes()
    return whole


def targets_are_singles(model, x, composite, targets, dtype="float32", **options):
    """Several targets, carried back together, have the bits that each has alone, in whatever order; and the last one at every layer."""
    several = nplrp.explain(model, x, composite, [targets] * len(x), dtype, **options)
    other = nplrp.explain(model, x, composite, [targets[::-1]] * len(x), dtype, **options)
    k = len(targets)
    assert several.targets.tolist() == list(targets) * len(x)
    singles = {target: nplrp.explain(model, x, composite, target, dtype, **options) for target in set(targets)}
    for place, target in enumerate(targets):
        alone = singles[target].relevance.tobytes()
        assert alone == several.relevance[place::k].tobytes() == other.relevance[k - 1 - place :: k].tobytes()
    assert list(several.relevances) == list(singles[targets[-1]].relevances)
    for name, R in singles[targets[-1]].relevances.items():
        assert R.tobytes() == several.relevances[name][k - 1 :: k].tobytes(), name


def digest(explanation):
    content = hashlib.sha256()
    for arrays in ({"": explanation.relevance}, explanation.relevances, explanation.activations):
        for name, array in arrays.items():
            content.update(name.encode() + array.tobytes())
    return content.hexdigest()


def any_threads(model, x, composite, dtype="float32", **options):
    """The same bits on one, two and three threads."""
    before, found = numba.get_num_threads(), set()
    try:
        for count in {1, min(2, numba.config.NUMBA_NUM_THREADS), numba.config.NUMBA_NUM_THREADS}:
            numba.set_num_threads(count)
            found.add(digest(nplrp.explain(model, x, composite, dtype=dtype, **options)))
    finally:
        numba.set_num_threads(before)
    assert len(found) == 1


def ledger_balances(model, x, composite, **options):
    """Every layer's residual is rounding: 1e-12 of its terms."""
    ledger = nplrp.explain(model, x, composite, dtype="float64", **options).ledger
    assert len(ledger) == len(model.layers)
    for entry in ledger.entries:
        assert np.all(np.abs(entry.residual) <= 1e-12 * entry.magnitude), entry.layer
    return ledger


def assert_balanced(explanation, units=1e-12):
    """The ledger has an entry for every step of the pass, each of numbers, and explains all but rounding."""
    span, steps = explanation.span, explanation.plan.steps
    ledger = explanation.ledger
    assert [entry.layer for entry in ledger.entries] == [steps[i].name for i in range(span.top, span.bottom, -1)]
    assert len(ledger) > 0
    for entry in ledger.entries:
        assert entry.residual.shape == (len(explanation.relevance),)
        assert np.all(entry.size_in >= np.abs(entry.relevance_in) * (1 - 1e-12)), entry.layer
        assert np.all(np.abs(entry.residual) <= units * entry.magnitude), (entry.layer, entry.rule)
    assert max(entry.magnitude.max() for entry in ledger.entries) > 0


def keeps_the_rule_of_queues(model, x, composite, dtype="float32"):
    """Nothing but kernels uses the arrays of kernels that wait: no error, and the same bits."""
    expected = nplrp.explain(model, x, composite, dtype=dtype).relevance
    with checked_queues():
        found = nplrp.explain(model, x, composite, dtype=dtype).relevance
    assert found.tobytes() == expected.tobytes()
