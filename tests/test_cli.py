"""The real command in a process of its own, from sweep file to tables; and what it says when something is wrong."""

import io
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

import optbench
from optbench.cli import app
from optbench.machine import device
from optbench.networks import foreign
from optbench.optimizers.foreign import find_foreign
from optbench.report import formats
from optbench.results.store import COLUMNS, Store
from optbench.sweep.spec import parse, read
from optbench.sweep.trials import defaults, expand
from optbench.training import check, check_model
from tests.test_report import fill

REPOSITORY = Path(optbench.__file__).parent.parent
EXPERIMENTS = sorted((REPOSITORY / "experiments").glob("*.yaml"))

SWEEP = """
name: small
dataset: digits
epochs: 2
seeds: 2
parameters: {batch_size: [64, 128], dropout: 0.25, model: mlp}
optimizers:
  sgd: {lr: [0.05, 1e30], momentum: 0.9}
  adam: {lr: 0.003, schedule: [constant, cosine]}
"""
# An optimizer that trains only when there is a file "go": a run that has it lasts as long as a test wants.
WAITS = """
import multiprocessing, pathlib, time, torch
class Waits(torch.optim.SGD):
    def step(self, closure=None):
        while multiprocessing.parent_process() and not pathlib.Path("go").exists():
            time.sleep(0.01)
        return super().step(closure)
"""
# What differs between two runs of the same sweep and is not a result.
OF_THE_RUN = ["train_seconds", "workers"]


def start(*arguments, cwd, **environment):
    command = [sys.executable, "-W", "error", "-m", "optbench", *map(str, arguments)]
    env = {key: value for key, value in os.environ.items() if key != "OPTBENCH_DATA"} | {"COLUMNS": "80"} | environment
    return subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def optbench_(*arguments, cwd, code=0, **environment):
    """Run to the end in a process of its own; returns stdout and stderr."""
    with start(*arguments, cwd=cwd, **environment) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


def invoke(*arguments, cwd, code=0, **environment):
    """The same in this process, which is quicker."""
    env = {"COLUMNS": "80", "OPTBENCH_DATA": None} | environment
    find_foreign.cache_clear()  # files of optimizers and networks may have changed
    foreign.find.cache_clear()
    with chdir(cwd):
        result = CliRunner().invoke(app, list(map(str, arguments)), env=env)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result.stdout, result.stderr


def content(folder):
    """The rows of a sweep in a fixed order, without what belongs to the run, and with which test images were right."""
    rows = pd.read_parquet(folder).drop(columns=OF_THE_RUN)
    correct = Store(folder).correct.of(rows["trial_id"].unique(), "test")
    rows["correct"] = rows["trial_id"].map({i: mask.tobytes() for i, mask in correct.items()})
    return rows.sort_values(["trial_id", "epoch"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which the sweep has run without interruption in one process."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(SWEEP)
    out, err = optbench_("run", "small.yaml", "--workers", "1", cwd=folder)
    return folder, out, err


def test_a_run_says_what_it_does_and_leaves_rows_and_a_report(finished):
    folder, out, err = finished
    assert out == ""  # stdout is for results
    assert "small: 16 trials of 2 epochs on digits" in err
    plan = r"16 trials to run in 16 stacks on cpu \(1 process\): about [\w ]+ \(from a few timed steps\), \d+ kB in"
    assert re.search(plan, " ".join(err.split()))
    assert (
        len(
            re.findall(
                r"^stack \d+/16: 1 trial, batch_size (64|128), (?:best val_accuracy|all diverged)", err, re.MULTILINE
            )
        )
        == 16
    )
    assert "16/16 trials done (4 diverged and 0 failed in this run" in err
    rows = pd.read_parquet(folder / "results" / "small")
    assert list(rows.columns) == [name for name, _, _ in COLUMNS]
    assert len(rows) == 12 * 3 + 4 * 2  # those that diverge do so in their first epoch
    assert rows["cpu"].unique().tolist() == [device.cpu_name()]
    assert rows["python_version"].unique().tolist() == [platform.python_version()]
    assert rows["os"].unique().tolist() == [device.os_name()]
    epochs = rows.groupby(["status", "trial_id"])["epoch"].apply(lambda column: sorted(column))
    assert epochs["finished"].tolist() == [[0, 1, 2]] * 12
    assert rows.groupby("status")["trial_id"].nunique().to_dict() == {"diverged": 4, "finished": 12}
    assert epochs["diverged"].tolist() == [[0, 1]] * 4
    learned = rows[(rows["status"] == "finished") & (rows["epoch"] == 2)].set_index("trial_id")
    assert (learned["test_accuracy"] > 0.5).all()
    correct = Store(folder / "results" / "small").correct.of(rows["trial_id"].unique(), "test")
    assert {i: mask.mean() for i, mask in correct.items()} == learned["test_accuracy"].to_dict()
    text = (folder / "results" / "small" / "_optbench" / "report.md").read_text(encoding="utf-8")
    assert text == optbench_("report", "--format", "markdown", cwd=folder)[0]


def test_a_second_run_has_nothing_to_do(finished):
    folder, *_ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.glob("results/small/*.parquet")}
    _, err = invoke("run", "small.yaml", cwd=folder)
    assert "nothing to do: all 16 trials are in results/small" in err
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("results/small/*.parquet")}


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_to_the_same_rows(finished, tmp_path):
    """Two workers, stopped half-way by Ctrl-C and resumed: the content of an uninterrupted run in one process."""
    (tmp_path / "small.yaml").write_text(SWEEP + "  waits: {optimizer: './waits.py:Waits', lr: 0.1}\n")
    (tmp_path / "waits.py").write_text(WAITS)
    folder = tmp_path / "results" / "small"
    with start("run", "small.yaml", "--workers", "2", cwd=tmp_path) as process:
        while not list(folder.glob("*.parquet")) or content(folder).query("epoch == 2")["trial_id"].nunique() < 3:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    done, resume = re.search(r"^(\d+)/20 done; resume with: (.*)$", err, re.MULTILINE).groups()
    assert 3 <= int(done) < 20
    assert "run small.yaml --workers 2" in resume
    out, _ = invoke("status", cwd=tmp_path)
    assert f"{done}/20 trials done in results/small" in out
    (tmp_path / "go").touch()
    _, err = invoke("run", "small.yaml", "--workers", "2", cwd=tmp_path)
    assert f"{20 - int(done)} trials to run" in err
    rows = content(folder).query("optimizer != 'waits'").reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, content(finished[0] / "results" / "small"))


