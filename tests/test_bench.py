"""The floor is counted right, every measurement is there, and the command says so; nothing here looks at speed."""

import dataclasses
import io
import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from itertools import islice

import pytest
import torch
from rich.console import Console
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from optbench import bench
from optbench.bench import Benchmark, Measurement
from optbench.errors import UserError
from optbench.networks.network import Network
from optbench.report import checks, formats

TINY = ("--trials", "1,2", "--repeats", "1", "--seconds", "0.2", "--workers", "1")
MEASURED = Benchmark(
    device="2-core CPU",
    precision="fp32",
    workers=2,
    threads=2,
    seconds=1.0,
    copy_rates=(10e9, 20e9, 15e9),
    matmul_rates=(200e9, 210e9, 220e9),
    convolution_rates=(400e9, 390e9, 380e9),
    measurements=(
        Measurement(None, 64, (6000.0, 6500.0, 5500.0), (1.0, 1.0, 1.0)),
        Measurement(4, 64, (12000.0, 13000.0, 11000.0), (2.0, 2.0, 2.0)),
    ),
)


def start(*arguments, **environment):
    command = [sys.executable, "-W", "error", "-m", "optbench", "bench", "--device", "cpu", *map(str, arguments)]
    env = os.environ | {"COLUMNS": "80"} | environment
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def run(*arguments, code=0):
    with start(*arguments) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


# ---------------------------------------------------------------- the floor


@pytest.mark.parametrize("batch_size", [1, 5])
def test_operations_are_those_that_torch_counts(batch_size):
    net = bench.SequentialNet()
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(net(torch.randn(batch_size, 1, 28, 28)), torch.zeros(batch_size, dtype=torch.int64)).backward()
    assert bench.step_operations(1, batch_size) == counter.get_total_flops()
    assert bench.step_operations(3, batch_size) == 3 * counter.get_total_flops()


def test_bytes_are_those_counted_by_hand():
    # Images 2·784·64; pooled activations 2·4608·4·64 and their winners 2·4608·64; 300,426 parameters, 10 times 4 bytes.
    assert bench.step_bytes(1, 64) == 100_352 + 2_359_296 + 589_824 + 12_017_040
    assert bench.step_bytes(1, 64, "bf16") == 100_352 + 2_359_296 / 2 + 589_824 + 12_017_040
    assert bench.step_bytes(4, 64) == 100_352 + 4 * (2_359_296 + 589_824 + 12_017_040)


def test_the_sequential_loop_trains_the_same_network():
    shapes = {name: tuple(p.shape) for name, p in bench.SequentialNet().named_parameters()}
    assert shapes == Network().architecture.shapes


def test_bounds_are_bytes_and_operations_at_the_best_rates():
    loop, stacks = MEASURED.measurements
    assert MEASURED.bounds(loop) == (bench.step_bytes(1, 64) / 20e9, bench.step_operations(1, 64) / 400e9)
    assert MEASURED.bounds(stacks)[0] == bench.step_bytes(4, 64) / 4 / 20e9
    assert stacks.step_seconds == 64 / 12000


# ---------------------------------------------------------------- what is shown


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_a_terminal(width):
    stream = io.StringIO()
    formats.print_table(checks.throughput(MEASURED), Console(file=stream, width=width))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    (row,) = [line.split() for line in lines if line.startswith("4 × 64")]
    assert row[3:7] == ["12.0", "(11.0–13.0)", "2.00", "(2.00–2.00)"]
    memory, arithmetic = (bound / (64 / 12000) for bound in MEASURED.bounds(MEASURED.measurements[1]))
    assert row[7:] == [f"{100 * memory:.1f}", f"{100 * arithmetic:.1f}", "5.33"]
    text = " ".join(stream.getvalue().split())
    assert "20.0 GB/s" in text and "400 GFLOP/s" in text and "2 single-threaded processes" in text


def test_a_gpu_has_neither_processes_nor_threads():
    gpu = Benchmark("a GPU", "tf32", None, 8, 1.0, (1e12,), (5e13,), (4e13,), MEASURED.measurements)
    caption = checks.throughput(gpu).caption
    assert "process" not in caption and "thread" not in caption


def test_an_unsteady_measurement_is_warned_of():
    unsteady = Measurement(None, 64, (100.0, 160.0), (1.0, 1.0))
    busy = dataclasses.replace(MEASURED, measurements=(unsteady,))
    assert "The spread is wide" in checks.throughput(busy).caption
    assert "The spread is wide" not in checks.throughput(MEASURED).caption


# ---------------------------------------------------------------- the command


