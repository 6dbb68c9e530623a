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

    name: str  # by which the primitive and the kernels know it
    factor: Callable[[Array], list[Array]] | None  # gives (h, tau, p) of a matrix without a kernel
    has_kernel: bool  # whether the kernels in native/ have it, too


# The methods by what users pass as `pivoting`.
METHODS: dict[bool | str, Method] = {
    True: Method("exact", geqp3_p.bind, has_kernel=True),
    False: Method("none", None, has_kernel=True),
    "randomized": Method("randomized", randomized.geqp3, has_kernel=True),
}


def find_method(name: str) -> Method:
    """Find the method of this name."""
    return next(method for method in METHODS.values() if method.name == name)
