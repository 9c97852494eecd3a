"""Memory: many calls leave nothing behind, and loading a file maps it instead of reading it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nplrp
from nplrp.model import chain
from nplrp.workspace import Workspace
from tests.keras_files import vgg, write_by_name
from tests.networks import conv, dense, images, pool, random_kernel
from tests.test_lrp import two_convs

ROOT = Path(__file__).parent.parent
ANONYMOUS = """
import re
from pathlib import Path
def resident(kind):
    return 1024 * int(re.search(rf"{kind}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")


def run(code, *arguments):
    command = [sys.executable, "-c", ANONYMOUS + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def test_many_calls_leave_nothing_behind():
    """One activation (131 KB) that every call leaves behind would show as 13 MB."""
    code = """
import nplrp
import numpy as np
from nplrp.model import chain
from tests.networks import conv, dense, plain, pool, random_kernel

rng = np.random.default_rng(0)
layers = [conv("conv1", random_kernel(rng, 3, 3, 3, 64)), conv("conv2", random_kernel(rng, 3, 3, 64, 64)), pool("pool")]
layers += [plain("mean", "global_avgpool"), dense("logits", random_kernel(rng, 64, 5), activation="linear")]
model = chain((16, 16, 3), layers)
x = rng.normal(size=(2, 16, 16, 3)).astype(np.float32)

def explain(times):
    for i in range(times):
        explanation = nplrp.explain(model, x, ("notebook", "epsilon", "zplus", "alpha_beta")[i % 4])
        if i % 10 == 0:
            explanation.relevances, explanation.ledger

explain(40)
ways = [{each.algorithm for each in step.prepared.values() if hasattr(each, 'algorithm')} for step in nplrp.make_plan(model).steps[:2]]
assert ways == [{"direct"}, {"winograd"}], ways
before = resident("RssAnon")
explain(100)
print(resident("RssAnon") - before)
"""
    (growth,) = run(code)
    assert growth < 2_000_000


def test_failed_calls_leave_nothing_behind():
    code = """
import nplrp
import numpy as np
from tests.networks import small_vgg
model = small_vgg()
x = np.zeros((8, 8, 8, 3), np.float32)
bad = x.copy()
bad[3, 1, 1, 1] = np.nan

def fail(times):
    for _ in range(times):
        for argument, target in ((bad, None), (x, 99), (x[..., :2], None)):
            try:
                nplrp.explain(model, argument, target=target)
            except nplrp.NplrpError:
                continue
            raise AssertionError("no error")

fail(50)
before = resident("RssAnon")
fail(500)
print(resident("RssAnon") - before)
"""
    (growth,) = run(code)
    assert growth < 1_000_000


def test_loading_maps_the_weights(tmp_path):
    """Of 64 MB of weights, loading makes less than 4 resident; reading them all makes them resident, but not private."""
    layers = dict(vgg(side=1))
    big = np.zeros((4, 4_000_000), np.float32)
    big[:, ::1000] = 1
    layers["fc1"] = [big, np.zeros(4_000_000, np.float32)]
    layers["fc2"] = [np.ones((4_000_000, 1), np.float32), np.ones(1, np.float32)]
    layers["predictions"] = [np.ones((1, 3), np.float32), np.ones(3, np.float32)]
    path = write_by_name(tmp_path / "big.h5", list(layers.items()))
    code = """
import sys
import nplrp
def total():
    return resident("RssAnon") + resident("RssFile")
small = nplrp.load(sys.argv[1])  # modules and their tables
del small
before, anonymous = total(), resident("RssAnon")
model = nplrp.load(sys.argv[1])
loaded = total() - before
for layer in model:
    for array in layer.arrays.values():
        array.max()
print(loaded, total() - before, resident("RssAnon") - anonymous)
"""
    loaded, read, private = run(code, path)
    assert loaded < 4_000_000
    assert read > 60_000_000
    assert private < 4_000_000


def test_batches_of_all_sizes_share_memory():
    """What a model keeps is what its largest batch needs, in whatever order they come."""
    model = two_convs()

    def held():
        (workspace,) = model.kept.workspaces
        return workspace.size

    sizes = {}
    for n in (8, 7, 1, 8, 3, 5, 8, 2, 6, 4, 8):
        nplrp.explain(model, images(0, n, (12, 12, 64)), "zplus")
        sizes.setdefault(n, []).append(held())
    assert max(max(each) for each in sizes.values()) <= 1.05 * sizes[8][0]
    fresh = two_convs()
    for n in range(1, 9):
        nplrp.explain(fresh, images(0, n, (12, 12, 64)), "zplus")
    model = fresh
    assert held() <= 1.3 * sizes[8][0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5000)), min_size=1, max_size=60))
def test_arrays_of_a_workspace_share_no_memory(steps):
    """Whatever is taken and given back in whatever order: each array keeps its numbers; a second pass of the same needs no more memory."""
    space = Workspace()
    for _ in range(3):
        out = []
        for k, (place, size) in enumerate(steps):
            if place < 4 and out:
                array, number = out.pop(place % len(out))
                assert np.all(array == number)
                space.give(array)
            array = space.empty((size,), np.dtype(np.float32))
            array[:] = k
            out.append((array, k))
        for array, number in out:
            assert np.all(array == number)
        space.give_all()
    held = space.size
    for _, size in steps:
        space.give(space.empty((size,), np.dtype(np.float32)))
    assert space.size == held


def test_a_layers_arrays_are_given_back_once_the_pass_has_gone_by():
    """A pass back needs no more than the forward pass has left, but for where it begins; bits are the same as where all is kept."""
    rng = np.random.default_rng(0)
    layers = [conv(f"conv{i}", random_kernel(rng, 3, 3, 3 if i == 0 else 16, 16)) for i in range(12)]
    model = chain((32, 32, 3), [*layers, pool("mean", "global_avgpool"), dense("logits", random_kernel(rng, 16, 5))])
    x, layer = images(0, 1, (32, 32, 3)), 32 * 32 * 16 * 4
    for target, maps in ((0, 1), ([[0, 1, 2, 3]], 4)):
        for _ in range(3):
            e = nplrp.explain(model, x, "epsilon", target)
        (workspace,) = model.kept.workspaces
        assert workspace._most < (12 + 2 * maps + 2) * layer
        assert e.relevance.tobytes() == nplrp.explain_each(model, x, ["epsilon", "zplus"], target)[0].relevance.tobytes()
        model.kept.workspaces.clear()
