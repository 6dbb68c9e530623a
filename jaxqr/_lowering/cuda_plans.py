"""Which CUDA kernels there are, and with which launch each shape is served.

The kernels are templates in ``native/gpu``. An instance of one, for a dtype and a size, is a file
of its own, so that a driver compiles what a program uses and nothing else. The build makes these
files from the list here, which is why this module imports nothing but the standard library.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

SHARED_MEMORY = 48 << 10  # bytes that a block may have on every device
WARP = 32  # threads
MOST_COLUMNS = 32  # that a kernel factors as a whole

# The dtypes' names in those of instances, and their C++ types.
DTYPES = {
    "float32": ("f32", "float"),
    "float64": ("f64", "double"),
    "complex64": ("c64", "Complex<float>"),
    "complex128": ("c128", "Complex<double>"),
}
ITEM_SIZES = {"float32": 4, "float64": 8, "complex64": 8, "complex128": 16}


class Instance(NamedTuple):
    """A kernel as it is compiled."""

    name: str
    threads: int  # the most that a block may have
    template: str  # of C++, with its arguments


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


def list_instances() -> list[Instance]:
    """List all instances."""
    return [instance for make in _INSTANCES for instance in make()]


# ------------------------------------------------------------------------ lanes: m, n <= 32

LANE_SIZES = (4, 8, 16, 32)
LANE_THREADS = 128
_LANE_SLOTS = {"q": 1, "q_full": 2, "r": 3, "h": 4, "tau": 5, "p": 6}


def _lane_instances() -> list[Instance]:
    return [
        Instance(
            f"{_name_lanes(pivoted)}_{letters}_{size}",
            LANE_THREADS,
            f"lanes<{scalar}, {size}, {str(pivoted).lower()}>",
        )
        for letters, scalar in DTYPES.values()
        for size in LANE_SIZES
        for pivoted in (False, True)
    ]


def _name_lanes(pivoted: bool) -> str:
    return "lanes_pivoted" if pivoted else "lanes"


def plan_lanes(
    m: int,
    n: int,
    dtype: str,
    outputs: Sequence[str],
    *,
    pivoted: bool,
    transposed: bool,
    free: int | None = None,
) -> Launch | None:
    """Plan the QR of matrices of at most 32 rows and columns: a matrix on some lanes of a warp.

    With `free` only so many columns, the leading ones, are pivoted; the others stay behind them.
    """
    size = next((size for size in LANE_SIZES if max(m, n) <= size), None)
    if size is None:
        return None
    teams = WARP // size
    columns_of_q = m if "q_full" in outputs else min(m, n)
    entries = max(_count_tile_entries(m, n), _count_tile_entries(m, columns_of_q))
    warp_bytes = round_up(teams * entries * ITEM_SIZES[dtype])
    warps = LANE_THREADS // WARP
    while warps > 1 and warps * warp_bytes > SHARED_MEMORY:
        warps //= 2
    return Launch(
        f"{_name_lanes(pivoted)}_{DTYPES[dtype][0]}_{size}",
        WARP * warps,
        teams * warps,
        warps * warp_bytes,
        (0, *(_LANE_SLOTS[name] for name in outputs)),
        (m, n, int(transposed), warp_bytes, n if free is None else free),
    )


def _count_tile_entries(rows: int, cols: int) -> int:
    """Count the entries of a matrix in shared memory, by rows or columns (``Tiles``)."""
    return max(rows * (cols | 1), cols * (rows | 1))


# --------------------------------------------------------- rows: n <= 32, a block a matrix

ROW_THREADS = 256


def limit_rows(n: int, dtype: str) -> int:
    """Find the most rows that a matrix of n columns may have."""
    columns = next((size for size in (8, 16, 32) if n <= size), None)
    if columns is None:
        return 0
    return ROW_THREADS * min(4, 128 * 4 // (columns * ITEM_SIZES[dtype]))


# -------------------------------------------------------------- the end of least squares

_SMALL_THREADS = 64


def _least_squares_instances() -> list[Instance]:
    return [
        Instance(
            f"least_squares_{letters}_{size}", _SMALL_THREADS, f"least_squares<{scalar}, {size}>"
        )
        for letters, scalar in DTYPES.values()
        for size in LANE_SIZES
    ]


def plan_least_squares(
    n: int, s: int, rows: int, dtype: str, *, pivoted: bool, rcond: float | None
) -> Launch | None:
    """Plan the way from the triangle (rows, n + s) of [A b] to x, residuals and rank."""
    size = next((size for size in LANE_SIZES if max(n, s) <= size), None)
    if size is None:
        return None
    teams = WARP // size
    work = 3 * _count_tile_entries(n, n) + 2 * _count_tile_entries(n, s)
    entries = max(_count_tile_entries(rows, n + s), work)
    warp_bytes = round_up(teams * entries * ITEM_SIZES[dtype])
    warps = _SMALL_THREADS // WARP if 2 * warp_bytes <= SHARED_MEMORY else 1
    if warps * warp_bytes > SHARED_MEMORY:
        return None
    (bits,) = struct.unpack("<Q", struct.pack("<d", -1.0 if rcond is None else rcond))
    parts = tuple(bits >> shift & (1 << 22) - 1 for shift in (0, 22, 44))
    slots = (0, 1, 2, 3, 4) if pivoted else (0, 2, 3, 4)
    return Launch(
        f"least_squares_{DTYPES[dtype][0]}_{size}",
        WARP * warps,
        teams * warps,
        warps * warp_bytes,
        slots,
        (n, s, rows, warp_bytes, *parts),
    )


# ----------------------------------------------------------------- the signs of a tall QR


def _signs_instances() -> list[Instance]:
    return [
        Instance(f"signs_{letters}", WARP, f"signs<{scalar}>")
        for letters, scalar in DTYPES.values()
    ]


def plan_signs(n: int, dtype: str) -> Launch | None:
    """Plan the signs that make a QR LAPACK's, from the leading square of its Q."""
    shared = round_up(_count_tile_entries(n, n) * ITEM_SIZES[dtype])
    if shared > SHARED_MEMORY:
        return None
    return Launch(f"signs_{DTYPES[dtype][0]}", WARP, 1, shared, (0, 1, 2), (n, shared))


