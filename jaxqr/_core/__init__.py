"""What every other folder builds on; it imports none of them.

- `undocumented`: what of JAX is used that its documentation does not hold.
- `settings`: JAX's settings, held fixed wherever the package's own code is traced.
- `algebra`, `scaling`: matrix algebra, and the powers of two that keep squares in range.
- `partition`: which dimensions of an array are sharded, and how operands come to agree.
- `primitive`: the factory of batched, shardable primitives. `abstract` has its types and shapes,
  `batching` its rule of `vmap`, `mirror` lets one rule serve a matrix and its transpose.
- `triangular`: the triangular solve, a primitive.
- `arguments`, `results`: what public functions take and return.
"""
