"""The tests of `notebooks/derivations.md`: random matrices, real and complex."""

import zlib

import pytest

from notation import Draw


@pytest.fixture(params=["real", "complex"])
def draw(request):
    return Draw(request.param, zlib.crc32(request.node.name.encode()))


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory():
    """Keep compiled programs from module to module, where others drop them: they are the same."""


@pytest.fixture(autouse=True, scope="module")
def _compiled_quickly(fast_compilation):
    """The rules are compiled for each shape and run a few times."""
