"""Products of packed Householder reflectors in the compact form Q = I - V T V^H.

They are the portable lowering of forming and applying Q, and what is differentiated for the
derivative with respect to the reflectors.
"""

import jax.numpy as jnp
from jax import Array, lax

from jaxqr._core.algebra import H, extend, identity_like, mm, row_minus_column, slo, where
from jaxqr._lowering.triangular import solve_triangular


def unpack_reflectors(h: Array, k: int) -> Array:
    """Take the k Householder vectors packed in `h` as the columns of V, unit lower trapezoidal."""
    v = h[..., :, :k]
    return slo(v) + identity_like(v)


def apply_reflectors(
    h: Array, tau: Array, c: Array, *, left: bool, adjoint: bool, width: int | None = None
) -> Array:
    """Multiply `c` by Q = I - V T V^H or its adjoint, from the left or the right.

    Given a `width`, T is made of that of every so many reflectors.
    """
    v = unpack_reflectors(h, tau.shape[-1])
    gram = mm(H(v), v)
    t = form_t(gram, tau) if width is None else form_t_in_blocks(gram, tau, width)
    t = H(t) if adjoint else t
    return c - (mm(v, mm(t, mm(H(v), c))) if left else mm(mm(mm(c, v), t), H(v)))


def form_reflectors(h: Array, tau: Array) -> Array:
    """Form the leading columns of Q = I - V T V^H, as many as `h` has."""
    v = unpack_reflectors(h, tau.shape[-1])
    top = v[..., : h.shape[-1], :]
    return identity_like(h) - mm(v, mm(form_t(mm(H(v), v), tau), H(top)))


def form_reflectors_in_blocks(h: Array, tau: Array, width: int) -> Array:
    """Do the same with T made of the blocks' own by products: solves are slow on a GPU."""
    v = unpack_reflectors(h, tau.shape[-1])
    top = v[..., : h.shape[-1], :]
    t = form_t_in_blocks(mm(H(v), v), tau, width)
    return identity_like(h) - mm(v, mm(t, H(top)))


# --------------------------------------------------------------------- matrices held by columns


def unpack_panel(packed: Array, first: Array | int = 0) -> Array:
    """Take the Householder vectors (..., w, m) of a panel whose diagonal begins at row `first`.

    That is one number, or one for each matrix (..., 1, 1).
    """
    offset = -row_minus_column(packed) - first
    return where(offset > 0, packed, (offset == 0).astype(packed.dtype))


def apply_block(
    at: Array, v: Array, t: Array, first: Array | int, order: Array | None = None
) -> Array:
    """Multiply columns of A by Q^H, from column `first` on: A - V T^H V^H A.

    All are held by columns, as LAPACK does: A^T (..., n, m) is given and returned, and the
    reflectors are the rows of `v` (..., k, m), with zeros before their ones. If an `order`
    (..., n) is given, the columns are brought into it beforehand, in one pass with the update.
    """
    column = lax.broadcasted_iota(jnp.int32, (1,) * (at.ndim - 2) + (at.shape[-2], 1), at.ndim - 2)
    products = mm(mm(at, H(v)), t.conj())
    if order is not None:
        at, products = take_rows(at, order), take_rows(products, order)
    return at - mm(where(column >= first, products), v)


def take_rows(x: Array, index: Array) -> Array:
    """Take rows of matrices, which are columns of what is held by columns."""
    return jnp.take_along_axis(x, index[..., None], axis=-2, mode="promise_in_bounds")


# ---------------------------------------------------------------------------------------- T


def form_t(gram: Array, tau: Array) -> Array:
    """Form T of the compact form from V^H V: T = (I + D sup(V^H V))^{-1} D, D = diag(tau) (4.2)."""
    d = tau[..., :, None]
    # The solver takes the diagonal as ones and what is below as zeros.
    inverse = d * gram
    return solve_triangular(inverse, d * identity_like(inverse), left=True, lower=False, unit=True)


def form_t_in_blocks(gram: Array, tau: Array, width: int) -> Array:
    """Form T from that of every `width` reflectors."""
    k = tau.shape[-1]
    count = -(-k // width)
    whole = width * count
    gram, tau = extend(extend(gram, whole, -1), whole, -2), extend(tau, whole, -1)
    small = take_blocks(gram, width, 0, 1)
    t = merge_blocks(gram, form_t(small, tau.reshape(*tau.shape[:-1], count, width)))
    return t[..., :k, :k]


def merge_blocks(gram: Array, t: Array) -> Array:
    """Form T of V = [V_1 ... V_c] from V^H V (..., cw, cw) and the T of each (..., c, w, w).

    Neighbours are merged, all of a level in one product. One that has no neighbour is merged with
    the columns after it.
    """
    last = t[..., -1, :0, :0]
    while True:
        *_, count, width, _ = t.shape
        if count % 2:
            start, end = (count - 1) * width, count * width
            beside = gram[..., start:end, end : end + last.shape[-1]]
            last = _merge_pair(t[..., -1, :, :], last, beside)
        if count == 1:
            return last
        beside = take_blocks(gram, width, 1, 2)
        pairs = t[..., : count // 2 * 2, :, :]
        t = _merge_pair(pairs[..., ::2, :, :], pairs[..., 1::2, :, :], beside)


def take_blocks(x: Array, width: int, right: int, every: int) -> Array:
    """Take square blocks that are `right` blocks beside the diagonal, one in `every`."""
    count = x.shape[-1] // width
    starts = [(i * width, (i + right) * width) for i in range(0, count - right, every)]
    return jnp.stack([x[..., i : i + width, j : j + width] for i, j in starts], axis=-3)


def _merge_pair(t: Array, u: Array, beside: Array) -> Array:
    """Form T of [V U] from those of V and U, and V^H U."""
    corner = -mm(mm(t, beside), u)
    below = jnp.zeros_like(corner.mT)
    return jnp.concatenate(
        [jnp.concatenate([t, corner], axis=-1), jnp.concatenate([below, u], axis=-1)], axis=-2
    )
