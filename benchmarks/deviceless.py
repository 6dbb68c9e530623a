"""Compiles a program for an H100 on a machine that has none, in a process of its own.

XLA's compiler for GPUs takes a description of the device in place of the device. It still looks up
every custom call: the handlers have to be registered for CUDA, and are asked what they are, but
none is called. The arguments are the keys of `benchmarks.launches.PROGRAMS` and of its functions.

Needs the wheels that `benchmarks.launches.WHEELS` lists, and neither a GPU nor a driver.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from typing import Any

TARGET_NAME = "NVIDIA H100 80GB HBM3"

_TARGET = f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  cuda_compute_capability {{ major: 9 }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{TARGET_NAME}"
"""

# What needs a device is left out: trying out which of several kernels is the fastest.
_FLAGS = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"

# The package takes its CUDA kernels although no driver is here.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "JAXQR_GPU": "1"}


def environment() -> dict[str, str]:
    """The environment variables of the process that compiles."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
    return os.environ | ENVIRONMENT | {"XLA_FLAGS": flags}


def compile_for_target(function: Any, shapes: Any) -> Any:
    """Compiles a function.

    Args:
      function: of arrays.
      shapes: of its arguments, as `jax.ShapeDtypeStruct`.

    Returns:
      The compiled program.
    """
    # Not before the environment is set: it decides what JAX does when it is imported.
    import jax
    from jax.experimental import topologies

    target = topologies.get_topology_desc(platform="cuda", target_config=_TARGET, topology="1x1x1")
    mesh = topologies.make_mesh(target, (1,), ("x",))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    arguments = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for x in shapes]
    return jax.jit(function).lower(*arguments).compile()


def measure(program: str, library: str) -> dict[str, Any]:
    """Compiles one of the programs and counts.

    Args:
      program: its name.
      library: whose function it is.

    Returns:
      What `benchmarks.hlo.Cost.as_dict` has, ``temp`` bytes, and the ``seconds`` from the function
      to the program; or the ``error`` where it does not compile.
    """
    from benchmarks.hlo import cost
    from benchmarks.launches import PROGRAMS

    functions, shapes = PROGRAMS[program]
    begin = time.perf_counter()
    try:
        compiled = compile_for_target(functions[library], shapes)
    except Exception as error:  # Whatever stops one program, the report names it.
        return {"error": textwrap.shorten(f"{type(error).__name__}: {error}", 300)}
    seconds = time.perf_counter() - begin
    return {
        **cost(compiled.as_text()).as_dict(),
        "temp": compiled.memory_analysis().temp_size_in_bytes,
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
