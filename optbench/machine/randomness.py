"""Random numbers that depend only on the seed: not on the stack, the worker, the device or the torch version.

Philox4x32-10 (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3") maps a key and a counter to four
random words with integer arithmetic only, so CPU and CUDA agree to the bit. The seed is the key; the counter names
the draw: (index, block, epoch, stream). Trials with the same seed draw the same numbers, so comparisons are paired.

Shapes: S seeds, N numbers or examples, P parameters of one trial, F dropout units.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

# The last counter word separates the uses of one seed from each other.
_WEIGHTS, _ORDER, _DROPOUT, _AUGMENTATION = 0, 1, 2, 3

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF
_AT_ONCE = 2**16  # counters whose weights are drawn together: the words of more would not stay in a CPU's cache


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32-bit word of a·b; both below 2³². Split so that no product leaves int64."""
    low, high = (a & 0xFFFF) * b, (a >> 16) * b
    middle = (low >> 16) + high  # < 2⁴⁹
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def philox(key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox4x32-10. All words are int64 tensors holding 32-bit values, of broadcastable shapes; returns four."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def _draw(seeds: Sequence[int], index: Tensor, blocks: int, epoch: int, stream: int) -> Tensor:
    """Random words of shape (S, *index.shape, blocks·4); `index` may have a leading S of its own (S or 1)."""
    device = index.device
    seed = torch.tensor(list(seeds), dtype=torch.int64, device=device).view(-1, *[1] * index.dim())
    block = torch.arange(blocks, device=device)
    c0 = index.unsqueeze(-1).expand(len(seeds), *index.shape[1:], blocks)
    counter = c0, block.expand_as(c0), torch.full_like(c0, epoch), torch.full_like(c0, stream)
    words = (_philox_on_cpu if device.type == "cpu" else philox)((seed & _WORD, seed >> 32), counter)
    return torch.stack(words, dim=-1).flatten(-2)


def _philox_on_cpu(key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """`philox` in NumPy, which has words of 32 bits without a sign: several times as fast."""
    k0, k1, c0, c1, c2, c3 = (word.numpy().astype(np.uint32) for word in (*key, *counter))
    for _ in range(10):
        product0, product1 = (c.astype(np.uint64) * np.uint64(m) for c, m in zip((c0, c2), _MULTIPLIERS, strict=True))
        low0, low1 = product0.astype(np.uint32), product1.astype(np.uint32)
        high0, high1 = (product0 >> np.uint64(32)).astype(np.uint32), (product1 >> np.uint64(32)).astype(np.uint32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + np.uint32(_WEYL[0]), k1 + np.uint32(_WEYL[1])  # modulo 2³²
    return tuple(torch.from_numpy(c.astype(np.int64)) for c in (c0, c1, c2, c3))


def _uniform(words: Tensor) -> Tensor:
    """float32 in [0, 1) from the upper 24 bits of each word: exact, hence equal on every device."""
    return (words >> 8).to(torch.float32) * 2.0**-24


def weights(seeds: Sequence[int], n: int, device: torch.device | str) -> Tensor:
    """Uniform numbers in [0, 1) for the initial weights of each seed, float32 (S, P) with P = n."""
    index_1P = torch.arange((n + 3) // 4, device=device).unsqueeze(0)
    parts = [_uniform(_draw(seeds, part, 1, 0, _WEIGHTS)).flatten(1) for part in index_1P.split(_AT_ONCE, dim=1)]
    return torch.cat(parts, dim=1)[:, :n]


def permutation(seeds: Sequence[int], epoch: int, n: int, device: torch.device | str) -> Tensor:
    """A random order of 0 … n-1 for each seed in this epoch, int64 (S, N)."""
    index_1N = torch.arange(n, device=device).unsqueeze(0)
    words_SN4 = _draw(seeds, index_1N, 1, epoch, _ORDER)
    key_SN = (words_SN4[..., 0] << 31) ^ words_SN4[..., 1]
    return torch.argsort(key_SN, dim=1, stable=True)


def dropout(seeds: Sequence[int], epoch: int, first: int, n: int, units: int, device: torch.device | str) -> Tensor:
    """Uniform numbers in [0, 1) that decide dropout, float32 (S, N, F), F = units.

    They belong to the examples at positions first … first+n-1 of the epoch's order, whatever the batch size.
    """
    index_1N = torch.arange(first, first + n, device=device).unsqueeze(0)
    return _uniform(_draw(seeds, index_1N, (units + 3) // 4, epoch, _DROPOUT))[..., :units]


def augmentation(seeds: Sequence[int], epoch: int, first: int, n: int, device: torch.device | str) -> Tensor:
    """Uniform numbers in [0, 1) that decide flip, row and column of a crop, float32 (S, N, 3).

    They belong to the examples at positions first … first+n-1 of the epoch's order, whatever the batch size.
    """
    index_1N = torch.arange(first, first + n, device=device).unsqueeze(0)
    return _uniform(_draw(seeds, index_1N, 1, epoch, _AUGMENTATION))[..., :3]


@contextmanager
def seeded(words: str, device: torch.device | str) -> Iterator[None]:
    """Inside, what code from elsewhere draws from the generators of torch, NumPy and Python follows from `words` alone.

    Afterwards these go on as if nothing had been drawn.
    """
    seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big")
    outer = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(outer[0])
            np.random.set_state(outer[1])
