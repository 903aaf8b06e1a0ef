"""Reports: the right tables for what a sweep varies, in every format, fitting the terminal, with text escaped."""

import io
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from optbench.errors import UserError
from optbench.optimizers import OPTIMIZERS
from optbench.report import build, catalogue, formats, html, plots, status
from optbench.report.query import Query
from optbench.report.results import prepare
from optbench.report.tables import Column, Report, Table
from optbench.results.store import Part, Store
from optbench.runs.job import Job
from optbench.runs.phases import Tune
from optbench.scores import Score
from optbench.sweep.spec import parse, to_yaml
from optbench.sweep.trials import expand

SWEEP = """
dataset: digits
name: everything
epochs: 2
seeds: 3
parameters:
  batch_size: [32, 128]
  dropout: [0.0, [0.1, 0.25]]
  schedule: [constant, {name: step, step_size: 3, gamma: 0.3}]
optimizers:
  sgd: {lr: [0.01, 0.1], momentum: [0.0, 0.9]}
  "a_b & 50% [red]|x": {optimizer: adam, lr: 0.001}
"""


def fill(
    folder,
    text,
    value=lambda trial, epoch: 0.5,
    status=lambda trial: "finished",
    epochs=None,
    correct=None,
    cost=lambda trial, epoch: {"train_seconds": 2.0 * epoch},
    **columns,
):
    """Write the rows of a sweep as a run would, with made-up accuracies and costs.

    `correct` says for a trial which images it has right at its end; its accuracies are then that share.
    """
    sweep = parse(text, folder=folder)
    store = Store(folder / sweep.name)
    job = Job(sweep, store, "cpu")
    trials = [*job.tuning, *job.defaults_beside(job.tuning)]
    store.begin(job.outline(defaults=job.defaults), to_yaml(sweep), {"all": [t.trial_id for t in trials]})
    defaults = {"sweep": sweep.name, "stack": "all", "stack_size": 4, "workers": 2} | columns
    part = Part(store, "all", {trial.trial_id: defaults | trial.columns() for trial in trials})
    for epoch in range((trials[0].epochs if epochs is None else epochs) + 1):
        rows = []
        for trial in trials:
            if status(trial) == "diverged" and epoch > 1:
                continue  # it ended with the epoch before
            lost = status(trial) == "diverged" and epoch > 0
            accuracy = math.nan if lost else value(trial, epoch)
            scores = {f"{split}_accuracy": accuracy for split in ("train", "val", "test")}
            losses = {f"{split}_loss": 1 - accuracy for split in ("train", "val", "test")}
            state = status(trial) if epoch == trials[0].epochs or lost else "running"
            row = {
                "trial_id": trial.trial_id,
                "epoch": epoch,
                "step": epoch * 10,
                "status": state,
            }
            if correct and epoch == trials[0].epochs and not lost:
                mask = correct(trial)
                bits = {"images": len(mask), "correct": np.packbits(mask).tobytes(), "accuracy": mask.mean()}
                row |= {f"{split}_{name}": bits[name] for split in ("val", "test") for name in bits}
                scores = {"train_accuracy": accuracy}
            rows.append(row | scores | losses | cost(trial, epoch))
        if rows:
            part.add(rows)
    return store


def accuracy(trial, epoch):
    """Known best: sgd at lr 0.1 with momentum, batch size 32, no dropout, constant."""
    good = (trial.hyperparameters.lr == 0.1) + (trial.batch_size == 32) + (trial.dropout == (0.0, 0.0))
    good += (trial.schedule.name == "constant") + getattr(trial.hyperparameters, "momentum", 0)
    return 0.1 + 0.1 * good * epoch / 2 + 0.001 * trial.seed


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("results"), SWEEP, accuracy)


def table(report, title):
    """The one table of this title."""
    (found,) = (table for table in report.tables if table.title == title)
    return found


@pytest.fixture(scope="module")
def report(store):
    return build.build(store)


def shown(report, width):
    stream = io.StringIO()
    formats.terminal(report, Console(file=stream, width=width, highlight=False))
    return stream.getvalue()


def test_there_is_a_table_for_each_axis_that_varies(report):
    assert [table.title for table in report.tables] == [
        "Optimizers",
        "Differences to sgd",
        "Learning-rate schedules",
        "Batch sizes and training time",
        "Dropout rates",
        "Learning rates",
        "Hyperparameter momentum",
        "Learning-rate sensitivity",
        "Time to target",
        "What the scores depend on",
        "Tuning budget",
        "Training and validation accuracy",
    ]
    assert report.summary == "cnn on digits, 2 epochs, 3 seeds; 120 trials: 120 finished"


def test_a_sweep_that_varies_nothing_has_two_tables(tmp_path):
    store = fill(tmp_path, "name: one\ndataset: digits\nepochs: 1\noptimizers: {adam: }")
    assert [table.title for table in build.build(store).tables] == ["Optimizers", "Training and validation accuracy"]


