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

NAMES = ("jaxqr", "jnp", "torch", "scipy", "gels")

Arrays = tuple[Any, ...]
Call = Callable[[], Any]
Functions = dict[str, Callable[..., Arrays]]


class Contender:
    """What a library has to offer to take part in the race.

    Values come in the order of the function: ``(Q, R)``, ``(L, Q)``, ``(Q, R, P)`` or ``(x,)``.
    """

    def __init__(self, name: str, version: str):
        """Takes the heading of the column and the version."""
        self.name, self.version = name, version

    def refusal(self, cell: Cell) -> str | None:
        """Says in a word why the contender stays away from a cell; None if it takes part."""
        return None

    def forward(self, cell: Cell, inputs: Arrays) -> Call:
        """Returns the call that computes the values."""
        raise NotImplementedError

    def gradient(self, cell: Cell, inputs: Arrays, cotangents: Arrays) -> Call:
        r"""Returns the call that computes the loss and its gradient in all inputs.

        The loss is :math:`\sum_i \mathrm{Re}\,\langle C_i, F_i\rangle` over the two factors
        :math:`F_i`, with the cotangents :math:`C_i`. Without any, the values take their place:
        for least squares it is :math:`|x|^2`.
        """
        raise NotImplementedError

    def values(self, result: Any) -> Arrays:
        """Converts what the forward call returned to NumPy."""
        return tuple(map(np.asarray, result))

    def slopes(self, result: Any) -> Arrays:
        """Converts what the gradient call returned to G with d loss = Re <G, dX>, by input X."""
        raise NotImplementedError


class Jax(Contender):
    """jaxqr and jax.numpy."""

    def __init__(self, name: str, version: str, functions: Functions):
        """Takes for each kind of work the function that computes it."""
        super().__init__(name, version)
        self.functions = functions

    def forward(self, cell: Cell, inputs: Arrays) -> Call:
        """Jits the function."""
        return jitted(self.functions[cell.work.kind], *inputs)

    def gradient(self, cell: Cell, inputs: Arrays, cotangents: Arrays) -> Call:
        """Jits ``value_and_grad``; the cotangents are arguments, so that no constant folds."""
        return jitted(self.function(cell), *inputs, *cotangents)

    def function(self, cell: Cell) -> Callable[..., Any]:
        """Returns what is jitted: a function of the inputs and, for gradients, the cotangents."""
        values = self.functions[cell.work.kind]
        if not cell.work.gradient:
            return values
        count = 2 if cell.work.least_squares else 1

        def loss(*arguments: jax.Array) -> jax.Array:
            inputs, cotangents = arguments[:count], arguments[count:]
            return _loss(cotangents, values(*inputs), lambda c, f: jnp.sum((c.conj() * f).real))

        return jax.value_and_grad(loss, argnums=tuple(range(count)))

    def slopes(self, result: Any) -> Arrays:
        """Conjugates: JAX pairs without conjugation, d loss = Re sum(g * dx)."""
        return tuple(np.asarray(slope).conj() for slope in result[1])


class Torch(Contender):
    """PyTorch, called as its users do: eagerly, gradients by autograd."""

    # Of least squares; None stands for PyTorch's choice, which is gelsy.
    _driver: str | None = None

    def __init__(self, torch: Any, name: str = "torch"):
        """Takes the module, so that this one can be imported without it."""
        super().__init__(name, torch.__version__)
        self._torch = torch

    def refusal(self, cell: Cell) -> str | None:
        """Has no pivoting."""
        return "-" if cell.work.pivoted else None

    def forward(self, cell: Cell, inputs: Arrays) -> Call:
        """Leaves gradients off, since the inputs do not ask for them."""
        return self._call(partial(self._compute, cell.work.kind, *map(self._tensor, inputs)))

    def gradient(self, cell: Cell, inputs: Arrays, cotangents: Arrays) -> Call:
        """Builds and walks the graph in each call."""
        variables = [self._tensor(x).requires_grad_() for x in inputs]
        constants = tuple(map(self._tensor, cotangents))

        def pair(c: Any, f: Any) -> Any:
            # The fastest of PyTorch's spellings of the pairing.
            return self._torch.vdot(c.flatten(), f.flatten()).real

        def call() -> tuple[Any, Any]:
            loss = _loss(constants, self._compute(cell.work.kind, *variables), pair)
            return loss, self._torch.autograd.grad(loss, variables)

        return self._call(call)

    def values(self, result: Any) -> Arrays:
        """Resolves conjugations that PyTorch has put off."""
        return tuple(f.resolve_conj().cpu().numpy() for f in result)

    def slopes(self, result: Any) -> Arrays:
        """Resolves conjugations that PyTorch has put off."""
        return self.values(result[1])

    def _tensor(self, x: np.ndarray) -> Any:
        return self._torch.from_numpy(x)

    def _call(self, call: Call) -> Call:
        return call

    def _compute(self, kind: str, a: Any, *b: Any) -> Arrays:
        if kind == "r":
            return (self._torch.linalg.qr(a, mode="r")[1],)
        if kind in ("lstsq", "full_rank"):
            return (self._torch.linalg.lstsq(a, *b, driver=self._driver).solution,)
        q, r = self._torch.linalg.qr(a.mT if kind == "lq" else a)
        return (r.mT, q.mT) if kind == "lq" else (q, r)