def test_a_longer_sweep_trains_only_what_is_missing_also_after_its_parts_were_merged(finished, tmp_path):
    (tmp_path / "small.yaml").write_text(SWEEP)
    folder = tmp_path / "results" / "small"
    invoke("run", "small.yaml", "--set", "seeds=1", "--workers", "1", cwd=tmp_path)
    before, report = content(folder), invoke("report", "-f", "json", cwd=tmp_path)[0]
    assert invoke("compact", cwd=tmp_path)[0] == "results/small: 8 parts → 1\n"
    pd.testing.assert_frame_equal(content(folder), before)
    assert invoke("report", "-f", "json", cwd=tmp_path)[0] == report
    assert invoke("compact", "results/small", cwd=tmp_path)[0] == "results/small: 1 part, nothing to merge\n"
    _, err = invoke("run", "small.yaml", "--stack-size", "3", "--workers", "1", cwd=tmp_path)
    assert "8 trials to run" in err
    longer, whole = (content(path / "results" / "small") for path in (tmp_path, finished[0]))
    of_the_stack = ["stack", "stack_size"]
    pd.testing.assert_frame_equal(longer.drop(columns=of_the_stack), whole.drop(columns=of_the_stack))
    # And a smaller one trains nothing, but is what the report is about from then on.
    _, err = invoke("run", "small.yaml", "--set", "seeds=1", cwd=tmp_path)
    assert "nothing to do: all 8 trials" in err
    assert "warning: results/small holds 8 trials that are not in this sweep" in " ".join(err.split())
    assert (
        "small: mlp on digits, 2 epochs, 1 seed, cpu; 8 trials: 6 finished, 2 diverged"
        in invoke("report", cwd=tmp_path)[0]
    )


def test_a_run_that_leaves_many_parts_merges_them(tmp_path, monkeypatch):
    from optbench.results.store import Store
    from optbench.runs import run
    from optbench.runs.job import Job
    from optbench.runs.phases import Tune

    monkeypatch.setattr(run, "_MANY_PARTS", 3)
    text = "name: s\ndataset: digits\nepochs: 1\nparameters: {model: softmax}\noptimizers: {sgd: {lr: [0.1, 0.2, 0.3]}}"
    for sweep, parts in ((parse(text), 3), (parse(f"{text}\nseeds: 2"), 1)):
        job = Job(sweep, Store(tmp_path / "s"), "cpu", workers=1)
        for _ in run.events(job):
            pass
        assert len(list((tmp_path / "s").glob("*.parquet"))) == parts
    assert len(pd.read_parquet(tmp_path / "s")) == 6 * 2
    assert Tune(job).stacks == []


def test_status_is_a_table_json_or_a_watch(finished):
    folder, *_ = finished
    out, _ = invoke("status", cwd=folder)
    assert re.search(r"^sgd +8 +4 +4 +0 +0 +0$", out, re.MULTILINE)
    assert invoke("status", "--watch", cwd=folder)[0].endswith(out)
    found = json.loads(invoke("status", "-f", "json", cwd=folder)[0])
    rows = found.pop("optimizers")
    assert found == {
        "version": formats.JSON_VERSION,
        "sweep": "small",
        "folder": "results/small",
        "done": 16,
        "trials": 16,
        "is_running": False,
    }
    assert rows[0] == {
        "optimizer": "sgd", "trials": 8, "finished": 4, "diverged": 4, "failed": 0, "running": 0, "missing": 0,
    }  # fmt: skip
    assert "--watch shows a table" in refused("status", "--watch", "-f", "json")


def test_dry_run_says_the_plan_and_writes_nothing(tmp_path):
    (tmp_path / "small.yaml").write_text(SWEEP)
    out, _ = invoke("run", "small.yaml", "--dry-run", "--set", "seeds=5", cwd=tmp_path)
    assert "small: 40 trials of 2 epochs on digits" in out
    assert re.search(r"sgd +4 +5 +20 +20", out)
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_a_schedule_that_cannot_act_is_warned_of(tmp_path):
    (tmp_path / "s.yaml").write_text(
        "dataset: digits\nepochs: 12\noptimizers: {adam: {schedule: reduce_lr_on_plateau}}"
    )
    out, _ = invoke("run", "s.yaml", "--dry-run", cwd=tmp_path)
    said = " ".join(out.split())
    assert "warning: schedule reduce_lr_on_plateau cannot act: with patience 10 it needs at least 13 epochs" in said
    assert "warning" not in invoke("run", "s.yaml", "--dry-run", "--set", "epochs=13", cwd=tmp_path)[0]


def test_a_damaged_dataset_is_found_before_anything_trains(tmp_path):
    (tmp_path / "s.yaml").write_text("dataset: mnist\nepochs: 1\noptimizers: {adam: }")
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    for kind in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / "data" / "mnist" / f"{kind}-ubyte.gz").write_bytes(b"damaged")
    _, err = invoke("run", "s.yaml", "--data-dir", "data", cwd=tmp_path, code=2)
    assert "train-images-idx3-ubyte.gz is damaged: its sha256 is" in err
    assert not (tmp_path / "results").exists()


