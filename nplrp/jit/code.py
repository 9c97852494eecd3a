"""Compiled code in memory, for one type of arguments: called by one thread, or by a team (`nplrp.jit.team`)."""

import ctypes

from nplrp.jit import crew, team
from nplrp.jit.arguments import FAILED, FLOAT, NOTHING, RESULT, STATUS, WHOLE, address_slots, layout
from nplrp.jit.target import link


class Code:
    """Compiled code for one type of arguments.

    Parameters
    ----------
    code : bytes
        From `nplrp.jit.compiler`.
    kinds : tuple
        The types, from `nplrp.jit.arguments.describe`.
    function : function
        What it was compiled from.

    Attributes
    ----------
    function : function
    part_address : int
        Of the function that does one part of the work.
    address_slots : list of int
        Where in a block the addresses of arrays are.

    Raises
    ------
    RuntimeError
        If `code` can't be linked.
    """

    def __init__(self, code, kinds, function):
        self.function, self._layout, self.address_slots = function, layout(kinds), address_slots(kinds)
        self._library, (self.part_address, self._team) = link(code, ("part", "team"))
        self._part = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(self.part_address)

    def call(self, numbers, t=0, nt=1):
        """Do part t of nt with the arguments that `numbers` describe; return what the kernel returns."""
        block = self.block(numbers)
        self._part(block, t, nt)
        return self.result(block)

    def share(self, numbers, nt):
        """Do all nt parts in a team of threads; whatever interrupts the caller, they are done when this is left."""
        with team.lock:
            openmp = team.openmp()
            if openmp is None:
                block = self.block(numbers)
                crew.run(self.part_address, ctypes.addressof(block), nt, team.yield_address())
            else:
                start, number, size = openmp
                block = self.block(numbers, nt, number, size)
                start(self._team, block, nt, 0)
        return self.result(block)

    def block(self, numbers, nt=0, number=0, size=0):
        """Return a block of memory with the arguments, and with `nt`, `number` and `size` for a team of OpenMP's."""
        return ctypes.create_string_buffer(self._layout.pack(0, 0, nt, number, size, *numbers), self._layout.size)

    @staticmethod
    def result(block):
        """Return what the kernel has left in a block: an int, a float, or None.

        Raises
        ------
        MemoryError
            If the kernel got no memory for its buffers.
        """
        place = ctypes.c_int64.from_buffer(block, 8 * STATUS)
        status = place.value
        if status == FAILED:
            place.value = NOTHING  # the block may be used again
            raise MemoryError("no memory for a kernel's buffers")
        kind = {WHOLE: ctypes.c_int64, FLOAT: ctypes.c_double}.get(status)
        return kind and kind.from_buffer(block, 8 * RESULT).value