def test_the_optimizers_table_says_what_was_put_in(report):
    best = report.tables[0].data.iloc[0]
    assert best["optimizer"] == "sgd"
    assert best["val_accuracy"] == pytest.approx(0.1 + 0.1 * 4.9 + 0.001)
    # Three equally spaced seeds 0.001 apart: s = 0.001, t(2) = 4.3027.
    half = 4.302653 * 0.001 / 3**0.5
    assert best["val_accuracy_low"] == pytest.approx(best["val_accuracy"] - half)
    assert best["val_accuracy_high"] == pytest.approx(best["val_accuracy"] + half)
    assert best["configuration"] == "schedule=constant, batch_size=32, dropout=0, lr=0.1, momentum=0.9"
    assert (best["n"], best["lost_of"], best["diverged"], best["trials"]) == (3, "0/3", 0, 96)


def test_the_axis_tables_choose_the_best_of_everything_else(report):
    dropout = table(report, "Dropout rates").data
    assert dropout["dropout"].tolist() == ["0", "0.1 + 0.25"] * 2
    row = dropout[(dropout["optimizer"] == "sgd") & (dropout["dropout"] == "0.1 + 0.25")].iloc[0]
    assert row["val_accuracy"] == pytest.approx(0.1 + 0.1 * 3.9 + 0.001)
    assert row["configuration"] == "schedule=constant, batch_size=32, lr=0.1, momentum=0.9"


def test_accuracy_by_epoch_starts_before_training(report):
    curves = report.tables[-1].data
    assert curves["epoch"].tolist() == [0, 1, 2]
    assert curves["sgd val_accuracy"].tolist() == pytest.approx([0.101, 0.346, 0.591])


def test_by_asks_for_one_table_of_these_columns(store):
    (found,) = build.build(store, Query(by=("schedule", "momentum"))).tables
    assert found.title == "schedule × momentum"
    assert found.data[["schedule", "momentum"]].to_numpy().tolist() == [
        ["constant", 0.0],
        ["constant", 0.9],
        ["step(step_size=3, gamma=0.3)", 0.0],
        ["step(step_size=3, gamma=0.3)", 0.9],
    ]
    assert found.data["test_accuracy"].tolist() == pytest.approx([0.501, 0.591, 0.401, 0.491])
    # Ranked within a schedule: with momentum is better in all seeds by the same.
    assert found.data["rank"].tolist() == [2, 1, 2, 1]
    (found,) = build.build(store, Query(by=("optimizer", "optimizer"))).tables
    assert found.title == "Optimizers"
    with pytest.raises(UserError, match="by momentun: did you mean 'momentum'"):
        build.build(store, Query(by=("momentun",)))


@pytest.mark.parametrize(("at", "expected"), [("last", 0.591), (2, 0.591), (1, 0.346), (0, 0.101)])
def test_scores_are_those_of_the_epoch_asked_for(store, at, expected):
    report = build.build(store, Query(at=at))
    assert report.tables[0].data["test_accuracy"].max() == pytest.approx(expected)


def test_the_best_epoch_is_each_trials_own(tmp_path):
    """Scores rise to the epoch that is the seed's number and fall after it."""
    text = "name: early\ndataset: digits\nepochs: 3\nseeds: [1, 2, 3]\noptimizers: {sgd: }"
    store = fill(tmp_path, text, lambda trial, epoch: 0.5 + 0.1 * trial.seed - 0.01 * abs(epoch - trial.seed))
    (best,) = build.build(store, Query(at="best")).tables[0].data.to_dict("records")
    assert best["test_accuracy"] == pytest.approx(0.7)
    (last,) = build.build(store).tables[0].data.to_dict("records")
    assert last["test_accuracy"] == pytest.approx(0.69)


def test_an_epoch_that_no_trial_has_is_refused(store):
    with pytest.raises(UserError, match="at epoch=3: the trials have 2 epochs"):
        build.build(store, Query(at=3))


def test_a_condition_leaves_its_trials_in_all_tables(store):
    report = build.build(store, Query(where="batch_size == 128 and momentum != 0.9"))
    assert report.summary.endswith("; 120 trials: 120 finished; 36 of 120 where batch_size == 128 and momentum != 0.9")
    titles = [table.title for table in report.tables]
    assert "Batch sizes and training time" not in titles and "Hyperparameter momentum" not in titles
    data = report.tables[0].data.set_index("optimizer")
    assert data.loc["sgd", "test_accuracy"] == pytest.approx(0.401)
    assert data["trials"].to_dict() == {"sgd": 24, "a_b & 50% [red]|x": 12}


def test_a_loss_ranks_from_the_lowest(store):
    data = build.build(store, Query(metric=Score.test_loss)).tables[0].data
    assert data["test_loss"].tolist() == pytest.approx([0.409, 0.599])
    assert data["rank"].tolist() == [1, 2]
    assert data["difference"].tolist() == pytest.approx([0, 0.19])


def test_a_target_of_ones_own_is_timed(store):
    found = table(build.build(store, Query(target=0.3, seconds=True)), "Time to target")
    rows = found.data.set_index("optimizer")
    assert rows["epochs_to"].to_dict() == {"sgd": 1, "a_b & 50% [red]|x": 2}
    assert rows["reached_of"].tolist() == ["3/3", "3/3"]
    assert [column.name for column in found.columns][-1] == "seconds_to"
    missed = table(build.build(store, Query(target=0.55)), "Time to target").data.set_index("optimizer")
    assert missed["epochs_to"].to_dict() == {"sgd": 2, "a_b & 50% [red]|x": math.inf}
    with pytest.raises(UserError, match=r"val_accuracy is a share; write 98\.5% or 0\.985"):
        build.build(store, Query(target=98.5))


