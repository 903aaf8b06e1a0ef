"""Philox against its published test vectors; draws that depend on the seed alone."""

import pytest
import torch

from optbench.machine import randomness


# kat_vectors of Random123, philox4x32-10.
@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 2, (2**32 - 1,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0xA4093822, 0x299F31D0),
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_words(key, counter, words):
    key, counter = (tuple(torch.tensor([word]) for word in ws) for ws in (key, counter))
    assert tuple(int(word) for word in randomness.philox(key, counter)) == words


def test_a_seed_draws_the_same_in_any_company():
    for draw in (
        lambda seeds: randomness.weights(seeds, 1001, "cpu"),
        lambda seeds: randomness.permutation(seeds, 3, 500, "cpu"),
        lambda seeds: randomness.dropout(seeds, 3, 10, 20, 96, "cpu"),
    ):
        alone = [draw([seed])[0] for seed in (7, 0, 2**40 + 7)]
        assert all(map(torch.equal, draw([7, 0, 2**40 + 7]), alone))
        assert not torch.equal(alone[0], alone[2])


def test_dropout_belongs_to_the_position_not_to_the_batch():
    whole = randomness.dropout([5], 2, 0, 100, 96, "cpu")
    parts = [randomness.dropout([5], 2, first, 20, 96, "cpu") for first in range(0, 100, 20)]
    assert torch.equal(whole, torch.cat(parts, dim=1))


def test_draws_are_uniform_and_differ_between_epochs_and_uses():
    first, second = (randomness.dropout([1], epoch, 0, 2000, 96, "cpu") for epoch in (1, 2))
    assert first.min() >= 0
    assert first.max() < 1
    n = first.numel()
    assert abs(first.mean() - 0.5) < 5 * (1 / 12 / n) ** 0.5
    histogram = torch.histc(first, 20, 0, 1)
    chi_square = ((histogram - n / 20) ** 2 / (n / 20)).sum()
    assert chi_square < 50  # 19 degrees of freedom: exceeded with probability 1e-4
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 5 / n**0.5


def test_permutation_is_one_and_changes_with_the_epoch():
    orders = [randomness.permutation([0, 1], epoch, 1000, "cpu") for epoch in (1, 2)]
    for order in torch.cat(orders):
        assert torch.equal(order.sort().values, torch.arange(1000))
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0][0], orders[0][1])
