"""What the device can do at best, and what a launch and a round of a loop cost."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine
from benchmarks.cases import DTYPES
from benchmarks.device.races import queue, queue_length
from benchmarks.device.takers import Queued, takers
from benchmarks.timing import clock

_REPEATS = 5
_ROUNDS = 1000


def describe() -> dict[str, Any]:
    """Describes the machine and the software."""
    device = jax.devices()[0]
    return {
        **machine.describe(takers()),
        "platform": device.platform,
        "device": device.device_kind,
        "driver": _driver(),
        "platform version": " ".join(device.client.platform_version.split()),
        "kernels": _kernels(),
    }


def measure(dry: bool = False) -> dict[str, Any]:
    """Measures rates and overheads.

    Args:
      dry: whether a CPU only tries the command.

    Returns:
      ``copy`` in bytes a second, read and written; ``products`` in real operations a second of a
      matrix product at the highest precision, by dtype; and seconds: ``dispatch`` of the smallest
      program queued, ``call`` of it waited for, ``fori_round`` and ``while_round`` of a loop of
      known length and of one that ends by its data.
    """
    x = jnp.ones(1 << (16 if dry else 28), jnp.float32)
    products = {}
    for dtype in (*DTYPES, "c8"):
        n = 64 if dry else 4096
        a = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (n, n)).astype(dtype))
        operations = 2 * n**3 * (4 if a.dtype.kind == "c" else 1)
        products[dtype] = operations / _seconds(partial(jnp.matmul, precision="highest"), a, a)
    tiny = jnp.ones(8, jnp.float32)
    increment = _program(_increment, tiny)
    increment()
    return {
        "copy": 2 * x.nbytes / _seconds(_increment, x),
        "products": products,
        "dispatch": _of_queue(increment),
        "call": min(clock(increment) for _ in range(_REPEATS * 4)),
        "fori_round": min(_singles(_known_loop, tiny)) / _ROUNDS,
        "while_round": min(_singles(_loop_on_data, tiny)) / _ROUNDS,
    }


def solve_and_product(shape: tuple[int, ...]) -> dict[str, float]:
    """Seconds of a triangular solve, as gradients have it, and of a product of the same size."""
    rng = np.random.default_rng(0)
    n = shape[-1]
    a = jnp.asarray(rng.uniform(-1, 1, shape).astype("f4"))
    r = jnp.asarray(np.triu(rng.uniform(-1, 1, (*shape[:-2], n, n)) + n * np.eye(n)).astype("f4"))
    return {
        "solve": _seconds(partial(jax.lax.linalg.triangular_solve, left_side=False), r, a),
        "product": _seconds(partial(jnp.matmul, precision="highest"), a, r),
    }


def _increment(x: jax.Array) -> jax.Array:
    return x + jnp.ones((), x.dtype)


def _step(x: jax.Array) -> jax.Array:
    return jnp.roll(x, 1) * jnp.float32(1.0001)


def _known_loop(x: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, _ROUNDS, lambda i, x: _step(x), x)


def _loop_on_data(x: jax.Array) -> jax.Array:
    def goes_on(state: tuple[jax.Array, jax.Array]) -> jax.Array:
        count, x = state
        return (count < _ROUNDS) & (x[0] < jnp.float32(1e30))

    begin = jnp.zeros((), jnp.int32), x
    return jax.lax.while_loop(goes_on, lambda state: (state[0] + 1, _step(state[1])), begin)[1]


def _program(function: Callable[..., Any], *arguments: jax.Array) -> Queued:
    return Queued(partial(jax.jit(function), *arguments), jax.block_until_ready)


def _seconds(function: Callable[..., Any], *arguments: jax.Array) -> float:
    """Of a call in a queue."""
    call = _program(function, *arguments)
    call()  # compiles
    return _of_queue(call)


def _of_queue(call: Queued) -> float:
    count = queue_length(call)
    return min(clock(partial(queue, call, count)) for _ in range(_REPEATS)) / count


def _singles(function: Callable[..., Any], *arguments: jax.Array) -> list[float]:
    call = _program(function, *arguments)
    call()  # compiles
    return [clock(call) for _ in range(_REPEATS)]


def _kernels() -> str:
    """What computes on GPUs, where the package tells it."""
    status = getattr(machine.optional("jaxqr._lowering.cuda"), "status", None)
    return status() if status else "unknown"


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
