"""What changed between two results of the same trials: pairs, intervals over seeds, sentences, refusals, conditions."""

import dataclasses
import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import optbench
from optbench import stats
from optbench.data.info import DATASETS
from optbench.errors import UserError
from optbench.networks.network import Network
from optbench.report import comparison, formats
from optbench.results.store import SCHEMA, Store
from optbench.runs.job import Job
from optbench.scores import Score
from optbench.sweep.spec import parse, to_yaml
from optbench.sweep.trials import confirmations, expand

SWEEP = """
name: small
dataset: digits
epochs: 2
seeds: 3
parameters: {dropout: [0.1, [0.1, 0.25]]}
optimizers:
  sgd: {lr: [0.01, 0.1], momentum: 0.9}
  adam: {lr: 0.001}
"""


def score(trial, epoch):
    """A number for each trial and epoch."""
    return 0.5 + 0.1 * epoch + 0.01 * trial.seed + 0.1 * trial.hyperparameters.lr + 0.02 * trial.dropout[1]


def shifted(by):
    """Scores that differ from `score` by so much for each seed after training; epoch 0 is as it was."""
    return lambda trial, epoch: score(trial, epoch) + (by[trial.seed] if epoch else 0)


def rows_of(trials, score=score, status=lambda trial: "finished", **columns):
    """The rows of trials with made-up scores; a trial whose status is None has none."""
    defaults = {"sweep": "small", "stack": "all", "stack_size": 4, "workers": 2, "device": "cpu", "precision": "fp32"}
    defaults |= {"cpu": "X", "optbench_version": "1", "torch_version": "2.13"} | columns
    rows = []
    for trial in trials:
        state = status(trial)
        epochs = {None: 0, "diverged": 2, "failed": 1, "running": 2}.get(state, trial.epochs + 1)
        for epoch in range(epochs):
            value = math.nan if state == "failed" or (state == "diverged" and epoch) else score(trial, epoch)
            scores = {f"{split}_accuracy": value for split in ("train", "val", "test")}
            scores |= {f"{split}_loss": 1 - value for split in ("train", "val", "test")}
            row = {
                "epoch": epoch,
                "step": 10 * epoch,
                "train_seconds": 2.0 * epoch,
                "scheduled_lr": 0.1,
                "status": state,
            }
            rows.append(defaults | trial.columns() | row | scores)
    return rows


def frame(score=score, text=SWEEP, **columns):
    return pa.Table.from_pylist(rows_of(expand(parse(text)), score, **columns), SCHEMA).to_pandas()


def written(folder, score=score, text=SWEEP, outline=None, **columns):
    """A folder of results as a run leaves it; where the sweep confirms, each optimizer's first configuration."""
    sweep = parse(text, folder=folder)
    store = Store(Path(folder))
    job = Job(sweep, store, "cpu")
    tuning = job.tuning
    first = {trial.optimizer: trial for trial in reversed(tuning)}
    chosen = [first[label].configuration_id for label in sweep.optimizers]
    fresh = confirmations(tuning, chosen, sweep.confirm)
    default = job.defaults_beside([*tuning, *fresh])
    found = dataclasses.replace(job.outline(fresh, job.defaults), **(outline or {}))
    store.begin(found, to_yaml(sweep), {"all": ()})
    store.replace("all", rows_of([*tuning, *fresh, *default], score, **columns))
    return store


def changes(a, b, by=("optimizer",)):
    return stats.changes(stats.match(a, b), by)


def shown(report, width=80):
    stream = io.StringIO()
    formats.terminal(report, Console(file=stream, width=width, highlight=False))
    return stream.getvalue()


def findings(a, b):
    return " ".join(comparison.compare(a, b).findings)


# ---------------------------------------------------------------- numbers

small = st.floats(-1, 1).map(lambda value: round(value, 6))


