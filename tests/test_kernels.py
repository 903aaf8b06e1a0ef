"""The Triton kernels against torch in float64; on a CPU in Triton's interpreter, which is slow.

A gradient goes to the largest member of a pooling window, and through an activation by the sign of its argument. Where
rounding decides these, gradients in float32 and in float64 differ by far more than rounding, and so do those of torch's
own ways to convolve. So images and weights are small multiples of powers of two: every sum is exact, in every precision
and any order, and members are either equal or clearly different. Only products with the output's gradient are rounded.
"""

import pytest
import torch
from torch.nn import functional as F

from optbench.networks.network import Network

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytestmark = pytest.mark.gpu

from optbench.networks.trunk_kernels import CHUNK, trunk

SLOW = pytest.mark.slow
ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
# The interpreter computes tf32 in float32, and its tiles are larger.
EXACT = "fp32" if ON_GPU else "tf32"
SLOPES = {"relu": 0.0, "leaky": 0.25}  # below zero
UNITS = {"images": 1 / 4, "conv1": 1 / 16, "conv2": 1 / 64}  # with images of at most 1, conv1's outputs have 8 bits
# Largest relative error of a gradient, in the 2-norm: what an operand loses that is cut off after 11 or 8 bits. Sums in
# float32 lose 4e-7 here.
BOUNDS = {"fp32": 1e-5, "tf32": 2**-10, "bf16": 2**-7}


@pytest.fixture(autouse=True)
def _matmul_in_float32():
    """Another test in this process may have allowed tf32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def coarse(x, unit):
    """The nearest multiples of `unit`."""
    return (x / unit).round() * unit


def random_images(*size, generator):
    return coarse(torch.randn(*size, 1, 28, 28, generator=generator).clamp(-1, 1), UNITS["images"])


def initial_parameters(trials):
    """(T, P), those of the convolutions coarse."""
    network = Network()
    parameters_TP = network.initialize(range(trials), "cpu")
    for name, part in network.weights(parameters_TP).items():
        layer = name.split(".")[0]
        if layer in UNITS:
            part.copy_(coarse(part, UNITS[layer]))
    return parameters_TP


def inputs(trials, batch, seeds):
    """Images, which batch each trial sees, the trunk's weights as leaves and a gradient of the output."""
    generator = torch.Generator().manual_seed(1)
    images_SBCHW = random_images(seeds, batch, generator=generator)
    seed_of_T = torch.arange(trials).flip(0) % seeds
    weights = Network().weights(initial_parameters(trials))
    w = {name: part.to(DEVICE).requires_grad_() for name, part in weights.items() if "conv" in name}
    grad = torch.randn(trials, batch, 32, 12, 12, generator=generator)
    return images_SBCHW.to(DEVICE), seed_of_T.to(DEVICE), w, grad.to(DEVICE)


def run(images_SBCHW, seed_of_T, w, grad, slope=0.0, precision=EXACT):
    """The output and the gradients of the weights."""
    output = trunk(images_SBCHW, seed_of_T, w, slope, precision)
    return [x.cpu() for x in (output.detach(), *torch.autograd.grad(output, list(w.values()), grad))]


def expected(images_SBCHW, seed_of_T, w, grad, slope=0.0):
    """The same by torch in float64, trial by trial, on the CPU."""
    images_SBCHW = images_SBCHW.cpu().double()
    w = {name: part.detach().cpu().double().requires_grad_() for name, part in w.items()}
    outputs = []
    for seed, w1, b1, w2, b2 in zip(seed_of_T.tolist(), *w.values(), strict=True):
        x = F.leaky_relu(F.conv2d(images_SBCHW[seed], w1, b1), slope)
        outputs.append(F.leaky_relu(F.max_pool2d(F.conv2d(x, w2, b2), 2), slope))
    output = torch.stack(outputs)
    return [output.detach(), *torch.autograd.grad(output, list(w.values()), grad.cpu().double())]


def relative_errors(ours, theirs):
    assert [x.shape for x in ours] == [x.shape for x in theirs]
    return [((x - y).norm() / y.norm()).item() for x, y in zip(ours, theirs, strict=True)]


def check(given, activation="relu", precision=EXACT):
    slope = SLOPES[activation]
    (output, *gradients), (their_output, *their_gradients) = run(*given, slope, precision), expected(*given, slope)
    assert torch.equal(output.double(), their_output)
    assert max(relative_errors(gradients, their_gradients)) < BOUNDS["fp32" if precision == EXACT else precision]


