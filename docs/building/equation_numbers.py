"""Numbers of equations in the text, such as (1.1), become links to the equation."""

import re
from typing import Any

from docutils import nodes

from formulas import equation_id, split_tag

NUMBER = re.compile(r"\((\d+\.\d+)\)")
KEPT = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.title)
KEPT += (nodes.reference,)


def find_equations(doctree: nodes.document) -> set[str]:
    r"""The numbers that the document gives, to formulas by `\tag`, to rules in bold print."""
    numbers = {split_tag(block.astext())[1] for block in doctree.findall(nodes.math_block)}
    for strong in doctree.findall(nodes.strong):
        if found := NUMBER.fullmatch(strong.astext()):
            strong["ids"].append(equation_id(found[1]))
            numbers.add(found[1])
    return {number for number in numbers if number}


def _is_kept(text: nodes.Text) -> bool:
    node = text.parent
    while node is not None:
        if isinstance(node, KEPT) or (isinstance(node, nodes.strong) and node["ids"]):
            return True
        node = node.parent
    return False


def link_numbers(app: Any, doctree: nodes.document) -> None:
    """Link each number in the running text to its equation in the same document."""
    numbers = find_equations(doctree)
    if not numbers:
        return
    for text in list(doctree.findall(nodes.Text)):
        pieces = NUMBER.split(str(text))
        if len(pieces) == 1 or _is_kept(text):
            continue
        new: list[nodes.Node] = []
        for k, piece in enumerate(pieces):  # the odd ones are numbers
            if k % 2 == 0:
                new.append(nodes.Text(piece))
            elif piece in numbers:
                new.append(nodes.reference("", f"({piece})", refid=equation_id(piece)))
            else:
                new.append(nodes.Text(f"({piece})"))
        text.parent.replace(text, new)


def setup(app: Any) -> dict[str, bool]:
    """Work on each document as it has been read."""
    app.connect("doctree-read", link_numbers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