@settings(deadline=None, derandomize=True)
@given(st.lists(small, min_size=2, max_size=8), st.lists(small, min_size=2, max_size=8))
def test_welch_is_scipys(a, b):
    found = stats.welch(a, b)
    assert found.mean == pytest.approx(np.mean(b) - np.mean(a), abs=1e-12)
    assert found.n == min(len(a), len(b))
    if len(set(a)) > 1 and len(set(b)) > 1:
        interval = scipy.stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9, abs=1e-12)
    elif len(set(a)) == len(set(b)) == 1:
        assert found.low == pytest.approx(found.high, abs=1e-12)


def test_welch_has_no_interval_for_a_lone_value():
    found = stats.welch([0.5], [0.6, 0.8])
    assert found.mean == pytest.approx(0.2) and math.isnan(found.low) and math.isnan(found.high)
    assert math.isnan(stats.welch([], [1.0]).mean)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.lists(st.floats(-0.1, 0.1).map(lambda value: round(value, 6)), min_size=3, max_size=3))
def test_the_interval_is_students_over_the_seeds_however_many_configurations_there_are(differences):
    table = changes(frame(), frame(shifted(differences)))
    assert table["optimizer"].tolist() == ["sgd", "adam"]
    assert table["trials"].tolist() == [12, 6]
    assert (table[["n_a", "n_b"]] == 3).all(axis=None)
    interval = (np.mean(differences),) * 2
    if len(set(differences)) > 1:
        interval = scipy.stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    for row in table.itertuples():
        assert row.test_accuracy == pytest.approx(np.mean(differences), abs=1e-12)
        assert row.test_loss == pytest.approx(-np.mean(differences), abs=1e-12)
        assert (row.val_accuracy_low, row.val_accuracy_high) == pytest.approx(tuple(interval), abs=1e-9)


def test_trials_of_one_seed_are_averaged_first():
    by_lr = lambda trial, epoch: score(trial, epoch) + (0.3 if trial.hyperparameters.lr == 0.1 else 0.1) * trial.seed  # noqa: E731
    row = changes(frame(), frame(by_lr)).set_index("optimizer").loc["sgd"]
    interval = scipy.stats.ttest_1samp([0.0, 0.2, 0.4], 0).confidence_interval(0.95)
    assert row["test_accuracy"] == pytest.approx(0.2)
    assert (row["test_accuracy_low"], row["test_accuracy_high"]) == pytest.approx((interval.low, interval.high))


def test_the_other_way_round_every_difference_has_the_other_sign():
    a, b = frame(), frame(shifted([0.01, -0.03, 0.02]), stack_size=1, workers=1)
    there, back = changes(a, b), changes(b, a)
    for column in Score:
        assert there[column].tolist() == pytest.approx((-back[column]).tolist())
        assert there[f"{column}_low"].tolist() == pytest.approx((-back[f"{column}_high"]).tolist())


def test_neither_the_order_of_rows_nor_categories_matter():
    a, b = frame(), frame(shifted([0.01, -0.03, 0.02]))
    b.loc[b["optimizer"] == "adam", "device"] = "gpu"
    texts = ["optimizer", "schedule", "hyperparameters", "model", "status", "precision", "phase", "trial_id"]
    categories = [side.astype(dict.fromkeys(texts, "category")) for side in (a, b)]
    expected = changes(a, b)
    pd.testing.assert_frame_equal(changes(a, b.sample(frac=1, random_state=1)), expected)
    pd.testing.assert_frame_equal(changes(*categories), expected)


def test_a_group_is_any_combination_of_columns():
    b = frame(lambda trial, epoch: score(trial, epoch) + trial.hyperparameters.lr + trial.dropout[1])
    table = changes(frame(), b, ("lr", "dropout"))
    assert [(row.lr, row.dropout) for row in table.itertuples()] == [
        (lr, dropout) for lr in (0.001, 0.01, 0.1) for dropout in ("0.1", "0.1 + 0.25")
    ]
    expected = [lr + rate for lr in (0.001, 0.01, 0.1) for rate in (0.1, 0.25)]
    assert table["test_accuracy"].tolist() == pytest.approx(expected)
    assert len(changes(frame(), b, ())) == 1


# ---------------------------------------------------------------- what pairs


