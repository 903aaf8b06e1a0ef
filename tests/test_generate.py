"""Made-up results look like a run's, and the benchmark that is built on them runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd

from optbench.report import build
from tests.generate import write

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "report_scale.py"


SHAPE = {"optimizers": 3, "schedules": 2, "batch_sizes": 1, "dropouts": 3, "confirm": 2, "diverged": 0.1}


def test_made_up_results_make_a_report(tmp_path):
    store = write(tmp_path / "s", 200, 4, **SHAPE)
    rows, outline, statuses = store.rows(), store.outline(), store.statuses()
    # (200 − 3 · 2) / 5 configurations, and that in threes; five seeds each, and six fresh ones.
    assert len(statuses) == len(outline.trial_ids) + len(outline.confirm_ids) == 36 * 5 + 6
    assert statuses.keys() == {*outline.trial_ids, *outline.confirm_ids}
    assert sum(outline.optimizers.values()) == len(statuses)
    assert outline.budgets == {"sgd": 12, "nesterov": 12, "adam": 12}
    assert sum(status == "diverged" for status in statuses.values()) == 4 * 5
    assert rows.groupby("stack", observed=True)["trial_id"].nunique().sort_values().tolist() == [2] + [4] * 46
    assert len(store.parts()) == 47
    finished = rows[rows["status"] == "finished"]
    assert finished.groupby("trial_id", observed=True)["epoch"].apply(list).tolist() == [[0, 1, 2, 3, 4]] * 166
    assert finished["val_accuracy"].between(0, 1).all()
    assert finished.groupby("epoch")["val_accuracy"].mean().is_monotonic_increasing
    report = build.build(store)
    assert report.summary.endswith("5 seeds and 2 fresh, cpu; 186 trials: 166 finished, 20 diverged")
    best = report.tables[0]
    assert best.data["n"].tolist() == [2, 2, 2]  # what selection takes is what was confirmed
    pd.testing.assert_frame_equal(write(tmp_path / "again" / "s", 200, 4, **SHAPE).rows(), rows)


def test_parts_may_hold_any_number_of_trials(tmp_path):
    assert len(write(tmp_path / "few", 100, 2, optimizers=1, schedules=1, trials_per_part=30).parts()) == 4


def test_the_benchmark_of_the_report_prints_a_table_and_writes_json(tmp_path):
    path = tmp_path / "scale.json"
    command = [sys.executable, str(SCRIPT), "--trials", "300", "--epochs", "2", "--repeats", "1", "--output", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\| 280 \| \d{3} \| 1 \| [\d.]+ \| [\d.]+ \([\d.]+–[\d.]+\) \|", done.stdout, re.MULTILINE)
    (result,) = json.loads(path.read_text(encoding="utf-8"))["results"]
    assert result["peak_mb"][0] > 50
