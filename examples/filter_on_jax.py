"""A square-root Kalman filter on JAX alone: nothing here knows of jaxqr.

    python examples/filter_on_jax.py
    python -m jaxqr run --report examples/filter_on_jax.py

The first command runs it with stock JAX, the second with `jaxqr.patch`: the same program, whose
`jnp.linalg.qr` is then computed and differentiated by jaxqr.

The filter tracks bodies in motion that are pushed at random: position and velocity, of which the
position is observed. It carries a triangular factor L of the covariance, L L^T, and takes the
triangle of two blocks side by side for each step. Two things make that hard. There are many small
matrices at once, as each body has noises of its own. And where every body starts is known: the
factor begins at zero, and as the pushes are noise of rank one it has dependent columns after the
first step, where R has no derivative. What is asked for has one, the log likelihood, as it depends
on R^T R only.

Printed are the log likelihood of all series, its derivatives as all logarithms of the pushes move,
or all of the noises, the same from differences, and the time.
"""

import math
import time

import jax
import jax.numpy as jnp
from jax import Array

SERIES, STEPS = 1000, 50


def take_triangle(*blocks: Array) -> Array:
    """Return a lower triangular L with L L^T the sum of B B^T over the blocks."""
    return jnp.linalg.qr(jnp.concatenate(blocks, axis=1).T, mode="r").T


def filter_series(log_noises: Array, series: Array) -> Array:
    """Log likelihood of one series (steps,)."""
    push, noise = jnp.exp(log_noises)
    transition = jnp.array([[1.0, 0.1], [0.0, 1.0]])
    pushes = push * jnp.array([[0.005], [0.1]])
    observation = jnp.array([[1.0, 0.0]])

    def step(state: tuple[Array, Array], y: Array) -> tuple[tuple[Array, Array], Array]:
        mean, factor = state
        mean = transition @ mean
        factor = take_triangle(transition @ factor, pushes)
        # rows: the observation, then the state; the triangle holds gain and new factor
        top = jnp.concatenate([observation @ factor, noise * jnp.ones((1, 1))], axis=1)
        below = jnp.concatenate([factor, jnp.zeros((2, 1))], axis=1)
        joint = take_triangle(jnp.concatenate([top, below]))
        white = (y - observation @ mean) / joint[0, 0]
        density = -0.5 * (white @ white + math.log(2 * math.pi)) - jnp.log(jnp.abs(joint[0, 0]))
        return (mean + joint[1:, 0] * white[0], joint[1:, 1:]), density

    start = jnp.zeros(2), jnp.zeros((2, 2))
    return jnp.sum(jax.lax.scan(step, start, series)[1])


def sum_log_likelihoods(log_noises: Array, series: Array) -> Array:
    """Log likelihood of many series (number, steps) with their noises (number, 2)."""
    return jnp.sum(jax.vmap(filter_series)(log_noises, series))


def draw_series() -> Array:
    """Positions of bodies pushed at random, observed with noise."""
    pushes, noises = jax.random.normal(jax.random.key(0), (2, SERIES, STEPS))
    velocity = 0.1 * jnp.cumsum(pushes, axis=1)
    return 0.1 * jnp.cumsum(velocity, axis=1) + 0.05 * noises


def main() -> None:
    """Print the figures."""
    series = draw_series()
    at = jnp.log(jnp.array([1.0, 0.05])) + 0.1 * jax.random.normal(jax.random.key(1), (SERIES, 2))
    slope = jax.jit(jax.value_and_grad(sum_log_likelihoods))
    value, gradient = jax.block_until_ready(slope(at, series))
    begin = time.perf_counter()
    for _ in range(5):
        jax.block_until_ready(slope(at, series))
    seconds = (time.perf_counter() - begin) / 5
    h, f = 1e-4, jax.jit(sum_log_likelihoods)
    differences = [(f(at + h * e, series) - f(at - h * e, series)) / (2 * h) for e in jnp.eye(2)]
    print(f"log likelihood  {value:.4f}")
    moved = jnp.sum(gradient, axis=0)
    print(f"gradient        {moved[0]:.4f} {moved[1]:.4f}")
    print(f"differences     {differences[0]:.4f} {differences[1]:.4f}")
    print(f"time            {1e3 * seconds:.1f} ms for {SERIES} series of {STEPS} steps")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
