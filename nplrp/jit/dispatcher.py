"""From a Python function to compiled code for the types of its arguments.

Numba compiles; what comes out is object code that is kept on disk (`nplrp.jit.cache`) and called without Numba, which is imported only when
something has to be compiled.
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from nplrp.jit import arguments, cache, queue, team
from nplrp.jit.code import Code


def _switch(text: str) -> int:
    """Read a switch as Numba does: what is no whole number is off."""
    try:
        return int(text)
    except ValueError:
        return 0


#: Whether kernels run as plain Python.
DISABLED = _switch(os.environ.get("NUMBA_DISABLE_JIT", "0")) != 0


class Kernel:
    """A compiled function, callable from Python and from other kernels.

    Parameters
    ----------
    function : function
    split : bool
        Whether it takes (t, nt) before its arguments, and does part t of nt of the work.
    """

    def __init__(self, function, split=False):
        functools.update_wrapper(self, function)
        self._function, self._split, self._codes = function, split, {}

    def __call__(self, *args):
        """Run the queue, then the kernel, and return what it returns: an int, a float, or None."""
        waiting = queue.current()
        if waiting is not None:
            waiting.flush(self._function)
        code, numbers = self.code(*args)
        return code.call(numbers)

    @staticmethod
    def run(nt, code, numbers, args):
        """Run split code in `nt` threads, or note it down."""
        waiting = queue.current()
        if waiting is not None:
            waiting.add(max(nt, 1), code, numbers, args)
        elif nt <= 1:
            code.call(numbers)
        else:
            code.share(numbers, nt)

    def code(self, *args):
        """Return the code for arguments, from the cache if it is there, and the numbers that describe them to it."""
        kinds, numbers = arguments.describe(args)
        code = self._codes.get(kinds)
        if code is None:
            with team.loading:
                code = self._codes[kinds] = self._codes.get(kinds) or self._kept(kinds) or self._compiled(kinds, args)
        return code, numbers

    def _kept(self, kinds):
        code = cache.load(self._function, kinds)
        try:
            return code and Code(code, kinds, self._function)
        except RuntimeError:  # the entry is no reason to fail
            return None

    def _compiled(self, kinds, args):
        from nplrp.jit import compiler

        cache.announce()
        code = compiler.object_code(self._function, args, self._split)
        cache.save(self._function, kinds, code)
        return Code(code, kinds, self._function)

    @functools.cached_property
    def _numba_type_(self):  # what Numba asks an object that it doesn't know for, when it compiles a caller
        from nplrp.jit import compiler

        self._inner = compiler.inner(self._function)
        return self._inner._numba_type_


def kernel(function):
    """Compile a serial kernel."""
    return function if DISABLED else Kernel(function)


def shared_kernel(share):
    """Compile a kernel share(t, nt, *args) that does part t of nt of the work.

    Parts write to places of their own.

    Parameters
    ----------
    share : function

    Returns
    -------
    function
        (nt, *args): runs the parts in parallel. Its attribute `in_turn` (nt, firsts, *args) does so for each of `firsts` as first
        argument, one after the other.
    """
    compiled = Kernel(share, split=True)

    def run(nt, *args):
        if DISABLED:
            for t in range(nt):
                share(t, nt, *args)
        else:
            compiled.run(nt, *compiled.code(*args), args)

    def in_turn(nt, firsts, *args):
        if DISABLED:
            for first in firsts:
                run(nt, first, *args)
            return
        code, numbers = compiled.code(firsts[0], *args)  # looking at the arguments takes as long as a small kernel
        for first in firsts:
            compiled.run(nt, code, [first, *numbers[1:]], args)

    call = functools.wraps(share)(run)
    call.in_turn = in_turn
    return call


def in_threads(part, nt, *args):
    """Call part(*args, t, nt) for every t < nt, in nt Python threads, once the queue has been run: kernels don't hold Python's lock."""
    waiting = queue.current()
    if waiting is not None:
        waiting.flush(part)
    if nt <= 1:
        part(*args, 0, 1)
        return
    with ThreadPoolExecutor(nt - 1) as others:
        running = [others.submit(part, *args, t, nt) for t in range(1, nt)]
        part(*args, 0, nt)
        for each in running:
            each.result()


def frozen(x):
    """Return x as a flat read-only array: of one type for Numba, whether x may be written or is mapped from a file."""
    x = x.view(np.ndarray).reshape(-1)
    x.flags.writeable = False
    return x