def test_trials_pair_by_what_they_are_and_not_by_their_ids_or_where_they_ran():
    b = frame(shifted([0.1, 0.1, 0.1]), precision="bf16", device="gpu")
    b[["trial_id", "configuration_id"]] = "x" + b[["trial_id", "configuration_id"]]
    matched = stats.match(frame(), b)
    assert len(matched.pairs) == 18 and matched.only_a.empty and matched.only_b.empty
    assert changes(frame(), b)["test_accuracy"].tolist() == pytest.approx([0.1, 0.1])


def test_precision_tells_trials_apart_where_a_sweep_varies_it():
    text = SWEEP.replace("parameters: {", "parameters: {precision: [fp32, bf16], ")
    a = frame(text=text)
    a["precision"] = a["trial_id"].map({t.trial_id: t.precision for t in expand(parse(text))})
    matched = stats.match(a, frame(shifted([0.1, 0.2, 0.3])))
    assert "precision" in matched.configuration
    assert set(matched.pairs["precision"]) == {"fp32"} and len(matched.pairs) == len(matched.only_a) == 18


def test_the_same_trial_twice_is_an_error():
    twice = pd.concat([frame(), frame().assign(trial_id=lambda rows: "x" + rows["trial_id"])])
    with pytest.raises(UserError, match="B holds the same trial twice"):
        stats.match(frame(), twice)


@pytest.mark.parametrize("swapped", [False, True])
def test_an_argument_that_one_side_does_not_know_does_not_part_trials(swapped):
    b = frame(shifted([0.1, 0.1, 0.1]))
    with_more = [json.dumps(json.loads(text) | {"fused": False}) for text in b["hyperparameters"]]
    b["hyperparameters"] = pd.Series(with_more, index=b.index).where(b["optimizer"] == "sgd", b["hyperparameters"])
    sides = (b, frame()) if swapped else (frame(), b)
    matched = stats.match(*sides)
    assert len(matched.pairs) == 18
    assert matched.ignored == (f"sgd fused=false in {'A' if swapped else 'B'}",)


def test_an_argument_that_varies_on_its_side_does_part_trials():
    b = frame()
    with_more = [json.dumps(json.loads(row.hyperparameters) | {"fused": row.lr > 0.05}) for row in b.itertuples()]
    matched = stats.match(frame(), b.assign(hyperparameters=with_more))
    assert set(matched.pairs["optimizer"]) == {"adam"} and matched.ignored == ("adam fused=false in B",)


def test_identical_means_every_score_of_every_common_epoch():
    b = frame()
    assert changes(frame(), b)["identical"].tolist() == [12, 6]
    assert changes(frame(), b)["changed"].tolist() == [0, 0]
    early = b.index[(b["optimizer"] == "sgd") & (b["epoch"] == 0)][0]
    b.loc[early, "train_loss"] = np.nextafter(b.loc[early, "train_loss"], 2)
    table = changes(frame(), b)
    assert table["identical"].tolist() == [11, 6]
    assert table["changed"].tolist() == [1, 0]
    assert table["test_accuracy"].tolist() == [0, 0]


def test_a_trial_that_diverged_the_same_way_is_identical_and_has_no_score():
    status = lambda trial: "diverged" if trial.hyperparameters.lr == 0.1 else "finished"  # noqa: E731
    row = changes(frame(status=status), frame(status=status)).iloc[0]
    assert (row["trials"], row["identical"], row["diverged_a"], row["diverged_b"], row["diverged"]) == (12, 12, 6, 6, 0)
    assert row["test_accuracy"] == 0


def test_a_trial_that_diverged_on_one_side_counts_and_leaves_the_scores_of_others_alone():
    status = lambda trial: "diverged" if trial.hyperparameters.lr == 0.1 and trial.seed == 1 else "finished"  # noqa: E731
    row = changes(frame(), frame(shifted([0.1, 0.2, 0.3]), status=status)).iloc[0]
    assert (row["trials_a"], row["diverged_a"], row["diverged_b"], row["diverged"]) == (12, 0, 2, 2)
    assert (row["n_a"], row["test_accuracy"]) == (3, pytest.approx(0.2))


