"""Python scripts as pages of the site."""

import ast
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.parsers import Parser


class ScriptParser(Parser):
    """A script as a document: its name, its docstring, its code."""

    supported = ("python-script",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Fill the document."""
        name = Path(document["source"]).name
        module = ast.parse(inputstring)
        summary, _, rest = (ast.get_docstring(module) or "").partition("\n\n")
        lines = inputstring.splitlines(keepends=True)
        code = "".join(lines[module.body[0].end_lineno if summary else 0 :]).strip("\n")
        section = nodes.section(ids=["script"], names=["script"])
        section += nodes.title("", "", nodes.literal(name, name))
        section += nodes.paragraph(summary, summary)
        if rest:  # laid out by hand, with matrices in it
            section += nodes.literal_block(rest, rest, language="text")
        section += nodes.literal_block(code, code, language="python")
        document += section


def setup(app: Any) -> dict[str, bool]:
    """Register the parser; `source_suffix` says what it reads."""
    app.add_source_parser(ScriptParser)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
