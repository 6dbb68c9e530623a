"""Tables of the results, and the file that keeps them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.cases import Work
from benchmarks.race import Row

US = "jaxqr"
BASE = "jnp"

# Processors busy with something else, above which a row is marked as disturbed.
DISTURBED = 0.1


def best_peer(row: Row) -> str | None:
    """Names the fastest contender other than jaxqr."""
    times = {name: r.seconds for name, r in row.results.items() if r.seconds and name != US}
    return min(times, key=times.__getitem__) if times else None


def speedup(row: Row, peer: str | None) -> float | None:
    """How many times as long as jaxqr a peer takes; None unless both have a time."""
    if peer is None or peer not in row.results or US not in row.results:
        return None
    theirs, ours = row.results[peer].seconds, row.results[US].seconds
    return theirs / ours if theirs and ours else None


def header(machine: dict[str, str]) -> str:
    """Formats what `benchmarks.machine.describe` returned."""
    width = max(map(len, machine))
    return "\n".join(f"{heading:{width}}  {text}" for heading, text in machine.items())


def tables(rows: Sequence[Row]) -> str:
    """Formats the rows, one table for each work."""
    works = dict.fromkeys(row.cell.work for row in rows)
    return "\n\n".join(_table(work, [r for r in rows if r.cell.work == work]) for work in works)


def failures(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Lists for each contender the cells in which it gave a wrong answer or none."""
    failed: dict[str, list[str]] = {}
    for row in rows:
        for name, result in row.results.items():
            if result.status in ("wrong", "error"):
                line = f"{name} {result.status} in {row.cell}: {result.detail}"
                failed.setdefault(name, []).append(line)
    return failed


def save(path: Path, machine: dict[str, str], rows: Sequence[Row]) -> None:
    """Writes the results as JSON, a line a cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps({"machine": machine, "unit": "seconds"}, indent=1).removesuffix("\n}")
    lines = ",\n".join(json.dumps(row.as_dict()) for row in rows)
    path.write_text(f'{head},\n "rows": [\n{lines}\n]}}\n')


def load(path: Path) -> tuple[dict[str, str], list[Row]]:
    """Reads what `save` wrote."""
    saved = json.loads(path.read_text())
    return saved["machine"], [Row.from_dict(row) for row in saved["rows"]]


def _table(work: Work, rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row.results))
    lines = [["cell", "dtype", *names, "best peer", f"best/{US}", f"{BASE}/{US}", ""]]
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
                "!" if row.foreign is not None and row.foreign > DISTURBED else "",
            ]
        )
    title = f"{work.title} ({work.name}), milliseconds"
    return "\n".join([title, "-" * len(title), *_align(lines), *_summary(rows)])


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
        mean = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
        worst = min(ratios, key=ratios.__getitem__)
        behind = sum(ratio < 1 for ratio in ratios.values())
        yield (
            f"{label}/{US}: geometric mean {mean:.2f}, worst {ratios[worst]:.2f} in "
            f"{worst.size} {worst.dtype}, {US} behind in {behind} of {len(ratios)}"
        )
    if any((row.foreign or 0) > DISTURBED for row in rows):
        yield "!: other processes were busy meanwhile, the times are not to be trusted"