def test_seconds_are_a_ratio_of_trials_that_ran_alone_on_both_sides():
    alone = {"stack_size": 1, "workers": 1}
    a, b = frame(**alone), frame(**alone)
    b["train_seconds"] *= np.where(b["seed"] == 0, 4.0, 1.0)
    row = changes(a, b).iloc[0]
    assert row["seconds"] == pytest.approx(4 ** (1 / 3))
    interval = scipy.stats.ttest_1samp(np.log([4, 1, 1]), 0).confidence_interval(0.95)
    assert (row["seconds_low"], row["seconds_high"]) == pytest.approx((np.exp(interval.low), np.exp(interval.high)))
    for other in (frame(workers=2, stack_size=1), frame(workers=1, stack_size=2)):
        assert changes(a, other)["seconds"].isna().all()


def test_other_seeds_are_compared_as_two_samples():
    fresh = SWEEP.replace("seeds: 3", "seeds: [7, 8, 9, 10]")
    gain = {7: 0.1, 8: 0.3, 9: 0.2, 10: 0.4}
    table = changes(frame(), frame(lambda trial, epoch: score(trial, epoch) + gain[trial.seed], fresh))
    assert not table["paired"].any()
    assert table["trials"].tolist() == [0, 0] and table["changed"].isna().all()
    seeds = [np.array([0, 1, 2]) * 0.01, np.array([0.07 + 0.1, 0.08 + 0.3, 0.09 + 0.2, 0.1 + 0.4])]
    expected = scipy.stats.ttest_ind(seeds[1], seeds[0], equal_var=False).confidence_interval(0.95)
    for row in table.itertuples():
        assert (row.n_a, row.n_b) == (3, 4)
        assert row.test_accuracy == pytest.approx(seeds[1].mean() - seeds[0].mean())
        assert (row.test_accuracy_low, row.test_accuracy_high) == pytest.approx((expected.low, expected.high))
        assert math.isnan(row.diverged)  # three seeds against four


def test_without_pairs_only_configurations_complete_on_both_sides_count():
    """A configuration that lost a seed would stand in one seed's mean and not in the next's."""
    fresh = SWEEP.replace("seeds: 3", "seeds: [7, 8, 9]")
    status = lambda trial: "diverged" if trial.hyperparameters.lr == 0.1 and trial.seed == 8 else "finished"  # noqa: E731
    a, b = frame(), frame(text=fresh, status=status)
    row = changes(a, b).iloc[0]
    whole = changes(a[a["lr"] < 0.1], b[b["lr"] < 0.1]).iloc[0]
    assert row["test_accuracy"] == pytest.approx(0.07) == pytest.approx(whole["test_accuracy"])
    assert (row["trials_b"], row["diverged_b"], row["diverged"]) == (12, 2, 2)


def test_one_common_seed_of_many_does_not_decide():
    """It has no interval, the samples have one; but where one side has only that seed, its pairs are all there is."""
    overlapping, lone = (SWEEP.replace("seeds: 3", f"seeds: {seeds}") for seeds in ("[2, 3, 4]", "[2]"))
    row = changes(frame(), frame(text=overlapping)).iloc[0]
    assert (row["paired"], row["n_a"], row["n_b"]) == (False, 3, 3)
    row = changes(frame(), frame(shifted([0, 0, 0.5]), lone)).iloc[0]
    assert (row["paired"], row["n_a"], row["n_b"]) == (True, 1, 1)
    assert row["test_accuracy"] == pytest.approx(0.5) and math.isnan(row["test_accuracy_low"])


# ---------------------------------------------------------------- the report


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    return written(tmp_path_factory.mktemp("before"))


def test_nothing_changed(before, tmp_path):
    report = comparison.compare(before, written(tmp_path))
    assert report.findings == ("No trial differs: 18 of 18 are bit-identical.",)
    assert report.tables[0].data["optimizer"].tolist() == ["sgd", "adam", "all"]
    same = "The same on both sides: device, cpu, precision, torch_version, optbench_version."
    assert same in report.tables[0].caption


