"""Formulas: LaTeX in a ```math block -> MathML, which browsers draw themselves, without scripts, fonts or a network."""

from typing import Any

from latex2mathml.converter import convert


def mathml(latex: str) -> str:
    """Return a formula as a MathML element, set as a block."""
    return convert(" ".join(latex.split()), display="block")


def fence(source: str, language: str, css_class: str, options: dict[str, Any], md: Any, **more: Any) -> str:
    """Draw a fenced block, as pymdownx.superfences asks for it."""
    return f'<div class="{css_class}">{mathml(source)}</div>'
