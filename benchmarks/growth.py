"""How the times grow: with the batch of small matrices, with the order of a single one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import Cell, grid
from benchmarks.contenders import NAMES
from benchmarks.race import Row
from benchmarks.report import US

BATCH_LIMIT = 10**6
SIZE_LIMIT = 4096

# The order of the matrices and the largest batch.
_BATCHED = {4: BATCH_LIMIT, 8: 10**5}
_BATCHES = tuple(digit * 10**power for power in range(2, 7) for digit in (1, 3))
_SIZES = tuple(2**power for power in range(2, 13))

_COLORS = dict(zip(NAMES, ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7"), strict=True))
_MARKERS = dict(zip(NAMES, "osv^x", strict=True))

# Neither chance nor date: the same rows make the same bytes.
_STYLE: Any = {"svg.hashsalt": "jaxqr", "svg.fonttype": "none", "font.size": 9}


@dataclass(frozen=True)
class _Sweep:
    """One picture of a work.

    Attributes:
      name: the last word of the file's name.
      axis: what grows.
      panel: the heading of a cell's panel, None where the cell takes no part.
    """

    name: str
    axis: str
    panel: Callable[[Cell], str | None]


def _batched(cell: Cell) -> str | None:
    if len(cell.shape) != 3:
        return None
    return f"{cell.shape[1]} x {cell.shape[2]}, {cell.dtype}"


def _single(cell: Cell) -> str | None:
    return f"n x n, {cell.dtype}" if len(cell.shape) == 2 else None


_SWEEPS = (_Sweep("batch", "batch", _batched), _Sweep("size", "n", _single))


def cells(
    works: Iterable[str], dtypes: Iterable[str] | None, batch_limit: int, size_limit: int
) -> list[Cell]:
    """Lists the cells of both sweeps.

    Args:
      works: keys of `benchmarks.cases.WORKS`.
      dtypes: NumPy type codes; None for each work's own.
      batch_limit: the largest batch of small matrices.
      size_limit: the largest order of a single matrix.

    Returns:
      The cells, the batches first.
    """
    batches = [
        (batch, n, n)
        for n, most in _BATCHED.items()
        for batch in _BATCHES
        if batch <= min(most, batch_limit)
    ]
    sizes = [(n, n) for n in _SIZES if n <= size_limit]
    return grid(works, dtypes, [*batches, *sizes])


def draw(rows: Sequence[Row], stem: Path) -> list[Path]:
    """Draws the times above the times over jaxqr's, as SVG.

    Args:
      rows: results of cells of `cells`.
      stem: where the names of the files begin; work and sweep follow.

    Returns:
      The files, one for each work and sweep.
    """
    paths = []
    for work in dict.fromkeys(row.cell.work for row in rows):
        for sweep in _SWEEPS:
            panels: dict[str, list[Row]] = {}
            for row in rows:
                if row.cell.work == work and (panel := sweep.panel(row.cell)) is not None:
                    panels.setdefault(panel, []).append(row)
            if panels:
                paths.append(stem.with_name(f"{stem.name}-{work.name}-{sweep.name}.svg"))
                _draw(panels, f"{work.title}: growth with {sweep.axis}", sweep.axis, paths[-1])
    return paths


def _draw(panels: dict[str, list[Row]], title: str, axis: str, path: Path) -> None:
    # Optional, and slow to import.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(1.2 + 2.6 * len(panels), 5.2), layout="constrained")
        figure.suptitle(title)
        grid_of_axes = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False)
        for (heading, rows), (above, below) in zip(panels.items(), grid_of_axes.T, strict=True):
            above.set_title(heading)
            below.set_xlabel(axis)
            _curves(above, {name: _points(rows, name, relative=False) for name in NAMES})
            _curves(below, {name: _points(rows, name, relative=True) for name in NAMES})
        grid_of_axes[0, 0].set_ylabel("milliseconds")
        grid_of_axes[1, 0].set_ylabel(f"time / {US}'s")
        grid_of_axes[0, 0].legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def _points(rows: Sequence[Row], name: str, relative: bool) -> dict[int, float]:
    points = {}
    for row in rows:
        seconds = {key: result.seconds for key, result in row.results.items()}
        unit = seconds.get(US) if relative else 1e-3
        if (theirs := seconds.get(name)) and unit:
            points[row.cell.shape[0]] = theirs / unit
    return points


def _curves(axes: Any, curves: dict[str, dict[int, float]]) -> None:
    axes.set(xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    for name, points in curves.items():
        if points:
            x, y = zip(*sorted(points.items()), strict=True)
            axes.plot(x, y, color=_COLORS[name], marker=_MARKERS[name], ms=4, lw=1.2, label=name)