def test_what_changed_is_said_with_its_interval(before, tmp_path):
    gain = lambda trial, epoch: score(trial, epoch) - (0.01 + 0.001 * trial.seed) * (trial.optimizer == "adam")  # noqa: E731
    after = written(tmp_path, gain, torch_version="2.14", device="NVIDIA H100")
    report = comparison.compare(before, after)
    half = 4.302653 * 0.001 / 3**0.5
    assert report.findings == (
        "12 of 18 trials are bit-identical.",
        "A and B differ in device and torch_version: the differences may be rounding only, which acts like another "
        "seed where lr is near the edge of stability.",
        f"adam: -1.10 ± {100 * half:.2f} points of test accuracy over 3 seeds; none of the others can be told from 0.",
    )
    caption = report.tables[0].caption
    assert "A and B differ in device (cpu in A, NVIDIA H100 in B), torch_version (2.13 in A, 2.14 in B)." in caption
    out = shown(report)
    assert max(map(len, out.splitlines())) <= 80
    assert "-1.10 ± 0.25" in out and "0 → 0 of 6" in out


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ({}, {}, "In A and B device, cpu, precision, convolution and torch_version are the same: the code changed"),
        (
            {"device": "GPU"},
            {"device": "GPU", "cpu": "Y"},
            "In A and B device, precision, convolution and torch_version are the same",
        ),
        ({}, {"cpu": "Y"}, "A and B differ in cpu: the differences may be rounding only, which acts like another seed"),
        ({"cpu": None}, {}, "A does not name the CPU: the differences may be rounding only"),
        (
            {"cpu": None},
            {"cpu": None, "torch_version": "3"},
            "differ in torch_version, and A and B do not name the CPU: ",
        ),
        ({}, {"convolution": "loop"}, "A and B differ in convolution: the differences may be rounding only"),
        ({"os": "Linux 6.1"}, {"os": "Linux 7.0"}, "are the same: the code changed the numbers."),
    ],
)
def test_rounding_is_told_from_a_change(a, b, words, tmp_path):
    before = written(tmp_path / "a", **a)
    assert words in comparison.compare(before, written(tmp_path / "b", shifted([0.02, -0.02, 0.01]), **b)).findings[1]
    same = comparison.compare(before, written(tmp_path / "c", cpu="Z"))
    assert same.findings == ("No trial differs: 18 of 18 are bit-identical.",)


def test_trials_that_changed_where_nothing_else_did_are_counted():
    there = frame(shifted([0.02, -0.02, 0.01]))
    there["cpu"] = there["cpu"].where(there["optimizer"] == "adam", "Y")
    found = comparison._why(stats.match(frame(), there).pairs)
    assert found[0].startswith("A and B differ in cpu: ")
    assert found[1] == "Of the 18 that differ, 6 differ in none of these: the code changed those."


def test_a_change_that_may_be_chance_is_not_called_one(before, tmp_path):
    words = findings(before, written(tmp_path, shifted([0.02, -0.02, 0.01])))
    assert words.startswith("Every trial differs: none of 18 is bit-identical. In A and B device, cpu,")
    assert " No single difference of test accuracy can" in words
    assert "(+0.33 ± 5.17 points over all)" in words


def test_a_lone_seed_has_no_interval(tmp_path):
    text = SWEEP.replace("seeds: 3", "seeds: 1")
    a, b = written(tmp_path / "a", text=text), written(tmp_path / "b", shifted([0.1]), text)
    assert "With one seed nothing says how sure a difference is." in findings(a, b)
    assert "+10.00 " in shown(comparison.compare(a, b))


def test_trials_that_diverged_on_one_side_are_named(before, tmp_path):
    status = lambda trial: "diverged" if trial.hyperparameters.lr == 0.1 and trial.seed < 2 else "finished"  # noqa: E731
    report = comparison.compare(before, written(tmp_path, status=status))
    assert "Diverged on only one side: 4 in B." in report.findings
    rows = report.tables[-1].data.to_dict("records")
    assert rows == [
        {"optimizer": "sgd", "configuration": f"dropout={dropout}, lr=0.1", "side": "B", "seeds": "0, 1"}
        for dropout in ("0.1", "0.1 + 0.25")
    ]
    assert "0 → 4 of 12" in shown(report)


