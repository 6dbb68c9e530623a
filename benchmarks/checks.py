"""What an answer must satisfy before its time counts.

Factors are held against the input they came from, by LAPACK's test ratios. All else is held
against a reference of NumPy's, in double precision: gradients of factors against central
differences of the factorization of the same input, least squares and their gradients against what
the pseudo-inverse gives, by equations of ``notebooks/derivations.md``. LQ is checked as the QR of
the transpose.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from benchmarks.cases import Cell

# LAPACK's own limit in its tests of QR.
RATIO_LIMIT = 30.0

# Error of the gradient, of factors that of the paired one, over the norm of the gradient.
GRADIENT_LIMIT = {"f4": 1e-3, "c8": 1e-3, "f8": 1e-7, "c16": 1e-7}

_STEP = np.finfo(float).eps ** (1 / 3)

# The largest condition number of a least-squares problem.
_CONDITION = 100.0

Arrays = tuple[np.ndarray, ...]


class WrongAnswerError(Exception):
    """A contender's result misses a limit."""


class Problem:
    """Input and cotangents of one cell, and the checks of what a contender makes of them.

    Attributes:
      inputs: what a contender gets, the matrix ``(..., m, n)`` first.
      cotangents: the constants of the loss, one for each value but pivots, in their order. Without
        any the loss is the squared norm of the values.
    """

    inputs: Arrays
    cotangents: Arrays

    def __init__(self, cell: Cell, seed: int):
        """Prepares to draw what depends on the shape, the dtype and the seed alone."""
        self._dtype = np.dtype(cell.dtype)
        self._rng = np.random.default_rng([seed, *cell.shape])
        self._unit = np.finfo(self._dtype).eps * max(cell.shape[-2:])

    def check_values(self, values: Arrays) -> dict[str, float]:
        """Measures errors of what a contender computed.

        Args:
          values: as the contender returned them.

        Returns:
          The largest in the batch, relative to ``eps * max(m, n)``; of least squares min(m, n).

        Raises:
          WrongAnswerError: if one exceeds the limit or a value has not its form.
        """
        raise NotImplementedError

    def check_gradient(self, slopes: Arrays, values: Arrays) -> dict[str, float]:
        """Compares a gradient with the reference.

        Args:
          slopes: G with d loss = Re <G, dX>, one like each input X.
          values: the contender's own.

        Returns:
          The largest error in the batch, over the norm of the gradient.

        Raises:
          WrongAnswerError: if the error exceeds the limit.
        """
        raise NotImplementedError

    def _draw(self, *shape: int) -> np.ndarray:
        x = self._rng.uniform(-1, 1, shape)
        if self._dtype.kind == "c":
            x = x + 1j * self._rng.uniform(-1, 1, shape)
        return x.astype(self._dtype)

    def _draw_matrix(self, shape: tuple[int, ...], regular: bool, shuffled: bool) -> np.ndarray:
        """Draws the matrix; a regular one is far from rank deficiency.

        The shuffle keeps the pivots of a wide regular one from being its first columns.
        """
        a = self._draw(*shape)
        m, n = shape[-2:]
        if regular:
            a += 3 * np.sqrt(min(m, n)).astype(self._dtype) * np.eye(m, n, dtype=self._dtype)
            if shuffled:
                a = np.ascontiguousarray(a[..., self._rng.permutation(n)])
        return a

    def _within_ratio(self, **errors: np.ndarray) -> dict[str, float]:
        """The largest of each, in units, if they are within the limit."""
        ratios = {name: float(np.max(error) / self._unit) for name, error in errors.items()}
        if not all(ratio <= RATIO_LIMIT for ratio in ratios.values()):
            raise WrongAnswerError(", ".join(f"{name} {x:.2g}" for name, x in ratios.items()))
        return ratios

    def _within_gradient(self, errors: np.ndarray) -> dict[str, float]:
        error = np.max(errors)
        if not error <= GRADIENT_LIMIT[self._dtype.str[1:]]:
            raise WrongAnswerError(f"gradient error {error:.2g}")
        return {"gradient": float(error)}


