"""``python -m benchmarks device``: is all right on the device, and how fast is it?

First what the machine is and what it can do, then the project's own tests of a device and a table
of LAPACK's ratios, then races of jaxqr against jnp, PyTorch and CuPy, and last the same cells by
jaxqr without its GPU kernels. Each part and each task has a time; what breaks off is written down,
and the others go on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import Cell
from benchmarks.device import cells, races, suite, tables
from benchmarks.device.worker import Worker
from benchmarks.report import US

RESULTS = Path(__file__).parent.parent / "results"

# Of the time: the most that the tests and the table of ratios may take, and what is kept for the
# cells without kernels.
_TESTS, _RATIOS, _OFF = 0.25, 0.12, 0.12

# JAX, PyTorch and CuPy share the memory, and JAX rounds products as the others do, not to TF32.
_ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
}

# Seconds that one task may take, the start of its process included.
_PATIENCE = 90.0

# The parts whose programs are compiled one by one, as their times are wanted.
_ALONE = ("pivoted",)

# Cells that are compiled in one task.
_CHUNK = 30


class OutOfTimeError(Exception):
    """What is left is kept for what follows."""


class Session:
    """One run of the command: its options, its clock, and what it has found."""

    def __init__(self, options: argparse.Namespace):
        """Starts the clock."""
        self.dry: bool = options.dry
        self.path: Path | None = options.json
        self.limit: float = options.limit
        self.tests = shlex.split(options.tests)
        self._begin = time.monotonic()
        self.record: dict[str, Any] = {"unit": "seconds", "parts": {}}
        self.record |= {"errors": [], "skipped": []}
        self.environment = os.environ | _ENVIRONMENT
        if self.dry:
            self.environment["JAX_PLATFORMS"] = "cpu"
        self._dry_option = ["--dry"] * self.dry
        self.worker = Worker(self._dry_option, self.environment)

    def worker_without_kernels(self) -> Worker:
        """A process in which jaxqr has no GPU kernels: they are switched off on import."""
        environment = self.environment | {"JAXQR_GPU": "0"}
        return Worker([*self._dry_option, "--takers", US], environment)

    def left(self) -> float:
        """Seconds that are left."""
        return self.limit - (time.monotonic() - self._begin)

    def ask(self, worker: Worker, task: str, keep: float = 0.0) -> dict[str, Any]:
        """Asks for a task, unless only the seconds to keep for what follows are left."""
        seconds = min(_PATIENCE, self.left() - keep)
        if seconds < 1:
            raise OutOfTimeError(task)
        return worker.ask(task, seconds)

    def ask_for(self, name: str, task: str) -> None:
        """Asks for a task whose answer is an entry of the record."""
        found = self.ask(self.worker, task)
        if "error" in found:
            self.fail(name, found["error"])
        else:
            self.record[name] = found

    def part(self, name: str, run: Callable[..., None], *arguments: Any) -> None:
        """Runs a part, writes down its error and its time, and saves all that there is."""
        begin = time.monotonic()
        try:
            run(self, *arguments)
        except OutOfTimeError as last:
            self.record["skipped"].append(f"{name}: {last} and what follows")
        except Exception as error:
            self.fail(name, f"{type(error).__name__}: {error}")
        self.record["parts"][name] = round(time.monotonic() - begin, 1)
        print(f"-- {name}: {time.monotonic() - begin:.0f} s, {self.left():.0f} s left", flush=True)
        self.save()

    def fail(self, part: str, error: str) -> None:
        """Writes an error down."""
        self.record["errors"].append([part, textwrap.shorten(error, 500)])
        print(f"FAILED {part}: {error}", file=sys.stderr)

    def save(self) -> None:
        """Writes the file."""
        path = self.path or _path(self.record, self.dry)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_as_json(self.record))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    session = Session(_options(arguments))
    try:
        return _run(session)
    finally:
        session.worker.close()


def _run(session: Session) -> int:
    """Runs the parts in their order."""
    session.part("machine", Session.ask_for, "machine", "describe")
    platform = session.record.get("machine", {}).get("platform")
    if platform == "cpu" and not session.dry:
        print("JAX finds no GPU here; --dry tries the command on the CPU", file=sys.stderr)
        return 2
    session.part("rates", Session.ask_for, "rates", "rates")
    session.part("tests", _tests)
    session.part("ratios", _ratios)
    for name, group in (cells.dry() if session.dry else cells.RACES).items():
        session.part(name, _race, name, group)
    session.part("solves", _solves)
    session.worker.close()
    session.part("without kernels", _without_kernels)
    print("", tables.tables(session.record), sep="\n")
    return int(not tables.is_right(session.record))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks device", description=__doc__)
    add = parser.add_argument
    add("--limit", type=float, default=450, metavar="S", help="seconds for all (%(default)s)")
    add("--tests", default="tests/gpu", help="arguments of pytest (%(default)s); empty: none")
    add("--json", type=Path, metavar="PATH", help="default: results/device-<its name>.json")
    add("--dry", action="store_true", help="try the command on the CPU, on small shapes")
    return parser.parse_args(arguments)


def _tests(session: Session) -> None:
    if not session.tests:
        return
    seconds = min(_TESTS * session.limit, session.left())
    platform = {"JAXQR_TEST_PLATFORM": "cpu" if session.dry else "gpu"}
    environment = {**session.environment, **platform}
    environment.pop("JAX_DEFAULT_MATMUL_PRECISION")  # the tests' settings are their own
    found = suite.run(session.tests, environment, seconds, parallel=not session.dry)
    session.record["suite"] = found
    if not found["counts"]:
        session.fail("tests", found["last line"])


def _ratios(session: Session) -> None:
    end = session.left() - _RATIOS * session.limit
    rows: list[dict[str, Any]] = []
    session.record["checks"] = rows
    names = [str(cell) for cell in cells.checked()[:: 20 if session.dry else 1]]
    for first in range(0, len(names), _CHUNK):
        chunk = names[first : first + _CHUNK]
        _compile(session, session.worker, US, chunk, end)
        for name in chunk:
            found = session.ask(session.worker, f"check {name}", end)
            rows.append({"cell": name, **_results(found)})


def _race(session: Session, part: str, group: Sequence[Cell]) -> None:
    rows = session.record.setdefault("races", [])
    keep = _OFF * session.limit
    if part not in _ALONE:
        _compile(session, session.worker, "all", map(str, group), keep)
    for cell in group:
        found = session.ask(session.worker, f"race {cell}", keep)
        row = {"cell": str(cell), "part": part, "peers": cell.work.peers, **_results(found)}
        _add_shares(cell, row, session.record.get("rates", {}))
        rows.append(row)
        print(tables.row_line(row), flush=True)


def _solves(session: Session) -> None:
    rows: list[dict[str, Any]] = []
    session.record["solves"] = rows
    for shape in cells.SOLVES:
        size = "x".join(map(str, cells.small(shape) if session.dry else shape))
        found = session.ask(session.worker, f"solve {size}", _OFF * session.limit)
        rows.append({"shape": size, **found})


def _without_kernels(session: Session) -> None:
    """The cells that were raced, as long as there is time: jaxqr's results without kernels."""
    worker = session.worker_without_kernels()
    rows = [row for row in session.record.get("races", []) if "results" in row]
    names = [row["cell"] for row in rows]
    try:
        _compile(session, worker, US, names[:_CHUNK])
        for row in rows:
            found = session.ask(worker, f"race {row['cell']}")
            if "error" in found:
                session.fail("without kernels", f"{row['cell']}: {found['error']}")
            else:
                row["results"][tables.OFF] = found[US]
    finally:
        worker.close()


def _compile(
    session: Session, worker: Worker, library: str, names: Iterable[str], keep: float = 0.0
) -> None:
    """Has programs compiled, several at once; what fails to be ready is compiled when raced."""
    task = f"compile {library} {' '.join(names)}"
    if "error" in (found := session.ask(worker, task, keep)):
        session.fail(task, found["error"])


def _results(found: dict[str, Any]) -> dict[str, Any]:
    return found if "error" in found else {"results": found}


def _add_shares(cell: Cell, row: dict[str, Any], rates: dict[str, Any]) -> None:
    for result in row.get("results", {}).values():
        if seconds := result.get("seconds"):
            result |= races.shares(cell, seconds, rates)


def _path(record: dict[str, Any], dry: bool) -> Path:
    name = record.get("machine", {}).get("device", "unknown")
    words = re.sub(r"\W+", "-", name).strip("-").lower()
    return RESULTS / f"{'dry-' * dry}device-{words}.json"


def _as_json(record: dict[str, Any]) -> str:
    """An entry a line; of those that are lists of rows, a row a line."""

    def text(value: Any) -> str:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
        return json.dumps(value)

    lines = (f"{json.dumps(name)}: {text(value)}" for name, value in record.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"
