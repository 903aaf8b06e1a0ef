"""The drivers of the side-by-side comparison run, and every contestant has figures or a reason why not."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

PEERS = Path(__file__).resolve().parents[1] / "experiments" / "peers"
ON_ANY_CPU = ["stock", "eager", "processes", "vmap", "optbench"]
NEED_A_GPU = ["cuda_graph", "processes_8", "processes_16"]


@pytest.fixture
def drivers(monkeypatch):
    monkeypatch.syspath_prepend(str(PEERS))
    import accuracy
    import compare

    return compare, accuracy


@pytest.mark.slow
def test_quick_comparison_has_figures_or_a_reason_for_every_contestant(tmp_path):
    command = [sys.executable, str(PEERS / "compare.py"), "--quick", "--seeds", "own,shared", "--output", str(tmp_path)]
    # Threads that wait for each other on shared cores are slow.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| `optbench, T = 2`" in done.stdout
    report = json.loads((tmp_path / "cpu-digits-T2-fp32.json").read_text(encoding="utf-8"))
    assert (tmp_path / "cpu-digits-T2-fp32.md").read_text(encoding="utf-8").strip() == done.stdout.strip()
    assert report["environment"]["torch"]
    entries = report["contestants"]
    assert next(iter(entries)) == "optbench, T = 2"
    assert {entry["contestant"] for entry in entries.values()} == {*ON_ANY_CPU, *NEED_A_GPU, "hfta", "ray_tune"}
    assert [label for label in entries if "one seed" in label] == ["optbench, T = 2, one seed", "vmap, T = 2, one seed"]
    for name, entry in entries.items():
        if entry["contestant"] in NEED_A_GPU:
            assert "cuda" in entry["failures"][0]["reason"]
        elif entry["contestant"] in ON_ANY_CPU or not entry["failures"]:
            (run,) = entry["runs"]
            assert run["images"] == 2 * (1200 // 64) * 64, name  # two trials, one epoch
            assert len(run["val_accuracy"]) == (1 if entry["has_shared_seed"] else 2)
            assert all(0.1 < accuracy <= 1 for accuracy in run["val_accuracy"]), name
            for key in ("images_per_second", "trial_epochs_per_second", "with_evaluation", "setup_seconds"):
                assert entry[key]["median"] > 0
            if entry["contestant"] != "optbench":
                assert {"optbench, T = 2", "optbench, T = 2, one seed"} == entry["ratio"].keys()
        else:
            assert entry["failures"][0]["reason"]


def test_ratios_are_taken_within_rounds_that_both_have(drivers):
    compare, _ = drivers

    def run(images):
        return {
            "setup_seconds": 1.0,
            "images": images,
            "train_seconds": 2.0,
            "evaluated_images": 30,
            "evaluation_seconds": 3.0,
            "evaluation_images_per_trial": [10, 10],
        }

    optbench, eager, *vmap = compare.entries(["optbench", "eager", "vmap"], [64, 128], ["own"])[1:]
    assert optbench.label == "optbench, T = 128" and eager.label == "eager"
    runs = {optbench: {0: run(400), 2: run(800)}, eager: {0: run(200), 1: run(100), 2: run(100)}, vmap[0]: {}}
    summary = compare.summarise(runs, images_per_epoch=100)
    assert set(summary) == {optbench, eager}
    assert summary[eager]["ratio"]["optbench, T = 128"]["values"] == [2.0, 8.0]
    assert summary[eager]["images_per_second"] == {"median": 50, "min": 50, "max": 100, "values": [100, 50, 50]}
    # One epoch in 100 / 200 seconds, one evaluation of 20 images at 10 per second.
    assert summary[optbench]["with_evaluation"]["values"][0] == pytest.approx(1 / (0.5 + 2))


def test_what_is_equal_for_all_T_is_measured_once(drivers):
    compare, _ = drivers
    labels = [e.label for e in compare.entries(["optbench", "vmap", "hfta", "stock"], [64, 128], ["own", "shared"])]
    both = ["T = 64", "T = 64, one seed", "T = 128", "T = 128, one seed"]
    assert labels == [
        *(f"{name}, {kind}" for name in ("optbench", "vmap") for kind in both),
        "hfta, T = 64",
        "hfta, T = 128",
        "stock",
    ]


def test_a_contestant_without_a_result_leaves_what_it_printed(drivers, monkeypatch, tmp_path):
    import launch

    (tmp_path / "child.py").write_text("import time\nprint('capturing', flush=True)\ntime.sleep(60)", encoding="utf-8")
    monkeypatch.setattr(launch, "HERE", tmp_path)
    outcome = launch.run_contestant("eager", {}, limit=1)
    assert outcome == {"reason": "no result after 1 seconds: capturing", "printed": ["capturing"]}
    (tmp_path / "child.py").write_text("print('loading')\n1 / 0", encoding="utf-8")
    outcome = launch.run_contestant("eager", {}, limit=60)
    assert outcome["reason"] == "failed with exit code 1: ZeroDivisionError: division by zero"
    assert outcome["printed"][0] == "loading"


def test_a_driver_that_is_terminated_takes_its_contestant_along(tmp_path):
    pid = tmp_path / "pid"
    child = "import os, time\nwith open('pid', 'w') as file: print(os.getpid(), file=file)\ntime.sleep(60)"
    (tmp_path / "child.py").write_text(child, encoding="utf-8")
    driver = (
        "import pathlib, launch\nlaunch.HERE = pathlib.Path.cwd()\n"
        "launch.end_contestants_with_this_process()\nlaunch.run_contestant('eager', {}, 60)"
    )
    environment = os.environ | {"PYTHONPATH": str(PEERS)}
    with subprocess.Popen([sys.executable, "-c", driver], cwd=tmp_path, env=environment) as process:
        while not (pid.exists() and pid.read_text().endswith("\n")):
            time.sleep(0.01)
        process.terminate()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_verdicts_on_accuracy(drivers):
    _, accuracy = drivers
    same = [0.9890, 0.9895, 0.9900]
    report = {
        "date": "2026-01-01",
        "settings": {"device": "cpu", "dataset": "mnist", "epochs": 3, "batch_size": 64, "precision": "fp32"},
        "environment": {},
        "contestants": {
            "optbench": {"test_accuracy": same},
            "eager": {"test_accuracy": [value - 0.0005 for value in same]},
            "stock": {"test_accuracy": [value - 0.01 for value in same]},
            "hfta": {"reason": "no time was left"},
        },
    }
    rows = {line.split("`")[1]: line for line in accuracy.table(report).splitlines() if line.startswith("| `")}
    assert "-0.05 ± 0.11 | yes, but the interval allows the other |" in rows["eager"]
    assert "-1.00 ± 0.11 | no |" in rows["stock"]
    assert "not measured: no time was left" in rows["hfta"]
    assert "98.95 ± 0.12 | 3 | – | – |" in rows["optbench"]


@pytest.mark.slow
def test_each_network_has_figures_of_the_loop_and_of_stacks(tmp_path):
    options = ["--models", "softmax,lenet5,./own_networks.py:Convnet", "--rounds", "2", "--seconds", "0.1"]
    command = [sys.executable, str(PEERS / "networks.py"), *options, "-o", str(tmp_path / "networks.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "networks.json").read_text(encoding="utf-8"))
    assert [row["model"] for row in report["networks"]] == options[1].split(",")
    for row in report["networks"]:
        assert (
            row["ratio"] == [b / a for a, b in zip(row["loop"], row["stacks"], strict=True)] and len(row["ratio"]) == 2
        )
        assert f"| `{row['model']}` |" in done.stdout
