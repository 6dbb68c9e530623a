"""What computes the packed factorizations on each platform: functions of arrays, no primitives.

They are named as LAPACK's routines. ``_factor/packed.py`` registers them.

- `kernels`: the package's own kernels for the CPU, where they were built; they compute whole
  factorizations and derivatives. `blas_addresses` finds the BLAS that they call.
- `lapack`: jaxlib's custom calls to LAPACK (CPU), cuSOLVER (CUDA) and hipSOLVER (ROCm).
- `xla_qr`: XLA's own ``Qr`` (TPU).
- `portable`, `portable_pivoted`: Householder's method in plain HLO (anything else, and pivoting
  off the CPU). `compact_wy` multiplies by its reflectors, many at a time.
- `custom_call`: the one way in which a custom call is emitted.
"""
