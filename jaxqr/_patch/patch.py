"""The public functions that put this package under JAX's own QR, and report on it."""

import inspect
import os
import threading
import warnings
from collections.abc import Callable
from contextlib import ContextDecorator
from typing import Any, NamedTuple, TypeVar

import jax
from jax.extend.core import Primitive

from jaxqr._patch import least_squares, tables
from jaxqr._patch.tables import PatchConflictError, Rules

_Function = TypeVar("_Function", bound=Callable[..., Any])

_lock = threading.RLock()
# The rules of JAX that were there before, and those that stand there now, while it is patched.
_in_place: list[tuple[dict[Primitive, Rules], dict[Primitive, Rules]]] = []
# Whether `lstsq` is wanted by `patch`, if it is in force, and by each block that is open.
_by_call: list[bool] = []
_by_blocks: list[bool] = []


class PatchStatus(NamedTuple):
    """Whether JAX is patched, and how often this package has stood in for it."""

    #: whether the package's rules are under JAX's primitives
    patched: bool
    #: whether `jax.numpy.linalg.lstsq` is replaced
    lstsq: bool
    #: those on which values are computed by the package's kernels; derivatives follow its rules
    #: on every platform
    platforms: tuple[str, ...]
    #: by JAX's primitive, how often "values" were compiled and "derivatives" traced by the package
    #: since the last `patch`; what is compiled once may run many times
    served: dict[str, dict[str, int]]

    def __str__(self) -> str:
        """Write a line on each."""
        if not self.patched:
            return "JAX's own QR is not patched"
        where = " and ".join(self.platforms) or "no platform"
        lines = [f"JAX's own QR is patched: derivatives everywhere, values on {where}"]
        if self.lstsq:
            lines.append("jax.numpy.linalg.lstsq is replaced")
        for name, counts in sorted(self.served.items()):
            listed = ", ".join(f"{kind} {count} times" for kind, count in sorted(counts.items()))
            lines.append(f"  {name}: {listed}")
        return "\n".join(lines if self.served else [*lines, "  not called yet"])


def patch(*, lstsq: bool = False) -> None:
    """Let JAX's own QR compute and differentiate with this package, in all that calls it.

    Replaced are the rules of JAX's primitives ``qr``, ``geqrf``, ``geqp3``, ``ormqr`` and
    ``householder_product``, not names. So `jax.numpy.linalg.qr`, `jax.scipy.linalg.qr` and
    ``qr_multiply``, `jax.lax.linalg.qr`, and what libraries have imported of them, follow under
    every transformation. Results keep their meaning, shapes, dtypes and signs. Derivatives are
    finite at every rank, and those of ``qr_multiply`` and of products with packed reflectors exist.

    Values are computed by this package on platforms for which it has kernels here, see
    `PatchStatus.platforms`, derivatives by its rules everywhere. Programs that are exported hold
    calls of LAPACK and cuSOLVER and run without this package.

    Compiled programs are dropped by `jax.clear_caches`, so that they are compiled anew when they
    are called. What was compiled ahead of time, by ``jit(f).lower(...).compile()``, stays as it is.

    Args:
        lstsq: replace the function `jax.numpy.linalg.lstsq`, too, by one whose derivative is finite
            at every rank. It gives JAX's four results and takes its `rcond`; the rank is that of a
            pivoted QR, which may differ where a singular value is close to the bound, and singular
            values and their derivatives are JAX's. It is a name that is replaced: what was imported
            from there before remains JAX's function.

    Raises:
        PatchConflictError: if another package has replaced the same rules.

    Warns:
        RuntimeWarning: if the primitives of this release of JAX are not those known here. Then JAX
            stays as it is.

    To call it again changes nothing but ``lstsq``. `unpatch` undoes it, `patched` limits it to a
    block, `status` reports. ``python -m jaxqr run script.py`` runs a program with it; with the
    environment variable JAXQR_PATCH=1 it is called when `jaxqr` is imported.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxqr
        >>> def projected_square(a):
        ...     return jnp.sum(jnp.linalg.qr(a)[0][:, :1] ** 2)
        >>> jaxqr.patch()
        >>> singular = jnp.zeros((3, 2))  # where JAX's own derivative is NaN
        >>> bool(jnp.allclose(jax.grad(projected_square)(singular), 0, atol=1e-6))
        True
        >>> jaxqr.unpatch()
    """
    with _lock:
        _by_call[:] = [lstsq]
        _apply(stacklevel=3)


