"""Formulas as MathML, which browsers show by themselves: no script, no font, no network."""

import re
from typing import Any

from docutils import nodes

from formulas import equation_id, render_formula, split_tag

OPENING, CLOSING = re.compile(r"[(\[]+$"), re.compile(r"^[.,;:!?)\]\u2019-]+")


def keep_marks(app: Any, doctree: nodes.document) -> None:
    """Take the punctuation next to each formula to it: browsers end lines between them."""
    for math in list(doctree.findall(nodes.math)):
        for name, mark, step in (("opening", OPENING, -1), ("closing", CLOSING, 1)):
            place = math.parent.index(math) + step
            text = math.parent[place] if 0 <= place < len(math.parent) else None
            if isinstance(text, nodes.Text) and (found := mark.search(str(text))):
                math[name] = found[0]
                math.parent[place] = nodes.Text(mark.sub("", str(text)))


def _visit_inline(self: Any, node: nodes.math) -> None:
    pieces = render_formula(node.astext(), "inline")
    pieces[0] = node.get("opening", "") + pieces[0]
    pieces[-1] += node.get("closing", "")
    for piece in pieces:
        whole = piece.startswith("<math") and piece.endswith("</math>")
        self.body.append(piece if whole else f'<span class="unbroken">{piece}</span>')
    raise nodes.SkipNode


def _visit_block(self: Any, node: nodes.math_block) -> None:
    formula, number = split_tag(node.astext())
    anchor, label = "", ""
    if number:
        anchor = f' id="{equation_id(number)}"'
        label = f'<a class="equation-number" href="#{equation_id(number)}">({number})</a>'
    self.body.append(f'<div class="equation"{anchor}><div class="formula">')
    self.body += render_formula(formula, "block")
    self.body.append(f"</div>{label}</div>\n")
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Register the renderer that `html_math_renderer` names."""
    app.connect("doctree-read", keep_marks)
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
