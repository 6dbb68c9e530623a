"""What the tests on several devices share: meshes, programs with every derivative, collectives."""

import contextlib
import math
import re

import jax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from laws import QUICK, floating, loss_of

X = P("x")
every_mesh = pytest.mark.parametrize("kind", ["automatic", "explicit"])
COLLECTIVE = re.compile(
    r"\b(all-gather|all-to-all|all-reduce|reduce-scatter|collective-permute)(?:-start)?\("
)
# Without kernels lstsq asks whether any matrix of the batch is deficient: one boolean, or several
QUESTION = re.compile(r"= \(?(?:(?:/\*\S*\*/)?pred\[\](?:\{\})?(?:, )?)+\)? all-reduce\(")


@contextlib.contextmanager
def mesh_of(kind, shape=(8,), names=("x",)):
    """A mesh of the first devices; an explicit one is also entered."""
    axis = AxisType.Explicit if kind == "explicit" else AxisType.Auto
    devices = jax.devices()[: math.prod(shape)]
    mesh = jax.make_mesh(shape, names, axis_types=(axis,) * len(names), devices=devices)
    with jax.set_mesh(mesh) if kind == "explicit" else contextlib.nullcontext():
        yield mesh


def put(mesh, *arrays, spec=X):
    return [jax.device_put(x, NamedSharding(mesh, spec)) for x in arrays]


def everything(f):
    """Value, tangent, gradient and Hessian-vector product as one program."""

    def program(a, da):
        gradient, hvp = jax.jvp(jax.grad(loss_of(f)), (a,), (da,))
        return f(a), jax.jvp(lambda a: floating(f(a)), (a,), (da,))[1], gradient, hvp

    return program


def run(f, *args):
    """Compile, run, and list the collectives in the compiled program."""
    compiled = jax.jit(f).lower(*args).compile(QUICK)
    return compiled(*args), set(COLLECTIVE.findall(QUESTION.sub("", compiled.as_text())))


def assert_sharded(tree, mesh, spec=X):
    for x in jax.tree.leaves(tree):
        assert x.sharding.is_equivalent_to(NamedSharding(mesh, spec), x.ndim), x.sharding
