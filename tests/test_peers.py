"""The drivers of the side-by-side comparison run, and every contestant has figures or a reason why not."""

import json
import os
import subprocess
import sys
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


def test_quick_comparison_has_figures_or_a_reason_for_every_contestant(tmp_path):
    command = [sys.executable, str(PEERS / "compare.py"), "--quick", "--output", str(tmp_path)]
    # Threads that wait for each other on shared cores are slow.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| `optbench`" in done.stdout
    report = json.loads((tmp_path / "cpu-digits-T2-fp32.json").read_text(encoding="utf-8"))
    assert (tmp_path / "cpu-digits-T2-fp32.md").read_text(encoding="utf-8").strip() == done.stdout.strip()
    assert report["environment"]["torch"]
    assert set(report["contestants"]) == {*ON_ANY_CPU, *NEED_A_GPU, "hfta", "ray_tune"}
    for name, entry in report["contestants"].items():
        if name in NEED_A_GPU:
            assert "cuda" in entry["reason"]
        elif name in ON_ANY_CPU or "reason" not in entry:
            (run,) = entry["runs"]
            assert run["images"] == 2 * (1200 // 64) * 64, name  # two trials, one epoch
            assert len(run["val_accuracy"]) == 2
            assert all(0.1 < accuracy <= 1 for accuracy in run["val_accuracy"]), name
            for key in ("images_per_second", "trial_epochs_per_second", "with_evaluation", "setup_seconds"):
                assert entry[key]["median"] > 0
            assert name == "optbench" or entry["ratio"]["median"] > 0
        else:
            assert entry["reason"]


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

    runs = {"optbench": {0: run(400), 2: run(800)}, "eager": {0: run(200), 1: run(100), 2: run(100)}, "vmap": {}}
    summary = compare.summarise(runs, images_per_epoch=100)
    assert set(summary) == {"optbench", "eager"}
    assert summary["eager"]["ratio"]["values"] == [2.0, 8.0]
    assert summary["eager"]["images_per_second"] == {"median": 50, "min": 50, "max": 100, "values": [100, 50, 50]}
    # One epoch in 100 / 200 seconds, one evaluation of 20 images at 10 per second.
    assert summary["optbench"]["with_evaluation"]["values"][0] == pytest.approx(1 / (0.5 + 2))


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
