"""Formulas as MathML, which browsers show by themselves: no script, no font, no network."""

from typing import Any

from docutils import nodes

from formulas import equation_id, render_formula, split_tag

WORD_JOINER = "&#8288;"  # keeps a formula and the punctuation next to it on one line


def _visit_inline(self: Any, node: nodes.math) -> None:
    formula = render_formula(node.astext(), "inline")
    self.body.append(f"{WORD_JOINER}{formula}{WORD_JOINER}")
    raise nodes.SkipNode


def _visit_block(self: Any, node: nodes.math_block) -> None:
    formula, number = split_tag(node.astext())
    anchor, label = "", ""
    if number:
        anchor = f' id="{equation_id(number)}"'
        label = f'<a class="equation-number" href="#{equation_id(number)}">({number})</a>'
    self.body.append(f'<div class="equation"{anchor}><div class="formula">')
    self.body.append(render_formula(formula, "block"))
    self.body.append(f"</div>{label}</div>\n")
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Register the renderer that `html_math_renderer` names."""
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
