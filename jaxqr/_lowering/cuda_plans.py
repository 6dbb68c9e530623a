"""With which launch of which CUDA kernel each shape is served: plain numbers, no arrays."""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from jaxqr._lowering.cuda_instances import (
    ITEM_SIZES,
    LANE_SIZES,
    LANE_THREADS,
    LEAST_SQUARES_THREADS,
    PIVOT_COLUMN_THREADS,
    PIVOT_ROW_THREADS,
    ROW_SIZES,
    ROW_THREADS,
    ROWS_OF_THREAD,
    WARP,
    limit_rows_of_thread,
    name_kernel,
)

SHARED_MEMORY = 48 << 10  # bytes that a block may have on every device


class Launch(NamedTuple):
    """How a kernel is called for matrices of one shape."""

    kernel: str
    threads: int  # of a block
    per_block: int  # matrices
    shared: int  # bytes of dynamic shared memory of a block
    # where the kernel expects each operand, then each result; -1 for an operand that a result
    # overwrites
    slots: tuple[int, ...]
    sizes: tuple[int, ...]  # of a matrix, and flags: the kernel's own
    blocks: int = 1  # for those matrices


class Form(NamedTuple):
    """What of a QR is asked for, and how matrices lie."""

    outputs: tuple[str, ...]
    pivoted: bool = False
    transposed: bool = False
    free: int | None = None  # how many columns, the leading ones, are pivoted; None: all of them