def test_defaults_have_a_table_of_their_own(tmp_path):
    text = SWEEP + "defaults: true"  # those of adam are among its tuning trials
    gain = lambda trial, epoch: score(trial, epoch) + 0.1 * (trial.phase == "default")  # noqa: E731
    report = comparison.compare(written(tmp_path / "a", text=text), written(tmp_path / "b", gain, text))
    assert [table.title for table in report.tables] == ["What changed from A to B", "What changed at defaults"]
    assert report.tables[0].data["test_accuracy"].tolist() == [0, 0, 0]
    assert report.tables[1].data.set_index("optimizer")["test_accuracy"].to_dict() == pytest.approx({"sgd": 0.1})
    assert report.findings[-1].startswith("At their defaults, sgd: +10.00 ± 0.00 points of test accuracy over 3 seeds")


def test_fresh_seeds_have_a_table_of_their_own(tmp_path):
    text = SWEEP + "confirm: {seeds: [100, 101]}"
    rise = {"sgd": 0.1, "adam": 0.05}
    gain = lambda trial, epoch: score(trial, epoch) + rise[trial.optimizer] * (trial.phase == "confirm")  # noqa: E731
    report = comparison.compare(written(tmp_path / "a", text=text), written(tmp_path / "b", gain, text))
    assert [table.title for table in report.tables] == ["What changed from A to B", "What changed on fresh seeds"]
    assert report.tables[0].data["test_accuracy"].tolist() == [0, 0, 0]
    assert report.tables[1].data["test_accuracy"].tolist() == pytest.approx([0.1, 0.05, 0.075])
    assert report.findings == (
        "18 of 22 trials are bit-identical.",
        "In A and B device, cpu, precision, convolution and torch_version are the same: the code changed the numbers.",
        "On fresh seeds, sgd: +10.00 ± 0.00 points of test accuracy over 2 seeds; adam: +5.00 ± 0.00.",
    )


def test_half_a_sweep_is_compared_as_far_as_it_is(before, tmp_path):
    status = lambda trial: {0: "finished", 1: "finished" if trial.optimizer == "sgd" else "running"}.get(trial.seed)  # noqa: E731
    after = written(tmp_path, shifted([0.1, 0.2, 0.3]), status=status)
    report = comparison.compare(before, after)
    data = report.tables[0].data.set_index("optimizer")
    assert data["n_a"].to_dict() == {"sgd": 2, "adam": 1, "all": 2}
    assert data["test_accuracy"].to_dict() == pytest.approx({"sgd": 0.15, "adam": 0.1, "all": 0.15})
    assert "(18 trials: 10 finished, 2 unfinished, 6 missing)" in report.summary
    assert "Only in A: 6 trials of 6 configurations." in report.tables[0].caption


def test_an_optimizer_that_one_side_has_not_reached_keeps_its_row_and_passes_no_condition(before, tmp_path):
    after = written(tmp_path, status=lambda trial: "finished" if trial.optimizer == "sgd" else None)
    report = comparison.compare(before, after)
    data = report.tables[0].data.set_index("optimizer")
    assert data.index.tolist() == ["sgd", "adam", "all"]
    assert data.loc["adam", "trials"] == 0 and math.isnan(data.loc["adam", "test_accuracy"])
    for text in ("test_accuracy < -1", "changed > 0", "diverged > 0", "test_loss_high > 1"):
        broken, unknown = judged(report, text)
        assert broken == [] and [line.partition(":")[0] for line in unknown] == ["adam"]


def test_an_optimizer_with_other_configurations_keeps_its_row_and_passes_no_condition(before, tmp_path):
    after = written(tmp_path, text=SWEEP.replace("[0.01, 0.1]", "[0.02, 0.2]"))
    report = comparison.compare(before, after)
    assert report.tables[0].data["trials"].tolist() == [0, 6, 6]
    broken, unknown = judged(report, "diverged > 0", "changed > 0", "val_accuracy < -1")
    assert broken == [] and [line.partition(":")[0] for line in unknown] == ["sgd"] * 3


