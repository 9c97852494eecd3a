"""Many kernels that one team of threads runs one after the other.

Between two kernels that are called one by one, the team goes to sleep and Python, whose data the kernels have driven out of the caches,
takes its time: with 80 kernels a tenth of an explanation. Kernels that don't wait for Python are noted down instead, and run by one team,
in which every thread waits for the others after each kernel.
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
        self._calls, self._blocks, self._codes, self._arguments, self._threads = [], [], [], [], 1

    def __enter__(self):
        waiting.queue = None if DISABLED else self
        return self

    def __exit__(self, *exception):
        waiting.queue = None

    def add(self, nt, code, numbers, arguments):
        """Note down a call in `nt` parts; `arguments` are kept until it is done."""
        block = code.block(numbers)
        self._calls.append((code.part_address, ctypes.addressof(block), nt))
        self._blocks.append(block)
        self._codes.append(code)
        self._arguments.append(arguments)
        self._threads = max(self._threads, nt)

    def run(self):
        """Run what waits.

        Raises
        ------
        MemoryError
            If a kernel got no memory for its buffers.
        """
        if not self._calls:
            return
        try:
            with at_once():
                calls = np.array(self._calls, np.int64).reshape(-1)
                number, size = launch.team_functions() if self._threads > 1 else (0, 0)  # alone there is no team to ask
                _run_all(self._threads, calls, np.zeros(1, np.int64), number, size, _give_way())
            for code, block in zip(self._codes, self._blocks, strict=True):
                code.result(block)
        finally:
            self.__init__()


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
    """Run calls [(function, block, parts), ...] as thread t of nt; or of as many as OpenMP gives, if `number` and `size` can be asked."""
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
