"""The package's commands: ``python -m jaxqr``, its check-up, and ``python -m jaxqr run``.

The check-up is also what bug reports should show. It prints versions, devices and what computes
each factorization on each platform; then it factors Longley's data and compares residuals,
orthogonality and gradients with their limits, times with ``jnp.linalg.qr``, and his regression
with the certified coefficients. It exits with 1 if a check fails.

``run`` runs a program with JAX patched, see `jaxqr.patch`.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata, resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxqr
from jaxqr._core.algebra import mm
from jaxqr._factor.packed import PROVIDERS
from jaxqr._lowering import cuda, kernels
from jaxqr._patch.command import run

RATIO_LIMIT = 30.0  # the threshold of LAPACK's own tests
GRADIENT_LIMIT = 1e-5
DIGITS_LIMIT = 9.0  # of the certified coefficients, on data that cost doubles about 5


def main(arguments: Sequence[str] = ()) -> int:
    """Run the command that the arguments ask for, and return the exit status."""
    if arguments and arguments[0] == "run":
        run(arguments[1:])
        return 0
    parser = argparse.ArgumentParser(
        prog="python -m jaxqr",
        description="Without a command: check this installation, and report on it.",
    )
    parser.add_argument("command", nargs="?", choices=["run"], help="see python -m jaxqr run -h")
    parser.parse_args(arguments)
    return check_installation()


def check_installation() -> int:
    """Print the report and return the exit status."""
    jax.config.update("jax_enable_x64", True)  # this is a program: it may
    print_versions()
    print_lowerings()
    a = longley()
    print(f"\nLongley's data, {a.shape[0]} x {a.shape[1]}, {a.dtype}, columns scaled to norm 1..2")
    peer = "jnp.linalg.qr, patched" if jaxqr.status().patched else "jnp.linalg.qr"
    rows = [["", "residual", "orthogonality", "gradient", "time", peer]]
    good = True
    jnp_time = seconds(jnp.linalg.qr, a)
    for name, function in FACTORIZATIONS.items():
        residual, orthogonality = ratios(name, a, function(a))
        gradient = gradient_error(function, a)
        passed = max(residual, orthogonality) < RATIO_LIMIT and gradient < GRADIENT_LIMIT
        good &= passed
        times = [f"{1e6 * t:.1f} us" for t in (seconds(function, a), jnp_time)]
        figures = [f"{residual:.3f}", f"{orthogonality:.3f}", f"{gradient:.1e}", *times]
        rows.append([name, *figures, "ok" if passed else "FAILED"])
    limits = ["limit", *[f"{RATIO_LIMIT:.0f}"] * 2, f"{GRADIENT_LIMIT:.0e}"]
    print_table([*rows, limits])
    digits, jnp_digits = digits_of(jaxqr.lstsq), digits_of(jnp.linalg.lstsq)
    good &= digits > DIGITS_LIMIT
    print(
        f"\nLongley's regression, digits of the certified coefficients: lstsq {digits:.1f}, "
        f"jnp.linalg.lstsq {jnp_digits:.1f}, limit {DIGITS_LIMIT:.0f}"
    )
    print("\nall checks passed" if good else "\nCHECKS FAILED")
    return 0 if good else 1


FACTORIZATIONS: dict[str, Callable[..., Any]] = {
    "qr": jaxqr.qr,
    "lq": jaxqr.lq,
    "pivoted qr": partial(jaxqr.qr, pivoting=True),
}


def digits_of(lstsq: Callable[..., Any]) -> float:
    """Correct digits of the worst coefficient of Longley's regression, columns as they are."""
    data = _longley_data()
    x = np.array(data["x"])
    a = jnp.asarray(np.column_stack([np.ones(len(x)), x]))
    found = lstsq(a, jnp.asarray(data["y"], dtype=a.dtype), rcond=1e-16)[0]
    certified = np.array(data["coefficients"])
    return float(np.min(-np.log10(np.abs(np.asarray(found) / certified - 1) + 1e-16)))


