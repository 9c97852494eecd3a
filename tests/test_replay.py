"""Passes that are run again without being noted down anew have the bits of passes that are, whatever comes between."""

import dataclasses
import gc
import weakref

import numpy as np
import pytest

import nplrp
from nplrp import fused, jit
from nplrp.jit import DISABLED, checked_queues, team
from nplrp.jit.queue import Program
from nplrp.jit.queue import _owner as owner
from nplrp.replay import Passage
from nplrp.rules.composites import COMPOSITES
from nplrp.serve.engine import Engine
from nplrp.workspace import Workspace, workspace_of
from tests import bits, zoo
from tests.networks import images, small_resnet, small_vgg

pytestmark = pytest.mark.skipif(DISABLED, reason="plain Python runs at once, and notes nothing down")


@pytest.fixture
def again(monkeypatch):
    """Count passes that are run again, by their name."""
    found, ask = {}, Passage.again

    def counted(self):
        left = ask(self)
        if left is not None:
            found[self._key[0]] = found.get(self._key[0], 0) + 1
        return left

    monkeypatch.setattr(Passage, "again", counted)
    return found


def noted(monkeypatch, function):
    """Return what a function does where every pass is noted down."""
    with monkeypatch.context() as patch:
        patch.setattr(Passage, "again", lambda self: None)
        return function()


def digest(explanation):
    return explanation.relevance.tobytes(), explanation.logits.tobytes(), explanation.output.tobytes()


def check_all(model, pictures, composites, monkeypatch, **more):
    """Explain pictures in turn by all composites, and compare with passes that are all noted down."""
    for composite in composites:
        expected = noted(monkeypatch, lambda c=composite: [digest(nplrp.explain(model, x, c, **more)) for x in pictures])
        assert [digest(nplrp.explain(model, x, composite, **more)) for x in pictures] == expected, composite


@pytest.mark.parametrize("make", [bits.network, bits.every_kind, bits.global_max, small_vgg, small_resnet])
def test_other_pictures_have_their_own_bits(make, again, monkeypatch):
    """Also where the page has the top, the bottom or the middle."""
    model = make()
    check_all(model, [images(k, 2, model.input_shape) for k in range(4)], (*COMPOSITES, "wsquare", "gamma", "flat"), monkeypatch)
    assert again["forward"] >= 20
    assert again["backward"] >= 6


def test_whatever_comes_between(again, monkeypatch):
    """Other composites, targets, batches, dtypes, predictions and threads, in any order: a workspace has places for all of them."""
    model, rng = bits.network(), np.random.default_rng(0)
    pictures = {n: [images(10 * n + k, n, model.input_shape) for k in range(2)] for n in (1, 3)}
    asked = [
        lambda x: digest(nplrp.explain(model, x, "epsilon")),
        lambda x: digest(nplrp.explain(model, x, "epsilon_plus", "top-3")),
        lambda x: digest(nplrp.explain(model, x, "zplus", 1, "float64")),
        lambda x: [digest(e) for e in nplrp.explain_each(model, x, ["epsilon", "zplus"])],
        lambda x: nplrp.logits(model, x).tobytes(),
        lambda x: digest(nplrp.explain(model, x, "epsilon", algorithm="direct")),
    ]
    questions = [(ask, x) for ask in asked for each in pictures.values() for x in each]
    expected = noted(monkeypatch, lambda: [ask(x) for ask, x in questions])
    for k in rng.integers(len(questions), size=300):
        monkeypatch.setattr(jit, "threads", lambda k=k: 1 + k % 3)
        ask, x = questions[k]
        assert ask(x) == expected[k]
    assert min(again[name] for name in ("forward", "backward", "outputs")) > 5


def test_a_pass_that_ends_early_harms_none_after_it(monkeypatch):
    model, x = bits.network(), images(0, 1, (16, 16, 3)).astype(np.float32)
    (expected,) = {digest(nplrp.explain(model, x, "epsilon")) for _ in range(6)}
    run = Program.run

    def interrupted(self, inputs):
        run(self, inputs)
        raise KeyboardInterrupt

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(Program, "run", interrupted)
            with pytest.raises(KeyboardInterrupt):
                nplrp.explain(model, x, "epsilon")
        assert digest(nplrp.explain(model, x, "epsilon")) == expected


