"""README, CONTRIBUTING and docs: commands are marked, links and files are there, examples run."""

import json
import re

import pytest

from benchmarks import report
from benchmarks.patch.clients import CLIENTS
from benchmarks.patch.command import client_rows, speed_range, table
from figures import RESULTS, measured
from surroundings import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("name", ["install", "test"])
def test_a_command_is_marked_for_continuous_integration(name):
    (command,) = re.findall(rf"^<!-- command: {name} -->\n```sh\n(.+?)^```$", README, re.M | re.S)
    assert ".venv/bin/" in command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_python_is_a_doctest(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        assert block.startswith(">>> ") and block.endswith("\n\n"), block


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    section = ""
    for line in text.splitlines():
        if folder := re.fullmatch(r"## `(.+/)`", line):
            section = folder[1]  # files below are in it
        for name in re.findall(r"`([\w./-]+\.(?:py|cc|h|md|json|ipynb)|[\w./]+/)`", line):
            assert (ROOT / name).exists() or (ROOT / section / name).exists(), name


def test_every_page_is_reached_from_readme():
    assert {f"docs/{page.name}" for page in ROOT.glob("docs/*.md")} <= set(
        re.findall(r"\]\(([^)]+)\)", README)
    )


def test_the_page_on_speed_says_what_was_measured():
    page = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    number = r"([\d.]+)"
    line = rf"^\| [^|]+ \| {number} \| {number} \| {number}, {number} \| {number} \|$"
    assert re.findall(line, page, re.MULTILINE) == list(measured().values())
    rows = report.load(RESULTS / "randomized.json").rows
    margins = {str(row.cell): report.speedup(row, "jnp") for row in rows}
    single, double = (margins[f"randomized/2048x2048/{dtype}"] for dtype in ("f4", "f8"))
    assert f"is {single:.1f} times (float32) and {double:.1f} times (float64) as fast" in page


def test_the_page_on_the_patch_says_what_was_measured():
    page = (ROOT / "docs/patch.md").read_text(encoding="utf-8")
    rows = json.loads((RESULTS / "patch.json").read_text(encoding="utf-8"))["rows"]
    assert f"\n\n{table(client_rows(rows))}\n\n" in page
    assert len(client_rows(rows)) == len(CLIENTS)
    (least_r, most_r), (least_q, most_q) = (speed_range(rows, f"{x} alone") for x in "RQ")
    words = " ".join(page.split())
    assert f"R alone is {least_r:.1f} to {most_r:.0f} times as fast" in words
    assert f"Q alone {least_q:.1f} to {most_q:.0f} times" in words
    assert least_r > 1 and least_q > 1
