"""With which launch the tangents and cotangents of QR are computed: ``native/gpu/derivatives.cuh``.

A matrix is worked on by a team of threads that has it in shared memory: by some lanes of a warp if
it is small, else by a block, which takes a deep matrix in ranges of its rows.
"""

from collections.abc import Sequence

from jaxqr._lowering.cuda_instances import (
    DERIVATIVE_SIZES,
    DERIVATIVE_THREADS,
    ITEM_SIZES,
    MOST_COLUMNS,
    WARP,
    name_kernel,
)
from jaxqr._lowering.cuda_plans import SHARED_MEMORY, Launch, round_up

MOST_ROWS = 1024  # products of matrices do better for more
WARP_MEMORY = 16 << 10  # bytes for a warp, so that many warps are there at a time
LARGEST_MEMORY = 64 << 10  # bytes for a block: not all devices have more
BLOCK_MEMORY = {4: SHARED_MEMORY, 8: LARGEST_MEMORY, 16: LARGEST_MEMORY}  # by an entry's size
ROWS = (4, 8, 12, 16, 32, 64, 128, 192, 256, 320, 384, 448, 512)  # in memory: they fill warps

_TANGENT_SLOTS = {"q": 3, "r": 4}
_COTANGENT_SLOTS = {"q": 2, "r": 3}


def plan_tangent(
    m: int, n: int, dtype: str, outputs: Sequence[str], *, pivoted: bool, transposed: bool
) -> Launch | None:
    """Plan the tangents of Q and R, those that are in `outputs`."""
    slots = (0, 1, 2, *(_TANGENT_SLOTS[name] for name in outputs))
    return _plan("qr_jvp", m, n, dtype, slots, (int(transposed), int(pivoted)))


def plan_cotangent(
    m: int, n: int, dtype: str, inputs: Sequence[str], *, pivoted: bool, transposed: bool
) -> Launch | None:
    """Plan the cotangent of A from those of Q and R that are in `inputs`."""
    slots = (0, 1, *(_COTANGENT_SLOTS[name] for name in inputs), 4)
    return _plan("qr_vjp", m, n, dtype, slots, (int(transposed), int(pivoted)))


def _plan(
    name: str, m: int, n: int, dtype: str, slots: tuple[int, ...], flags: tuple[int, int]
) -> Launch | None:
    if n > MOST_COLUMNS or m > MOST_ROWS:
        return None
    size = next(size for size in DERIVATIVE_SIZES if max(m, n) <= size or size == MOST_COLUMNS)
    team, rows = _choose_team(m, n, dtype, size)
    of_team = _count_team_bytes(m, n, rows, dtype, size)
    teams = DERIVATIVE_THREADS // team if team <= WARP else 1
    while teams > 1 and teams * team > WARP and teams * of_team > SHARED_MEMORY:
        teams //= 2
    if teams * of_team > LARGEST_MEMORY:
        return None
    return Launch(
        name_kernel(name, dtype, size),
        teams * team,
        teams,
        teams * of_team,
        slots,
        (m, n, *flags, team, rows, of_team),
    )


def _choose_team(m: int, n: int, dtype: str, size: int) -> tuple[int, int]:
    """Choose how many threads a matrix gets, and how many of its rows are in shared memory."""
    if size == 4:
        return 4, 4
    for team in (8, 16, WARP):
        of_warp = _count_team_bytes(m, n, _pad(m), dtype, size) * (WARP // team)
        if team >= max(n, min(m, WARP)) and of_warp <= WARP_MEMORY:
            return team, _pad(m)
    empty, memory = _count_team_bytes(m, n, 0, dtype, size), BLOCK_MEMORY[ITEM_SIZES[dtype]]
    threads = DERIVATIVE_THREADS if m > 64 else 64
    most = (memory - empty) // (2 * _count_lead_bytes(n, dtype, size))
    if m < n or _pad(m) <= most:
        return threads, _pad(m)
    return threads, max(size for size in ROWS if size <= most)


def _count_team_bytes(m: int, n: int, rows: int, dtype: str, size: int) -> int:
    """Count the bytes of a team's shared memory (``Derivative``), an odd number of 16 bytes."""
    k = _pad(min(m, n))
    real = 4 if dtype in ("float32", "complex64") else 8
    point = round_up(3 * real) + round_up(k * real)
    return _make_odd((2 * rows + 3 * k) * _count_lead_bytes(n, dtype, size) + point)


def _count_lead_bytes(columns: int, dtype: str, size: int) -> int:
    """Count the bytes between rows of a matrix in shared memory (``Tile``)."""
    return _make_odd(round_up((size if size == 4 else _pad(columns)) * ITEM_SIZES[dtype]))


def _make_odd(count: int) -> int:
    """Round a number of bytes up to an odd multiple of 16, so that banks are met evenly."""
    return (count // 16 | 1) * 16


def _pad(count: int) -> int:
    """Round up to whole groups of four."""
    return -(-count // 4) * 4
