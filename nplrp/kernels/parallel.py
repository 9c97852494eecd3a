"""How every kernel of this folder is compiled, and the one lock that keeps parallel kernels from running at once."""

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from llvmlite import ir
from numba import prange
from numba.core import cgutils, config, types
from numba.extending import intrinsic

from nplrp.kernels.jit_cache import KernelCache
from nplrp.kernels.launch import Launcher

#: Numba's workqueue layer, the only one that is always there, aborts the process on concurrent entry.
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lock._at_fork_reinit)  # type: ignore[attr-defined]


_I64 = ir.IntType(64)
_THUNK = ir.FunctionType(ir.VoidType(), [_I64] * 3)


def kernel(function):
    """Compile a serial kernel, cached on disk (`nplrp.kernels.jit_cache`): use it instead of ``numba.njit(cache=True)``."""
    return _compile(function, parallel=False)


def parallel_kernel(function):
    """Compile a kernel with `prange`, cached on disk; calls from several threads wait for each other.

    The result is a Python function: kernels don't call it, they call its serial parts.
    """
    compiled = _compile(function, parallel=True)

    @functools.wraps(function)
    def call(*args):
        with _lock:
            return compiled(*args)

    return call


def shared_kernel(share):
    """Compile a kernel share(t, nt, *args) that does part t of nt of the work, cached on disk.

    The result is a Python function (nt, *args) that runs the parts in parallel. Parts write to places of their own. For one type of
    arguments every argument in the same position has the same dtype, number of axes and flags.
    """
    compiled = kernel(share)
    if config.DISABLE_JIT:

        def call(nt, *args):
            for t in range(nt):
                share(t, nt, *args)
    else:
        launcher = Launcher(compiled)

        def call(nt, *args):
            if nt <= 1:
                compiled(0, 1, *args)
                return
            key = tuple([(a.dtype.char, a.ndim, a.flags.num) if isinstance(a, np.ndarray) else type(a) for a in args])
            address = launcher.address(key, *args)
            with _lock:
                failed = _hand_out(_run_launcher.address("", 0, 0), address, nt, args)
            if failed:
                raise MemoryError(f"no memory for the buffers of {share.__qualname__}")

    return functools.wraps(share)(call)


def in_threads(part, nt, *args):
    """Call a serial kernel as part(*args, t, nt) for every t < nt, in nt Python threads.

    For what is too seldom called, or too long, to be worth the second that a `parallel_kernel` takes to compile: a call costs
    0.1 ms instead of 4 us. No layer of Numba's is involved, hence no lock.
    """
    if nt <= 1:
        part(*args, 0, 1)
        return
    with ThreadPoolExecutor(nt - 1) as pool:
        others = [pool.submit(part, *args, t, nt) for t in range(1, nt)]
        part(*args, 0, nt)
        for other in others:
            other.result()


def frozen(x):
    """Return x as a flat read-only array: an input is of one type for Numba, may it be writable, read-only or mapped from a file."""
    x = x.view(np.ndarray).reshape(-1)
    x.flags.writeable = False
    return x


def exclusive():
    """Return the process-wide lock as a context manager; a thread that holds it may take it again."""
    return _lock


def threads():
    """Return how many threads Numba would use now."""
    return numba.get_num_threads()


def _compile(function, parallel):
    if config.DISABLE_JIT:
        return function
    if parallel:  # only what `prange` says: the search for more costs seconds of compile time
        parallel = dict.fromkeys(("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion"), False)
        parallel["prange"] = True
    dispatcher = numba.njit(function, nogil=True, error_model="numpy", parallel=parallel)
    dispatcher._cache = KernelCache(function)
    return dispatcher


@intrinsic
def _call_thunk(typing, thunk, t, nt, block):
    def emit(context, builder, signature, values):
        builder.call(builder.inttoptr(values[0], _THUNK.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), emit


@functools.partial(_compile, parallel=True)
def _run(t, nt, thunk, block):
    """Call thunk(i, nt, block) for every i < nt, in parallel; t is always 0."""
    for i in prange(nt):
        _call_thunk(thunk, i, nt, block)


@intrinsic
def _hand_out_native(typing, run, share, nt, args):
    """Put share(t, nt, *args) behind a thunk (t, nt, block) that finds the arguments in a block of memory, and `run` the thunk."""
    whole = types.int64
    kinds = (whole, whole, *args)

    def emit(context, builder, signature, values):
        run, share, nt, args = values
        convention = context.call_conv
        items = cgutils.unpack_tuple(builder, args)
        layout = ir.LiteralStructType([_I64, _I64, *(item.type for item in items)])

        thunk = ir.Function(builder.module, _THUNK, f"{builder.function.name}.thunk")
        thunk.linkage = "internal"
        inner = ir.IRBuilder(thunk.append_basic_block())
        t, threads, place = thunk.args
        block = inner.load(inner.inttoptr(place, layout.as_pointer()), typ=layout)
        callee = inner.inttoptr(inner.extract_value(block, 0), convention.get_function_type(types.none, kinds).as_pointer())
        stored = [inner.extract_value(block, 2 + i) for i in range(len(items))]
        status, _ = convention.call_function(inner, callee, types.none, kinds, [t, threads, *stored])
        with cgutils.if_unlikely(inner, status.is_error):
            failed = inner.gep(inner.inttoptr(place, _I64.as_pointer()), [ir.Constant(_I64, 1)], source_etype=_I64)
            inner.store(ir.Constant(_I64, 1), failed)
        inner.ret_void()

        place = cgutils.alloca_once(builder, layout)
        block = ir.Constant(layout, ir.Undefined)
        for i, value in enumerate([share, ir.Constant(_I64, 0), *items]):
            block = builder.insert_value(block, value, i)
        builder.store(block, place)
        runner = builder.inttoptr(run, convention.get_function_type(types.none, (whole,) * 4).as_pointer())
        arguments = [ir.Constant(_I64, 0), nt, builder.ptrtoint(thunk, _I64), builder.ptrtoint(place, _I64)]
        convention.call_function(builder, runner, types.none, (whole,) * 4, arguments)
        return builder.extract_value(builder.load(place, typ=layout), 1)

    return whole(whole, whole, whole, args), emit


@kernel
def _hand_out(run, share, nt, args):
    return _hand_out_native(run, share, nt, args)


_run_launcher = Launcher(_run)
