"""One cell on a device: who is right, and how long a call takes.

A call is timed twice. *Queued*: many are begun before the last is waited for, as in a program that
keeps the device busy; what it takes is the work on the device or, where that is more, what the host
takes to begin it. *Single*: each is waited for. The contenders take turns in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from benchmarks.cases import Cell
from benchmarks.ceilings import flops
from benchmarks.checks import Problem, problem_of
from benchmarks.contenders import Contender
from benchmarks.device.takers import Queued
from benchmarks.race import Result, admit
from benchmarks.timing import Block, Call, Schedule, clock, take_turns, typical

# A queue takes about so many seconds, and has at most so many calls.
_QUEUE, _LONGEST = 0.02, 50

BRIEF = Schedule(rounds=3, block=0.04, pause=0.0, warmup=0.0, least=2)
DRY = Schedule(rounds=1, block=0.001, pause=0.0, warmup=0.0, least=2)


@dataclass
class DeviceResult(Result):
    """What a contender achieved; `blocks` are those of queued calls, in seconds a call.

    Attributes:
      single: seconds of a call that is waited for.
      facts: of the program, from `Queued.facts`.
    """

    single: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def race(
    cell: Cell,
    contenders: Sequence[Contender],
    schedule: Schedule = BRIEF,
    problem: Problem | None = None,
) -> dict[str, DeviceResult]:
    """Checks and times the contenders in a cell.

    Args:
      cell: work, shape and dtype.
      contenders: who takes part.
      schedule: how long to measure; without rounds the answers are checked alone.
      problem: that of the cell, where it has been drawn before.

    Returns:
      The results by name.
    """
    problem = problem or problem_of(cell)
    results: dict[str, DeviceResult] = {}
    calls: dict[str, Queued] = {}
    for contender in contenders:
        result, call = admit(contender, cell, problem)
        results[contender.name] = DeviceResult(result.status, result.detail, result.checks)
        if call is not None:
            calls[contender.name] = call if isinstance(call, Queued) else _unqueued(call)
            results[contender.name].facts = calls[contender.name].facts
    if schedule.rounds:
        for name, blocks in _queued(calls, schedule).items():
            results[name].blocks = blocks
        for name, blocks in take_turns(calls, schedule).items():
            results[name].single = typical(blocks)
    return results


def bytes_moved(cell: Cell) -> int:
    """Counts the bytes that any algorithm reads and writes: the arguments and the results once.

    Of gradients: the matrix, the cotangents and the gradient.
    """
    *batch, m, n = cell.shape
    k = min(m, n)
    matrix, factors = m * n, m * k + k * n
    if cell.work.least_squares:
        entries = matrix + m + n
    elif cell.work.gradient:
        entries = 2 * matrix + factors
    else:
        entries = matrix + (k * n if cell.work.kind == "r" else factors)
    return int(np.prod(batch)) * entries * np.dtype(cell.dtype).itemsize


def shares(cell: Cell, seconds: float, rates: dict[str, Any]) -> dict[str, float]:
    """Holds a time against what the device can do.

    Args:
      cell: what was computed.
      seconds: of a call.
      rates: ``copy`` in bytes a second and ``products`` in operations a second, by dtype.

    Returns:
      The share of the bandwidth of a copy, and that of the rate of a matrix product. The
      operations are those of the standard algorithm; of gradients those of the values alone.
    """
    found = {}
    if copy := rates.get("copy"):
        found["of_copy"] = bytes_moved(cell) / seconds / copy
    if product := rates.get("products", {}).get(cell.dtype):
        found["of_product"] = flops(cell) / seconds / product
    return found


def queue(call: Queued, count: int) -> None:
    """Begins so many calls and waits for the last: they are done in their order."""
    result = None
    for _ in range(count):
        result = call.begin()
    call.wait(result)


def queue_length(call: Queued) -> int:
    """How many calls fill a queue."""
    return max(1, min(_LONGEST, round(_QUEUE / min(clock(call), clock(call)))))


def _queued(calls: dict[str, Queued], schedule: Schedule) -> dict[str, list[Block]]:
    """Seconds a call, in queues that take turns."""
    counts = {name: queue_length(call) for name, call in calls.items()}
    queues = {name: partial(queue, call, counts[name]) for name, call in calls.items()}
    return {
        name: [_each(block, counts[name]) for block in blocks]
        for name, blocks in take_turns(queues, schedule).items()
    }


def _each(block: Block, count: int) -> Block:
    seconds = (block.median / count, block.min / count, block.max / count)
    return Block(*seconds, block.calls * count)


def _unqueued(call: Call) -> Queued:
    return Queued(call, lambda _: None)