def _longley_data() -> dict[str, Any]:
    text = resources.files("jaxqr").joinpath("data/strd.json").read_text()
    return json.loads(text)["sets"]["longley"]


def longley() -> Array:
    """The design matrix of Longley's regression, intercept included.

    Its columns differ by a factor of 1e6; scaled by powers of two they have norms in [1, 2), so
    that central differences can resolve the gradient.
    """
    x = np.array(_longley_data()["x"])
    a = np.column_stack([np.ones(len(x)), x])
    return jnp.asarray(a / 2.0 ** np.floor(np.log2(np.linalg.norm(a, axis=0))))


def ratios(name: str, a: Array, result: Any) -> tuple[float, float]:
    """LAPACK's test ratios: norm(A - QR) / (m norm(A) eps), norm(I - Q^H Q) / (m eps)."""
    if name == "lq":
        product, q = mm(result.L, result.Q), result.Q.mT
    else:
        product, q = mm(result.Q, result.R), result.Q
    factored = a[:, result.P] if name == "pivoted qr" else a
    unit = max(a.shape) * jnp.finfo(a.dtype).eps
    residual = jnp.linalg.norm(factored - product, 1) / (jnp.linalg.norm(a, 1) * unit)
    orthogonality = jnp.linalg.norm(jnp.eye(q.shape[1]) - mm(q.mT, q), 1) / unit
    return float(residual), float(orthogonality)


def gradient_error(function: Callable[..., Any], a: Array) -> float:
    """Relative error of a directional derivative by the gradient against central differences."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(function, a)[:2]
    weights = [rng.standard_normal(s.shape) for s in shapes]

    def loss(a: Array) -> Array:
        first, second = function(a)[:2]
        return jnp.sum(weights[0] * first) + jnp.sum(weights[1] * second)

    direction = a * rng.standard_normal(a.shape)
    steps = 1e-7 * jnp.array([-2.0, -1.0, 1.0, 2.0])
    far_below, below, above, far_above = jax.vmap(lambda t: loss(a + t * direction))(steps)
    difference = (8 * (above - below) - (far_above - far_below)) / 12e-7
    derivative = jnp.sum(jax.grad(loss)(a) * direction)
    return float(abs(derivative - difference) / abs(difference))


def seconds(function: Callable[..., Any], a: Array) -> float:
    """Median time of one compiled call."""
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(a))
    times = []
    for _ in range(200):
        start = time.perf_counter()
        jax.block_until_ready(compiled(a))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def print_versions() -> None:
    """Versions of everything that takes part, and the devices."""
    packages = ("jax", "jaxlib", "numpy", "scipy")
    versions = [f"{name} {metadata.version(name)}" for name in packages]
    print(
        ", ".join([f"jaxqr {jaxqr.__version__}", *versions, f"Python {platform.python_version()}"])
    )
    print(f"{platform.platform()}, {platform.machine()}")
    print("devices: " + ", ".join(f"{d.device_kind} ({d.platform}:{d.id})" for d in jax.devices()))


def print_lowerings() -> None:
    """What computes each routine on each platform."""
    users = {"geqrf": "factor", "orgqr": "form Q", "ormqr": "apply Q", "geqp3": "factor, pivoted"}
    platforms = ("cpu", "cuda", "rocm", "tpu", "other")
    rows = [["", "", *platforms]]
    for routine, use in users.items():
        providers = PROVIDERS[routine]
        names = [getattr(providers.get(p), "name", "portable") for p in platforms]
        names[0] = "own kernels" if kernels.available() else names[0]
        rows.append([use, routine, *names])
    print(f"on the CPU: {kernels.status()}\non CUDA: {cuda.status()}\n{jaxqr.status()}\n")
    print_table(rows)


def print_table(rows: list[list[str]]) -> None:
    """Print columns aligned: words to the left, figures to the right."""
    width = max(map(len, rows))
    padded = [row + [""] * (width - len(row)) for row in rows]
    widths = [max(len(row[j]) for row in padded) for j in range(width)]
    for row in padded:
        cells = [
            row[0].ljust(widths[0]),
            *(x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells).rstrip())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
