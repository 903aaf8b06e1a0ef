"""What optimizers cost, what they reach in the same seconds, and who is on the Pareto front; the table and its plot."""

import io
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from optbench import stats
from optbench.report import build, costs, formats, plots, rankings
from optbench.report.query import Query
from optbench.report.results import prepare
from optbench.scores import Score
from tests.test_plots import explored, made_up, named, results_of
from tests.test_report import fill, table

# ---------------------------------------------------------------- the Pareto front

few = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan])  # so that many are equal
points = st.lists(st.tuples(few | st.floats(0, 9), few | st.floats(0, 9)), max_size=12)


def beats(one, other):
    return one[0] <= other[0] and one[1] >= other[1] and one != other


@settings(deadline=None, derandomize=True)
@given(points)
def test_the_front_is_whatever_nobody_beats(found):
    cost, score = [one[0] for one in found], [one[1] for one in found]
    known = [one for one in found if not any(map(math.isnan, one))]
    front = stats.pareto(cost, score)
    expected = [one in known and not any(beats(other, one) for other in known) for one in found]
    assert front.tolist() == expected
    assert front.any() == bool(known)
    # Along the front more seconds buy a better score, and the scale of neither matters.
    on = sorted({one for one, is_on in zip(found, front, strict=True) if is_on})
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(on))
    assert stats.pareto(4 * np.array(cost), 2 * np.array(score)).tolist() == expected


# ---------------------------------------------------------------- scores at equal seconds


def curves(*values):
    """Rows of one trial, each of a configuration of its own, for each list of values after each epoch."""
    return pd.DataFrame(
        [
            {"trial_id": f"t{i}", "configuration_id": f"c{i}", "epoch": epoch, "val_accuracy": value}
            for i, trial in enumerate(values)
            for epoch, value in enumerate(trial)
        ]
    )


accuracies = st.lists(st.floats(0, 1), min_size=5, max_size=5)
epochs = st.floats(1, 4)


@settings(deadline=None, derandomize=True)
@given(accuracies, accuracies, epochs, epochs)
def test_a_score_between_two_epochs_lies_on_the_line_between_them(first, second, one, other):
    found = stats.after(curves(first, second), Score.val_accuracy, pd.Series({"c0": one, "c1": other}))
    assert found["t0"] == pytest.approx(np.interp(one, range(5), first), abs=1e-9)
    assert found["t1"] == pytest.approx(np.interp(other, range(5), second), abs=1e-9)


def test_a_trial_that_diverged_before_has_no_score():
    rows = curves([0.1, 0.5, math.nan], [0.1, 0.3, 0.5, 0.6, 0.7])
    after = lambda *n: stats.after(rows, Score.val_accuracy, pd.Series(n, ["c0", "c1"][: len(n)]))  # noqa: E731
    assert after(1.0, 1.5).tolist() == pytest.approx([0.5, 0.4])
    for n in (1.5, 2.0, 3.0):
        assert after(n, 4.0).reindex(["t0", "t1"]).isna().tolist() == [True, False]
    assert after(1.0).index.tolist() == ["t0"]  # of others nothing is asked


# ---------------------------------------------------------------- costs of configurations


def timed(*trials):
    """The last rows of timed trials from (configuration, algorithm, batch size, seconds), all with 10 steps."""
    columns = ["configuration_id", "algorithm", "batch_size", "train_seconds"]
    same = {"status": "finished", "epoch": 2, "epochs": 2, "step": 10, "device": "cpu", "cpu": "A"}
    same |= dict.fromkeys(("dataset", "model", "activation", "loss"), "x") | {"peak_memory_bytes": math.nan}
    return pd.DataFrame([dict(zip(columns, trial, strict=True)) | same for trial in trials]).assign(precision=None)


def finals(**costs):
    """Final rows from (state per parameter, gradients per step) of each trial of a configuration."""
    columns = ["configuration_id", "status", "state_per_parameter", "gradients_per_step"]
    rows = [(name, "finished", *cost) for name, found in costs.items() for cost in found]
    return pd.DataFrame([*rows, ("a", "diverged", math.nan, math.nan)], columns=columns)


