"""How columns may be pivoted. Another way of pivoting is one more entry of the table here."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from jax import Array

from jaxqr._factor import randomized
from jaxqr._factor.packed import geqp3_p

Pivoting = bool | Literal["randomized"]
Pivoted = Literal[True, "randomized"]  # for the types of results, which have a permutation then


class Method(NamedTuple):
    """A way of pivoting."""

    name: str  # the primitive's, and the kernels'
    factor: Callable[[Array], list[Array]] | None  # a matrix to (h, tau, p), where no kernel does


# The methods by what users pass as `pivoting`.
METHODS: dict[bool | str, Method] = {
    True: Method("exact", geqp3_p.bind),
    False: Method("none", None),
    "randomized": Method("randomized", randomized.geqp3),
}
FACTORS = {method.name: method.factor for method in METHODS.values() if method.factor is not None}