def test_seconds_are_absent_unless_trials_ran_alone(report, tmp_path):
    together = table(report, "Batch sizes and training time")
    assert together.data["seconds_per_epoch"].isna().all()
    assert "here none did" in together.caption
    alone = build.build(fill(tmp_path, SWEEP, accuracy, stack_size=1, workers=1))
    alone = table(alone, "Batch sizes and training time")
    assert alone.data["seconds_per_epoch"].tolist() == [2.0] * 4
    assert "here none did" not in alone.caption


def test_diverged_trials_count_in_every_table(tmp_path):
    status = lambda trial: "diverged" if trial.hyperparameters.lr == 0.1 else "finished"  # noqa: E731
    report = build.build(fill(tmp_path, SWEEP, accuracy, status))
    assert report.summary.endswith("; 120 trials: 72 finished, 48 diverged")
    data = report.tables[0].data.set_index("optimizer")
    assert data.loc["sgd", ["diverged", "trials"]].tolist() == [48, 96]
    rates = table(report, "Learning rates").data.set_index("lr")
    assert rates.loc[0.1, ["diverged", "trials", "lost_of"]].tolist() == [48, 48, "3/3"]
    assert math.isnan(rates.loc[0.1, "val_accuracy"])
    assert "–" in shown(report, 120)


def test_lost_seeds_count_as_guessing_in_differences_and_order_but_not_in_scores(tmp_path):
    lines = "dataset: digits\nname: lost\nepochs: 2\nseeds: 6\noptimizers: {sgd: {lr: 0.1}, adam: {lr: 0.1}}"
    lost = {("sgd", 0), ("sgd", 1), ("adam", 5)}
    status = lambda trial: "diverged" if (trial.optimizer, trial.seed) in lost else "finished"  # noqa: E731
    # adam's second seed ended with a network that guesses.
    scores = {"sgd": [0.0, 0.0, 0.90, 0.91, 0.93, 0.92], "adam": [0.80, 0.1, 0.81, 0.80, 0.84, 0.0]}
    report = build.build(fill(tmp_path, lines, lambda trial, epoch: scores[trial.optimizer][trial.seed], status))
    data = report.tables[0].data.set_index("optimizer")
    assert data[["n", "lost_of"]].T.to_dict("list") == {"sgd": [4, "2/6"], "adam": [4, "2/6"]}
    assert data["val_accuracy"].tolist() == [pytest.approx(0.915), pytest.approx(0.8125)]
    assert report.findings[0].endswith("over 4 seeds; 2 of 6 were lost; 87.8 to 94.2 % on other images.")
    assert "Lost seeds, which count as guessing: sgd 2 of 6 and adam 2 of 6." in report.findings
    (row,) = table(report, "Differences to sgd").data.to_dict("records")
    assert row["n"] == 6
    # Seed 1 was lost by both, so it makes no difference; 0.1 is the accuracy of guessing.
    assert row["difference"] == pytest.approx(((0.80 - 0.1) + 0 - 0.09 - 0.11 - 0.09 + (0.1 - 0.92)) / 6)


def test_the_n_of_a_difference_is_that_of_the_seeds_that_both_have(tmp_path):
    lines = "dataset: digits\nname: half\nepochs: 2\nseeds: 6\noptimizers: {sgd: {lr: 0.1}, adam: {lr: 0.1}}"
    failed = {("sgd", 0), ("sgd", 1), ("adam", 1), ("adam", 5)}
    status = lambda trial: "failed" if (trial.optimizer, trial.seed) in failed else "finished"  # noqa: E731
    scores = {"sgd": [0.0, 0.0, 0.90, 0.91, 0.93, 0.92], "adam": [0.80, 0.0, 0.81, 0.80, 0.84, 0.0]}
    report = build.build(fill(tmp_path, lines, lambda trial, epoch: scores[trial.optimizer][trial.seed], status))
    assert report.tables[0].data.set_index("optimizer")["n"].to_dict() == {"sgd": 4, "adam": 4}
    (row,) = table(report, "Differences to sgd").data.to_dict("records")
    assert row["n"] == 3  # seeds 2, 3 and 4
    assert row["difference"] == pytest.approx(-(0.09 + 0.11 + 0.09) / 3)


def test_all_diverged_is_a_table_not_a_crash(tmp_path):
    report = build.build(fill(tmp_path, SWEEP, accuracy, lambda trial: "diverged"))
    assert report.summary.endswith("; 120 trials: 120 diverged")
    for name in formats.FORMATS:
        assert formats.FORMATS[name](report)
    assert "3/3" in shown(report, 80)


def test_a_sweep_that_has_only_begun_says_so(tmp_path):
    with pytest.raises(UserError, match=r"no trial has finished yet \(120 trials: 120 interrupted\)"):
        build.build(fill(tmp_path, SWEEP, accuracy, epochs=1))


