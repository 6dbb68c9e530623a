"""Who takes part on a device. Their calls are begun, and waited for, in two steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks import hlo
from benchmarks.cases import Cell
from benchmarks.contenders import Absent, Arrays, Contender, Functions, Jax, Torch, load
from benchmarks.machine import optional
from benchmarks.timing import Call

NAMES = ("jaxqr", "jnp", "torch", "cupy")


class Queued:
    """A call that can be begun without waiting for it, so that a queue of them forms.

    Attributes:
      begin: starts the work and returns what is to be waited for.
      wait: returns when that is there.
      facts: what is known of the program, as ``compile`` seconds; empty for libraries.
    """

    def __init__(
        self,
        begin: Callable[[], Any],
        wait: Callable[[Any], object],
        facts: dict[str, Any] | None = None,
    ):
        """Takes both steps."""
        self.begin, self.wait, self.facts = begin, wait, facts or {}

    def __call__(self) -> Any:
        """Does both."""
        result = self.begin()
        self.wait(result)
        return result


class DeviceJax(Jax):
    """jaxqr and jax.numpy, compiled ahead of time."""

    def __init__(self, name: str, version: str, functions: Functions):
        """Takes for each kind of work the function that computes it."""
        super().__init__(name, version, functions)
        self._compiled: dict[tuple[Cell, bool], _Program] = {}

    def prepare(self, cell: Cell, inputs: Arrays, cotangents: Arrays) -> None:
        """Compiles what the cell takes, so that the calls are there at once; threads may do so."""
        self._compiled[cell, False] = _Program(self.functions[cell.work.kind], inputs)
        if cell.work.gradient:
            self._compiled[cell, True] = _Program(self.function(cell), (*inputs, *cotangents))

    def forward(self, cell: Cell, inputs: Arrays) -> Queued:
        """Compiles the function, unless it was prepared."""
        prepared = self._compiled.pop((cell, False), None)
        return (prepared or _Program(self.functions[cell.work.kind], inputs)).call(inputs)

    def gradient(self, cell: Cell, inputs: Arrays, cotangents: Arrays) -> Queued:
        """Compiles ``value_and_grad``, unless it was prepared."""
        arguments = (*inputs, *cotangents)
        prepared = self._compiled.pop((cell, True), None)
        return (prepared or _Program(self.function(cell), arguments)).call(arguments)


class _Program:
    """A compiled function, and what is known of it."""

    def __init__(self, function: Callable[..., Any], arguments: Arrays):
        begin = time.perf_counter()
        self._compiled = jax.jit(function).lower(*arguments).compile()
        self._facts: dict[str, Any] = {"compile": time.perf_counter() - begin}
        if (needs := self._compiled.memory_analysis()) is not None:
            self._facts["temp"] = needs.temp_size_in_bytes
        if (text := self._compiled.as_text()) is not None:
            self._facts |= hlo.cost(text).as_dict()

    def call(self, arguments: Arrays) -> Queued:
        on_device = jax.block_until_ready([jax.device_put(x) for x in arguments])
        return Queued(partial(self._compiled, *on_device), jax.block_until_ready, self._facts)


class DeviceTorch(Torch):
    """PyTorch on the first GPU."""

    def _tensor(self, x: np.ndarray) -> Any:
        return self._torch.from_numpy(x).cuda()

    def _call(self, call: Call) -> Call:
        return Queued(call, lambda _: self._torch.cuda.synchronize())


class DeviceCupy(Contender):
    """CuPy, which has neither pivots nor gradients, nor least squares of a batch."""

    def __init__(self, cupy: Any):
        """Takes the module."""
        super().__init__("cupy", cupy.__version__)
        self._cupy = cupy

    def refusal(self, cell: Cell) -> str | None:
        """Says what it has not."""
        batched_solve = cell.work.least_squares and len(cell.shape) > 2
        return "-" if cell.work.gradient or cell.work.pivoted or batched_solve else None

    def forward(self, cell: Cell, inputs: Arrays) -> Call:
        """Calls ``cupy.linalg``."""
        call = partial(self._compute, cell.work.kind, *map(self._cupy.asarray, inputs))
        return Queued(call, lambda _: self._cupy.cuda.get_current_stream().synchronize())

    def values(self, result: Any) -> Arrays:
        """Copies to the host."""
        return tuple(map(self._cupy.asnumpy, result))

    def _compute(self, kind: str, a: Any, *b: Any) -> Arrays:
        linalg = self._cupy.linalg
        if kind in ("lstsq", "full_rank"):
            return (linalg.lstsq(a, *b, rcond=None)[0],)
        return (linalg.qr(a, "r"),) if kind == "r" else tuple(linalg.qr(a))


def takers(names: Iterable[str] = NAMES) -> list[Contender]:
    """Returns the contenders of these names, jaxqr first."""
    wanted = tuple(names)
    found: list[Contender] = []
    for contender in load([name for name in ("jaxqr", "jnp") if name in wanted]):
        assert isinstance(contender, Jax)
        found.append(DeviceJax(contender.name, contender.version, contender.functions))
    others = {"torch": _torch, "cupy": _cupy}
    return found + [make() for name, make in others.items() if name in wanted]


def _torch() -> Contender:
    torch = optional("torch")
    if torch is None or not torch.cuda.is_available():
        return Absent("torch", "not installed" if torch is None else f"{torch.__version__}, no GPU")
    return DeviceTorch(torch)


def _cupy() -> Contender:
    cupy = optional("cupy")
    if cupy is None or not cupy.cuda.is_available():
        return Absent("cupy", "not installed" if cupy is None else f"{cupy.__version__}, no GPU")
    return DeviceCupy(cupy)
