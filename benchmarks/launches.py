"""What programs launch on a GPU, counted without one: ``python -m benchmarks launches``.

Each program is compiled for an H100 in a process of its own (`benchmarks.deviceless`), so that one
that fails, or takes the process down with it, leaves the others alone. The results of the JAX that
runs this replace those of the same version in the file, and the table is written beside it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxqr
from benchmarks import deviceless, launches_table, machine
from benchmarks.report import BASE, US, write_lines

RESULT = Path(__file__).parent / "results" / "launches.json"

# What the compiler consists of; the first two have the version of jaxlib.
WHEELS = (
    *("jax-cuda13-plugin", "jax-cuda13-pjrt"),
    *("nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvrtc"),
)

# For readers; other files have theirs beside them.
TABLE = Path(__file__).parent / "launches.md"

_ROOT = Path(__file__).parent.parent

Function = Callable[..., Any]


class Program(NamedTuple):
    """A computation: the functions that do it by library, and the shapes of their arguments."""

    functions: dict[str, Function]
    arguments: list[jax.ShapeDtypeStruct]


def _loss_and_gradient(qr: Function) -> Function:
    """Of the sum of the sines of all entries of both factors."""
    return jax.value_and_grad(lambda a: sum(jnp.sum(jnp.sin(x)) for x in qr(a)))


def _pullback(qr: Function) -> Function:
    """The factors, and what their cotangents become: a gradient without any work of a loss."""

    def factors_and_cotangent(a: jax.Array, *cotangents: jax.Array) -> Any:
        factors, pull = jax.vjp(lambda a: tuple(qr(a)), a)
        return factors, pull(cotangents)

    return factors_and_cotangent


def _jnp_lstsq(a: jax.Array, b: jax.Array) -> jax.Array:
    # It takes no batches.
    return jax.vmap(lambda a, b: jnp.linalg.lstsq(a, b)[0])(a, b)


_KINDS: dict[str, dict[str, Function]] = {
    "qr": {US: jaxqr.qr, BASE: jnp.linalg.qr},
    "qr loss and gradient": {
        US: _loss_and_gradient(jaxqr.qr),
        BASE: _loss_and_gradient(jnp.linalg.qr),
    },
    "qr and pullback": {US: _pullback(jaxqr.qr), BASE: _pullback(jnp.linalg.qr)},
    "pivoted": {
        US: partial(jaxqr.qr, pivoting=True),
        BASE: partial(jax.lax.linalg.qr, pivoting=True, full_matrices=False),
    },
    "randomized": {US: partial(jaxqr.qr, pivoting="randomized")},
    "lstsq": {US: lambda a, b: jaxqr.lstsq(a, b).x, BASE: _jnp_lstsq},
    "lstsq unpivoted": {US: lambda a, b: jaxqr.lstsq(a, b, pivoting=False).x},
}

_SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "qr": (
        *((1024, 32, 32), (100000, 4, 4), (10000, 256, 32), (64, 256, 256)),
        *((512, 512), (1024, 1024), (262144, 32)),
    ),
    "qr loss and gradient": ((1024, 32, 32), (20000, 4, 4)),
    "qr and pullback": ((1024, 32, 32), (20000, 4, 4)),
    "pivoted": ((1024, 16, 16), (256, 256), (1024, 1024)),
    "randomized": ((2048, 2048),),
    "lstsq": ((4096, 32, 8),),
    "lstsq unpivoted": ((4096, 32, 8),),
}


def _arguments(kind: str, shape: tuple[int, ...]) -> list[jax.ShapeDtypeStruct]:
    *batch, m, n = shape
    others: list[tuple[int, ...]] = []
    if kind == "qr and pullback":
        others = [(*batch, m, min(m, n)), (*batch, min(m, n), n)]
    elif kind.startswith("lstsq"):
        others = [(*batch, m, 1)]
    return [jax.ShapeDtypeStruct(x, jnp.float32) for x in (shape, *others)]


PROGRAMS = {
    f"{kind} {'x'.join(map(str, shape))}": Program(_KINDS[kind], _arguments(kind, shape))
    for kind, shapes in _SHAPES.items()
    for shape in shapes
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _options(arguments)
    wanted = re.compile(options.programs)
    chosen = [name for name in PROGRAMS if wanted.search(name)]
    if options.list:
        print(*chosen, sep="\n")
        return 0
    if not all(map(_installed, WHEELS)):
        print(f"The compiler is missing: {_installation()}", file=sys.stderr)
        return 2
    rows = list(_measure(chosen, options.libraries, options.timeout))
    saved = _merge(_load(options.json), _surroundings(), rows)
    write_lines(options.json, {"machines": saved["machines"]}, saved["rows"])
    table = TABLE if options.json == RESULT else options.json.with_suffix(".md")
    table.write_text(launches_table.markdown(saved))
    print(launches_table.text(rows))
    return int(any("error" in row for row in rows))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks launches", description=__doc__)
    add = parser.add_argument
    add("--programs", default="", metavar="REGEX", help="matched within the name of the program")
    add("--libraries", nargs="+", choices=(US, BASE), default=(US, BASE), help="default: both")
    add("--timeout", type=float, default=300, metavar="S", help="of one program (%(default)s)")
    add("--json", type=Path, default=RESULT, metavar="PATH", help="(%(default)s)")
    add("--list", action="store_true", help="list the programs and stop")
    return parser.parse_args(arguments)


def _installed(wheel: str) -> bool:
    try:
        importlib.metadata.version(wheel)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _installation() -> str:
    plugin, client, *others = WHEELS
    version = importlib.metadata.version("jaxlib")
    pinned = (f"{wheel}=={version}" for wheel in (plugin, client))
    return f"pip install {' '.join((*pinned, *others))}"


def _measure(
    programs: Iterable[str], libraries: Iterable[str], timeout: float
) -> Iterator[dict[str, Any]]:
    """Compiles one after the other, as their times count, telling of the progress."""
    for program in programs:
        for library in PROGRAMS[program].functions:
            if library in libraries:
                found = _compile(program, library, timeout)
                print(library, program, found.get("error", found.get("launches")), file=sys.stderr)
                yield {"jax": jax.__version__, "program": program, "library": library, **found}


def _compile(program: str, library: str, timeout: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.deviceless", program, library]
    options: Any = {"cwd": _ROOT, "env": deviceless.environment(), "timeout": timeout}
    try:
        done = subprocess.run(command, capture_output=True, text=True, **options)
    except subprocess.TimeoutExpired:
        return {"error": f"not compiled within {timeout:.0f} s"}
    if done.returncode:  # XLA ends the process where one of its own assertions fails
        said = done.stderr.strip().splitlines() or ["nothing said"]
        return {"error": f"exit status {done.returncode}: {said[-1]}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _surroundings() -> dict[str, str]:
    described = machine.describe([])
    wheels = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in WHEELS)
    return {name: described[name] for name in ("date", "revision", "processor")} | {
        "wheels": wheels
    }


def _load(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"machines": {}, "rows": []}
    saved: dict[str, Any] = json.loads(path.read_text())
    return saved


def _merge(
    saved: dict[str, Any], surroundings: dict[str, str], rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What was saved with the new rows in place of the old ones, in the order of the programs."""
    by_key = {(x["jax"], x["program"], x["library"]): x for x in (*saved["rows"], *rows)}
    order = list(PROGRAMS)
    kept = [row for row in by_key.values() if row["program"] in order]
    kept.sort(key=lambda row: (_release(row["jax"]), order.index(row["program"])))
    return {"machines": saved["machines"] | {jax.__version__: surroundings}, "rows": kept}


def _release(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
