"""The package's rules under JAX's own primitives, put there on request.

`jax.numpy.linalg.qr`, `jax.scipy.linalg.qr` and all that is built on them bind a few primitives of
JAX. `replacements` says what this package computes in the place of each; `under_jax` puts that into
JAX's tables of rules and takes it out again.
"""
