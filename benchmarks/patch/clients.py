"""The programs of clients with their arguments, large and small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.patch import programs


@dataclass(frozen=True)
class Client:
    """A program.

    Attributes:
      library: whose way of calling QR it has.
      what: what it computes, in words.
      run: the program, a function of arrays.
      inputs: makes its arguments, of the size that the library has or, if small, for a test.
      tolerance: of its results, relative to the largest, in epsilons of their dtype.
    """

    library: str
    what: str
    run: Callable[..., Any]
    inputs: Callable[[bool], tuple[Any, ...]]
    tolerance: float = 1e4

    @property
    def name(self) -> str:
        """How a case of the benchmark is called."""
        return f"{self.library}: {self.what}"


def draw_normal(shape: tuple[int, ...], dtype: str = "f8", seed: int = 0) -> np.ndarray:
    """Draw normal numbers, the same for the same arguments."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.standard_normal(shape)
    return x.astype(dtype)


def _scaled(
    small: tuple[int, ...], large: tuple[int, ...], dtype: str = "f8", scale: float = 1.0
) -> Callable[[bool], tuple[np.ndarray, ...]]:
    return lambda is_small: (scale * draw_normal(small if is_small else large, dtype),)


def _pair(
    small: tuple[tuple[int, ...], ...], large: tuple[tuple[int, ...], ...], dtype: str = "f8"
) -> Callable[[bool], tuple[np.ndarray, ...]]:
    def make(is_small: bool) -> tuple[np.ndarray, ...]:
        shapes = small if is_small else large
        return tuple(draw_normal(shape, dtype, seed) for seed, shape in enumerate(shapes))

    return make


def _square(small: int, large: int, dtype: str) -> Callable[[bool], tuple[np.ndarray, ...]]:
    def make(is_small: bool) -> tuple[np.ndarray, ...]:
        n = small if is_small else large
        x = draw_normal((n, n), dtype)
        # eigenvalues well apart, so that rounding is not magnified
        q, _ = np.linalg.qr(draw_normal((n, n), dtype, 1))
        return (q * np.linspace(1, 5, n).astype(dtype)) @ q.T, x

    return make


CLIENTS = (
    Client(
        "cuthbert, dynamax",
        "square-root Kalman filters, value and gradient",
        programs.filter_series,
        lambda small: (draw_normal((2, 5, 1) if small else (100, 200, 1)), np.eye(4)),
    ),
    Client(
        "cuthbert",
        "associative scan of triangles",
        programs.smooth_in_parallel,
        _scaled((6, 3, 3), (1000, 6, 6)),
    ),
    Client(
        "probdiffeq",
        "triangles in the loop of an ODE solver",
        programs.solve_ode,
        _pair(((3, 3), (4, 3, 3)), ((10, 10), (500, 10, 10))),
    ),
    Client(
        "skillmodels",
        "batches of batches, R only, gradient",
        programs.update_skills,
        _scaled((3, 2, 5, 5), (2000, 2, 7, 7)),
    ),
    Client(
        "ad_afqmc",
        "complex walkers",
        programs.orthogonalize_walkers,
        _scaled((3, 8, 3), (200, 60, 12), "c16", 0.5),
    ),
    Client(
        "quimb, TensorNetwork",
        "canonical form of a chain, gradient",
        programs.canonicalize,
        lambda small: (draw_normal((3, 4, 2, 4) if small else (40, 32, 2, 32)) / 4,),
        1e6,
    ),
    Client(
        "Lyapunov exponents",
        "3 x 3 in a long loop",
        programs.find_exponents,
        _scaled((9, 3, 3), (2000, 3, 3)),
    ),
    Client(
        "lineax, optimistix",
        "packed reflectors, many systems",
        programs.solve_by_reflectors,
        _pair(((3, 6, 3), (3, 6)), ((1000, 20, 6), (1000, 20))),
        1e6,
    ),
    Client(
        "jaxopt",
        "damped steps of a small problem",
        programs.take_damped_steps,
        _pair(((8, 3), (8,)), ((200, 20), (200,))),
        1e6,
    ),
    Client(
        "DESC",
        "damped steps of a large problem",
        programs.take_damped_steps,
        _pair(((20, 8), (20,)), ((1133, 400), (1133,))),
        1e6,
    ),
    Client("SOAP", "eigenbasis of an optimizer", programs.precondition, _square(6, 512, "f4"), 1e5),
    Client(
        "matfree, traceax",
        "trace by sketches",
        programs.estimate_trace,
        _pair(((9, 9), (9, 3)), ((2000, 2000), (2000, 50))),
    ),
    Client(
        "jax.random",
        "orthogonal matrices",
        programs.draw_orthogonal,
        lambda small: (np.uint32([1, 2]),),
    ),
    Client(
        "small matrices", "Q and R", programs.factor_small, _scaled((5, 4, 4), (10000, 4, 4), "f4")
    ),
    Client(
        "small matrices",
        "gradient",
        programs.differentiate_small,
        _scaled((5, 4, 4), (10000, 4, 4), "f4"),
        1e6,
    ),
    Client("a large matrix", "Q and R", programs.factor_small, _scaled((9, 9), (2048, 2048))),
)
