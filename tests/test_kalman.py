"""The square-root Kalman filter of the examples against the dense one, at every rank."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matrices import normal
from surroundings import load_example, python

kalman, PATH = load_example("square_root_kalman")

SPREAD = np.eye(3) + 0.2 * normal((3, 3), seed=1)
PUSH = np.array([[0.0, 0.125, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
LINE = np.outer([1.0, 2.0, 3.0], [0.3, -0.2, 0.5])  # more than one row of rank one
ZERO = np.zeros((3, 3))
# Factors of the process noise and of the initial covariance. After PUSH and ZERO the covariance has
# rank one, with dependent columns that are not zero, then two. Its first column stays zero: without
# pivoting, what stands after it has no derivative where another transition would move it.
CASES = {
    "regular": (0.4 * SPREAD, SPREAD.T),
    "known start": (0.4 * SPREAD, ZERO),
    "known start, singular": (PUSH, ZERO),
    "start on a line, singular": (PUSH, LINE),
    "start on a line, no noise": (ZERO, LINE),
    "no variance": (ZERO, ZERO),
}
every_case = pytest.mark.parametrize("case", CASES)


def model(case):
    process, initial = CASES[case]
    arrays = kalman.Model(
        transition=np.array([[0.9, 0.0, 0.0], [0.1, 1.0, 0.5], [0.5, 0.0, 1.0]]),
        process=process,
        observation=np.array([[0.0, 1.0, 0.0], [1.0, 0.3, 0.0]]),
        noise=np.array([[0.5, 0.1], [0.0, 0.3]]),
        mean=np.array([1.0, -0.5, 0.2]),
        initial=initial,
    )
    return jax.tree.map(jnp.asarray, arrays)


def sequences(count):
    return jnp.asarray(normal((count, 12, 2), seed=2))


def direction(at):
    return jax.tree.map(lambda x: jnp.asarray(normal(x.shape, seed=3)), at)


def compiled(function):
    """Value and gradient of a function of a model, and the tangents of both, in one program."""

    def program(at, along, y):
        return jax.jvp(lambda at: jax.value_and_grad(function)(at, y), (at,), (along,))

    return jax.jit(program)


FILTER = compiled(kalman.filter_log_likelihood)
DENSE = compiled(kalman.dense_log_likelihood)


def assert_equal(found, expected, tolerance=1e-11):
    """Each field to its own size, or where that is zero to the size of all."""
    all_of_it = max(np.abs(x).max() for x in expected)
    for name, x, y in zip(expected._fields, found, expected, strict=True):
        size = np.abs(y).max() or all_of_it
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * size, err_msg=name)


@every_case
def test_value_and_gradient_are_the_dense_ones(case):
    at, y = model(case), sequences(1)[0]
    along = direction(at)
    (value, gradient), (forward, second) = FILTER(at, along, y)
    expected, expected_gradient = DENSE(at, along, y)[0]
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    assert_equal(gradient, expected_gradient)
    pairing = sum(float(jnp.vdot(x, dx)) for x, dx in zip(expected_gradient, along, strict=True))
    np.testing.assert_allclose(forward, pairing, rtol=1e-11)
    assert all(np.isfinite(x).all() for x in second)


@every_case
def test_second_derivatives_are_the_dense_ones_where_ranks_stay(case):
    at, y = model(case), sequences(1)[0]
    along = direction(at)
    if case not in ("regular", "known start"):
        # scales of the factors; a changed transition would move columns that are zero
        along = along._replace(
            process=at.process, initial=at.initial, transition=jnp.zeros_like(at.transition)
        )
    assert_equal(FILTER(at, along, y)[1][1], DENSE(at, along, y)[1][1], 1e-10)


def test_batch_of_sequences():
    at, y = model("known start, singular"), sequences(3)
    batched = jax.jit(jax.vmap(jax.value_and_grad(kalman.filter_log_likelihood), in_axes=(None, 0)))
    values, gradients = batched(at, y)
    for i in range(3):
        value, gradient = FILTER(at, at, y[i])[0]
        np.testing.assert_allclose(values[i], value, rtol=1e-12)
        assert_equal(jax.tree.map(lambda x, i=i: x[i], gradients), gradient)


def test_script_prints_what_single_precision_does():
    head, *lines = python(PATH).stdout.splitlines()
    assert head.startswith("start")
    figures = np.array([line.split()[-3:] for line in lines], float).reshape(4, 2, 2, 3)
    (root, dense), (root32, dense32) = np.moveaxis(figures, 0, 2)
    np.testing.assert_allclose(dense, root, rtol=1e-6)
    np.testing.assert_allclose(root32, root, rtol=1e-2)
    assert (np.abs(dense32 - root)[2] > 10 * np.abs(root32 - root)[2]).all()  # digits are lost
    assert np.isnan(dense32[3]).all()  # and now all of them
