"""Shared by the tests: one thread, small datasets, short trials."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable

import pytest
import torch

from optbench.data.datasets import Dataset, Split, load
from optbench.data.info import DATASETS
from optbench.execution import processes
from optbench.networks import NETWORKS
from optbench.sweep.spec import parse
from optbench.sweep.trials import Trial, expand
from tests.modules import made_up as made_up_layers

torch.set_num_threads(1)
# Triton reads this when it is first imported, whoever does so; without a GPU its kernels run in its interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Worker processes start in milliseconds, not in the seconds that it takes to import torch. Command lines that tests run
# in a process of their own spawn them, as they do for users.
if sys.platform == "linux":
    processes.CONTEXT = multiprocessing.get_context("forkserver")
    multiprocessing.set_forkserver_preload(["optbench.execution.in_process", "pytorch_optimizer"])

# A shell that starts the tests in the background lets them ignore Ctrl-C, and so all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)  # so that the tests run without xdist, too
def pytest_xdist_auto_num_workers(config):
    """As many processes as cores, but one where there is a GPU: they would share its memory."""
    return 1 if torch.cuda.is_available() else None


# The modules that take longest, in the order in which they begin: at the end no process is idle for long.
SLOWEST = ("cli", "halving", "engine", "bench", "timing", "kernels", "step", "parts", "execution", "adapter", "html")


def pytest_collection_modifyitems(items):
    rank = {f"test_{name}": i for i, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(autouse=True)
def _denormals():
    """Training in this process flushes denormals, which hypothesis cannot live with."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> str:
    """A network with every kind of layer, by its name for the time of a test."""
    monkeypatch.setitem(NETWORKS, "made up", made_up_layers)
    return "made up"


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load("digits")


@pytest.fixture(scope="session")
def tiny(digits: Dataset) -> Dataset:
    """The first digits only: 256 to train on, 64 in each of the other splits."""
    part = {
        name: getattr(digits, name)[:n] for name, n in (("train", 256), ("train_eval", 64), ("val", 64), ("test", 64))
    }
    return dataclasses.replace(digits, info=dataclasses.replace(DATASETS["digits"], val=64), **part)


@pytest.fixture(scope="session")
def random_batch() -> Callable[..., Split]:
    def make(seeds: int, batch: int, dtype: torch.dtype, image: tuple[int, ...] = (1, 28, 28)) -> Split:
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(seeds, batch, *image, generator=generator, dtype=dtype)
        return Split(images, torch.randint(10, (seeds, batch), generator=generator))

    return make


@pytest.fixture(scope="session")
def trials_of() -> Callable[..., list[Trial]]:
    """Trials of a sweep given as the body of `optimizers:` and further top-level lines."""

    def make(optimizers: str, *lines: str) -> list[Trial]:
        return expand(parse("\n".join(["dataset: digits", f"optimizers: {optimizers}", *lines])))

    return make
