"""``python -m benchmarks patch``: JAX's own functions, stock and patched, in turn."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxqr
from benchmarks import machine, report
from benchmarks.cases import grid
from benchmarks.patch.clients import CLIENTS, draw_normal
from benchmarks.timing import Schedule, take_turns, typical

RESULTS = Path(__file__).parents[1] / "results" / "patch.json"
Case = tuple[str, Callable[..., Any], tuple[Any, ...], float]


def main(arguments: Sequence[str]) -> int:
    """Run the command; give its exit status, 1 if results differ."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks patch",
        description="Times programs on JAX's own functions without jaxqr.patch and with it.",
    )
    add = parser.add_argument
    add("--clients", action="store_true", help="only programs of the shape of libraries'")
    add("--parts", action="store_true", help="only R alone and Q alone, on the shapes of the grid")
    add("--cases", default="", metavar="REGEX", help="matched within a case's name")
    add("--rounds", type=int, default=Schedule().rounds, metavar="N", help="(%(default)s)")
    add("--json", type=Path, default=RESULTS, metavar="PATH", help="(%(default)s)")
    add("--force", action="store_true", help="run although something else does")
    options = parser.parse_args(arguments)
    if (busy := machine.busy()) > report.DISTURBED and not options.force:
        print(f"Not started: other processes keep {busy:.1f} processors busy", file=sys.stderr)
        return 2
    cases = [] if options.parts else list(client_cases())
    cases += [] if options.clients else list(part_cases())
    wanted = re.compile(options.cases)
    with jax.enable_x64(True):
        rows = [compare(case, Schedule(options.rounds)) for case in cases if wanted.search(case[0])]
    print(table(rows))
    saved = {"machine": machine.describe([]), "rows": rows}
    options.json.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
    return int(any(row["difference"] > row["tolerance"] for row in rows))


def client_cases() -> Iterable[Case]:
    """The programs of libraries, at full size."""
    for client in CLIENTS:
        yield client.name, client.run, client.inputs(False), client.tolerance


def part_cases() -> Iterable[Case]:
    """R alone and Q alone by `jnp.linalg.qr`, on the shapes of the benchmark's grid."""
    parts = {
        "R alone": lambda a: jnp.linalg.qr(a, mode="r"),
        "Q alone": lambda a: jnp.linalg.qr(a)[0],
    }
    for cell in grid(["qr"]):
        a = draw_normal(cell.shape, cell.dtype)
        for name, part in parts.items():
            yield f"{name}: {cell.size}/{cell.dtype}", part, (a,), 1e6


def compare(case: Case, schedule: Schedule) -> dict[str, Any]:
    """Compile a program stock and patched, compare the results, and let the two take turns."""
    name, program, inputs, tolerance = case
    inputs = jax.device_put(inputs)
    # What is compiled ahead of time stays as it is when JAX is patched.
    stock = jax.jit(program).lower(*inputs).compile()
    with jaxqr.patched():
        ours = jax.jit(program).lower(*inputs).compile()
        served = jaxqr.status().served
    assert served, f"{name}: the program does not use what is patched"
    difference = max(
        map(_difference, jax.tree.leaves(ours(*inputs)), jax.tree.leaves(stock(*inputs)))
    )
    calls = {
        label: lambda f=f: jax.block_until_ready(f(*inputs))
        for label, f in {"stock": stock, "patched": ours}.items()
    }
    seconds = {label: typical(blocks) for label, blocks in take_turns(calls, schedule).items()}
    print(f"{name}: {seconds}", file=sys.stderr)
    return {"name": name, **seconds, "difference": float(difference), "tolerance": tolerance}


def _difference(x: Any, y: Any) -> float:
    """The largest difference, in epsilons of the largest entry."""
    x, y = np.asarray(x), np.asarray(y)
    unit = np.finfo(x.dtype).eps * max(float(np.max(np.abs(y), initial=0)), 1e-30)
    return float(np.max(np.abs(x - y), initial=0)) / float(unit)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Make a table in Markdown."""
    lines = [
        "| program | stock, ms | patched, ms | times as fast |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        if row["stock"] and row["patched"]:
            times = f"{_milliseconds(row['stock'])} | {_milliseconds(row['patched'])}"
            lines.append(f"| {row['name']} | {times} | {row['stock'] / row['patched']:.1f} |")
    return "\n".join(lines)


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def client_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Select the rows of libraries' programs."""
    names = {client.name for client in CLIENTS}
    return [row for row in rows if row["name"] in names]


def speed_range(rows: Sequence[dict[str, Any]], part: str) -> tuple[float, float]:
    """Find how many times as fast a part, as "R alone", is at least and at most."""
    found = [row["stock"] / row["patched"] for row in rows if row["name"].startswith(part)]
    return min(found), max(found)
