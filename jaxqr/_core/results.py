"""What the public functions return: NamedTuples, so that results unpack and have names."""

from typing import NamedTuple

from jax import Array, export


class QRResult(NamedTuple):
    """``a = Q @ R``."""

    Q: Array  #: orthonormal columns, (..., m, k), or (..., m, m) in complete mode
    R: Array  #: upper triangular, real diagonal, (..., k, n), or (..., m, n)


class PivotedQRResult(NamedTuple):
    """``a[..., :, P] = Q @ R``, where ``|diag(R)|`` does not increase (hardly, if randomized)."""

    Q: Array  #: (..., m, k), or (..., m, m) in complete mode
    R: Array  #: (..., k, n), or (..., m, n)
    P: Array  #: a permutation of the columns, (..., n) int32


class PivotedR(NamedTuple):
    """The triangle of the pivoted QR and its permutation, without Q."""

    R: Array  #: (..., k, n)
    P: Array  #: (..., n) int32


class RawResult(NamedTuple):
    """Packed reflectors."""

    h: Array  #: the triangle and, beyond it, the reflectors
    tau: Array  #: their scalar factors, (..., k)


class PivotedRawResult(NamedTuple):
    """Packed reflectors of the pivoted factorization."""

    h: Array  #: the triangle and, beyond it, the reflectors
    tau: Array  #: their scalar factors, (..., k)
    P: Array  #: (..., n) int32 for QR, (..., m) int32 for LQ


class LQResult(NamedTuple):
    """``a = L @ Q``."""

    L: Array  #: lower triangular, real diagonal, (..., m, k), or (..., m, n) in complete mode
    Q: Array  #: orthonormal rows, (..., k, n), or (..., n, n)


class PivotedLQResult(NamedTuple):
    """``a[..., P, :] = L @ Q``, where ``|diag(L)|`` does not increase (hardly, if randomized)."""

    L: Array  #: (..., m, k), or (..., m, n) in complete mode
    Q: Array  #: (..., k, n), or (..., n, n)
    P: Array  #: a permutation of the rows, (..., m) int32


class PivotedL(NamedTuple):
    """The triangle of the pivoted LQ and its permutation, without Q."""

    L: Array  #: (..., m, k)
    P: Array  #: (..., m) int32


class RQResult(NamedTuple):
    """``a = R @ Q``."""

    R: Array  #: upper triangular, (..., m, k), or (..., m, n) in complete mode
    Q: Array  #: orthonormal rows, (..., k, n), or (..., n, n)


class QLResult(NamedTuple):
    """``a = Q @ L``."""

    Q: Array  #: orthonormal columns, (..., m, k), or (..., m, m) in complete mode
    L: Array  #: lower triangular, (..., k, n), or (..., m, n)


class LstsqResult(NamedTuple):
    """The solution of minimum norm of least-squares problems."""

    x: Array  #: (..., n, s) or (n,)
    residuals: Array  #: squared norms of b - a x, real, (..., s) or ()
    rank: Array  #: (...) int32


class InterpolativeResult(NamedTuple):
    """``a`` is nearly ``a[..., :, columns] @ coefficients``."""

    columns: Array  #: those chosen, (..., k) int32
    coefficients: Array  #: of all columns in terms of them, (..., k, n)


class QRMultiplyResult(NamedTuple):
    """The product with the Q of ``a = Q @ R``, and R."""

    CQ: Array  #: c @ Q or Q @ c
    R: Array  #: (..., k, n)


class PivotedQRMultiplyResult(NamedTuple):
    """The product with the Q of ``a[..., :, P] = Q @ R``, R and P."""

    CQ: Array  #: c @ Q or Q @ c
    R: Array  #: (..., k, n)
    P: Array  #: a permutation of the columns, (..., n) int32


# Registered, so that a program that returns them can be serialized. Where it is loaded again, jaxqr
# must have been imported; a program that returns tuple(result) needs no more than JAX.
for _result in [
    x for x in list(globals().values()) if isinstance(x, type) and "_fields" in vars(x)
]:
    export.register_namedtuple_serialization(_result, serialized_name=f"jaxqr.{_result.__name__}")
