"""A matrix that no process holds whole: QR, regression and their gradients over several processes.

On a cluster that JAX knows (Slurm, Open MPI, TPU pods, Kubernetes), start this script once a
process; `jax.distributed.initialize` finds the others:

    srun python examples/tall_matrix.py --rows 100000000

Elsewhere say where process 0 is to listen, how many processes there are, and which one this is. On
one machine, with devices that XLA simulates:

    two="--coordinator 127.0.0.1:9911 --processes 2 --cpu-devices 4"
    python examples/tall_matrix.py $two --process 0 &
    python examples/tall_matrix.py $two --process 1

`--processes 1` is for a process that is alone. All processes run the same program, and must: a sum
over devices waits for every one of them. If one dies, JAX ends the others when its heartbeat has
been missing for 100 seconds.

Every process makes the rows of its own devices only. The mesh has two axes, process and device: the
triangles meet first within a process, where that is quick, and then between processes. Rows of
zeros fill up the last blocks; they change neither R nor the regression.

The loss goes through Q, R and the solution of least squares: the logarithm of the sum of squared
errors of predicting every point from all the others, which is (b - A x)_i / (1 - |Q_i|^2), less
that of det R, which says how much is known about x. What comes out is checked by laws, and where
one fails the script returns 1; it returns 2 where the processes do not find each other.
"""

import argparse
import hashlib
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxqr

AXES = ("process", "device")
STEP = 1e-5  # of the central difference


def design(start: int, stop: int, columns: int) -> np.ndarray:
    """Rows of the matrix A, from their numbers alone."""
    i, j = np.arange(start, stop) + 1.0, np.arange(columns)
    return np.sin(np.outer(i, np.sqrt(j + 2.0))) / (1.0 + j)


def observations(start: int, stop: int, columns: int) -> np.ndarray:
    """Entries of the right-hand side b: A x, x = (1, -1, 1, ...), and what is unexplained."""
    i = np.arange(start, stop) + 1.0
    return design(start, stop, columns) @ (-1.0) ** np.arange(columns) + np.cos(i**1.5)


def loss(a: Array, b: Array, mesh: Mesh) -> Array:
    """Log of the squared errors of prediction, less log |det R|; rows of zeros do not count."""
    q, r = jaxqr.tsqr(a, axis_name=AXES, mesh=mesh)
    x = jaxqr.lstsq(a, b, axis_name=AXES, mesh=mesh).x
    errors = (b - a @ x) / (1 - jnp.sum(q**2, axis=1))
    return jnp.log(jnp.sum(errors**2)) - jnp.sum(jnp.log(jnp.diagonal(r)))


def factors_and_slopes(a: Array, b: Array, mesh: Mesh) -> dict[str, Array]:
    """What is wanted of A and b, and how well the laws hold; one program on all devices."""
    q, r = jaxqr.tsqr(a, axis_name=AXES, mesh=mesh)
    x, residuals, rank = jaxqr.lstsq(a, b, axis_name=AXES, mesh=mesh)
    value, (slope_a, slope_b) = jax.value_and_grad(loss, (0, 1))(a, b, mesh)
    da, db = direction(a, b)
    return {
        "R": r,
        "x": x,
        "residuals": residuals,
        "rank": rank,
        "loss": value,
        "gradient": slope_a,
        "gradient of b": slope_b,
        "slope": jnp.sum(slope_a * da) + jnp.sum(slope_b * db),
        "orthogonality": jnp.max(jnp.abs(q.T @ q - jnp.eye(r.shape[1]))),  # a sum over devices
        "product": jnp.max(jnp.abs(q @ r - a)) / jnp.max(jnp.abs(a)),
        "normal equations": jnp.max(jnp.abs(a.T @ (b - a @ x))) / jnp.max(jnp.abs(a.T @ b)),
    }


def direction(a: Array, b: Array) -> tuple[Array, Array]:
    """Where to differentiate along, made of what a device has."""
    return jnp.sin(7 * a), jnp.sin(3 * b)


