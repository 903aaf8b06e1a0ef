"""On a GPU a trial is what it is on a CPU, up to rounding: recorded, stacked, beside one that diverges."""

import dataclasses
import math

import pytest
import torch

from optbench.execution import Halved
from optbench.execution.in_process import run_in_process
from optbench.machine import device
from optbench.networks.forward import WAYS
from optbench.networks.network import Network
from optbench.sweep.stacks import Stack
from optbench.training import engine, step
from tests.test_engine import LINES, MIXED, equal, in_order
from tests.test_engine import rows_of as cpu_rows_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
# Relative error of gradients; where rounding turns a relu on or off it is more than that of one product.
TOLERANCE = {"fp32": 1e-3, "tf32": 5e-2, "bf16": 0.2}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One for all tests: what is fastest is measured once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _deterministic(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    device.make_deterministic("cuda")


@pytest.fixture(scope="module")
def mixed(trials_of):
    leaves = "  muon: {lr: 0.003}\n  lbfgs: {lr: 0.5, max_iter: 3}\n  prodigy: {optimizer: pytorch_optimizer.prodigy}\n"
    return [dataclasses.replace(trial, precision="fp32") for trial in trials_of(MIXED + leaves, *LINES)]


def rows_of(trials, dataset):
    return {
        (row["trial_id"], row["epoch"]): {k: v for k, v in row.items() if k not in ("train_seconds", "convolution")}
        for rows in engine.train(in_order(trials), dataset, "cuda")
        for row in rows
    }


def test_rows_are_those_of_a_cpu(mixed, tiny):
    gpu, cpu = rows_of(mixed, tiny), cpu_rows_of(in_order(mixed), tiny)
    assert gpu.keys() == cpu.keys()
    for key, row in cpu.items():
        assert gpu[key]["val_loss"] == pytest.approx(row["val_loss"], rel=0.1), key
        assert gpu[key]["val_accuracy"] == pytest.approx(row["val_accuracy"], abs=0.05), key


def test_the_peak_of_memory_is_known_of_a_trial_that_trains_alone(mixed, tiny):
    (adam,) = (trial for trial in mixed if trial.optimizer == "adam")
    peaks = [row["peak_memory_bytes"] for row in rows_of([adam], tiny).values()]
    numbers = 4 * Network().architecture.size  # weights, gradient and two moments
    assert peaks[0] is None and all(peak >= 4 * numbers for peak in peaks[1:])
    assert {row["peak_memory_bytes"] for row in rows_of(mixed, tiny).values()} == {None}


def test_the_same_stack_twice_gives_identical_rows(mixed, tiny):
    first, second = rows_of(mixed, tiny), rows_of(mixed, tiny)
    assert all(equal(first[key], second[key]) for key in first)


def test_a_recorded_step_does_what_the_step_does(mixed, tiny, monkeypatch):
    recorded = rows_of(mixed, tiny)
    monkeypatch.setattr(step, "record", lambda *_: None)
    launched = rows_of(mixed, tiny)
    for key, row in launched.items():
        assert recorded[key]["val_loss"] == pytest.approx(row["val_loss"], rel=1e-3), key


def test_a_diverging_trial_leaves_the_others_bitwise_unchanged(mixed, tiny, trials_of):
    """In place of a trial that does not diverge: the stack keeps its size, and so its kernels."""
    wild, tame = (
        dataclasses.replace(trial, precision="fp32")
        for trial in trials_of("{wild: {optimizer: sgd, lr: [1e30, 1e-3]}}", *LINES)
    )
    mixed = [dataclasses.replace(trial, epochs=1) for trial in mixed]
    beside, without = (rows_of([*mixed, dataclasses.replace(t, epochs=1)], tiny) for t in (wild, tame))
    ids = {trial.trial_id for trial in mixed}
    assert all(equal(beside[key], without[key]) for key in beside if key[0] in ids)
    (last,) = [row for key, row in beside.items() if key[0] not in ids and key[1] == 1]
    assert last["status"] == "diverged" and math.isnan(last["val_loss"])


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("convolution", WAYS)
@pytest.mark.parametrize("batch_size", [1, 64, 130])
def test_every_way_to_convolve_has_the_gradients_of_float64(convolution, precision, batch_size):
    """On inputs whose sums are exact: no rounding decides which pixel of a pooling window wins."""
    from tests.test_kernels import initial_parameters, random_images  # imports Triton

    exact, network = Network(), Network(precision=precision, convolution=convolution)
    parameters_TP, generator = initial_parameters(3), torch.Generator().manual_seed(1)
    images_SBCHW = random_images(2, batch_size, generator=generator)
    labels_SB = torch.randint(10, (2, batch_size), generator=generator)
    given = parameters_TP, images_SBCHW, labels_SB, torch.tensor([0, 1, 1])
    expected_T, expected_TP = exact.loss_and_gradients(*(x.double() for x in given[:2]), *given[2:])
    device.allow_tf32(precision == "tf32")
    loss_T, gradients_TP = network.loss_and_gradients(*(x.cuda() for x in given))
    device.allow_tf32(False)
    torch.testing.assert_close(loss_T.cpu().double(), expected_T, rtol=TOLERANCE[precision], atol=0)
    for found, expected in zip(gradients_TP.cpu().double(), expected_TP, strict=True):
        error = torch.linalg.norm(found - expected) / torch.linalg.norm(expected)
        assert error < TOLERANCE[precision]


@pytest.mark.parametrize("convolution", ["grouped", "grouped_channels_last", "unfolded"])
@pytest.mark.parametrize("name", ["lenet5", "2c2d", "made up"])
def test_other_networks_too_have_the_gradients_and_buffers_of_float64(name, convolution, random_batch, made_up):
    exact, network = Network(name), Network(name, convolution=convolution)
    parameters_TP, buffers_TQ = exact.initialize([1, 2, 3], "cpu", torch.float64), network.buffers(range(3), "cuda")
    batch, seed_of_T = random_batch(2, 64, torch.float64), torch.tensor([0, 1, 1])
    exact_TQ = exact.buffers(range(3), "cpu", torch.float64)
    _, expected_TP = exact.loss_and_gradients(parameters_TP, batch.images, batch.labels, seed_of_T, None, exact_TQ)
    on_gpu = parameters_TP.float(), batch.images.float(), batch.labels, seed_of_T
    _, gradients_TP = network.loss_and_gradients(*(x.cuda() for x in on_gpu), None, buffers_TQ)
    torch.testing.assert_close(buffers_TQ.cpu().double(), exact_TQ, rtol=1e-4, atol=1e-5)
    errors_T = torch.linalg.norm(gradients_TP.cpu().double() - expected_TP, dim=1)
    assert (errors_T < 1e-2 * torch.linalg.norm(expected_TP, dim=1)).all()


def test_a_stack_beyond_the_memory_goes_on_in_halves(mixed, tiny):
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    # What is left is too little for the stack, and enough for the process that tries the ways to convolve.
    held = torch.empty(free - 3 * 2**30, dtype=torch.uint8, device="cuda")
    many = Stack(tuple(dataclasses.replace(mixed[0], seed=seed, batch_size=64) for seed in range(512)))
    statuses, splits = {}, 0
    for stack, message in run_in_process([many], "cuda", None, lambda *_: frozenset()):
        splits += isinstance(message, Halved)
        if isinstance(message, list):
            statuses |= {row["trial_id"]: (row["status"], len(stack)) for row in message}
    del held
    assert splits > 0
    assert {status for status, _ in statuses.values()} == {"finished"}
    assert len(statuses) == 512
