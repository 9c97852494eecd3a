"""Passes that are noted down once and then run again: Python takes a tenth to a third of the time of a network of many small kernels.

What a pass notes down depends on its plan, on shapes, on threads and on where arrays lie, never on numbers, since nobody may look at these
while kernels wait (`nplrp.jit.queue`). A workspace that is as it was at the beginning gives every array its place again. So the same calls
serve for the next image; only the places of what comes from outside change, its input above all.

The first pass of a kind is noted down as ever, since many are never run again; the second one is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nplrp import layers
from nplrp.workspace import State, Workspace

if TYPE_CHECKING:
    from nplrp.jit import Queue
    from nplrp.jit.queue import Program
    from nplrp.plan import Plan

#: Passes of a plan that a workspace keeps: two for every batch and number of targets. Each takes some hundred kilobytes.
_MOST = 8


@dataclass(frozen=True, eq=False)
class Replay:
    """A pass, or its beginning up to where Python has to look at numbers.

    Attributes
    ----------
    program : Program
        Its kernels.
    before, after : State
        The workspace's.
    left : object
        What Python needs to go on.
    """

    program: Program
    before: State
    after: State
    left: Any


class Passage:
    """One pass through a network, which is looked up, or noted down and kept.

    Parameters
    ----------
    workspace : Workspace
    queue : Queue
        Where it notes down its kernels.
    plan : Plan
    what : tuple
        What the calls depend on, beside plan, arrays and threads; hashable.
    arrays : sequence of ndarray
        All arrays that it reads, but those of the plan. Those of the workspace have to be where they were.
    possible : bool
        Whether it may be kept at all.
    """

    def __init__(
        self,
        workspace: Workspace,
        queue: Queue,
        plan: Plan,
        what: tuple[Hashable, ...],
        arrays: Sequence[np.ndarray],
        possible: bool = True,
    ) -> None:
        self._workspace, self._queue, self._plan = workspace, queue, plan
        self._wanted = possible and workspace.reuse and not queue.checked and all(each.flags.c_contiguous for each in arrays)
        if self._wanted:
            own = list(zip(arrays, workspace.holds(arrays), strict=True))
            self._inputs = [each for each, inside in own if not inside]
            kinds = ((each.shape, each.dtype, each.flags.num, inside and each.ctypes.data) for each, inside in own)
            self._key = (*what, layers.threads(), *kinds)
            self._before = workspace.state()

    def again(self) -> Any:
        """Run its kernels if they are known, and return what was left of it; else None."""
        if not self._wanted:
            return None
        replays = self._workspace.replays.get(self._plan, {})
        known = replays.get(self._key)
        if known is None or not known.before.fits(self._before) or not known.program.runs():
            return None
        replays[self._key] = replays.pop(self._key)  # the last one to go
        known.program.run(self._inputs)
        self._workspace.restore(known.after)
        self._wanted = False
        return known.left

    def run(self, left: Callable[..., Any], *args: Any) -> None:
        """Run what waits; if that is all so far, and not the first pass of its kind, keep it with left(*args), unless that is None."""
        if not self._wanted:
            self._queue.run()
            return
        self._wanted = False
        replays = self._workspace.replays.setdefault(self._plan, {})
        program = self._queue.run(self._inputs if self._key in replays else None)
        known, rest = replays.pop(self._key, None), left(*args) if program else None
        replays[self._key] = known if rest is None else Replay(program, self._before, self._workspace.state(), rest)
        while len(replays) > _MOST:
            del replays[next(iter(replays))]
