"""Differentiable QR, LQ and column-pivoted QR for JAX.

For an m x n matrix A and k = min(m, n):

- **QR**: A = Q R, where Q has orthonormal columns and R is upper triangular (trapezoidal for a
  wide A). It exists for every matrix. If the leading k columns of A are linearly independent it
  is unique up to one sign (phase) for each column of Q and row of R; diag(R) is real here, and
  `positive_diagonal=True` fixes the signs.
- **LQ**: A = L Q, the mirror: L is lower triangular and the rows of Q are orthonormal. **RQ** and
  **QL** are the same with rows and columns counted from the end.
- **Column-pivoted QR**: A P = Q R for a permutation P, chosen so that abs(diag(R)) does not
  increase. It finds the independent columns and so reveals the rank.

Every function takes arrays (..., m, n), real or complex, maps over the leading dimensions, and
has derivatives of all orders in forward and reverse mode; it composes with ``jit``, ``vmap``,
``grad``, ``shard_map`` and ``jax.export`` on CPU, GPU and TPU. The rows of a tall matrix may be
spread over many devices: `tsqr`.

Numbers of sections and equations in docstrings are those of ``derivations.md``, which stands beside
this file in an installed package and under ``notebooks/`` in the repository.
"""

from jaxqr._api.bases import null_space, orth
from jaxqr._api.householder import householder_multiply, householder_product
from jaxqr._api.interpolative import interpolative
from jaxqr._api.lq import lq, ql, rq
from jaxqr._api.lstsq import lstsq
from jaxqr._api.multiply import qr_multiply
from jaxqr._api.qr import qr
from jaxqr._api.tsqr import tsqr
from jaxqr._core.results import (
    InterpolativeResult,
    LQResult,
    LstsqResult,
    PivotedL,
    PivotedLQResult,
    PivotedQRMultiplyResult,
    PivotedQRResult,
    PivotedR,
    PivotedRawResult,
    QLResult,
    QRMultiplyResult,
    QRResult,
    RawResult,
    RQResult,
)
from jaxqr._patch.patch import (
    PatchStatus,
    patch,
    patch_if_asked,
    patched,
    status,
    unpatch,
)
from jaxqr._patch.tables import PatchConflictError

__all__ = [
    "InterpolativeResult",
    "LQResult",
    "LstsqResult",
    "PatchConflictError",
    "PatchStatus",
    "PivotedL",
    "PivotedLQResult",
    "PivotedQRMultiplyResult",
    "PivotedQRResult",
    "PivotedR",
    "PivotedRawResult",
    "QLResult",
    "QRMultiplyResult",
    "QRResult",
    "RQResult",
    "RawResult",
    "householder_multiply",
    "householder_product",
    "interpolative",
    "lq",
    "lstsq",
    "null_space",
    "orth",
    "patch",
    "patched",
    "ql",
    "qr",
    "qr_multiply",
    "rq",
    "status",
    "tsqr",
    "unpatch",
]
__version__ = "0.2.0"

patch_if_asked()
del patch_if_asked
