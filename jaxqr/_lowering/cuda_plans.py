"""Which CUDA kernels there are, and with which launch each shape is served.

The kernels are templates in ``native/gpu``. An instance of one, for a dtype and a size, is a file
of its own, so that a driver compiles what a program uses and nothing else. The build makes these
files from the list here, which is why this module imports nothing but the standard library.
"""

from collections.abc import Sequence
from typing import NamedTuple

SHARED_MEMORY = 48 << 10  # bytes that a block may have on every device
WARP = 32  # threads

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
    slots: tuple[int, ...]  # where the kernel expects each operand, then each result
    sizes: tuple[int, ...]  # of a matrix, and flags: the kernel's own


def list_instances() -> list[Instance]:
    """List all instances."""
    return [instance for make in (_lane_instances,) for instance in make()]


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
    m: int, n: int, dtype: str, outputs: Sequence[str], *, pivoted: bool, transposed: bool
) -> Launch | None:
    """Plan the QR of matrices of at most 32 rows and columns: a matrix on some lanes of a warp."""
    size = next((size for size in LANE_SIZES if max(m, n) <= size), None)
    if size is None:
        return None
    teams = WARP // size
    columns_of_q = m if "q_full" in outputs else min(m, n)
    entries = max(_count_tile_entries(m, n), _count_tile_entries(m, columns_of_q))
    warp_bytes = -(-teams * entries * ITEM_SIZES[dtype] // 16) * 16
    warps = LANE_THREADS // WARP
    while warps > 1 and warps * warp_bytes > SHARED_MEMORY:
        warps //= 2
    return Launch(
        f"{_name_lanes(pivoted)}_{DTYPES[dtype][0]}_{size}",
        WARP * warps,
        teams * warps,
        warps * warp_bytes,
        (0, *(_LANE_SLOTS[name] for name in outputs)),
        (m, n, int(transposed), warp_bytes),
    )


def _count_tile_entries(rows: int, cols: int) -> int:
    """Count the entries of a matrix in shared memory, by rows or columns (``Tiles``)."""
    return max(rows * (cols | 1), cols * (rows | 1))