class Factorization(Problem):
    """QR, LQ or pivoted QR."""

    def __init__(self, cell: Cell, seed: int = 0):
        """Draws the input and the cotangents."""
        super().__init__(cell, seed)
        self._lq = cell.work.kind == "lq"
        self._exact = cell.work.kind == "pivoted"
        *batch, m, n = cell.shape
        k = min(m, n)
        # Regular, so that differences are exact enough to tell right from wrong.
        a = self._draw_matrix(cell.shape, cell.work.gradient, cell.work.pivoted)
        self.inputs = (a,)
        self.cotangents = self._draw(*batch, m, k), self._draw(*batch, k, n)
        self._direction = self._draw(*cell.shape)
        self._derivatives: dict[bytes, np.ndarray] = {}

    def check_values(self, values: Arrays) -> dict[str, float]:
        """Measures residual and orthogonality."""
        q, r, *pivots = self._factors_as_qr(values)
        a, q, r = (_double(x) for x in (self._as_qr(self.inputs[0]), q, r))
        if pivots:
            a = np.take_along_axis(a, pivots[0][..., None, :], axis=-1)
        if np.tril(r, -1).any():
            raise WrongAnswerError("R is not upper triangular")
        gram = _adjoint(q) @ q - np.eye(q.shape[-1])
        ratios = self._within_ratio(residual=_norm(a - q @ r) / _norm(a), orthogonality=_norm(gram))
        if pivots and self._exact:
            self._check_order(np.abs(_diagonal(r)))
        return ratios

    def check_gradient(self, slopes: Arrays, values: Arrays) -> dict[str, float]:
        """Pairs a gradient with a random direction and compares with central differences.

        The phases of diag R and the pivots are the contender's choice, which is constant near the
        input and on which the gradient depends.
        """
        _, r, *pivots = self._factors_as_qr(values)
        phases = np.sign(_diagonal(r))
        expected = np.sum((phases.conj() * self._derivative(*pivots)).real, axis=-1)
        slope = _double(slopes[0])
        paired = np.sum((slope.conj() * self._direction).real, axis=(-2, -1))
        return self._within_gradient(np.abs(paired - expected) / _length(slope))

    def _derivative(self, *pivots: np.ndarray) -> np.ndarray:
        """Differences of `_terms` along the direction, ``(..., k)``."""
        # It costs two factorizations, and most contenders choose the same pivots.
        key = b"".join(p.tobytes() for p in pivots)
        if key not in self._derivatives:
            a, direction = (_double(self._as_qr(x)) for x in (self.inputs[0], self._direction))
            for p in pivots:
                # Pivots are constant near the input: to differentiate is to leave them alone.
                a, direction = (
                    np.take_along_axis(x, p[..., None, :], axis=-1) for x in (a, direction)
                )
            plus, minus = (self._terms(a + h * direction) for h in (_STEP, -_STEP))
            self._derivatives[key] = (plus - minus) / (2 * _STEP)
        return self._derivatives[key]

    def _terms(self, a: np.ndarray) -> np.ndarray:
        """Splits the loss by columns of Q and rows of R, ``(..., k)``, for positive diag R.

        Where diag R has phases p, column j of Q has the factor conj(p_j) and row j of R the
        factor p_j: the loss is the sum of ``Re conj(p_j) term_j``.
        """
        (q, r), (cq, cr) = np.linalg.qr(a), self._factors_as_qr(self.cotangents)
        columns = np.einsum("...mk,...mk->...k", cq.conj(), q)
        rows = np.einsum("...kn,...kn->...k", cr.conj(), r)
        return np.sign(_diagonal(r)) * (columns + rows.conj())

    def _check_order(self, diagonal: np.ndarray) -> None:
        # Column norms are updated, not recomputed; LAPACK trusts the update to sqrt(eps).
        slack = 1 + 10 * np.sqrt(np.finfo(self._dtype).eps)
        if np.any(diagonal[..., 1:] > slack * diagonal[..., :-1]):
            raise WrongAnswerError("the diagonal of R increases")

    def _as_qr(self, x: np.ndarray) -> np.ndarray:
        return x.swapaxes(-2, -1) if self._lq else x

    def _factors_as_qr(self, factors: Arrays) -> Arrays:
        return tuple(map(self._as_qr, reversed(factors))) if self._lq else factors