def test_a_run_that_another_one_overtook_says_so(tmp_path):
    from optbench.errors import UserError
    from optbench.results.store import Store
    from optbench.runs.job import Job
    from optbench.runs.phases import Tune
    from optbench.runs.run import execute

    sweep = parse("name: s\ndataset: digits\nepochs: 1\noptimizers: {adam: }")
    early, late = (Tune(Job(sweep, Store(tmp_path / "s"), "cpu", workers=1)) for _ in range(2))
    for _ in execute(early):
        pass
    with pytest.raises(UserError, match="another run has finished trials meanwhile"):
        next(execute(late))


def test_the_report_comes_in_every_format(finished, tmp_path):
    folder, *_ = finished
    titles = ("Learning-rate schedules", "Batch sizes and training time", "Learning rates")
    for width in (80, 120):
        first, _ = invoke("report", cwd=folder, COLUMNS=str(width))
        full, _ = invoke("report", "--full", cwd=folder, COLUMNS=str(width))
        assert max(map(len, [*first.splitlines(), *full.splitlines()])) <= width
        assert "\x1b" not in first + full
        assert "\nOptimizers\n" in first and "\nOptimizers\n" in full
        assert len(first.splitlines()) <= 40  # a screen
        for title in titles:
            assert f"\n{title}\n" in full and f"\n{title}\n" not in first
            assert title in " ".join(first.split("--full also shows:")[1].split())
    content = json.loads(invoke("report", "results/small", "-f", "json", cwd=folder)[0])
    assert content["summary"] == "mlp on digits, 2 epochs, 2 seeds, cpu; 16 trials: 12 finished, 4 diverged"
    frame = pd.read_csv(io.StringIO(invoke("report", "-f", "csv", cwd=folder)[0]))
    assert set(frame["table"]) == {table["title"] for table in content["tables"]}
    for name, kind, words in (
        ("tables.tex", "latex", r"\begin{tabular}"),
        ("tables.md", "markdown", "## Optimizers"),
        ("tables.json", "json", '"title": "Optimizers"'),
        ("tables.csv", "csv", "Optimizers,"),
        ("page.html", "html", "<!doctype html>"),
        ("tables.txt", "table", "Optimizers\n"),
    ):
        _, err = invoke("report", "-o", tmp_path / name, cwd=folder)
        assert err == f"wrote {tmp_path / name} ({kind})\n"
        assert words in (tmp_path / name).read_text(encoding="utf-8")
    _, err = invoke("report", "-f", "figures", "-o", tmp_path / "figures", cwd=folder)
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"curves.pdf", "curves.svg"} <= drawn
    assert err == f"wrote {len(drawn)} files to {tmp_path / 'figures'} (figures)\n"


def test_a_report_answers_questions(finished):
    asked = ("--by", "schedule", "--metric", "val_loss", "--at", "epoch=1", "--where", "batch_size == 64", "--seconds")
    out, _ = invoke("report", *asked, cwd=finished[0], COLUMNS="200")
    assert " where batch_size == 64\n" in out
    assert out.count("lost  best configuration") == 1
    assert "validation loss" in out and "seconds per epoch" in out
    assert "after epoch 1." in out
    out, _ = invoke("report", "--baseline", "sgd", "--rope", "5", cwd=finished[0], COLUMNS="200")
    assert re.search(r"adam is .* sgd: [+-][\d.]+ ± [\d.]+ points \(p ", out)
    assert "difference to sgd  verdict" in out
    for option, value, words in (
        ("--baseline", "adamm", "--baseline adamm: did you mean 'adam'?"),
        ("--rope", "-1", "--rope -1: must be a number above 0 of points, such as 0.2"),
        ("--rope", "some", "--rope some: must be a number above 0"),
        ("--metric", "accuracy", "--metric accuracy: did you mean"),
        ("--at", "end", "--at end: valid: last, best, epoch=K"),
        ("--by", "batchsize", "--by batchsize: did you mean 'batch_size'?"),
        ("--where", "batch_size == 65", "--where 'batch_size == 65': no trial meets this condition"),
    ):
        err = refused("report", str(finished[0] / "results" / "small"), option, value)
        assert err.startswith(f"optbench: {words}")
        assert len(err.splitlines()) == 1


def test_no_color_is_honoured(finished):
    out, _ = invoke("report", cwd=finished[0], FORCE_COLOR="1")
    assert "\x1b[1m" in out
    out, _ = invoke("report", cwd=finished[0], FORCE_COLOR="1", NO_COLOR="1")
    assert not re.search(r"\x1b\[3\d", out)


