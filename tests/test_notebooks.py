"""Every notebook runs in a fresh kernel of this interpreter, and is committed without output."""

import pytest

from surroundings import ROOT

NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
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


def test_there_are_notebooks():
    assert NOTEBOOKS


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
