"""What rows spread over devices cost, read off compiled programs: memory per device, bytes sent."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxqr
from jaxqr._sharded import row_qr
from laws import QUICK

COLLECTIVE = re.compile(
    r"= ([^=]*?) (all-gather|all-to-all|all-reduce|reduce-scatter|collective-permute)\("
)
SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
ITEMSIZE = {"f64": 8, "c128": 16}
# What a device sends, as a multiple of the result's size in a group of p (the usual cost model)
SENT = {
    "all-gather": lambda p: (p - 1) / p,
    "all-reduce": lambda p: 2 * (p - 1) / p,
    "collective-permute": lambda p: 1,
}


def loss_of_factors(a, *, mesh):
    q, r = jaxqr.tsqr(a, axis_name="x", mesh=mesh)
    return jnp.sum(jnp.sin(q)).real + jnp.sum(jnp.sin(r)).real


def loss_of_solution(a, *, mesh):
    b = jnp.cos(a[:, :2]) if a.dtype == jnp.float64 else a[:, :2] ** 2
    x, residuals, _ = jaxqr.lstsq(a, b, axis_name="x", mesh=mesh)
    return jnp.sum(jnp.sin(x)).real + jnp.sum(residuals)


LOSSES = {"tsqr": loss_of_factors, "lstsq": loss_of_solution}
every_loss = pytest.mark.parametrize("loss", LOSSES)


def compiled(f, shape, p, dtype="float64", options=None):
    """`f(a, mesh=mesh)` for a matrix with its rows on p devices; nothing is run."""
    mesh = Mesh(np.array(jax.devices()[:p]), ("x",))
    a = jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P("x")))
    return jax.jit(functools.partial(f, mesh=mesh)).lower(a).compile(options)


def slope(name):
    return lambda a, mesh: jax.value_and_grad(LOSSES[name])(a, mesh=mesh)


def size(program):
    """Bytes that a device holds at most: arguments, results and what is between them."""
    sizes = program.memory_analysis()
    held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes
    return held + sizes.temp_size_in_bytes - sizes.alias_size_in_bytes


def collectives(program):
    """The kind and the number of bytes of the result, for each."""
    text = program.as_text()
    found = []
    for shapes, kind in COLLECTIVE.findall(text):
        parts = SHAPE.findall(shapes)
        counts = [ITEMSIZE[t] * math.prod(map(int, filter(None, n.split(",")))) for t, n in parts]
        found.append((kind, sum(counts)))
    assert "-start(" not in text  # would have operands among its results
    return found


def sent(program, p):
    return sum(SENT[kind](p) * count for kind, count in collectives(program))


@every_loss
def test_memory_on_a_device_falls_as_their_number_grows(loss):
    shape = (65536, 32)
    sizes = {p: size(compiled(slope(loss), shape, p)) for p in (1, 2, 4, 8)}
    for p, found in sizes.items():
        assert found == pytest.approx(sizes[1] / p, rel=0.2), sizes
        # A, its gradient and three of the like
        assert found <= 5 * 8 * math.prod(shape) / p, sizes


@every_loss
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_devices_send_triangles_however_many_rows_they_have(loss, dtype):
    def found(shape):
        return sorted(collectives(compiled(slope(loss), shape, 8, dtype, QUICK)))

    few = found((800, 5))
    assert found((8000, 5)) == few
    for n, sizes in ((5, few), (64, found((8192, 64)))):
        block = n * n * np.dtype(dtype).itemsize
        assert {kind for kind, _ in sizes} == {"all-gather", "all-reduce"}
        assert [count for kind, count in sizes if kind == "all-gather"] == [8 * block]
        # one block of tsqr, or of lstsq one of n x 2, and the sums of a loss
        sums = [count for kind, count in sizes if kind == "all-reduce"]
        assert max(sums) <= (block if loss == "tsqr" else 2 * block / n) + 32


def test_on_more_devices_triangles_are_exchanged_in_pairs(monkeypatch):
    monkeypatch.setattr(row_qr, "GATHERED", 4)
    jax.clear_caches()  # which know 8
    try:
        found = collectives(compiled(slope("tsqr"), (800, 5), 8, options=QUICK))
    finally:
        jax.clear_caches()
    block = 8 * 5 * 5
    assert {kind for kind, _ in found} == {"collective-permute", "all-reduce"}
    assert [count for kind, count in found if kind == "collective-permute"] == 3 * [block]
    assert max(count for _, count in found) <= block + 8


def test_the_qr_of_jax_sends_the_matrix_instead():
    p, n = 8, 64
    theirs = {m: compiled(lambda a, mesh: jnp.linalg.qr(a), (m, n), p) for m in (1024, 8192)}
    ours = compiled(lambda a, mesh: jaxqr.tsqr(a, axis_name="x", mesh=mesh), (8192, n), p)
    for m, program in theirs.items():
        assert sent(program, p) >= (p - 1) / p * 8 * m * n
    assert sent(theirs[8192], p) >= 8 * sent(theirs[1024], p)
    # a block of rows for a triangle, from each
    assert sent(theirs[8192], p) >= (8192 / p) / n * sent(ours, p)
    assert size(theirs[8192]) > 2 * 8 * 8192 * n > size(ours)
