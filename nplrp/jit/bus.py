"""A file that is cut while it is mapped: the system sends SIGBUS, and the process ends with a line that says why.

No handler in Python can tell it: what touched the missing page is compiled code, perhaps in a thread that isn't Python's, and touches it
again when a handler that only sets a flag returns. So the handler is compiled code too, which calls nothing but `write` and `_exit`. A
SIGBUS of any other cause is left to whoever handled it before.
"""

import ctypes
import functools
import platform
import signal
import sys
import threading
import weakref

from llvmlite import ir

from nplrp.jit import target, team

_I32, _I64, _POINTER = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()
#: Slots of what is known of a mapping: the one that was noted before it, its first address and the one behind its last, what to write.
_BEFORE, _FIRST, _END, _TEXT, _LENGTH, _CODE, _SLOTS = range(7)

_MAC = sys.platform == "darwin"
#: Where a `siginfo_t` has the address that was touched; the flag that has a handler called with one; the descriptor of stderr.
_ADDRESS, _SIGINFO, _STDERR = (24, 0x40, 2) if _MAC else (16, 4, 2)

#: Addresses: of what is known of the mapping noted last; of whether the last word is said.
_last, _said = (ctypes.c_int64 * 1)(), (ctypes.c_int64 * 1)()
#: Never freed, since a handler may be reading them: those of mappings that have gone serve for others.
_known: list[list[object]] = []
_free: list[list[object]] = []
_noting = threading.Lock()


class _Action(ctypes.Structure):
    """`struct sigaction`."""

    _fields_ = (
        [("handler", ctypes.c_void_p), ("mask", ctypes.c_uint32), ("flags", ctypes.c_int)]
        if _MAC
        else [("handler", ctypes.c_void_p), ("mask", ctypes.c_uint8 * 128), ("flags", ctypes.c_int), ("restorer", ctypes.c_void_p)]
    )


def watch(mapping, address, size, text, code):
    """Have the process end if a part of a mapping is touched that isn't there any more.

    Parameters
    ----------
    mapping : object
        Whose life is the mapping's.
    address, size : int
    text : str
        What is written to stderr before.
    code : int
        The exit code.

    Returns
    -------
    bool
        Whether that can be had on this system.
    """
    if not _installed():
        return False
    text = text.encode("utf-8", "backslashreplace")
    kept = ctypes.create_string_buffer(text, len(text))
    try:
        node = _free.pop()
    except IndexError:
        node = [(ctypes.c_int64 * _SLOTS)(), None]
        with _noting:
            node[0][_BEFORE] = _last[0]
            _known.append(node)
            _last[0] = ctypes.addressof(node[0])
    slots, node[1] = node[0], kept
    slots[_TEXT], slots[_LENGTH], slots[_CODE], slots[_FIRST] = ctypes.addressof(kept), len(text), code, address
    slots[_END] = address + size  # from here on it counts
    weakref.finalize(mapping, _forget, node).atexit = False
    return True


def _forget(node):
    node[0][_END] = 0
    _free.append(node)


@functools.cache
def _installed():
    """Install the handler; return what keeps it in memory, or None."""
    if platform.system() not in ("Linux", "Darwin") or platform.machine() not in ("x86_64", "aarch64", "arm64"):
        return None
    try:
        libc = ctypes.CDLL(None)
        sigaction, before = libc.sigaction, _Action()
        sigaction.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        functions = {name: ctypes.cast(libc[name], ctypes.c_void_p).value for name in ("write", "_exit", "sigaction", "raise")}
        with team.loading:
            library, (address,) = target.link(target.object_code(_module(functions, ctypes.addressof(before))), ("handler",))
        if sigaction(signal.SIGBUS, None, ctypes.addressof(before)):
            return None
        ours = _Action(handler=address, flags=_SIGINFO)
        return None if sigaction(signal.SIGBUS, ctypes.addressof(ours), None) else (library, before, ours)
    except (OSError, AttributeError, TypeError, RuntimeError):  # no such library or function, or none that LLVM can link
        return None


def _module(functions, before):
    """Return the handler's code.

    Parameters
    ----------
    functions : dict
        Addresses of the C library's, by name.
    before : int
        Address of the action that is put back where the handler knows nothing.
    """
    module = ir.Module("bus")
    module.triple = target.cpu()[0]
    handler = ir.Function(module, ir.FunctionType(ir.VoidType(), [_I32, _POINTER, _POINTER]), "handler")
    entry, look, compare, other, found, stay, speak, unknown = (
        handler.append_basic_block(name) for name in ("entry", "look", "compare", "other", "found", "stay", "speak", "unknown")
    )

    def call(builder, name, result, *arguments):
        kind = ir.FunctionType(result, [each.type for each in arguments]).as_pointer()
        return builder.call(builder.inttoptr(_whole(functions[name]), kind), arguments)

    def load(builder, address, slot):
        return builder.load(_at(builder, builder.add(address, _whole(8 * slot))), typ=_I64)

    number, info, _ = handler.args
    builder = ir.IRBuilder(entry)
    touched = load(builder, builder.add(builder.ptrtoint(info, _I64), _whole(_ADDRESS)), 0)
    first, said = load(builder, _whole(ctypes.addressof(_last)), 0), _whole(ctypes.addressof(_said))
    builder.branch(look)
    builder.position_at_end(look)
    node = builder.phi(_I64)
    node.add_incoming(first, entry)
    builder.cbranch(builder.icmp_unsigned("==", node, _whole(0)), unknown, compare)
    builder.position_at_end(compare)
    inside = builder.and_(
        builder.icmp_unsigned("<=", load(builder, node, _FIRST), touched), builder.icmp_unsigned("<", touched, load(builder, node, _END))
    )
    builder.cbranch(inside, found, other)
    builder.position_at_end(other)
    node.add_incoming(load(builder, node, _BEFORE), other)
    builder.branch(look)
    builder.position_at_end(found)  # several threads may come here: one speaks, the others stay until the end
    spoken = builder.atomic_rmw("xchg", _at(builder, said), _whole(1), "seq_cst")
    builder.cbranch(builder.icmp_unsigned("==", spoken, _whole(0)), speak, stay)
    builder.position_at_end(stay)
    builder.branch(stay)
    builder.position_at_end(speak)
    call(builder, "write", _I64, ir.Constant(_I32, _STDERR), load(builder, node, _TEXT), load(builder, node, _LENGTH))
    call(builder, "_exit", ir.VoidType(), builder.trunc(load(builder, node, _CODE), _I32))
    builder.unreachable()
    builder.position_at_end(unknown)
    call(builder, "sigaction", _I32, number, _whole(before), _whole(0))
    call(builder, "raise", _I32, number)  # delivered when the handler has returned
    builder.ret_void()
    return module


def _at(builder, address):
    return builder.inttoptr(address, _I64.as_pointer())


def _whole(value):
    return ir.Constant(_I64, value)