OPTIMIZERS = pd.Series({"a": "adam", "s": "plain", "n": "nesterov"})


def test_state_and_gradients_are_means_of_finished_trials():
    found = stats.costs(finals(a=[(2, 1), (2, 1)], s=[(0, 4), (0, 5)]), timed(("x", "sgd", 1, 1.0)), OPTIMIZERS)
    assert (found.reference, found.machine) == ("", "")
    assert found.table["state_per_parameter"].tolist()[:2] == [2, 0]
    assert found.table["gradients_per_step"].tolist()[:2] == [1, 4.5]
    assert found.table.loc["n"].isna().all() and found.table["seconds"].isna().all()


@pytest.mark.parametrize(
    ("trials", "reference", "ratios"),
    [
        # The faster sgd of the table, whatever else of sgd was timed, if none has this name.
        (
            [("a", "adam", 1, 3.0), ("s", "sgd", 1, 2.0), ("n", "sgd", 1, 2.5), ("x", "sgd", 1, 9)],
            "sgd",
            [1.5, 1, 1.25],
        ),
        # At another batch size an sgd that is not in the table, the median of three.
        (
            [("a", "adam", 8, 3.0), ("s", "sgd", 1, 2.0), *((f"x{n}", "sgd", 8, float(n)) for n in (1, 4, 5))],
            "sgd",
            [0.75, 1, math.nan],
        ),
        # No sgd that does the same.
        ([("a", "adam", 8, 3.0), ("s", "sgd", 1, 2.0)], "sgd", [math.nan, 1, math.nan]),
        # No sgd: the fastest of the table.
        ([("a", "adam", 1, 3.0), ("s", "lion", 1, 2.0), ("n", "nadam", 8, 4.0)], "plain", [1.5, 1, math.nan]),
    ],
)
def test_steps_are_compared_with_those_of_sgd_that_do_the_same_work(trials, reference, ratios):
    found = stats.costs(finals(), timed(*trials), OPTIMIZERS)
    assert (found.reference, found.machine) == (reference, "A")
    assert found.table["ratio"].tolist() == pytest.approx(ratios, nan_ok=True)


def test_the_optimizer_that_is_called_sgd_is_what_others_are_compared_with():
    labels = pd.Series({"n": "nesterov", "s": "sgd"})
    found = stats.costs(finals(), timed(("n", "sgd", 1, 4.0), ("s", "sgd", 1, 5.0)), labels)
    assert found.table["ratio"].to_dict() == pytest.approx({"n": 0.8, "s": 1.0})


def test_only_seconds_of_one_machine_are_compared():
    here = timed(("a", "adam", 1, 3.0), ("s", "sgd", 1, 2.0), ("a", "adam", 1, 5.0))
    there = timed(("n", "sgd", 1, 0.1), ("a", "adam", 1, 0.1)).assign(device="GPU", peak_memory_bytes=[7.0, 9.0])
    other = timed(("n", "sgd", 1, 0.1)).assign(cpu="B")
    assert stats.costs(finals(), pd.concat([here, other]), OPTIMIZERS).machine == "A"
    assert stats.costs(finals(), other.assign(cpu=None), OPTIMIZERS).machine == "cpu"
    found = stats.costs(finals(), pd.concat([here, other]), OPTIMIZERS).table
    assert found["seconds"].tolist() == pytest.approx([4.0, 2.0, math.nan], nan_ok=True)  # a mean of two
    assert found["seconds_per_step"].tolist() == pytest.approx([0.4, 0.2, math.nan], nan_ok=True)
    found = stats.costs(finals(), pd.concat([here[:1], there]), OPTIMIZERS)
    assert found.machine == "GPU" and found.table["peak_memory_bytes"].tolist()[::2] == [9.0, 7.0]


# ---------------------------------------------------------------- in a report

