"""Tables of the results, and the file that keeps them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cases import Work
from benchmarks.ceilings import flops
from benchmarks.race import Row

US = "jaxqr"
BASE = "jnp"

# Processors busy with something else, above which a row is marked as disturbed.
DISTURBED = 0.1


@dataclass
class Run:
    """What one run of the program found.

    Attributes:
      machine: what `benchmarks.machine.describe` returned.
      rows: the results, cell by cell.
      peaks: operations a second of a matrix product, by dtype; empty where not measured.
    """

    machine: dict[str, str]
    rows: list[Row]
    peaks: dict[str, float] = field(default_factory=dict)


def best_peer(row: Row) -> str | None:
    """Names the fastest of the work's peers."""
    peers = {name: row.results[name] for name in row.cell.work.peers if name in row.results}
    times = {name: result.seconds for name, result in peers.items() if result.seconds}
    return min(times, key=times.__getitem__) if times else None


def speedup(row: Row, peer: str | None) -> float | None:
    """How many times as long as jaxqr a peer takes; None unless both have a time."""
    if peer is None or peer not in row.results or US not in row.results:
        return None
    theirs, ours = row.results[peer].seconds, row.results[US].seconds
    return theirs / ours if theirs and ours else None


def geometric_mean(ratios: Sequence[float]) -> float:
    """The geometric mean; 0 if there is a 0 among the ratios."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if all(ratios) else 0.0


def header(run: Run) -> str:
    """Formats the machine and the peaks."""
    lines = dict(run.machine)
    if run.peaks:
        rates = ", ".join(f"{dtype} {rate / 1e9:.4g}" for dtype, rate in run.peaks.items())
        lines["peak"] = f"{rates} GFLOP/s in a matrix product"
    width = max(map(len, lines))
    return "\n".join(f"{heading:{width}}  {text}" for heading, text in lines.items())


def tables(run: Run) -> str:
    """Formats the rows, one table for each work."""
    by_work: dict[Work, list[Row]] = {}
    for row in run.rows:
        by_work.setdefault(row.cell.work, []).append(row)
    return "\n\n".join(_table(work, rows, run.peaks) for work, rows in by_work.items())


def failures(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Lists for each contender the cells in which it gave a wrong answer or none."""
    failed: dict[str, list[str]] = {}
    for row in rows:
        for name, result in row.results.items():
            if result.status in ("wrong", "error"):
                line = f"{name} {result.status} in {row.cell}: {result.detail}"
                failed.setdefault(name, []).append(line)
    return failed


def save(path: Path, run: Run) -> None:
    """Writes the results as JSON, a line a cell."""
    head = {"machine": run.machine, "unit": "seconds", "peaks": run.peaks}
    write_lines(path, head, [row.as_dict() for row in run.rows])


def load(path: Path) -> Run:
    """Reads what `save` wrote."""
    saved = json.loads(path.read_text())
    rows = [Row.from_dict(row) for row in saved["rows"]]
    return Run(saved["machine"], rows, saved.get("peaks", {}))


def write_lines(path: Path, head: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Writes a JSON object with the entry ``rows``, a line a row, behind those of the head."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(map(json.dumps, rows))
    beginning = json.dumps(head, indent=1).removesuffix("\n}")
    path.write_text(f'{beginning},\n "rows": [\n{lines}\n]}}\n')


def titled(title: str, lines: Sequence[Sequence[str]], *below: str) -> str:
    """Formats a table: the title underlined, the columns aligned, remarks below."""
    return "\n".join([title, "-" * len(title), *_align(lines), *below])


def _table(work: Work, rows: Sequence[Row], peaks: dict[str, float]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row.results))
    # A column for those only who have such a function.
    names = [n for n in names if any(_result(row, n) != "-" for row in rows)]
    columns = _ceiling_columns(work, rows, peaks)
    heads = ["cell", "dtype", *names, "best peer", f"best/{US}", f"{BASE}/{US}", *columns, ""]
    lines = [heads]
    for row in rows:
        best = best_peer(row)
        lines.append(
            [
                row.cell.size,
                row.cell.dtype,
                *(_result(row, name) for name in names),
                best or "-",
                _ratio(speedup(row, best)),
                _ratio(speedup(row, BASE)),
                *(column(row) for column in columns.values()),
                "!" if row.foreign is not None and row.foreign > DISTURBED else "",
            ]
        )
    return titled(f"{work.title} ({work.name}), milliseconds", lines, *_summary(rows))


def _ceiling_columns(
    work: Work, rows: Sequence[Row], peaks: dict[str, float]
) -> dict[str, Callable[[Row], str]]:
    """The columns that hold jaxqr's values against what the machine can do, by heading."""
    columns: dict[str, Callable[[Row], str]] = {}
    if work.gradient:
        return columns

    def rate(row: Row) -> float | None:
        ours = row.results[US].seconds if US in row.results else None
        return flops(row.cell) / ours if ours else None

    def share(row: Row) -> str:
        achieved, peak = rate(row), peaks.get(row.cell.dtype)
        return f"{achieved / peak:.0%}" if achieved and peak else "-"

    if any(map(rate, rows)):
        columns["GFLOP/s"] = lambda row: _ratio((x := rate(row)) and x / 1e9)
        if peaks:
            columns["of peak"] = share
        if any(row.floor for row in rows):
            columns[f"{US}/floor"] = lambda row: _ratio(
                (x := row.results[US].seconds) and row.floor and x / row.floor
            )
    return columns


def _result(row: Row, name: str) -> str:
    result = row.results.get(name)
    if result is None:
        return "-"
    return result.status if result.seconds is None else f"{result.seconds * 1e3:.4g}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _align(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        first, *rest = (
            f"{cell:<{width}}" if column == 0 else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        yield "  ".join([first, *rest]).rstrip()


def _summary(rows: Sequence[Row]) -> Iterator[str]:
    for label, peer in (("best peer", best_peer), (BASE, lambda row: BASE)):
        ratios = {row.cell: x for row in rows if (x := speedup(row, peer(row))) is not None}
        if not ratios:
            continue
        worst = min(ratios, key=ratios.__getitem__)
        behind = sum(ratio < 1 for ratio in ratios.values())
        yield (
            f"{label}/{US}: geometric mean {geometric_mean(list(ratios.values())):.2f}, "
            f"worst {ratios[worst]:.2f} in {worst.size} {worst.dtype}, "
            f"{US} behind in {behind} of {len(ratios)}"
        )
    if any((row.foreign or 0) > DISTURBED for row in rows):
        yield "!: other processes were busy meanwhile, the times are not to be trusted"
