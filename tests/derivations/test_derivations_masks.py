"""Section 9 of `notebooks/derivations.md`: masks take the place of dynamic shapes."""

import numpy as np
import pytest

from jaxqr._lstsq import decomposition
from notation import H, close, on_the_rank_r_set, pinv, raw, rule
from own_rules import run

S, RCOND = 2, 1e-8


def operations(a, v, u, *, twice):
    """The decomposition's own operations: R and T in their triangles, r, tau of Z and the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decomposition, "is_factored_twice", lambda m, n: twice)
        found = decomposition.decompose(a, rcond=RCOND, pivoting=True)
    assert (found.factors.inner is not None) == twice
    values = found.solve(v), found.solve_adjoint(u), found.gram(u), found.null(u)
    return values, found.rank, found.z, found.factors.permute_back(u), found.factors.r


@rule("9.11")
@pytest.mark.parametrize(
    "m, n, r, twice", [(7, 4, 3, False), (7, 4, 4, False), (5, 5, 2, False), (7, 4, 3, True)]
)
def test_masks_in_place_of_dynamic_shapes_give_the_operations(draw, m, n, r, twice):
    A, _, _ = on_the_rank_r_set(draw, m, n, r)
    P, v, u = pinv(A, r), draw(m, S), draw(n, S)
    got, rank, (hz, tauz), _, R = run(operations, A, v, u, twice=twice)
    assert rank == r
    close(got, (P @ v, H(P) @ u, P @ (H(P) @ u), u - P @ (A @ u)), 1e-12)
    if r < n:
        live = np.arange(n) < r
        close((hz, tauz), raw(H(live[:, None] * np.triu(R))), 1e-12)
        assert not np.any(tauz[r:]) and not np.any(np.triu(hz)[:, r:])
    else:
        assert not np.any(hz)
