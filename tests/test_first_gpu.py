"""The script for a new GPU: a step costs only itself, what is wrong is found, and all of it runs on a CPU."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from optbench.networks.forward import WAYS
from optbench.training import step

PEERS = Path(__file__).resolve().parents[1] / "experiments" / "peers"
pytestmark = pytest.mark.skipif(shutil.which("timeout") is None, reason="needs timeout, of GNU coreutils")


def run_steps(folder, *steps, limit):
    """Exit code, log, and what the summary says: (exit code, name) of each step."""
    script = f"set -u\n. {PEERS}/steps.sh\n_grace=1\n" + "\n".join(steps) + f"\nrun_steps {folder}/all {limit}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, (folder / "all.log").read_text(encoding="utf-8"), summary(folder / "all-summary.txt")


def summary(path):
    _, *lines = path.read_text(encoding="utf-8").splitlines()
    return [(int(line.split()[0]), line.split()[-1]) for line in lines]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


# ---------------------------------------------------------------- steps


def test_a_step_that_fails_or_hangs_costs_only_itself(tmp_path):
    code, log, steps = run_steps(
        tmp_path,
        "step 1 passes echo 'one  thing' \"it's\"",
        "step 1 fails bash -c 'echo broken >&2; exit 3'",
        # Nothing but SIGKILL ends it and what it has started.
        "step 1 hangs bash -c 'trap \"\" TERM; sleep 60 & echo child $!; wait'",
        "step 3 last echo still there",
        limit=6,
    )
    assert code == 1
    assert steps == [(0, "passes"), (3, "fails"), (137, "hangs"), (0, "last")]
    for printed in ("one  thing it's", "broken", "still there"):
        assert f"\n{printed}\n" in log
    assert not is_running(re.search(r"^child (\d+)$", log, re.MULTILINE)[1])


def test_steps_that_pass_are_a_success_and_share_the_time_by_what_they_are_expected_to_take(tmp_path):
    code, log, _ = run_steps(tmp_path, "step 1 short true", "step 3 long true", limit=400)
    assert code == 0
    # The log is of the last run alone.
    limits = [int(limit) for limit in re.findall(r"at most (\d+) s", log)]
    assert limits[0] == 400 // 4 - 1 and limits[1] in (399, 398)  # what the first one left is the second one's


# ---------------------------------------------------------------- what the steps run


@pytest.fixture
def main(monkeypatch, tmp_path):
    """Runs a script's `main` in this process; returns what that does, and the lines of JSON that it wrote."""
    monkeypatch.syspath_prepend(str(PEERS))

    def run(name, *arguments):
        module, output = importlib.import_module(name), tmp_path / "lines.jsonl"
        output.unlink(missing_ok=True)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments), "--device", "cpu", "--output", str(output)])
        code = module.main()
        return code, [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]

    return run


SMALL = ("--trials", "2", "--timed", "1,2", "--batch-size", "2", "--repeats", "1", "--parameters", "100")


def test_a_candidate_is_held_against_float64(main):
    code, (errors, *timed) = main("candidates", "convolution", "grouped", "--precision", "fp32", *SMALL)
    assert code == 0
    assert 0 < errors["loss_error"] < 1e-5 and 0 < errors["gradient_error"] < 1e-4
    assert [figures["trials"] for figures in timed] == [1, 2]
    assert all(figures["launched_milliseconds"] > 0 for figures in timed)


@pytest.mark.parametrize("factor", [1.5, float("nan")])
def test_a_candidate_with_other_gradients_is_an_error(factor, main, monkeypatch):
    monkeypatch.setitem(WAYS, "wrong", lambda *given: WAYS["grouped"](*given) * factor)
    code, lines = main("candidates", "convolution", "wrong", *SMALL)
    assert code == 1
    assert {figures["precision"] for figures in lines} == {"fp32", "tf32", "bf16"}  # all are measured nevertheless


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_recording_is_held_against_what_it_recorded(is_broken, main, monkeypatch):
    def record(work, *_):
        work()
        outputs = next(cell.cell_contents for cell in work.__closure__ if isinstance(cell.cell_contents, list))
        return (lambda: [tensor.zero_() for tensor in outputs]) if is_broken else work

    monkeypatch.setattr(step, "record", record)
    code, (_, figures, _) = main("candidates", "convolution", "grouped", "--precision", "fp32", *SMALL)
    assert code == is_broken
    assert figures["replay_error"] == is_broken


