"""With the kernels, no program calls jaxlib's LAPACK for a batch.

Its calls run a task for each matrix on XLA's pool and wait for them on a thread of that pool: two
calls at once, each on one of two threads, may wait forever (seen with jaxlib 0.10.2). The kernels'
callers work through the tasks themselves.
"""

import itertools
import re

import jax
import jax.numpy as jnp
import pytest

import jaxqr
from laws import floating, loss_of, mostly_nightly
from surroundings import needs_kernels

SHAPES = {"tall": (7, 6, 4), "wide": (7, 4, 6), "square": (7, 4, 4)}


def push(f, x):
    return jax.jvp(f, (x,), (x,))[1]


ORDERS = {
    "value": lambda f, x: floating(f(x)),
    "tangent": lambda f, x: push(lambda x: floating(f(x)), x),
    "gradient": lambda f, x: jax.grad(loss_of(f))(x),
    "Hessian times a vector": lambda f, x: push(jax.grad(loss_of(f)), x),
    "Hessian": lambda f, x: jax.vmap(lambda dx: jax.jvp(jax.grad(loss_of(f)), (x,), (dx,))[1])(
        jnp.ones((3, *x.shape))
    ),
}


def ones(x, *more):
    return jnp.ones((*x.shape[:-1], *more))


FUNCTIONS = {
    "lstsq": lambda x: jaxqr.lstsq(x, ones(x, 2)),
    "lstsq of full rank": lambda x: jaxqr.lstsq(x, ones(x, 2), pivoting=False),
    "refined lstsq": lambda x: jaxqr.lstsq(x, ones(x, 2), refine=1),
    "qr_multiply": lambda x: jaxqr.qr_multiply(x, ones(x, 2).mT),
    "pivoted qr_multiply": lambda x: jaxqr.qr_multiply(x, ones(x, 2).mT, pivoting=True),
    "householder_product": lambda x: jaxqr.householder_product(
        jnp.tril(x), jnp.ones((7, min(x.shape[1:])))
    ),
    "rq": jaxqr.rq,
    "orth": lambda x: jaxqr.orth(x, rank=2),
    "null_space": lambda x: jaxqr.null_space(x, rank=2),
    "leading pivots": lambda x: jaxqr.qr(x, pivoting=True, rank=2),
    "interpolative": lambda x: jaxqr.interpolative(x, rank=2),
    **{
        f"{name}, {mode}, pivoting={pivoting}": lambda x, n=name, m=mode, p=pivoting: getattr(
            jaxqr, n
        )(x, m, pivoting=p)
        for name in ("qr", "lq")
        for mode in ("reduced", "complete", "raw")
        for pivoting in (False, True, "randomized")
    },
}
CASES = [
    case
    for case in itertools.product(FUNCTIONS, SHAPES, ORDERS)
    if case[:2] != ("householder_product", "wide")
]


@needs_kernels
@pytest.mark.parametrize("name, shape, order", mostly_nightly(CASES, 3))
def test_programs_of_batches_call_no_lapack_of_jaxlib(name, shape, order):
    x = jnp.ones(SHAPES[shape])
    program = jax.jit(lambda x: ORDERS[order](FUNCTIONS[name], x)).lower(x).as_text()
    assert "jaxqr_" in program
    assert not re.findall(r"@lapack_\w+", program)
