"""Formulas: LaTeX in a ```math block -> MathML, which browsers draw themselves, without scripts, fonts or a network."""

import re
from typing import Any

from latex2mathml.converter import convert


def mathml(latex: str) -> str:
    """Return a formula as a MathML element, set as a block.

    Raises
    ------
    ValueError
        If it has a command or an environment that the converter doesn't know.
    """
    made = convert(" ".join(latex.split()), display="block")
    if re.search(r"<m[io]>(&|\\|\\\w+)<", made):  # it passes on what it doesn't know
        raise ValueError(f"a formula has something that can't be drawn: {latex}")
    return made


def fence(source: str, language: str, css_class: str, options: dict[str, Any], md: Any, **more: Any) -> str:
    """Draw a fenced block, as pymdownx.superfences asks for it."""
    return f'<div class="{css_class}">{mathml(source)}</div>'
