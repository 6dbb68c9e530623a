"""The CUDA kernels, emulated: a matrix's results depend on nothing but the matrix, bit for bit."""

import pytest

import sanitizers

pytestmark = pytest.mark.skipif(sanitizers.COMPILER is None, reason="no compiler")
# a shape for each size of teams of lanes
SHAPES_OF_TEAMS = ((4, 3), (5, 8), (16, 10), (30, 32))