def test_a_failed_trial_is_exit_code_1_and_is_tried_again(tmp_path, monkeypatch, capfd):
    from optbench import execution

    (tmp_path / "s.yaml").write_text("dataset: digits\nepochs: 1\noptimizers: {adam: , sgd: {lr: 0.05}}")
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        real = execution.run

        def failing(stacks, *rest):
            yield stacks[0], execution.Failure("Traceback\nMemoryError: no memory")
            yield from real(stacks[1:], *rest)

        patch.setattr(execution, "run", failing)
        result = CliRunner().invoke(app, ["run", "s.yaml"])
    assert result.exit_code == 1
    assert "failed: MemoryError: no memory" in result.output
    rows = pd.read_parquet("results/s")
    assert rows[rows["status"] == "failed"]["error"].tolist() == ["Traceback\nMemoryError: no memory"]
    assert "1 failed" in CliRunner().invoke(app, ["report"]).stdout
    with monkeypatch.context() as patch:
        patch.setattr(execution, "run", lambda stacks, *rest: ((s, execution.Failure("no memory")) for s in stacks))
        result = CliRunner().invoke(app, ["run", "s.yaml", "--set", "name=all"])
    assert result.exit_code == 1
    assert "no report: results/all: no trial has finished yet (2 trials: 2 failed; no memory)" in result.output
    result = CliRunner().invoke(app, ["run", "s.yaml"])
    assert result.exit_code == 0
    assert "1 trial to run" in result.output
    assert set(pd.read_parquet("results/s")["status"]) == {"finished"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "none.yaml"], "optbench: none.yaml: no such sweep file"),
        (
            ["run", "bad.yaml"],
            "bad.yaml:2:9: must be a whole number, not the text 'ten'\nbad.yaml:3:14: unknown optimizer",
        ),
        (["run", "good.yaml", "--set", "epochs=x"], "optbench: --set epochs=x: must be a whole number"),
        (["run", "good.yaml", "--device", "tpu"], "optbench: --device tpu: valid: auto, cpu, cuda, cuda:N"),
        (["run", "good.yaml", "--output", "bad.yaml"], "optbench: bad.yaml/good: cannot be written"),
        (["run", "good.yaml", "--output", "/proc/none"], "optbench: /proc/none/good: cannot be written"),
        (
            ["run", "good.yaml", "--set", "dataset=mnist", "--data-dir", "bad.yaml"],
            "optbench: cannot write bad.yaml/mnist",
        ),
        (["report"], "optbench: results: holds no results"),
        (["report", "nowhere"], "optbench: nowhere: no such folder of results"),
        (["compact", "nowhere"], "optbench: nowhere: no such folder of results"),
        (["compact", "more"], "optbench: more: holds no results; name one of more/old"),
        (["status", "."], "optbench: .: holds no results"),
        (["report", "more"], "optbench: more: holds no results; name one of more/old"),
        (["init", "good.yaml"], "optbench: good.yaml is there already; --force overwrites it"),
        (["init", "no/where.yaml"], "optbench: no/where.yaml: cannot be written"),
        (["list", "nothing"], "nothing"),
        (["run", "good.yaml", "--workers", "0"], "workers"),
        (["nonsense"], "nonsense"),
    ],
)
def test_what_the_user_can_mend_is_exit_code_2_and_no_traceback(tmp_path, arguments, expected):
    (tmp_path / "bad.yaml").write_text("dataset: digits\nepochs: ten\noptimizers: {sdg: }")
    (tmp_path / "more" / "old" / "_optbench").mkdir(parents=True)
    (tmp_path / "more" / "old" / "_optbench" / "outline.json").write_text("{}")
    (tmp_path / "good.yaml").write_text("dataset: digits\nepochs: 1\noptimizers: {sgd: }")
    out, err = invoke(*arguments, cwd=tmp_path, code=2)
    assert out == ""
    assert expected in err


def test_a_foreign_file_among_the_results_is_named(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    pd.DataFrame({"x": [1]}).to_parquet(folder / "part-x.parquet")
    _, err = invoke("report", "results", cwd=tmp_path, code=2)
    assert "schema version none" in err


SEARCH = """
name: search
dataset: digits
epochs: 1
search: {num_samples: 2}
confirm: {seeds: 2}
parameters: {model: softmax, batch_size: 128}
optimizers:
  sgd: {lr: {min: 1e-3, max: 0.1, log: true}, num_samples: 3}
  mine: {optimizer: "./mine.py:Mine", lr: {min: 1e-3, max: 0.1, log: true}}
  broken: {optimizer: "./mine.py:Broken", lr: 0.1}
"""
MINE = """
import torch
class Mine(torch.optim.SGD):
    pass
class Broken(torch.optim.SGD):
    def step(self, closure=None):
        raise ValueError("no step today")
"""


def test_a_sweep_with_an_optimizer_of_ones_own_is_tuned_and_confirmed(tmp_path):
    (tmp_path / "search.yaml").write_text(SEARCH)
    (tmp_path / "mine.py").write_text(MINE)
    _, err = optbench_("run", "search.yaml", "--workers", "1", cwd=tmp_path, code=1)
    words = " ".join(err.split())
    assert "search: 6 trials of 1 epoch on digits" in words
    assert "then each optimizer's selected configuration on 2 fresh seeds: 6 trials more" in words
    assert "the tuning budgets differ: 3 configurations of sgd; 2 configurations of mine; 1" in words
    assert "search: 4 trials of 1 epoch on digits, to confirm each optimizer's selected configuration" in words
    assert "all failed" in words
    rows = pd.read_parquet(tmp_path / "results" / "search")
    last = rows.sort_values("epoch").groupby("trial_id").last()
    found = last.groupby(["optimizer", "phase", "status"]).size().to_dict()
    assert found == {
        ("broken", "tune", "failed"): 1,
        ("mine", "confirm", "finished"): 2,
        ("mine", "tune", "finished"): 2,
        ("sgd", "confirm", "finished"): 2,
        ("sgd", "tune", "finished"): 3,
    }
    (error,) = last["error"].dropna()
    assert error.strip().endswith("ValueError: no step today")
    assert "mine.py" in error

    text, _ = invoke("report", "-f", "markdown", cwd=tmp_path)
    assert "Where optimizers as a whole are compared it is scored on fresh seeds" in text
    tables = text.split("\n## ")[1:]
    titles = [table.split("\n")[0] for table in tables]
    assert (titles[0], titles[-1]) == ("Optimizers", "Training and validation accuracy")
    assert "Failed trials" in titles and "| ValueError: no step today |" in text
    assert all("The tuning budgets differ: 3 configurations of sgd;" in table for table in tables)
    assert "10/12 trials done" not in text
    assert "9/12 trials done in results/search" in invoke("status", cwd=tmp_path)[0]

    # Mended, it trains what failed; the others are as they were. And then there is nothing left to do.
    (tmp_path / "search.yaml").write_text(SEARCH.replace("mine.py:Broken", "mine.py:Mine"))
    _, err = invoke("run", "search.yaml", "--workers", "1", cwd=tmp_path)
    assert "1 trial to run" in " ".join(err.split())
    _, err = invoke("run", "search.yaml", cwd=tmp_path)
    assert "nothing to do: all 12 trials are in results/search" in err
    # But code that has changed is another optimizer.
    (tmp_path / "mine.py").write_text(MINE + "# changed")
    assert re.search(r"mine +2 +1 +2 +2", invoke("run", "search.yaml", "--dry-run", cwd=tmp_path)[0])


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ('{optimizer: "./mine.py:Mien"}', "./mine.py has no 'Mien'; did you mean 'Mine'?"),
        ('{optimizer: "./other.py:Mine"}', "cannot import "),
        ('{optimizer: "./mine.py:Mine", momentun: 0.9}', "unknown key 'momentun'; did you mean 'momentum'?"),
        ('{optimizer: "./mine.py:Mine", momentum: fast}', "must be a number, not the text 'fast'"),
        ('{optimizer: "./mine.py:Mine", momentum: -1.0}', "mine: ValueError: Invalid momentum value: -1.0"),
        ('{optimizer: "./mine.py:torch"}', "is a module, not a torch.optim.Optimizer"),
        ("{optimizer: pytorch_optimizer.ranger21}", "mine: needs num_iterations"),
    ],
)
def test_what_is_wrong_with_an_optimizer_of_ones_own_is_said_before_anything_trains(tmp_path, block, expected):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "other.py").write_text("import not_there")
    (tmp_path / "s.yaml").write_text(f"dataset: digits\nepochs: 1\noptimizers:\n  mine: {block}")
    out, err = invoke("run", "s.yaml", cwd=tmp_path, code=2)
    assert out == ""
    assert expected in err
    assert re.match(r"(optbench: )?s.yaml:4:\d+: ", err)
    assert not (tmp_path / "results").exists()


