"""The grid: which works are raced, on which shapes and in which dtypes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

# "r": R alone; "full_rank": least squares without a look at the rank.
Kind = Literal["qr", "r", "lq", "pivoted", "randomized", "lstsq", "full_rank"]


@dataclass(frozen=True)
class Aim:
    """What the time of the fastest peer over that of jaxqr is to reach.

    Attributes:
      mean: the geometric mean over the cells of the grid.
      worst: every single cell.
    """

    mean: float
    worst: float


@dataclass(frozen=True)
class Work:
    """One kind of computation, or the gradient of a loss of its results.

    Attributes:
      name: on the command line and in files.
      kind: what is computed.
      gradient: whether that of a loss is computed too.
      title: the heading of its table.
      peers: whose times count against jaxqr's; others stand beside them for comparison.
    """

    name: str
    kind: Kind
    gradient: bool
    title: str
    peers: tuple[str, ...] = ("jnp", "torch", "scipy")

    @property
    def pivoted(self) -> bool:
        """Whether columns are permuted."""
        return self.kind in ("pivoted", "randomized")

    @property
    def least_squares(self) -> bool:
        """Whether there is a right-hand side."""
        return self.kind in ("lstsq", "full_rank")


WORKS = {
    work.name: work
    for work in (
        Work("qr", "qr", False, "QR"),
        Work("qr_grad", "qr", True, "QR, value and gradient of a loss of Q and R"),
        Work("lq", "lq", False, "LQ"),
        Work("lq_grad", "lq", True, "LQ, value and gradient of a loss of L and Q"),
        Work("pivoted", "pivoted", False, "Pivoted QR"),
        Work(
            "pivoted_grad", "pivoted", True, "Pivoted QR, value and gradient of a loss of Q and R"
        ),
        Work("randomized", "randomized", False, "Randomized pivoting, against exact"),
        Work("lstsq", "lstsq", False, "Least squares", ("jnp", "torch")),
        Work(
            "lstsq_grad",
            "lstsq",
            True,
            "Least squares, value and gradient of |x|^2",
            ("jnp", "torch"),
        ),
    )
}

AIMS = {
    "qr": Aim(4.0, 1.1),
    "qr_grad": Aim(2.5, 1.0),
    "lq": Aim(4.0, 1.1),
    "pivoted": Aim(2.0, 1.0),
    "randomized": Aim(2.5, 1.0),
    "lstsq": Aim(2.0, 1.0),
    "lstsq_grad": Aim(5.0, 1.0),
}

DTYPES = ("f4", "f8", "c16")

SHAPES: tuple[tuple[int, ...], ...] = (
    (10000, 3, 3),
    (10000, 4, 4),
    (10000, 8, 4),
    (4000, 9, 6),
    (1000, 16, 8),
    (1000, 32, 32),
    (100, 64, 64),
    (100, 128, 32),
    (128, 128),
    (256, 256),
    (512, 512),
    (1024, 1024),
    (2048, 2048),
    (4096, 64),
    (65536, 32),
    (64, 4096),
    (512, 2048),
    (5, 4096, 16),
)

# Pivoting costs several times as much and scales alike in every regime: fewer shapes tell it all.
PIVOTED_SHAPES: tuple[tuple[int, ...], ...] = (
    (10000, 4, 4),
    (1000, 32, 32),
    (256, 256),
    (1024, 1024),
    (2048, 2048),
    (4096, 64),
    (64, 4096),
)

# The gradients of LQ and of pivoted QR are QR's but for a transpose or a permutation.
FEW_SHAPES = tuple(shape for shape in PIVOTED_SHAPES if shape != (2048, 2048))

# It is for large matrices: small ones and batches get the exact pivots.
RANDOMIZED_SHAPES: tuple[tuple[int, ...], ...] = (
    (512, 512),
    (1024, 1024),
    (2048, 2048),
    (1000, 500),
    (4096, 512),
    (512, 4096),
)

# Of the matrix; there is one right-hand side.
LSTSQ_SHAPES: tuple[tuple[int, ...], ...] = (
    (10000, 8, 4),
    (50, 10),
    (1000, 50),
    (10000, 100),
    (1000, 500),
    (100, 1000),
)

_SHAPES_OF = {
    "pivoted": PIVOTED_SHAPES,
    "pivoted_grad": FEW_SHAPES,
    "lq_grad": FEW_SHAPES,
    "randomized": RANDOMIZED_SHAPES,
    "lstsq": LSTSQ_SHAPES,
    "lstsq_grad": LSTSQ_SHAPES,
}

_DTYPES_OF = {"randomized": ("f4", "f8"), "lstsq": ("f4", "f8"), "lstsq_grad": ("f4", "f8")}

# One cell for each regime: tiny and small batch, square, tall, wide.
QUICK = re.compile(
    r"""
      qr/(10000x4x4|1000x32x32|512x512|4096x64|64x4096)/f8
    | qr_grad/(10000x4x4|1000x32x32|512x512|4096x64)/f8
    | lq/64x4096/f8
    | lq_grad/64x4096/f8
    | pivoted/(1000x32x32|256x256)/f8
    | pivoted_grad/256x256/f8
    | randomized/1024x1024/f8
    | lstsq/1000x50/f8
    | lstsq_grad/1000x50/f8
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Cell:
    """One entry of the grid: a work on arrays of one shape and dtype."""

    work: Work
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> str:
        """The shape as it is printed, ``10000x4x4``."""
        return "x".join(map(str, self.shape))

    def __str__(self) -> str:
        return f"{self.work.name}/{self.size}/{self.dtype}"

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Reads what `str` returned."""
        work, size, dtype = text.split("/")
        return cls(WORKS[work], tuple(map(int, size.split("x"))), dtype)


def grid(
    works: Iterable[str] = tuple(WORKS),
    dtypes: Iterable[str] | None = None,
    shapes: Iterable[tuple[int, ...]] | None = None,
) -> list[Cell]:
    """Lists the cells of the grid, work by work.

    Args:
      works: names of works, keys of `WORKS`.
      dtypes: NumPy type codes of every work; by default each work's own list.
      shapes: the shapes of every work; by default each work's own list.

    Returns:
      The cells, in the order in which they are raced and printed.
    """
    fixed_shapes = None if shapes is None else tuple(shapes)
    fixed_dtypes = None if dtypes is None else tuple(dtypes)
    return [
        Cell(work, shape, dtype)
        for work in map(WORKS.__getitem__, works)
        for shape in (_SHAPES_OF.get(work.name, SHAPES) if fixed_shapes is None else fixed_shapes)
        for dtype in (_DTYPES_OF.get(work.name, DTYPES) if fixed_dtypes is None else fixed_dtypes)
    ]
