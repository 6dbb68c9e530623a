"""Blocks of calls, taken in turn over several rounds.

Contenders share one process and disturb one another: the BLAS threads of one go on spinning for
some time after a call. So each contender gets a block of consecutive calls, a pause before it lets
the machine come to rest, and the blocks take turns, so that a slow minute hits all alike.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Call = Callable[[], Any]


@dataclass(frozen=True)
class Schedule:
    """How long to measure.

    Attributes:
      rounds: blocks for each contender.
      block: seconds that a block should take.
      pause: seconds of rest before each block.
      least: calls in a block, however long they take.
    """

    rounds: int = 3
    block: float = 0.3
    pause: float = 0.25
    least: int = 3


@dataclass(frozen=True)
class Block:
    """Seconds per call in one block."""

    median: float
    min: float
    max: float
    calls: int


def take_turns(calls: Mapping[str, Call], schedule: Schedule) -> dict[str, list[Block]]:
    """Times the calls against one another.

    Args:
      calls: by name of the contender; each has been called before.
      schedule: rounds and lengths.

    Returns:
      For each name its blocks, one a round.
    """
    counts = {name: _count(call, schedule) for name, call in calls.items()}
    blocks: dict[str, list[Block]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(schedule.rounds):
        # Another one begins each round, so that nobody always runs behind the same neighbour.
        first = turn % max(len(names), 1)
        for name in names[first:] + names[:first]:
            time.sleep(schedule.pause)
            blocks[name].append(_block(calls[name], counts[name]))
    return blocks


def _count(call: Call, schedule: Schedule) -> int:
    """The number of calls that fill a block."""
    seconds = min(_seconds(call) for _ in range(2))
    return max(schedule.least, round(schedule.block / seconds))


def _block(call: Call, count: int) -> Block:
    gc.collect()
    gc.disable()
    try:
        seconds = [_seconds(call) for _ in range(count)]
    finally:
        gc.enable()
    return Block(statistics.median(seconds), min(seconds), max(seconds), count)


def _seconds(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


class Neighbours:
    """Measures how many processors are busy with something other than this process."""

    def __init__(self) -> None:
        """Starts measuring."""
        self._begin = self._clocks()

    def processors(self) -> float | None:
        """Busy processors on average since the start; None where the system does not tell."""
        if self._begin is None or (now := self._clocks()) is None:
            return None
        wall, machine, own = (y - x for x, y in zip(self._begin, now, strict=True))
        return max(0.0, (machine - own) / wall) if wall > 0 else 0.0

    @staticmethod
    def _clocks() -> tuple[float, float, float] | None:
        try:
            total = Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
        except OSError:
            return None
        # user nice system idle iowait irq softirq steal, then guest times that user contains.
        user, nice, system, _, _, irq, softirq, steal = map(int, total[:8])
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy, time.process_time()