def loss_beside(a: Array, b: Array, step: Array, mesh: Mesh) -> Array:
    """The loss at some distance along the direction."""
    da, db = direction(a, b)
    return loss(a + step * da, b + step * db, mesh)


def join(options: argparse.Namespace) -> None:
    """Find the other processes, or end this one; nothing may have used a device before."""
    if options.cpu_devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", options.cpu_devices)
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if options.processes == 1:
        return
    at, bind = options.coordinator, None  # by default every address of this machine
    if at is not None:
        host, port = at.rsplit(":", 1)
        bind = at if host in ("127.0.0.1", "localhost") else None
        if options.process == 0:
            refuse_a_port_in_use(at, int(port))
    # JAX itself would abort the process with a stack trace, so it gets more time
    timer = threading.Timer(options.timeout, give_up, [options])
    timer.daemon = True
    timer.start()
    try:
        patience = {
            "initialization_timeout": options.timeout + 60,
            "shutdown_timeout_seconds": options.timeout,
        }
        ours = options.processes, options.process
        jax.distributed.initialize(at, *ours, coordinator_bind_address=bind, **patience)
    except (ValueError, RuntimeError) as error:
        problem = "JAX found no cluster" if at is None else f"JAX did not start at {at}"
        stop(
            f"{problem} ({error}). Give --coordinator, --processes and --process, "
            "or --processes 1 for a process that is alone"
        )
    finally:
        timer.cancel()


def stop(message: str) -> NoReturn:
    """End the process, which may be waiting in another thread."""
    sys.stderr.write(f"tall_matrix: {message}\n")
    sys.stderr.flush()
    os._exit(2)


def give_up(options: argparse.Namespace) -> None:
    """Say who did not come."""
    where = options.coordinator or "the address that JAX found"
    told = "no coordinator answers at" if options.process else "not all processes have come to"
    stop(f"{told} {where} within {options.timeout} s")


def refuse_a_port_in_use(coordinator: str, port: int) -> None:
    """Ask before JAX does, which would crash."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            stop(f"process 0 cannot listen at {coordinator}: {error.strerror}")


def mesh_of_processes() -> Mesh:
    """All devices, those of a process in a row."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    grid = np.array(devices).reshape(jax.process_count(), -1)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 2)


def spread(
    function: Callable[[int, int, int], np.ndarray],
    rows: int,
    columns: int,
    mesh: Mesh,
    shape: tuple[int, ...],
) -> Array:
    """Make an array of `shape` of the rows that `function` gives, then zeros."""

    def block(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(shape[0])
        made = function(start, max(start, min(stop, rows)), columns)
        return np.concatenate([made, np.zeros((stop - start - len(made), *shape[1:]))])

    sharding = NamedSharding(mesh, PartitionSpec(AXES))
    return jax.make_array_from_callback(shape, sharding, block)


def own(x: Array) -> tuple[int, np.ndarray]:
    """The first row that this process holds, and its rows."""
    shards = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return min(shards), np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])


