"""What is checked and raced on a device, most important first."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.cases import WORKS, Cell, Work

PEERS = ("jnp", "torch", "cupy")

_WORKS = {name: replace(work, peers=PEERS) for name, work in WORKS.items()} | {
    "r": Work("r", "r", False, "R alone", PEERS),
    # PyTorch's only driver there takes full rank for granted, so it counts in the next one alone
    "lstsq": replace(WORKS["lstsq"], peers=("jnp", "cupy")),
    "full_rank": Work("full_rank", "full_rank", False, "Least squares, full rank given", PEERS),
}


def _cells(work: str, dtype: str, *shapes: tuple[int, ...]) -> list[Cell]:
    return [Cell(_WORKS[work], shape, dtype) for shape in shapes]


RACES: dict[str, list[Cell]] = {
    "small batches": _cells(
        *("qr", "f4", (100000, 3, 3), (100000, 4, 4), (20000, 8, 8), (10000, 16, 16)),
        *((4096, 32, 32), (10000, 32, 8), (10000, 64, 16), (1000, 256, 32), (1024, 64, 64)),
    ),
    "gradients": _cells(
        *("qr_grad", "f4", (20000, 4, 4), (4096, 32, 32), (64, 256, 256)),
        *((1 << 18, 32), (2048, 2048)),
    ),
    # jaxlib takes a batched routine for all of them
    "medium batches": _cells(
        *("qr", "f4", (2, 256, 256), (64, 256, 256), (16, 512, 512), (8, 1024, 1024)),
    ),
    "pivoted": [
        *_cells("pivoted", "f4", (1024, 16, 16), (256, 256), (1024, 1024)),
        *_cells("randomized", "f4", (2048, 2048)),
    ],
    "least squares": [
        *_cells("lstsq", "f4", (4096, 32, 8), (1 << 18, 32), (1024, 1024)),
        *_cells("full_rank", "f4", (4096, 32, 8), (1 << 18, 32), (1024, 1024)),
    ],
    "single": _cells(
        *("qr", "f4", (32, 32), (256, 256), (1024, 1024), (4096, 4096)),
        *((1 << 20, 8), (1 << 18, 32), (1 << 16, 128)),
    ),
    "double and complex": [
        *_cells("qr", "f8", (10000, 16, 16)),
        *_cells("qr", "c8", (4096, 32, 32)),
        *_cells("qr", "c16", (10000, 4, 4)),
        *_cells("qr_grad", "f8", (4096, 32, 32)),
        *_cells("qr", "f8", (1024, 1024), (4096, 4096), (1 << 18, 32)),
    ],
    "R alone": _cells("r", "f4", (4096, 32, 32), (64, 256, 256), (4096, 4096)),
}

# Of the triangular solves in gradients, against products of the same size.
SOLVES = ((4096, 32, 32), (64, 256, 256), (4096, 4096))

# What is only checked: each kernel's shapes, their edges and what lies between.
_CHECKED_SHAPES = (
    *((1, 1), (3, 3, 3), (5, 4, 3), (5, 3, 5), (3, 16, 7), (2, 32, 32), (129, 8, 8)),
    *((2, 33, 32), (2, 65, 40), (3, 32, 40), (2, 130, 130), (1000, 20), (2, 600, 32), (20, 1000)),
)
# Should the time run out, both precisions and complex numbers have had their turn.
_DTYPES = (("f4", "c16"), ("f8", "c8"))


def checked() -> list[Cell]:
    """The cells of the table of ratios."""
    works: tuple[tuple[str, tuple[int, ...]], ...] = (
        *(("qr", shape) for shape in _CHECKED_SHAPES),
        *(("qr_grad", shape) for shape in ((5, 4, 3), (2, 32, 32), (2, 65, 40), (3, 16, 24))),
        *(("pivoted", shape) for shape in ((5, 4, 3), (2, 32, 32), (2, 65, 40), (130, 100))),
        *(("lstsq", shape) for shape in ((5, 8, 4), (2, 65, 40), (3, 16, 24))),
    )
    return [
        Cell(_WORKS[work], shape, dtype)
        for dtypes in _DTYPES
        for work, shape in works
        for dtype in dtypes
    ]


def small(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape of the same kind that a CPU has done with at once: batched, square, tall or wide."""
    *batch, m, n = shape
    columns = min(n, 4)
    rows = columns if m == n else 2 * columns
    return (*(min(size, 2) for size in batch), rows, columns)


def dry() -> dict[str, list[Cell]]:
    """The races in small: the first of each part."""
    return {part: [replace(cells[0], shape=small(cells[0].shape))] for part, cells in RACES.items()}
