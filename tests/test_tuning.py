"""Expected best of n, sensitivity to lr, divergence and the winner's curse against brute force and scipy."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from optbench import stats
from optbench.scores import Score

CHECK = settings(max_examples=100, deadline=None, derandomize=True)
few = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])  # ties are common, and halves add up exactly


def finals(records):
    """Final rows from (optimizer, configuration, lr, seed, val accuracy, status)."""
    table = pd.DataFrame(records, columns=["optimizer", "configuration_id", "lr", "seed", "val_accuracy", "status"])
    table["epoch"] = np.where(table["status"] == "stopped", 1, 4)
    return table.assign(test_accuracy=table["val_accuracy"] - 0.01, val_loss=1 - table["val_accuracy"])


def one_each(scores, optimizer="adam"):
    """Final rows of one trial per lr, from lr → accuracy; None stands for a diverged one."""
    return finals(
        [
            (
                optimizer,
                f"{optimizer}{lr}",
                lr,
                0,
                *((score, "finished") if score is not None else (math.nan, "diverged")),
            )
            for lr, score in scores.items()
        ]
    )


def by_subsets(scores, order, n):
    """The distribution of the score of the best of every subset: value → probability; None where there is none."""
    shares = {}
    subsets = list(combinations(range(len(scores)), n))
    for subset in subsets:
        known = [i for i in subset if not math.isnan(scores[i])]
        if not known:
            return None
        top = max(order[i] for i in known)
        best = [i for i in known if order[i] == top]
        for i in best:
            shares[scores[i]] = shares.get(scores[i], 0) + Fraction(1, len(best) * len(subsets))
    return shares


@CHECK
@given(st.lists(st.tuples(few | st.just(math.nan), few), min_size=1, max_size=7), st.booleans())
def test_the_expected_best_is_the_mean_over_all_subsets(pairs, is_ordered):
    scores = [score for score, _ in pairs]
    order = [rank for _, rank in pairs] if is_ordered else scores
    found = stats.expected_best(scores, order if is_ordered else None)
    assert found["n"].tolist() == list(range(1, len(scores) + 1))
    for n, expected, low, high in found.itertuples(index=False):
        shares = by_subsets(scores, order, n)
        if shares is None:
            assert math.isnan(expected) and math.isnan(low) and math.isnan(high)
            continue
        assert expected == pytest.approx(float(sum(value * share for value, share in shares.items())), abs=1e-12)
        for end, level in ((low, Fraction(1, 10)), (high, Fraction(9, 10))):
            reached = [v for v in sorted(shares) if sum(share for w, share in shares.items() if w <= v) >= level]
            assert end == reached[0]


def test_the_expected_best_is_what_a_simulation_finds():
    generator = np.random.default_rng(0)
    scores = generator.normal(0.8, 0.1, 300)
    order = scores + generator.normal(0, 0.05, 300)  # selected by a noisy view of the score
    found = stats.expected_best(scores, order).set_index("n")
    draws = np.argsort(generator.random((20_000, 300)), axis=1)
    for n in (1, 3, 20, 300):
        first = draws[:, :n]
        best = scores[np.take_along_axis(first, np.argmax(order[first], axis=1)[:, None], axis=1)[:, 0]]
        error = best.std() / math.sqrt(len(best))
        assert abs(found.loc[n, "expected"] - best.mean()) < 4 * error + 1e-12
        assert (best <= found.loc[n, "low"]).mean() >= 0.1 - 0.01
        assert (best < found.loc[n, "high"]).mean() <= 0.9 + 0.01


def test_twenty_thousand_configurations_do_not_overflow():
    scores = np.random.default_rng(0).random(20_000)
    found = stats.expected_best(scores)
    assert len(found) <= 100
    assert (found["n"].iloc[0], found["n"].iloc[-1]) == (1, 20_000)
    assert np.isfinite(found.to_numpy()).all()
    assert found["expected"].iloc[0] == pytest.approx(scores.mean(), rel=1e-9)
    assert found["expected"].iloc[-1] == pytest.approx(scores.max(), rel=1e-9)
    assert found["expected"].is_monotonic_increasing
    # The best of n uniform draws is Beta(n, 1) in the limit.
    few = found[found["n"] < 20]
    assert few["expected"].to_numpy() == pytest.approx((few["n"] / (few["n"] + 1)).to_numpy(), abs=0.01)
    assert few["low"].to_numpy() == pytest.approx(0.1 ** (1 / few["n"]).to_numpy(), abs=0.01)


def test_a_quantile_is_the_lowest_score_that_reaches_its_probability():
    found = stats.expected_best([i / 10 for i in range(1, 11)])
    assert found[["low", "high"]].iloc[0].tolist() == [0.1, 0.9]


def test_there_is_no_best_of_nothing():
    assert stats.expected_best([]).empty
    assert stats.expected_best([math.nan, math.nan])["expected"].isna().all()


def test_a_curve_orders_by_one_score_and_shows_another():
    table = finals(
        [("adam", c, 0.1, seed, v + seed / 100, "finished") for c, v in (("a", 0.5), ("b", 0.9)) for seed in (0, 1)]
        + [("sgd", "c", 0.1, 0, 0.7, "finished")]
    )
    table["test_accuracy"] = [0.8, 0.6, 0.3, 0.5, 0.2]
    curves = stats.tuning_curves(table, ["optimizer"], Score.val_accuracy, Score.test_accuracy)
    assert curves[["optimizer", "n"]].to_numpy().tolist() == [["adam", 1], ["adam", 2], ["sgd", 1]]
    assert curves["expected"].tolist() == pytest.approx([0.55, 0.4, 0.2])
    assert curves["high"].tolist() == pytest.approx([0.7, 0.4, 0.2])


def test_the_curve_of_a_loss_falls():
    table = one_each({0.1: 0.5, 0.2: 0.9, 0.3: 0.8})
    curves = stats.tuning_curves(table, ["optimizer"], Score.val_loss, Score.val_loss)
    mirrored = stats.tuning_curves(table, ["optimizer"], Score.val_accuracy, Score.val_accuracy)
    assert curves["expected"].tolist() == pytest.approx((1 - mirrored["expected"]).tolist())
    assert curves["low"].tolist() == pytest.approx((1 - mirrored["high"]).tolist())
    assert curves["high"].tolist() == pytest.approx((1 - mirrored["low"]).tolist())


def test_in_a_curve_fewer_seeds_rank_below_more():
    records = [("adam", "lucky", 0.1, 0, 0.9, "finished"), *(("adam", "x", 0.2, s, 0.5, "finished") for s in (0, 1))]
    found = stats.tuning_curves(finals(records), ["optimizer"], Score.val_accuracy, Score.val_accuracy)
    assert found["expected"].tolist() == pytest.approx([0.7, 0.5])


def test_in_a_curve_the_stopped_rank_between_the_finished_and_the_diverged():
    table = finals(
        [
            ("adam", "finished", 0.1, 0, 0.3, "finished"),
            ("adam", "finished", 0.1, 1, 0.3, "finished"),
            ("adam", "stopped late", 0.2, 0, 0.5, "stopped"),
            ("adam", "stopped late", 0.2, 1, 0.5, "stopped"),
            ("adam", "stopped soon", 0.3, 0, 0.7, "stopped"),
            ("adam", "stopped soon", 0.3, 1, 0.7, "stopped"),
            ("adam", "diverged once", 0.4, 0, 0.9, "finished"),
            ("adam", "diverged once", 0.4, 1, math.nan, "diverged"),
            ("adam", "diverged", 0.5, 0, math.nan, "diverged"),
            ("adam", "diverged", 0.5, 1, math.nan, "diverged"),
        ]
    )
    table.loc[table["configuration_id"] == "stopped late", "epoch"] = 2
    found = stats.tuning_curves(table, ["optimizer"], Score.val_accuracy, Score.val_accuracy)
    best_first = [0.3, 0.5, 0.7, 0.9]
    expected = stats.expected_best([*best_first, math.nan], [4, 3, 2, 1, 0])
    assert found["expected"].tolist() == pytest.approx(expected["expected"].tolist(), nan_ok=True)
    assert found["expected"].iloc[-1] == pytest.approx(0.3)
    assert math.isnan(found["expected"].iloc[0])


def test_text_and_categories_give_the_same():
    table = pd.concat([one_each({0.1: 0.5, 0.2: None, 0.3: 0.9}, name) for name in ("adam", "sgd")])
    categories = table.assign(**{c: table[c].astype("category") for c in ("optimizer", "configuration_id", "status")})
    categories["optimizer"] = categories["optimizer"].cat.add_categories("never used")
    for function, arguments in (
        (stats.tuning_curves, (["optimizer"], Score.val_accuracy, Score.val_accuracy)),
        (stats.lr_sensitivity, (["optimizer"], Score.val_accuracy)),
        (stats.divergence, (["optimizer", "lr"],)),
        (stats.winners_curse, (table, Score.val_accuracy)),
    ):
        plain, other = function(table, *arguments), function(categories, *arguments)
        names = [name for name in ("optimizer", "configuration_id") if name in plain]
        pd.testing.assert_frame_equal(plain, other.astype({name: plain[name].dtype for name in names}))


def test_widths_are_interpolated_in_the_logarithm_of_lr():
    table = one_each({1e-4: 0.2, 1e-3: 0.9, 1e-2: 1.0, 1e-1: 0.8, 1.0: 0.99})
    (row,) = stats.lr_sensitivity(table, ["optimizer"], Score.val_accuracy).to_dict("records")
    assert (row["best_lr"], row["lowest_lr"], row["highest_lr"], row["lrs"], row["edge"]) == (1e-2, 1e-4, 1.0, 5, "")
    assert row["decades_1"] == pytest.approx(0.1 + 0.05)
    assert row["decades_5"] == pytest.approx(0.5 + 0.25)
    assert not row["decades_1_open"] and not row["decades_5_open"]


def test_a_loss_may_be_so_much_higher():
    table = one_each({1e-3: 0.0, 1e-2: 0.0, 1e-1: 0.0}).assign(val_loss=[2.2, 2.0, 2.1])
    (row,) = stats.lr_sensitivity(table, ["optimizer"], Score.val_loss).to_dict("records")
    assert row["best_lr"] == 1e-2
    assert row["decades_1"] == pytest.approx(0.02 / 0.2 + 0.02 / 0.1)
    assert row["decades_5"] == pytest.approx(0.5 + 1.0)
    assert (row["decades_1_open"], row["decades_5_open"]) == (False, True)


@pytest.mark.parametrize(("best", "edge"), [(1e-3, "low"), (1e-1, "high"), (1e-2, "")])
def test_a_best_lr_at_the_edge_is_flagged_and_its_width_is_a_lower_bound(best, edge):
    table = one_each({lr: 0.9 if lr == best else 0.5 for lr in (1e-3, 1e-2, 1e-1)})
    (row,) = stats.lr_sensitivity(table, ["optimizer"], Score.val_accuracy).to_dict("records")
    assert (row["edge"], row["decades_5_open"]) == (edge, edge != "")


def test_a_diverged_lr_is_outside_and_nothing_is_interpolated_towards_it():
    table = one_each({1e-4: None, 1e-3: 0.9, 1e-2: 0.9, 1e-1: None, 1.0: 0.9})
    (row,) = stats.lr_sensitivity(table, ["optimizer"], Score.val_accuracy).to_dict("records")
    assert row["decades_5"] == pytest.approx(1.0)
    assert (row["decades_5_open"], row["lowest_lr"], row["lrs"]) == (False, 1e-4, 5)


def test_an_lr_at_which_a_seed_diverged_is_outside():
    table = pd.concat(
        [
            one_each({1e-2: 0.9, 1e-1: 0.9}).assign(seed=seed, status=["finished", "diverged" if seed else "finished"])
            for seed in (0, 1)
        ]
    )
    table["val_accuracy"] = table["val_accuracy"].where(table["status"] != "diverged")
    (row,) = stats.lr_sensitivity(table, ["optimizer"], Score.val_accuracy).to_dict("records")
    assert (row["best_lr"], row["edge"], row["decades_5"], row["decades_5_open"]) == (1e-2, "low", 0.0, True)


def test_a_best_that_diverged_on_a_seed_has_no_width():
    records = [("adam", f"{lr}", lr, seed, 0.9 if seed else math.nan, "finished" if seed else "diverged")
               for lr in (0.1, 1.0) for seed in (0, 1)]  # fmt: skip
    (row,) = stats.lr_sensitivity(finals(records), ["optimizer"], Score.val_accuracy).to_dict("records")
    assert (row["decades_1"], row["decades_1_open"]) == (0.0, False)


def test_a_stopped_lr_counts_as_tried_and_says_nothing_of_its_score():
    table = one_each({1e-3: 0.9, 1e-2: 0.5, 1e-1: 0.9, 1.0: 0.5})
    table.loc[[1, 3], "status"] = "stopped"
    (row,) = stats.lr_sensitivity(table, ["optimizer"], Score.val_accuracy).to_dict("records")
    assert (row["lrs"], row["highest_lr"]) == (4, 1.0)
    assert (row["decades_5"], row["decades_5_open"]) == (pytest.approx(2.0), True)


def test_a_configuration_of_stopped_and_diverged_seeds_has_no_score():
    table = finals([("adam", "x", 0.1, 0, math.nan, "diverged"), ("adam", "x", 0.1, 1, 0.9, "stopped")])
    assert math.isnan(stats.lr_sensitivity(table, ["optimizer"], Score.val_accuracy)["best_lr"].item())


def test_an_lr_of_zero_is_on_no_logarithmic_axis():
    (row,) = stats.lr_sensitivity(one_each({0.0: 0.1, 0.1: 0.9, 1.0: 0.5}), ["optimizer"], Score.val_accuracy).to_dict(
        "records"
    )
    assert (row["lowest_lr"], row["lrs"], row["edge"]) == (0.0, 3, "")
    assert (row["decades_5"], row["decades_5_open"]) == (pytest.approx(0.045 / 0.4), True)
    (row,) = stats.lr_sensitivity(one_each({0.0: 0.9, 0.1: 0.5, 1.0: 0.5}), ["optimizer"], Score.val_accuracy).to_dict(
        "records"
    )
    assert (row["best_lr"], row["edge"]) == (0.0, "low")
    assert math.isnan(row["decades_1"])


def test_one_lr_has_no_width_and_no_edge_and_a_group_that_diverged_no_best():
    table = pd.concat([one_each({0.1: 0.9}, "one"), one_each({0.1: None, 0.2: None}, "wild")])
    stopped = one_each({0.1: 0.9, 0.2: 0.8}, "stopped").assign(status="stopped")
    found = stats.lr_sensitivity(pd.concat([table, stopped]), ["optimizer"], Score.val_accuracy).set_index("optimizer")
    assert found["edge"].tolist() == ["", "", ""]
    assert found["decades_1"].isna().all() and found["decades_5"].isna().all()
    assert found["best_lr"].tolist() == pytest.approx([0.1, math.nan, math.nan], nan_ok=True)
    assert found["lrs"].tolist() == [1, 2, 2]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.floats(0.5, 1.0), min_size=2, max_size=7, unique=True))
def test_the_width_is_that_of_a_fine_grid(scores):
    lrs = np.logspace(-4, -1, len(scores))
    assume(sorted(scores)[-1] - sorted(scores)[-2] > 1e-6)
    found = stats.lr_sensitivity(one_each(dict(zip(lrs, scores, strict=True))), ["optimizer"], Score.val_accuracy)
    x = np.linspace(-4, -1, 30_001)
    inside = np.interp(x, np.log10(lrs), scores) >= 0.95 * max(scores)
    outside = np.flatnonzero(~inside)
    best = np.argmin(abs(x - np.log10(lrs[np.argmax(scores)])))
    low = max(outside[outside < best], default=-1) + 1
    high = min(outside[outside > best], default=len(x)) - 1
    assert found["decades_5"].item() == pytest.approx(x[high] - x[low], abs=5e-4)
    if not (0 < low < 3 or len(x) - 4 < high < len(x) - 1):  # nearer to the end than the grid can tell
        assert found["decades_5_open"].item() == (low == 0 or high == len(x) - 1)


@CHECK
@given(st.integers(1, 50), st.integers(0, 50))
def test_the_probability_to_diverge_has_wilsons_interval(n, k):
    k = min(k, n)
    statuses = ["diverged"] * k + ["finished"] * (n - k)
    table = finals([("sgd", "x", 0.1, seed, 0.5, status) for seed, status in enumerate(statuses)])
    (row,) = stats.divergence(table, ["optimizer", "lr"]).to_dict("records")
    reference = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
    assert (row["trials"], row["diverged"], row["probability"]) == (n, k, k / n)
    assert (row["low"], row["high"]) == (
        pytest.approx(reference.low, abs=1e-9),
        pytest.approx(reference.high, abs=1e-9),
    )


def test_divergence_is_counted_at_every_lr():
    table = pd.concat([one_each({0.1: 0.5, 1.0: None}, "sgd"), one_each({0.1: 0.5}, "adam")])
    found = stats.divergence(table, ["optimizer", "lr"])
    assert found[["optimizer", "lr", "diverged"]].to_numpy().tolist() == [
        ["adam", 0.1, 0],
        ["sgd", 0.1, 0],
        ["sgd", 1.0, 1],
    ]


values = st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6)


@CHECK
@given(values, values, st.sampled_from([Score.val_accuracy, Score.val_loss]))
def test_the_winners_gap_has_welchs_interval(tuning, confirm, metric):
    assume(min(np.std(tuning), np.std(confirm)) > 1e-6)
    frames = [
        finals([("sgd", "x", 0.1, seed, value, "finished") for seed, value in enumerate(side)])
        for side in (tuning, confirm)
    ]
    (row,) = stats.winners_curse(*frames, metric).to_dict("records")
    # Too good by so much, in either metric.
    reference = scipy.stats.ttest_ind(tuning, confirm, equal_var=False).confidence_interval(0.95)
    assert row["gap"] == pytest.approx(np.mean(tuning) - np.mean(confirm), abs=1e-9)
    assert (row["gap_low"], row["gap_high"]) == (
        pytest.approx(reference.low, rel=1e-6, abs=1e-9),
        pytest.approx(reference.high, rel=1e-6, abs=1e-9),
    )
    assert (row["n_tuning"], row["n_confirm"]) == (len(tuning), len(confirm))


def test_the_winner_is_the_configuration_that_was_confirmed():
    tuning = one_each({0.1: 0.9, 0.2: 0.95})
    confirm = finals([("adam", "adam0.1", 0.1, seed, 0.8, "finished") for seed in (7, 8)])
    (row,) = stats.winners_curse(
        pd.concat([tuning, one_each({0.1: 0.1}, "unconfirmed")]), confirm, Score.val_accuracy
    ).to_dict("records")
    assert (row["optimizer"], row["configuration_id"], row["tuning"]) == ("adam", "adam0.1", 0.9)
    assert row["gap"] == pytest.approx(0.1)
    assert math.isnan(row["gap_low"]) and math.isnan(row["gap_high"])
    assert (row["n_tuning"], row["n_confirm"]) == (1, 2)


def test_a_gap_says_nothing_it_cannot_know():
    same = finals([("adam", "x", 0.1, seed, 0.5, "finished") for seed in (0, 1)])
    lost = finals([("adam", "x", 0.1, seed, math.nan, "diverged") for seed in (2, 3)])
    (row,) = stats.winners_curse(same, same, Score.val_accuracy).to_dict("records")
    assert (row["gap"], row["gap_low"], row["gap_high"]) == (0.0, 0.0, 0.0)
    (row,) = stats.winners_curse(same, lost, Score.val_accuracy).to_dict("records")
    assert (row["tuning"], row["n_tuning"], row["n_confirm"]) == (0.5, 2, 0)
    assert math.isnan(row["confirm"]) and math.isnan(row["gap"])
    (row,) = stats.winners_curse(same[:0], same, Score.val_accuracy).to_dict("records")
    assert (row["confirm"], row["n_tuning"]) == (0.5, 0)
    assert math.isnan(row["tuning"])
