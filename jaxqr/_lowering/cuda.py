"""Which shapes the package's own kernels for CUDA serve."""

import os

import numpy as np

PANEL_ROWS = 1024  # the most rows of a panel


def available() -> bool:
    """Say whether the kernels are in use."""
    return os.environ.get("JAXQR_GPU", "") != "0"


def serves_panel(m: int, dtype: np.dtype) -> bool:
    """Say whether a kernel factors a panel of `m` rows."""
    del dtype
    return available() and m <= PANEL_ROWS


def rows_limit(n: int, dtype: np.dtype) -> int:
    """Say how many rows one kernel holds of a matrix of `n` columns, WIDTH at the most."""
    words = np.dtype(dtype).itemsize // 4
    return 512 if n * words > 32 else PANEL_ROWS
