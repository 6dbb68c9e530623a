"""``python -m jaxqr run``: a program run with JAX patched from its first line on."""

import argparse
import runpy
import sys
from pathlib import Path

from jaxqr._patch.patch import patch, status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to a parser."""
    parser.add_argument("--lstsq", action="store_true", help="replace jax.numpy.linalg.lstsq, too")
    parser.add_argument(
        "--report",
        action="store_true",
        help="write to stderr at the end how often jaxqr stood in for JAX",
    )
    parser.add_argument(
        "-m", dest="is_module", action="store_true", help="the program is the name of a module"
    )
    parser.add_argument("program", help="a script, or with -m a module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="what the program gets")


def run(options: argparse.Namespace) -> None:
    """Patch JAX and run the program as Python itself would."""
    program = options.program
    if not options.is_module and not Path(program).exists():
        sys.exit(f"python -m jaxqr run: there is no file {program}")
    patch(lstsq=options.lstsq)
    sys.argv = [program, *options.arguments]
    try:
        if options.is_module:
            sys.path[0] = str(Path.cwd())
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            if Path(program).is_file():  # runpy does this itself for folders and archives
                sys.path[0] = str(Path(program).resolve().parent)
            runpy.run_path(program, run_name="__main__")
    finally:
        if options.report:
            print(status(), file=sys.stderr)