def test_checked_queues_and_crews_note_everything_down(again, monkeypatch):
    model, x = bits.network(), images(0, 1, (16, 16, 3)).astype(np.float32)
    (expected,) = {digest(nplrp.explain(model, x, "epsilon")) for _ in range(6)}
    before = dict(again)
    with checked_queues():
        assert digest(nplrp.explain(model, x, "epsilon")) == expected
    monkeypatch.setattr(team, "openmp", lambda: None)
    monkeypatch.setattr(jit, "threads", lambda: 2)
    assert [digest(nplrp.explain(model, x, "epsilon")) for _ in range(3)] == 3 * [expected]
    assert before and again == before


def test_no_picture_is_kept(again):
    """Of what comes from outside nothing stays; and passes stay only where the memory that they run in is."""
    model, x = bits.network(), images(0, 1, (16, 16, 3)).astype(np.float32)
    plan = nplrp.make_plan(model, "epsilon")
    for _ in range(6):
        picture = x.copy()
        gone = weakref.ref(picture)
        with workspace_of(model) as workspace:
            trace = fused.run_forward(plan, picture, workspace)
            R = trace.logits.copy()
            fused.run_backward(plan, trace, R, None, workspace, spend=True)
        del picture, trace
        gc.collect()
        assert gone() is None
    assert set(again) == {"forward", "backward"}
    (workspace,) = model.kept.workspaces
    assert workspace.replays
    workspace.empty((workspace.size + 1,), np.dtype(np.uint8))
    assert not workspace.replays


def test_passes_go_with_their_plan_and_with_prepared_weights():
    """A server forgets plans and prepared weights when there are too many: whatever still holds a plan, these are gone."""
    model, x = bits.network(), images(0, 1, (16, 16, 3)).astype(np.float32)
    for _ in range(6):
        e = nplrp.explain(model, x, "epsilon")
    (workspace,) = model.kept.workspaces
    assert len(workspace.replays) == 1
    packed = next(each for step in e.plan.steps for each in step.prepared.values() if hasattr(each, "weights"))
    gone = weakref.ref(owner(packed.weights.blocks))
    del packed
    engine = Engine(model, max_prepared=0)
    engine._forget()
    gc.collect()
    assert not workspace.replays
    assert gone() is None
    for _ in range(6):
        again = nplrp.explain(model, x, "epsilon")
    assert digest(again) == digest(e)
    model.kept.plans.clear()
    assert len(workspace.replays) == 1
    del again
    gc.collect()
    assert not workspace.replays


def test_a_workspace_goes_back_to_a_state():
    space = Workspace()
    first = [space.empty((100,), np.dtype(np.float32)) for _ in range(3)]
    space.give(first[1])
    state, other = space.state(), space.empty((50,), np.dtype(np.float32))
    assert not space.state().fits(state)
    space.give(other)
    assert space.state().fits(state)
    space.give(*first)
    space.restore(state)
    assert space.state().fits(state)
    again = space.empty((100,), np.dtype(np.float32))
    assert again.ctypes.data == first[1].ctypes.data
    assert space.holds([again, again[3:], np.zeros(3)]) == [True, True, False]


@pytest.mark.parametrize("dialect", [pytest.param("keras2", marks=pytest.mark.slow), "keras3"])
def test_networks_of_the_zoo(dialect, tmp_path, again, monkeypatch):
    """Whatever a step does while it is noted down: if it looked at numbers, those of the next picture would be missing."""
    ran = 0
    for name in zoo.names(dialect, "everyday"):
        network = zoo.network(name)
        try:
            model = nplrp.load(zoo.write(network, tmp_path, network.layouts[-1]))
            pictures = [network.inputs().astype(np.float32) * np.float32(1 + k / 8) for k in range(2)]
            for x in pictures:  # each by a model of its own, so that nothing is run again
                nplrp.explain(dataclasses.replace(model), x, "epsilon_plus", start="all")
        except nplrp.NplrpError:
            continue
        check_all(model, pictures, ("epsilon_plus",), monkeypatch, start="all")
        expected = noted(monkeypatch, lambda m=model, p=pictures: [nplrp.logits(m, x).tobytes() for x in p])
        assert [nplrp.logits(model, x).tobytes() for x in pictures] == expected
        ran += 1
    assert ran > 100
    assert all(again[name] > 100 for name in ("forward", "backward", "outputs"))
