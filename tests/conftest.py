"""The world of the tests: eight simulated devices, double precision, strict promotion.

JAXQR_TEST_PLATFORM=gpu (or tpu) leaves the default device to JAX, for ``tests/gpu``.
"""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_force_host_platform_device_count=8"
)

import jax
import pytest

# where the helpers' assertions fail, too, pytest shows the values
pytest.register_assert_rewrite("containment", "grades", "laws", "long_data", "meshes")

PLATFORM = os.environ.get("JAXQR_TEST_PLATFORM", "cpu")

# None: all that there is, with the CPU next to it
jax.config.update("jax_platforms", "cpu" if PLATFORM == "cpu" else None)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure():
    if PLATFORM != "cpu" and jax.default_backend() != PLATFORM:
        raise pytest.UsageError(
            f"JAXQR_TEST_PLATFORM={PLATFORM}, but JAX finds no such device: its default backend "
            f"is {jax.default_backend()!r}"
        )


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory():
    """Drop compiled programs after each module: hundreds of small ones add up."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def fast_compilation():
    """For modules whose programs run a few times each: compiling them costs most of the time."""
    jax.config.update("jax_disable_most_optimizations", PLATFORM == "cpu")
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(params=["kernels", "no kernels"])
def way(request, monkeypatch):
    """With the package's kernels, and as if there were none."""
    from jaxqr._lowering import kernels  # after JAX's settings

    if request.param == "no kernels":
        jax.clear_caches()
        monkeypatch.setattr(kernels, "available", lambda: False)
    elif not kernels.available():
        pytest.skip(kernels.status())
    yield request.param
    jax.clear_caches()
