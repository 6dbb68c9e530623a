"""How much memory jaxqr and jnp take, each cell and contender in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.cases import Cell, Work
from benchmarks.report import BASE, US, titled, write_lines

NAMES = (US, BASE)

# Large blocks are mapped and unmapped one by one: what was freed before hides no later need.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536"}

_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Need:
    """Bytes that a call takes.

    Attributes:
      argument: the input and for gradients the cotangents.
      output: the results.
      temp: XLA's buffers in between.
      growth: of the resident set, from before the call to its peak.
    """

    argument: int
    output: int
    temp: int
    growth: int

    @property
    def compiled(self) -> int:
        """What XLA knows of."""
        return self.argument + self.output + self.temp

    @property
    def peak(self) -> int:
        """What the process took; the arguments were there before."""
        return self.argument + self.growth


@dataclass(frozen=True)
class Footprint:
    """The needs of a cell by name of the contender, or in a word why one is not known."""

    cell: Cell
    needs: dict[str, Need | str]


def measure(cells: Iterable[Cell]) -> list[Footprint]:
    """Measures jaxqr and jnp in each cell, telling of the progress."""
    footprints = []
    for cell in cells:
        footprints.append(Footprint(cell, {name: _probe(cell, name) for name in NAMES}))
        print(f"{len(footprints)} {cell}", file=sys.stderr)
    return footprints


def tables(footprints: Sequence[Footprint]) -> str:
    """Formats the footprints, one table for each work."""
    by_work: dict[Work, list[Footprint]] = {}
    for footprint in footprints:
        by_work.setdefault(footprint.cell.work, []).append(footprint)
    return "\n\n".join(_table(work, group) for work, group in by_work.items())


def failures(footprints: Sequence[Footprint]) -> list[str]:
    """Lists the cells in which a contender failed."""
    return [
        f"{name} in {footprint.cell}: {need}"
        for footprint in footprints
        for name, need in footprint.needs.items()
        if isinstance(need, str)
    ]


def save(path: Path, machine: dict[str, str], footprints: Sequence[Footprint]) -> None:
    """Writes the footprints as JSON, a line a cell."""
    rows = [{**asdict(footprint), "cell": str(footprint.cell)} for footprint in footprints]
    write_lines(path, {"machine": machine, "unit": "bytes"}, rows)


def _probe(cell: Cell, name: str) -> Need | str:
    command = [sys.executable, "-m", "benchmarks.probe", str(cell), name]
    done = subprocess.run(
        command, cwd=_ROOT, env=os.environ | _ALLOCATOR, capture_output=True, text=True
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return Need(**json.loads(done.stdout.splitlines()[-1]))


def _table(work: Work, footprints: Sequence[Footprint]) -> str:
    heads = [f"{name} {what}" for what in ("XLA", "peak") for name in NAMES]
    lines = [["cell", "dtype", *heads, f"{US}/{BASE}"]]
    for footprint in footprints:
        needs = [footprint.needs[name] for name in NAMES]
        known = [need for need in needs if isinstance(need, Need)]
        ratio = f"{known[0].peak / known[1].peak:.2f}" if len(known) == len(NAMES) else "-"
        figures = [_mebibytes(need, what) for what in ("compiled", "peak") for need in needs]
        lines.append([footprint.cell.size, footprint.cell.dtype, *figures, ratio])
    return titled(f"{work.title} ({work.name}), MiB", lines)


def _mebibytes(need: Need | str, what: str) -> str:
    return "error" if isinstance(need, str) else f"{getattr(need, what) / 2**20:.2f}"