@pytest.mark.slow
def test_json_holds_everything_that_was_measured():
    out, err = run(*TINY, "--repeats", "2", "--seconds", "0.01", "--batch-size", "8,16", "--format", "json")
    content = json.loads(out)
    assert content["version"] == bench.JSON_VERSION
    assert content["torch_version"] == torch.__version__
    assert content["device"].endswith("-core CPU")
    assert (content["workers"], content["repeats"], content["precision"]) == (1, 2, "fp32")
    spreads = list(content["ceilings"].values())
    assert set(content["ceilings"]) == {
        "copy_bytes_per_second",
        "matmul_operations_per_second",
        "convolution_operations_per_second",
    }
    rows = content["measurements"]
    assert [(row["batch_size"], row["trials"]) for row in rows] == [
        (batch_size, trials) for batch_size in (8, 16) for trials in (None, 1, 2)
    ]
    for row in rows:
        spreads += [row["throughput"], row["ratio"]]
        shares = [row[name] for name in ("step_seconds", "floor_seconds", "memory_share", "arithmetic_share")]
        assert all(0 < value < math.inf for value in shares)
        assert row["step_bytes"] == bench.step_bytes(row["trials"] or 1, row["batch_size"])
    for spread in spreads:
        assert len(spread["values"]) == 2
        assert 0 < spread["min"] <= spread["median"] <= spread["max"] < math.inf
    assert content["complete"]
    for name in ("copy", "matmul", "convolution", "loop × 8", "2 × 16"):
        assert re.search(rf"^{name}, repeat 2/2: [\d,.]+ (GB/s|GFLOP/s|images × trials per second)$", err, re.MULTILINE)


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_what_it_measured_as_json(tmp_path):
    path = tmp_path / "throughput.json"
    path.write_text("of an earlier run", encoding="utf-8")
    with start(*TINY, "--batch-size", "8", "-o", path) as process:
        for line in process.stderr:
            if line.startswith("matmul, repeat 1/1"):
                early = json.loads(path.read_text(encoding="utf-8"))
            if line == "1 × 8: warming up\n":
                break
        process.kill()
    assert early["ceilings"]["copy_bytes_per_second"]["values"] and not early["measurements"]
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["complete"] is False
    assert all(len(spread["values"]) == 1 for spread in content["ceilings"].values())
    (loop,) = content["measurements"]
    assert loop["trials"] is None and loop["throughput"]["median"] > 0


def test_what_was_measured_before_memory_ran_out_is_there(monkeypatch):
    @contextmanager
    def meters(*_):
        def ask(method, *arguments):
            if method == "start" and arguments[0] == 2:
                raise torch.OutOfMemoryError
            return [1.0]

        yield ask

    monkeypatch.setattr(bench, "_meters", meters)
    measured = bench.measure(bench.Request("cpu", "fp32", 1, [1, 2, 4], [8], 2, 0.01), lambda _: None)
    *_, last = islice(measured, 2 * 3 + 2)  # the ceilings twice, the loop and one trial once
    with pytest.raises(UserError, match="too little memory"):
        next(measured)
    assert [(m.trials, len(m.throughput), len(m.ratios)) for m in last.measurements] == [(None, 1, 1), (1, 1, 1)]
    assert last.repeats == 2 and not last.is_complete


@pytest.mark.slow
def test_the_table_goes_to_a_file(tmp_path):
    out, err = run(
        *TINY, "--trials", "1", "--precision", "bf16", "--batch-size", "8", "-o", tmp_path / "throughput.txt"
    )
    assert out == ""
    assert err.endswith(f"wrote {tmp_path / 'throughput.txt'} (table)\n")
    text = (tmp_path / "throughput.txt").read_text(encoding="utf-8")
    assert (
        text.startswith("Training throughput, ")
        and "\n1 × 8 " in text
        and "\nloop × 8 " in text
        and "Adam, bf16," in text
    )


@pytest.mark.slow
def test_ctrl_c_ends_it():
    with start(*TINY, "--repeats", "1000") as process:
        assert [process.stderr.readline().split(":")[0] for _ in range(2)] == ["starting\n", "copy, repeat 1/1000"]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == "" and err.endswith("interrupted\n") and "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--trials", "0"], "--trials 0: must be whole numbers of at least 1"),
        (["--trials", "1,many"], "--trials 1,many: must be whole numbers"),
        (["--batch-size", "-64"], "--batch-size -64: must be whole numbers"),
        (["--batch-size", "64,60000"], "--batch-size 60000: larger than the training set of 55000 images"),
        (["--seconds", "0"], "--seconds 0: must be more than 0"),
        (["--seconds", "nan"], "--seconds nan: must be more than 0"),
        (["--device", "tpu"], "--device tpu: valid: auto, cpu, cuda, cuda:N"),
        (["--output", "no/such/file"], "no/such/file: cannot be written: no such folder"),
        (["--workers", "0"], "workers"),
        (
            ["--device", "cpu", "--precision", "tf32"],
            "precision tf32 needs an NVIDIA GPU of compute capability 8.0 or newer; on a CPU: fp32 or bf16",
        ),
    ],
)
def test_what_the_user_can_mend_is_exit_code_2(arguments, expected):
    from typer.testing import CliRunner

    from optbench.cli import app

    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2
    assert expected in result.output


def test_a_worker_that_fails_or_dies_is_said():
    with bench._meters("cpu", "fp32", 1) as ask:
        with pytest.raises(RuntimeError, match="no_such_method"):
            ask("no_such_method")
        with pytest.raises(UserError, match="too little memory"):
            ask("copy_rate", 2**60, 0.1)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        with pytest.raises(UserError, match="a worker process died"):
            ask("forget")
    assert multiprocessing.active_children() == []
