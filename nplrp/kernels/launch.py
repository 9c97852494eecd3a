"""Where the compiled code of a serial kernel is, so that another kernel can call it by its address.

Numba compiles the body of a `prange` four times over (body, loop, wrapper and caller each link and optimise a copy).
Called by address (`nplrp.kernels.parallel.shared_kernel`) it is compiled once.
"""

from numba import typeof
from numba.core import types


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
