"""What computes the packed factorizations on each platform.

Every module holds functions of arrays named as LAPACK's routines. They know nothing of the
primitives; ``_householder`` registers them.

- ``library``: jaxlib's custom calls to LAPACK (CPU), cuSOLVER (CUDA), hipSOLVER (ROCm).
- ``xla``: XLA's own ``Qr`` (TPU).
- ``portable``: Householder's method in plain HLO (anything else, and pivoting off the CPU).
- ``call``: the one way in which the first two emit a custom call.
"""