SWEEP = """
dataset: digits
name: costs
epochs: 4
seeds: 3
optimizers:
  sgd: {lr: 0.1}
  adam: {lr: 0.001}
  sam: {optimizer: sam, lr: 0.1}
"""
SECONDS = {"sgd": 1.0, "adam": 1.25, "sam": 2.0}  # of an epoch
ENDS = {"sgd": 0.8, "adam": 0.9, "sam": 0.95}


def value(trial, epoch):
    return 0.1 + (ENDS[trial.optimizer] - 0.1) * epoch / 4 + 1e-3 * (trial.seed - 1) * (1 + len(trial.optimizer) % 2)


def measured(trial, epoch):
    kept = {"sgd": 0.0, "adam": 2.0, "sam": 0.0}[trial.optimizer] if epoch else None
    taken = (2.0 if trial.optimizer == "sam" else 1.0) if epoch else None
    seconds = {"train_seconds": epoch * SECONDS[trial.optimizer]}
    return seconds | {"state_per_parameter": kept, "gradients_per_step": taken}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A sweep whose trials all trained alone, on a GPU."""
    columns = {"stack_size": 1, "workers": 1, "device": "a GPU", "peak_memory_bytes": 2**21}
    return fill(tmp_path_factory.mktemp("alone"), SWEEP, value, cost=measured, **columns)


def test_cost_stands_beside_accuracy_and_equal_seconds_change_who_is_ahead(alone):
    report = build.build(alone)
    found = table(report, "Cost")
    data = found.data.set_index("optimizer")
    assert data.index.tolist() == ["sam", "adam", "sgd"]
    assert data["ratio"].tolist() == pytest.approx([2, 1.25, 1])
    assert data["seconds"].tolist() == pytest.approx([8, 5, 4])
    # After 4 seconds sgd is at its end, adam after 3.2 epochs of 4, and sam after two.
    expected = [0.1 + 0.85 / 2, 0.1 + 0.8 * 0.8, 0.8]
    assert data["at_equal_seconds"].tolist() == pytest.approx(expected)
    assert data["pareto"].tolist() == [True, True, True]
    assert "At equal seconds (4 s) sgd is ahead of sam: 80.00 ± " in " ".join(report.findings)
    stream = io.StringIO()
    formats.print_table(found, Console(file=stream, width=80))
    headings = " ".join(stream.getvalue().split("sam")[0].split())
    assert headings.startswith("Cost") and headings.count("optimizer") == 1  # in one part
    (row,) = [line.split() for line in stream.getvalue().splitlines() if line.startswith("adam")]
    assert row[:7] == ["adam", "2.00", "1.00", "125.00", "1.25", "5.00", "2.0"]
    assert "by trials that ran alone on a GPU" in found.caption


def test_nothing_is_said_about_less_than_an_epoch(tmp_path):
    slow = lambda trial, epoch: {"train_seconds": epoch * (9.0 if trial.optimizer == "sam" else 1.0)}  # noqa: E731
    report = build.build(fill(tmp_path, SWEEP, value, cost=slow, stack_size=1, workers=1))
    found = table(report, "Cost")
    assert found.data.set_index("optimizer")["at_equal_seconds"].isna().to_dict() == {
        "sam": True, "adam": False, "sgd": False,
    }  # fmt: skip
    assert "–: that is less than an epoch." in found.caption
    assert "equal seconds" not in " ".join(report.findings)
    one = SWEEP.replace("epochs: 4", "epochs: 1")
    report = build.build(fill(tmp_path / "one", one, value, cost=measured, stack_size=1, workers=1))
    assert [column.name for column in table(report, "Cost").columns][-2:] == ["seconds", "pareto"]


def test_nobody_is_ahead_who_is_behind_when_the_epoch_under_way_ends(tmp_path):
    """After 4 seconds sam has made 2.5 epochs: on the line between them it is behind, at the end of the third ahead."""

    def steep(trial, epoch):
        return {"sgd": 0.8, "adam": 0.5, "sam": 0.9 if epoch > 2 else 0.6}[trial.optimizer] + 1e-3 * trial.seed

    def cost(trial, epoch):
        return {"train_seconds": epoch * (1.6 if trial.optimizer == "sam" else 1.0)}

    report = build.build(fill(tmp_path, SWEEP, steep, cost=cost, stack_size=1, workers=1))
    row = table(report, "Cost").data.set_index("optimizer").loc["sam"]
    assert row[["at_equal_seconds", "next_epoch"]].tolist() == pytest.approx([0.751, 0.901]) and row["p"] <= 0.05
    assert report.findings[0].startswith("Take sam") and "equal seconds" not in " ".join(report.findings)


def test_without_timing_there_are_state_and_gradients(tmp_path):
    found = table(build.build(fill(tmp_path, SWEEP, value, cost=measured)), "Cost")
    assert [column.name for column in found.columns] == ["optimizer", "state_per_parameter", "gradients_per_step"]
    assert found.caption.endswith("'optbench run SWEEP --timing' adds seconds.")
    once = {"train_seconds": 1.0, "state_per_parameter": 1.0, "gradients_per_step": 1.0}
    found = table(build.build(fill(tmp_path / "one", SWEEP, value, cost=lambda *_: once)), "Cost")
    assert [column.name for column in found.columns] == ["optimizer", "state_per_parameter"]
    assert "Each step of all takes one gradient." in found.caption


def test_what_was_not_measured_has_no_table(tmp_path):
    report = build.build(fill(tmp_path, SWEEP, value))
    assert "Cost" not in [table.title for table in report.tables]
    assert "equal seconds" not in " ".join(report.findings)


@pytest.mark.parametrize("at", ["best", "2"])
def test_equal_seconds_are_of_whole_trainings(at, alone):
    query = Query(at=int(at) if at.isdigit() else at)
    assert "pareto" not in table(build.build(alone, query), "Cost").data
    assert "cost" not in named(plots.explore(prepare(alone, query)))


def test_less_is_better_for_a_loss(alone):
    data = table(build.build(alone, Query(metric=Score.test_loss)), "Cost").data.set_index("optimizer")
    assert data["at_equal_seconds"].tolist() == pytest.approx([1 - 0.1 - 0.85 / 2, 1 - 0.1 - 0.8 * 0.8, 0.2])
    assert data["pareto"].tolist() == [True] * 3 and data["best"].tolist() == [False, False, True]


# ---------------------------------------------------------------- the plot


@pytest.fixture(scope="module")
def results():
    """Optimizers of which the second is as fast as the first and worse, and the last the fastest."""
    frames = made_up({"adam": [1e-2], "slow": [1e-2], "sgd": [1e-1], "lion": [1e-3]}, epochs=8, seeds=4)
    return results_of(frames, seconds={"adam": 2.0, "slow": 2.0, "sgd": 1.0, "lion": 30.0})


def test_the_plot_of_costs_has_the_points_of_the_tables(results):
    (plot,) = (plot for plot in plots.plots(plots.explore(results)) if plot.name == "cost")
    ranked = rankings.axis(results, ["optimizer"]).data
    data = costs.table(results, ranked).data.set_index("optimizer").join(ranked.set_index("optimizer")["test_accuracy"])
    assert (plot.kind, plot.is_log, plot.unit) == ("points", True, "percent")
    assert {one.label for one in plot.series} == set(data.index)
    for one in plot.series:
        (point,) = one.points.to_dict("records")
        row = data.loc[one.label]
        assert (point["x"], point["y"]) == pytest.approx((row["seconds"], row["test_accuracy"]))
        assert point["low"] < point["y"] < point["high"]
        assert point["hollow"] == (not row["pareto"])
    hollow = [bool(one.points["hollow"].iloc[0]) for one in plot.series]
    assert hollow == sorted(hollow) and {True, False} == set(hollow)  # the front comes first


def test_what_was_not_timed_is_not_drawn():
    assert "cost" not in named(explored(made_up({"adam": [1e-2], "sgd": [1e-1]})))
