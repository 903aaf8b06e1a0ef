"""Plots: what is drawn equals the tables' numbers, under any filter, and nothing is drawn that is not there."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench import stats
from optbench.report import explanations, plots, rankings
from optbench.report.query import Query
from optbench.report.results import Results
from optbench.scores import Score
from optbench.sweep.axes import COMPARED, PARAMETERS

DEFAULTS = {axis.name: axis.columns[0].of(axis.default) for axis in PARAMETERS.values()} | {
    "dataset": "digits",
    "model": "cnn",
    "activation": "relu",
    "loss": "cross_entropy",
    "schedule": "constant",
    "batch_size": 64,
    "dropout": (0.1, 0.25),
    "precision": "fp32",
    "split_seed": 0,
    "transfer": "scratch",
    "pretrain": "",
    "stack_size": 1,
    "workers": 1,
}
DEFAULTS |= {name: axis.default for name, axis in PARAMETERS.items() if name not in DEFAULTS}
COSTS = {"device": "cpu", "cpu": None, "peak_memory_bytes": None, "state_per_parameter": 1.0, "gradients_per_step": 1.0}


def made_up(optimizers, epochs=4, seeds=3, confirm=0, status=None, seed=0, **axes):
    """Rows and finals as a report has them, of all combinations of the axes and, for each optimizer, its lrs.

    `optimizers` maps a label to its learning rates; one of them is best for each, and scores scatter around that.
    """
    generator = np.random.default_rng(seed)
    lists = {name: axes.get(name, [value]) for name, value in DEFAULTS.items()}
    rows = []

    def train(configuration, phase, number):
        label, lr, values = configuration
        quality = 0.95 - 0.02 * abs(math.log10(lr) + 2) - 0.001 * list(optimizers).index(label)
        quality -= 0.002 * sum(lists[name].index(value) for name, value in values.items())
        state = status(label, lr, values, number) if status else "finished"
        last = {"finished": epochs, "stopped": 1}.get(state, 2)
        name = json.dumps([label, lr, values], sort_keys=True)
        conv, linear = values["dropout"]
        for epoch in range(last + 1):
            learned = 0.1 + (quality - 0.1) * (1 - 0.2**epoch) + generator.normal(0, 0.004)
            lost = state == "diverged" and epoch == last
            scores = {
                f"{split}_accuracy": math.nan if lost else round(learned + generator.normal(0, 0.004) + more, 3)
                for split, more in (("train", 0.02), ("val", 0.0), ("test", 0.0))
            }
            scores |= {key.replace("accuracy", "loss"): 3 * (1 - value) for key, value in scores.items()}
            rows.append(
                values
                | {"optimizer": label, "algorithm": label, "lr": lr, "hyperparameters": "{}", "phase": phase}
                | {
                    "trial_id": f"{name}/{number}",
                    "configuration_id": name,
                    "seed": number,
                    "epochs": epochs,
                    "steps": math.nan,
                }
                | {"epoch": epoch, "step": 10 * epoch, "status": state, "train_seconds": 2.0 * epoch}
                | {"dropout": conv if conv == linear else None, "dropout_conv": conv, "dropout_linear": linear}
                | scores
                | COSTS
            )

    configurations = [
        (label, lr, dict(zip(lists, values, strict=True)))
        for label, lrs in optimizers.items()
        for lr in lrs
        for values in itertools.product(*lists.values())
    ]
    for configuration, number in itertools.product(configurations, range(seeds)):
        train(configuration, "tune", number)
    if confirm:
        selected = set(stats.select(stats.final(pd.DataFrame(rows)), ["optimizer"], Score.val_accuracy))
        for configuration, number in itertools.product(configurations, range(confirm)):
            if json.dumps(list(configuration), sort_keys=True) in selected:
                train(configuration, "confirm", 10_000 + number)
    frame = pd.DataFrame(rows)
    return frame, stats.with_hyperparameters(stats.with_labels(stats.final(frame)))[0]


LRS = [1e-3, 1e-2, 1e-1]
GRID = {"schedule": ["constant", "cosine"], "batch_size": [32, 128], "dropout": [(0.0, 0.0), (0.5, 0.5), (0.1, 0.25)]}


def some_diverged(label, lr, values, seed):
    return "diverged" if lr == 0.1 and (label == "sgd" or seed == 1) else "finished"


@pytest.fixture(scope="module")
def grid():
    return made_up({"adam": LRS, "sgd": LRS, "lion": LRS[:2]}, status=some_diverged, **GRID)


@pytest.fixture(scope="module")
def confirmed():
    return made_up({"adam": LRS, "sgd": LRS}, confirm=4, **GRID)


def results_of(
    frames, metric=Score.val_accuracy, score=Score.test_accuracy, hyperparameters=(), seconds=None, **options
):
    """What `results.prepare` makes of a folder; `seconds` maps optimizers to those of an epoch, if they were timed."""
    rows, finals = frames
    timed = rows[:0]
    if seconds is not None:
        timed = rows.assign(train_seconds=rows["epoch"] * rows["optimizer"].map(seconds))
    tuning, confirming = (finals[finals["phase"] == phase] for phase in ("tune", "confirm"))
    return Results(
        name="sweep",
        summary="some trials",
        query=Query(metric=score, **options),
        outline=None,
        rows=rows,
        finals=finals,
        tuning=tuning,
        confirming=confirming if len(confirming) else None,
        defaults=finals[:0],
        failed=finals[:0],
        timed=timed,
        metric=metric,
        varying=tuple(stats.varying(tuning, list(COMPARED))),
        hyperparameters=("lr", *hyperparameters) if tuning["lr"].nunique() > 1 else hyperparameters,
        searched=frozenset(),
    )


def explored(frames, *names, **options):
    return plots.explore(results_of(frames, *names, **options))


def named(explorer):
    return {plot.name: plot for plot in plots.plots(explorer)}


def test_a_sweep_has_the_plots_that_its_axes_ask_for(grid):
    full = [
        "ranking", "curves", "lr", "batch_size_rate", "batch_size_dropout", "gap", "tuning", "targets",
    ]  # fmt: skip
    assert list(named(explored(grid))) == full
    assert list(named(explored(made_up({"adam": LRS, "sgd": LRS})))) == [
        "ranking", "curves", "lr", "tuning", "targets",
    ]  # fmt: skip
    models = made_up({"adam": [0.01], "sgd": [0.01]}, model=["cnn", "mlp", "rnn"])
    assert list(named(explored(models))) == ["ranking", "curves", "tuning", "targets", "profile"]
    assert list(named(explored(made_up({"adam": [0.01]})))) == ["curves"]
    assert list(named(explored(made_up({"adam": [0.01]}), target=0.9))) == ["curves", "targets"]
    two = made_up({"adam": [0.01], "sgd": [0.1]}, batch_size=[32, 64], dropout=GRID["dropout"])
    assert list(named(explored(two))) == full[:2] + full[3:]
    assert list(named(explored(made_up({"adam": [0.01]}, dropout=GRID["dropout"])))) == [
        "curves", "gap", "tuning",
    ]  # fmt: skip


def test_every_plot_says_what_it_shows_and_how_sure_it_is(grid):
    for plot in plots.plots(explored(grid, at="best")):
        assert "interval" in plot.caption, plot.name
        assert " n " in plot.caption or "configurations" in plot.caption, plot.name
        assert not set("{}") & set(plot.caption), plot.name
    lr = named(explored(grid, at="best"))["lr"]
    assert lr.caption.startswith("Test accuracy at each trial's best epoch over the learning rate")


def test_curves_are_those_of_the_selected_configurations(grid):
    rows, finals = grid
    plot = named(explored(grid))["curves"]
    table = stats.compare(finals, ["optimizer"], Score.val_accuracy).set_index("optimizer")
    lines = {(one.label, one.dashed): one.points for one in plot.series}
    assert set(lines) == set(itertools.product(["adam", "sgd", "lion"], [False, True]))
    for (label, dashed), points in lines.items():
        split = "train_accuracy" if dashed else "val_accuracy"
        assert points["x"].tolist() == [0, 1, 2, 3, 4]
        assert points.iloc[-1][["y", "low", "high"]].tolist() == pytest.approx(
            table.loc[label, [split, f"{split}_low", f"{split}_high"]].tolist(), abs=1e-12
        )
        seeds = rows[(rows["configuration_id"] == table.loc[label, "configuration_id"]) & (rows["epoch"] == 2)]
        estimate = stats.estimate(seeds[split].tolist())
        assert points.iloc[2].tolist() == pytest.approx([2, estimate.mean, estimate.low, estimate.high, estimate.n])


def test_curves_of_confirmed_configurations_are_of_their_fresh_seeds(confirmed):
    rows, finals = confirmed
    explorer = explored(confirmed)
    chosen = stats.select(finals[finals["phase"] == "tune"], ["optimizer"], Score.val_accuracy)
    fresh = rows[rows["phase"] == "confirm"].groupby(["configuration_id", "epoch"])["val_accuracy"].mean()
    for one in named(explorer)["curves"].series:
        if not one.dashed:
            assert one.points["y"].tolist() == pytest.approx(fresh[chosen[one.label]].tolist())
            assert one.points["n"].tolist() == [4] * 5
    # The others show the seeds that selected.
    assert "The headline is on fresh seeds" in named(explorer)["batch_size_rate"].caption
    assert all((one.points["n"] == 3).all() for one in named(explorer)["lr"].series)
    assert explorer.axis("optimizer").values == tuple(
        explorer.fresh.sort_values("test_accuracy", ascending=False)["optimizer"]
    )


def test_an_optimizer_that_is_not_confirmed_yet_has_a_place_but_no_curve(confirmed):
    rows, finals = (frame[(frame["optimizer"] != "adam") | (frame["phase"] == "tune")] for frame in confirmed)
    explorer = explored((rows, finals))
    assert explorer.axis("optimizer").values == ("sgd", "adam")
    assert {one.label for one in named(explorer)["curves"].series} == {"sgd"}
    assert {one.label for one in named(explorer)["lr"].series} == {"sgd", "adam"}


@pytest.mark.parametrize(("name", "axis", "column"), [("lr", "lr", "test_accuracy"), ("gap", "dropout", "gap")])
def test_lines_over_an_axis_equal_the_table_of_that_axis(grid, name, axis, column):
    _, finals = grid
    table = stats.compare(finals, ["optimizer", axis], Score.val_accuracy).set_index(["optimizer", axis])
    plot = named(explored(grid))[name]
    assert sum(len(one.points) for one in plot.series) == len(table)
    for one in plot.series:
        for point in one.points.itertuples():
            row = table.loc[(one.label, point.x)]
            assert [point.y, point.low, point.high] == pytest.approx(
                row[[column, f"{column}_low", f"{column}_high"]].tolist(), nan_ok=True
            )
            assert (point.n, point.trials, point.diverged) == (row["n"], row["trials"], row["diverged"])
    if axis == "dropout":
        assert {tuple(one.points["x"]) for one in plot.series} == {("0", "0.5", "0.1 + 0.25")}


def test_heat_maps_equal_the_table_of_both_axes(grid):
    _, finals = grid
    for name, x in (("batch_size_rate", "lr"), ("batch_size_dropout", "dropout")):
        table = stats.compare(finals, ["batch_size", x], Score.val_accuracy)
        cells = named(explored(grid))[name].grid.set_index(["x", "y"])
        assert len(cells) == len(table)
        for row in table.to_dict("records"):
            cell = cells.loc[(f"{row[x]:g}" if x == "lr" else row[x], str(row["batch_size"]))]
            assert cell["score"] == pytest.approx(row["test_accuracy"], nan_ok=True)
            assert (cell["n"], cell["trials"], cell["diverged"]) == (row["n"], row["trials"], row["diverged"])


def test_the_ranking_is_the_table_of_the_optimizers(confirmed):
    table = rankings.axis(results_of(confirmed), ["optimizer"]).data.set_index("optimizer")
    plot = named(explored(confirmed))["ranking"]
    assert (plot.kind, plot.unit, plot.x) == ("dots", "percent", "test accuracy")
    assert [one.label for one in plot.series] == list(table.sort_values("test_accuracy", ascending=False).index)
    for one in plot.series:
        (point,), row = one.points.to_dict("records"), table.loc[one.label]
        expected = row[["test_accuracy", "test_accuracy_low", "test_accuracy_high"]].tolist()
        assert [point["x"], point["low"], point["high"]] == pytest.approx(expected)
        assert point["hollow"] == (row["p"] <= 0.05)
        assert point["about"].endswith("n = 4")
        assert plot.view[0] < point["low"] and point["high"] < plot.view[1]
    assert "fresh seeds" in plot.caption
    assert "seeds, which also selected it" in named(explored(made_up({"adam": LRS, "sgd": LRS})))["ranking"].caption


def test_what_is_worse_is_hollow_and_what_ties_with_the_best_is_not():
    found = named(explored(made_up({"adam": [1e-2], "sgd": [1e-2], "lion": [1e-1]}, seeds=20, epochs=9)))
    hollow = {one.label: bool(one.points["hollow"].iloc[0]) for one in found["ranking"].series}
    assert hollow["lion"] and not (hollow["adam"] and hollow["sgd"])
    assert not found["ranking"].series[0].points["hollow"].iloc[0]


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 200), unique=True, max_size=45))
def test_no_ten_lines_share_a_colour_and_none_share_colour_and_marker(places):
    found = plots.styles(places)
    assert list(found) == places
    for i in range(0, len(places), 10):
        assert len({plots.colour(found[place]) for place in places[i : i + 10]}) == len(places[i : i + 10])
    looks = [(plots.colour(style), plots.symbol(style)) for style in found.values()]
    assert len(set(looks)) == len(looks)
    assert plots.styles(range(20)) == {place: place for place in range(20)}


def test_plots_of_the_whole_sweep_are_what_stats_says(grid):
    rows, finals = grid
    explorer = explored(grid)
    found = named(explorer)
    curves = stats.tuning_curves(finals, ["optimizer"], Score.val_accuracy, Score.test_accuracy).dropna()
    for one in found["tuning"].series:
        mine = curves[curves["optimizer"] == one.label]
        assert one.points["x"].tolist() == mine["n"].tolist()
        assert one.points["y"].tolist() == pytest.approx(mine["expected"].tolist())
    target, _ = stats.target(finals, Score.val_accuracy)
    assert f"reaches {100 * target:.2f} %" in found["targets"].caption
    chosen = stats.select(finals, ["optimizer"], Score.val_accuracy)
    times = stats.time_to_target(rows, Score.val_accuracy, target, chosen.tolist())
    medians = times.groupby("optimizer")["epochs_to"].median()
    assert {one.label: one.points["x"].iloc[0] for one in found["targets"].series} == medians.to_dict()


def test_the_profile_has_the_height_that_the_table_says():
    frames = made_up({"adam": LRS, "sgd": LRS, "lion": LRS[:2]}, model=["cnn", "mlp"])
    table = explanations.workloads(results_of(frames)).data.set_index("optimizer")["profile"]
    for one in named(explored(frames))["profile"].series:
        widths = np.diff(one.points["x"])
        assert (one.points["y"][:-1] * widths).sum() / 3 == pytest.approx(table[one.label])  # of the area from 1 to 4


def test_a_target_that_is_asked_for_is_taken_and_said(grid):
    caption = named(explored(grid, target=0.9))["targets"].caption
    assert "first reaches 90.00 %, as asked for." in caption
    assert "targets" not in named(explored(grid, target=0.9999))  # nobody reaches it


def test_a_sweep_of_one_optimizer_has_a_line_for_each_model():
    frames = made_up({"adam": LRS}, model=["cnn", "mlp", "rnn"])
    explorer = explored(frames)
    plot = named(explorer)["curves"]
    assert (explorer.by, plot.by) == ("model", "model")
    best = stats.compare(frames[1], ["model"], Score.val_accuracy).set_index("model")
    ends = {one.label: one.points["y"].iloc[-1] for one in plot.series if not one.dashed}
    assert ends == pytest.approx(best["val_accuracy"].to_dict())


def test_more_than_ten_lines_are_the_ten_best():
    frames = made_up({f"optimizer {i}": [0.01] for i in range(14)}, seeds=2)
    explorer = explored(frames)
    best = stats.compare(frames[1], ["optimizer"], Score.val_accuracy)
    best = best.sort_values("test_accuracy", ascending=False, kind="stable")
    assert len(explorer.axis("optimizer").values) == 14
    drawn = [one for one in named(explorer)["curves"].series if not one.dashed]
    assert {one.label for one in drawn} == set(best["optimizer"].head(10))
    assert [one.style for one in drawn] == list(range(10))


def test_a_metric_that_is_a_loss_turns_everything_round(grid):
    _, finals = grid
    explorer = explored(grid, Score.val_loss, Score.test_loss)
    table = stats.compare(finals, ["optimizer"], Score.val_loss).set_index("optimizer")
    found = named(explorer)
    assert (found["curves"].y, found["curves"].unit, found["lr"].unit) == ("validation loss", "number", "number")
    for one in found["curves"].series:
        if not one.dashed:
            assert one.points["y"].iloc[-1] == pytest.approx(table.loc[one.label, "val_loss"])
    scores = explorer.points.drop_duplicates("optimizer").set_index("optimizer")["test_loss"]
    assert list(explorer.axis("optimizer").values) == list(scores.sort_values().index)


def test_all_diverged_is_drawn_as_what_it_is():
    frames = made_up({"adam": LRS, "sgd": LRS}, status=lambda *_: "diverged", batch_size=[32, 64])
    explorer = explored(frames)
    found = named(explorer)
    assert list(found) == ["lr", "batch_size_rate"]
    assert all(one.points["y"].isna().all() and (one.points["diverged"] == 6).all() for one in found["lr"].series)
    assert found["batch_size_rate"].grid["diverged"].tolist() == [6] * 6


def test_what_halving_stopped_is_counted_but_shows_no_score():
    status = lambda label, lr, values, seed: "stopped" if lr != 0.01 else "finished"  # noqa: E731
    explorer = explored(made_up({"adam": LRS, "sgd": LRS}, status=status))
    assert explorer.points["lr"].tolist() == [0.01, 0.01]
    assert set(named(explorer)) == {"ranking", "curves", "tuning", "targets"}


def test_an_optimizer_without_a_learning_rate_is_left_out_of_plots_over_it_only():
    rows, finals = made_up({"adam": LRS, "free": [0.01]}, batch_size=[32, 64])
    rows, finals = (frame.assign(lr=frame["lr"].where(frame["optimizer"] != "free")) for frame in (rows, finals))
    found = named(explored((rows, finals)))
    assert {one.label for one in found["curves"].series} == {"adam", "free"}
    assert {one.label for one in found["lr"].series if len(one.points)} == {"adam"}
    assert set(found["batch_size_rate"].grid["x"]) == {"0.001", "0.01", "0.1"}


def test_many_learning_rates_share_the_columns_of_a_heat_map():
    lrs = np.geomspace(1e-4, 0.9, 40).tolist()
    explorer = explored(made_up({"adam": lrs}, seeds=1, batch_size=[32, 64]))
    ranges = plots.rates(explorer)
    assert ranges[0].startswith("0.0001–") and len(ranges) == 8
    for lr, rate in zip(explorer.points["lr"], explorer.points["rate"], strict=True):
        low, high = map(float, rate.split("–"))
        assert 0.9 * low <= lr <= 1.1 * high  # ends are written with one digit


def test_a_drawn_schedule_and_hyperparameters_are_told_in_words():
    rows, finals = made_up({"adam": [0.01]}, schedule=["cosine", "step"])
    drawn = finals["schedule"].map({"cosine": "cosine", "step": "step(gamma=0.3)"})
    wide = finals.assign(**{"drawn_schedule": drawn, "hyperparameter.eps": 1e-8, "hyperparameter.betas": "[0.9, 1]"})
    frames, names = (rows, wide), ["hyperparameter.eps", "hyperparameter.betas"]
    found = explored(frames, hyperparameters=names).points.set_index("schedule")["configuration"]
    assert found["step"] == "eps=1e-08, betas=[0.9, 1], schedule=step(gamma=0.3)"


def test_text_columns_may_be_categories(grid):
    texts = grid[0].select_dtypes(include=["object", "string"]).columns
    as_categories = [frame.assign(**{c: frame[c].astype("category") for c in texts if c in frame}) for frame in grid]
    for one, other in zip(plots.plots(explored(grid)), plots.plots(explored(as_categories)), strict=True):
        assert [series.label for series in one.series] == [series.label for series in other.series]
        for mine, theirs in zip(one.series, other.series, strict=True):
            pd.testing.assert_frame_equal(mine.points, theirs.points, check_dtype=False)


def test_a_page_carries_a_bounded_number_of_curves_and_those_that_views_begin_with():
    batches = list(range(1, 30))
    labels = {f"o{i}": [0.01] for i in range(20)}
    explorer = explored(made_up(labels, epochs=1, seeds=1, batch_size=batches))
    carried = set(explorer.curves["configuration_id"])
    assert len(carried) == plots.MAX_CURVES < len(explorer.points)
    for axis in ("optimizer", "batch_size"):
        assert set(explorer.points.drop_duplicates(axis)["configuration_id"]) <= carried


STATES = st.sampled_from(["finished", "finished", "finished", "diverged", "stopped", "missing"])


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.data())
def test_the_first_point_that_passes_a_filter_is_what_select_takes_of_what_passes(data):
    """The promise that the page rests on: it filters points, Python would filter trials."""
    axes = {"schedule": ["constant", "cosine"], "batch_size": [32, 64]}
    rows, finals = made_up({"adam": LRS[:2], "sgd": LRS[:2]}, epochs=1, seeds=2, **axes)
    states = data.draw(st.lists(STATES, min_size=len(finals), max_size=len(finals)))
    finals = finals.assign(status=states, val_accuracy=finals["val_accuracy"].round(1))  # many ties
    finals.loc[finals["status"] == "diverged", ["val_accuracy", "test_accuracy", "gap"]] = math.nan
    finals = finals[finals["status"] != "missing"]
    if not set(finals["status"]) & {"finished", "diverged"}:
        return
    explorer = explored((rows, finals))
    passing, points = finals.assign(batch_size=finals["batch_size"].astype(str)), explorer.points
    for axis in explorer.axes:
        chosen = data.draw(st.sets(st.sampled_from(axis.values), min_size=1))
        passing, points = passing[passing[axis.name].isin(chosen)], points[points[axis.name].isin(chosen)]
    for by in (["optimizer"], ["schedule"], ["optimizer", "lr"]):
        expected = stats.select(passing, by, Score.val_accuracy).to_dict() if len(passing) else {}
        found = points.drop_duplicates(by)
        keys = found[by[0]] if len(by) == 1 else zip(*(found[name] for name in by), strict=True)
        varying = all(name in points for name in by)
        assert not varying or dict(zip(keys, found["configuration_id"], strict=True)) == expected


numbers = st.floats(0, 1, allow_nan=False)


@settings(deadline=None, derandomize=True)
@given(st.lists(numbers, min_size=1, max_size=20), st.lists(numbers, max_size=5), st.lists(numbers, max_size=5))
def test_a_view_holds_the_best_value_and_turns_round_for_losses(values, lows, highs):
    low, high = plots.view(values, lows, highs, is_loss=False)
    assert low < max(values) < high
    assert high <= 1.05 + 0.5 * max(values)
    low, high = plots.view(values, lows, highs, is_loss=True)
    assert low < min(values) < high


def test_a_view_leaves_out_what_has_not_learned():
    low, high = plots.view([0.1, 0.95, 0.97, 0.98, 0.985, 0.1], [], [], is_loss=False)
    assert 0.85 < low < 0.95
    assert 0.985 < high < 1.0
    assert plots.view([math.nan], [], [], is_loss=False) == (0.0, 1.0)
    assert plots.view([0.98, 0.97], [0.2, 0.965], [0.99, 1.4], is_loss=False)[1] < 1.0


def test_a_plot_is_plain_data(grid):
    for plot in plots.plots(explored(grid)):
        assert dataclasses.is_dataclass(plot)
        for one in plot.series:
            assert {"x", "low", "high"} <= set(one.points)
