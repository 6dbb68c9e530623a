"""The CUDA kernels that there are: templates in ``native/gpu``, each compiled for dtypes and sizes.

Each of these instances is a file of its own, so that a driver compiles what a program uses and
nothing else. The build makes the files from the list here, which is why this module imports nothing
but the standard library.
"""

from typing import NamedTuple

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

# The most threads of a block.
LANE_THREADS = 128
LEAST_SQUARES_THREADS = 64
ROW_THREADS = 256
PIVOT_COLUMN_THREADS = 512
PIVOT_ROW_THREADS = 256
DERIVATIVE_THREADS = 128
# Told of larger blocks, the compiler takes up to 128 registers; else it would rather spill some
# than have one block less on a multiprocessor.
_TOLD_DERIVATIVE_THREADS = 512

LANE_SIZES = (4, 8, 16, 32)  # lanes of a team: the most rows, and the most columns
ROW_SIZES = (8, 16, 32)  # the most columns
ROWS_OF_THREAD = (1, 2, 4)
DERIVATIVE_SIZES = (4, MOST_COLUMNS)  # the most rows and columns; of 32 columns rows may be more

# For these the compiler would rather spill some registers than have a block less on a
# multiprocessor, unless it is told that one is enough.
ONE_BLOCK = frozenset(
    (
        *("rows_f32_16_2", "rows_c64_8_2", "rows_c64_8_4", "rows_c64_16_2"),
        *("rows_pivoted_c64_8_2", "rows_pivoted_c64_8_4", "rows_pivoted_c64_16_2"),
        *("least_squares_f64_4", "pivot_row_c128"),
    )
)


class Instance(NamedTuple):
    """A kernel as it is compiled."""

    name: str
    threads: int  # the most that a block may have
    template: str  # of C++, with its arguments


def list_instances() -> list[Instance]:
    """List all instances."""
    return [
        instance
        for dtype in DTYPES
        for make in (_list_lanes, _list_rows, _list_others)
        for instance in make(dtype)
    ]


def name_kernel(kernel: str, dtype: str, *sizes: int, pivoted: bool = False) -> str:
    """Name an instance."""
    letters, _ = DTYPES[dtype]
    return "_".join([kernel, *(["pivoted"] if pivoted else []), letters, *map(str, sizes)])


def limit_rows_of_thread(columns: int, dtype: str) -> int:
    """Find how many rows a thread has registers for: they take at most 128."""
    return min(ROWS_OF_THREAD[-1], 128 * 4 // (columns * ITEM_SIZES[dtype]))


def _make(
    kernel: str, dtype: str, threads: int, *sizes: int, pivoted: bool | None = None
) -> Instance:
    arguments = [DTYPES[dtype][1], *map(str, sizes)]
    if pivoted is not None:
        arguments.append(str(pivoted).lower())
    name = name_kernel(kernel, dtype, *sizes, pivoted=bool(pivoted))
    return Instance(name, threads, f"{kernel}<{', '.join(arguments)}>")


def _list_lanes(dtype: str) -> list[Instance]:
    return [
        _make("lanes", dtype, LANE_THREADS, size, pivoted=pivoted)
        for size in LANE_SIZES
        for pivoted in (False, True)
    ]


def _list_rows(dtype: str) -> list[Instance]:
    return [
        _make("rows", dtype, ROW_THREADS, columns, rows, pivoted=pivoted)
        for columns in ROW_SIZES
        for rows in ROWS_OF_THREAD
        if rows <= limit_rows_of_thread(columns, dtype)
        for pivoted in (False, True)
    ]


def _tell_derivative_threads(dtype: str, size: int) -> int:
    large = size == MOST_COLUMNS and dtype != "complex128"  # which needs more than 128 registers
    return _TOLD_DERIVATIVE_THREADS if large else DERIVATIVE_THREADS


def _list_others(dtype: str) -> list[Instance]:
    return [
        *(
            _make(name, dtype, _tell_derivative_threads(dtype, size), size)
            for name in ("qr_jvp", "qr_vjp")
            for size in DERIVATIVE_SIZES
        ),
        *(_make("least_squares", dtype, LEAST_SQUARES_THREADS, size) for size in LANE_SIZES),
        _make("signs", dtype, WARP),
        _make("pivot_column", dtype, PIVOT_COLUMN_THREADS),
        _make("pivot_row", dtype, PIVOT_ROW_THREADS),
    ]
