"""Blocks of code end with their last line, not with the empty one of doctests in Markdown."""

from typing import Any

from docutils import nodes


def strip_last_lines(app: Any, doctree: nodes.document) -> None:
    """Remove empty lines at the end of each block."""
    for block in doctree.findall(nodes.literal_block):
        if len(block.children) == 1 and isinstance(block[0], nodes.Text):
            block.rawsource = block.rawsource.rstrip()
            block[0] = nodes.Text(str(block[0]).rstrip())


def setup(app: Any) -> dict[str, bool]:
    """Work on each document as it has been read."""
    app.connect("doctree-read", strip_last_lines)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