def test_a_quiet_run_says_only_what_failed_and_how_it_ended(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    lines = "name: s\ndataset: digits\nepochs: 1\nparameters: {model: softmax, batch_size: [64, 128]}\n"
    (tmp_path / "s.yaml").write_text(lines + "optimizers: {sgd: , mine: {optimizer: './mine.py:Broken', lr: 0.1}}")
    out, err = invoke("run", "s.yaml", "--quiet", "--workers", "1", cwd=tmp_path, code=1)
    said = err.splitlines()
    assert out == ""
    for line in said[:2]:
        assert re.match(
            r"stack \d/4: 1 trial, batch_size \d+, all failed: ValueError: no step today; [12]/4 trials", line
        )
    assert said[2].startswith("2/4 trials done (0 diverged and 2 failed in this run")
    assert [line.partition(":")[0] for line in said[-3:]] == ["tables", "page", "report"]
    assert "Take sgd" in err  # the answer
    assert "last line of the error" in (tmp_path / "results/s/_optbench/report.md").read_text(encoding="utf-8")
    (tmp_path / "s.yaml").write_text(lines + "optimizers: {sgd: }")
    _, err = invoke("run", "s.yaml", "-q", "--set", "seeds=2", "--workers", "1", cwd=tmp_path)
    assert err.startswith("4/4 trials done")
    _, err = invoke("run", "s.yaml", "-q", "--set", "seeds=2", cwd=tmp_path)
    assert err.splitlines()[0] == "nothing to do: all 4 trials are in results/s"
    assert "leave out --quiet" in invoke("run", "s.yaml", "-q", "--dry-run", cwd=tmp_path, code=2)[1]


def test_a_precision_that_the_device_has_not_got_is_refused_before_anything_trains(tmp_path):
    (tmp_path / "s.yaml").write_text("dataset: digits\nepochs: 1\nparameters: {precision: tf32}\noptimizers: {sgd: }")
    _, err = invoke("run", "s.yaml", "--device", "cpu", cwd=tmp_path, code=2)
    needs = "precision tf32 needs an NVIDIA GPU of compute capability 8.0 or newer; on a CPU: fp32 or bf16"
    assert err == f"optbench: {needs}\n"
    assert not (tmp_path / "results").exists()


def refused(*arguments):
    """The output of a command that ends with exit code 2."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2, result.output
    return result.output


REBINDS = """
import torch
class Rebinds(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p = p - group["lr"] * p.grad
"""


@pytest.fixture
def few_steps(monkeypatch):
    """A check of an optimizer that takes a second."""
    monkeypatch.setattr(check, "STEPS", 10)
    monkeypatch.setattr(check, "TIMED_STEPS", 2)


def test_check_optimizer_says_what_works_and_what_does_not(tmp_path, few_steps):
    (tmp_path / "mine.py").write_text(MINE)
    out, _ = invoke("check-optimizer", "./mine.py:Mine", "--set", "lr=0.01", "--set", "momentum=0.9", cwd=tmp_path)
    assert out.startswith("./mine.py:Mine: from file, an object for each trial\n")
    for name in ("steps", "state", "cost", "deterministic", "checkpoint"):
        assert re.search(rf"^ok +{name}: ", out, re.MULTILINE)
    assert "1.00 numbers for each parameter" in out
    assert out.endswith("It works here.\n")
    out, _ = invoke("check-optimizer", "./mine.py:Broken", "--set", "lr=0.1", cwd=tmp_path, code=1)
    assert "no  steps: ValueError: no step today" in out
    out, _ = invoke("check-optimizer", "sgd", "--set", "lr=1e9", cwd=tmp_path, code=1)
    assert "training loss from 2.3" in out and "It does not work here (steps)" in out
    (tmp_path / "mine.py").write_text(REBINDS)
    out, _ = invoke("check-optimizer", "./mine.py:Rebinds", "--set", "lr=0.1", cwd=tmp_path, code=1)
    assert "no  steps: 10 steps have changed no weight: they must change them in place\n" in out


FORGETS = """
import torch
class Forgets(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})
        self.momentum = {}
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                momentum = self.momentum.setdefault(id(p), torch.zeros_like(p)).mul_(0.9).add_(p.grad)
                p.sub_(momentum, alpha=group["lr"])
class Refuses(torch.optim.SGD):
    def state_dict(self):
        raise NotImplementedError("no checkpoints")
class Trips(torch.optim.SGD):
    def load_state_dict(self, state):
        self.lost = True
    def step(self, closure=None):
        return super().step(closure) if not hasattr(self, "lost") else self.state["momentum"][0]
"""


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("Forgets", "it ends at other weights"),
        ("Refuses", "it raises NotImplementedError('no checkpoints')"),
        ("Trips", "it raises KeyError: 0"),
    ],
)
def test_an_optimizer_that_only_lacks_checkpoints_works_here(tmp_path, few_steps, name, seen):
    (tmp_path / "mine.py").write_text(FORGETS)
    out, _ = invoke("check-optimizer", f"./mine.py:{name}", "--set", "lr=0.1", cwd=tmp_path)
    assert f"but checkpoint: saved and loaded half-way, {seen}\n" in out
    assert out.endswith("It works here, but it does not go on from a checkpoint.\n")


def test_check_optimizer_compares_the_loss_with_that_of_sgd_and_adam(tmp_path, few_steps):
    def losses(*arguments):
        out, _ = invoke("check-optimizer", *arguments, cwd=tmp_path)
        return re.search(
            r"to (\S+); on the same batches sgd to (\S+) at lr=0.1 and adam to (\S+) at lr=0.001", out
        ).groups()

    mine, sgd, adam = losses("adam")
    assert mine == adam < sgd
    assert losses("sgd", "--set", "lr=0.1") == (sgd, sgd, adam)
    found = json.loads(invoke("check-optimizer", "sgd", "--set", "lr=1e-4", "-f", "json", cwd=tmp_path)[0])
    assert found["verdict"] == "It works here, but it hardly learns at this lr."
    assert found["works"] and found["optimizer"] == "sgd" and found["hyperparameters"]["lr"] == 1e-4
    checks = {finding["check"]: finding for finding in found["findings"]}
    assert list(checks) == ["steps", "state", "cost", "deterministic", "checkpoint"]
    assert checks["steps"]["ok"] and checks["steps"]["but"] and not checks["cost"]["but"]


NET = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, num_classes, width=4):
        super().__init__(nn.Flatten(), nn.Linear(784, width), nn.Tanh(), nn.Linear(width, num_classes))
class Pair(Net):
    def forward(self, x):
        return super().forward(x), x
"""


def test_check_model_says_what_works_and_what_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(check_model, "STEPS", 6)
    (tmp_path / "nets.py").write_text(NET)
    out, _ = invoke("check-model", "./nets.py:Net", "--set", "width=6", cwd=tmp_path)
    assert out.startswith("./nets.py:Net(width=6) on digits\nok  network: 4,780 parameters in 2 layers\n")
    out, _ = invoke("check-model", "./nets.py:Pair", "-f", "json", cwd=tmp_path, code=1)
    found = json.loads(out)
    assert (found["model"], found["dataset"], found["works"]) == ("./nets.py:Pair", "digits", False)
    assert found["findings"][0]["seen"].endswith("its forward returns a tuple, not logits (B, 10)")
    _, err = invoke("check-model", "./nets.py:Net", "--set", "wdth=6", cwd=tmp_path, code=2)
    assert err == "optbench: --set wdth=6: unknown key 'wdth'; did you mean 'width'?\n"
    _, err = invoke("check-model", "./nets.py:Net", "--set", "width=[6, 7]", cwd=tmp_path, code=2)
    assert err == "optbench: ./nets.py:Net: give each argument one value\n"
    _, err = invoke("check-model", "torch.nn:Linear", cwd=tmp_path, code=2)
    assert "needs in_features: 'optbench check-model MODEL --set in_features=VALUE'\n" in err


def test_a_network_of_the_users_own_trains_from_two_files(tmp_path):
    """In worker processes, resumed, and reported."""
    (tmp_path / "nets.py").write_text(NET)
    (tmp_path / "sweep.yaml").write_text(
        "dataset: digits\nepochs: 1\nseeds: 2\noptimizers: {adam: {lr: 0.01}, sgd: {lr: 0.1}}\n"
        "parameters: {batch_size: 300, model: {name: './nets.py:Net', width: [4, 8]}}\n"
    )
    optbench_("run", "sweep.yaml", "--quiet", cwd=tmp_path)
    rows = pd.read_parquet(tmp_path / "results" / "sweep")
    assert set(rows["model"]) == {"./nets.py:Net(width=8)", "./nets.py:Net"} and set(rows["status"]) == {"finished"}
    out, _ = invoke("run", "sweep.yaml", "--dry-run", cwd=tmp_path)
    assert re.findall(r"^(?:adam|sgd) .* (\d+)$", out, re.MULTILINE) == ["0", "0"]
    out, _ = invoke("report", "--full", cwd=tmp_path)
    assert "./nets.py:Net(width=8)" in out


def test_a_report_is_not_written_in_a_format_that_its_name_does_not_have(finished):
    err = refused("report", str(finished[0] / "results" / "small"), "-o", "report.png")
    assert (
        err
        == "optbench: --output report.png: a name ends in .html, .md, .csv, .json, .tex, .txt, or the format is named\n"
    )
    assert not Path("report.png").exists()


def test_a_comparison_is_no_page(tmp_path):
    assert "only a report has a page" in refused("compare", "a", "b", "-o", str(tmp_path / "page.html"))
    assert "Invalid value for '--format'" in refused("compare", "a", "b", "-f", "html")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sgdd"], "unknown optimizer 'sgdd'; did you mean 'sgd'?"),
        (["sgd", "--set", "momentun=1"], "--set momentun=1: unknown key 'momentun'; did you mean 'momentum'?"),
        (["sgd", "--set", "lr=[1, 2]"], "give each hyperparameter one value"),
        (["sgd", "--set", "lr={min: 1, max: 2}"], "give each hyperparameter one value"),
        (["sgd", "--set", "schedule=cosine"], "--set schedule=cosine: schedule is not an optimizer's hyperparameter\n"),
        (["torch.optim:SparseAdam"], "SparseAdam cannot train here: it takes only sparse gradients"),
    ],
)
def test_check_optimizer_says_what_is_wrong_with_the_question(arguments, words):
    assert words in refused("check-optimizer", *arguments)