def test_half_a_sweep_has_tables_of_what_is_finished(tmp_path):
    """One learning rate done, the other running; one optimizer failed: no axis has two finished values."""
    text = "name: half\ndataset: digits\nepochs: 2\noptimizers: {sgd: {lr: [0.01, 0.1]}, adam: }"
    store = fill(tmp_path, text, accuracy, epochs=1)
    first, _, failing = trials = expand(parse(text))
    for trial in trials:
        part = Part(store, trial.optimizer + str(trial.hyperparameters.lr), {trial.trial_id: trial.columns()})
        (store.folder / "part-all.parquet").unlink(missing_ok=True)
        row = {"trial_id": trial.trial_id, "step": 0, "status": "running", "stack_size": 1, "workers": 1}
        scores = {f"{split}_accuracy": 0.5 for split in ("train", "val", "test")} | {"val_loss": 0.5}
        part.add([row | scores | {"epoch": 0}])
        if trial is failing:
            part.fail("no memory")
        if trial is first:
            part.add([row | scores | {"epoch": 2, "status": "finished", "train_seconds": 1.0}])
    report = build.build(store)
    assert report.summary.endswith("; 3 trials: 1 finished, 1 failed, 1 interrupted")
    titles = ["Optimizers", "Failed trials", "Training and validation accuracy"]
    assert [table.title for table in report.tables] == titles
    optimizers = report.tables[0].data.set_index("optimizer")
    assert optimizers["n"].to_dict() == {"sgd": 1, "adam": 0}
    assert "adam" in shown(report, 80)
    for name in formats.FORMATS:
        assert "adam" in formats.FORMATS[name](report)


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """All of sgd's trials with softmax failed, and one seed of adam with mlp."""

    def error(trial):
        if trial.optimizer == "sgd" and trial.model == "softmax":
            return f"Traceback (most recent call last):\n  step\nValueError: no <b>step</b> | today{'!' * 300}\n"
        return "its worker died" if (trial.optimizer, trial.model, trial.seed) == ("adam", "mlp", 1) else None

    text = "name: fails\ndataset: digits\nepochs: 2\nseeds: 2\nparameters: {model: [mlp, softmax]}\n"
    text += "optimizers: {sgd: {lr: [0.01, 0.1]}, adam: }"
    store = fill(tmp_path_factory.mktemp("failing"), text, accuracy, lambda t: "failed" if error(t) else "finished")
    reasons = {trial.trial_id: error(trial) for trial in expand(parse(text))}
    rows = pq.read_table(*store.parts()).to_pylist()
    store.replace("all", [row | {"error": reasons[row["trial_id"]]} for row in rows])
    return store


def test_a_report_says_why_trials_failed(failing):
    report = build.build(failing)
    assert report.summary.endswith("; 12 trials: 7 finished, 5 failed")
    rows = table(report, "Failed trials").data
    said = f"ValueError: no <b>step</b> | today{'!' * 300}"[:200] + " …"
    assert rows.to_numpy().tolist() == [
        ["sgd", "model=softmax, lr=0.01 and 1 other", 4, said],
        ["adam", "model=mlp, lr=0.001", 1, "its worker died"],
    ]
    for name, step in (("table", "<b>step</b> |"), ("markdown", r"\<b\>step\</b\> \|"), ("latex", "$<$b$>$step")):
        assert step in formats.FORMATS[name](report)
    drawn = html.page(report, plots.explore(prepare(failing, Query())))
    assert "no &lt;b&gt;step&lt;/b&gt; | today" in drawn and "<b>step" not in drawn
    assert max(map(len, shown(report, 80).splitlines())) <= 80
    asked = table(build.build(failing, Query(where="model == 'mlp'")), "Failed trials")
    assert asked.data["optimizer"].tolist() == ["adam"]
    titles = [table.title for table in build.build(failing, Query(where="gap > -1")).tables]
    assert "Failed trials" not in titles  # nothing is known of their scores


def test_a_long_label_folds_and_leaves_the_numbers_whole(tmp_path):
    label = "a-very-long-label-" * 6
    text = f"name: long\ndataset: digits\nepochs: 2\nseeds: 3\noptimizers: {{{label}: {{optimizer: adam}}, sgd: }}"
    text = shown(build.build(fill(tmp_path, text, lambda trial, epoch: 0.5 + trial.seed / 100)), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "51.00 ± 2.48" in text


def test_trials_of_an_older_sweep_in_the_folder_are_left_out(tmp_path):
    store = fill(tmp_path, SWEEP, accuracy)
    smaller = Job(parse(SWEEP.replace("seeds: 3", "seeds: 2")), store, "cpu")
    store.begin(smaller.outline(), "", {})
    report = build.build(store)
    assert report.summary.endswith("; 80 trials: 80 finished")
    assert report.tables[0].data["n"].tolist() == [2, 2]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_the_terminal_is_never_overrun_and_no_number_is_broken(report, width):
    text = shown(report, width)
    assert max(map(len, text.splitlines())) <= width
    if width >= 80:
        for value in ("59.10 ± 0.25", "49.10 ± 0.25"):
            assert value in text


def test_json_holds_plain_numbers(report):
    content = json.loads(formats.to_json(report))
    assert content["version"] == 3
    assert content["sweep"] == "everything"
    first = content["tables"][0]["rows"][0]
    assert first["val_accuracy"] == pytest.approx(0.591)
    assert content["tables"][2]["rows"][0]["seconds_per_epoch"] is None


def test_csv_holds_the_same_numbers(report):
    frame = pd.read_csv(io.StringIO(formats.csv(report)))
    assert frame["table"].unique().tolist() == [table.title for table in report.tables]
    first = frame[(frame["table"] == "Optimizers") & (frame["optimizer"] == "sgd")].iloc[0]
    assert first["val_accuracy"] == pytest.approx(0.591)


def test_markdown_escapes_text_and_keeps_its_columns(report):
    text = formats.markdown(report)
    assert r"a\_b & 50% \[red\]\|x" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1


def test_latex_is_balanced_and_escaped(report):
    text = formats.latex(report)
    assert r"a\_b \& 50\% [red]|x" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == len(report.tables)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") >= len(report.tables)
    assert r"59.10 $\pm$ 0.25" in text
    for block in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, flags=re.DOTALL):
        for line in block[1].splitlines():
            if line.endswith(r"\\"):
                assert len(re.findall(r"(?<!\\)&", line)) == len(block[0]) - 1
    assert not re.search(r"[^\x00-\x7f]", text.split("\n\n", 1)[1])  # after the comment