def main(arguments: list[str] | None = None) -> int:
    """Factor, solve, differentiate and check; return the exit status."""
    options = parse(arguments)
    join(options)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")  # where hardware does with less
    mesh = mesh_of_processes()
    rows, n = options.rows, options.columns
    padded = -(-rows // mesh.size) * mesh.size
    a = spread(design, rows, n, mesh, (padded, n))
    b = spread(observations, rows, n, mesh, (padded,))

    program = jax.jit(factors_and_slopes, static_argnums=2).lower(a, b, mesh).compile()
    found = program(a, b)
    beside = jax.jit(loss_beside, static_argnums=3)
    ahead, behind = (float(beside(a, b, step, mesh)) for step in (STEP, -STEP))
    difference = (ahead - behind) / (2 * STEP)
    digest = hashlib.sha256(np.asarray(found["R"]).tobytes()).digest()
    digests = process_allgather(np.frombuffer(digest, np.uint8)).reshape(-1, len(digest))
    checks = {
        "|Q^H Q - I|": (float(found["orthogonality"]), 1e-12),
        "|Q R - A| / |A|": (float(found["product"]), 1e-12),
        "|A^H (b - A x)| / |A^H b|": (float(found["normal equations"]), 1e-12),
        "slope against a difference": (abs(float(found["slope"]) / difference - 1), 1e-6),
        "processes with another R": (float(np.sum(np.any(digests != digests[0], axis=1))), 0.0),
    }
    good = all(value <= limit for value, limit in checks.values())  # not so for a NaN
    start, block = own(a)
    if jax.process_index() == 0:
        print_figures(options, found, size_on_device(program), checks)
    print(
        f"process {jax.process_index()} of {jax.process_count()}: rows {start} to "
        f"{start + len(block) - 1} of {padded}, R {digest.hex()[:16]}, "
        f"{'all checks passed' if good else 'FAILED'}",
        flush=True,
    )
    if options.save:
        save(options.save, found)
    return 0 if good else 1


def size_on_device(program: jax.stages.Compiled) -> int | None:
    """Bytes that a device needs for arguments, results and what is between, where XLA tells."""
    sizes = program.memory_analysis()
    if sizes is None:
        return None
    ends = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return ends + sizes.temp_size_in_bytes


def print_figures(
    options: argparse.Namespace,
    found: dict[str, Array],
    size: int | None,
    checks: dict[str, tuple[float, float]],
) -> None:
    """What process 0 tells."""
    whole = 8 * options.rows * options.columns
    print(f"A: {options.rows} x {options.columns}, {whole} bytes, on {jax.device_count()} devices")
    print(f"program: {size} bytes on each device, value and gradient")
    x = np.asarray(found["x"])
    print("x:", *(f"{value:.3f}" for value in x[:4]), *(["..."] if len(x) > 4 else []))
    for name in ("rank", "residuals", "loss", "slope"):
        print(f"{name}: {float(found[name]):.10g}")
    for name, (value, limit) in checks.items():
        relation = "at most" if value <= limit else "FAILED: above"
        print(f"{name}: {value:.1e}, {relation} {limit:.0e}")


def save(folder: Path, found: dict[str, Array]) -> None:
    """Write R, x and this process's rows of the gradients."""
    folder.mkdir(parents=True, exist_ok=True)
    start, gradient = own(found["gradient"])
    whole = {name: np.asarray(found[name]) for name in ("R", "x", "loss")}
    blocks = {"start": start, "gradient": gradient, "gradient_b": own(found["gradient of b"])[1]}
    np.savez(folder / f"process{jax.process_index()}.npz", **whole, **blocks)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--coordinator", metavar="HOST:PORT", help="where process 0 listens; default: ask JAX")
    add("--processes", type=int, metavar="N", help="how many there are; 1: do not look for others")
    add("--process", type=int, metavar="I", help="the number of this one, from 0")
    add("--cpu-devices", type=int, default=0, metavar="K", help="simulate K devices a process")
    add("--timeout", type=int, default=120, metavar="S", help="seconds to find each other")
    add("--rows", type=int, default=20_001)
    add("--columns", type=int, default=12)
    add("--save", type=Path, metavar="FOLDER", help="each process writes what it holds there")
    options = parser.parse_args(arguments)
    _, colon, port = (options.coordinator or "host:0").rpartition(":")
    if not (colon and port.isdigit()):
        parser.error(f"--coordinator must be HOST:PORT, got {options.coordinator}")
    given = [x is not None for x in (options.coordinator, options.processes, options.process)]
    if options.processes != 1 and any(given) and not all(given):
        parser.error("--coordinator, --processes and --process must be given together")
    if all(given) and not 0 <= options.process < options.processes:
        parser.error(f"--process must be from 0 to {options.processes - 1}, got {options.process}")
    if not options.rows >= options.columns >= 1:
        parser.error(f"--rows must be at least --columns, got {options.rows}, {options.columns}")
    return options


if __name__ == "__main__":
    sys.exit(main())
