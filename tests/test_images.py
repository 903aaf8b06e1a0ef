"""What other images would change: variances over seeds and images, against analysis by hand and Owen's bootstrap."""

import math

import numpy as np
import pandas as pd
import pytest

from optbench import stats
from optbench.stats.images import on_other_images, variances


def table(generator, groups=4, seeds=5, images=200, own=0.7, sd=0.15, level=2.0):
    """Which images are right, (G, S, N), where each group fails on images of its own."""
    strength = level + 1.5 * generator.standard_normal(images) + own * generator.standard_normal((groups, 1, images))
    strength = strength + sd * generator.standard_normal((groups, seeds, 1))
    return (strength + 0.5 * generator.standard_normal((groups, seeds, images)) > 0).astype(np.float32)


def over_both(correct):
    return on_other_images(stats.differences(pd.DataFrame(correct.mean(axis=2).T.astype(float))), correct)


def by_hand(first_SN, second_SN):
    """Two-way analysis of variance of the differences, cell by cell."""
    d = first_SN.astype(float) - second_SN
    seeds, images = d.shape
    rest = d - d.mean(axis=0) - d.mean(axis=1)[:, None] + d.mean()
    residual = (rest**2).sum() / (seeds - 1) / (images - 1)
    of_images = d.mean(axis=0).var(ddof=1)
    return (of_images - residual / seeds) / images, of_images / images


def test_the_variances_are_those_of_a_two_way_analysis():
    correct = table(np.random.default_rng(0))
    image, alone = variances(correct)
    i, j = np.triu_indices(len(correct), k=1)
    expected = [by_hand(correct[a], correct[b]) for a, b in zip(i, j, strict=True)]
    np.testing.assert_allclose(image, [e[0] for e in expected], rtol=1e-4, atol=1e-10)
    np.testing.assert_allclose(alone, [e[1] for e in expected], rtol=1e-4)


def test_only_common_seeds_count():
    correct = table(np.random.default_rng(1), groups=3)
    correct[0, 1] = np.nan
    correct[2, 4] = np.nan
    image, alone = variances(correct)
    for k, (a, b) in enumerate(((0, 1), (0, 2), (1, 2))):
        shared = ~np.isnan(correct[a, :, 0]) & ~np.isnan(correct[b, :, 0])
        expected = by_hand(correct[a][shared], correct[b][shared])
        assert (image[k], alone[k]) == pytest.approx(expected, rel=1e-4, abs=1e-10)


def test_with_one_common_seed_images_and_the_rest_cannot_be_told_apart_and_with_none_nothing_is_known():
    correct = table(np.random.default_rng(2), groups=3, seeds=2)
    correct[0, 1] = correct[1, 0] = np.nan
    image, alone = variances(correct)
    assert math.isnan(image[0]) and math.isnan(alone[0])
    assert image[1] == alone[1] > 0
    assert over_both(correct)["p_images_adjusted"].isna().tolist() == [True, True, True]


def test_the_variance_agrees_with_the_pigeonhole_bootstrap():
    """Seeds and images are drawn with replacement (Owen 2007); that counts the rest three times instead of once."""
    generator = np.random.default_rng(3)
    correct = table(generator, groups=2, seeds=8, images=400, sd=0.3)
    d = correct[0].astype(float) - correct[1]
    seeds, images = d.shape
    draws = [
        d[np.ix_(generator.integers(seeds, size=seeds), generator.integers(images, size=images))] for _ in range(3000)
    ]
    bootstrap = np.var([draw.mean() for draw in draws])
    image, alone = by_hand(correct[0], correct[1])
    of_seeds = d.mean(axis=1).var(ddof=1) / seeds
    # The variances of the bootstrap are those of samples, (S − 1) / S of the estimates.
    expected = of_seeds * (seeds - 1) / seeds + alone + (alone - image)
    assert bootstrap == pytest.approx(expected, rel=0.1)
    error = over_both(correct)["error_images"].iloc[0]
    assert error**2 == pytest.approx(of_seeds + image, rel=1e-4)
    assert error**2 < bootstrap


def test_tests_over_images_never_find_more_than_those_over_seeds():
    for seed in range(20):
        found = over_both(table(np.random.default_rng(seed), seeds=3))
        assert (found["p_images"] >= found["p"] - 1e-15).all()
        assert (found["p_images_adjusted"] >= found["p_adjusted"] - 1e-12).all()


def test_a_lost_seed_says_nothing_about_images():
    correct = table(np.random.default_rng(4), groups=2)
    correct[1] = 0.1
    image, alone = variances(correct)
    assert (image[0], alone[0]) == pytest.approx(by_hand(correct[0], np.full_like(correct[0], 0.1)), rel=1e-4)


@pytest.mark.parametrize(("groups", "seeds"), [(2, 10), (6, 5)])
def test_equals_that_fail_on_different_images_are_told_apart_by_seeds_but_not_over_images(groups, seeds):
    generator = np.random.default_rng(5)
    found = [over_both(table(generator, groups, seeds, 300, sd=0.0)) for _ in range(300)]
    by_seeds, by_both = (
        np.mean([(each[name] <= 0.05).any() for each in found]) for name in ("p_adjusted", "p_images_adjusted")
    )
    assert by_seeds > 0.3
    assert by_both <= 0.08  # 5 % and three standard errors


def test_a_true_difference_is_found_on_other_images_too():
    generator = np.random.default_rng(6)
    better, worse = table(generator, 1, 5, 2000, level=3.0), table(generator, 1, 5, 2000, level=2.0)
    assert over_both(np.concatenate([better, worse]))["p_images"].iloc[0] < 0.001