def patch_if_asked() -> None:
    """Patch JAX if the environment variable JAXQR_PATCH is 1."""
    wanted = os.environ.get("JAXQR_PATCH", "")
    if wanted not in ("", "0", "1"):
        raise ValueError(f"jaxqr: JAXQR_PATCH must be 0, 1 or unset, got {wanted!r}")
    if wanted == "1":
        patch()


def unpatch() -> None:
    """Give JAX back the rules that it had before `patch`, and drop the compiled programs.

    Without `patch` before, it does nothing.

    Raises:
        PatchConflictError: if another package has replaced rules since. All stays in place then.

    Examples:
        >>> import jaxqr
        >>> jaxqr.patch()
        >>> jaxqr.unpatch()
        >>> jaxqr.status().patched
        False
    """
    with _lock:
        _by_call.clear()
        _apply()


def patched(*, lstsq: bool = False) -> ContextDecorator:
    """Call `patch` for a block of code, or for a function that it decorates.

    What was before is there again afterwards; of blocks that overlap, the last one to end gives it
    back. The compiled programs of the process are dropped at the start and at the end, so it is
    meant for whole programs and tests, not for inner loops; and it holds for all threads.

    Args:
        lstsq: as of `patch`. It is replaced while any block that is open asks for it.

    Raises:
        PatchConflictError: as of `patch` and `unpatch`.
        TypeError: if it decorates a generator function or a coroutine function, which only begins
            to run when the call is over. Write the block into it.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxqr
        >>> a = jax.random.normal(jax.random.key(0), (5, 3))
        >>> with jaxqr.patched():
        ...     r = jnp.linalg.qr(a, mode="r")
        >>> bool(jnp.allclose(r, jnp.linalg.qr(a, mode="r"), atol=1e-5))
        True
    """
    return _Block(lstsq)


class _Block(ContextDecorator):
    def __init__(self, lstsq: bool) -> None:
        self._lstsq = lstsq

    def __enter__(self) -> None:
        with _lock:
            _by_blocks.append(self._lstsq)
            try:
                _apply(stacklevel=3)
            except BaseException:
                _by_blocks.remove(self._lstsq)
                raise

    def __exit__(self, *error: Any) -> None:
        with _lock:
            _by_blocks.remove(self._lstsq)
            _apply()

    def __call__(self, function: _Function) -> _Function:
        if (
            inspect.isgeneratorfunction(function)
            or inspect.iscoroutinefunction(function)
            or inspect.isasyncgenfunction(function)
        ):
            raise TypeError(
                "patched: what it decorates must run when it is called, got the generator or "
                f"coroutine function {function.__qualname__}; write `with jaxqr.patched():` in it"
            )
        return super().__call__(function)


def _apply(stacklevel: int = 1) -> None:
    """Make true what is wanted. If that fails, what stands in JAX's tables stays."""
    wanted = [*_by_call, *_by_blocks]
    if wanted and not _in_place:
        try:
            _in_place.append(tables.install())
        except PatchConflictError:
            _by_call.clear()
            raise
        except Exception as error:  # whatever a JAX does that is not known yet
            _by_call.clear()
            warnings.warn(
                f"patch: JAX {jax.__version__} stays as it is, as its QR is not the one that "
                f"jaxqr knows: {error}",
                RuntimeWarning,
                stacklevel=stacklevel,
            )
            return
        tables.SERVED.clear()
    if not _in_place:
        return
    if wanted:
        if least_squares.replace(any(wanted)):
            jax.clear_caches()
        return
    before, installed = _in_place[0]
    tables.require_installed(installed)
    least_squares.replace(False)
    tables.restore(before)
    _in_place.clear()


def status() -> PatchStatus:
    """Tell whether JAX is patched, and how often this package has stood in for it.

    Returns:
        A `PatchStatus`, which prints as a few lines.

    Examples:
        >>> import jaxqr
        >>> print(jaxqr.status())
        JAX's own QR is not patched
    """
    served: dict[str, dict[str, Any]] = {}
    for (name, kind), count in tables.SERVED.items():
        served.setdefault(name, {})[kind] = count
    platforms = tuple(tables.find_platforms())
    return PatchStatus(bool(_in_place), least_squares.is_replaced(), platforms, served)
