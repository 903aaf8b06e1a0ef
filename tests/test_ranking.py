"""Tests of all pairs against scipy and brute force; error rates and the coverage of ranks by simulation."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench import stats

probabilities = st.floats(0, 1) | st.just(math.nan)


def frame(generator, seeds, groups, sd=0.01):
    """Scores of groups that are all the same: seeds that are harder for all of them, and chance."""
    shared = generator.normal(0.9, 0.02, (seeds, 1))
    return pd.DataFrame(shared + generator.normal(0, 1, (seeds, groups)) * sd)


def rounded(scores, size=300):
    return (scores * size).round() / size


def rank(scores, alpha=0.05):
    """Ranks, and each group compared with the best."""
    pairs = stats.differences(scores)
    found = stats.ranks(scores, pairs, alpha)
    return found.join(stats.verdicts(pairs, found.index[0], False, alpha=alpha)) if len(found) else found


def at_most(share, repeats):
    """What a share is not above in so many repeats but in one simulation of a thousand."""
    return scipy.stats.binom.ppf(0.999, repeats, share) / repeats


# ---------------------------------------------------------------- Holm


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(probabilities, max_size=7))
def test_holm_is_the_closed_bonferroni_test(p):
    # A hypothesis is rejected where Bonferroni rejects every intersection of hypotheses that it belongs to.
    filled = [1.0 if math.isnan(value) else value for value in p]
    expected = [
        max(
            min(1.0, len(subset) * min(filled[j] for j in subset))
            for size in range(1, len(p) + 1)
            for subset in itertools.combinations(range(len(p)), size)
            if i in subset
        )
        for i in range(len(p))
    ]
    np.testing.assert_allclose(stats.holm(p), expected, rtol=1e-12)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(probabilities, min_size=1, max_size=50))
def test_holm_keeps_the_order_and_lowers_nothing(p):
    filled = np.nan_to_num(p, nan=1.0)
    found = stats.holm(p)
    assert (found >= filled).all() and (found <= 1).all()
    assert (np.diff(found[np.argsort(filled)]) >= 0).all()
    assert found[filled.argmin()] == min(1, len(p) * filled.min())


# ---------------------------------------------------------------- pairs


def test_two_groups_are_compared_by_the_paired_t_test_of_their_common_seeds():
    generator = np.random.default_rng(0)
    scores = frame(generator, 8, 5).set_axis(list("abcde"), axis=1)
    scores = scores.mask(generator.uniform(size=scores.shape) < 0.2)
    scores.loc[0, "a"] = -math.inf  # as good as missing
    for first, second in itertools.combinations("abcde", 2):
        (row,) = stats.differences(scores[[first, second]]).itertuples()
        both = scores[[first, second]].replace(-math.inf, math.nan).dropna()
        test = scipy.stats.ttest_rel(both[first], both[second])
        assert (row.first, row.second, row.n) == (first, second, len(both))
        assert row.n > 2 and row.freedom == row.n - 1
        assert row.difference == pytest.approx((both[first] - both[second]).mean())
        assert row.sd == pytest.approx((both[first] - both[second]).std())
        assert row.p == row.p_adjusted == pytest.approx(test.pvalue)


def test_several_are_compared_with_variances_that_know_of_one_another():
    scores = frame(np.random.default_rng(0), 8, 5) - np.arange(5) * 0.01
    found = stats.differences(scores)
    assert list(zip(found["first"], found["second"], strict=True)) == [*itertools.combinations(range(5), 2)]
    d = np.stack([scores[i] - scores[j] for i, j in itertools.combinations(range(5), 2)])
    means = scores.mean()
    distance = np.array([means.max() - min(means[i], means[j]) for i, j in itertools.combinations(range(5), 2)])
    variance, freedom = stats.moderate(d.var(axis=1, ddof=1), np.full(10, 7.0), distance, 5)
    np.testing.assert_allclose(found["sd"], np.sqrt(variance))
    t = d.mean(axis=1) / np.sqrt(variance / 8)
    np.testing.assert_allclose(found["p"], 2 * scipy.stats.t.sf(np.abs(t), freedom))
    np.testing.assert_allclose(found["p_adjusted"], stats.shaffer(found["p"], 5))


def test_a_group_that_lost_a_seed_keeps_its_own_variance_and_changes_nobody_elses():
    scores = frame(np.random.default_rng(1), 6, 5)
    lost = pd.DataFrame(False, scores.index, scores.columns)
    scores.loc[2, 4], lost.loc[2, 4] = 0.1, True
    found = stats.differences(scores, lost)
    has = found["second"] == 4
    d = np.stack([scores[i] - scores[4] for i in range(4)])
    np.testing.assert_allclose(found["sd"][has], d.std(axis=1, ddof=1))
    assert (found["freedom"][has] == 5).all()
    without = stats.differences(scores[[0, 1, 2, 3]])
    np.testing.assert_allclose(found["sd"][~has], without["sd"])
    np.testing.assert_allclose(found["p"][~has], without["p"])


# ---------------------------------------------------------------- all pairs


def partitions(items):
    """All ways to put items into sets."""
    if not items:
        yield []
        return
    first, *rest = items
    for parts in partitions(rest):
        yield [[first], *parts]
        for i, part in enumerate(parts):
            yield [*parts[:i], [first, *part], *parts[i + 1 :]]


@pytest.mark.parametrize("groups", [2, 3, 4, 5, 6])
def test_shaffer_multiplies_by_the_most_pairs_that_can_still_be_equal(groups):
    possible = {sum(math.comb(len(part), 2) for part in parts) for parts in partitions(list(range(groups)))}
    m = math.comb(groups, 2)
    p = np.linspace(1e-4, 2e-4, m)
    steps = [max(n for n in possible if n <= m - r) for r in range(m)]
    np.testing.assert_allclose(stats.shaffer(p, groups), np.maximum.accumulate(p * steps))
    assert (stats.shaffer(p, groups) <= stats.holm(p) + 1e-15).all()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.integers(2, 9).flatmap(
        lambda g: st.tuples(st.just(g), st.lists(probabilities, min_size=math.comb(g, 2), max_size=math.comb(g, 2)))
    )
)
def test_shaffer_keeps_the_order_and_lowers_nothing(drawn):
    groups, p = drawn
    filled, found = np.nan_to_num(p, nan=1.0), stats.shaffer(p, groups)
    assert (found >= filled).all() and (found <= 1).all() and (found <= stats.holm(p) + 1e-12).all()
    assert (np.diff(found[np.argsort(filled, kind="stable")]) >= 0).all()


def test_comparisons_that_cannot_be_made_say_nothing_and_count():
    nan = math.nan
    scores = pd.DataFrame(
        {"a": [0.9, 0.91, 0.92, nan], "b": [0.8, 0.82, 0.81, nan], "c": [nan, nan, 0.7, 0.7], "d": [nan] * 4}
    )
    found = stats.differences(scores).set_index(["first", "second"])
    assert [*found.index] == [*itertools.combinations("abcd", 2)]
    assert found["n"].tolist() == [3, 1, 0, 1, 0, 0]
    assert found["p"].notna().tolist() == found["p_adjusted"].notna().tolist() == [True, *[False] * 5]
    assert found.loc[("a", "b"), "p_adjusted"] == pytest.approx(6 * found.loc[("a", "b"), "p"])  # untested ones count
    assert found.loc[("a", "c"), "difference"] == pytest.approx(0.22)
    assert math.isnan(found.loc[("a", "d"), "difference"])


def test_resolution_is_the_smallest_step_between_scores():
    assert stats.resolution([0.9, 0.91, math.nan, 0.94, 0.9 + 1e-13, math.inf]) == pytest.approx(0.01)
    assert stats.resolution(np.arange(12).reshape(3, 4) / 300) == pytest.approx(1 / 300)
    assert stats.resolution([0.9, 0.9]) == stats.resolution([]) == 0


def test_a_difference_of_one_step_in_all_of_three_seeds_is_not_significant():
    a = np.array([270, 280, 275])
    scores = pd.DataFrame({"a": a / 300, "b": (a + 1) / 300, "c": (a + 40) / 300})
    found = stats.differences(scores).set_index(["first", "second"])
    assert (found["sd"] > 1 / 300 / 3).all()
    assert found.loc[("a", "b"), "p"] > 0.05
    assert found.loc[("a", "c"), "p_adjusted"] < 0.01  # forty steps are


@pytest.mark.parametrize("jitter", [0.0, 1e-13])
def test_scores_that_are_equal_but_for_rounding_are_not_different(jitter):
    scores = pd.DataFrame({"a": [0.9, 0.8, 0.7], "b": [0.9, 0.8, 0.7], "c": [0.7, 0.7, 0.7]})
    scores["b"] += jitter * np.array([1, 1, 1.01])
    found = stats.differences(scores[["a", "b"]])
    assert found[["difference", "p", "p_adjusted"]].to_numpy().tolist() == [[0, 1, 1]]
    same = stats.differences(scores[["c", "c"]].set_axis(["c", "d"], axis=1))
    assert same[["difference", "sd", "p"]].to_numpy().tolist() == [[0, 0, 1]]
    assert rank(scores)["rank"].tolist() == [1, 1, 1]


# ---------------------------------------------------------------- ranks


def test_rank_counts_the_groups_that_are_significantly_better_and_worse():
    generator = np.random.default_rng(1)
    scores = frame(generator, 6, 7) - [0.0, 0.1, 0.02, 0.3, 0.0, 0.11, 0.04]
    scores.columns = list("abcdefg")
    found = rank(scores)
    pairs = stats.differences(scores)
    pairs = pairs[pairs["p_adjusted"] <= 0.05]
    assert 5 < len(pairs) < 20
    winners = np.where(pairs["difference"] > 0, pairs["first"], pairs["second"]).tolist()
    losers = np.where(pairs["difference"] > 0, pairs["second"], pairs["first"]).tolist()
    assert found["rank"].to_dict() == {group: 1 + losers.count(group) for group in found.index}
    assert found["rank_to"].to_dict() == {group: 7 - winners.count(group) for group in found.index}
    assert found.index.tolist() == scores.mean().sort_values(ascending=False).index.tolist()


def test_groups_without_a_score_come_last_and_have_no_rank():
    scores = frame(np.random.default_rng(4), 5, 4).set_axis(list("abcd"), axis=1) - [0.3, 0, 0, 0]
    scores[["b", "d"]] = math.nan
    found = rank(scores)
    assert found.index.tolist() == ["c", "a", "b", "d"]
    assert found.loc[["c", "a"], ["rank", "rank_to"]].to_numpy().tolist() == [[1, 1], [2, 2]]
    assert found.loc[["b", "d"]].drop(columns=["n", "verdict"]).isna().all(axis=None)
    assert found["verdict"][["b", "d"]].tolist() == ["", ""]


@pytest.mark.parametrize(
    "scores",
    [
        pd.DataFrame(),
        pd.DataFrame(columns=["a", "b"], dtype=float),
        pd.DataFrame({"a": [math.nan]}),
        pd.DataFrame({"a": [0.9, 0.8]}),
        pd.DataFrame({"a": [0.9], "b": [0.8]}),
    ],
)
def test_what_cannot_be_compared_is_ranked_as_one(scores):
    found = rank(scores)
    assert sorted(found.index) == sorted(scores.columns)
    assert len(stats.differences(scores)) == max(0, scores.shape[1] - 1)
    ranked = found[found["rank"].notna()]
    assert (ranked["rank"] == 1).all() and (ranked["rank_to"] == len(ranked)).all()
    assert found.empty or found[["p", "seeds_needed", "difference_low"]].isna().all(axis=None)


def test_equal_means_are_in_the_order_of_their_labels():
    scores = pd.DataFrame({"b": [0.1, 0.2, 0.6], "c": [0.6, 0.1, 0.2], "a": [0.2, 0.6, 0.1]})
    assert rank(scores).index.tolist() == ["a", "b", "c"]


simulated = st.tuples(st.integers(0, 2**32 - 1), st.integers(2, 8), st.integers(2, 6))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(simulated, st.randoms(use_true_random=False))
def test_the_order_of_groups_and_seeds_changes_nothing(shape, random):
    generator = np.random.default_rng(shape[0])
    scores = rounded(frame(generator, *shape[1:], sd=0.03))
    scores = scores.mask(generator.uniform(size=scores.shape) < 0.1)
    columns, rows = (random.sample(list(axis), len(axis)) for axis in (scores.columns, scores.index))
    pd.testing.assert_frame_equal(rank(scores), rank(scores.loc[rows, columns]), rtol=1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(simulated, st.floats(-10, 10))
def test_what_makes_a_seed_harder_for_all_changes_nothing(shape, most):
    generator = np.random.default_rng(shape[0])
    scores = frame(generator, *shape[1:]) - np.arange(shape[2]) * 0.03
    # The guard for rounded scores knows only the gaps between those it has seen: here is one that stays.
    scores["again"] = scores[0] + 1e-6
    harder = scores.add(most * generator.uniform(size=shape[1]), axis=0)
    pd.testing.assert_frame_equal(rank(scores), rank(harder), rtol=1e-5, atol=1e-8)


# ---------------------------------------------------------------- seeds needed


def reference_power(effect, n, alpha):
    critical = scipy.stats.t.ppf(1 - alpha / 2, n - 1)
    follows = scipy.stats.nct(n - 1, effect * math.sqrt(n))
    # Where nothing of the other tail is left, scipy has NaN.
    return follows.sf(critical) + (follows.cdf(-critical) if effect * math.sqrt(n) < 2 else 0)


@pytest.mark.parametrize("effect", [0.3, 0.5, 1.0, 2.0, 5.0, 20.0])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 15, 0.05 / 1000])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_seeds_needed_is_the_first_number_with_that_power(effect, alpha, power):
    needed = int(stats.seeds_needed(-0.01 * effect, 0.01, alpha, power))
    assert needed >= 2
    assert reference_power(effect, needed, alpha) >= power - 1e-9
    assert needed == 2 or reference_power(effect, needed - 1, alpha) < power


@pytest.mark.parametrize(("effect", "alpha"), [(0.5, 0.05), (1.0, 0.01), (3.0, 0.001)])
def test_seeds_needed_find_the_difference_in_four_of_five_simulations(effect, alpha):
    generator = np.random.default_rng(5)
    needed = int(stats.seeds_needed(effect, 1.0, alpha))
    repeats = 20_000
    p = scipy.stats.ttest_1samp(generator.normal(effect, 1, (repeats, needed)), 0, axis=1).pvalue
    fewer = scipy.stats.ttest_1samp(generator.normal(effect, 1, (repeats, needed - 1)), 0, axis=1).pvalue
    assert (p <= alpha).mean() > 0.8 - 0.01
    assert (fewer <= alpha).mean() < 0.8 + 0.01


def test_seeds_needed_has_no_number_for_everything():
    assert stats.seeds_needed(0.0, 0.01, 0.05) == stats.seeds_needed(1e-5, 0.01, 0.05) == math.inf
    assert stats.seeds_needed(0.01, 0.0, 0.05) == 2
    assert math.isnan(stats.seeds_needed(math.nan, 0.01, 0.05)) and math.isnan(stats.seeds_needed(0.01, math.nan, 0.05))


def test_seeds_needed_falls_with_the_difference_over_many_orders_of_magnitude():
    # At a level as among 500 groups, where two seeds need a t of more than a million.
    needed = [stats.seeds_needed(effect, 1.0, 4e-7) for effect in np.geomspace(0.03, 1e9, 60)]
    assert needed == sorted(needed, reverse=True)
    assert needed[0] == math.inf and needed[-1] == 2 and 3 in needed
    # Of two values so far from 0, the estimated sd decides: it is that of one normal number.
    enough = scipy.stats.t.isf(2e-7, 1) * scipy.stats.norm.ppf(0.9) / math.sqrt(2)
    assert [stats.seeds_needed(share * enough, 1.0, 4e-7) for share in (0.7, 0.99, 1.01)] == [3, 3, 2]


# ---------------------------------------------------------------- error rates

NULL = [(2, 5000), (3, 1500), (6, 1000), (12, 1000)]  # so that the allowance is below 6 % for two, 8 % for many


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(("groups", "repeats"), NULL)
def test_groups_that_are_the_same_are_rarely_told_apart(groups, repeats, seeds):
    generator = np.random.default_rng([groups, seeds])
    found = [stats.differences(frame(generator, seeds, groups)) for _ in range(repeats)]
    assert np.mean([(pairs["p_adjusted"] <= 0.05).any() for pairs in found]) <= at_most(0.05, repeats)
    alone = np.mean([pairs["p"].iloc[0] <= 0.05 for pairs in found])
    assert 0.05 - (at_most(0.05, repeats) - 0.05) <= alone <= at_most(0.05, repeats)  # one test has its level exactly


@pytest.mark.slow
@pytest.mark.parametrize("sd", [0.001, 0.003, 0.01])  # a third of a step, one, three
@pytest.mark.parametrize(("groups", "seeds"), [(2, 3), (3, 3), (3, 5), (6, 3), (6, 10)])
def test_neither_are_groups_whose_accuracies_are_rounded(groups, seeds, sd):
    generator = np.random.default_rng([groups, seeds])
    found = [stats.differences(rounded(frame(generator, seeds, groups, sd))) for _ in range(500)]
    assert np.mean([(pairs["p_adjusted"] <= 0.05).any() for pairs in found]) <= at_most(0.05, 500)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 10])
def test_neither_are_groups_of_unequal_spread(seeds):
    generator = np.random.default_rng(seeds)
    spread = np.geomspace(0.001, 0.03, 6)
    found = [stats.differences(frame(generator, seeds, 6, spread)) for _ in range(1000)]
    assert np.mean([(pairs["p_adjusted"] <= 0.05).any() for pairs in found]) <= 0.06


@pytest.mark.parametrize("spread", [0.01, np.array([0.001, 0.01, 0.03, 0.001, 0.01, 0.03])])
def test_two_clusters_of_ties_share_two_ranks(spread):
    generator = np.random.default_rng(7)
    repeats = 500
    # Their true ranks are any from 1 to 3, or from 4 to 6.
    true, true_to = np.repeat([1, 4], 3), np.repeat([3, 6], 3)
    ranks = [
        rank(rounded(frame(generator, 10, 6, spread) - np.repeat([0, 0.4], 3))).sort_index() for _ in range(repeats)
    ]
    assert np.mean([(found["rank"] == true).all() for found in ranks]) >= 0.94
    assert np.mean([(found["rank_to"] == true_to).all() for found in ranks]) >= 0.94


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_rank_sets_hold_all_true_ranks_at_once(seeds):
    generator = np.random.default_rng(seeds)
    loss = np.array([0, 0, 0.005, 0.01, 0.01, 0.03, 0.1])
    better, worse = (loss < loss[:, None]).sum(axis=1), (loss > loss[:, None]).sum(axis=1)
    repeats = 500
    covered = separated = 0
    for _ in range(repeats):
        found = rank(frame(generator, seeds, 7) - loss).sort_index()
        covered += ((found["rank"] <= 1 + better) & (found["rank_to"] >= 7 - worse)).all()
        separated += found["rank"].max() > 1
    assert covered / repeats >= 0.94
    assert separated / repeats > (0.05 if seeds == 3 else 0.9)  # and not by saying nothing


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "seeds"), [(6, 5), (12, 5)])
def test_three_times_as_many_differences_are_found_as_with_every_variance_by_itself(groups, seeds):
    generator = np.random.default_rng([groups, seeds])
    found = np.zeros(2)
    for _ in range(1000):
        scores = frame(generator, seeds, groups, 0.01)
        scores[0] += 0.02
        d = scores[[0]].to_numpy() - scores.to_numpy()[:, 1:]
        every = np.stack([scores[i] - scores[j] for i, j in itertools.combinations(range(groups), 2)])
        alone = stats.holm(scipy.stats.ttest_1samp(every, 0, axis=1).pvalue)
        now = stats.differences(scores)["p_adjusted"].to_numpy()
        right = d.mean(axis=0) > 0
        found += [((p[: groups - 1] <= 0.05) & right).mean() for p in (alone, now)]
    assert found[1] > 2.8 * found[0] > 0  # of a thousand simulations


@pytest.mark.slow
def test_a_group_does_not_gain_by_losing_its_worst_seeds():
    generator = np.random.default_rng(0)
    wrong = [0, 0]
    for _ in range(1000):
        scores = 0.97 + 0.3 * (frame(generator, 10, 2) - 0.9)
        lost = pd.DataFrame({0: scores[0] < scores[0].quantile(0.5), 1: False})
        for i, (seen, flags) in enumerate(((scores.mask(lost), None), (scores.mask(lost, 0.1), lost))):
            (row,) = stats.differences(seen, flags).itertuples()
            wrong[i] += row.p <= 0.05 and row.difference > 0
    assert wrong[0] > 50 and wrong[1] == 0


@pytest.mark.parametrize("groups", [3, 8])
def test_the_best_is_among_the_candidates(groups):
    generator = np.random.default_rng(groups)
    away, repeats = np.linspace(0, 0.03, groups), 400
    found = [stats.candidates(stats.differences(frame(generator, 5, groups) - away)) for _ in range(repeats)]
    assert np.mean([0 in one for one in found]) >= 1 - at_most(0.05, repeats)
    assert np.mean([len(one) < groups for one in found]) > 0.5  # and not by leaving nobody out
    ties = [stats.candidates(stats.differences(frame(generator, 5, groups))) for _ in range(repeats)]
    assert np.mean([0 in one for one in ties]) >= 1 - at_most(0.05, repeats)


def test_candidates_are_never_more_than_those_that_share_the_first_rank():
    generator = np.random.default_rng(9)
    for _ in range(50):
        scores = frame(generator, 5, 7) - np.arange(7) * 0.01
        pairs = stats.differences(scores)
        ranks = stats.ranks(scores, pairs)["rank"]
        assert stats.candidates(pairs) <= set(ranks.index[ranks == 1])
    one = pd.DataFrame({"a": [0.9], "b": [0.8]})
    assert stats.candidates(stats.differences(one)) == {"a", "b"}
