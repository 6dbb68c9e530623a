"""The benchmark program runs, finds the package's answers right and notices wrong ones."""

import json
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxqr
from benchmarks import aims, ceilings, contenders, machine, memory, report, run
from benchmarks.__main__ import main
from benchmarks.cases import DTYPES, WORKS, Cell, grid
from benchmarks.device import cells, races, suite
from benchmarks.device.worker import Worker
from benchmarks.race import Result, Row
from benchmarks.timing import Block, Schedule, take_turns

BRIEF = Schedule(rounds=1, block=0.01, pause=0.0)


@pytest.fixture(autouse=True)
def _as_users_have_it():
    """The benchmark is a program of its own: it does not run in the tests' strict world."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def test_every_work_is_checked_and_timed():
    rows = run([(20, 8, 4)], WORKS, ["f8"], BRIEF)
    assert [str(row.cell) for row in rows] == [f"{work}/20x8x4/f8" for work in WORKS]
    for row in rows:
        # Of least squares the reference is a formula: it must agree with more than one library.
        for name in ("jaxqr", "jnp") if row.cell.work.kind == "lstsq" else ("jaxqr",):
            assert row.results[name].status == "ok"
            assert row.results[name].seconds > 0


def test_a_wrong_answer_is_not_timed(monkeypatch):
    right = jaxqr.qr

    def wrong(a, *args, **options):
        q, r = right(a, *args, **options)
        return q * np.float64(1 + 1e-9), r

    monkeypatch.setattr(jaxqr, "qr", wrong)
    (row,) = run([(20, 8, 4)], ["qr"], ["f8"], BRIEF)
    assert row.results["jaxqr"].status == "wrong"


@pytest.mark.parametrize(
    "wrong_in, found",
    [("nothing", ""), ("x", "distance"), ("a", "gradient error"), ("b", "gradient error")],
)
def test_wrong_least_squares_are_not_timed(monkeypatch, wrong_in, found):
    right = jaxqr.lstsq

    def wrong(a, b):
        a = jax.lax.stop_gradient(a) if wrong_in == "a" else a
        b = jax.lax.stop_gradient(b) if wrong_in == "b" else b
        result = right(a, b)
        return result._replace(x=result.x * np.float64(1 + 1e-9 * (wrong_in == "x")))

    monkeypatch.setattr(jaxqr, "lstsq", wrong)
    (row,) = run([(4, 8)], ["lstsq_grad"], ["f8"], BRIEF, contenders.load(["jaxqr"]))
    assert row.results["jaxqr"].status == ("wrong" if found else "ok")
    assert row.results["jaxqr"].detail.startswith(found)


def test_operations_are_those_of_lapack():
    square, tall, wide = (flops(f"qr/{size}/f8") for size in ("300x300", "3000x30", "30x3000"))
    assert square == pytest.approx(8 / 3 * 300**3, rel=0.01)
    assert tall == pytest.approx(4 * 3000 * 30**2, rel=0.05)
    assert wide == pytest.approx(2 * 3000 * 30**2, rel=0.06)
    assert flops("lq/30x3000/f8") == flops("pivoted/3000x30/f4") == tall
    assert flops("qr/7x3000x30/c16") == pytest.approx(28 * tall)
    assert flops("lstsq/3000x30/f8") == pytest.approx(2 * 3000 * 30**2, rel=0.1)
    assert flops("lstsq/30x3000/f8") == flops("lstsq/3000x30/f8")


def flops(cell):
    return ceilings.flops(Cell.parse(cell))


def test_ceilings_stand_beside_small_values():
    rows = run([(20, 8, 4)], ["qr", "qr_grad"], ["f8"], BRIEF)
    peaks = ceilings.peak_rates(["f8", "c16"], 16)
    assert min(peaks.values()) > 0
    assert rows[0].floor > 0 and rows[1].floor is None
    values, gradients = report.tables(report.Run({}, rows, peaks)).split("\n\n")
    for column in ("GFLOP/s", "of peak", "jaxqr/floor"):
        assert column in values and column not in gradients


@pytest.mark.parametrize(
    "ours, verdict",
    [
        ([1.0, 1.0], "4.00  4.0      met  10000x3x3 f4 4.00  1.1      met"),
        ([1.0, 4.0], "2.00  4.0  not met  10000x3x3 f8 1.00  1.1  not met"),
        ([None, 1.0], "0.00  4.0  not met  10000x3x3 f4 0.00  1.1  not met"),
    ],
)
def test_aims_are_judged(ours, verdict):
    rows = [
        Row(cell, {"jaxqr": result(x), "jnp": result(9.0), "torch": result(4.0)}, 0.0)
        for cell, x in zip(grid(["qr"]), ours, strict=False)
    ]
    table = aims.summary(rows).splitlines()
    assert table[-1].split() == ["qr", "2", "of", "54", *verdict.split()]
    assert aims.summary([]) == ""


def test_the_aims_of_least_squares_count_jnp_and_torch():
    (cell, *others) = grid(["lstsq"])
    assert {cell.dtype, *(other.dtype for other in others)} == {"f4", "f8"}
    times = {"jaxqr": 1.0, "jnp": 9.0, "torch": 4.0, "scipy": 2.0, "gels": 0.5}
    row = Row(cell, {name: result(seconds) for name, seconds in times.items()}, 0.0)
    verdict = "4.00 2.0 met 10000x8x4 f4 4.00 1.0 met"
    assert aims.summary([row]).splitlines()[-1].split() == f"lstsq 1 of 12 {verdict}".split()


def result(seconds):
    if seconds is None:
        return Result("wrong")
    return Result("ok", blocks=[Block(seconds, seconds, seconds, 1)])


def test_the_aims_cells_exist():
    sizes = {(cell.size, cell.dtype) for cell in grid(["pivoted"])}
    wanted = ["10000x4x4", "1000x32x32", "256x256", "1024x1024", "2048x2048", "4096x64", "64x4096"]
    assert sizes >= {(size, dtype) for size in wanted for dtype in DTYPES}


def test_a_long_call_fills_its_block():
    calls = {"long": lambda: time.sleep(0.02), "short": lambda: time.sleep(0.001)}
    blocks = take_turns(calls, Schedule(rounds=2, block=0.01, pause=0.0, warmup=0.0))
    assert [block.calls for block in blocks["long"]] == [1, 1]
    assert all(block.calls >= 3 for block in blocks["short"])


def test_a_hopelessly_long_call_has_one_block():
    calls = {"hopeless": lambda: time.sleep(0.2), "long": lambda: time.sleep(0.02), "short": int}
    blocks = take_turns(calls, Schedule(rounds=2, block=0.02, pause=0.0, warmup=0.0))
    assert [len(blocks[name]) for name in calls] == [1, 2, 2]
    assert blocks["hopeless"][0].median >= 0.2


def test_the_header_names_the_kernels():
    assert machine.describe([])["jaxqr runs"] == jaxqr._lowering.kernels.status()


@pytest.mark.nightly
def test_growth_is_drawn_alike_from_what_was_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "busy", lambda: 0.0)
    path = tmp_path / "growth.json"
    brief = ["--rounds", "1", "--block", "0.01", "--pause", "0", "--peak", "8", "--dtypes", "f8"]
    limits = ["--batch-limit", "100", "--size-limit", "4"]
    assert main(["growth", *limits, *brief, "--json", str(path)]) == 0
    cells = [str(row.cell) for row in report.load(path).rows]
    assert cells == ["qr/100x4x4/f8", "qr/100x8x8/f8", "qr/4x4/f8"]
    pictures = [tmp_path / f"growth-qr-{sweep}.svg" for sweep in ("batch", "size")]
    first = [picture.read_bytes() for picture in pictures]
    assert main(["growth", "--show", str(path)]) == 0
    assert first == [picture.read_bytes() for picture in pictures]
    assert not any(b"<dc:date>" in picture for picture in first)


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_memory_contains_the_results(tmp_path):
    (footprint,) = memory.measure(grid(["qr"], ["f8"], [(512, 512)]))
    assert not memory.failures([footprint])
    for need in footprint.needs.values():
        assert need.argument == 8 * 512**2
        assert need.growth > 0.9 * need.output >= 0.9 * 2 * need.argument
    memory.save(tmp_path / "memory.json", {}, [footprint])
    assert "512x512" in memory.tables([footprint])


# ---------------------------------------------------------------------------- on a device


def test_all_parts_of_the_command_for_a_device_run(tmp_path):
    path = tmp_path / "device.json"
    tests = "tests/gpu -k empty_matrices"
    assert main(["device", "--dry", "--limit", "300", "--tests", tests, "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert record["errors"] == record["skipped"] == []
    assert record["machine"]["platform"] == "cpu"
    assert record["rates"]["copy"] > 0 and min(record["rates"]["products"].values()) > 0
    assert record["suite"]["counts"] == {"passed": 4}
    assert all(row["results"]["jaxqr"]["status"] == "ok" for row in record["checks"])
    assert [row["part"] for row in record["races"]] == list(cells.RACES)
    for row in record["races"]:
        for name in ("jaxqr", "jnp", "jaxqr without kernels"):
            assert row["results"][name]["seconds"] > 0
        ours = row["results"]["jaxqr"]
        assert ours["of_copy"] > 0 and ours["of_product"] > 0 and ours["single"] > 0
        assert ours["facts"]["launches"] > 0
    assert len(record["solves"]) == len(cells.SOLVES)


def test_every_race_is_of_a_problem_whose_right_answer_is_known():
    kinds = {cell.work.name: cell for group in cells.RACES.values() for cell in group}
    for cell in kinds.values():
        small = Cell(cell.work, cells.small(cell.shape), "f8")
        (result,) = races.race(small, contenders.load(["jnp"]), BRIEF).values()
        assert result.status == "ok"
        assert result.single > 0


def test_only_r_is_checked_too(monkeypatch):
    cell = Cell(cells.RACES["R alone"][0].work, (2, 5, 3), "f8")
    right = jaxqr.qr
    monkeypatch.setattr(jaxqr, "qr", lambda a, mode: right(a, mode) * np.float64(1 + 1e-9))
    (result,) = races.race(cell, contenders.load(["jaxqr"]), BRIEF).values()
    assert result.status == "wrong"


def test_shares_are_of_what_is_moved_and_computed_once():
    cell = Cell.parse("qr/10x6x4/f8")
    rates = {"copy": 8.0 * 10, "products": {"f8": ceilings.flops(cell)}}
    # A, Q and R have 24, 24 and 16 entries
    assert races.shares(cell, 2.0, rates) == {"of_copy": 32.0, "of_product": 0.5}


def test_a_task_that_ends_its_process_or_hangs_costs_only_itself(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text(
        """#!/bin/sh