def test_schedules_are_drawn(tmp_path):
    out, _ = invoke("list", "schedules", "--plot", cwd=tmp_path)
    assert max(map(len, out.splitlines())) <= 80
    rows = out.splitlines()
    constant = rows.index("constant")
    assert rows[constant + 1] == " lr " + "⠉" * 60
    linear = rows.index("linear")
    assert rows[linear + 1].startswith(" lr ⠉") and rows[linear + 4].endswith("⣀")
    assert "--plot draws schedules" in refused("list", "datasets", "--plot")
    assert "--plot draws schedules" in refused("list", "schedules", "--plot", "-f", "json")


def test_list_and_version(tmp_path):
    assert "nesterov=false" in invoke("list", "optimizers", cwd=tmp_path)[0]
    assert "fashion_mnist" in invoke("list", "datasets", cwd=tmp_path)[0]
    listed = json.loads(invoke("list", "datasets", "-f", "json", cwd=tmp_path)[0])["tables"][0]["rows"]
    assert [row["dataset"] for row in listed] == ["digits", "mnist", "fashion_mnist", "cifar10"]
    assert listed[0]["train"] == 1200
    assert re.search(r"2c2d +3274634 +Convolution 32", invoke("list", "networks", cwd=tmp_path)[0])
    assert optbench_("--version", cwd=tmp_path)[0] == f"optbench {optbench.__version__}\n"