# ------------------------------------- tangents and cotangents (cuda_derivative_plans.py)

DERIVATIVE_SIZES = (4, MOST_COLUMNS)  # the most rows and columns; rows may be more than 32
DERIVATIVE_THREADS = 128
# Said of larger blocks, the compiler takes up to 128 registers where it would rather spill some than
# have one block less.
_SAID_THREADS = 512


def _derivative_instances() -> list[Instance]:
    return [
        Instance(
            f"{name}_{letters}_{size}",
            _SAID_THREADS if size > 4 and letters != "c128" else DERIVATIVE_THREADS,
            f"{name}<{scalar}, {size}>",
        )
        for name in ("qr_jvp", "qr_vjp")
        for letters, scalar in DTYPES.values()
        for size in DERIVATIVE_SIZES
    ]


# ---------------------------------------------------- steps of pivoting a large matrix

_COLUMN_THREADS, _ROW_THREADS = 512, 256


def _pivot_instances() -> list[Instance]:
    return [
        instance
        for letters, scalar in DTYPES.values()
        for instance in (
            Instance(f"pivot_column_{letters}", _COLUMN_THREADS, f"pivot_column<{scalar}>"),
            Instance(f"pivot_row_{letters}", _ROW_THREADS, f"pivot_row<{scalar}>"),
        )
    ]


# What the two kernels of a step are given, by slots; those that each of them overwrites.
PIVOT_STATE = (
    *("at", "v", "f", "r", "norm", "exact", "place", "tau", "counter", "pivot", "products"),
)
COLUMN_WRITES = ("v", "r", "place", "tau", "counter", "pivot", "products")
ROW_WRITES = ("f", "r", "norm", "exact")


def plan_pivot_column(m: int, n: int, width: int, dtype: str) -> Launch:
    """Plan the choice of a pivot among n columns, and its reflector."""
    return Launch(
        f"pivot_column_{DTYPES[dtype][0]}",
        min(_COLUMN_THREADS, WARP * -(-max(m, n) // WARP)),
        1,
        WARP * 16,
        _name_slots(COLUMN_WRITES),
        (m, n, width, 1),
    )


def plan_pivot_row(m: int, n: int, width: int, dtype: str) -> Launch:
    """Plan the row of R that follows, and the columns' norms."""
    chunks = -(-n // (_ROW_THREADS // WARP))
    name = f"pivot_row_{DTYPES[dtype][0]}"
    sizes = (m, n, width, chunks)
    return Launch(name, _ROW_THREADS, 1, 0, _name_slots(ROW_WRITES), sizes, chunks)


def _name_slots(writes: Sequence[str]) -> tuple[int, ...]:
    """Name the slots of the whole state, and of what is overwritten."""
    operands = (-1 if name in writes else slot for slot, name in enumerate(PIVOT_STATE))
    return (*operands, *map(PIVOT_STATE.index, writes))


_INSTANCES = (
    *(_lane_instances, _least_squares_instances, _signs_instances, _derivative_instances),
    _pivot_instances,
)


def round_up(count: int) -> int:
    """Round a number of bytes up to what every entry of every dtype may begin at."""
    return -(-count // 16) * 16
