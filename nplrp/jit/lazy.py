"""What kernels take from Numba, which is imported when something is compiled: to start it takes most of a second."""

import functools
import importlib


class _Later:
    """A module that is imported when something is first asked of it."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        return getattr(importlib.import_module(self._name), attribute)


class intrinsic:
    """Decorate a function that emits LLVM code, as `numba.extending.intrinsic` does, without importing Numba yet."""

    def __init__(self, definition):
        functools.update_wrapper(self, definition)
        self._definition = definition

    @functools.cached_property
    def _numba_type_(self):  # what Numba asks an object that it doesn't know for, when it compiles a caller
        from numba.core.registry import cpu_target
        from numba.extending import intrinsic

        self._made = intrinsic(self._definition)
        context = cpu_target.typing_context
        context.refresh()
        return context.resolve_value_type(self._made)


cgutils, types = _Later("numba.core.cgutils"), _Later("numba.core.types")