def test_init_writes_a_sweep_that_is_valid_as_it_stands(tmp_path):
    out, _ = invoke("init", cwd=tmp_path)
    assert out == "wrote sweep.yaml; next: optbench run sweep.yaml\n"
    assert len(expand(read(tmp_path / "sweep.yaml"))) == 108
    invoke("init", "--force", cwd=tmp_path)


OWN = """
import torch
class Mine(torch.optim.SGD):
    pass
class Rated(torch.optim.SGD):
    def __init__(self, params, lr):
        super().__init__(params, lr=lr)
class SGD(torch.optim.SGD):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)
class Needs(torch.optim.SGD):
    def __init__(self, params, rho, lr=0.1):
        super().__init__(params, lr=lr)
"""


def test_init_writes_a_sweep_that_compares_an_optimizer_of_ones_own(tmp_path):
    (tmp_path / "my_opt.py").write_text(OWN)
    (tmp_path / "sweeps").mkdir()
    out, _ = invoke("init", "sweeps/mine.yaml", "--optimizer", "./my_opt.py:Mine", cwd=tmp_path)
    assert re.findall(r"^  optbench (\S+)", out, re.MULTILINE) == ["check-optimizer", "run", "report"]
    sweep = read(tmp_path / "sweeps" / "mine.yaml")
    assert list(sweep.optimizers) == ["mine", "adamw", "sgd"]
    assert {grid.algorithm for grid in sweep.optimizers.values()} == {"../my_opt.py:Mine", "adamw", "sgd"}
    by_label = {label: [t for t in expand(sweep) if t.optimizer == label] for label in sweep.optimizers}
    assert {label: len({t.configuration_id for t in trials}) for label, trials in by_label.items()} == dict.fromkeys(
        by_label, 12
    )
    for label, usual in (("mine", 1e-3), ("adamw", 1e-3), ("sgd", 0.03)):
        lrs = [trial.hyperparameters.lr for trial in by_label[label]]
        assert usual / 40 < min(lrs) < usual / 5 < usual * 5 < max(lrs) < usual * 40
    assert len(sweep.confirm) == 10 and not set(sweep.confirm) & set(sweep.seeds)
    trials, _ = defaults(sweep)
    assert {(trial.optimizer, trial.hyperparameters.lr) for trial in trials} == dict.fromkeys(by_label, 1e-3).items()


def test_init_labels_optimizers_and_gives_them_what_they_need(tmp_path):
    (tmp_path / "my_opt.py").write_text(OWN)
    names = ["./my_opt.py:SGD", "Lion", "./my_opt.py:Rated", "pytorch_optimizer.soap", "AdamW"]
    invoke("init", *(part for name in names for part in ("--optimizer", name)), cwd=tmp_path)
    sweep = read(tmp_path / "sweep.yaml")
    assert list(sweep.optimizers) == ["sgd-2", "lion", "rated", "soap", "adamw", "sgd"]
    assert {trial.hyperparameters.max_precondition_dim for trial in expand(sweep) if trial.optimizer == "soap"} == {
        1024
    }
    assert "it has no default" in (tmp_path / "sweep.yaml").read_text()
    (tmp_path / "sweep.yaml").unlink()
    for name, words in (
        ("Needs", "needs: needs rho; add it to a sweep that"),
        ("Nine", "has no 'Nine'; did you mean 'Mine'"),
    ):
        _, err = invoke("init", "--optimizer", f"./my_opt.py:{name}", cwd=tmp_path, code=2)
        assert words in err
    assert not (tmp_path / "sweep.yaml").exists()
    _, err = invoke("check-optimizer", "./my_opt.py:Rated", cwd=tmp_path, code=2)
    assert err == "optbench: needs lr: 'optbench check-optimizer OPTIMIZER --set lr=VALUE'\n"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_is_a_valid_sweep(path):
    sweep = read(path)
    trials = expand(sweep)
    assert trials
    assert sweep.name == path.stem.replace("_", "-")
    budgets = {label: sum(trial.optimizer == label for trial in trials) for label in sweep.optimizers}
    if path.stem not in ("smoke", "dropout"):
        assert len(set(budgets.values())) == 1, budgets  # the same tuning budget for every optimizer


def blocks_of(path, language="yaml"):
    return re.findall(rf"```{language}\n(.*?)```", (REPOSITORY / path).read_text(encoding="utf-8"), re.DOTALL)


def test_every_sweep_in_the_readme_is_valid():
    assert blocks_of("README.md")
    for block in blocks_of("README.md"):
        assert expand(parse(block))