def test_latex_tables_are_narrow_have_labels_and_say_once_what_is_the_same(report):
    text = formats.latex(report)
    labels = re.findall(r"\\label\{([^}]*)\}", text)
    assert len(labels) == len(set(labels)) == len(report.tables)
    assert labels[0] == "tab:everything-optimizers" and all(re.fullmatch("tab:[a-z0-9-]+", label) for label in labels)
    assert r"batch\_size=" not in text
    for block in re.findall(r"\\begin\{tabular\}(.*?)\\end\{tabular\}", text, flags=re.DOTALL):
        rows = [
            re.sub(r"\\[a-z]+\{?|[$}{^]|\\\\", "", line).split(" & ") for line in block.splitlines() if " & " in line
        ]
        widths = [max(len(row[i].strip()) for row in rows) + 2 for i in range(len(rows[0]))]
        assert sum(widths) <= 70 + 2 * len(widths), block


def numbers_of(count, width=0):
    """A table of this many rows whose columns are as wide as is said, and one that is the same in all."""
    data = pd.DataFrame({"name": [f"row {i}" for i in range(count)], "n": 7, "a": range(count), "b": range(count)})
    names = ["a", "b", *(f"c{i}" for i in range(width))]
    data = data.assign(**{f"c{i}": 0.5 for i in range(width)})
    columns = [Column("name", "name"), Column("n", "n", "count")]
    columns += [Column(name, f"{name} of a long name", "percent") for name in names]
    return Table("Some numbers", "Words.", tuple(columns), data)


def test_a_column_that_says_the_same_in_all_rows_moves_into_the_caption():
    text = formats.latex(Report("sweep", "", (), (numbers_of(3),), ""))
    assert r"\caption{Some numbers. Words. The same in all rows: n 7.}" in text
    assert r"\begin{tabular}{lrr}" in text
    alone = formats.latex(Report("sweep", "", (), (numbers_of(1),), ""))
    assert r"\begin{tabular}{lrrr}" in alone


def test_a_latex_table_that_is_too_wide_is_set_in_parts_that_repeat_its_names():
    text = formats.latex(Report("sweep", "", (), (numbers_of(2, width=12),), ""))
    parts = re.findall(r"\\begin\{tabular\}(.*?)\\end\{tabular\}", text, flags=re.DOTALL)
    assert len(parts) == 3 and all("row 0 & " in part for part in parts)
    assert sum(len(re.findall("c[0-9]+ of", part)) for part in parts) == 12
    assert text.count(r"\caption") == text.count(r"\label") == 1


def test_a_latex_table_of_many_rows_goes_over_pages():
    text = formats.latex(Report("sweep", "", (), (numbers_of(41),), ""))
    assert r"\usepackage{longtable}" in text.splitlines()[0]
    assert text.count(r"\begin{longtable}") == text.count(r"\endfirsthead") == text.count(r"\endhead") == 1
    assert r"\begin{table}" not in text and "longtable" not in formats.latex(Report("s", "", (), (numbers_of(40),), ""))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(report, tmp_path):
    (tmp_path / "tables.tex").write_text(formats.latex(report), encoding="utf-8")
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs,longtable}\begin{document}\input{tables}\end{document}",
        encoding="utf-8",
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000


def test_latex_sets_off_the_best_and_marks_ties(tmp_path):
    text = "name: ties\ndataset: digits\nepochs: 1\nseeds: 3\noptimizers: {sgd: , adam: , lion: }"
    scores = {"sgd": 0.9, "adam": 0.8985, "lion": 0.2}
    value = lambda trial, epoch: scores[trial.optimizer] + 0.001 * (trial.seed * len(trial.optimizer) % 3)  # noqa: E731
    first, *_ = formats.latex(build.build(fill(tmp_path, text, value))).split(r"\bottomrule")
    lines = first.splitlines()
    rows = {line.split(" & ")[0]: line for line in lines if line.endswith(r"\\")}
    assert [label for label in ("sgd", "adam", "lion") if r"\textbf{90." in rows[label]] == ["sgd"]
    assert [label for label in ("sgd", "adam", "lion") if r"$^\dagger$" in rows[label]] == ["adam"]


def test_the_terminal_shows_labels_as_they_are(report):
    assert "a_b & 50% [red]|x" in shown(report, 120)


