"""The benchmark program runs, finds the package's answers right and notices wrong ones."""

import jax
import numpy as np
import pytest

import jaxqr
from benchmarks import run
from benchmarks.timing import Schedule

BRIEF = Schedule(rounds=1, block=0.01, pause=0.0)


@pytest.fixture(autouse=True)
def _as_users_have_it():
    """The benchmark is a program of its own: it does not run in the tests' strict world."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def test_every_work_is_checked_and_timed():
    works = ["qr", "qr_grad", "lq", "lq_grad", "pivoted", "pivoted_grad"]
    rows = run([(20, 8, 4)], works, ["f8"], BRIEF)
    assert [str(row.cell) for row in rows] == [f"{work}/20x8x4/f8" for work in works]
    for row in rows:
        assert row.results["jaxqr"].status == "ok"
        assert row.results["jaxqr"].seconds > 0


def test_a_wrong_answer_is_not_timed(monkeypatch):
    right = jaxqr.qr

    def wrong(a, *args, **options):
        q, r = right(a, *args, **options)
        return q * np.float64(1 + 1e-9), r

    monkeypatch.setattr(jaxqr, "qr", wrong)
    (row,) = run([(20, 8, 4)], ["qr"], ["f8"], BRIEF)
    assert row.results["jaxqr"].status == "wrong"
