"""Whether jaxqr is as much faster than the fastest peer as it aims to be."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.cases import AIMS, Aim, Cell, grid
from benchmarks.race import Row
from benchmarks.report import US, best_peer, geometric_mean, speedup, titled


def summary(rows: Sequence[Row]) -> str:
    """Formats a line for each work that has an aim; empty if none was raced."""
    lines = [["work", "cells", "geometric mean", "aim", "", "worst cell", "aim", ""]]
    for work, aim in AIMS.items():
        cells = grid([work])
        ratios = {row.cell: ratio for row in rows if (ratio := _ratio(row)) is not None}
        ratios = {cell: ratios[cell] for cell in cells if cell in ratios}
        if ratios:
            lines.append([work, f"{len(ratios)} of {len(cells)}", *_verdicts(ratios, aim)])
    if len(lines) == 1:
        return ""
    return titled(f"Aims: time of the fastest peer over that of {US}", lines)


def _ratio(row: Row) -> float | None:
    """A wrong answer or none at all counts as 0, if a peer has one."""
    if (peer := best_peer(row)) is None or US not in row.results:
        return None
    return speedup(row, peer) or 0.0


def _verdicts(ratios: dict[Cell, float], aim: Aim) -> list[str]:
    mean = geometric_mean(list(ratios.values()))
    worst = min(ratios, key=ratios.__getitem__)
    return [
        f"{mean:.2f}",
        *_against(mean, aim.mean),
        f"{worst.size} {worst.dtype} {ratios[worst]:.2f}",
        *_against(ratios[worst], aim.worst),
    ]


def _against(value: float, aim: float) -> list[str]:
    return [f"{aim:.1f}", "met" if value >= aim else "not met"]
