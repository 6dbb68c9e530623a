"""JAX's settings, held fixed wherever the package's own code is traced.

A lowering is traced when a program is compiled, a derivative rule when it is differentiated: both
perhaps outside of the context, such as ``jax.enable_x64``, in which a function of ours was called.
What they compute is fixed by their operands, so they run in a context of their own: that of the
tests, the strictest one, in which every dtype exists.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import jax
from jax import Array, export

from jaxqr._core.undocumented import wide_dtypes_exist


@contextmanager
def fixed_settings(values: Iterable[Any] = ()) -> Iterator[None]:
    """Set the context of lowerings and rules.

    Args:
        values: arrays, types of arrays, or sequences of them. If one has a symbolic size,
            dtypes of 64 bits exist if they do for the caller: in them or not programs that are
            exported hold the sizes.
    """
    with (
        jax.enable_x64(wide_dtypes_exist() if _has_symbolic_size(values) else True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.default_matmul_precision("highest"),
    ):
        yield


def with_fixed_settings(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Let a rule run in that context."""

    @wraps(rule)
    def run(*args: Any, **params: Any) -> Any:
        with fixed_settings(args):
            return rule(*args, **params)

    return run


class calling:
    """The context of a call of a public function.

    Errors name it, and the dtypes of `arrays` exist: arrays of 64 bits a number are what they are
    also where ``jax_enable_x64`` is off, if they were made in a context where it was on. (NumPy's
    become arrays of 32 bits there.) A class, as a generator would take twice the time.
    """

    def __init__(self, function: str, *arrays: Array) -> None:
        """Take the function's name and its arguments."""
        self._name = function
        wide = any(x.dtype.itemsize > (8 if x.dtype.kind == "c" else 4) for x in arrays)
        self._x64 = jax.enable_x64(True) if wide and not wide_dtypes_exist() else None

    def __enter__(self) -> None:
        """Set the name and, where arrays need them, the dtypes of 64 bits."""
        self._token = _function.set(self._name)
        if self._x64 is not None:
            self._x64.__enter__()

    def __exit__(self, *error: Any) -> None:
        """Restore both."""
        if self._x64 is not None:
            self._x64.__exit__(*error)
        _function.reset(self._token)


def calling_function(name: str) -> str:
    """Give the name of the public function that is called, or `name` if none is."""
    return _function.get() or name


_function: ContextVar[str] = ContextVar("function", default="")


def _has_symbolic_size(values: Iterable[Any]) -> bool:
    for x in values:
        if isinstance(x, (list, tuple)):
            if _has_symbolic_size(x):
                return True
        elif any(map(export.is_symbolic_dim, getattr(getattr(x, "aval", x), "shape", ()))):
            return True
    return False
