"""The command line: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import contenders, machine, report
from benchmarks.cases import DTYPES, QUICK, WORKS, Cell, grid
from benchmarks.race import Row, race
from benchmarks.timing import Schedule

NAMES = ("jaxqr", "jnp", "torch", "scipy")
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Runs the program; returns its exit status."""
    options = _options()
    if options.show:
        return _report(*report.load(options.show))
    cells = _select(options)
    if options.list:
        print(*cells, sep="\n")
        return 0
    if not _may_start(options.force):
        return 2
    takers = [c for c in contenders.load() if c.name in options.contenders]
    surroundings = machine.describe(takers)
    rows: list[Row] = []
    try:
        race(cells, _schedule(options), takers, _progress(rows, len(cells)))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    surroundings["cells"] = f"{len(rows)} of {len(cells)}"
    if rows:
        report.save(options.json or _default_path(), surroundings, rows)
    return _report(surroundings, rows) or int(len(rows) < len(cells))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description="Races jaxqr against JAX, PyTorch and SciPy."
    )
    add = parser.add_argument
    add("--works", nargs="+", choices=WORKS, default=WORKS, help="default: all")
    add("--dtypes", nargs="+", choices=[*DTYPES, "c8"], default=DTYPES, help="default: f4 f8 c16")
    add("--cells", default="", metavar="REGEX", help="matched within work/shape/dtype")
    add("--quick", action="store_true", help="a dozen cells, about two minutes")
    add("--contenders", nargs="+", choices=NAMES, default=NAMES, help="default: everyone")
    add("--rounds", type=int, default=3, metavar="N", help="blocks (%(default)s); 0: only check")
    add("--block", type=float, default=0.3, metavar="S", help="seconds in a block (%(default)s)")
    add("--pause", type=float, default=0.25, metavar="S", help="rest before each (%(default)s)")
    add("--json", type=Path, metavar="PATH", help="default: benchmarks/results/<date>-<cpu>.json")
    add("--show", type=Path, metavar="PATH", help="print the tables of a file and stop")
    add("--list", action="store_true", help="list the cells and stop")
    add("--force", action="store_true", help="run although something else does")
    return parser.parse_args()


def _select(options: argparse.Namespace) -> list[Cell]:
    cells = grid(options.works, options.dtypes)
    wanted = re.compile(options.cells)
    return [
        cell
        for cell in cells
        if wanted.search(str(cell)) and (not options.quick or QUICK.fullmatch(str(cell)))
    ]


def _schedule(options: argparse.Namespace) -> Schedule:
    return Schedule(options.rounds, options.block, options.pause)


def _may_start(force: bool) -> bool:
    """Warns of what spoils the times; whether to go on."""
    for warning in machine.warnings():
        print(f"WARNING: {warning}", file=sys.stderr)
    busy = machine.busy()
    if busy <= report.DISTURBED:
        return True
    print(f"WARNING: other processes keep {busy:.1f} processors busy", file=sys.stderr)
    if not force:
        print("Not started: the times would be worthless (--force: all the same)", file=sys.stderr)
    return force


def _progress(rows: list[Row], total: int) -> Callable[[Row], None]:
    begin = time.perf_counter()

    def arrived(row: Row) -> None:
        rows.append(row)
        print(
            f"{len(rows)}/{total} {row.cell} {time.perf_counter() - begin:.0f} s", file=sys.stderr
        )

    return arrived


def _default_path() -> Path:
    cpu = re.sub(r"\W+", "-", machine.processor()).strip("-").lower()
    return RESULTS / f"{time.strftime('%Y-%m-%d-%H%M')}-{cpu}.json"


def _report(surroundings: dict[str, str], rows: list[Row]) -> int:
    print(report.header(surroundings), report.tables(rows), sep="\n\n")
    failed = report.failures(rows)
    print("", *(line for lines in failed.values() for line in lines), sep="\n")
    return 1 if report.US in failed else 0


if __name__ == "__main__":
    sys.exit(main())
