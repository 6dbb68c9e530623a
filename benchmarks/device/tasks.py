"""The process that works on the device: it is asked for one task after another.

Each line of the standard input names a task; the answer is a line of JSON. What libraries print
goes to the standard error, so that nothing gets between the answers.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, TextIO

import jax

from benchmarks.cases import Cell
from benchmarks.checks import Problem, problem_of
from benchmarks.contenders import Contender
from benchmarks.device import cells, races, rates
from benchmarks.device.takers import NAMES, DeviceJax, takers
from benchmarks.timing import Schedule

_UNTIMED = Schedule(rounds=0)

# Programs that are compiled at once.
_THREADS = 8


class Tasks:
    """What the process can be asked for, by the first word of the question."""

    def __init__(self, contenders: Sequence[Contender], dry: bool):
        """Takes who is checked and raced, and whether a CPU only tries the command."""
        self._contenders, self._dry = contenders, dry
        self._problems: dict[Cell, Problem] = {}
        raced = (cell for parts in (cells.RACES, cells.dry()) for x in parts.values() for cell in x)
        self._cells = {str(cell): cell for cell in (*raced, *cells.checked())}

    def answer(self, question: str) -> dict[str, Any]:
        """Does what the question names: ``race qr/1024x1024/f4``."""
        task, *what = question.split()
        return getattr(self, f"do_{task}")(*what)

    def do_describe(self) -> dict[str, Any]:
        """Describes the machine and the software."""
        return rates.describe()

    def do_rates(self) -> dict[str, Any]:
        """Measures what the device can do."""
        return rates.measure(self._dry)

    def do_solve(self, size: str) -> dict[str, Any]:
        """Times a triangular solve and a product."""
        return rates.solve_and_product(tuple(map(int, size.split("x"))))

    def do_compile(self, library: str, *names: str) -> dict[str, Any]:
        """Compiles the programs of cells, several at once, of one library or of ``all``."""
        begin = time.perf_counter()
        able = [x for x in self._contenders if isinstance(x, DeviceJax)]
        chosen = [x for x in able if library in ("all", x.name)]

        def prepare(cell: Cell) -> None:
            problem = self._problems[cell] = problem_of(cell)
            for contender in chosen:
                try:
                    contender.prepare(cell, problem.inputs, problem.cotangents)
                except Exception as error:  # It comes again, and is reported, where it is raced.
                    print(f"{contender.name} {cell}: {error}", file=sys.stderr)

        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            list(pool.map(prepare, map(self._cells.__getitem__, names)))
        return {"seconds": time.perf_counter() - begin}

    def do_check(self, name: str) -> dict[str, Any]:
        """Checks the answer of the first contender, jaxqr."""
        return self._results(name, self._contenders[:1], _UNTIMED)

    def do_race(self, name: str) -> dict[str, Any]:
        """Checks and times all contenders."""
        return self._results(name, self._contenders, races.DRY if self._dry else races.BRIEF)

    def _results(
        self, name: str, contenders: Sequence[Contender], schedule: Schedule
    ) -> dict[str, Any]:
        cell = self._cells[name]
        results = races.race(cell, contenders, schedule, self._problems.pop(cell, None))
        return {
            name: {**asdict(result), "seconds": result.seconds} for name, result in results.items()
        }


def serve(questions: Iterable[str], answers: TextIO, tasks: Tasks) -> None:
    """Answers until there are no more questions.

    Args:
      questions: a line each.
      answers: where the answers go, a line each.
      tasks: who knows them.
    """
    for question in questions:
        # What is there before the task is none of its garbage: it is collected in each block.
        gc.freeze()
        try:
            found = tasks.answer(question)
        except Exception as error:  # One task that fails leaves the others alone.
            found = {"error": textwrap.shorten(f"{type(error).__name__}: {error}", 300)}
        print(json.dumps(found), file=answers, flush=True)
        jax.clear_caches()
        gc.unfreeze()
        gc.collect()


def main() -> None:
    """Serves the standard input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--takers", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # for the threads, too: the process is ours
    jax.config.update("jax_enable_x64", True)
    serve(sys.stdin, answers, Tasks(takers(options.takers), options.dry))


if __name__ == "__main__":
    main()