while read task; do
  case "$task" in
    die) echo last words >&2; exit 7 ;;
    hang) exec sleep 100 ;;
    *) echo "{\\"task\\": \\"$task\\"}" ;;
  esac
done
"""
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    worker = Worker([], os.environ)
    asked = ("one", "die", "two", "hang", "three")
    answers = [worker.ask(task, 0.5 if task == "hang" else 20) for task in asked]
    worker.close()
    assert [answer.get("task") for answer in answers] == ["one", None, "two", None, "three"]
    assert answers[1]["error"] == "the process ended with 7: last words"
    assert answers[3]["error"].startswith("no answer within")


def test_outcomes_of_tests_that_are_stopped_are_kept(tmp_path):
    path = tmp_path / "test_it.py"
    path.write_text(
        """import time, pytest
def test_right(): pass
def test_wrong(): assert 1 == 2
def test_left_out(): pytest.skip("why not")
def test_endless(): time.sleep(1000)
"""
    )
    found = suite.run([str(path), "-p", "no:cacheprovider"], os.environ, 6, parallel=False)
    assert found["counts"] == {"passed": 1, "failed": 1, "skipped": 1}
    (failed,) = found["failed"]
    assert failed["name"].endswith("::test_wrong") and "assert 1 == 2" in failed["message"]
    assert found["stopped"] == "after 6 s"