@pytest.fixture(scope="session")
def own_data(tmp_path_factory):
    """A folder with the data of one's own that the documentation names."""
    folder = tmp_path_factory.mktemp("own")
    images = np.arange(200 * 6 * 6).reshape(200, 6, 6).astype(np.uint8)
    np.savez(folder / "flowers.npz", images=images, labels=np.arange(200) % 3)
    (folder / "my_data.py").write_text(
        "import numpy as np\n\n\ndef load():\n    return np.eye(60)[:, :36].reshape(60, 6, 6), np.arange(60) % 2\n"
    )
    return folder


@pytest.mark.parametrize("block", blocks_of("docs/sweeps.md"))
def test_every_sweep_in_the_documentation_trains(block, tiny, own_data, monkeypatch):
    from optbench.data.datasets import load
    from optbench.data.info import OwnData
    from optbench.sweep import stacks
    from optbench.training import engine

    monkeypatch.chdir(own_data)
    for code in blocks_of("docs/sweeps.md", "python"):
        Path(code.split()[1]).write_text(code)  # its first line is "# my_net.py"
    sweep = parse(block)
    trials = expand(sweep) + (defaults(sweep)[0] if sweep.defaults else [])
    assert len(trials) > 1 or "mine" in block
    rungs = sweep.search.halving.rungs(sweep.epochs) if sweep.search and sweep.search.halving else ()
    for stack in stacks.plan(trials, 4, rungs=rungs):
        data = load(stack.dataset) if isinstance(stack.dataset, OwnData) else tiny
        *_, rows = engine.train(stack, data, "cpu")
        assert {row["status"] for row in rows} <= {"finished", "diverged"}, rows


def test_the_readme_lists_the_columns():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == [name for name, _, _ in COLUMNS]


def test_ci_calls_the_same_script():
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert any(step.get("run") == "bash .ci/run" for job in workflow["jobs"].values() for step in job["steps"])


def results_of(folder, target, **columns):
    """A copy of results in which columns have other values, computed from the rows."""
    shutil.copytree(folder, target)
    for path in target.glob("*.parquet"):
        table = pq.read_table(path)
        rows = table.to_pandas().assign(**columns)
        pq.write_table(pa.Table.from_pandas(rows, table.schema, preserve_index=False), path)
    return target


def test_compare_tells_a_refactoring_from_a_change(finished, tmp_path):
    folder = finished[0] / "results" / "small"
    same = results_of(folder, tmp_path / "same", workers=2)
    out, err = invoke("compare", folder, same, "--fail-if", "changed > 0", cwd=tmp_path)
    assert "No trial differs: 16 of 16 are bit-identical." in out and err == ""
    assert max(map(len, out.splitlines())) <= 80
    worse = lambda rows: rows["test_accuracy"] - 0.01 * (rows["optimizer"] == "adam")  # noqa: E731
    worse = results_of(folder, tmp_path / "worse", test_accuracy=worse)
    conditions = ("--fail-if", "test_accuracy<-0.9", "--fail-if", "test_accuracy_high < 0", "--fail-if", "diverged > 0")
    out, err = invoke("compare", folder, worse, *conditions, cwd=tmp_path, code=3)
    assert "adam: -1.00 ± 0.00 points of test accuracy over 2 seeds" in " ".join(out.split())
    assert err.splitlines()[:2] == [
        "optbench: adam: test_accuracy is -1, and fails if test_accuracy<-0.9",
        "optbench: adam: test_accuracy_high is -1, and fails if test_accuracy_high < 0",
    ]
    _, err = invoke("compare", folder, same, "--fail-if", "seconds > 2", cwd=tmp_path, code=2)
    assert "sgd, adam, all: cannot tell if seconds > 2: no trial ran alone on both sides" in err
    _, err = invoke("compare", folder, folder, cwd=tmp_path, code=2)
    assert "are the same folder" in err


def test_an_export_says_where_it_is_and_what_shows_it(finished, tmp_path):
    folder = finished[0] / "results" / "small"
    out, err = invoke("export", folder, "--to", "csv", cwd=tmp_path)
    assert (out, err) == ("", "wrote small.csv (csv)\n")
    assert len(pd.read_csv(tmp_path / "small.csv")) == len(pd.read_parquet(folder))
    out, _ = invoke("export", folder, "--to", "csv", "-o", "-", cwd=tmp_path)
    assert out == (tmp_path / "small.csv").read_text()
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    _, err = invoke("export", folder, "--to", "tensorboard", cwd=tmp_path)
    assert err == "wrote 16 runs to runs/small (tensorboard)\nnext: tensorboard --logdir runs/small\n"
    assert len(list((tmp_path / "runs" / "small").iterdir())) == 16


def test_the_commands_of_the_page_on_comparing_work(finished, tmp_path, monkeypatch):
    from optbench import cli, export

    for tool in export.TOOLS:  # what they write is for tests/test_export.py
        monkeypatch.setitem(export.TOOLS, tool, lambda exported, output: export.Destination(iter(exported), "there"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished[0] / "results" / "small", tmp_path / "results" / "main")
    shutil.copytree(finished[0] / "results" / "small", tmp_path / "results" / "pr")
    (tmp_path / "my_opt.py").write_text("import torch\n\n\nclass MyOptimizer(torch.optim.SGD):\n    pass\n")
    text = (REPOSITORY / "docs" / "comparing.md").read_text(encoding="utf-8")
    commands = [re.split("  +", command)[0] for command in re.findall(r"^    optbench (.*)$", text, re.MULTILINE)]
    assert len(commands) == 12
    for command in commands:
        if command == "run sweep.yaml":  # what it trains is for other tests
            fill(tmp_path, Path("sweep.yaml").read_text(), precision="fp32").folder.rename("results/myoptimizer")
            continue
        result = CliRunner().invoke(cli.app, shlex.split(command))
        assert result.exit_code == 0, f"{command}: {result.output}"
