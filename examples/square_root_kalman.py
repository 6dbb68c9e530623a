"""A square-root Kalman filter whose log likelihood can be differentiated at every rank.

The filter carries a factor S of the covariance, P = S^T S, and never P itself: it needs half the
digits, and no rounding makes a variance negative. It does two things to factors, each with a QR.

*Sum of covariances.* S_1^T S_1 + S_2^T S_2 = A^T A = R^T R, where A = [S_1; S_2] = Q R. Columns of
A depend on each other as soon as a variance is zero: an initial state that is known, a component
without process noise, noise of low rank. Then R has no derivative, but R^T R has, and the pivoted
QR with the columns of R put back in order gives it exactly, in every direction of A: equation
(8.4) of notebooks/derivations.md.

*Conditioning on an observation* y = H x + noise. The rows of the array

    [ S_R    0 ]           [ R_y  R_yx ]      R_y^T R_y   = H P H^T + S_R^T S_R, the innovation's
    [ S H^T  S ]   = Q  x  [  0   C    ]      R_y^T R_yx  = H P, and so the gain
                                              C^T C       = the covariance of x given y

are rotated so that y comes first. Its columns are independent whatever S is, thanks to the
observation noise: a QR of these alone, which needs no pivoting, gives R_y and its Q_y, hence
R_yx = Q_y^T [0; S]. What is left of the others, [0; S] - Q_y R_yx, is C up to a rotation, may have
any rank, and is a sum of squares again. One QR of the whole array gives the same values, but C has
no derivative in it past a dependent column.

First derivatives are exact at every rank. So are higher ones in directions that keep the ranks. In
a direction that raises one, second derivatives lack the square of what is new, as R would have to
be linear in it: they are finite but wrong for S_0 = s A_0 at s = 0, unless the process noise covers
what A_0 adds.

The script prints both filters' figures. In single precision the dense one loses its digits, and at
last positive definiteness, as the start becomes uncertain and the observations precise.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import cho_solve, solve_triangular

import jaxqr


class Model(NamedTuple):
    """x' = F x + w, y = H x' + v. Covariances are given by right factors S: P = S^T S."""

    transition: Array  # F (n, n)
    process: Array  # factor of the covariance of w (any number of rows, n)
    observation: Array  # H (d, n)
    noise: Array  # factor of the covariance of v (d, d), not singular
    mean: Array  # of the state before the first step (n,)
    initial: Array  # factor of its covariance (n, n); zero if it is known


def sum_of_squares(*factors: Array) -> Array:
    """Return R with n columns and R^T R the sum of S^T S over the factors S.

    It is not triangular, its columns being those of a triangle in another order. That is no loss:
    a filter only stacks it again, and solves with the innovation's factor alone.
    """
    r, p = jaxqr.qr(jnp.concatenate(factors), mode="r", pivoting=True)
    return r[:, jnp.argsort(p)]


def predict(model: Model, mean: Array, factor: Array) -> tuple[Array, Array]:
    """Move the mean and the factor by one step."""
    f = model.transition
    return f @ mean, sum_of_squares(factor @ f.T, model.process)


def update(model: Model, mean: Array, factor: Array, y: Array) -> tuple[Array, Array, Array]:
    """Condition on the observation y; return mean, factor and the log density of y."""
    h, d = model.observation, y.size
    q, r = jaxqr.qr(jnp.concatenate([model.noise, factor @ h.T]))
    cross = q[d:].T @ factor  # R_yx
    remainder = jnp.concatenate([-q[:d] @ cross, factor - q[d:] @ cross])  # C, up to a rotation
    white = solve_triangular(r, y - h @ mean, trans=1)
    return mean + cross.T @ white, sum_of_squares(remainder), _log_density(white, jnp.diagonal(r))


def filter_log_likelihood(model: Model, observations: Array) -> Array:
    """Log likelihood of the observations (steps, d), by the square-root filter."""

    def step(state: tuple[Array, Array], y: Array) -> tuple[tuple[Array, Array], Array]:
        mean, factor, log_density = update(model, *predict(model, *state), y)
        return (mean, factor), log_density

    return jnp.sum(jax.lax.scan(step, (model.mean, model.initial), observations)[1])


def dense_log_likelihood(model: Model, observations: Array) -> Array:
    """Do the same with covariances, as textbooks have it."""
    f, h = model.transition, model.observation

    def step(state: tuple[Array, Array], y: Array) -> tuple[tuple[Array, Array], Array]:
        mean, p = f @ state[0], f @ state[1] @ f.T + model.process.T @ model.process
        factor = jnp.linalg.cholesky(h @ p @ h.T + model.noise.T @ model.noise)
        gain = cho_solve((factor, True), h @ p).T
        white = solve_triangular(factor, y - h @ mean, lower=True)
        mean, p = mean + gain @ (y - h @ mean), p - gain @ h @ p
        return (mean, p), _log_density(white, jnp.diagonal(factor))

    start = model.mean, model.initial.T @ model.initial
    return jnp.sum(jax.lax.scan(step, start, observations)[1])


def _log_density(white: Array, diagonal: Array) -> Array:
    """Of a Gaussian, from the whitened residual and the diagonal of the triangular factor."""
    constant = white.size * math.log(2 * math.pi)
    return -0.5 * (white @ white + constant) - jnp.sum(jnp.log(jnp.abs(diagonal)))


def tracking(initial: float, noise: float) -> tuple[Model, Array]:
    """Model a body in motion, pushed at random and drifting; return 50 observations of it too.

    The pushes are noise of rank one and the drift has none: if the start is known, the covariance
    has rank one after a step, two after the next, and never three.

    Args:
        initial: standard deviation of each component at the start.
        noise: standard deviation of the observations of the position.
    """
    model = Model(
        transition=jnp.array([[1.0, 0.1, 0.1], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
        process=jnp.array([[0.005, 0.1, 0.0]]),
        observation=jnp.array([[1.0, 0.0, 0.0]]),
        noise=jnp.array([[noise]]),
        mean=jnp.zeros(3),
        initial=initial * jnp.eye(3),
    )
    steps = jnp.arange(1.0, 51.0)
    return model, (jnp.sin(0.1 * steps) + noise * jnp.cos(37.0 * steps))[:, None]


def main() -> None:
    """Print what both filters find in double and single precision."""
    filters = {"square root": filter_log_likelihood, "dense": dense_log_likelihood}
    slopes = {name: jax.jit(jax.value_and_grad(f)) for name, f in filters.items()}
    starts = {"known": (0.0, 0.1), "near": (1.0, 0.1), "far": (1e2, 1e-2), "farther": (1e3, 1e-2)}
    print(f"{'start':10}{'dtype':10}{'filter':12}", end="")
    print("".join(f"{x:>17}" for x in ("log likelihood", "d / d log noise", "d / d F[0, 1]")))
    for start, arguments in starts.items():
        for dtype in (jnp.float64, jnp.float32):
            model, y = jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), tracking(*arguments))
            for name, slope in slopes.items():
                value, d = slope(model, y)
                found = value, jnp.sum(d.noise * model.noise), d.transition[0, 1]
                print(f"{start:10}{y.dtype.name:10}{name:12}", end="")
                print("".join(f"{float(x):17.6f}" for x in found))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")  # where hardware does with less
    main()
