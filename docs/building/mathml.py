"""Formulas as MathML, which browsers show by themselves: no script, no font, no network."""

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

TAG = re.compile(r"\s*\\tag\{(\d+\.\d+)\}")


def split_tag(formula: str) -> tuple[str, str | None]:
    """Separate a formula from the number that its `\\tag` gives it."""
    found = TAG.search(formula)
    return (TAG.sub("", formula), found[1]) if found else (formula, None)


def equation_id(number: str) -> str:
    """The anchor of the equation with this number."""
    return "equation-" + number.replace(".", "-")


def render_formula(formula: str, display: str) -> str:
    """MathML of a formula in TeX; ValueError if it is not understood."""
    try:
        found = convert(formula.replace("\\cr", "\\\\"), display=display)
    except Exception as error:  # its errors have no base class of their own
        raise ValueError(f"no MathML of the formula {formula!r}: {error!r}") from error
    unknown = re.findall(r"\\[A-Za-z]+", found)
    if unknown:
        raise ValueError(f"no MathML of {unknown} in the formula {formula!r}")
    return found


def _visit_inline(self: Any, node: nodes.math) -> None:
    self.body.append(render_formula(node.astext(), "inline"))
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
