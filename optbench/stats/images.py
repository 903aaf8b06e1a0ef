"""How far other images would move a difference: the test images are a sample, as the seeds are.

A difference between two groups is the mean over a table of seeds × images. It varies from seed to seed, from image to
image and from cell to cell: difference = level + seed + image + the rest (crossed random effects; Owen 2007, "The
pigeonhole bootstrap"). More seeds make the part of the seeds small, but not that of the images. So tests over seeds
alone hold for these images only: where two optimizers' networks fail on different images, such tests find differences
between equals in up to half of all test sets (`experiments/simulations/images.py`).

Shapes: G groups, S seeds, N images, P pairs of groups, in the order of `ranking.differences`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from optbench.stats.ranking import shaffer

Floats = NDArray[np.float64]


def variances(correct_GSN: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """How much of the variance of each pair's mean difference comes from the images, (P,) each.

    `correct_GSN` is 1 where the network of a group and a seed is right and 0 where it is wrong, the probability of
    being right for one that guesses, and NaN for a seed that a group does not have. The first result is the part of the
    images alone, σ²(image) / N, by the method of moments (an unbiased estimate, so it may be below 0); the second is
    that of the images under these seeds, σ²(image) / N + σ²(rest) / (S N). NaN where no seed is shared.
    """
    groups, seeds, images = correct_GSN.shape
    known_GS = ~np.isnan(correct_GSN[:, :, 0])
    away_GSN = np.nan_to_num(correct_GSN - correct_GSN.mean(axis=2, keepdims=True))
    within_GG, between_GG = np.zeros((groups, groups)), np.zeros((groups, groups))
    for s in range(seeds):
        for t in range(s + 1):
            shared_GG = np.outer(known_GS[:, s], known_GS[:, s]) & np.outer(known_GS[:, t], known_GS[:, t])
            covariance_GG = away_GSN[:, s] @ away_GSN[:, t].T / np.float32(images - 1)
            own_G = np.diag(covariance_GG)
            # of the differences of two groups, for one seed with those for another
            product_GG = shared_GG * (own_G[:, None] + own_G - covariance_GG - covariance_GG.T)
            between_GG += product_GG if s == t else 2 * product_GG
            within_GG += product_GG if s == t else 0
    i, j = np.triu_indices(groups, k=1)
    n_P = (known_GS.astype(float) @ known_GS.T)[i, j]
    n_P[n_P == 0] = np.nan
    within_P, between_P = within_GG[i, j] / n_P, between_GG[i, j] / n_P**2
    image_P = np.divide(n_P * between_P - within_P, n_P - 1, out=between_P.copy(), where=n_P > 1)
    return image_P / images, between_P / images


def on_other_images(pairs: pd.DataFrame, correct_GSN: NDArray[np.float32]) -> pd.DataFrame:
    """The `ranking.differences` of all pairs with tests that hold for other seeds and other images at once.

    More columns: `error_images`, the standard error of the difference over both, no less than that which the images
    show by themselves; `freedom_images`, its degrees of freedom (Satterthwaite 1946, "An approximate distribution of
    estimates of variance components"); `p_images`, never below `p`, and `p_images_adjusted` over all pairs.
    """
    from scipy.special import stdtr

    n, freedom = pairs["n"].to_numpy(dtype=float), pairs["freedom"].to_numpy(dtype=float)
    of_seeds = pairs["sd"].to_numpy(dtype=float) ** 2 / np.maximum(n, 1)
    image, alone = variances(correct_GSN)
    of_images = np.maximum(np.maximum(image, 0), alone - of_seeds)
    total = of_seeds + of_images
    spread = of_seeds**2 / np.maximum(freedom, 1) + of_images**2 / (correct_GSN.shape[2] - 1)
    freedom = np.divide(total**2, spread, out=np.ones_like(total), where=spread > 0)
    error = np.sqrt(total)
    difference = pairs["difference"].to_numpy(dtype=float)
    t = np.divide(difference, error, out=np.where(np.isnan(error), np.nan, 0.0), where=error > 0)
    p = np.maximum(2 * stdtr(freedom, -np.abs(t)), pairs["p"])
    adjusted = np.where(np.isnan(p), p, shaffer(p, len(correct_GSN)))
    return pairs.assign(error_images=error, freedom_images=freedom, p_images=p, p_images_adjusted=adjusted)
