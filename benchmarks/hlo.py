"""Counts what a call of a program that XLA compiled for a GPU makes the device and the host do.

It is read off the text of the optimized and scheduled module, in which each fusion, library call
and copy is launched as it stands there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

# Instructions that only name a buffer or wait for a launch that is counted where it starts. All
# others are launches, those too that are not known here.
_FREE = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
        *("add-dependency", "domain", "opt-barrier", "optimization-barrier"),
        *("copy-done", "async-update", "async-done"),
    )
)

_COMMENT = re.compile(r"/\*.*?\*/")
_COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"(?:ROOT )?%?[\w.\-]+ = (?:\([^=]*?\)|\S+) (?P<operation>[\w\-]+)\(")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
# The name of the kernel in a call of ours.
_KERNEL = re.compile(r'\bkernel = "(\w+)"')
_CALLED = re.compile(
    r"\b(?P<role>body|condition|to_apply|calls|true_computation|false_computation|branch_computations)"
    r"=(?P<names>\{[^}]*\}|%?[\w.\-]+)"
)


@dataclass
class Loop:
    """A loop whose end depends on data: before each round the host waits for the device and reads.

    Attributes:
      times: how often the loop is entered.
      each: what one round takes.
    """

    times: int
    each: Cost


@dataclass
class Cost:
    """What a call takes.

    Attributes:
      launches: by what is launched, on the way through the shortest branches of conditionals and
        without the rounds of `loops`.
      most: launches on the way through the longest branches.
      conditionals: those on the longest way; at each the host waits for the device and reads.
      loops: those of unknown length.
    """

    launches: Counter[str] = field(default_factory=Counter)
    most: int = 0
    conditionals: int = 0
    loops: list[Loop] = field(default_factory=list)

    @property
    def least(self) -> int:
        """Launches on the shortest way."""
        return sum(self.launches.values())

    def add(self, other: Cost, times: int = 1) -> None:
        """Adds what is done `times` times over."""
        for name, count in other.launches.items():
            self.launches[name] += times * count
        self.most += times * other.most
        self.conditionals += times * other.conditionals
        self.loops += [Loop(times * loop.times, loop.each) for loop in other.loops]

    def as_dict(self) -> dict[str, Any]:
        """Returns the cost as JSON can hold it."""
        return {
            "launches": self.least,
            "most": self.most,
            "conditionals": self.conditionals,
            "loops": [{"times": x.times, "each": x.each.as_dict()} for x in self.loops],
            "kinds": dict(self.launches.most_common()),
        }


def cost(text: str) -> Cost:
    """Counts what a call of a program takes.

    Args:
      text: of the optimized module, as ``compiled.as_text()`` gives it.

    Returns:
      Its cost. Loops of known length count with all their rounds.
    """
    computations, entry = _computations(text)

    @cache
    def of_computation(name: str) -> Cost:
        total = Cost()
        for line in computations[name]:
            if (found := _INSTRUCTION.match(line)) and found["operation"] not in _FREE:
                _add_instruction(total, found["operation"], line, of_computation)
        return total

    return of_computation(entry)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation, and the name of the entry."""
    computations: dict[str, list[str]] = {}
    name, entry = "", ""
    for line in _COMMENT.sub("", text).splitlines():
        if head := _COMPUTATION.match(line):
            name = head["name"]
            computations[name] = []
            entry = name if head["entry"] else entry
        elif name:
            computations[name].append(line.strip())
    if not entry:
        raise ValueError("the text has no entry computation of HLO")
    return computations, entry


def _add_instruction(total: Cost, operation: str, line: str, of_computation: Any) -> None:
    called = _called(line)
    if operation == "while":
        body = of_computation(called["body"][0])
        if trips := _TRIPS.search(line):
            total.add(body, int(trips[1]))
        else:
            each = Cost()
            each.add(of_computation(called["condition"][0]))
            each.add(body)
            total.loops.append(Loop(1, each))
    elif operation == "conditional":
        total.add(_of_branches(map(of_computation, _branches(called))))
    elif operation == "call" and "to_apply" in called:
        total.add(of_computation(called["to_apply"][0]))
    else:
        total.launches[_launched(operation, line)] += 1
        total.most += 1


def _of_branches(costs: Iterable[Cost]) -> Cost:
    branches = list(costs)
    return Cost(
        min(branches, key=lambda branch: branch.least).launches,
        max(branch.most for branch in branches),
        1 + max(branch.conditionals for branch in branches),
        [loop for branch in branches for loop in branch.loops],
    )


def _called(line: str) -> dict[str, list[str]]:
    """The computations that an instruction names, by their role."""
    return {
        found["role"]: re.findall(r"[\w.\-]+", found["names"]) for found in _CALLED.finditer(line)
    }


def _branches(called: dict[str, list[str]]) -> Iterator[str]:
    for role in ("true_computation", "false_computation", "branch_computations"):
        yield from called.get(role, ())


def _launched(operation: str, line: str) -> str:
    """The name of a launch: the target of a call and the kernel of ours, else the operation."""
    if operation != "custom-call" or not (target := _TARGET.search(line)):
        return operation
    kernel = _KERNEL.search(line)
    return f"{target[1]} {kernel[1]}" if kernel else target[1]
