"""What an answer must satisfy before its time counts.

Factors are held against the input they came from, by LAPACK's test ratios. Gradients are held
against a reference that shares no code with any contender: central differences, in double
precision, of NumPy's factorization of the same input. LQ is checked as the QR of the transpose.
"""

from __future__ import annotations

import numpy as np

from benchmarks.cases import Cell

# LAPACK's own limit in its tests of QR.
RATIO_LIMIT = 30.0

# Error of the paired gradient over the norm of the gradient.
GRADIENT_LIMIT = {"f4": 1e-3, "c8": 1e-3, "f8": 1e-7, "c16": 1e-7}

_STEP = np.finfo(float).eps ** (1 / 3)

Factors = tuple[np.ndarray, ...]


class WrongAnswerError(Exception):
    """A contender's result misses a limit."""


class Problem:
    """Input and cotangents of one cell, and the checks of what a contender makes of them.

    Attributes:
      a: the input, ``(..., m, n)``.
      cotangents: the constants of the loss, one for each of the two factors, in their order.
    """

    def __init__(self, cell: Cell, seed: int = 0):
        """Draws the input; it depends on the shape, the dtype and the seed alone."""
        self._lq = cell.work.factorization == "lq"
        self._dtype = np.dtype(cell.dtype)
        self._rng = np.random.default_rng([seed, *cell.shape])
        *batch, m, n = cell.shape
        k = min(m, n)
        self.a = self._draw(*cell.shape)
        if cell.work.gradient:
            # Far from rank deficiency, so that differences are exact enough to tell right from
            # wrong. The shuffle keeps the pivots of a wide matrix from being its first columns.
            self.a += 3 * np.sqrt(k).astype(self._dtype) * np.eye(m, n, dtype=self._dtype)
            if cell.work.factorization == "pivoted":
                self.a = np.ascontiguousarray(self.a[..., self._rng.permutation(n)])
        self.cotangents = self._draw(*batch, m, k), self._draw(*batch, k, n)
        self._direction = self._draw(*cell.shape)
        self._derivatives: dict[bytes, np.ndarray] = {}

    def check_factors(self, factors: Factors) -> dict[str, float]:
        """Measures residual and orthogonality, relative to ``eps * max(m, n)``.

        Args:
          factors: as the contender returned them.

        Returns:
          The largest ratios in the batch.

        Raises:
          WrongAnswerError: if a ratio exceeds the limit or R has not its form.
        """
        q, r, *pivots = self._factors_as_qr(factors)
        a, q, r = (_double(x) for x in (self._as_qr(self.a), q, r))
        if pivots:
            a = np.take_along_axis(a, pivots[0][..., None, :], axis=-1)
        if np.tril(r, -1).any():
            raise WrongAnswerError("R is not upper triangular")
        unit = np.finfo(self._dtype).eps * max(a.shape[-2:])
        gram = _adjoint(q) @ q - np.eye(q.shape[-1])
        residual = np.max(_norm(a - q @ r) / _norm(a)) / unit
        orthogonality = np.max(_norm(gram)) / unit
        if not (residual <= RATIO_LIMIT and orthogonality <= RATIO_LIMIT):
            raise WrongAnswerError(f"residual {residual:.2g}, orthogonality {orthogonality:.2g}")
        if pivots:
            self._check_order(np.abs(_diagonal(r)))
        return {"residual": float(residual), "orthogonality": float(orthogonality)}

    def check_gradient(self, slope: np.ndarray, factors: Factors) -> dict[str, float]:
        """Pairs a gradient with a random direction and compares with central differences.

        Args:
          slope: G with d loss = Re <G, dA>, like the input.
          factors: the contender's own: the phases of diag R and the pivots are its choice, which
            is constant near the input and on which the gradient depends.

        Returns:
          The largest error in the batch.

        Raises:
          WrongAnswerError: if the error exceeds the limit.
        """
        _, r, *pivots = self._factors_as_qr(factors)
        phases = np.sign(_diagonal(r))
        expected = np.sum((phases.conj() * self._derivative(*pivots)).real, axis=-1)
        slope = _double(slope)
        paired = np.sum((slope.conj() * self._direction).real, axis=(-2, -1))
        error = np.max(np.abs(paired - expected) / np.linalg.norm(slope, axis=(-2, -1)))
        if not error <= GRADIENT_LIMIT[self._dtype.str[1:]]:
            raise WrongAnswerError(f"gradient error {error:.2g}")
        return {"gradient": float(error)}

    def _draw(self, *shape: int) -> np.ndarray:
        x = self._rng.uniform(-1, 1, shape)
        if self._dtype.kind == "c":
            x = x + 1j * self._rng.uniform(-1, 1, shape)
        return x.astype(self._dtype)

    def _derivative(self, *pivots: np.ndarray) -> np.ndarray:
        """Differences of `_terms` along the direction, ``(..., k)``."""
        # It costs two factorizations, and most contenders choose the same pivots.
        key = b"".join(p.tobytes() for p in pivots)
        if key not in self._derivatives:
            a, direction = (_double(self._as_qr(x)) for x in (self.a, self._direction))
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

    def _factors_as_qr(self, factors: Factors) -> Factors:
        return tuple(map(self._as_qr, reversed(factors))) if self._lq else factors


def _adjoint(x: np.ndarray) -> np.ndarray:
    return x.conj().swapaxes(-2, -1)


def _double(x: np.ndarray) -> np.ndarray:
    return x.astype(np.result_type(x, "f8"))


def _diagonal(x: np.ndarray) -> np.ndarray:
    return np.diagonal(x, axis1=-2, axis2=-1)


def _norm(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x, 1, axis=(-2, -1))
