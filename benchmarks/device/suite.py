"""The project's own tests of a device, in processes of their own, for as long as there is time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import optional

_ROOT = Path(__file__).parent.parent.parent
_PLUGIN = Path(__file__).parent / "pytest_plugin"

# Compilation takes most of the time, so several processes share the device.
_PROCESSES = 8


def run(
    tests: Sequence[str], environment: Mapping[str, str], seconds: float, parallel: bool = True
) -> dict[str, Any]:
    """Runs tests.

    Args:
      tests: arguments of pytest.
      environment: its environment variables.
      seconds: after which it is stopped.
      parallel: whether several processes may share the device.

    Returns:
      How many tests have which outcome, the names and messages of those that failed, and why not
      all of them ran, if so.
    """
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        log, output = Path(scratch, "outcomes"), Path(scratch, "output")
        log.touch()
        path = os.pathsep.join(filter(None, (str(_PLUGIN), environment.get("PYTHONPATH"))))
        variables = {**environment, "PYTHONPATH": path, "JAXQR_OUTCOME_LOG": str(log)}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "outcome_log", *tests]
        if parallel and optional("xdist") is not None:
            command += ["-n", str(min(_PROCESSES, os.cpu_count() or 1))]
        with output.open("w") as file:
            stopped = _run(command, variables, file, seconds)
        outcomes = [json.loads(line) for line in log.read_text().splitlines()]
        end = output.read_text().splitlines()[-1:]
    return {
        "counts": dict(Counter(outcome["outcome"] for outcome in outcomes)),
        "failed": [x for x in outcomes if x["outcome"] == "failed"],
        "stopped": stopped,
        "last line": end[0] if end else "",
        "seconds": round(time.monotonic() - begin, 1),
    }


def _run(command: list[str], variables: dict[str, str], output: Any, seconds: float) -> str:
    """Runs the command in a session of its own, as it starts processes; why it was stopped."""
    process = subprocess.Popen(
        command,
        cwd=_ROOT,
        env=variables,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"after {seconds:.0f} s"
    return ""
