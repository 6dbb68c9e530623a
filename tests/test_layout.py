"""The folders show the way of the data: each imports only those before it."""

import ast
from pathlib import Path

import pytest

import jaxqr

PACKAGE = Path(jaxqr.__file__).parent
LAYERS = ("_core", "_lowering", "_factor", "_lstsq", "_sharded", "_api", "_patch")
FILES = sorted(PACKAGE.rglob("*.py"))
UNDOCUMENTED = ("jaxlib", "jax._src", "jax.interpreters.partial_eval", "jax.interpreters.xla")


def imported(path):
    """The modules that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def layer(parts):
    """The place of a file or module in the order; the package's own files come last."""
    return LAYERS.index(parts[0]) if parts[0] in LAYERS else len(LAYERS)


def test_every_folder_of_the_package_has_its_place():
    folders = {path.relative_to(PACKAGE).parts[0] for path in FILES if path.parent != PACKAGE}
    assert folders == set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_folders_before_its_own(path):
    own = layer(path.relative_to(PACKAGE).parts)
    for module in imported(path):
        if module.startswith("jaxqr."):
            assert layer(module.split(".")[1:]) <= own, module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_jax_does_not_document_is_imported_in_one_place(path):
    if path.name != "undocumented.py":
        found = [m for m in imported(path) if m.startswith(UNDOCUMENTED)]
        assert not found


def test_modules_import_each_other_in_no_circle():
    modules = {
        ".".join(("jaxqr", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in FILES
    }
    uses = {}
    for path in FILES:
        name = ".".join(("jaxqr", *path.relative_to(PACKAGE).with_suffix("").parts))
        found = {m if m in modules else m.rpartition(".")[0] for m in imported(path)}
        uses[name] = found & modules - {name}
    while leaves := [name for name, found in uses.items() if not found]:
        uses = {name: found - set(leaves) for name, found in uses.items() if name not in leaves}
    assert not uses


@pytest.mark.parametrize("pattern, most", [("*.py", 300), ("*.cc", 350), ("*.h", 350)])
def test_files_are_short_enough_to_be_read_at_once(pattern, most):
    root = PACKAGE.parent
    folders = ("jaxqr", "native", "tests", "benchmarks", "examples")
    files = [
        *root.glob(pattern),
        *(x for folder in folders for x in (root / folder).rglob(pattern)),
    ]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {path: n for path, n in lengths.items() if n > most} == {}
