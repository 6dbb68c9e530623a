"""Least squares on NIST's reference data: as many digits as the best of NumPy and SciPy.

Source of `jaxqr/data/strd.json`: the Statistical Reference Datasets of NIST/ITL, linear regression
(public domain), with coefficients and sums of squares computed from the decimal data in exact
rational arithmetic; they agree with NIST's certified values in all digits printed there.
"""

import json
from importlib import resources

import numpy as np
import pytest
import scipy.linalg

import jaxqr
from meshes import mesh_of

SETS = json.loads(resources.files("jaxqr").joinpath("data/strd.json").read_text())["sets"]
RCOND = 1e-16  # nothing is cut off: Filip's eleven columns have a condition number of 1e15
ORDERS = 40
MARGIN = 0.7  # decimal digits, in the mean


def design(name):
    """The matrix and the observations of a set."""
    data = SETS[name]
    x, y, degree = np.asarray(data["x"]), np.asarray(data["y"]), data["degree"]
    if degree == "multiple":
        return np.column_stack([np.ones(len(x)), x]), y
    return (x[:, None] if degree is None else x[:, None] ** np.arange(degree + 1)), y


def digits(x, name):
    """The least number of decimal digits in which a coefficient agrees with the exact one."""
    exact = np.asarray(SETS[name]["coefficients"])
    assert np.isfinite(x).all()
    error = np.abs(x - exact) / np.where(exact == 0, 1, np.abs(exact))
    return -np.log10(max(error.max(), np.finfo(float).eps / 2))


def solutions(a, y):
    yield "jaxqr", np.asarray(jaxqr.lstsq(a, y, rcond=RCOND).x)
    yield "numpy", np.linalg.lstsq(a, y, rcond=RCOND)[0]
    yield "gelsy", scipy.linalg.lstsq(a, y, cond=RCOND, lapack_driver="gelsy")[0]


@pytest.mark.parametrize("name", SETS)
def test_as_many_digits_as_the_best_of_numpy_and_scipy(name):
    """In the mean over orders of the rows, which change the rounding errors and nothing else."""
    a, y = design(name)
    rng = np.random.default_rng(0)
    got = {"jaxqr": [], "numpy": [], "gelsy": []}
    for _ in range(ORDERS):
        order = rng.permutation(len(y))
        for library, x in solutions(a[order], y[order]):
            got[library].append(digits(x, name))
    mean = {library: np.mean(values) for library, values in got.items()}
    assert mean["jaxqr"] > max(mean["numpy"], mean["gelsy"]) - MARGIN, mean


@pytest.mark.parametrize("name", SETS)
def test_rank_and_sum_of_squares(name):
    a, y = design(name)
    x, residuals, rank = jaxqr.lstsq(a, y, rcond=RCOND)
    assert rank == a.shape[1]
    exact = SETS[name]["residual_sum_of_squares"]
    # the entries of a, the products and the sums of a x are rounded
    noise = np.finfo(float).eps * np.linalg.norm(np.abs(a) @ np.abs(x) + np.abs(y))
    assert abs(np.sqrt(residuals) - np.sqrt(exact)) < 4 * noise


@pytest.mark.parametrize("name", ["norris", "filip", "longley", "wampler1"])
def test_rows_on_four_devices_cost_no_digits_to_speak_of(name):
    a, y = design(name)
    rng, got = np.random.default_rng(0), []
    fill = -len(y) % 4
    with mesh_of("automatic", (4,)) as mesh:
        for _ in range(ORDERS // 2):
            order = rng.permutation(len(y))
            rows, right = np.pad(a[order], [(0, fill), (0, 0)]), np.pad(y[order], (0, fill))
            blocks = jaxqr.lstsq(rows, right, rcond=RCOND, axis_name="x", mesh=mesh).x
            whole = dict(solutions(a[order], y[order]))
            got.append([digits(x, name) for x in (np.asarray(blocks), *whole.values())])
    blocks, _, *others = np.mean(got, axis=0)
    assert blocks > max(others) - 1, got
