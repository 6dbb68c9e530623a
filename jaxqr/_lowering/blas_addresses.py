"""Addresses of SciPy's BLAS, which the package's own kernels call.

Nothing but SciPy is imported, and only when the addresses are asked for: it is slow.
"""

import ctypes
import os
import traceback
from collections.abc import Callable
from typing import Any, TypeAlias

# The routines of each of the dtypes s, d, c and z, in the order in which the library takes them.
# All of their arguments, as many as given here, are pointers.
ROUTINES = {"gemm": 13, "trsm": 11}

Addresses: TypeAlias = "ctypes.Array[ctypes.c_void_p]"


def find_addresses() -> Addresses:
    """Find the addresses, as the library's jaxqr_set_routines takes them.

    Raises:
        KeyError: if SciPy does not export one of the routines.
    """
    from scipy.linalg import cython_blas

    table = cython_blas.__pyx_capi__
    name_of = ctypes.pythonapi.PyCapsule_GetName
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    found = []
    for letter in "sdcz":
        for routine in ROUTINES:
            capsule = table[letter + routine]
            found.append(pointer_of(capsule, name_of(capsule)))
    return (ctypes.c_void_p * len(found))(*found)


def make_stand_ins(install: Callable[[Addresses], None]) -> Addresses:
    """Make routines that find SciPy's when they are called, and give their addresses.

    A program that was compiled elsewhere and is loaded here calls the kernels with no Python of
    ours in between. So the kernels have these from the beginning: the first call imports SciPy,
    lets `install` set the true addresses and passes its arguments on.
    """
    made: list[Any] = []
    for count in 4 * tuple(ROUTINES.values()):
        prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * count)
        made.append(prototype(_stand_in(install, len(made), prototype)))
    _kept.extend(made)
    return (ctypes.c_void_p * len(made))(*(ctypes.cast(x, ctypes.c_void_p) for x in made))


_kept: list[object] = []  # as long as the library, which may call them


def _stand_in(
    install: Callable[[Addresses], None], index: int, prototype: Callable[..., Callable[..., None]]
) -> Callable[..., None]:
    """Make the routine that stands for the one of this index in `find_addresses`."""

    def call(*arguments: int | None) -> None:
        try:
            found = find_addresses()
            install(found)
            prototype(found[index])(*arguments)
        except BaseException:  # of the caller none can be told, who would take anything for results
            traceback.print_exc()
            os.abort()

    return call
