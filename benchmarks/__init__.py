"""Races jaxqr against JAX, PyTorch and SciPy, checking every answer before timing it.

From the command line: ``python -m benchmarks --help``. From Python: `run`.

==================  =====================================================================
`cases`             the grid: works, shapes, dtypes, and how fast jaxqr aims to be
`contenders`        who takes part, all behind one interface
`checks`            what an answer must satisfy before its time counts
`timing`            blocks of calls, taken in turn over several rounds
`ceilings`          operation counts, the rate of a matrix product, the time to touch memory
`race`              one cell of the grid from input to row of results
`machine`           what has to be known about the machine to read the times
`report`, `aims`    tables and JSON
`growth`            times against batch and order, in pictures
`memory`, `probe`   peaks of memory, each in a fresh process
`launches`          what programs launch on a GPU, counted without one
`registers`         what GPU kernels take, told by the assembler
`device`            correctness and races on a machine with a GPU
==================
"""

from benchmarks.race import run

__all__ = ["run"]
