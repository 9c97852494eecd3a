"""A small golden case with its own weights: do the kernels of this machine compute the bits that they should."""

from __future__ import annotations


def check() -> None:
    """Explain the golden case."""