# trials, images, seeds; one image more than a chunk of the backward pass ends inside a tile of the next
@pytest.mark.parametrize(
    ("sizes", "activation"),
    [
        ((1, 1, 1), "relu"),
        ((3, 1, 2), "leaky"),
        ((1, 7, 1), "relu"),
        pytest.param((1, CHUNK + 1, 1), "leaky", marks=SLOW),
    ],
    ids=str,
)
def test_output_and_gradients_are_those_of_float64(sizes, activation):
    check(inputs(*sizes), activation)


@pytest.mark.parametrize("activation", SLOPES)
@pytest.mark.parametrize("precision", BOUNDS)
def test_every_precision_rounds_only_the_operands_of_products(precision, activation):
    check(inputs(1, 1, 1), activation, precision)


@pytest.mark.parametrize("precision", BOUNDS)
def test_an_output_is_as_near_as_the_rounding_of_both_operands(precision):
    images_SBCHW, seed_of_T, w, grad = inputs(1, 1, 1)
    for x in (images_SBCHW, *w.values()):
        x.data += torch.linspace(0, 0.02, x.numel(), device=DEVICE).view_as(x)
    given = (images_SBCHW, seed_of_T, w, grad)
    error, *_ = relative_errors(run(*given, precision=precision), expected(*given))
    assert error < 2 * BOUNDS["fp32" if precision == EXACT else precision]


def test_the_first_of_equal_members_wins():
    images_SBCHW, seed_of_T, w, grad = inputs(1, 1, 1)
    images_SBCHW[:, :, :, :, 8:] = -0.5  # as the background of digits: whole windows of equal sums
    check((images_SBCHW, seed_of_T, w, grad))


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


def test_nan_wins_its_windows():
    images_SBCHW, seed_of_T, w, grad = inputs(1, 1, 1)
    images_SBCHW[0, 0, 0, 15, 15] = float("nan")  # conv2 has it from 11 to 15: first and last member of a window
    output = run(images_SBCHW, seed_of_T, w, grad)[0]
    theirs = expected(images_SBCHW, seed_of_T, w, grad)[0]
    assert output.isnan().any()
    assert torch.equal(output.isnan(), theirs.isnan())


@pytest.mark.slow
def test_a_second_run_and_a_trial_alone_are_bitwise_the_same():
    images_SBCHW, seed_of_T, w, grad = inputs(3, 2, 2)
    stacked = run(images_SBCHW, seed_of_T, w, grad)
    again = run(images_SBCHW, seed_of_T, w, grad)
    alone = run(images_SBCHW, seed_of_T[1:2], {name: part[1:2] for name, part in w.items()}, grad[1:2])
    for first, second, single in zip(stacked, again, alone, strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first[1:2], single)


@SLOW
@pytest.mark.parametrize(("precision", "bounds"), [("fp32", (1e-5, 1e-5)), ("bf16", (2e-2, 0.1))])
def test_a_network_with_them_has_the_gradients_of_one_in_float64(precision, bounds):
    """A whole stack with dropout, and a trial of NaN in it; in bf16 the linear layers round, too."""
    generator = torch.Generator().manual_seed(1)
    images_SBCHW, labels_SB = random_images(2, 2, generator=generator), torch.tensor([[3, 1], [0, 9]])
    seed_of_T, scale_TBU = torch.tensor([1, 0, 1]), (torch.rand(3, 2, 96, generator=generator) > 0.3) / 0.7
    parameters_TP = initial_parameters(3)
    parameters_TP[1] = float("nan")
    batch = parameters_TP, images_SBCHW, labels_SB, seed_of_T, scale_TBU
    theirs = Network().loss_and_gradients(*(x.double() if x.is_floating_point() else x for x in batch))
    ours = Network(precision=precision, convolution="triton").loss_and_gradients(*(x.to(DEVICE) for x in batch))
    assert ours[1][1].isnan().all()
    for found_T, expected_T, bound in zip(ours, theirs, bounds, strict=True):
        for t in (0, 2):
            assert relative_errors([found_T[t].cpu()], [expected_T[t]])[0] < bound


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_a_network_hands_its_activation_on(activation):
    images_SBCHW, seed_of_T = inputs(1, 1, 1)[:2]
    exact, network = Network(activation=activation), Network(activation=activation, convolution="triton")
    parameters_TP = initial_parameters(1)
    weights = network.weights(parameters_TP.to(DEVICE))
    ours = network.forward(weights, images_SBCHW, seed_of_T, training=False)
    in_double = exact.weights(parameters_TP.double())
    theirs = exact.forward(in_double, images_SBCHW.cpu().double(), seed_of_T.cpu(), training=False)
    torch.testing.assert_close(ours.cpu().double(), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")
@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("activation", SLOPES)
def test_a_stack_on_a_gpu_is_that_of_float64(activation, precision):
    check(inputs(16, 65, 3), activation, precision)
