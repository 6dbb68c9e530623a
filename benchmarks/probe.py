"""Measures how much memory a call takes, in a process of its own: its arguments are cell and name.

XLA tells what a program needs of its own allocator. What a kernel allocates by itself shows in
the peak of the process's resident set alone, which Linux keeps and lets a process reset.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import re
import sys
from pathlib import Path

import jax

from benchmarks import contenders
from benchmarks.cases import Cell
from benchmarks.checks import problem_of
from benchmarks.contenders import Jax

# Each dimension of the first input, which makes the libraries load and start what they need.
TINY = 4

_PROCESS = Path("/proc/self")


def measure(cell: Cell, name: str) -> dict[str, int]:
    """Calls the function of a contender and watches the memory.

    Args:
      cell: work, shape and dtype.
      name: of a contender that runs in JAX.

    Returns:
      Bytes of XLA's ``argument``, ``output`` and ``temp``, and the ``growth`` of the peak of the
      resident set over what was resident before, the arguments included.
    """
    (contender,) = contenders.load([name])
    assert isinstance(contender, Jax)
    function = jax.jit(contender.function(cell))
    tiny = dataclasses.replace(cell, shape=tuple(min(size, TINY) for size in cell.shape))
    jax.block_until_ready(function(*_arguments(tiny)))
    arguments = _arguments(cell)
    compiled = function.lower(*arguments).compile()
    gc.collect()
    (_PROCESS / "clear_refs").write_text("5")  # the peak begins anew
    before = _resident("VmRSS")
    for _ in range(2):
        jax.block_until_ready(compiled(*arguments))
    growth = _resident("VmHWM") - before
    if (needs := compiled.memory_analysis()) is None:
        raise RuntimeError("XLA does not tell what the program needs")
    return {
        "argument": needs.argument_size_in_bytes,
        "output": needs.output_size_in_bytes,
        "temp": needs.temp_size_in_bytes,
        "growth": growth,
    }


def _arguments(cell: Cell) -> list[jax.Array]:
    problem = problem_of(cell)
    arrays = problem.inputs + (problem.cotangents if cell.work.gradient else ())
    return [jax.block_until_ready(jax.device_put(x)) for x in arrays]


def _resident(entry: str) -> int:
    found = re.search(rf"{entry}:\s*(\d+) kB", (_PROCESS / "status").read_text())
    if found is None:
        raise OSError(f"the system does not tell {entry}")
    return 1024 * int(found[1])


if __name__ == "__main__":
    with jax.enable_x64(True):
        print(json.dumps(measure(Cell.parse(sys.argv[1]), sys.argv[2])))
