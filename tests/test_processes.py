"""The example of several processes: two of them on this machine, with four devices each."""

import contextlib
import hashlib
import os
import re
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from laws import mostly_nightly
from surroundings import load_example

example, PATH = load_example("tall_matrix")
ROWS, COLUMNS = 4003, 6  # five rows of zeros are added, for eight devices
HELD = [(0, 2004), (2004, 4008)]  # by the processes
LINE = re.compile(
    r"process (\d) of 2: rows (\d+) to (\d+) of 4008, R ([0-9a-f]{16}), all checks passed"
)


def free(port):
    """The port itself (if 0, any), if nobody listens there, or None."""
    with socket.socket() as found, contextlib.suppress(OSError):
        found.bind(("127.0.0.1", port))
        return found.getsockname()[1]


def by_options():
    options = ["--coordinator", f"127.0.0.1:{free(0)}", "--processes", "2"]
    return [([*options, "--process", str(i)], {}) for i in range(2)]


def by_cluster():
    """What Slurm would set; JAX makes the port of the job's number."""
    job = next(job for job in range(os.getpid() % 4096, 8192) if free(61440 + job % 4096))
    common = {
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{61440 + job % 4096}",
    }
    return [([], common | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}) for i in range(2)]


def run(folder, starts):
    """Run one process for each of `starts`, (arguments, environment); kill all if one fails."""
    base = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS" and not k.startswith("SLURM_")}
    processes, deadline = [], time.monotonic() + 120
    try:
        for i, (arguments, extra) in enumerate(starts):
            command = [sys.executable, "-W", "error", str(PATH), "--cpu-devices", "4", *arguments]
            with (folder / f"out{i}").open("w") as out, (folder / f"err{i}").open("w") as err:
                processes.append(
                    subprocess.Popen(command, stdout=out, stderr=err, env=base | extra)
                )
        while any(process.poll() is None for process in processes):
            failed = any(process.returncode for process in processes)
            if failed or time.monotonic() > deadline:
                break
            time.sleep(0.05)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
    texts = [[(folder / f"{k}{i}").read_text() for k in ("out", "err")] for i in range(len(starts))]
    return [process.returncode for process in processes], *zip(*texts, strict=True)


def dense_loss(a, b):
    q, r = jnp.linalg.qr(a)
    errors = (b - a @ jnp.linalg.solve(a.T @ a, a.T @ b)) / (1 - jnp.sum(q**2, axis=1))
    return jnp.log(jnp.sum(errors**2)) - jnp.sum(jnp.log(jnp.abs(jnp.diagonal(r))))


@pytest.mark.parametrize(
    "how", mostly_nightly([(by_options,), (by_cluster,)], lambda how: how is by_options)
)
def test_two_processes_find_what_one_finds_of_the_whole_matrix(how, tmp_path):
    arguments = ["--rows", str(ROWS), "--columns", str(COLUMNS), "--save", str(tmp_path)]
    starts = [([*arguments, *own], environment) for own, environment in how()]
    status, out, err = run(tmp_path, starts)
    assert status == [0, 0], "\n".join(out + err)

    saved = [np.load(tmp_path / f"process{i}.npz") for i in range(2)]
    a, b = (f(0, ROWS, COLUMNS) for f in (example.design, example.observations))
    r = np.linalg.qr(a)[1]
    r *= np.sign(np.diagonal(r))[:, None]
    value, gradients = jax.jit(jax.value_and_grad(dense_loss, (0, 1)))(a, b)
    for i, (first, beyond) in enumerate(HELD):
        process, start, last, digest = LINE.search(out[i]).groups()
        assert (int(process), int(start), int(last) + 1) == (i, first, beyond)
        assert digest == hashlib.sha256(saved[0]["R"].tobytes()).hexdigest()[:16]
        np.testing.assert_array_equal(saved[i]["R"], saved[0]["R"])
        np.testing.assert_allclose(saved[i]["R"], r, rtol=0, atol=1e-13 * np.abs(r).max())
        np.testing.assert_allclose(saved[i]["x"], np.linalg.lstsq(a, b)[0], rtol=1e-12)
        np.testing.assert_allclose(saved[i]["loss"], value, rtol=1e-13)
        assert saved[i]["start"] == first
        for name, gradient in zip(("gradient", "gradient_b"), gradients, strict=True):
            got, want = saved[i][name], gradient[first:beyond]
            assert len(got) == beyond - first
            tolerance = 1e-12 * np.abs(gradient).max()
            np.testing.assert_allclose(got[: len(want)], want, rtol=0, atol=tolerance)

    assert "bytes" not in out[1]  # process 0 speaks for all
    whole, size = (int(found) for found in re.findall(r"(\d+) bytes", out[0]))
    assert whole == a.nbytes
    assert size < whole  # all of it: rows, results, and what is between; no device gathers


def test_a_process_makes_the_rows_of_its_own_devices_once():
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), example.AXES)
    asked = []

    def rows(start, stop, columns):
        asked.append((start, stop))
        return np.full((stop - start, columns), 1.0 + start)

    x = example.spread(rows, 19, 2, mesh, (24, 2))
    blocks = [(start, min(start + 3, 19)) for start in range(0, 24, 3)]
    assert sorted(asked) == [(start, max(start, stop)) for start, stop in blocks]
    start, held = example.own(x)
    assert start == 0
    first = 1.0 + np.arange(24) // 3 * 3
    np.testing.assert_array_equal(held, np.where(np.arange(24) < 19, first, 0.0)[:, None] * [1, 1])


@pytest.mark.nightly
def test_processes_that_do_not_find_each_other_say_so(tmp_path):
    options = ["--timeout", "2", "--coordinator", f"127.0.0.1:{free(0)}", "--processes", "3"]
    for process, words in ((0, "not all processes have come"), (1, "no coordinator answers")):
        status, _, err = run(tmp_path, [([*options, "--process", str(process)], {})])
        assert status == [2]
        assert f"tall_matrix: {words}" in err[0]
        assert "within 2 s" in err[0]
    status, _, err = run(tmp_path, [([], {})])
    assert status == [2]
    assert "tall_matrix: JAX found no cluster" in err[0]


def test_a_port_in_use_is_refused(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        at = f"127.0.0.1:{other.getsockname()[1]}"
        options = ["--coordinator", at, "--processes", "2", "--process", "0"]
        status, _, err = run(tmp_path, [(options, {})])
    assert status == [2]
    assert f"process 0 cannot listen at {at}" in err[0]


@pytest.fixture
def configuration():
    """Of JAX, as it was before."""
    name = "jax_default_matmul_precision"
    before = getattr(jax.config, name)
    yield
    jax.config.update(name, before)


@pytest.mark.usefixtures("configuration")
def test_a_check_that_fails_makes_the_status_one(capsys, monkeypatch):
    arguments = ["--processes", "1", "--rows", "160", "--columns", "2"]
    monkeypatch.setattr(example, "STEP", 1.0)  # too long for a central difference
    assert example.main(arguments) == 1
    out = capsys.readouterr().out
    assert "slope against a difference" in out
    assert out.count("FAILED") == 2  # the check and the process


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--process", "1"], "must be given together"),
        (["--coordinator", "127.0.0.1:1", "--processes", "2", "--process", "2"], "from 0 to 1"),
        (["--coordinator", "here"], "must be HOST:PORT, got here"),
        (["--processes", "1", "--rows", "3", "--columns", "4"], "at least --columns, got 3, 4"),
    ],
)
def test_options_that_cannot_be_are_refused(arguments, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        example.parse(arguments)
    assert words in capsys.readouterr().err