def test_the_kernels_of_updates_are_held_against_the_rules(main):
    pytest.importorskip("triton")
    from optbench.training.update_kernels import UPDATES

    for name in UPDATES:
        code, (errors, kernel, rule) = main("candidates", "update", name, *SMALL)
        assert code == 0 and 0 < errors["error"] < 1e-4
        assert kernel["kernel_milliseconds"] > 0 and rule["rule_milliseconds"] > 0


def test_a_recorded_step_is_held_against_the_step(main, monkeypatch, tiny):
    monkeypatch.syspath_prepend(str(PEERS))
    import candidates

    monkeypatch.setattr(candidates, "load", lambda name: tiny)
    code, (recorded, launched, errors) = main("candidates", "step", "adam", "--trials", "2")
    assert code == 0 and errors["replay_error"] == 0
    assert [figures["how"] for figures in (recorded, launched)] == ["recorded", "launched"]


def test_a_profile_names_what_takes_the_time(main, capsys):
    _, lines = main("profile_step", "--trials", "1", "--batch-size", "2", "--steps", "2", "--top", "3")
    assert [figures["profile"] for figures in lines] == ["recorded", "launched"]
    for figures in lines:
        times = [kernel["milliseconds"] for kernel in figures["kernels"]]
        assert len(times) == 3 and times == sorted(times, reverse=True) and times[-1] > 0
    assert lines[0]["kernels"][0]["kernel"] in capsys.readouterr().out


def rows(epochs, status="finished"):
    return pd.DataFrame(
        {
            "trial_id": [f"t{i}" for i in range(len(epochs))],
            "configuration_id": [f"c{i}" for i in range(len(epochs))],
            "epoch": epochs,
            "status": [status] + ["finished" if epoch == 9 else "stopped" for epoch in epochs[1:]],
            "val_accuracy": [0.9 + epoch / 100 for epoch in epochs],
            "device": "a device",
            "precision": "fp32",
        }
    )


@pytest.mark.parametrize(
    ("other", "code"),
    [
        (rows([1, 1, 1, 3, 3, 9]), 0),
        (rows([1, 1, 3, 1, 3, 9]), 1),  # two of six changed places
        (rows([1, 1, 1, 3, 3, 9], "failed"), 1),
        (rows([1, 1, 1, 3]), 1),  # two are missing
    ],
)
def test_verdicts_of_two_devices_are_compared(other, code, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(PEERS))
    import verdicts

    for name, frame in (("a", rows([1, 1, 1, 3, 3, 9])), ("b", other)):
        (tmp_path / name).mkdir()
        frame.to_parquet(tmp_path / name / "part.parquet")
    output = tmp_path / "both.parquet"
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(output)])
    assert verdicts.main() == code
    assert len(pd.read_parquet(output)) == 6 + len(other)


# ---------------------------------------------------------------- the script


def test_the_script_tries_every_candidate():
    pytest.importorskip("triton")
    from optbench.training.update_kernels import UPDATES

    script = (PEERS / "first_gpu.sh").read_text(encoding="utf-8")
    named = {word for names in re.findall(r"for name in (.*); do", script) for word in names.split()}
    assert {*WAYS, *UPDATES} - {"triton"} <= named  # Triton has a step for each precision


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="tries on a CPU what is for a GPU")
@pytest.mark.parametrize("part", "123")
def test_every_part_runs_on_a_cpu(part, tmp_path):
    pytest.importorskip("triton")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"DEVICE": "cpu", "PATH": path, "LIMIT": "7200"}  # on a busy machine it takes long
    command = ["bash", str(PEERS / "first_gpu.sh"), str(tmp_path / "out"), part]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    log = (tmp_path / "out" / f"part{part}.log").read_text(encoding="utf-8")
    steps = summary(tmp_path / "out" / f"part{part}-summary.txt")
    assert [name for code, name in steps if code] == [], log
    assert done.returncode == 0 and steps
    assert len(list((tmp_path / "out").iterdir())) <= 8
