"""The size of a stack on a GPU, with the GPU's answers made up."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optbench.sweep.stacks import plan
from optbench.training import fit


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@given(st.integers(0, 7), st.floats(1.11, 2.0), st.floats(0.5, 1.09), st.none() | st.integers(8, 2000))
def test_the_knee_is_where_doubling_gains_less_than_a_tenth(doublings, gain, after, fits):
    def rate(size):
        if fits is not None and size > fits:
            return None
        grown = (size // 8).bit_length() - 1
        return gain ** min(grown, doublings) * after ** max(0, grown - doublings)

    size = fit.knee(rate, 8, 1024)
    expected = 8 * 2**doublings
    while fits is not None and expected > max(8, fits):
        expected //= 2
    assert size == expected


NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory")


def made_up_gpu(monkeypatch, bytes_per_trial, total, images_per_second, error=NO_MEMORY):
    """A device with so much memory and so fast for a stack of that size; returns the sizes that were timed."""
    timed, peak = [], []

    def seconds_per_image(stack, device):
        if len(stack) * bytes_per_trial > total:
            raise error
        timed.append(len(stack))
        peak.append(len(stack) * bytes_per_trial)
        return len(stack) / images_per_second(len(stack)), 0.0

    cuda = SimpleNamespace(
        get_device_properties=lambda device: SimpleNamespace(total_memory=total),
        get_device_capability=lambda device: (9, 0),
        empty_cache=lambda: None,
        reset_peak_memory_stats=lambda device: None,
        max_memory_reserved=lambda device: peak[-1],
        get_device_name=lambda device: "GPU",
    )
    monkeypatch.setattr(fit, "seconds_per_image", seconds_per_image)
    monkeypatch.setattr(fit, "with_convolution", lambda network, *_: network)
    for name, function in vars(cuda).items():
        monkeypatch.setattr(torch.cuda, name, function)
    return timed


@pytest.mark.parametrize(
    ("bytes_per_trial", "images_per_second", "size"),
    [
        (1, lambda n: min(n, 64), 64),  # arithmetic is the limit
        (1, lambda n: n, 1024),  # nothing is
        (100, lambda n: n, 64),  # memory is: 128 trials would take more than 80 % of it
        (5_000, lambda n: n, 8),
    ],
)
def test_speed_and_memory_limit_a_stack(bytes_per_trial, images_per_second, size, trials_of, monkeypatch):
    timed = made_up_gpu(monkeypatch, bytes_per_trial, 10_000, images_per_second)
    trials = trials_of("{adam: {lr: [0.1, 0.2, 0.3, 0.4, 0.5]}}", "seeds: 500", "epochs: 1")
    stacks = plan(trials, lambda group: fit.stack_size(group, "cuda"))
    assert {len(stack) for stack in stacks[:-1]} == {size}
    assert len(stacks) == -(-2500 // size)
    before = list(timed)
    assert fit.stack_size(trials, "cuda") == size
    assert timed == before  # remembered
    few = trials[:5]
    assert [len(stack) for stack in plan(few, lambda group: fit.stack_size(group, "cuda"))] == [5]


@pytest.mark.parametrize(
    "error",
    [
        NO_MEMORY,
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
    ids=str,
)
def test_a_size_that_does_not_fit_is_told_by_any_librarys_words(error, trials_of, monkeypatch):
    trials = trials_of("{adam: {lr: [0.1, 0.2, 0.3, 0.4, 0.5]}}", "seeds: 500", "epochs: 1")
    made_up_gpu(monkeypatch, 80, 10_000, lambda n: n, error)
    monkeypatch.setattr(fit, "_MEMORY_SHARE", 10)  # so that 128 trials are tried
    assert fit.stack_size(trials, "cuda") == 64


def test_what_else_goes_wrong_is_not_taken_for_a_lack_of_memory(trials_of, monkeypatch):
    trials = trials_of("{adam: {lr: [0.1, 0.2, 0.3, 0.4, 0.5]}}", "seeds: 500", "epochs: 1")
    made_up_gpu(monkeypatch, 80, 10_000, lambda n: n, RuntimeError("an illegal memory access was encountered"))
    monkeypatch.setattr(fit, "_MEMORY_SHARE", 10)
    with pytest.raises(RuntimeError, match="illegal"):
        fit.stack_size(trials, "cuda")
