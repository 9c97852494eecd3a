"""The loop in which one team of threads runs many kernels, with a barrier after each of them.

Who waits at a barrier looks at a counter, and gives its core to others once it has looked long enough.
"""

from llvmlite import ir

from nplrp.jit.dispatcher import shared_kernel
from nplrp.jit.lazy import intrinsic, types

_I64 = ir.IntType(64)
#: Looks at the counter before a waiting thread gives its core to others.
_PATIENCE = 4000


@intrinsic
def _call(typing, function, block, t, nt):
    """Do part t of nt of a kernel: `part` of `nplrp.jit.compiler`."""

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
def run_all(t, nt, calls, counter, number, size, give_way):
    """Run calls one after the other, as thread t of the nt that share each of them.

    Parameters
    ----------
    calls : ndarray of int64
        Three numbers for each: the address of its function `part`, that of its block of arguments, and the number of parts.
    counter : ndarray [1] of int64
        0; counts arrivals at barriers.
    number, size : int
        Addresses of functions that say which thread of how many this is, since OpenMP may give fewer than were asked for; 0 if alone.
    give_way : int
        Address of a function that gives the core to others, or 0.
    """
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
