"""Many kernels that one team of threads runs one after the other.

Between two kernels that are called one by one, the team goes to sleep and Python, whose data the kernels have driven out of the caches,
takes its time: with 80 kernels a tenth of an explanation. Kernels that don't wait for Python are noted down instead, and run by one team of
OpenMP's, in which every thread waits for the others after each kernel. Without OpenMP they are run one by one.
"""

import ctypes
import functools

import numpy as np
from llvmlite import ir

from nplrp.kernels import launch
from nplrp.kernels.numba_later import intrinsic, types
from nplrp.kernels.parallel import DISABLED, at_once, shared_kernel, waiting

_I64 = ir.IntType(64)
#: Looks at the counter before a waiting thread gives its core to others.
_PATIENCE = 4000


class Queue:
    """Kernels that wait to be run.

    Inside `with queue:` calls of shared kernels are noted down; `run` runs them. Until then nobody may look at what they write, nor write
    what they read, but by further such calls.
    """

    def __init__(self):
        self._calls = []

    def __enter__(self):
        waiting.queue = None if DISABLED else self
        return self

    def __exit__(self, *exception):
        waiting.queue = None

    def add(self, nt, code, numbers, arguments):
        """Note down a call in `nt` parts; `arguments` are kept until it is done."""
        self._calls.append((nt, code, numbers, arguments))

    def run(self):
        """Run what waits.

        Raises
        ------
        MemoryError
            If a kernel got no memory for its buffers.
        """
        if not self._calls:
            return
        threads, (number, size) = max(nt for nt, *_ in self._calls), launch.team_functions()
        try:
            if threads > 1 and not number:  # Python's threads may begin late, or never: they don't wait for each other inside kernels
                for nt, code, numbers, _ in self._calls:
                    code.share(numbers, nt)
                return
            blocks = [code.block(numbers) for _, code, numbers, _ in self._calls]
            calls = [(code.part_address, ctypes.addressof(block), nt) for (nt, code, *_), block in zip(self._calls, blocks, strict=True)]
            team = (number, size) if threads > 1 else (0, 0)  # alone there is no team to ask
            with at_once():
                _run_all(threads, np.array(calls, np.int64).reshape(-1), np.zeros(1, np.int64), *team, _give_way())
            for (_, code, *_), block in zip(self._calls, blocks, strict=True):
                code.result(block)
        finally:
            self._calls = []


@functools.cache
def _give_way():
    """Return the address of sched_yield, or 0."""
    try:
        return ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0
    except (OSError, TypeError, AttributeError):
        return 0


@intrinsic
def _call(typing, function, block, t, nt):
    """Do part t of nt of a kernel: `part` of `nplrp.kernels.compiling`."""

    def emit(context, builder, signature, args):
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, _I64, _I64])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [builder.inttoptr(args[1], pointer), args[2], args[3]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), emit


@intrinsic
def _ask(typing, function):
    """Return what a C function int f(void) returns."""

    def emit(context, builder, signature, args):
        kind = ir.FunctionType(ir.IntType(32), [])
        return builder.sext(builder.call(builder.inttoptr(args[0], kind.as_pointer()), []), _I64)

    return types.int64(types.int64), emit


@intrinsic
def _arrive(typing, counter):
    """Add 1 to counter[0], once everything before is visible to the other threads."""

    def emit(context, builder, signature, args):
        place = context.make_array(signature.args[0])(context, builder, args[0]).data
        builder.atomic_rmw("add", place, ir.Constant(_I64, 1), "seq_cst")
        return context.get_dummy_value()

    return types.void(counter), emit


@intrinsic
def _arrived(typing, counter):
    """Return counter[0]; what the other threads did before they arrived is visible from here on."""

    def emit(context, builder, signature, args):
        place = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(place, "seq_cst", 8, typ=_I64)

    return types.int64(counter), emit


@shared_kernel
def _run_all(t, nt, calls, counter, number, size, give_way):
    """Run calls [(function, block, parts), ...] alone, or as one thread of OpenMP's: `number` and `size` say which, and of how many."""
    team = nt
    if number != 0:
        if _ask(number) != t:  # a part for a thread that there isn't
            return
        team = _ask(size)
    for k in range(len(calls) // 3):
        parts = calls[3 * k + 2]
        for part in range(t, parts, team):
            _call(calls[3 * k], calls[3 * k + 1], part, parts)
        _arrive(counter)
        looks = 0
        while _arrived(counter) < (k + 1) * team:
            looks += 1
            if looks > _PATIENCE and give_way != 0:
                _ask(give_way)
