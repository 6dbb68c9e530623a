"""The tables of `benchmarks.launches`: on the terminal, and as the page that is committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.report import titled

_HEADS = [
    "program",
    "library",
    "launches",
    "conditionals",
    "loops on data",
    "temp MiB",
    "compile s",
]

_INTRODUCTION = """\
# What programs launch on a GPU

Written by `python -m benchmarks launches`; README.md beside it says how. Each program, float32, is
compiled for an NVIDIA H100 80GB HBM3 that is described and not there, and counted:

- *launches* of one call: kernels, copies and calls of libraries (each counts once, whatever it
  launches itself). Loops of known length count with all their rounds; "24-130" are those on the
  way through the shortest and the longest branches of conditionals. `cuhybrid_geqp3` computes on
  the host, `cusolver_*` and `__cublas$*` launch kernels of their own, in part one for each matrix.
- *conditionals*: at each the host waits for the device and reads which branch to take.
- *loops on data*: those whose length is not known. Before each round the host waits and reads;
  "1 of 23 (1 of 17)" is one loop that launches 23 times a round, and in it one of 17 a round.
- *temp*: buffers that are neither arguments nor results.
- *compile s*: from the function to the program, on the processor named.

Nothing here is the time of a call. Libraries are jaxqr, which takes its CUDA kernels where they are
built, and JAX's own functions (`jnp`), where it has one that does the same.
"""


def text(rows: Sequence[dict[str, Any]]) -> str:
    """Formats rows for the terminal."""
    return titled("Launches on an H100", [_HEADS, *map(_cells, rows)], "", *_remarks(rows))


def markdown(saved: dict[str, Any]) -> str:
    """Formats all that a file has, a table for each version of JAX.

    Args:
      saved: the ``machines`` and ``rows`` of the file.

    Returns:
      The page.
    """
    parts = [_INTRODUCTION]
    for version, machine in saved["machines"].items():
        rows = [row for row in saved["rows"] if row["jax"] == version]
        lines = [_HEADS, ["---"] * 2 + ["---:"] * (len(_HEADS) - 2), *map(_cells, rows)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        remarks = "\n".join(f"- {remark}" for remark in _remarks(rows))
        described = f"Revision {machine['revision']}, on {machine['processor']}."
        parts += [f"## jax {version}\n\n{described}\n\n{table}\n\n{remarks}\n"]
    return "\n".join(parts)


def _cells(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["program"], row["library"], "failed", *["-"] * (len(_HEADS) - 3)]
    launches, most = row["launches"], row["most"]
    return [
        row["program"],
        row["library"],
        str(launches) if launches == most else f"{launches}-{most}",
        str(row["conditionals"]),
        _loops(row["loops"]) or "0",
        f"{row['temp'] / 2**20:.1f}",
        f"{row['seconds']:.1f}",
    ]


def _loops(loops: Sequence[dict[str, Any]]) -> str:
    times: Counter[str] = Counter()
    for loop in loops:
        inside = _loops(loop["each"]["loops"])
        times[f"{loop['each']['most']}{f' ({inside})' if inside else ''}"] += loop["times"]
    return ", ".join(f"{count} of {each}" for each, count in times.items())


def _remarks(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What is launched, or why a program failed."""
    for row in rows:
        kinds = ", ".join(f"{count} {kind}" for kind, count in row.get("kinds", {}).items())
        yield f"{row['program']}, {row['library']}: {row.get('error') or kinds}"