def test_status_counts_every_trial(tmp_path):
    table = status.status(fill(tmp_path, SWEEP, accuracy, epochs=1)).table
    data = table.data.set_index("optimizer")
    assert data.loc["sgd"].to_dict() == {
        "trials": 96, "finished": 0, "diverged": 0, "failed": 0, "running": 96, "missing": 0,
    }  # fmt: skip
    assert table.caption.startswith("0/120 trials done")
    assert [column.heading for column in table.columns][5] == "interrupted"


def test_what_a_run_is_training_is_running_and_not_interrupted(tmp_path):
    store = fill(tmp_path, SWEEP, accuracy, epochs=1)
    with store.locked():
        assert [column.heading for column in status.status(store).table.columns][5] == "running"
        with pytest.raises(UserError, match="120 running"):
            build.build(store)


def test_listings_name_everything():
    own, others = (table.data.set_index("optimizer") for table in catalogue.optimizers())
    assert own.index.tolist() == list(OPTIMIZERS)
    assert own.loc["adam"].tolist()[:2] == ["torch.optim", "yes"]
    assert own.loc["lbfgs"].tolist()[:2] == ["torch.optim", "no"]
    assert "betas=[0.9, 0.999]" in own.loc["adam", "hyperparameters"]
    assert others.loc["nero", "hyperparameters"].startswith("CC BY-NC-SA 4.0, not for commercial use; lr=0.01")
    (schedules,), (datasets,) = catalogue.schedules(), catalogue.datasets()
    assert "step_size (required)" in schedules.data.set_index("schedule").loc["step", "parameters"]
    assert datasets.data["train"].tolist() == [1200, 55000, 55000, 45000]


WITH_DEFAULTS = """
dataset: digits
name: defaults
epochs: 2
seeds: 4
parameters: {batch_size: [32, 64], dropout: 0.0}
optimizers:
  sgd: {lr: [0.1, 0.01], momentum: [0.5, 0.9]}
  fixed: {optimizer: sgd, lr: 0.1, momentum: 0.9}
  adam: {lr: [0.001, 0.01]}
  asked: {optimizer: "torch.optim:SGD", lr: [0.1, 0.2], nesterov: true, momentum: [0.5, 0.9]}
defaults: true
"""


def test_defaults_are_beside_what_was_tuned_and_change_no_other_table(tmp_path):
    value = lambda trial, epoch: accuracy(trial, epoch) - trial.seed % 3 / 500 * trial.hyperparameters.lr  # noqa: E731
    store = fill(tmp_path / "with", WITH_DEFAULTS, value)
    report = build.build(store)
    without = build.build(fill(tmp_path / "without", WITH_DEFAULTS.replace("defaults: true", ""), value))
    found = table(report, "Defaults and tuning")
    others = [one for one in report.tables if one is not found]
    assert [one.title for one in others] == [one.title for one in without.tables]
    for one, other in zip(others, without.tables, strict=True):
        pd.testing.assert_frame_equal(one.data, other.data)
        assert (one.columns, one.caption) == (other.columns, other.caption)
    assert (report.summary, report.note) == (without.summary.replace("88", "96"), without.note)
    assert [said for said in report.findings if "efaults" not in said and "uning" not in said] == list(without.findings)
    data = found.data.set_index("optimizer")
    assert data["configuration"].to_dict() == {
        "adam": "lr=0.001, batch_size=32",
        "sgd": "lr=0.001, batch_size=32, momentum=0",
        "fixed": "lr=0.001, batch_size=32, momentum=0.9",
    }
    tuned = table(report, "Optimizers").data.set_index("optimizer")["test_accuracy"]
    assert data["tuned"].to_dict() == tuned.drop("asked").to_dict()
    assert data["gain"].to_dict() == pytest.approx({"adam": 0.0, "sgd": 0.19, "fixed": 0.1}, abs=0.001)
    assert data.loc["adam", "is_selected"] and math.isnan(data.loc["adam", "p"])
    assert "Left out: asked (ValueError: Nesterov momentum requires a momentum and zero dampening)." in found.caption
    assert "also selected them, which flatters the gain." in found.caption
    assert status.status(store).is_over
    assert max(map(len, shown(report, 80).splitlines())) <= 80


def test_a_condition_holds_for_defaults_too(tmp_path):
    store = fill(tmp_path, WITH_DEFAULTS, accuracy)
    titles = lambda where: [one.title for one in build.build(store, Query(where=where)).tables]  # noqa: E731
    assert "Defaults and tuning" in titles("optimizer in ['sgd', 'adam'] and batch_size == 32")
    assert "Defaults and tuning" not in titles("batch_size == 64")
    with pytest.raises(UserError, match="leaves no trial that selects, only others"):
        build.build(store, Query(where="lr == 0.001 and optimizer == 'sgd'"))


def test_each_dataset_has_its_own_defaults(tmp_path):
    text = "dataset: [digits, mnist]\nname: two\nepochs: 1\nseeds: 2\ndefaults: true\n"
    text += "optimizers: {sgd: {lr: [0.1, 0.2]}, adam: {lr: [0.1, 0.2]}}"
    value = lambda trial, epoch: 0.5 + trial.hyperparameters.lr + 0.1 * (trial.dataset == "mnist")  # noqa: E731
    report = build.build(fill(tmp_path, text, value))
    for dataset, shift in (("digits", 0.0), ("mnist", 0.1)):
        data = table(report, f"Defaults and tuning ({dataset})").data
        assert data["test_accuracy"].tolist() == pytest.approx([0.501 + shift] * 2)
        assert data["gain"].tolist() == pytest.approx([0.199] * 2)


