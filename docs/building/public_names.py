"""The public names of the package, and what links their docstrings.

Pages in `docs/api/` say which names they show. What `jaxqr.__all__` has besides is shown where the
directive `other-public-names` stands, so that no name is missing from the site.
"""

from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

import jaxqr
from api_pages import find_other_names


class OtherPublicNames(SphinxDirective):
    """`{other-public-names}`: the public names that no page shows, under a heading of their own."""

    def run(self) -> list[nodes.Node]:
        """Parse directives of autodoc for them; nothing if there are none."""
        names = find_other_names()
        if not names:
            return []
        lines = []
        for name in names:
            kind = "class" if isinstance(getattr(jaxqr, name), type) else "function"
            lines += [f".. auto{kind}:: jaxqr.{name}", *["   :members:"] * (kind == "class"), ""]
        section = nodes.section(ids=["more"])
        section += nodes.title("", "More")
        content = ["```{eval-rst}", *lines, "```"]
        self.state.nested_parse(StringList(content, self.get_source_info()[0]), 0, section)
        return [section]


def link_public_name(
    role: str, rawtext: str, text: str, lineno: int, inliner: Any, *_: Any
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """What stands in single backquotes: a link if it is a public name, else code."""
    code = nodes.literal(rawtext, text)
    name = text.removeprefix("jaxqr.").partition("(")[0]
    if name not in jaxqr.__all__:
        return [code], []
    target = {"refdomain": "py", "reftype": "obj", "reftarget": f"jaxqr.{name}"}
    return [pending_xref(rawtext, code, refexplicit=True, refwarn=True, **target)], []


def forget_overloads() -> None:
    """Show the one signature that a function has, and not what each mode returns."""
    analyze = ModuleAnalyzer.analyze

    def analyze_without_overloads(self: ModuleAnalyzer) -> None:
        analyze(self)
        self.overloads = {}

    ModuleAnalyzer.analyze = analyze_without_overloads  # type: ignore[method-assign]


def setup(app: Any) -> dict[str, bool]:
    """Register the role, the directive, and how signatures look."""
    forget_overloads()
    app.add_role("public", link_public_name)
    app.add_directive("other-public-names", OtherPublicNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
