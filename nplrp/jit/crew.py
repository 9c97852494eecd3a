"""Threads that come for one kernel and are gone when its call returns: a team where there is no OpenMP.

They are started and waited for by compiled code. A thread of Python's can be asked to wait only in Python, where Ctrl-C ends the wait, and
the arrays may be gone while others still write to them. Nothing interrupts compiled code: its caller is told once all parts are done.
"""

import ctypes
import functools

from llvmlite import ir

from nplrp.jit import target

_I64, _POINTER = ir.IntType(64), ir.IntType(8).as_pointer()
#: What `PyThread_start_new_thread` returns; all ones if there is no thread to be had.
_IDENT = ir.IntType(8 * ctypes.sizeof(ctypes.c_ulong))
#: Slots of what a crew shares: who does a part, of what, of how many; the next part; who is done; what gives the core to others, or 0.
_PART, _BLOCK, _PARTS, _NEXT, _DONE, _YIELD, SLOTS = range(7)
#: Looks at the others before who waits for them gives its core away.
_PATIENCE = 4000


def run(part, block, nt, give_way):
    """Do all `nt` parts of a kernel, in up to as many threads, and return when all of them are gone.

    Parameters
    ----------
    part, block : int
        Addresses of the kernel's function `part` and of its block of arguments.
    nt : int
    give_way : int
        Address of a function that gives the core to others, or 0.
    """
    _, call, start = _compiled()
    call((ctypes.c_int64 * SLOTS)(part, block, nt, 0, 0, give_way), start)


@functools.cache
def _compiled():
    """Return what keeps the code in memory, the crew's function, and the address of what starts a thread."""
    library, (address,) = target.link(target.object_code(_module()), ("crew",))
    start = ctypes.cast(ctypes.pythonapi.PyThread_start_new_thread, ctypes.c_void_p).value
    return library, ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(address), start


def _module():
    """Return the code of `member`, which every thread runs, and of `crew`, which starts them, takes part, and waits."""
    module = ir.Module("crew")
    module.triple = target.cpu()[0]
    member = ir.Function(module, ir.FunctionType(ir.VoidType(), [_POINTER]), "member")
    entry, look, work, leave = (member.append_basic_block(name) for name in ("entry", "look", "work", "leave"))
    (shared,) = member.args
    builder = ir.IRBuilder(entry)
    builder.branch(look)
    builder.position_at_end(look)
    part = builder.atomic_rmw("add", _slot(builder, shared, _NEXT), _whole(1), "seq_cst")
    parts = _load(builder, shared, _PARTS)
    builder.cbranch(builder.icmp_signed("<", part, parts), work, leave)
    builder.position_at_end(work)
    kind = ir.FunctionType(ir.VoidType(), [_POINTER, _I64, _I64]).as_pointer()
    block = builder.inttoptr(_load(builder, shared, _BLOCK), _POINTER)
    builder.call(builder.inttoptr(_load(builder, shared, _PART), kind), [block, part, parts])
    builder.branch(look)
    builder.position_at_end(leave)
    builder.atomic_rmw("add", _slot(builder, shared, _DONE), _whole(1), "seq_cst")  # the last that it touches
    builder.ret_void()

    crew = ir.Function(module, ir.FunctionType(ir.VoidType(), [_POINTER, _POINTER]), "crew")
    begin, more, begun, own, wait, again, rest = (
        crew.append_basic_block(name) for name in ("begin", "more", "begun", "own", "wait", "again", "rest")
    )
    end = crew.append_basic_block("end")
    shared, start = crew.args
    builder = ir.IRBuilder(begin)
    kind = ir.FunctionType(_IDENT, [member.type, _POINTER]).as_pointer()
    start, parts = builder.bitcast(start, kind), _load(builder, shared, _PARTS)
    builder.branch(more)
    builder.position_at_end(more)
    members = builder.phi(_I64)  # this thread among them
    members.add_incoming(_whole(1), begin)
    builder.cbranch(builder.icmp_signed("<", members, parts), begun, own)
    builder.position_at_end(begun)
    ident = builder.call(start, [member, shared])
    members.add_incoming(builder.add(members, _whole(1)), begun)
    builder.cbranch(builder.icmp_unsigned("!=", ident, ir.Constant(_IDENT, -1)), more, own)  # who is there does all
    builder.position_at_end(own)
    builder.call(member, [shared])
    builder.branch(wait)
    builder.position_at_end(wait)
    looks = builder.phi(_I64)
    looks.add_incoming(_whole(0), own)
    done = builder.load_atomic(_slot(builder, shared, _DONE), "seq_cst", 8, typ=_I64)
    builder.cbranch(builder.icmp_signed("<", done, members), again, end)
    builder.position_at_end(again)
    give_way = _load(builder, shared, _YIELD)
    tired = builder.and_(builder.icmp_signed(">", looks, _whole(_PATIENCE)), builder.icmp_signed("!=", give_way, _whole(0)))
    looks.add_incoming(builder.add(looks, _whole(1)), again)
    builder.cbranch(tired, rest, wait)
    builder.position_at_end(rest)
    builder.call(builder.inttoptr(give_way, ir.FunctionType(ir.IntType(32), []).as_pointer()), [])
    looks.add_incoming(_whole(_PATIENCE + 1), rest)
    builder.branch(wait)
    builder.position_at_end(end)
    builder.ret_void()
    return module


def _whole(value):
    return ir.Constant(_I64, value)


def _slot(builder, shared, slot):
    return builder.bitcast(builder.gep(shared, [_whole(8 * slot)], source_etype=ir.IntType(8)), _I64.as_pointer())


def _load(builder, shared, slot):
    return builder.load(_slot(builder, shared, slot), typ=_I64)