SEARCHED = """
dataset: digits
name: searched
epochs: 2
seeds: 2
search: {num_samples: 4, halving: {factor: 2, min_epochs: 1}}
confirm: {seeds: 3}
optimizers:
  adam: {lr: {min: 1e-4, max: 1e-2, log: true}, schedule: [cosine, {name: exponential, gamma: {min: 0.1, max: 0.9}}]}
  sgd: {lr: [0.1, 0.2, 0.3]}
"""


def by_lr(trial, epoch):
    return 0.5 + trial.hyperparameters.lr


def test_a_searched_and_confirmed_sweep_is_scored_on_the_fresh_seeds(tmp_path):
    store = fill(tmp_path, SEARCHED, by_lr)
    phase = Tune(Job(parse(SEARCHED), store, "cpu")).following()
    best = {trial.optimizer: trial.hyperparameters.lr for trial in phase.trials}
    assert best["sgd"] == 0.3
    assert [trial.seed for trial in phase.trials] == [10000, 10000, 10001, 10001, 10002, 10002]
    phase.begin()
    part = Part(
        store, "fresh", {t.trial_id: {"sweep": "s", "stack_size": 1, "workers": 1} | t.columns() for t in phase.trials}
    )
    for epoch in range(3):
        part.add(
            [
                {
                    "trial_id": t.trial_id,
                    "epoch": epoch,
                    "status": "finished" if epoch == 2 else "running",
                    "val_loss": 0.1,
                }
                | {f"{split}_accuracy": 0.25 + (t.seed - 10001) / 100 for split in ("train", "val", "test")}
                for t in phase.trials
            ]
        )
    report = build.build(store)
    assert report.summary.endswith("; 28 trials: 28 finished")
    assert report.tables[0].caption.startswith("The tuning budgets")  # none is without confirmation
    optimizers, schedules = table(report, "Optimizers"), table(report, "Learning-rate schedules")
    assert optimizers.data["test_accuracy"].tolist() == pytest.approx([0.25, 0.25])
    assert optimizers.data["n"].tolist() == [3, 3]
    assert "The headline is on fresh seeds" in schedules.caption and "headline" not in optimizers.caption
    adam = optimizers.data.set_index("optimizer").loc["adam"]
    assert adam["configuration"].startswith(f"lr={best['adam']:g}, schedule=")
    # The other tables show the tuning seeds, one row for each schedule, whatever was drawn for it.
    rows = schedules.data.set_index(["optimizer", "schedule"])
    assert sorted(rows.index) == [("adam", "cosine"), ("adam", "exponential"), ("sgd", "constant")]
    assert rows.loc[("sgd", "constant"), "val_accuracy"] == pytest.approx(0.8)
    assert "schedule=exponential(gamma=0." in rows.loc[("adam", "exponential"), "configuration"]
    assert "Learning rates" not in [table.title for table in report.tables]  # a row for every draw says nothing
    assert "is scored on fresh seeds, which selected nothing" in report.note
    assert report.tables[-1].data["adam val_accuracy"].tolist() == pytest.approx([0.25] * 3)
    words = "The tuning budgets differ: 8 configurations of adam; 3 configurations of sgd."
    assert all(words in table.caption for table in report.tables)
    found = status.status(store)
    assert found.line.startswith("28/28 trials done")
    assert found.counts["trials"].tolist() == [19, 9]
    for width in (60, 80, 120):
        assert max(map(len, shown(report, width).splitlines())) <= width


def test_schedules_that_were_not_drawn_keep_their_rows(tmp_path):
    store = fill(tmp_path, SEARCHED.replace("[cosine, ", "[{name: step, step_size: [1, 2]}, "))
    shown = table(build.build(store), "Learning-rate schedules").data.query("optimizer == 'adam'")["schedule"]
    assert sorted(shown) == ["exponential", "step(step_size=1)", "step(step_size=2)"]


CROWDED = """
name: crowded
dataset: digits
epochs: 1
optimizers:
  one: {optimizer: "./own.py:Crowded", seed: [1, 2], status: [a, b], table: [{x: 1}, null], gap: [0.5, [0.1, 0.2]]}
  two: {optimizer: "./own.py:Crowded", gap: [3, 4]}
"""


def test_arguments_may_have_the_names_of_columns(tmp_path):
    (tmp_path / "own.py").write_text(
        "import torch\nclass Crowded(torch.optim.SGD):\n"
        "    def __init__(self, params, lr=0.1, seed=0, status='s', table=None, gap=None):\n"
        "        super().__init__(params, lr=lr)\n"
    )
    report = build.build(fill(tmp_path, CROWDED, lambda trial, epoch: 0.5 + 0.01 * trial.hyperparameters.seed))
    one = report.tables[0].data.set_index("optimizer").loc["one"]
    assert (one["val_accuracy"], one["n"], one["diverged"], one["trials"]) == (0.52, 1, 0, 16)
    assert "seed=2, status=" in one["configuration"]
    found = {table.title.removeprefix("Hyperparameter "): table for table in report.tables}
    assert found["seed"].data["seed"].tolist() == [1, 2]
    assert set(found["table"].data["table"]) == {'{"x": 1}', "null"}
    assert found["gap"].data.set_index("optimizer").loc["two", "hyperparameter.gap"].tolist() == [3, 4]
    assert found["gap"].data["gap"].tolist() == [0] * 4
    for write in formats.FORMATS.values():
        write(report)


