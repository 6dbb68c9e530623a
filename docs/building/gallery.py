"""The gallery: under each heading that is a link to a notebook, that notebook's best picture.

The picture is drawn by the notebook's cell tagged `gallery` while the site is built; none is kept
in the repository. Where the notebooks do not run the page has its words alone.
"""

from pathlib import PurePosixPath
from typing import Any

from docutils import nodes
from sphinx.util.logging import getLogger

PAGE, TAG = "docs/gallery", "gallery"


def find_picture(notebook: nodes.document) -> nodes.image | None:
    """The last picture of the cell that carries the tag."""
    cells = [x for x in notebook.findall(nodes.container) if f"tag_{TAG}" in x.get("classes", ())]
    pictures = [image for cell in cells for image in cell.findall(nodes.image)]
    return pictures[-1] if pictures else None


def show_pictures(app: Any, doctree: nodes.document, docname: str) -> None:
    """Put each notebook's picture, which leads to the notebook, under its heading."""
    if docname != PAGE:
        return
    for section in doctree.findall(nodes.section):
        link = next(section[0].findall(nodes.reference), None)
        if link is None:
            continue
        name = f"notebooks/{PurePosixPath(link['refuri']).stem}"
        picture = find_picture(app.env.get_doctree(name))
        if picture is not None:
            shown = nodes.reference("", "", picture.deepcopy(), refuri=link["refuri"])
            shown[0]["alt"] = section[0].astext()
            section.insert(1, nodes.paragraph("", "", shown, classes=["gallery"]))
        elif app.config.nb_execution_mode != "off":
            getLogger(__name__).warning("%s shows no picture in a cell tagged %s", name, TAG)


def write_last(app: Any, env: Any) -> list[str]:
    """The page is written anew each time, as the notebooks' pictures may have changed."""
    return [PAGE] if PAGE in env.found_docs else []


def setup(app: Any) -> dict[str, bool]:
    """Work when all notebooks have been read."""
    app.connect("env-updated", write_last)
    app.connect("doctree-resolved", show_pictures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
