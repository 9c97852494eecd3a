"""From a kernel and the types of its arguments to object code that needs neither Numba nor Python.

The code has two functions. `part` (block, t, nt) takes the kernel's arguments from a block of memory (`nplrp.jit.arguments`), calls it
and stores what it returns. `team` (block) is what OpenMP calls in every thread: it does parts by the thread's number. Arrays that a kernel
makes for itself come from the C library, by way of the few functions that Numba's code expects of its run time.
"""

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, compiler, types
from numba.core.codegen import AOTCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from nplrp.jit import target
from nplrp.jit.arguments import ARGUMENTS, FAILED, FLOAT, RESULT, STATUS, TEAM_NUMBER, TEAM_SIZE, TEAM_THREADS, WHOLE

#: How every kernel is compiled.
OPTIONS = {"nopython": True, "nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_I32, _I64, _POINTER = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()
_LINE = 64  # bytes of a cache line, and the most that Numba aligns to


def object_code(function, arguments, split):
    """Compile a kernel.

    Parameters
    ----------
    function : function
    arguments : tuple
        Examples of its arguments.
    split : bool
        Whether it takes (t, nt) before them.

    Returns
    -------
    bytes
    """
    kinds = tuple(numba.typeof(a) for a in ((0, 1) if split else ()) + arguments)
    with global_compiler_lock:
        flags = compiler.Flags()
        cpu_target.options.parse_as_flags(flags, OPTIONS)
        flags.no_compile = True  # to machine code: only together with the functions that call it
        context = cpu_target.target_context
        library = _Library(context.codegen(), function.__qualname__)
        compiled = compiler.compile_extra(cpu_target.typing_context, context, function, kinds, None, flags, {}, library=library)
        library.add_ir_module(_entries(context, library, compiled, split))
        library.add_ir_module(_run_time(library))
        return library.emit_native_object()


def inner(function):
    """Return Numba's dispatcher of a kernel that other kernels call."""
    return numba.jit(pipeline_class=_InnerCompiler, **OPTIONS)(function)


class _Library(AOTCodeLibrary):
    """Code that is linked together, optimised and made machine code of in one go, and for another linker than Numba's own."""

    def _optimize_functions(self, module):
        module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self):
        target.optimise(self._final_module)

    def _finalize_final_module(self):
        self._finalized = True

    def emit_native_object(self):
        self._ensure_finalized()
        return target.machine().emit_object(self._final_module)


class _InnerLibrary(_Library):
    """Code that is only linked into other code; alone it is never run."""

    def _optimize_final_module(self):
        pass

    def get_pointer_to_function(self, name):
        self._ensure_finalized()
        return 0

    @property
    def codegen(self):  # asked only to give an environment to code that doesn't exist
        return self

    def set_env(self, name, environment):
        pass


class _InnerCompiler(compiler.Compiler):
    def __init__(self, typing_context, context, library, *rest):
        super().__init__(typing_context, context, library or _InnerLibrary(context.codegen(), "inner"), *rest)


def _entries(context, library, compiled, split):
    """Return a module with the functions `part` and `team`."""
    module = library.create_ir_module("entries")
    descriptor = compiled.fndesc
    part = ir.Function(module, ir.FunctionType(ir.VoidType(), [_POINTER, _I64, _I64]), "part")
    builder = ir.IRBuilder(part.append_basic_block())
    block, t, nt = part.args
    values, kinds, slot = [t, nt] if split else [], descriptor.argtypes, ARGUMENTS
    for kind in kinds[2:] if split else kinds:
        value, slot = _argument(context, builder, block, kind, slot)
        values.append(value)
    callee = context.declare_function(module, descriptor)
    status, result = context.call_conv.call_function(builder, callee, descriptor.restype, kinds, values)
    with cgutils.if_unlikely(builder, status.is_error):
        builder.store(ir.Constant(_I64, FAILED), _slot(builder, block, STATUS, _I64))
        builder.ret_void()
    if descriptor.restype != types.none:
        number, status = (types.float64, FLOAT) if isinstance(descriptor.restype, types.Float) else (types.int64, WHOLE)
        place = _slot(builder, block, RESULT, context.get_value_type(number))
        builder.store(context.cast(builder, result, descriptor.restype, number), place)
        builder.store(ir.Constant(_I64, status), _slot(builder, block, STATUS, _I64))
    builder.ret_void()

    team = ir.Function(module, ir.FunctionType(ir.VoidType(), [_POINTER]), "team")
    builder = ir.IRBuilder(team.append_basic_block())
    (block,) = team.args
    ask = ir.FunctionType(_I32, []).as_pointer()
    number, size = (
        builder.sext(builder.call(builder.inttoptr(_load(builder, block, slot, _I64), ask), []), _I64) for slot in (TEAM_NUMBER, TEAM_SIZE)
    )
    nt = _load(builder, block, TEAM_THREADS, _I64)
    with cgutils.for_range_slice(builder, number, nt, size) as (t, _):
        builder.call(part, [block, t, nt])
    builder.ret_void()
    return module


