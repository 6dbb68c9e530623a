"""Patching from outside of a program: the environment variable, ``python -m jaxqr run``."""

import json
import re

import pytest

from jaxqr.__main__ import main
from surroundings import python


def test_importing_patches_nothing_unless_the_environment_says_so():
    program = (
        "import jax; from jax.interpreters import ad; from jax.lax.linalg import qr_p; "
        "rule = ad.primitive_jvps[qr_p]; import jaxqr; "
        "print(ad.primitive_jvps[qr_p] is rule, jaxqr.status().patched)"
    )
    assert python("-c", program).stdout.split() == ["True", "False"]
    assert python("-c", program, JAXQR_PATCH="1").stdout.split() == ["False", "True"]
    refused = python("-c", "import jaxqr", check=False, JAXQR_PATCH="yes")
    assert "JAXQR_PATCH must be 0, 1 or unset, got 'yes'" in refused.stderr


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(
        "import json, sys\n"
        "import jax, jax.numpy as jnp\n"
        "def loss(a):\n"
        "    return jnp.sum(jnp.linalg.qr(a)[0])\n"
        "gradient = jax.grad(loss)(jnp.zeros((3, 2)))\n"
        "names = sys.argv, sys.path[0], __name__, __file__\n"
        "print(json.dumps([*names, bool(jnp.isfinite(gradient).all())]))\n"
    )
    return path


def test_a_program_runs_patched_as_python_runs_it(script):
    folder = str(script.parent)
    done = python("-m", "jaxqr", "run", "--report", script.name, "--", "--report", cwd=folder)
    stock = python(script.name, "--", "--report", cwd=folder)
    assert json.loads(done.stdout)[:-1] == json.loads(stock.stdout)[:-1]
    assert [json.loads(x.stdout)[-1] for x in (done, stock)] == [True, False]
    assert "qr: derivatives 1" in done.stderr
    done = python("-m", "jaxqr", "run", "-m", "program", "--", "x", cwd=folder)
    stock = python("-m", "program", "--", "x", cwd=folder)
    assert json.loads(done.stdout)[:-1] == json.loads(stock.stdout)[:-1]
    assert not done.stderr


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nothing.py"], r"there is no file nothing\.py"),
        (["-m", "nothing.at.all"], "no module named nothing.at.all"),
        (["--lstsq"], "a script, or -m and a module, must be given"),
        (["-c", "print()"], "unrecognized arguments: -c"),
    ],
)
def test_a_program_that_is_not_there_is_an_error(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["run", *arguments])
    assert re.search(words, f"{caught.value}{capsys.readouterr().err}")
