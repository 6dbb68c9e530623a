"""Who takes part. Every library stands behind the same few methods.

A contender turns NumPy input into a *call*: a function of no arguments that does the work once
and returns when the result is there. Conversion of the input is not part of the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
import scipy.linalg

import jaxqr
from benchmarks.cases import Cell
from benchmarks.machine import optional

NAMES = ("jaxqr", "jnp", "torch", "scipy")

Factors = tuple[Any, ...]
Call = Callable[[], Any]
Functions = dict[str, Callable[..., Factors]]


class Contender:
    """What a library has to offer to take part in the race.

    Factors come in the order of the function: ``(Q, R)``, ``(L, Q)`` or ``(Q, R, P)``.
    """

    def __init__(self, name: str, version: str):
        """Takes the heading of the column and the version."""
        self.name, self.version = name, version

    def refusal(self, cell: Cell) -> str | None:
        """Says in a word why the contender stays away from a cell; None if it takes part."""
        return None

    def forward(self, cell: Cell, a: np.ndarray) -> Call:
        """Returns the call that computes the factors."""
        raise NotImplementedError

    def gradient(self, cell: Cell, a: np.ndarray, cotangents: Factors) -> Call:
        r"""Returns the call that computes the loss and its gradient.

        The loss is :math:`\sum_i \mathrm{Re}\,\langle C_i, F_i\rangle` over the two factors
        :math:`F_i`, with the cotangents :math:`C_i`.
        """
        raise NotImplementedError

    def factors(self, result: Any) -> Factors:
        """Converts what the forward call returned to NumPy."""
        return tuple(map(np.asarray, result))

    def slope(self, result: Any) -> np.ndarray:
        """Converts what the gradient call returned to G with d loss = Re <G, dA>."""
        raise NotImplementedError


class Jax(Contender):
    """jaxqr and jax.numpy."""

    def __init__(self, name: str, version: str, functions: Functions):
        """Takes for each factorization the function that computes it."""
        super().__init__(name, version)
        self._functions = functions

    def forward(self, cell: Cell, a: np.ndarray) -> Call:
        """Jits the factorization."""
        return jitted(self._functions[cell.work.factorization], a)

    def gradient(self, cell: Cell, a: np.ndarray, cotangents: Factors) -> Call:
        """Jits ``value_and_grad``; the cotangents are arguments, so that no constant folds."""
        return jitted(self.function(cell), a, *cotangents)

    def function(self, cell: Cell) -> Callable[..., Any]:
        """Returns what is jitted: a function of the input and, for gradients, the cotangents."""
        factor = self._functions[cell.work.factorization]
        if not cell.work.gradient:
            return factor

        def loss(a: jax.Array, *cotangents: jax.Array) -> jax.Array:
            pairs = zip(cotangents, factor(a), strict=False)  # the pivots have no cotangent
            first, second = (jnp.sum((c.conj() * f).real) for c, f in pairs)
            return first + second

        return jax.value_and_grad(loss)

    def slope(self, result: Any) -> np.ndarray:
        """Conjugates: JAX pairs without conjugation, d loss = Re sum(g * da)."""
        return np.asarray(result[1]).conj()


class Torch(Contender):
    """PyTorch, called as its users do: eagerly, gradients by autograd."""

    def __init__(self, torch: Any):
        """Takes the module, so that this one can be imported without it."""
        super().__init__("torch", torch.__version__)
        self._torch = torch

    def refusal(self, cell: Cell) -> str | None:
        """Has no pivoting."""
        return "-" if cell.work.factorization == "pivoted" else None

    def forward(self, cell: Cell, a: np.ndarray) -> Call:
        """Leaves gradients off, since the input does not ask for them."""
        return partial(self._factor, cell.work.factorization, self._torch.from_numpy(a))

    def gradient(self, cell: Cell, a: np.ndarray, cotangents: Factors) -> Call:
        """Builds and walks the graph in each call."""
        x = self._torch.from_numpy(a).requires_grad_()
        constants = [self._torch.from_numpy(c) for c in cotangents]

        def call() -> tuple[Any, Any]:
            factors = self._factor(cell.work.factorization, x)
            pairs = zip(constants, factors, strict=True)
            # The fastest of PyTorch's spellings of the pairing.
            first, second = (self._torch.vdot(c.flatten(), f.flatten()).real for c, f in pairs)
            loss = first + second
            return loss, self._torch.autograd.grad(loss, x)[0]

        return call

    def factors(self, result: Any) -> Factors:
        """Resolves conjugations that PyTorch has put off."""
        return tuple(f.resolve_conj().numpy() for f in result)

    def slope(self, result: Any) -> np.ndarray:
        """Resolves conjugations that PyTorch has put off."""
        return np.asarray(result[1].resolve_conj())

    def _factor(self, factorization: str, x: Any) -> Factors:
        q, r = self._torch.linalg.qr(x.mT if factorization == "lq" else x)
        return (r.mT, q.mT) if factorization == "lq" else (q, r)


class SciPy(Contender):
    """SciPy, called on one matrix."""

    def __init__(self) -> None:
        """Needs nothing."""
        super().__init__("scipy", scipy.__version__)

    def refusal(self, cell: Cell) -> str | None:
        """Has no gradients, and is not raced on batches."""
        return "-" if cell.work.gradient or len(cell.shape) > 2 else None

    def forward(self, cell: Cell, a: np.ndarray) -> Call:
        """Leaves the search for NaN out; the other contenders do not look for it either."""
        qr = partial(scipy.linalg.qr, mode="economic", check_finite=False)
        if cell.work.factorization == "lq":
            return lambda: tuple(f.T for f in reversed(qr(a.T)))
        return partial(qr, a, pivoting=cell.work.factorization == "pivoted")


class Absent(Contender):
    """Holds the column of a library that is not installed."""

    def refusal(self, cell: Cell) -> str | None:
        """Stays away."""
        return "absent"


def jitted(function: Callable[..., Any], *arguments: np.ndarray) -> Call:
    """Returns the call of the jitted function, with the arguments on the device already."""
    on_device = [jax.device_put(x) for x in arguments]
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*on_device))


def _jnp_lq(a: jax.Array) -> Factors:
    q, r = jnp.linalg.qr(a.mT)
    return r.mT, q.mT


def _jaxqr() -> Contender:
    pivoted = partial(jaxqr.qr, pivoting=True)
    functions: Functions = {"qr": jaxqr.qr, "lq": jaxqr.lq, "pivoted": pivoted}
    return Jax("jaxqr", jaxqr.__version__, functions)


def _jnp() -> Contender:
    pivoted = partial(jax.lax.linalg.qr, pivoting=True, full_matrices=False)
    functions: Functions = {"qr": jnp.linalg.qr, "lq": _jnp_lq, "pivoted": pivoted}
    return Jax("jnp", jax.__version__, functions)


def _torch() -> Contender:
    torch = optional("torch")
    return Absent("torch", "not installed") if torch is None else Torch(torch)


def load(names: Iterable[str] = NAMES) -> list[Contender]:
    """Returns the contenders of these names, by default all, jaxqr first."""
    makers = dict(zip(NAMES, (_jaxqr, _jnp, _torch, SciPy), strict=True))
    return [make() for name, make in makers.items() if name in tuple(names)]
