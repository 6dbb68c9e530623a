"""README is the site's first page: it gets the navigation, and is what `index.html` shows."""

import shutil
from pathlib import Path
from typing import Any

NAVIGATION = Path(__file__).resolve().parents[1] / "navigation.txt"


def add_navigation(app: Any, docname: str, content: list[str]) -> None:
    """Append the table of contents to the text of README, whose readers on GitHub need none."""
    if docname == app.config.root_doc:
        content[0] += "\n" + NAVIGATION.read_text(encoding="utf-8")
        app.env.note_dependency(NAVIGATION, docname=docname)


def copy_start_page(app: Any, exception: Exception | None) -> None:
    """Give the first page the name under which a server finds it, besides its own."""
    if exception is None and app.builder.name == "html":
        page = Path(app.builder.get_outfilename(app.config.root_doc))
        shutil.copyfile(page, page.with_name("index.html"))


def setup(app: Any) -> dict[str, bool]:
    """Connect both."""
    app.connect("source-read", add_navigation)
    app.connect("build-finished", copy_start_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
