"""Performance profiles against numerical integration, tests and bootstraps against scipy and simulations."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench import stats
from optbench.report import explanations, figures, plots
from optbench.scores import Score
from optbench.sweep.axes import COMPARED
from tests.test_plots import explored, made_up, results_of

CHECK = settings(max_examples=60, deadline=None, derandomize=True)


def tables(values, max_rows=6, max_columns=5, min_columns=1):
    """Data frames of workloads × optimizers."""
    return st.integers(min_columns, max_columns).flatmap(
        lambda k: st.lists(st.lists(values, min_size=k, max_size=k), min_size=1, max_size=max_rows).map(
            lambda rows: pd.DataFrame(rows, columns=[f"o{i}" for i in range(k)])
        )
    )


times = st.floats(0.5, 20.0) | st.sampled_from([1.0, 2.0, math.inf, math.nan])


def share_within(times, optimizer, tau):
    """ρ(τ) by its definition."""
    solved = 0
    for row in times.fillna(math.inf).to_dict("records"):
        solved += row[optimizer] < math.inf and row[optimizer] <= tau * min(row.values())
    return solved / len(times)


@CHECK
@given(tables(times), st.floats(1.0, 4.0))
def test_a_profile_is_the_share_of_workloads_within_tau(table, tau):
    found = stats.performance_profile(table)
    for optimizer, steps in found.groupby("optimizer"):
        assert steps["tau"].is_monotonic_increasing and steps["share"].is_monotonic_increasing
        assert (steps["tau"].iloc[0], steps["tau"].iloc[-1]) == (1.0, 4.0)
        known = steps[steps["tau"] <= tau].iloc[-1]
        if abs(steps["tau"] - tau).min() > 1e-9:  # on a jump, rounding decides
            assert known["share"] == share_within(table, optimizer, tau)
    assert found["optimizer"].unique().tolist() == table.columns.tolist()


@CHECK
@given(tables(times), st.sampled_from([1.5, 4.0, 10.0]))
def test_the_score_is_the_integral_of_the_profile(table, r_max):
    found = stats.profile_score(table, r_max)
    profile = stats.performance_profile(table, r_max)
    taus = np.linspace(1, r_max, 4001)
    middle = (taus[1:] + taus[:-1]) / 2
    for optimizer in table:
        steps = profile[profile["optimizer"] == optimizer]
        heights = steps["share"].to_numpy()[np.searchsorted(steps["tau"], middle, side="right") - 1]
        assert found[optimizer] == pytest.approx(heights.mean(), abs=1e-3)
        assert 0 <= found[optimizer] <= 1


def test_the_fastest_everywhere_scores_one_and_a_miss_nothing():
    table = pd.DataFrame(
        {"fast": [1.0, 2.0], "twice": [2.0, 4.0], "lost": [math.inf, math.nan]}, index=["mnist", "digits"]
    )
    assert stats.profile_score(table).to_dict() == {"fast": 1.0, "twice": pytest.approx(2 / 3), "lost": 0.0}


def test_a_workload_that_nobody_solves_counts_as_missed_by_all():
    table = pd.DataFrame({"a": [1.0, math.inf], "b": [1.0, math.inf]})
    assert stats.profile_score(table).tolist() == [0.5, 0.5]
    assert stats.performance_profile(table)["share"].max() == 0.5


def test_a_target_that_was_reached_before_training_takes_no_time():
    table = pd.DataFrame({"a": [0.0], "b": [0.0], "c": [3.0]})
    assert stats.profile_score(table).tolist() == [1.0, 1.0, 0.0]


scores = st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5])


@CHECK
@given(tables(scores, max_rows=8, min_columns=3))
def test_friedman_equals_scipy(table):
    found = stats.friedman(table)
    assert found.n == len(table)
    assert found.mean_ranks.to_numpy() == pytest.approx(scipy.stats.rankdata(-table.to_numpy(), axis=1).mean(axis=0))
    if len(table) < 3:
        assert math.isnan(found.p)
        return
    if (table.nunique(axis=1) == 1).all():
        assert math.isnan(found.p) and math.isnan(found.statistic)
        return
    reference = scipy.stats.friedmanchisquare(*table.to_numpy().T)
    assert found.statistic == pytest.approx(reference.statistic, abs=1e-9)
    assert found.p == pytest.approx(reference.pvalue, abs=1e-9)


def test_a_missing_score_is_the_worst_and_equal_ones_share_their_ranks():
    table = pd.DataFrame({"a": [0.9, 0.9, 0.5], "b": [0.9, math.nan, 0.4], "c": [0.1, math.nan, math.nan]})
    found = stats.friedman(table)
    assert found.mean_ranks.to_dict() == pytest.approx({"a": 3.5 / 3, "b": (1.5 + 2.5 + 2) / 3, "c": (3 + 2.5 + 3) / 3})
    assert 0 < found.p < 1


def test_two_optimizers_have_ranks_but_no_test():
    found = stats.friedman(pd.DataFrame({"a": [0.9] * 5, "b": [0.5] * 5}))
    assert found.mean_ranks.tolist() == [1.0, 2.0]
    assert math.isnan(found.statistic) and math.isnan(found.p)


def test_where_all_tie_there_are_ranks_but_no_statistic():
    found = stats.friedman(pd.DataFrame(0.5, index=range(4), columns=["a", "b", "c"]))
    assert found.mean_ranks.tolist() == [2.0, 2.0, 2.0]
    assert math.isnan(found.statistic) and math.isnan(found.p)


def test_alike_optimizers_are_told_apart_in_one_case_of_twenty():
    generator = np.random.default_rng(0)
    wrong = [stats.friedman(pd.DataFrame(generator.random((20, 5)))).p < 0.05 for _ in range(400)]
    assert 0.02 < np.mean(wrong) < 0.08


# ---------------------------------------------------------------- Wilcoxon, and the bars of the diagram


@CHECK
@given(st.lists(st.lists(st.integers(-4, 4), min_size=3, max_size=3), min_size=3, max_size=9))
def test_signed_ranks_are_the_share_of_all_signs(rows):
    """By counting, with the ranks of scipy; zeros keep theirs but count for neither side."""
    differences = np.array(rows, dtype=float)
    found = stats.signed_ranks(differences)
    for column, p in zip(differences.T, found, strict=True):
        ranks = scipy.stats.rankdata(np.abs(column))
        ranks, signs = ranks[column != 0], np.sign(column[column != 0])
        every = [abs(np.dot(ranks, each)) for each in itertools.product((-1, 1), repeat=len(ranks))]
        assert p == pytest.approx(np.mean([value >= abs(ranks @ signs) - 1e-9 for value in every]))


@pytest.mark.parametrize("n", [6, 9, 12, 13, 40])
def test_signed_ranks_equal_scipys(n):
    differences = np.random.default_rng(n).normal(0.3, 1, (n, 8))
    method = "exact" if n <= 12 else "approx"
    reference = scipy.stats.wilcoxon(differences, axis=0, method=method).pvalue
    assert stats.signed_ranks(differences) == pytest.approx(reference)


def test_optimizers_that_are_the_same_everywhere_have_p_one():
    assert stats.signed_ranks(np.zeros((6, 2))).tolist() == [1, 1]
    assert stats.signed_ranks(np.zeros((20, 2))).tolist() == [1, 1]


def brute_groups(scores):
    """Every run of optimizers, by mean rank, of which no two differ; only those that no other contains."""
    order = scores.rank(axis=1, ascending=False).mean().sort_values(kind="stable").index
    pairs = list(itertools.combinations(order, 2))
    p = [scipy.stats.wilcoxon(scores[a] - scores[b], method="exact").pvalue for a, b in pairs]
    steps = np.argsort(p)
    adjusted, largest = {}, 0.0
    for i, step in enumerate(steps):
        largest = max(largest, min(1, p[step] * (len(p) - i)))
        adjusted[frozenset(pairs[step])] = largest
    runs = [list(order[i:j]) for i in range(len(order)) for j in range(i + 2, len(order) + 1)]
    alike = [run for run in runs if all(adjusted[frozenset(pair)] > 0.05 for pair in itertools.combinations(run, 2))]
    return [run for run in alike if not any(set(run) < set(other) for other in alike)]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(6, 12))
def test_the_bars_are_the_largest_runs_of_optimizers_that_do_not_differ(seed, k, n):
    generator = np.random.default_rng(seed)
    scores = generator.normal(0, 1, (n, k)) + generator.normal(0, 2, k)
    table = pd.DataFrame(scores, columns=[f"o{i}" for i in range(k)])
    assert stats.tied_groups(table) == brute_groups(table)


def test_alike_optimizers_are_rarely_told_apart_by_the_bars():
    """The family-wise error of all pairs together is at most 5 %."""
    generator = np.random.default_rng(1)
    labels = ["a", "b", "c", "d"]
    wrong = [len(stats.tied_groups(pd.DataFrame(generator.random((10, 4)), columns=labels))[0]) < 4 for _ in range(400)]
    assert np.mean(wrong) <= 0.07


def test_what_differs_everywhere_is_told_apart_from_eight_workloads_on():
    table = lambda n: pd.DataFrame([[3.0 + i / 9, 2.0 + i / 8, 1.0 + i / 7] for i in range(n)], columns=list("abc"))  # noqa: E731
    assert stats.tied_groups(table(8)) == []
    assert stats.tied_groups(table(6)) == [["a", "b", "c"]]  # 2 / 2⁶ times three pairs is more than 5 %


# ---------------------------------------------------------------- interquartile mean and probability of improvement


def runs_of(generator, workloads=4, optimizers=3, seeds=5, digits=2):
    rows = [
        (f"w{w}", f"o{o}", round(generator.normal(w / 4 + o / 10, 0.3), digits))
        for w in range(workloads)
        for o in range(optimizers)
        for _ in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["workload", "optimizer", "score"])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 4), st.integers(2, 6))
def test_aggregates_are_those_of_scipy_and_of_counting(seed, workloads, optimizers, seeds):
    runs = runs_of(np.random.default_rng(seed), workloads, optimizers, seeds, digits=1)
    found = stats.aggregate(runs)
    cells = {key: part.tolist() for key, part in runs.groupby(["workload", "optimizer"])["score"]}
    labels = runs["optimizer"].unique()
    for label in labels:
        mine = runs[runs["optimizer"] == label]["score"]
        assert found.loc[label, "iqm"] == pytest.approx(scipy.stats.trim_mean(mine, 0.25))
        wins = [
            np.mean([(x > y) + (x == y) / 2 for x in cells[w, label] for y in cells[w, other]])
            for w in runs["workload"].unique()
            for other in labels
            if other != label
        ]
        assert found.loc[label, "improvement"] == pytest.approx(np.mean(wins))
    assert found["improvement"].mean() == pytest.approx(0.5)
    against = stats.aggregate(runs, "o1")
    assert math.isnan(against.loc["o1", "improvement"])
    u = [
        scipy.stats.mannwhitneyu(cells[w, "o0"], cells[w, "o1"]).statistic / seeds**2 for w in runs["workload"].unique()
    ]
    assert against.loc["o0", "improvement"] == pytest.approx(np.mean(u))


def test_the_bootstrap_draws_seeds_within_workloads():
    """Against scipy's bootstrap of the same statistic, stratum by stratum."""
    runs = runs_of(np.random.default_rng(3), workloads=3, optimizers=2, seeds=12)
    found = stats.aggregate(runs)
    strata = [part.to_numpy() for _, part in runs[runs["optimizer"] == "o0"].groupby("workload")["score"]]
    statistic = lambda *parts: scipy.stats.trim_mean(np.concatenate(parts), 0.25)  # noqa: E731
    reference = scipy.stats.bootstrap(
        strata, statistic, n_resamples=4000, vectorized=False, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    width = reference.high - reference.low
    assert found.loc["o0", ["iqm_low", "iqm_high"]].tolist() == pytest.approx([*reference], abs=0.06 * width)
    # A bootstrap of all scores together would take the workloads for noise.
    mixed = scipy.stats.bootstrap(
        (np.concatenate(strata),),
        lambda x: statistic(x),
        vectorized=False,
        method="percentile",
        n_resamples=2000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert width < 0.9 * (mixed.high - mixed.low)


def test_intervals_hold_the_truth():
    """Of the probability that one beats another, of two workloads: one normal above another by 0, and by one."""
    truth = np.mean([scipy.stats.norm.cdf(shift / math.sqrt(2)) for shift in (0.0, 1.0)])
    generator, held = np.random.default_rng(0), []
    for _ in range(200):
        rows = [
            (w, o, generator.normal(shift if o == "a" else 0.0, 1))
            for w, shift in (("even", 0.0), ("ahead", 1.0))
            for o in "ab"
            for _ in range(15)
        ]
        row = stats.aggregate(pd.DataFrame(rows, columns=["workload", "optimizer", "score"])).loc["a"]
        held.append(row["improvement_low"] <= truth <= row["improvement_high"])
    assert 0.9 <= np.mean(held) <= 0.99


def test_one_seed_has_no_interval_and_a_missing_workload_no_aggregate():
    runs = pd.DataFrame(
        [("w", "a", 1.0), ("w", "b", 0.5), ("v", "a", 1.0), ("v", "b", 0.5), ("v", "c", 0.7)],
        columns=["workload", "optimizer", "score"],
    )
    found = stats.aggregate(runs)
    assert found.loc["a", ["iqm", "improvement"]].tolist() == [1.0, 1.0]
    assert found.loc["a", ["iqm_low", "iqm_high", "improvement_low"]].isna().all()
    assert found.loc["c"].isna().all() and list(found.index) == ["a", "b", "c"]


def test_the_same_scores_give_the_same_intervals():
    runs = runs_of(np.random.default_rng(3))
    pd.testing.assert_frame_equal(stats.aggregate(runs), stats.aggregate(runs))


# ---------------------------------------------------------------- in a report


def test_a_workload_is_what_is_learned_by_what_and_not_how():
    workloads = {name for name, axis in COMPARED.items() if axis.is_workload}
    assert workloads >= {"dataset", "model", "activation", "loss"}
    assert not workloads & {"optimizer", "batch_size", "schedule", "dropout", "precision"}
    two = {"adam": [0.01], "sgd": [0.1]}
    assert explanations.workloads(results_of(made_up(two, batch_size=[32, 64]))) is None
    assert explanations.workloads(results_of(made_up(two, model=["cnn", "mlp"]))) is not None


def test_scores_of_workloads_go_from_guessing_to_the_best_and_a_lost_seed_guesses():
    lost = lambda label, lr, values, seed: "diverged" if (label, seed) == ("sgd", 0) else "finished"  # noqa: E731
    frames = made_up({"adam": [0.01], "sgd": [0.1]}, model=["cnn", "mlp"], status=lost)
    scores = explanations.workload_scores(results_of(frames))
    assert len(scores) == 2 * 2 * 3
    assert scores[(scores["optimizer"] == "sgd") & (scores["seed"] == 0)]["score"].tolist() == [0, 0]
    best = scores.groupby(["workload", "optimizer"])["score"].mean().groupby("workload").max()
    assert best.tolist() == pytest.approx([1, 1])
    finals = frames[1].set_index(["model", "optimizer", "seed"])["test_accuracy"].sort_index()
    mean = finals["cnn", "adam"].mean()
    row = scores[(scores["workload"] == "cnn") & (scores["optimizer"] == "adam") & (scores["seed"] == 1)]
    assert row["score"].item() == pytest.approx((finals["cnn", "adam", 1] - 0.1) / (mean - 0.1))


def test_the_table_across_workloads_says_how_often_one_beats_another():
    many = {"adam": [1e-2], "sgd": [1e-2], "muon": [1e-1]}
    results = results_of(made_up(many, model=["cnn", "mlp", "rnn"], loss=["cross_entropy", "mse"]))
    table = explanations.workloads(results)
    data = table.data.set_index("optimizer")
    expected = stats.aggregate(explanations.workload_scores(results))
    pd.testing.assert_frame_equal(data[expected.columns].sort_index(), expected.sort_index(), check_names=False)
    assert data.loc["muon", "mean_rank"] == 3 and data.loc["muon", "improvement"] == 0
    assert table.caption.startswith("6 workloads: each combination of model and loss.")
    loss = explanations.workloads(results_of(made_up(many, model=["cnn", "mlp"]), score=Score.test_loss))
    assert loss.data["optimizer"].iloc[-1] == "muon"


def test_the_diagram_is_drawn_from_six_workloads_on(tmp_path):
    many = {"adam": [1e-2], "sgd": [1e-2], "lion": [1e-2], "muon": [1e-1]}
    six, few = (
        explored(made_up(many, model=["cnn", "mlp", "rnn"], loss=losses))
        for losses in (["cross_entropy", "mse"], ["mse"])
    )
    assert "mean_ranks" not in {plot.name for plot in plots.plots(few)}
    (plot,) = (plot for plot in plots.plots(six) if plot.name == "mean_ranks")
    assert plot.groups == (tuple(one.label for one in plot.series),)  # six workloads cannot tell four apart
    assert [one.points["x"].item() for one in plot.series] == sorted(one.points["x"].item() for one in plot.series)
    assert plot.series[-1].label == "muon" and plot.view[0] < plot.series[0].points["x"].item()
    pytest.importorskip("matplotlib")
    assert "mean_ranks.pdf" in [path.name for path in figures.write(six, tmp_path)]
