"""A second process compiles what comes later, only if something has to be compiled, and ends with the first."""

import functools
import subprocess
import threading

import pytest

from nplrp import precompile
from nplrp.jit import cache, team
from nplrp.jit.ahead import compiling_ahead
from nplrp.kernels import winograd_conv


@pytest.fixture
def started(monkeypatch):
    """Record what is started instead of starting it."""
    seen = []

    class Process:
        def __init__(self, command, **_):
            seen.append(command)

        def terminate(self):
            seen.append("terminated")

        def wait(self):
            seen.append("waited for")

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(team, "cores", lambda: 2)
    return seen


@pytest.fixture
def compile_something(monkeypatch):
    """Do what the first kernel does that is compiled in a process."""
    monkeypatch.setattr(cache, "_announce", functools.cache(cache._announce.__wrapped__))
    return cache.announce


def test_nothing_is_started_without_need(started, compile_something):
    with compiling_ahead("nplrp.precompile", "notebook", "float32"):
        pass
    compile_something()  # outside
    with compiling_ahead("nplrp.precompile", "notebook", "float32"):
        compile_something()  # not the first
    assert started == []


def test_callbacks_are_called_once_by_any_thread(compile_something):
    called = []
    with cache.on_first_compile(lambda: called.append(1)), cache.on_first_compile(lambda: called.append(2)):
        threads = [threading.Thread(target=compile_something) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert called == [1, 2]
    assert cache._callbacks() == []


def test_it_ends_with_a_block_that_fails(started, compile_something):
    with pytest.raises(ValueError), compiling_ahead("nplrp.precompile", "zplus", "float32"):
        compile_something()
        raise ValueError
    assert started[1:] == ["terminated", "waited for"]


def test_it_is_started_once_and_ends_with_the_block(started, compile_something):
    with compiling_ahead("nplrp.precompile", "zplus", "float64"):
        compile_something()
        assert started[0][1:] == ["-m", "nplrp.precompile", "zplus", "float64"]
    assert started[1:] == ["terminated", "waited for"]


@pytest.mark.parametrize("why", ["one core", "no cache", "no program"])
def test_where_it_would_be_of_no_use(started, compile_something, why, monkeypatch):
    if why == "one core":
        monkeypatch.setattr(team, "cores", lambda: 1)
    elif why == "no cache":
        monkeypatch.setattr(cache, "cache_directory", lambda: None)
    else:
        monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: (_ for _ in ()).throw(OSError("no such program")))
    with compiling_ahead("nplrp.precompile", "notebook", "float32"):
        compile_something()
    assert started == []


@pytest.mark.parametrize("composite", ["notebook", "alpha_beta"])
def test_what_it_runs_needs_the_later_kernels(composite, monkeypatch):
    called = set()
    original = winograd_conv.convolve
    monkeypatch.setattr(winograd_conv, "convolve", lambda *args: (called.add("convolve"), original(*args))[1])
    precompile.main(composite, "float32")
    assert called == {"convolve"}
