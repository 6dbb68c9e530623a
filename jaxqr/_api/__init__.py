"""The public functions: they check arguments, promote dtypes and bind primitives.

Matrices whose rows are sharded over an explicit mesh are recognised here and handed to
``_sharded``.
"""
