"""The package as a whole: its names, its check-up, its imports."""

import inspect
import re
import types

import pytest

import jaxqr
from jaxqr.__main__ import main
from jaxqr._lowering import kernels
from surroundings import ROOT, python


def test_all_is_the_public_api():
    public = {
        name
        for name, value in vars(jaxqr).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert sorted(jaxqr.__all__) == sorted(public)


@pytest.mark.parametrize(
    "name", ["qr", "lq", "rq", "ql", "householder_product", "householder_multiply"]
)
def test_public_functions_are_documented(name):
    text = inspect.getdoc(getattr(jaxqr, name))
    for section in ("Args:", "Returns:", "Raises:", "Examples:", "Source:"):
        assert section in text


def test_the_check_up_passes(capsys):
    assert main() == 0
    report = capsys.readouterr().out
    cpu = "own kernels" if kernels.available() else "LAPACK"
    for word in ("jaxqr " + jaxqr.__version__, cpu, "cuSOLVER", "pivoted qr", "all checks"):
        assert word in report


def test_the_check_up_fails_where_a_check_fails(capsys, monkeypatch):
    monkeypatch.setattr("jaxqr.__main__.GRADIENT_LIMIT", 0.0)
    assert main() == 1
    assert "FAILED" in capsys.readouterr().out


def test_importing_changes_no_configuration():
    program = (
        "import jax; before = dict(jax.config.values); import jaxqr; "
        "assert dict(jax.config.values) == before; "
        "import sys; from jaxqr._lowering import kernels; "
        "assert ('scipy.linalg' in sys.modules) == (kernels.REGISTERED[0] is None)"
    )
    python("-c", program)


def test_changelog_and_citation_are_of_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^## ([\d.]+)", changelog, re.MULTILINE)[0] == jaxqr.__version__
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [jaxqr.__version__]
