"""The machine that kernels are compiled for, and how compiled code gets into memory; this needs LLVM, but not Numba."""

import functools
import itertools
import os
import re

import llvmlite.binding as llvm

_PROBE = """
define <16 x float> @probe(<16 x float> %x, <16 x float> %y, <16 x float> %z) {
  %r = call <16 x float> @llvm.fma.v16f32(<16 x float> %x, <16 x float> %y, <16 x float> %z)
  ret <16 x float> %r
}
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
"""


@functools.cache
def cpu():
    """Return (triple, CPU, features) that Numba compiles for: the host's, unless NUMBA_CPU_NAME or NUMBA_CPU_FEATURES say otherwise."""
    name, features = os.environ.get("NUMBA_CPU_NAME"), os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        try:
            features = llvm.get_host_cpu_features().flatten()
        except RuntimeError:  # LLVM doesn't know this system's
            features = ""
    return llvm.get_process_triple(), name or llvm.get_host_cpu_name(), features


@functools.cache
def machine():
    """Return LLVM's code generator for this CPU, with the settings of Numba's own."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    triple, name, features = cpu()
    return llvm.Target.from_triple(triple).create_target_machine(name, features, opt=3, reloc="pic", codemodel="small")


@functools.cache
def vector_bits():
    """Return how many bits wide the vectors are that the compiler chooses for fused multiply-adds on this CPU: 512, 256 or 128."""
    assembly = machine().emit_assembly(llvm.parse_assembly(_PROBE))
    for register, bits in (("zmm", 512), ("ymm", 256)):
        if re.search(rf"vfm.*{register}", assembly):
            return bits
    return 128


def optimise(module):
    """Optimise a module in place as Numba does: level 2, with vectorised loops, and without needless counting of references."""
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = True
    builder = llvm.create_pass_builder(machine(), options)
    passes = builder.getModulePassManager()
    passes.add_refprune_pass()
    passes.run(module, builder)


def object_code(module):
    """Return the object code of a module of llvmlite's as it is, for functions of a few instructions."""
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    return machine().emit_object(parsed)


@functools.cache
def _linker():
    return llvm.create_lljit_compiler(machine(), use_jit_link=True), itertools.count()


def link(code, names):
    """Bring object code into memory.

    Parameters
    ----------
    code : bytes
    names : sequence of str

    Returns
    -------
    (object, list of int)
        What keeps the code in memory, and the addresses of the functions.

    Raises
    ------
    RuntimeError
        If it is no object code for this machine, or needs a function that this process doesn't have.
    """
    linker, numbers = _linker()
    builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
    for name in names:
        builder.export_symbol(name)
    library = builder.link(linker, f"nplrp{next(numbers)}")
    return library, [library[name] for name in names]
