"""The CUDA kernels, emulated: a matrix's results depend on nothing but the matrix, bit for bit."""

import itertools

import numpy as np
import pytest

import sanitizers
from containment import KINDS, NOT_FINITE, spoiled
from gpu_kernels import EXACT, NONE, GpuLibrary
from matrices import DTYPES, normal
from test_gpu_kernels import assert_same, either_way, every_dtype, outputs_of

pytestmark = pytest.mark.skipif(sanitizers.COMPILER is None, reason="no compiler")
# a shape for each size of teams of lanes
SHAPES_OF_TEAMS = ((4, 3), (5, 8), (16, 10), (30, 32))
