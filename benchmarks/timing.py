"""Blocks of calls, taken in turn over several rounds.

Contenders share one process and disturb one another: the BLAS threads of one go on spinning for
some time after a call. So each contender gets a block of consecutive calls, a pause before it lets
the machine come to rest, calls that do not count refill the caches and wake the threads, and the
blocks take turns, so that a slow minute hits all alike.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Call = Callable[[], Any]

# A call that takes more than so many blocks, and so many times as long as the quickest, is timed by
# its trial alone: what it is worth is known by then.
_LONG = 5
_HOPELESS = 50

# How often to look whether threads still spin, in seconds, and the processors that one would take.
_SLICE = 0.025
_SPINNING = 0.3


@dataclass(frozen=True)
class Schedule:
    """How long to measure.

    Attributes:
      rounds: blocks for each contender.
      block: seconds that a block should take.
      pause: seconds of rest before each block at most; it ends when no thread spins any more.
      warmup: seconds of calls before each block that do not count.
      least: calls in a block, unless a single one fills it.
    """

    rounds: int = 3
    block: float = 0.2
    pause: float = 0.25
    warmup: float = 0.02
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
      For each name its blocks, one a round; a single one of a call that is hopelessly long.
    """
    if not schedule.rounds:
        return {name: [] for name in calls}
    trials = {name: _trial(call, schedule) for name, call in calls.items()}
    enough = max(_LONG * schedule.block, _HOPELESS * min(trials.values(), default=0.0))
    blocks: dict[str, list[Block]] = {
        name: [Block(x, x, x, 1)] if x > enough else [] for name, x in trials.items()
    }
    names = [name for name in calls if not blocks[name]]
    for turn in range(schedule.rounds):
        # Another one begins each round, so that nobody always runs behind the same neighbour.
        first = turn % max(len(names), 1)
        for name in names[first:] + names[:first]:
            rest(schedule.pause)
            count = _count(trials[name], schedule)
            blocks[name].append(_block(calls[name], count, schedule.warmup))
    return blocks


def typical(blocks: Sequence[Block]) -> float | None:
    """The median over the rounds of the median call; None without blocks."""
    return statistics.median(block.median for block in blocks) if blocks else None


def rest(longest: float) -> None:
    """Sleeps until no thread of this process spins any more, for `longest` seconds at most."""
    end = time.perf_counter() + longest
    while (begin := time.perf_counter()) < end:
        spent = time.process_time()
        time.sleep(_SLICE)
        if time.process_time() - spent < _SPINNING * (time.perf_counter() - begin):
            return


def _trial(call: Call, schedule: Schedule) -> float:
    """About the seconds that a call takes."""
    rest(schedule.pause)
    seconds = clock(call)
    return seconds if seconds >= schedule.block else min(seconds, clock(call))


def _count(seconds: float, schedule: Schedule) -> int:
    """The number of calls that fill a block."""
    return 1 if seconds >= schedule.block else max(schedule.least, round(schedule.block / seconds))


def _block(call: Call, count: int, warmup: float) -> Block:
    # A call that fills a block by itself warms up within it.
    if count > 1:
        end = time.perf_counter() + warmup
        while time.perf_counter() < end:
            call()
    gc.collect()
    gc.disable()
    try:
        seconds = [clock(call) for _ in range(count)]
    finally:
        gc.enable()
    return Block(statistics.median(seconds), min(seconds), max(seconds), count)


def clock(call: Call) -> float:
    """Returns the seconds that a call takes."""
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