def round_up(count: int) -> int:
    """Round a number of bytes up to what every entry of every dtype may begin at."""
    return -(-count // 16) * 16


def _count_tile_entries(rows: int, cols: int) -> int:
    """Count the entries of a matrix in shared memory, by rows or columns (``Tiles``)."""
    return max(rows * (cols | 1), cols * (rows | 1))


def _find_size(sizes: Sequence[int], least: int) -> int | None:
    return next((size for size in sizes if least <= size), None)


# ------------------------------------------------------------------------ lanes: m, n <= 32

_LANE_SLOTS = {"q": 1, "q_full": 2, "r": 3, "h": 4, "tau": 5, "p": 6}


def plan_lanes(m: int, n: int, dtype: str, form: Form) -> Launch | None:
    """Plan the QR of matrices of at most 32 rows and columns: a matrix on some lanes of a warp."""
    size = _find_size(LANE_SIZES, max(m, n))
    if size is None:
        return None
    teams = WARP // size
    columns_of_q = m if "q_full" in form.outputs else min(m, n)
    entries = max(_count_tile_entries(m, n), _count_tile_entries(m, columns_of_q))
    warp_bytes = round_up(teams * entries * ITEM_SIZES[dtype])
    warps = LANE_THREADS // WARP
    while warps > 1 and warps * warp_bytes > SHARED_MEMORY:
        warps //= 2
    return Launch(
        name_kernel("lanes", dtype, size, pivoted=form.pivoted),
        WARP * warps,
        teams * warps,
        warps * warp_bytes,
        (0, *(_LANE_SLOTS[name] for name in form.outputs)),
        (m, n, int(form.transposed), warp_bytes, n if form.free is None else form.free),
    )


# --------------------------------------------------------- rows: n <= 32, a block a matrix

_ROW_SLOTS = {"q": 1, "r": 2, "h": 3, "tau": 4, "p": 5, "t": 6}


def limit_rows(n: int, dtype: str) -> int:
    """Find the most rows that a matrix of n columns may have."""
    columns = _find_size(ROW_SIZES, n)
    return 0 if columns is None else ROW_THREADS * limit_rows_of_thread(columns, dtype)


def plan_rows(m: int, n: int, dtype: str, form: Form) -> Launch | None:
    """Plan the QR of deep matrices of at most 32 columns: a matrix on a block.

    A thread has as many rows as it can, which makes the least work of a large batch.
    """
    columns = _find_size(ROW_SIZES, n)
    if columns is None or m < n or m > limit_rows(n, dtype) or "q_full" in form.outputs:
        return None
    most = limit_rows_of_thread(columns, dtype)
    rows = next((r for r in ROWS_OF_THREAD if r <= most and m <= WARP * r), most)
    slots = 0, *(_ROW_SLOTS[name] for name in form.outputs)
    flags = int(form.transposed), 0, n if form.free is None else form.free
    return _plan_block(m, n, dtype, (columns, rows), slots, flags, pivoted=form.pivoted)


def plan_panel(m: int, n: int, dtype: str) -> Launch | None:
    """Plan the QR of a panel held by columns, quick for one matrix: rows are on many threads."""
    columns = _find_size(ROW_SIZES, n)
    if columns is None or m > limit_rows(n, dtype):
        return None
    rows = next(r for r in ROWS_OF_THREAD if m <= ROW_THREADS * r)
    slots = 0, 7, *(_ROW_SLOTS[name] for name in ("h", "tau", "t"))
    return _plan_block(m, n, dtype, (columns, rows), slots, (1, 1, n))


def _plan_block(
    m: int,
    n: int,
    dtype: str,
    size: tuple[int, int],
    slots: tuple[int, ...],
    flags: tuple[int, ...],
    pivoted: bool = False,
) -> Launch:
    columns, rows = size
    warps = -(-m // (WARP * rows))
    return Launch(
        name_kernel("rows", dtype, *size, pivoted=pivoted),
        WARP * warps,
        1,
        _count_row_bytes(columns, warps, dtype),
        slots,
        (m, n, *flags),
    )


def _count_row_bytes(columns: int, warps: int, dtype: str) -> int:
    """Count the shared memory of a block, as ``RowMemory`` in ``row_matrix.cuh`` divides it."""
    size = ITEM_SIZES[dtype]
    real = size // 2 if dtype.startswith("complex") else size
    square = columns * (columns + 16 // size) * size
    scratch = square + columns * (real + size)
    parts = 1 << (warps - 1).bit_length()
    eliminating = (2 * (parts + 1) + warps) * columns * size + 16 * parts
    piece = round_up(WARP * (5 if size == 16 else 9) * size)
    return scratch + max(eliminating, warps * piece, square)


# -------------------------------------------------------------- the end of least squares


def plan_least_squares(
    n: int, s: int, rows: int, dtype: str, *, pivoted: bool, rcond: float | None
) -> Launch | None:
    """Plan the way from the triangle (rows, n + s) of [A b] to x, residuals and rank."""
    size = _find_size(LANE_SIZES, max(n, s))
    if size is None:
        return None
    teams = WARP // size
    work = 3 * _count_tile_entries(n, n) + 2 * _count_tile_entries(n, s)
    entries = max(_count_tile_entries(rows, n + s), work)
    warp_bytes = round_up(teams * entries * ITEM_SIZES[dtype])
    warps = LEAST_SQUARES_THREADS // WARP if 2 * warp_bytes <= SHARED_MEMORY else 1
    if warps * warp_bytes > SHARED_MEMORY:
        return None
    (bits,) = struct.unpack("<Q", struct.pack("<d", -1.0 if rcond is None else rcond))
    parts = tuple(bits >> shift & (1 << 22) - 1 for shift in (0, 22, 44))
    return Launch(
        name_kernel("least_squares", dtype, size),
        WARP * warps,
        teams * warps,
        warps * warp_bytes,
        (0, 1, 2, 3, 4) if pivoted else (0, 2, 3, 4),
        (n, s, rows, warp_bytes, *parts),
    )


# ----------------------------------------------------------------- the signs of a tall QR


def plan_signs(n: int, dtype: str) -> Launch | None:
    """Plan the signs that make a QR LAPACK's, and the triangles of the leading square of its Q."""
    shared = round_up(_count_tile_entries(n, n) * ITEM_SIZES[dtype])
    if shared > SHARED_MEMORY:
        return None
    return Launch(name_kernel("signs", dtype), WARP, 1, shared, (0, 1, 2, 3), (n, shared))


# ---------------------------------------------------- steps of pivoting a large matrix

# What the two kernels of a step are given, by slots; and what each of them overwrites.
PIVOT_STATE = (
    *("at", "v", "f", "r", "norm", "exact", "place", "tau", "counter", "pivot", "products"),
)
COLUMN_WRITES = ("v", "r", "place", "tau", "counter", "pivot", "products")
ROW_WRITES = ("f", "r", "norm", "exact")


def plan_pivot_column(m: int, n: int, width: int, dtype: str) -> Launch:
    """Plan the choice of a pivot among n columns, and its reflector."""
    return Launch(
        name_kernel("pivot_column", dtype),
        min(PIVOT_COLUMN_THREADS, WARP * -(-max(m, n) // WARP)),
        1,
        16 * WARP,  # what each warp may have to say
        _name_slots(COLUMN_WRITES),
        (m, n, width, 1),
    )


def plan_pivot_row(m: int, n: int, width: int, dtype: str) -> Launch:
    """Plan the row of R that follows, and the columns' norms."""
    chunks = -(-n // (PIVOT_ROW_THREADS // WARP))
    name, sizes = name_kernel("pivot_row", dtype), (m, n, width, chunks)
    return Launch(name, PIVOT_ROW_THREADS, 1, 0, _name_slots(ROW_WRITES), sizes, chunks)


def _name_slots(writes: Sequence[str]) -> tuple[int, ...]:
    """Name the slots of the whole state, and of what is overwritten."""
    operands = (-1 if name in writes else slot for slot, name in enumerate(PIVOT_STATE))
    return (*operands, *map(PIVOT_STATE.index, writes))
