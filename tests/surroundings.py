"""What is around a test: the kernels that may be there, other processes, the examples."""

import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import sanitizers
from jaxqr._lowering import kernels

ROOT = Path(__file__).resolve().parents[1]
needs_kernels = pytest.mark.skipif(not kernels.available(), reason=kernels.status())
needs_emulation = pytest.mark.skipif(
    sanitizers.COMPILER is None or platform.system() != "Linux",
    reason="no compiler with which CUDA's kernels could be built for this CPU",
)


def python(*arguments, check=True, cwd=None, timeout=300, **environment):
    """Run an interpreter of its own, where warnings are errors and there is one device."""
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)],
        env={**inherited, "JAX_PLATFORMS": "cpu", **environment},
        cwd=cwd,
        timeout=timeout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


def load_example(name):
    """A script of the examples as a module, and its path."""
    path = ROOT / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, path