def test_other_seeds_that_all_diverged_are_counted(before, tmp_path):
    after = written(tmp_path, text=SWEEP.replace("seeds: 3", "seeds: [7, 8, 9]"), status=lambda trial: "diverged")
    report = comparison.compare(before, after)
    row = report.tables[0].data.iloc[0]
    assert (row["seeds"], row["diverged_of"], row["diverged"]) == ("0", "0 → 12 of 12", 12)
    assert "seeds of A and B differ" not in report.note


def test_models_that_one_side_lacks_are_named_and_left_out(tmp_path):
    text = SWEEP.replace("parameters: {", "parameters: {model: [cnn, mlp], ")
    report = comparison.compare(written(tmp_path / "a", text=text), written(tmp_path / "b"))
    assert "Only A has the model mlp; only what both have is compared." in report.findings
    assert report.tables[0].data["trials"].tolist() == [12, 6, 18]


def test_every_format_has_the_numbers(before, tmp_path):
    report = comparison.compare(before, written(tmp_path, shifted([0.1, 0.2, 0.3])))
    content = json.loads(formats.to_json(report))
    assert content["findings"] == list(report.findings)
    assert content["tables"][0]["rows"][0]["test_accuracy"] == pytest.approx(0.2)
    rows = pd.read_csv(io.StringIO(formats.csv(report)))
    assert rows["test_accuracy"].tolist() == pytest.approx([0.2] * 3)
    for text in (formats.markdown(report), formats.latex(report)):
        assert "+20.00" in text


# ---------------------------------------------------------------- refusals

OTHER = {
    "different datasets, A on digits and B on mnist": {"text": SWEEP.replace("digits", "mnist")},
    "train has 1,200 images in A and 1,300 in B": {"outline": {"splits": {"train": 1300, "val": 297, "test": 300}}},
    "model cnn is another network: 300,426 parameters in A, 7 in B": {"outline": {"networks": {"cnn": 7}}},
    "different networks, A cnn and B mlp": {"text": SWEEP.replace("parameters: {", "parameters: {model: mlp, ")},
    "no configuration in common: epochs is 2 in A and 3 in B": {"text": SWEEP.replace("epochs: 2", "epochs: 3")},
    "no configuration in common: batch_size is 64 in A and 32 in B": {
        "text": SWEEP.replace("parameters: {", "parameters: {batch_size: 32, ")
    },
    "no trial has finished yet": {"status": lambda trial: "running"},
}


@pytest.mark.parametrize("why", OTHER)
def test_what_must_not_be_compared_is_refused(before, tmp_path, why):
    with pytest.raises(UserError, match=why):
        comparison.compare(before, written(tmp_path, **OTHER[why]))


def test_a_folder_is_not_compared_with_itself(before, tmp_path):
    (tmp_path / "link").symlink_to(before.folder)
    with pytest.raises(UserError, match="are the same folder"):
        comparison.compare(before, Store(tmp_path / "link"))


def test_older_folders_that_know_neither_splits_nor_networks_are_compared(before, tmp_path):
    after = written(tmp_path)
    path = after.meta / "outline.json"
    outline = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in outline.items() if key not in ("splits", "networks")}))
    assert after.outline().splits == after.outline().networks == {}
    assert findings(before, after) == "No trial differs: 18 of 18 are bit-identical."
    path.unlink()
    assert findings(before, after) == "No trial differs: 18 of 18 are bit-identical."


def test_a_run_records_splits_and_networks_and_so_do_the_committed_results(before):
    folders = sorted((Path(optbench.__file__).parent.parent / "results").glob("*/_optbench/outline.json"))
    for store in (before, *(Store(path.parent.parent) for path in folders)):
        rows, outline = store.rows(), store.outline()
        (dataset,) = rows["dataset"].unique()
        assert outline.splits in ({dataset: DATASETS[dataset].splits}, {"": DATASETS[dataset].splits})
        assert outline.networks == {model: Network(model).architecture.size for model in rows["model"].unique()}


