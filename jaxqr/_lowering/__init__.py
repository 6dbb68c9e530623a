"""What computes the packed factorizations on each platform: functions of arrays.

They are named as LAPACK's routines. ``_factor/packed.py`` registers them. The only primitives here
are pieces of portable programs, for which a platform may have a kernel.

- `kernels`: the package's own kernels for the CPU, where they were built; they compute whole
  factorizations and derivatives. `blas_addresses` finds the BLAS that they call.
- `lapack`: jaxlib's custom calls to LAPACK (CPU), cuSOLVER (CUDA) and hipSOLVER (ROCm).
- `xla_qr`: XLA's own ``Qr`` (TPU).
- `portable`, `portable_pivoted`: Householder's method in plain HLO (anything else, and pivoting
  off the CPU). `compact_wy` multiplies by its reflectors, many at a time.
- `panel`: a few columns, the piece that blocks are made of. `blocked`: what CUDA makes of it.
- `pivot_step`: one step of column pivoting, the piece that its blocks are made of.
- `sketch_pivots`: the pivots of a sketch, which randomized pivoting takes.
- `reconstruction`: LAPACK's signs and reflectors of a Q that was found otherwise.
- `unrolled`: tiny matrices without a loop.
- `cuda`: which shapes the package's own kernels for CUDA serve.
- `custom_call`: the one way in which a custom call is emitted.
"""
