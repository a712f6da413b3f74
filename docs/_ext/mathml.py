"""Formulas as MathML, made from LaTeX when the site is built: browsers show it without a script."""

from __future__ import annotations

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def mathml(latex: str, *, block: bool) -> str:
    """The <math> element of a formula. Raises ValueError for a command that is not known."""
    known = latex.replace(r"\arg\min", r"\argmin")
    made = convert(known, display="block" if block else "inline")
    if "\\" in made:
        raise ValueError(f"formula {latex!r}: no MathML for a command in it: {made}")
    return made


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(mathml(node.astext(), block=False))
    raise nodes.SkipNode


def visit_math_block(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(f'<div class="formula">{mathml(node.astext(), block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
