"""Every notebook runs in a fresh kernel of this interpreter, and is committed without output."""

import ast
import json
import re

import pytest

from surroundings import ROOT

NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
GALLERY = ROOT / "docs/gallery.md"
HELPERS = ("relative", "close", "time_in_turn", "print_machine")
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def jupyter():
    """The modules that read and run notebooks; without them these tests fail."""
    try:
        import ipykernel  # noqa: F401
        import matplotlib  # noqa: F401
        import nbclient
        import nbformat
        from jupyter_client import AsyncKernelManager
        from jupyter_client.kernelspec import KernelSpecManager
    except ImportError as error:
        pytest.fail(f"{error}: the notebooks need `pip install 'jaxqr[notebooks]'`")

    def run(notebook, folder):
        # Without folders to search, python3 is the kernel of sys.executable, whatever a user has
        # installed under that name.
        specs = KernelSpecManager(kernel_dirs=[])
        manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)
        resources = {"metadata": {"path": str(folder)}}
        client = nbclient.NotebookClient(notebook, km=manager, timeout=600, resources=resources)
        client.execute(cleanup_kc=True)  # else nbclient leaves a kernel that it was given running

    return nbformat, run


def read_code(path):
    """The code cells of a notebook, each with its tags."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    return [("".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in code]


def test_there_are_notebooks():
    assert NOTEBOOKS


@every_notebook
def test_notebook_shows_public_names_only_and_one_picture_in_the_gallery(path):
    cells = read_code(path)
    assert not [code for code, _ in cells if re.search(r"\bjaxqr\._", code)]
    (picture,) = [code for code, tags in cells if "gallery" in tags]
    assert "plt.show()" in picture
    title = json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"][0]
    heading = f"#{title.strip()}".replace("# ", "# [", 1) + f"](../notebooks/{path.name})"
    words = GALLERY.read_text(encoding="utf-8").split(heading + "\n\n")
    assert len(words) == 2, heading
    assert words[1].split("\n\n")[0].strip().endswith(".")


def test_helpers_that_stand_in_several_notebooks_read_the_same():
    """Each notebook can be sent around alone, hence the copies."""
    versions = {name: set() for name in HELPERS}
    for path in NOTEBOOKS:
        for code, _ in read_code(path):
            for node in ast.parse(code).body:
                if isinstance(node, ast.FunctionDef) and node.name in HELPERS:
                    versions[node.name].add(ast.get_source_segment(code, node))
    assert {name: len(found) for name, found in versions.items()} == dict.fromkeys(HELPERS, 1)


@every_notebook
def test_notebook_is_valid_and_without_output(jupyter, path):
    nbformat, _ = jupyter
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [], cell.id
            assert cell.execution_count is None, cell.id


@pytest.mark.nightly
@every_notebook
def test_notebook_runs(jupyter, path):
    nbformat, run = jupyter
    run(nbformat.read(path, as_version=4), path.parent)
