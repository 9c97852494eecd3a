"""How a parallel kernel starts its threads: a tiny `prange` that calls a serial kernel by its address.

Numba compiles the body of a `prange` four times over (body, loop, wrapper and caller each link and optimise a copy).
Called by address the serial kernel is compiled once, and the first use is three times faster.
"""

from numba import typeof
from numba.core import cgutils, types
from numba.extending import intrinsic


@intrinsic
def call_compiled(typing, address, args):
    """Call the compiled kernel at `address`, which returns nothing; `args` is a tuple of exactly its argument types."""
    kinds = tuple(args)

    def emit(context, builder, signature, values):
        convention = context.call_conv
        callee = builder.inttoptr(values[0], convention.get_function_type(types.none, kinds).as_pointer())
        status, _ = convention.call_function(builder, callee, types.none, kinds, cgutils.unpack_tuple(builder, values[1]))
        with cgutils.if_unlikely(builder, status.is_error):
            convention.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return types.void(address, args), emit


class Launcher:
    """Finds the code of a serial kernel `share(thread, threads, *args)`, compiling it when it is first asked for.

    Parameters
    ----------
    share : numba dispatcher
    """

    def __init__(self, share):
        self._share = share
        self._addresses = {}  # a memo: looking at the types of all arguments takes as long as a small layer

    def address(self, key, *args):
        """Return the address of the code for `args`; `key` (the dtypes that vary) decides the types of all of them."""
        if key not in self._addresses:
            kinds = (types.int64, types.int64, *map(typeof, args))
            self._share.compile(kinds)
            compiled = self._share.overloads[kinds]
            self._addresses[key] = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
        return self._addresses[key]
