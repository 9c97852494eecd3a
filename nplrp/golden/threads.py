"""Work on several things at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

#: Things at a time; each takes several arrays of its size.
AT_ONCE = 2

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def side_by_side(work: Callable[[_Item], _Made], items: Iterable[_Item]) -> list[_Made]:
    """Work on items that stand each for itself, a few at a time: kernels run one by one, what NumPy does beside them."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(work, items))
