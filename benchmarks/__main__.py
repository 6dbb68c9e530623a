"""The command line: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import (
    aims,
    ceilings,
    contenders,
    growth,
    launches,
    machine,
    memory,
    registers,
    report,
)
from benchmarks.cases import DTYPES, QUICK, WORKS, Cell, grid
from benchmarks.contenders import NAMES
from benchmarks.device import command as device
from benchmarks.patch import command as patch
from benchmarks.race import Row, race
from benchmarks.timing import Schedule

RESULTS = Path(__file__).parent / "results"

# What each command takes where the command line does not choose.
_WORKS = {"race": tuple(WORKS), "growth": ("qr",), "memory": tuple(WORKS)}
_DTYPES = {"race": None, "growth": ("f4", "f8"), "memory": ("f8",)}

# Commands with a command line of their own.
_TOOLS: dict[str, Callable[[Sequence[str]], int]] = {
    "device": device.main,
    "launches": launches.main,
    "patch": patch.main,
    "registers": registers.main,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in _TOOLS:
        return _TOOLS[arguments[0]](arguments[1:])
    options = _options(arguments)
    cells = _select(options)
    if options.list:
        print(*cells, sep="\n")
        return 0
    if options.command == "memory":
        return _memory(cells, options)
    run = report.load(options.show) if options.show else _run(cells, options)
    if run is None:
        return 2
    if options.command == "growth":
        _pictures(run, options.show or _path(options))
    unfinished = not options.show and len(run.rows) < len(cells)
    return _report(run, judged=options.command == "race") or int(unfinished)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description="Races jaxqr against JAX, PyTorch and SciPy.",
        epilog=f"With options of their own: {', '.join(_TOOLS)}.",
    )
    add = parser.add_argument
    add(
        "command",
        nargs="?",
        choices=tuple(_WORKS),
        default="race",
        help="race (the default): time the grid; growth: time growing batches and orders of QR, "
        "and draw; memory: peaks of jaxqr and jnp",
    )
    add("--works", nargs="+", choices=WORKS, help="default: all; growth: qr")
    add(
        "--dtypes",
        nargs="+",
        choices=[*DTYPES, "c8"],
        help="f4 f8 c16, lstsq f4 f8; growth f4 f8; memory f8",
    )
    add("--cells", default="", metavar="REGEX", help="matched within work/shape/dtype")
    add("--quick", action="store_true", help="a dozen cells of the grid, about a minute")
    add("--json", type=Path, metavar="PATH", help="default: in benchmarks/results")
    add("--show", type=Path, metavar="PATH", help="print (growth: draw) what a file has and stop")
    add("--list", action="store_true", help="list the cells and stop")
    add("--force", action="store_true", help="run although something else does")
    _add_timing(parser.add_argument_group("race and growth").add_argument)
    add = parser.add_argument_group("growth").add_argument
    add("--batch-limit", type=int, default=growth.BATCH_LIMIT, metavar="N", help="(%(default)s)")
    add("--size-limit", type=int, default=growth.SIZE_LIMIT, metavar="N", help="(%(default)s)")
    options = parser.parse_args(arguments)
    if options.command == "memory" and options.show:
        parser.error("--show is for times")
    if options.command == "growth" and options.quick:
        parser.error("--quick selects from the grid; growth has limits instead")
    return options


def _add_timing(add: Callable[..., object]) -> None:
    default = Schedule()
    seconds = {"type": float, "metavar": "S"}
    add("--contenders", nargs="+", choices=NAMES, default=NAMES, help="default: everyone")
    add("--rounds", type=int, default=default.rounds, metavar="N", help="(%(default)s); 0: check")
    add("--block", default=default.block, help="seconds in a block (%(default)s)", **seconds)
    add("--pause", default=default.pause, help="longest rest before one (%(default)s)", **seconds)
    add("--peak", type=int, default=1500, metavar="N", help="order of the matrix product; 0: none")


def _select(options: argparse.Namespace) -> list[Cell]:
    works = options.works or _WORKS[options.command]
    dtypes = options.dtypes or _DTYPES[options.command]
    if options.command == "growth":
        cells = growth.cells(works, dtypes, options.batch_limit, options.size_limit)
    else:
        cells = grid(works, dtypes)
    wanted = re.compile(options.cells)
    return [
        cell
        for cell in cells
        if wanted.search(str(cell)) and (not options.quick or QUICK.fullmatch(str(cell)))
    ]


def _run(cells: list[Cell], options: argparse.Namespace) -> report.Run | None:
    """Races and saves; None if the machine is busy."""
    if not _may_start(options.force):
        return None
    takers = contenders.load(options.contenders)
    run = report.Run(machine.describe(takers), [])
    schedule = Schedule(options.rounds, options.block, options.pause)
    try:
        if options.peak and schedule.rounds:
            run.peaks = ceilings.peak_rates(dict.fromkeys(c.dtype for c in cells), options.peak)
        race(cells, schedule, takers, _progress(run.rows, len(cells)))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    run.machine["cells"] = f"{len(run.rows)} of {len(cells)}"
    if run.rows:
        report.save(_path(options), run)
    return run


def _memory(cells: list[Cell], options: argparse.Namespace) -> int:
    surroundings = machine.describe(contenders.load(memory.NAMES))
    footprints = memory.measure(cells)
    memory.save(_path(options), surroundings, footprints)
    failed = memory.failures(footprints)
    print(report.header(report.Run(surroundings, [])), memory.tables(footprints), sep="\n\n")
    print("", *failed, sep="\n")
    return int(bool(failed))


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


def _path(options: argparse.Namespace) -> Path:
    if options.json:
        return options.json
    if options.command != "race":
        return RESULTS / f"{options.command}.json"
    cpu = re.sub(r"\W+", "-", machine.processor()).strip("-").lower()
    return RESULTS / f"{time.strftime('%Y-%m-%d-%H%M')}-{cpu}.json"


def _pictures(run: report.Run, path: Path) -> None:
    """Draws beside the file with the figures."""
    if machine.optional("matplotlib") is None:
        print("No pictures: matplotlib is not installed", file=sys.stderr)
        return
    print(*growth.draw(run.rows, path.with_suffix("")), sep="\n", file=sys.stderr)


def _report(run: report.Run, judged: bool) -> int:
    verdict = aims.summary(run.rows) if judged else ""
    print(*filter(None, [report.header(run), report.tables(run), verdict]), sep="\n\n")
    failed = report.failures(run.rows)
    print("", *(line for lines in failed.values() for line in lines), sep="\n")
    return 1 if report.US in failed else 0


if __name__ == "__main__":
    sys.exit(main())
