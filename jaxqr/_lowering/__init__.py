"""What computes the packed factorizations on each platform.

Every module holds functions of arrays named as LAPACK's routines. They know nothing of the
primitives; ``_householder`` registers them.

- ``native``: the package's own kernels for the CPU, where they were built; they compute whole
  factorizations and derivatives. ``routines`` finds the BLAS that they call.
- ``library``: jaxlib's custom calls to LAPACK (CPU), cuSOLVER (CUDA), hipSOLVER (ROCm).
- ``xla``: XLA's own ``Qr`` (TPU).
- ``portable``: Householder's method in plain HLO (anything else, and pivoting off the CPU).
- ``randomized``: randomized pivoting wherever there is no kernel for it; the exception to the
  above, as it is made of the primitives of the other factorizations.
- ``call``: the one way in which they emit a custom call.
"""
