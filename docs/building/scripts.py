"""Python scripts as pages of the site: what each is for, and its text."""

import ast
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.parsers import Parser


class ScriptParser(Parser):
    """A script as a document: its name, the first sentence of its docstring, its lines."""

    supported = ("python-script",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Fill the document."""
        name = Path(document["source"]).name
        summary = (ast.get_docstring(ast.parse(inputstring)) or "").split("\n\n")[0]
        section = nodes.section(ids=["script"], names=["script"])
        section += nodes.title("", "", nodes.literal(name, name))
        section += nodes.paragraph(summary, summary)
        section += nodes.literal_block(inputstring, inputstring, language="python")
        document += section


def setup(app: Any) -> dict[str, bool]:
    """Register the parser; `source_suffix` says what it reads."""
    app.add_source_parser(ScriptParser)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
