"""A plugin of pytest that writes each outcome as soon as it is known, a line of JSON each.

Where the tests are stopped, what was known until then stays. It is on the path of those tests
alone and imports nothing of the package, whose settings are the tests' own.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Writes from one process: that which hears of all tests."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Log(os.environ["JAXQR_OUTCOME_LOG"]))


class _Log:
    def __init__(self, path: str):
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Writes what becomes of a test: of its call, or of what keeps it from being called."""
        if report.when == "call" or report.outcome != "passed":
            message = "" if report.outcome == "passed" else _message(report)
            found = {"name": report.nodeid, "outcome": report.outcome, "message": message}
            with open(self._path, "a") as file:
                print(json.dumps({**found, "seconds": round(report.duration, 2)}), file=file)


def _message(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text: Any = crash.message if crash else report.longrepr
    return str(text[-1] if isinstance(text, tuple) else text)[:600]
