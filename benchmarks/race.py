"""One cell of the grid, from the input to a row of results."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from benchmarks import contenders as contenders_
from benchmarks.cases import Cell, grid
from benchmarks.ceilings import memory_floor
from benchmarks.checks import Problem, WrongAnswerError, problem_of
from benchmarks.contenders import Contender
from benchmarks.timing import Block, Call, Neighbours, Schedule, take_turns, typical

_FLOOR = "memory floor"


@dataclass
class Result:
    """What a contender achieved in a cell.

    Attributes:
      status: ``"ok"``, ``"wrong"`` or ``"error"``, or in a word why it stayed away.
      detail: the limit it missed or the error it raised.
      checks: the figures of the checks.
      blocks: the times, none unless the status is ``"ok"``.
    """

    status: str
    detail: str = ""
    checks: dict[str, float] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)

    @property
    def seconds(self) -> float | None:
        """Median over the rounds of the median call."""
        return typical(self.blocks)


@dataclass
class Row:
    """The results of a cell.

    Attributes:
      cell: the cell.
      results: by name of the contender.
      foreign: processors busy with something else meanwhile; None if unknown.
      floor: seconds to read the input and write the factors once; None where nobody asks.
    """

    cell: Cell
    results: dict[str, Result]
    foreign: float | None
    floor: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the row as JSON can hold it."""
        return {**dataclasses.asdict(self), "cell": str(self.cell)}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Row:
        """Restores a row from what `as_dict` returned."""
        results = {
            name: Result(**{**result, "blocks": [Block(**block) for block in result["blocks"]]})
            for name, result in saved["results"].items()
        }
        return cls(Cell.parse(saved["cell"]), results, saved["foreign"], saved.get("floor"))


def run(
    shapes: Iterable[tuple[int, ...]] | None = None,
    works: Iterable[str] = ("qr", "qr_grad"),
    dtypes: Iterable[str] = ("f8",),
    schedule: Schedule | None = None,
    contenders: Sequence[Contender] | None = None,
) -> list[Row]:
    """Races the contenders over the product of works, shapes and dtypes.

    Args:
      shapes: ``(..., m, n)`` each; by default the grid's own.
      works: keys of `benchmarks.cases.WORKS`.
      dtypes: NumPy type codes.
      schedule: how long to measure; by default as the command line does.
      contenders: who takes part; by default everyone installed.

    Returns:
      One row for each cell.
    """
    return race(grid(works, dtypes, shapes), schedule or Schedule(), contenders)


def race(
    cells: Iterable[Cell],
    schedule: Schedule,
    contenders: Sequence[Contender] | None = None,
    arrived: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Races the contenders in each cell.

    Args:
      cells: the cells, in order.
      schedule: how long to measure.
      contenders: who takes part; by default everyone installed.
      arrived: called with each row as soon as it is complete.

    Returns:
      The rows.
    """
    takers = contenders_.load() if contenders is None else contenders
    rows = []
    # Half of the dtypes need it; as a context it leaves the caller's configuration alone.
    with jax.enable_x64(True):
        for cell in cells:
            row = _row(cell, takers, schedule)
            rows.append(row)
            arrived(row)
    return rows


def _row(cell: Cell, contenders: Sequence[Contender], schedule: Schedule) -> Row:
    problem = problem_of(cell)
    results, calls = {}, {}
    for contender in contenders:
        results[contender.name], call = admit(contender, cell, problem)
        if call is not None:
            calls[contender.name] = call
    if calls and (touch := memory_floor(cell, problem.inputs[0])) is not None:
        calls[_FLOOR] = touch
    neighbours = Neighbours()
    blocks = take_turns(calls, schedule)
    foreign = neighbours.processors() if any(blocks.values()) else None
    floor = typical(blocks.pop(_FLOOR, []))
    for name in blocks:
        results[name].blocks = blocks[name]
    return Row(cell, results, foreign, floor)


def admit(contender: Contender, cell: Cell, problem: Problem) -> tuple[Result, Call | None]:
    """Lets a contender into the race if its answer is right."""
    if (refusal := contender.refusal(cell)) is not None:
        return Result(refusal), None
    try:
        call = contender.forward(cell, problem.inputs)
        values = contender.values(call())
        checks = problem.check_values(values)
        if cell.work.gradient:
            call = contender.gradient(cell, problem.inputs, problem.cotangents)
            checks |= problem.check_gradient(contender.slopes(call()), values)
    except WrongAnswerError as wrong:
        return Result("wrong", str(wrong)), None
    except Exception as error:  # Whatever a library raises, the others go on.
        reason = textwrap.shorten(str(error), 200)
        return Result("error", f"{type(error).__name__}: {reason}"), None
    return Result("ok", checks=checks), call
