"""The rules of section 11 of `notebooks/derivations.md`: matrices in blocks of rows.

Values are compared with LAPACK's of the whole matrix, derivatives with the rules of the whole
matrix, which other tests compare with differences.
"""

import zlib

import numpy as np
import pytest

from derivations import (
    Draw,
    H,
    close,
    deep_jvp,
    deep_vjp,
    error,
    fd,
    ip,
    over,
    over_h,
    qr,
    rule,
    upp,
)
from derivations import cpl as cpl_of

# rows of the blocks: even, short (fewer rows than columns), one alone, and one with no rows
BLOCKS = [(5, 5, 5), (2, 2, 2, 2), (9,), (4, 0, 3, 1, 6)]
N, S = 4, 2
blocks = pytest.mark.parametrize("rows", BLOCKS, ids=str)


@pytest.fixture(params=["real", "complex"])
def draw(request):
    return Draw(request.param, zlib.crc32(request.node.name.encode()))


def cut(X, rows):
    return np.split(X, np.cumsum(rows)[:-1])


def positive(Q, R):
    sign = np.where(np.diagonal(R).real < 0, -1, 1)
    return Q * sign, sign[:, None] * R


def solve(R, X):
    """R^{-1} X."""
    return H(over_h(H(X), R))


def solve_adjoint(R, X):
    """R^{-H} X."""
    return H(over(H(X), R))


def merged(stacks):
    """Factor blocks below each other in pairs, up to one: the triangle, and each block's factor."""
    if len(stacks) == 1:
        Q, R = qr(stacks[0])
        return R, [Q]
    half = len(stacks) // 2
    parts = [merged(stacks[:half]), merged(stacks[half:])]
    W, R = qr(np.vstack([r for r, _ in parts]))
    pieces = cut(W, [len(r) for r, _ in parts])
    return R, [q @ w for (_, qs), w in zip(parts, pieces, strict=True) for q in qs]


@rule("11.1")
@blocks
def test_triangles_reduced_at_once_or_in_pairs_give_the_qr_of_the_whole(draw, rows):
    A = draw.matrix(sum(rows), N)
    Q, R = positive(*qr(A))
    local = [qr(X) for X in cut(A, rows)]
    W, R0 = qr(np.vstack([r for _, r in local]))
    at_once = [q @ w for (q, _), w in zip(local, cut(W, [len(r) for _, r in local]), strict=True)]
    R1, in_pairs = merged(cut(A, rows))
    for got_q, got_r in ((at_once, R0), (in_pairs, R1)):
        got_q, got_r = positive(np.vstack(got_q), got_r)
        close(got_q, Q, 1e-13)
        close(got_r, R, 1e-13)


@rule("11.2")
@blocks
def test_the_tangent_has_one_sum_over_the_blocks(draw, rows):
    A, dA = draw.matrix(sum(rows), N), draw(sum(rows), N)
    Q, R = positive(*qr(A))
    parts = list(zip(cut(Q, rows), cut(dA, rows), strict=True))
    Psi = upp(sum(H(q) @ over(d, R) for q, d in parts))
    want = deep_jvp(Q, R, dA)
    close(np.vstack([over(d, R) - q @ Psi for q, d in parts]), want[0], 1e-12)
    close(Psi @ R, want[1], 1e-12)


@rule("11.3")
@blocks
def test_the_cotangent_has_one_sum_over_the_blocks(draw, rows):
    Q, R = positive(*qr(draw.matrix(sum(rows), N)))
    Qbar, Rbar = draw(*Q.shape), np.triu(draw(N, N))
    parts = list(zip(cut(Q, rows), cut(Qbar, rows), strict=True))
    M = R @ H(Rbar) - sum(H(c) @ q for q, c in parts)
    got = np.vstack([over_h(c + q @ cpl_of(M), R) for q, c in parts])
    close(got, deep_vjp(Q, R, Qbar, Rbar), 1e-12)


@rule("11.4")
@blocks
@pytest.mark.parametrize("rank", [N, 2])
def test_the_operations_on_blocks_are_those_of_the_whole_at_every_rank(draw, rows, rank):
    A = draw(sum(rows), rank) @ draw(rank, N)
    Q, R = positive(*qr(A))
    v, u = draw(sum(rows), S), draw(N, S)
    A_inv, R_inv = (np.linalg.pinv(X, rcond=1e-10) for X in (A, R))
    sums = sum(H(q) @ x for q, x in zip(cut(Q, rows), cut(v, rows), strict=True))
    close(R_inv @ sums, A_inv @ v, 1e-10)
    close(np.vstack([q @ (H(R_inv) @ u) for q in cut(Q, rows)]), H(A_inv) @ u, 1e-10)
    close(R_inv @ (H(R_inv) @ u), np.linalg.pinv(H(A) @ A, rcond=1e-10) @ u, 1e-8)
    close(u - R_inv @ (R @ u), u - A_inv @ (A @ u), 1e-10)


@rule("11.5")
@blocks
def test_least_squares_sums_only_blocks_of_the_right_hand_sides_size(draw, rows):
    m = sum(rows)
    A, dA, b, db = draw.matrix(m, N), draw(m, N), draw(m, S), draw(m, S)
    Q, R = positive(*qr(A))
    x, xbar = np.linalg.lstsq(A, b, rcond=None)[0], draw(N, S)
    rest = b - A @ x
    parts = list(zip(*(cut(X, rows) for X in (Q, dA, db, rest)), strict=True))
    c = sum(H(q) @ (d - e @ x) for q, e, d, _ in parts)
    g = sum(H(e) @ r for _, e, _, r in parts)
    dx = solve(R, c + solve_adjoint(R, g))
    want = fd(
        lambda z: np.linalg.lstsq(z[:, :N], z[:, N:], rcond=None)[0],
        *map(np.hstack, ((A, b), (dA, db))),
    )
    close(dx, want, 1e-8)
    w = solve_adjoint(R, xbar)
    bbar = np.vstack([q @ w for q, *_ in parts])
    Abar = np.vstack([r @ H(solve(R, w)) - (q @ w) @ H(x) for q, _, _, r in parts])
    gap = ip(xbar, dx) - ip(bbar, db) - ip(Abar, dA)
    assert abs(gap) < 1e-11 * max(1, abs(ip(xbar, dx)))


@rule("11.6")
@blocks
def test_shares_have_a_local_transposition_and_any_tangents_with_the_right_sum(draw, rows):
    A, dA, v = draw.matrix(sum(rows), N), draw(sum(rows), N), draw(sum(rows), S)

    def shares(A):
        Q, R = positive(*qr(A))
        pairs = zip(cut(Q, rows), cut(v, rows), strict=True)
        return Q, R, [solve(R, H(q) @ x) for q, x in pairs]

    def x(A):
        return np.linalg.lstsq(A, v, rcond=None)[0]

    Q, R, found = shares(A)
    close(sum(found), x(A), 1e-12)
    for q, x_i, share in zip(cut(Q, rows), cut(v, rows), found, strict=True):
        u = draw(N, S)  # each device may be given another cotangent
        assert abs(ip(u, share) - ip(q @ solve_adjoint(R, u), x_i)) < 1e-11
    (own,) = fd(lambda A: np.stack(shares(A)[2]), A, dA)
    (dx,) = fd(x, A, dA)
    equal = np.stack([dx / len(rows)] * len(rows))
    assert len(rows) == 1 or error(equal, own) > 1e-3
    close(equal.sum(0), own.sum(0), 1e-8)