class Gels(Torch):
    """PyTorch's driver that takes full rank, which the checks assert, for granted."""

    _driver = "gels"

    def refusal(self, cell: Cell) -> str | None:
        """Has nothing but least squares; the gradient does not depend on the driver."""
        return None if cell.work.name == "lstsq" else "-"


class SciPy(Contender):
    """SciPy, called on one matrix."""

    def __init__(self) -> None:
        """Needs nothing."""
        super().__init__("scipy", scipy.__version__)

    def refusal(self, cell: Cell) -> str | None:
        """Has no gradients, and is not raced on batches."""
        return "-" if cell.work.gradient or len(cell.shape) > 2 else None

    def forward(self, cell: Cell, inputs: Arrays) -> Call:
        """Leaves the search for NaN out; the other contenders do not look for it either."""
        if cell.work.kind == "lstsq":
            options = {"lapack_driver": "gelsy", "check_finite": False}
            return lambda: scipy.linalg.lstsq(*inputs, **options)[:1]
        (a,) = inputs
        qr = partial(scipy.linalg.qr, mode="economic", check_finite=False)
        if cell.work.kind == "lq":
            return lambda: tuple(f.T for f in reversed(qr(a.T)))
        return partial(qr, a, pivoting=cell.work.pivoted)


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


def _loss(cotangents: Arrays, values: Arrays, pair: Callable[[Any, Any], Any]) -> Any:
    # The pivots have no cotangent.
    terms = [pair(c, f) for c, f in zip(cotangents or values, values, strict=False)]
    return sum(terms[1:], start=terms[0])


def _jnp_lq(a: jax.Array) -> Arrays:
    q, r = jnp.linalg.qr(a.mT)
    return r.mT, q.mT


def _jnp_lstsq(a: jax.Array, b: jax.Array) -> Arrays:
    # It takes no batches.
    solve = jnp.vectorize(lambda a, b: jnp.linalg.lstsq(a, b)[0], signature="(m,n),(m,s)->(n,s)")
    return (solve(a, b),)


def _only_r(qr: Callable[..., Any], a: jax.Array) -> Arrays:
    return (qr(a, "r"),)


def _jaxqr_lstsq(lstsq: Callable[..., Any], a: jax.Array, b: jax.Array) -> Arrays:
    return (lstsq(a, b).x,)


def _jaxqr() -> Contender:
    pivoted = partial(jaxqr.qr, pivoting=True)
    functions: Functions = {
        "qr": jaxqr.qr,
        "r": partial(_only_r, jaxqr.qr),
        "lq": jaxqr.lq,
        "pivoted": pivoted,
        "randomized": partial(jaxqr.qr, pivoting="randomized"),
        # What is compiled belongs to this contender: what jaxqr.lstsq is may have changed.
        "lstsq": partial(_jaxqr_lstsq, jaxqr.lstsq),
        "full_rank": partial(_jaxqr_lstsq, partial(jaxqr.lstsq, pivoting=False)),
    }
    return Jax("jaxqr", jaxqr.__version__, functions)


def _jnp() -> Contender:
    pivoted = partial(jax.lax.linalg.qr, pivoting=True, full_matrices=False)
    functions: Functions = {
        "qr": jnp.linalg.qr,
        "r": partial(_only_r, jnp.linalg.qr),
        "lq": _jnp_lq,
        "pivoted": pivoted,
        "randomized": pivoted,
        "lstsq": _jnp_lstsq,
        "full_rank": _jnp_lstsq,
    }
    return Jax("jnp", jax.__version__, functions)


def _torch() -> Contender:
    torch = optional("torch")
    return Absent("torch", "not installed") if torch is None else Torch(torch)


def _gels() -> Contender:
    torch = optional("torch")
    return Absent("gels", "not installed") if torch is None else Gels(torch, "gels")


def load(names: Iterable[str] = NAMES) -> list[Contender]:
    """Returns the contenders of these names, by default all, jaxqr first."""
    makers = dict(zip(NAMES, (_jaxqr, _jnp, _torch, SciPy, _gels), strict=True))
    return [make() for name, make in makers.items() if name in tuple(names)]
