"""Races jaxqr against JAX, PyTorch and SciPy, checking every answer before timing it.

From the command line: ``python -m benchmarks --help``. From Python: `run`.

==================  =====================================================================
`cases`             the grid: works, shapes, dtypes
`contenders`        who takes part, all behind one interface
`checks`            what an answer must satisfy before its time counts
`timing`            blocks of calls, taken in turn over several rounds
`race`              one cell of the grid from input to row of results
`machine`           what has to be known about the machine to read the times
`report`            tables and JSON
==================  =====================================================================
"""

from benchmarks.race import run

__all__ = ["run"]
