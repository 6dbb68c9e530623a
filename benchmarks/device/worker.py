"""Runs the process of `benchmarks.device.tasks`, and starts it anew where it dies or hangs.

A kernel that writes where it must not leaves its process without a device, one that waits for ever
does not come back: neither may cost more than its own task.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent.parent


class Worker:
    """A process that answers one task after another; it starts with the first."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]):
        """Takes the arguments of `benchmarks.device.tasks` and the environment variables."""
        self._command = [sys.executable, "-m", "benchmarks.device.tasks", *arguments]
        self._environment = dict(environment)
        self._process: subprocess.Popen[str] | None = None

    def ask(self, task: str, seconds: float) -> dict[str, Any]:
        """Asks for a task.

        Args:
          task: as `benchmarks.device.tasks.serve` knows it.
          seconds: that it may take, the start of the process included.

        Returns:
          The answer, or why there is none as ``error``.
        """
        process = self._process or self._start()
        try:
            assert process.stdin is not None
            process.stdin.write(f"{task}\n")
            process.stdin.flush()
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            self.close()
            return {"error": f"no answer within {seconds:.0f} s"}
        except OSError:
            line = ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        process.wait()
        said = self._last_words()
        self.close()
        return {"error": f"the process ended with {process.returncode}: {said}"}

    def close(self) -> None:
        """Ends the process, if there is one."""
        if (process := self._process) is not None:
            process.kill()
            process.wait()
            self._reader.join()
            for file in (process.stdin, process.stdout, self._errors):
                with contextlib.suppress(OSError):  # what was written to a process that is dead
                    file and file.close()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        # open for as long as the process lives
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = process = subprocess.Popen(
            self._command,
            cwd=_ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(process, self._lines), daemon=True)
        self._reader.start()
        return process

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")  # it has ended

    def _last_words(self) -> str:
        self._errors.seek(0)
        said = [line for line in self._errors.read().splitlines() if line.strip()]
        return " / ".join(said[-3:])[-500:] or "nothing said"
