"""The Triton kernels against the plain trunk in float64; on a CPU in Triton's interpreter, which is slow."""

from dataclasses import replace

import pytest
import torch

from optbench.model import CONVOLUTIONS, Network

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytestmark = pytest.mark.gpu

from optbench.kernels.trunk import CHUNK, trunk

SLOPES = {"relu": 0.0, "leaky_relu": 0.01}
ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
# The interpreter computes tf32 in float32, and its tiles are larger.
EXACT = "fp32" if ON_GPU else "tf32"
# Largest relative error in the 2-norm, output and gradients. Rounding operands to 8 or 11 bits also lets other members
# of a pooling window win, by which a gradient loses far more than by its own rounding.
BOUNDS = {"fp32": (1e-5, 1e-4), "tf32": (2e-3, 5e-2), "bf16": (1e-2, 2e-1)}


def inputs(trials, batch, seeds):
    """Images, which batch each trial sees, the trunk's weights as leaves and a gradient of the output."""
    generator = torch.Generator().manual_seed(1)
    images_SBCHW = torch.randn(seeds, batch, 1, 28, 28, generator=generator)
    seed_of_T = torch.arange(trials).flip(0) % seeds
    network = Network()
    weights = network.weights(network.initialize(range(trials), "cpu"))
    w = {name: part.to(DEVICE).requires_grad_() for name, part in weights.items() if "conv" in name}
    grad = torch.randn(trials, batch, 32, 12, 12, generator=generator)
    return images_SBCHW.to(DEVICE), seed_of_T.to(DEVICE), w, grad.to(DEVICE)


def run(images_SBCHW, seed_of_T, w, grad, activation="relu", precision=EXACT):
    """The output and the gradients of the weights."""
    output = trunk(images_SBCHW, seed_of_T, w, SLOPES[activation], precision)
    return [output.detach(), *torch.autograd.grad(output, list(w.values()), grad)]


def expected(images_SBCHW, seed_of_T, w, grad, activation, reference="loop"):
    w = {name: part.detach().double().requires_grad_() for name, part in w.items()}
    output = CONVOLUTIONS[reference](Network(activation=activation), images_SBCHW.double(), seed_of_T, w)
    return [output.detach(), *torch.autograd.grad(output, list(w.values()), grad.double())]


def relative_errors(ours, theirs):
    assert [x.shape for x in ours] == [x.shape for x in theirs]
    return [((x - y).norm() / y.norm()).item() for x, y in zip(ours, theirs, strict=True)]


def check(sizes, activation, precision, reference="loop"):
    given = inputs(*sizes)
    of_output, *of_gradients = relative_errors(
        run(*given, activation, precision), expected(*given, activation, reference)
    )
    bounds = BOUNDS["fp32" if precision == EXACT else precision]
    assert of_output < bounds[0]
    assert max(of_gradients) < bounds[1]


# trials, images, seeds; one image more than a chunk of the backward pass ends inside a tile of the next
@pytest.mark.parametrize(
    ("sizes", "activation"),
    [((1, 1, 1), "relu"), ((3, 1, 2), "leaky_relu"), ((1, 7, 1), "relu"), ((1, CHUNK + 1, 1), "leaky_relu")],
    ids=str,
)
def test_output_and_gradients_equal_the_trunk_in_float64(sizes, activation):
    check(sizes, activation, EXACT)


@pytest.mark.parametrize("precision", BOUNDS)
def test_every_precision_is_as_near_as_its_rounding(precision):
    check((1, 1, 1), "relu", precision)


def test_gradients_are_those_of_every_single_element_away_from_ties():
    given = inputs(2, 1, 1)
    for ours, theirs in zip(run(*given, "leaky_relu"), expected(*given, "leaky_relu"), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


def test_the_first_of_equal_members_wins():
    images_SBCHW, seed_of_T, w, grad = inputs(1, 1, 1)
    images_SBCHW[:, :, :, :, 8:] = -0.4  # as the background of digits: whole windows of equal sums
    given = (images_SBCHW, seed_of_T, w, grad)
    assert max(relative_errors(run(*given), expected(*given, "relu"))) < 1e-4


def test_nan_in_one_trial_leaves_the_others_bitwise_unchanged():
    given = inputs(3, 1, 2)
    clean = run(*given)
    with torch.no_grad():
        for part in given[2].values():
            part[1] = float("nan")
    dirty = run(*given)
    assert dirty[0][1].isnan().all()
    for before, after in zip(clean, dirty, strict=True):
        assert torch.equal(before[[0, 2]], after[[0, 2]])


def test_nan_in_one_channel_wins_its_windows():
    images_SBCHW, seed_of_T, w, grad = inputs(1, 1, 1)
    images_SBCHW[0, 0, 0, 14, 14] = float("nan")
    output = run(images_SBCHW, seed_of_T, w, grad)[0]
    theirs = expected(images_SBCHW, seed_of_T, w, grad, "relu")[0]
    assert output.isnan().any()
    assert torch.equal(output.isnan(), theirs.isnan())


def test_a_second_run_and_a_trial_alone_are_bitwise_the_same():
    images_SBCHW, seed_of_T, w, grad = inputs(3, 2, 2)
    stacked = run(images_SBCHW, seed_of_T, w, grad)
    again = run(images_SBCHW, seed_of_T, w, grad)
    alone = run(images_SBCHW, seed_of_T[1:2], {name: part[1:2] for name, part in w.items()}, grad[1:2])
    for first, second, single in zip(stacked, again, alone, strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first[1:2], single)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_with_them_has_the_gradients_of_one_without(precision):
    """The fused kernels in their place: a whole stack with dropout, and a trial of NaN in it."""
    generator = torch.Generator().manual_seed(1)
    images_SBCHW, labels_SB = torch.randn(2, 2, 1, 28, 28, generator=generator), torch.tensor([[3, 1], [0, 9]])
    seed_of_T, scale_TBU = torch.tensor([1, 0, 1]), (torch.rand(3, 2, 96, generator=generator) > 0.3) / 0.7
    network = Network(precision=precision)
    parameters_TP = network.initialize(range(3), "cpu")
    parameters_TP[1] = float("nan")
    batch = tuple(x.to(DEVICE) for x in (parameters_TP, images_SBCHW, labels_SB, seed_of_T, scale_TBU))
    (loss_T, gradients_TP), (their_loss_T, their_gradients_TP) = (
        replace(network, convolution=name).loss_and_gradients(*batch) for name in ("triton", "loop")
    )
    assert gradients_TP[1].isnan().all()
    exact = precision == "fp32"
    torch.testing.assert_close(loss_T[[0, 2]], their_loss_T[[0, 2]], rtol=1e-4 if exact else 2e-2, atol=0)
    errors = (gradients_TP - their_gradients_TP).norm(dim=1) / their_gradients_TP.norm(dim=1)
    assert errors[[0, 2]].max() < (1e-4 if exact else 0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")
@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("activation", SLOPES)
def test_a_stack_on_a_gpu_equals_the_grouped_trunk(activation, precision):
    check((16, 65, 3), activation, precision, "grouped")
