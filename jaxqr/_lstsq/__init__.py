"""Least squares: a decomposition that finds the rank, and the pseudo-inverse as an operator.

- `rank`: which columns count towards the rank.
- `decomposition`: the complete orthogonal decomposition.
- `pseudoinverse`: primitives that factor, and that apply the pseudo-inverse. `inverse_rules` has
  their derivatives, `outer_products` the products with a tangent that these are made of.
- `lstsq_primitive`: the solution, its residual and the rank in one primitive.
"""
