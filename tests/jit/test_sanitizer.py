"""A checked queue notices whoever uses arrays of kernels that wait, and only him."""

import numpy as np
import pytest

from nplrp.jit import DISABLED, Queue, at_once, checked_queues, in_threads, is_queueable, kernel, queueable, shared_kernel
from nplrp.jit.queue import DataRaceError

pytestmark = pytest.mark.skipif(DISABLED, reason="plain Python runs at once")


@shared_kernel
def _add(t, nt, x, y, k, out):
    """Write x + k y to `out`."""
    for i in range(x.size * t // nt, x.size * (t + 1) // nt):
        out[i] = x[i] + k * y[i]


@kernel
def _first(x):
    return x[0]


def frozen(x):
    x = x.view()
    x.flags.writeable = False
    return x


@queueable
def add(x, y, k, out):
    _add(2, frozen(x), frozen(y), k, out)


def arrays(dtype=np.float32):
    rng = np.random.default_rng(0)
    return [rng.integers(1, 9, 100).astype(dtype) for _ in range(4)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
def test_kernels_get_the_right_numbers(dtype):
    """Chains, additions in place, memory that is used again, and parts of arrays."""
    x, y, z, out = arrays(dtype)
    with Queue(checked=True) as queue:
        for _ in range(2):
            add(x[:60], y[:60], 2, out[:60])
            add(x, out, 2, z)
            add(z, z, 2, z)
            add(y[:60], z[40:], 2, out[40:])
    queue.run()
    queue.run()  # nothing waits
    results = z.copy(), out.copy()
    x, y, z, out = arrays(dtype)
    for _ in range(2):
        out[:60] = x[:60] + 2 * y[:60]
        z[:] = x + 2 * out
        z[:] = 3 * z
        out[40:] = y[:60] + 2 * z[40:]
    assert np.array_equal(results[0], z)
    assert np.array_equal(results[1], out)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
def test_who_reads_too_early_sees_no_number_of_before_or_after(dtype):
    x, y, _, out = arrays(dtype)
    with Queue(checked=True) as queue:
        add(x, y, 2, out)
        early = out.copy()
    queue.run()
    assert np.isnan(early).all() if early.dtype.kind == "f" else (early == np.iinfo(dtype).max).all()
    assert np.array_equal(out, x + 2 * y)


def test_who_calculates_with_it_is_warned():
    x, y, z, out = arrays()
    with Queue(checked=True) as queue:
        add(x, y, 2, out)
    with pytest.warns(RuntimeWarning, match="invalid value"):
        z += out
    queue.run()


def test_who_runs_a_kernel_on_it_at_once_gets_a_nan():
    x, y, z, out = arrays()
    with Queue(checked=True) as queue:
        add(x, y, 2, out)
        with at_once():
            add(x, out, 2, z)
    add(x, y, 2, x)  # outside of the block: at once, and harmful
    assert np.isnan(z).all()
    with pytest.raises(DataRaceError, match=r"an array \[100\] of float32 that tests.jit.test_sanitizer._add reads"):
        queue.run()


@pytest.mark.parametrize("in_place", [True, False])
def test_who_writes_to_what_a_kernel_will_write(in_place):
    x, y, _, out = arrays()
    with Queue(checked=True) as queue:
        add(x, y, 2, out)
    if in_place:
        with np.errstate(invalid="ignore"):
            out += 1
    else:
        out[7] = 0
    with pytest.raises(DataRaceError, match=r"an array \[100\] of float32 that tests.jit.test_sanitizer._add writes"):
        queue.run()
    assert np.array_equal(out, arrays()[3]), "the numbers of before"
    with queue:
        add(x, y, 2, out)
    queue.run()
    assert np.array_equal(out, x + 2 * y), "it is empty afterwards"


def test_who_writes_to_what_a_kernel_will_read():
    x, y, _, out = arrays()
    with Queue(checked=True) as queue:
        add(x, y, 2, out)
        y[99] += 1
    with pytest.raises(DataRaceError, match="reads was written"):
        queue.run()


def test_what_waits_may_be_overwritten_by_what_waits_later():
    x, y, z, out = arrays()
    expected = x + 2 * y
    with Queue(checked=True) as queue:
        add(x, y, 2, out)
        add(z, z, 0, x)
        add(out, x, 0, y)
    queue.run()
    assert np.array_equal(y, expected)
    assert np.array_equal(x, z)


@pytest.mark.parametrize("declared", [True, False])
def test_what_is_not_declared_is_refused(declared):
    """A wrapper is a function of the kernel's package; whoever calls it from elsewhere needs no declaration."""
    x, y, _, out = arrays()
    source = "def outer(*args):\n    inner(*args)\ndef inner(*args):\n    kernel(*args)\n"
    module = {"__name__": "tests.jit.wrappers", "kernel": lambda *args: _add(2, *args)}
    exec(compile(source, "wrappers.py", "exec"), module)
    queueable(module["inner"])
    if declared:
        queueable(module["outer"])
    assert is_queueable(module["outer"]) == declared
    with Queue(checked=True) as queue:
        if declared:
            module["outer"](x, y, 2, out)
        else:
            with pytest.raises(DataRaceError, match=r"tests.jit.wrappers.outer is called in a queue"):
                module["outer"](x, y, 2, out)
            module["inner"](x, y, 2, out)
    queue.run()
    assert np.array_equal(out, x + 2 * y)


def test_who_asks_for_a_number_runs_what_waits():
    x, y, _, out = arrays()
    with Queue(checked=True) as queue:
        add(x, y, 2, out)
        assert _first(out) == x[0] + 2 * y[0]
        seen = []
        in_threads(lambda t, nt: seen.append(out[t]), 2)
    assert sorted(seen) == sorted(x[:2] + 2 * y[:2])
    queue.run()


def test_queues_are_checked_inside_the_block_only():
    x, y, _, out = arrays()
    with checked_queues(), Queue() as checked:
        add(x, y, 2, out)
    assert np.isnan(out).all()
    checked.run()
    kept = out.copy()
    with Queue() as unchecked:
        add(x, x, 2, out)
    assert np.array_equal(out, kept)
    unchecked.run()
    with checked_queues(), Queue(checked=False) as unchecked:
        add(x, y, 2, out)
    assert not np.isnan(out).any()
    unchecked.run()


def test_arrays_with_gaps_are_refused():
    x, y, _, out = arrays()
    with Queue(checked=True), pytest.raises(ValueError, match="without gaps"):
        add(x, y, 2, out[::2])