class Triangle(Factorization):
    """R alone, which is the factor of the Gram matrix."""

    def check_values(self, values: Arrays) -> dict[str, float]:
        """Measures the distance of the Gram matrices."""
        a, r = map(_double, (self.inputs[0], values[0]))
        if np.tril(r, -1).any():
            raise WrongAnswerError("R is not upper triangular")
        rest = _length(_adjoint(r) @ r - _adjoint(a) @ a)
        return self._within_ratio(residual=rest / _length(a) ** 2)


class LeastSquares(Problem):
    """The x of minimum norm among those that minimize |b - A x|, one right-hand side."""

    def __init__(self, cell: Cell, seed: int = 0):
        """Draws a regular matrix and a right-hand side."""
        super().__init__(cell, seed)
        self._unit = np.finfo(self._dtype).eps * min(cell.shape[-2:])
        a = self._draw_matrix(cell.shape, regular=True, shuffled=True)
        self.inputs = a, self._draw(*cell.shape[:-1], 1)
        self.cotangents = ()

    def check_values(self, values: Arrays) -> dict[str, float]:
        """Measures the distance from the reference."""
        x, expected = _double(values[0]), self._inverse @ _double(self.inputs[1])
        if x.shape != expected.shape:
            raise WrongAnswerError(f"x has the shape {x.shape} in place of {expected.shape}")
        return self._within_ratio(distance=_length(x - expected) / _length(expected))

    def check_gradient(self, slopes: Arrays, values: Arrays) -> dict[str, float]:
        r"""Compares with (9.6) for the loss :math:`|x|^2`.

        Its cotangent :math:`2 x` is in the range of :math:`A^H`, so that one term vanishes.
        """
        a, b = map(_double, self.inputs)
        x = self._inverse @ b
        z = _adjoint(self._inverse) @ (2 * x)
        slope_a = (b - a @ x) @ _adjoint(self._inverse @ z) - z @ _adjoint(x)
        pairs = zip(slopes, (slope_a, z), strict=True)
        errors = [_length(_double(got) - right) / _length(right) for got, right in pairs]
        return self._within_gradient(np.stack(errors))

    @cached_property
    def _inverse(self) -> np.ndarray:
        """The pseudo-inverse, of a matrix the rank of which is full beyond doubt."""
        u, s, vh = np.linalg.svd(_double(self.inputs[0]), full_matrices=False)
        if not np.all(s[..., 0] <= _CONDITION * s[..., -1]):
            raise ValueError(f"the input has a condition number above {_CONDITION}")
        return (_adjoint(vh) / s[..., None, :]) @ _adjoint(u)


def problem_of(cell: Cell) -> Problem:
    """Returns the problem of a cell, drawn from a fixed seed."""
    if cell.work.least_squares:
        return LeastSquares(cell)
    return Triangle(cell) if cell.work.kind == "r" else Factorization(cell)


def _adjoint(x: np.ndarray) -> np.ndarray:
    return x.conj().swapaxes(-2, -1)


def _double(x: np.ndarray) -> np.ndarray:
    return x.astype(np.result_type(x, "f8"))


def _diagonal(x: np.ndarray) -> np.ndarray:
    return np.diagonal(x, axis1=-2, axis2=-1)


def _norm(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x, 1, axis=(-2, -1))


def _length(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x, axis=(-2, -1))
