"""``python -m jaxqr run``: a program run with JAX patched from its first line on."""

import argparse
import importlib.util
import io
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from jaxqr._patch.patch import patch, status


def run(arguments: Sequence[str]) -> None:
    """Patch JAX and run a program as Python itself would."""
    parser = make_parser()
    own, rest = _split(list(arguments))
    options = parser.parse_args(own)
    if (options.module is None) == (options.script is None):
        parser.error("a script, or -m and a module, must be given")
    if options.script is not None and not Path(options.script).exists():
        parser.error(f"there is no file {options.script}")
    patch(lstsq=options.lstsq)
    try:
        if options.module is not None:
            _run_module(options.module, rest)
        else:
            _run_script(options.script, rest)
    finally:
        if options.report:
            print(status(), file=sys.stderr)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of what stands before the program's own arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxqr run",
        usage="%(prog)s [--lstsq] [--report] (script | -m module) [argument ...]",
        description="Run a program with JAX patched by jaxqr, see jaxqr.patch. What follows the "
        "program is its own. Processes that it spawns are not patched.",
    )
    add = parser.add_argument
    add("--lstsq", action="store_true", help="replace jax.numpy.linalg.lstsq, too")
    add("--report", action="store_true", help="tell on stderr at the end how often jaxqr served")
    add("-m", dest="module", help="the program is a module")
    add("script", nargs="?", help="a script, or a folder or an archive with a __main__.py")
    return parser


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split behind the program: what comes there may look like options of this command."""
    for i, argument in enumerate(arguments):
        if argument == "-m":
            return arguments[: i + 2], arguments[i + 2 :]
        if not argument.startswith("-") or argument.startswith("-m"):
            return arguments[: i + 1], arguments[i + 1 :]
    return arguments, []


def _run_module(name: str, arguments: list[str]) -> None:
    sys.path[0] = str(Path.cwd())
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        sys.exit(f"python -m jaxqr run: no module named {name}")
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _run_script(script: str, arguments: list[str]) -> None:
    sys.argv = [script, *arguments]
    path = Path(script).resolve()
    if not path.is_file() or path.suffix in (".zip", ".pyz", ".whl"):
        runpy.run_path(script, run_name="__main__")
        return
    sys.path[0] = str(path.parent)
    module = ModuleType("__main__")
    module.__file__ = str(Path(script).absolute())
    sys.modules["__main__"] = module  # where pickle looks for what the script defines
    with io.open_code(str(path)) as file:
        code = compile(file.read(), module.__file__, "exec")
    exec(code, module.__dict__)