def test_a_column_to_group_by_must_be_one(before, tmp_path):
    with pytest.raises(UserError, match="by optimiser: did you mean 'optimizer'"):
        comparison.compare(before, written(tmp_path), ["optimiser"])


# ---------------------------------------------------------------- conditions


def judged(report, *conditions):
    return comparison.check(report, [comparison.condition(text) for text in conditions])


def test_a_condition_is_checked_in_every_row_in_points(before, tmp_path):
    gain = lambda trial, epoch: score(trial, epoch) - (0.007 if trial.optimizer == "adam" else 0.005) * (epoch > 0)  # noqa: E731
    report = comparison.compare(before, written(tmp_path, gain))
    broken, unknown = judged(report, "test_accuracy < -0.5")
    assert broken[0] == "adam: test_accuracy is -0.7, and fails if test_accuracy < -0.5"
    assert [line.partition(":")[0] for line in broken] == ["adam", "all"]  # sgd is at the limit
    assert unknown == []
    assert [line.partition(":")[0] for line in judged(report, "test_accuracy<=-0.5")[0]] == ["sgd", "adam", "all"]
    assert judged(report, "test_loss >= 0.0071", "val_accuracy_high > 0", "diverged > 0") == ([], [])
    assert len(judged(report, "train_loss_low > 0.004", "changed > 17", "test_accuracy_high < 0")[0]) == 3 + 1 + 3


def test_a_condition_that_nothing_can_be_said_about_does_not_pass(tmp_path):
    lone = SWEEP.replace("seeds: 3", "seeds: 1")
    report = comparison.compare(written(tmp_path / "a", text=lone), written(tmp_path / "b", text=lone))
    assert judged(report, "test_accuracy_high < 0", "test_accuracy < 0", "seconds > 1.1") == (
        [],
        [
            "sgd, adam, all: cannot tell if test_accuracy_high < 0: there is no interval with one seed",
            "sgd, adam, all: cannot tell if seconds > 1.1: no trial ran alone on both sides, as 'optbench run SWEEP "
            "--timing' trains them",
        ],
    )
    lost = written(tmp_path / "c", text=lone, status=lambda t: "finished" if t.optimizer == "sgd" else "diverged")
    report = comparison.compare(written(tmp_path / "d", text=lone), lost)
    broken, unknown = judged(report, "diverged > 0", "test_accuracy < 0")
    assert [line.partition(":")[0] for line in broken] == ["adam", "all"]
    assert unknown == ["adam: cannot tell if test_accuracy < 0: no trial finished on both sides"]


def test_without_pairs_neither_changes_nor_divergence_can_be_told(before, tmp_path):
    report = comparison.compare(before, written(tmp_path, text=SWEEP.replace("seeds: 3", "seeds: [5, 6]")))
    assert judged(report, "changed > 0", "diverged > 0")[1] == [
        "sgd, adam, all: cannot tell if changed > 0: no trial pairs",
        "sgd: cannot tell if diverged > 0: A has 12 trials there and B 8",
        "adam: cannot tell if diverged > 0: A has 6 trials there and B 4",
        "all: cannot tell if diverged > 0: A has 18 trials there and B 12",
    ]
    assert "No trials pair." in report.findings
    assert "the seeds of A and B differ" in report.note


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tset_accuracy < 0", "unknown column 'tset_accuracy'; did you mean 'test_accuracy'"),
        ("test_accuracy = 0", "must be COLUMN OP NUMBER"),
        ("test_accuracy", "must be COLUMN OP NUMBER"),
        ("test_accuracy < much", "'much' is not a number"),
        ("test_accuracy < nan", "'nan' is not a number"),
        ("diverged_low < 1", "unknown column 'diverged_low'"),
    ],
)
def test_a_condition_must_be_one(text, why):
    with pytest.raises(UserError, match=why):
        comparison.condition(text)
