"""The factorizations as primitives, and their derivative rules.

- `packed`: LAPACK's geqrf, geqp3, orgqr and ormqr. They are what depends on the platform.
- `pivoting`: how columns may be pivoted. `randomized` chooses pivots from products with random
  matrices.
- `qr_primitive`: QR, which computes the outputs that it is asked for by name; LQ is its mirror.
- `shapes`: what platforms do otherwise for tall, wide and tiny matrices; `tall`: tiles of rows.
- `tangent_maps`: the derivative of QR as a linear primitive, and the matrix backpropagation as
  its transpose.
- `multiply_primitive`: products with Q, which is not formed.
- `rules`, `packed_rules`: the derivative rules as plain functions of arrays. `independence` says
  which columns of R have a derivative.
- `permutation`, `signs`: exchanging columns; making the diagonal of R non-negative.
"""