def test_stopped_trials_are_counted_and_not_shown_as_scores(tmp_path):
    store = fill(tmp_path, SEARCHED, by_lr, status=lambda t: "stopped" if t.hyperparameters.lr < 0.25 else "finished")
    report = build.build(store)
    assert report.summary.endswith("; 28 trials: 2 finished, 20 stopped early, 6 missing")
    data = report.tables[0].data.set_index("optimizer")
    assert data.loc["sgd", ["n", "lost_of", "trials"]].tolist() == [2, "0/2", 6]
    assert data.loc["adam", ["n", "lost_of", "trials", "configuration"]].tolist() == [0, "0/0", 16, ""]
    assert math.isnan(data.loc["adam", "val_accuracy"])
    assert status.status(store).counts["stopped"].tolist() == [16, 4]


def test_only_the_best_curves_are_shown_of_many(tmp_path):
    blocks = "".join(f"  o{i}: {{optimizer: sgd, lr: {(i + 1) / 100}}}\n" for i in range(14))
    store = fill(tmp_path, f"name: many\ndataset: digits\nepochs: 1\noptimizers:\n{blocks}", by_lr)
    curves = build.build(store).tables[-1]
    assert [column.name for column in curves.columns] == ["epoch", *(f"o{i}" for i in range(13, 3, -1))]
    assert curves.caption.endswith("The 10 best of 14 optimizers.")


def in_tables(report):
    """Ids of the configurations that a report's tables have rows of."""
    columns = [table.data["configuration_id"] for table in report.tables if "configuration_id" in table.data]
    return {i for column in columns for i in column.dropna() if i}


@pytest.mark.parametrize("name", ["known-optimizers", "models", "recipe"])
def test_what_tables_show_is_known_without_them(name):
    store = Store(Path(__file__).parent.parent / "results" / name)
    assert build.shown(store) == in_tables(build.build(store)) != set()


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (SWEEP, lambda trial: "finished"),
        (SWEEP, lambda trial: "diverged"),
        (SWEEP.replace("digits", "[digits, mnist]"), lambda trial: "finished"),
        (SEARCHED, lambda trial: "stopped" if trial.hyperparameters.lr < 0.25 else "finished"),
    ],
    ids=["grid", "diverged", "two datasets", "halved"],
)
def test_what_tables_of_made_up_results_show_is_known_without_them(tmp_path, text, status):
    store = fill(tmp_path, text, by_lr, status)
    assert build.shown(store) == in_tables(build.build(store)) != set()


def test_rows_alone_make_a_report(store, report, tmp_path):
    """Who has nothing but the parts of a folder gets the same tables: an outline is made up of the rows."""
    (folder := tmp_path / "everything").mkdir()
    for path in store.parts():
        shutil.copy(path, folder)
    alone = build.build(Store(folder))
    assert formats.to_json(alone) == formats.to_json(report)
    assert status.status(Store(folder)).counts.equals(status.status(store).counts)


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A sweep that is half-way at the first look and over at the third: what `watch` then shows in a console."""
    store = fill(tmp_path, SWEEP, accuracy, epochs=1)
    looks = []

    def wait(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            fill(tmp_path, SWEEP, accuracy)

    monkeypatch.setattr(status.time, "sleep", wait)

    def watch(**options):
        console = Console(file=io.StringIO(), highlight=False, **options)
        status.watch(store, console)
        assert len(looks) == 2 and min(looks) >= 2
        return console.file.getvalue()

    return watch


def test_a_watch_says_each_change_in_a_line_and_ends_when_nothing_is_left(watched):
    assert [line.partition(" trials")[0] for line in watched().splitlines()] == ["0/120", "120/120"]


@pytest.mark.parametrize("width", [80, 120])
def test_a_watch_redraws_a_screen(watched, width):
    drawn = watched(force_terminal=True, width=width, height=24, color_system=None)
    screens = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "\n", drawn)
    assert max(map(len, screens.splitlines())) <= width
    assert screens.count("Status of everything") == 3
    assert "0/120 trials done in" in screens and "120/120 trials done in" in screens
    assert "\x1b[?1049l" in drawn and "\x1b[?25h" in drawn  # the screen of before is back, and its cursor


def test_a_screen_of_many_optimizers_has_those_that_train():
    counts = pd.DataFrame({"optimizer": [f"o{i}" for i in range(40)], "trials": 2, "finished": 2})
    counts = counts.assign(diverged=0, failed=0, running=0, missing=0)
    counts.loc[39, ["finished", "running"]] = [1, 1]
    counts.loc[38, ["finished", "missing"]] = [1, 1]
    console = Console(file=io.StringIO(), width=80, height=24, highlight=False)
    console.print(status._screen(status.Status("s", Path("results/s"), True, counts), console))
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert len(lines) < 24
    assert [line[0] for line in lines[3:6]] == ["o39", "o38", "o0"]
    assert lines[-1] == ["and", "21", "more"]
