"""What Markdown does by accident: empty lines at the end of code, and HTML where none is meant."""

from typing import Any

from docutils import nodes
from sphinx.util.logging import getLogger


def strip_last_lines(app: Any, doctree: nodes.document) -> None:
    """Remove empty lines at the end of each block of code, as doctests in Markdown need one."""
    for block in doctree.findall(nodes.literal_block):
        if len(block.children) == 1 and isinstance(block[0], nodes.Text):
            block.rawsource = block.rawsource.rstrip()
            block[0] = nodes.Text(str(block[0]).rstrip())


def refuse_html(app: Any, doctree: nodes.document) -> None:
    """Warn of HTML in a page: `RealOf<S>` without backquotes strikes out the rest of the page."""
    for raw in doctree.findall(nodes.raw):
        of_notebook = "output" in raw.parent.get("classes", ())
        if not of_notebook and not raw.astext().lstrip().startswith("<!--"):
            getLogger(__name__).warning("HTML in a page: %s", raw.astext(), location=raw)


def setup(app: Any) -> dict[str, bool]:
    """Work on each document as it has been read."""
    app.connect("doctree-read", strip_last_lines)
    app.connect("doctree-read", refuse_html)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