def _slot(builder, block, slot, kind):
    return builder.bitcast(builder.gep(block, [ir.Constant(_I64, 8 * slot)], source_etype=ir.IntType(8)), kind.as_pointer())


def _load(builder, block, slot, kind):
    return builder.load(_slot(builder, block, slot, kind), typ=kind)


def _argument(context, builder, block, kind, slot):
    """Return an argument's value, of Numba's representation, and the slot behind it."""
    if isinstance(kind, types.BaseTuple):
        values = []
        for item in kind:
            value, slot = _argument(context, builder, block, item, slot)
            values.append(value)
        return context.make_tuple(builder, kind, values), slot
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder)
        numbers = [_load(builder, block, slot + i, _I64) for i in range(1 + 2 * kind.ndim)]
        data = builder.inttoptr(numbers[0], context.get_data_type(kind.dtype).as_pointer())
        shape, strides = numbers[1 : 1 + kind.ndim], numbers[1 + kind.ndim :]
        size = ir.Constant(_I64, 1)
        for length in shape:
            size = builder.mul(size, length)
        array.data, array.nitems, array.itemsize = data, size, ir.Constant(_I64, np.dtype(str(kind.dtype)).itemsize)
        array.shape, array.strides = (cgutils.pack_array(builder, v, ty=_I64) for v in (shape, strides))
        array.meminfo = array.parent = ir.Constant(_POINTER, None)
        return array._getvalue(), slot + 1 + 2 * kind.ndim
    if isinstance(kind, types.Boolean):
        return builder.trunc(_load(builder, block, slot, _I64), ir.IntType(1)), slot + 1
    return _load(builder, block, slot, context.get_value_type(kind)), slot + 1


def _run_time(library):
    """Return a module with what Numba's code expects of its run time: memory that counts its users."""
    module = library.create_ir_module("run_time")

    def function(name, result, *arguments):
        return ir.Function(module, ir.FunctionType(result, arguments), name)

    malloc, free = function("malloc", _POINTER, _I64), function("free", ir.VoidType(), _POINTER)
    # {number of users, destructor, its argument, data, size}, as in numba.core.runtime.nrtdynmod
    record = ir.LiteralStructType([_I64, _POINTER, _POINTER, _POINTER, _I64])
    for name in ("NRT_MemInfo_alloc_aligned", "NRT_MemInfo_alloc_safe_aligned"):
        allocate = function(name, _POINTER, _I64, _I32)
        builder = ir.IRBuilder(allocate.append_basic_block())
        size = allocate.args[0]
        place = builder.call(malloc, [builder.add(size, ir.Constant(_I64, 3 * _LINE))])  # the record, and room to align
        with cgutils.if_unlikely(builder, builder.icmp_unsigned("==", place, ir.Constant(_POINTER, None))):
            builder.ret(place)
        data = builder.and_(builder.add(builder.ptrtoint(place, _I64), ir.Constant(_I64, 2 * _LINE - 1)), ir.Constant(_I64, -_LINE))
        whole = ir.Constant(record, ir.Undefined)
        nothing = ir.Constant(_POINTER, None)
        for i, value in enumerate((ir.Constant(_I64, 1), nothing, nothing, builder.inttoptr(data, _POINTER), size)):
            whole = builder.insert_value(whole, value, i)
        builder.store(whole, builder.bitcast(place, record.as_pointer()))
        builder.ret(place)
    release = function("NRT_MemInfo_call_dtor", ir.VoidType(), _POINTER)
    builder = ir.IRBuilder(release.append_basic_block())
    builder.call(free, release.args)
    builder.ret_void()

    ldexp = function("ldexp", ir.DoubleType(), ir.DoubleType(), _I32)
    scale = function("numba_ldexp", ir.DoubleType(), ir.DoubleType(), _I32)
    builder = ir.IRBuilder(scale.append_basic_block())
    builder.ret(builder.call(ldexp, scale.args))
    return module
