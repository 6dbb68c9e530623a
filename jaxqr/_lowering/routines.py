"""Addresses of SciPy's BLAS, which the package's own kernels call.

Nothing but SciPy is imported, and only when the addresses are asked for: it is slow.
"""

import ctypes

# For each of the dtypes s, d, c, z, in the order in which the library takes them.
ROUTINES = ("gemm", "trsm")


def addresses() -> ctypes.Array:
    """The array that the library's jaxqr_set_routines takes.

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
