"""Tall matrices by tiles of rows (TSQR), with LAPACK's signs, reflectors and tau.

The tiles are factored as a batch, and so is the stack of their triangles, until it is one tile.
Nothing here scales: more than WIDTH columns have products that ask for it beforehand.

Source: Demmel, Grigori, Hoemmen and Langou, arXiv 0808.2664. How signs and reflectors are found is
in ``_lowering/reconstruction.py``.
"""

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxqr._core.algebra import H, diagonal, extend, mm, slo, where
from jaxqr._lowering.by_columns import WIDTH
from jaxqr._lowering.reconstruction import find_lapack_signs, reconstruct

Factor = Callable[..., list[Array]]  # from a batch of matrices and names of outputs to the outputs

COLUMNS = 2 * WIDTH  # the most of a tall matrix


def factor_tall(a: Array, outputs: tuple[str, ...], factor: Factor, rows: int) -> dict[str, Array]:
    """Factor a matrix (..., m, n), n <= COLUMNS, m larger than that and than `rows`.

    Args:
        a: the matrix.
        outputs: those of "q", "r", "h" and "tau" that are wanted.
        factor: it factors tiles.
        rows: the most of a tile, at least 2 WIDTH.

    Returns:
        The outputs by their names, and perhaps others.
    """
    packed = not {"h", "tau"}.isdisjoint(outputs)
    first, second = a[..., :WIDTH], a[..., WIDTH:]
    both = second.shape[-1] > 0
    panel = _factor_panel(first, factor, rows, form=both or packed or "q" in outputs)
    values = {"q": panel.q, "r": panel.r}
    if not both and not packed:
        return values
    v, t = reconstruct(panel.q, panel.lu)
    values["tau"] = diagonal(t)
    values["h"] = slo(v) + extend(panel.r, v.shape[-2], -2)
    return _join(values, v, t, second, outputs, factor, rows) if both else values


def _join(
    done: dict[str, Array],
    v: Array,
    t: Array,
    second: Array,
    outputs: tuple[str, ...],
    factor: Factor,
    rows: int,
) -> dict[str, Array]:
    """Factor the second columns, and join the factors to the first, whose Q is I - V T V^H."""
    second = second - mm(v, mm(H(t), mm(H(v), second)))
    above, left = second[..., :WIDTH, :], second[..., WIDTH:, :]
    rest = factor_tall(left, outputs, factor, rows)
    right = jnp.concatenate([above, rest["r"]], axis=-2)
    values = {"r": jnp.concatenate([extend(done["r"], right.shape[-2], -2), right], axis=-1)}
    if "q" in outputs:
        q = jnp.concatenate([jnp.zeros_like(above), rest["q"]], axis=-2)
        q = q - mm(v, mm(t, mm(H(v[..., WIDTH:, :]), rest["q"])))
        values["q"] = jnp.concatenate([done["q"], q], axis=-1)
    if "h" in outputs or "tau" in outputs:
        values["tau"] = jnp.concatenate([done["tau"], rest["tau"]], axis=-1)
        right = jnp.concatenate([above, rest["h"]], axis=-2)
        values["h"] = jnp.concatenate([done["h"], right], axis=-1)
    return values


# ------------------------------------------------------------------------------------- one panel


class _Panel(NamedTuple):
    """A factorization of at most WIDTH columns."""

    q: Array  # (..., m, n); of the last tile alone if Q is not formed
    r: Array  # (..., n, n)
    lu: Array  # (..., n, n): of which reflectors and T are reconstructed


def _factor_panel(a: Array, factor: Factor, rows: int, *, form: bool) -> _Panel:
    n = a.shape[-1]
    levels: list[tuple[int, Array]] = []  # how many rows were cut, and Q of the tiles
    taus: list[Array] = []
    while a.shape[-2] > rows:
        tiles = _cut(a, _choose_tile(a.shape[-2], n, rows))
        if form:
            q, r, tau = factor(tiles, "q", "r", "tau")
        else:  # the leading rows of Q decide about signs all the same
            r, tau = factor(tiles, "r", "tau")
            (q,) = factor(tiles[..., :1, :, :], "q")
        levels.append((a.shape[-2], q))
        taus.append(tau[..., 0, :])
        a = r.reshape(*r.shape[:-3], -1, n)
    q, r, tau = factor(a, "q", "r", "tau")
    top = q[..., :n, :]
    for _, level in reversed(levels):
        top = mm(level[..., 0, :n, :], top)
    reflects = reduce(jnp.logical_or, (x != 0 for x in (*taus, tau)))
    signs, lu = find_lapack_signs(top, where(reflects, diagonal(r).real))
    signs = signs.astype(r.dtype)
    q, r = q * signs[..., None, :], r * signs[..., :, None]
    for m, level in reversed(levels) if form else ():
        product = mm(level, q.reshape(*level.shape[:-2], n, n))
        q = product.reshape(*product.shape[:-3], -1, n)[..., :m, :]
    return _Panel(q, r, lu)


def _choose_tile(m: int, n: int, rows: int) -> int:
    """Choose how many rows a tile has: at least 2 n, as otherwise the stack is no shorter."""
    for tile in range(rows, max(rows // 2, 2 * n) - 1, -1):
        if m % tile == 0:
            return tile  # nothing is padded, which would copy the matrix
    return rows


def _cut(a: Array, tile: int) -> Array:
    """Cut a matrix (..., m, n) into tiles (..., p, tile, n), the last one filled up with zeros."""
    *batch, m, n = a.shape
    count = -(-m // tile)
    return extend(a, count * tile, -2).reshape(*batch, count, tile, n)
