"""What has to be known about the machine and its software to read the times."""

from __future__ import annotations

import datetime
import importlib
import importlib.metadata
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy

from benchmarks.timing import Neighbours
from jaxqr._lowering import kernels

# Variables that change how fast a contender runs.
_TUNING = re.compile(r"(OMP|GOMP|KMP|MKL|OPENBLAS|BLIS|XLA|JAX|JAXQR|MALLOC)_\w+")


def describe(contenders: Iterable[Any]) -> dict[str, str]:
    """Describes software, processor and settings.

    Args:
      contenders: who takes part; each tells its name and version.

    Returns:
      What to print above the tables, by heading.
    """
    versions = {c.name: c.version for c in contenders if c.name not in ("jnp", "gels")}
    versions |= {"jax": jax.__version__, "jaxlib": importlib.metadata.version("jaxlib")}
    versions |= {"numpy": np.__version__, "python": platform.python_version()}
    tuning = sorted(name for name in os.environ if _TUNING.fullmatch(name))
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "revision": _revision(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "processor": f"{processor()}, {os.cpu_count()} processors, {platform.system()}",
        "device": ", ".join(sorted({device.device_kind for device in jax.devices()})),
        "BLAS": _blas(),
        "jaxqr runs": kernels.status(),
        "environment": ", ".join(f"{name}={os.environ[name]}" for name in tuning) or "untuned",
    } | ({"warning": "; ".join(warnings())} if warnings() else {})


def optional(module: str) -> Any | None:
    """Imports a module; None where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def processor() -> str:
    """Names the processor."""
    try:
        models = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        models = []
    return models[0] if models else platform.processor() or platform.machine()


def busy(seconds: float = 1.0) -> float:
    """Returns how many processors other processes keep busy."""
    neighbours = Neighbours()
    time.sleep(seconds)
    measured = neighbours.processors()
    # The load average also counts what has just ended: second best.
    return os.getloadavg()[0] if measured is None else measured


def warnings() -> list[str]:
    """Says which settings keep the peers from running as fast as they can."""
    return [
        f"{name} is set: it holds BLAS back from the kernels that it would choose itself"
        for name in ("OPENBLAS_CORETYPE", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")
        if name in os.environ
    ]


def _blas() -> str:
    parts = []
    for module in (np, scipy):
        built: Any = module.show_config(mode="dicts")
        blas = built["Build Dependencies"]["blas"]
        parts.append(f"{module.__name__} {blas['name']} {blas['version']}")
    if (torch := optional("torch")) is not None:
        built_with = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
        name = built_with[1] if built_with else "unknown BLAS"
        parts.append(f"torch {name}, {torch.get_num_threads()} threads")
    parts.append("jax: scipy's, where it calls LAPACK")
    return "; ".join(parts + _kernels())


def _kernels() -> list[str]:
    """The kernels chosen at run time, where threadpoolctl is there to ask."""
    control = optional("threadpoolctl")
    pools = [] if control is None else control.threadpool_info()
    return [
        f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}"
        f" {pool['num_threads']} threads"
        for pool in pools
    ]


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    here = Path(__file__).parent
    try:
        answer = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()
