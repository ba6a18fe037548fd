"""Formulas as MathML, which browsers draw by themselves: the site works without a network and loads no script."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)


def convert(self: Any, node: nodes.Element, *, block: bool) -> None:
    """Write the formula of ``node``; one that cannot be converted is a warning and shown as it is written."""
    text = re.sub(r"\\[bB]igg?[lrm]?(?![a-zA-Z])", "", node.astext().strip())  # brackets grow by themselves
    text = re.sub(r"\\dots(?![a-zA-Z])", r"\\ldots", text)
    text = re.sub(r"\\l([vV]ert)", r"\\left\\\1", re.sub(r"\\r([vV]ert)", r"\\right\\\1", text))
    text = re.sub(r"\\(hat|bar|tilde) ?(\w)(?=[_^])", r"{\\\1 \2}", text)  # the index belongs beside the accent, not below
    try:
        self.body.append(tex2mathml(text, as_block=block))
    except MathError as error:
        LOGGER.warning("formula is not understood: %s (%s)", text, error, location=node, type="mathml")
        self.body.append(self.encode(text))


def visit_inline(self: Any, node: nodes.Element) -> None:
    """A formula in a line."""
    self.body.append(self.starttag(node, "span", "", CLASS="math"))
    convert(self, node, block=False)
    self.body.append("</span>")
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.Element) -> None:
    """A formula of its own."""
    self.body.append(self.starttag(node, "div", "", CLASS="math"))
    convert(self, node, block=True)
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Make MathML the way in which HTML shows formulas."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
