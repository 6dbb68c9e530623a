"""Programs of the shape of those that libraries run, written on JAX's own functions alone.

Each has the calls of QR, the shapes and the transformations of the library that it stands for, and
little else. None of them knows of jaxqr.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

# A client of JAX that has the function as a name of its own, as some libraries do.
from jax.numpy.linalg import qr

# ---------------------------------------------------------------- square-root filters and smoothers


def _triangle(a: Array) -> Array:
    """The lower triangle L of a wide matrix with L L^T = A A^T."""
    return jnp.linalg.qr(a.mT, mode="r").mT


def _filter_step(carry: tuple[Array, Array], y: Array) -> tuple[tuple[Array, Array], Array]:
    """One step of a square-root Kalman filter: predict, update, log-likelihood."""
    mean, root = carry
    n = mean.shape[-1]
    transition = jnp.eye(n) + jnp.eye(n, k=1) * 0.1
    predicted = _triangle(jnp.concatenate([transition @ root, 0.3 * jnp.eye(n)], axis=1))
    observed = jnp.eye(1, n)
    block = jnp.block([[observed @ predicted, jnp.eye(1)], [predicted, jnp.zeros((n, 1))]])
    joint = _triangle(block)
    innovation = (y - observed @ transition @ mean) / joint[0, 0]
    mean = transition @ mean + joint[1:, :1] @ innovation
    density = -0.5 * jnp.sum(innovation**2) - jnp.log(jnp.abs(joint[0, 0]))
    return (mean, joint[1:, 1:]), density


def _filter(y: Array, root: Array) -> Array:
    """The log-likelihood of a series."""
    start = jnp.zeros(root.shape[-1]), root
    return jnp.sum(lax.scan(_filter_step, start, y)[1])


def filter_series(y: Array, root: Array) -> tuple[Array, Array]:
    """Log-likelihoods of many series and their gradient in the initial state's factor."""
    values, gradients = jax.vmap(jax.value_and_grad(_filter, argnums=1), (0, None))(y, root)
    return values, gradients


def smooth_in_parallel(roots: Array) -> Array:
    """An associative scan whose operation stacks factors of covariances and takes the triangle."""

    def combine(a: Array, b: Array) -> Array:
        return jax.vmap(lambda a, b: _triangle(jnp.concatenate([0.9 * a, b], axis=1)))(a, b)

    return jnp.abs(lax.associative_scan(combine, roots))


def solve_ode(root: Array, noise: Array) -> Array:
    """A probabilistic solver's loop: covariances as triangles, extrapolated and corrected."""

    def step(root: Array, noise: Array) -> tuple[Array, Array]:
        stacked = jnp.concatenate([root.mT * 0.95, noise.mT])
        r = jnp.linalg.qr(stacked, mode="r")
        return r.mT, jnp.abs(r[-1, -1])

    return lax.scan(step, root, noise)[1]


def update_skills(states: Array) -> tuple[Array, Array]:
    """Triangles of batches of batches, and their gradient."""

    def loss(states: Array) -> Array:
        return jnp.sum(jnp.abs(jax.vmap(jax.vmap(lambda a: qr(a, mode="r")))(states)))

    return jax.value_and_grad(loss)(states)


# --------------------------------------------------------------------------- physics and tensors


def orthogonalize_walkers(walkers: Array) -> tuple[Array, Array]:
    """Orthonormal walkers of a Monte Carlo method, and the weights that the triangles hold."""
    q, r = jax.vmap(jnp.linalg.qr)(walkers)
    return q, jnp.prod(jnp.diagonal(r, axis1=-2, axis2=-1), axis=-1)


def canonicalize(tensors: Array) -> tuple[Array, Array]:
    """Tensors of a chain made isometric one after the other, the phases fixed, and a gradient."""

    def norm(tensors: Array) -> tuple[Array, Array]:
        def step(r: Array, tensor: Array) -> tuple[Array, Array]:
            joined = jnp.einsum("ab,bpc->apc", r, tensor)
            q, r = jnp.linalg.qr(joined.reshape(-1, joined.shape[-1]))
            signs = jnp.sign(jnp.diagonal(r))
            return signs[:, None] * r / jnp.linalg.norm(r), jnp.sum((q * signs) ** 3)

        r, sums = lax.scan(step, jnp.eye(tensors.shape[1]), tensors)
        return jnp.sum(sums), r

    (_, r), gradient = jax.value_and_grad(norm, has_aux=True)(tensors)
    return r, gradient


def find_exponents(jacobians: Array) -> Array:
    """Lyapunov exponents: QR after each step of a trajectory's tangent map."""

    def step(q: Array, jacobian: Array) -> tuple[Array, Array]:
        q, r = jnp.linalg.qr(jacobian @ q)
        return q, jnp.log(jnp.abs(jnp.diagonal(r)))

    n = jacobians.shape[-1]
    return jnp.mean(lax.scan(step, jnp.eye(n), jacobians)[1], axis=0)


# --------------------------------------------------------- linear solvers, optimizers, estimators


def solve_by_reflectors(a: Array, b: Array) -> Array:
    """Least squares by packed reflectors and products with Q, for many systems."""

    def solve(a: Array, b: Array) -> Array:
        h, tau = jnp.linalg.qr(a, mode="raw")
        n = a.shape[1]
        y = lax.linalg.ormqr(h.mT, tau, b[:, None], left=True, transpose=True)
        return jax.scipy.linalg.solve_triangular(h.mT[:n], y[:n, 0])

    return jax.vmap(solve)(a, b)


def take_damped_steps(jacobian: Array, residual: Array) -> Array:
    """Levenberg and Marquardt's loop: QR of the Jacobian over a diagonal, damping doubled."""
    n = jacobian.shape[1]

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        damping, _ = state
        stacked = jnp.concatenate([jacobian, jnp.sqrt(damping) * jnp.eye(n)])
        q, r = jax.scipy.linalg.qr(stacked, mode="economic")
        right = jnp.concatenate([residual, jnp.zeros(n)])
        return 2 * damping, jax.scipy.linalg.solve_triangular(r, q.T @ right)

    start = jnp.asarray(1.0), jnp.zeros(n)
    return lax.while_loop(lambda state: state[0] < 30, step, start)[1]


def precondition(statistics: Array, basis: Array) -> Array:
    """A step of power iteration with QR for the eigenbasis of an optimizer's statistics."""
    return jnp.abs(jnp.linalg.qr(statistics @ basis)[0])


def estimate_trace(a: Array, probes: Array) -> Array:
    """The trace by a sketch and its orthonormal basis."""
    q, _ = jnp.linalg.qr(a @ probes)
    return jnp.trace(q.T @ a @ q)


def factor_small(a: Array) -> tuple[Array, Array]:
    """Q and R of a batch of small matrices."""
    return jnp.linalg.qr(a)


def differentiate_small(a: Array) -> Array:
    """The gradient of a loss of them."""

    def loss(a: Array) -> Array:
        q, r = jnp.linalg.qr(a)
        return jnp.sum(q**3) + jnp.sum(r**2)

    return jax.grad(loss)(a)


def draw_orthogonal(key: Array) -> Array:
    """Random orthogonal matrices, as JAX draws them."""
    return jax.random.orthogonal(jax.random.wrap_key_data(key), 8, (1000,))
