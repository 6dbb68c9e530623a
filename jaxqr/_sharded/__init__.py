"""Matrices whose rows are spread over devices.

- `row_blocks`: the blocks of rows seen from inside a `shard_map` and from outside.
- `row_qr`: QR by local factorizations and a reduction of triangles (TSQR).
- `sharded_inverse`: the pseudo-inverse of such a matrix.
"""
