"""How often rankings call equal optimizers different because of the images that happen to be in the test set.

python experiments/simulations/images.py [REPEATS] > results/simulations/images.md
"""

from __future__ import annotations

import sys
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from optbench import stats
from optbench.stats.images import on_other_images

ALPHA = 0.05
SEEDS_SD = (0.0, 0.15)  # how much the seeds of a group differ in strength
OWN_SD = (0.0, 0.3, 0.7)  # how much each group has images of its own that it finds hard
LEVELS = {"99": 3.5, "89": 2.0}  # about the accuracy, in %
IMAGES = (300, 2000)
GROUPS_AND_SEEDS = ((2, 3), (2, 10), (6, 5))


def draw(
    generator: np.random.Generator,
    groups: int,
    seeds: int,
    images: int,
    level: float,
    own: float,
    sd: float,
) -> NDArray[np.float32]:
    """Which images are right, (groups, seeds, images): where a normal variable exceeds 0.

    Its mean is the level, more or less for each image (standard deviation 1.5), each image under each group
    (`own`), each seed (`sd`), and each of all (0.5).
    """
    strength = level + 1.5 * generator.standard_normal(images)
    strength = strength + own * generator.standard_normal((groups, 1, images))
    strength = strength + sd * generator.standard_normal((groups, seeds, 1))
    return (strength + 0.5 * generator.standard_normal((groups, seeds, images)) > 0).astype(np.float32)


def tested(correct: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The adjusted p of all pairs over seeds alone, and over seeds and images."""
    pairs = on_other_images(stats.differences(pd.DataFrame(correct.mean(axis=2).T.astype(float))), correct)
    return pairs["p_adjusted"].to_numpy(), pairs["p_images_adjusted"].to_numpy()


def found(
    groups: int, seeds: int, images: int, level: float, own: float, sd: float, repeats: int
) -> tuple[float, float]:
    """The share of simulations in which any pair of equal groups is called different."""
    generator = np.random.default_rng([groups, seeds, images, *(round(100 * x) for x in (level, own, sd))])
    wrong = np.zeros(2)
    for _ in range(repeats):
        wrong += [(p <= ALPHA).any() for p in tested(draw(generator, groups, seeds, images, level, own, sd))]
    return tuple(wrong / repeats)


HEAD = """\
# Error of rankings where the test images are drawn, too

Groups are equally good on all images that there are, but fail on different ones. In %: the share of simulations in
which any two are called different on the test images that were drawn, by tests over the seeds alone (*p*) and by tests
over seeds and images (*on other images*). Own: how much harder or easier images are for one group than for others, and
seeds differ: how much its seeds do, in standard deviations of a latent strength (1.5 between images).
{repeats:,} simulations each.

| accuracy | images | own | seeds differ | groups, seeds | over seeds | over seeds and images |
| --: | --: | --: | --: | :-- | --: | --: |"""


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(HEAD.format(repeats=repeats))
    for (name, level), images, own, sd, size in product(LEVELS.items(), IMAGES, OWN_SD, SEEDS_SD, GROUPS_AND_SEEDS):
        alone, both = found(*size, images, level, own, sd, repeats)
        groups, seeds = size
        cells = (name, f"{images:,}", own, sd, f"{groups}, {seeds}", f"{100 * alone:.1f}", f"{100 * both:.1f}")
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
