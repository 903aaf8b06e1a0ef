"""The stacked networks against plain `nn.Module`s of the same definitions."""

import hashlib
import math
import pickle
import subprocess
import sys
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path

import pytest
import torch
from scipy.stats import kstest, norm, truncnorm
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import optbench
from optbench import networks
from optbench.errors import UserError
from optbench.networks import NETWORKS, Model, densenet, mlp, wide_resnet
from optbench.networks.activations import ACTIVATIONS
from optbench.networks.architecture import Architecture
from optbench.networks.layers import (
    FIRST,
    SECOND,
    Activation,
    Convolution,
    Dropout,
    Flatten,
    Hidden,
    Linear,
    Sequence,
)
from optbench.networks.losses import LOSSES
from optbench.networks.network import Network
from tests.modules import FUNCTIONS, LARGE, MODULES, SMALL, module_with, scales_of

NAMES = list(MODULES)


def marked(names, slow):
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in names]


LARGE_MARKED = marked(LARGE, slow=("vgg", "alexnet"))  # those of millions of parameters
WAYS = ["loop", "grouped", "grouped_channels_last", "unfolded"]  # the fused kernels have tests of their own
pytestmark = pytest.mark.usefixtures("made_up")


def module_loss(loss, logits, labels):
    one_hot = F.one_hot(labels, 10).to(logits.dtype)
    return {
        "cross_entropy": lambda: nn.NLLLoss()(F.log_softmax(logits, dim=1), labels),
        "mse": lambda: nn.MSELoss()(F.softmax(logits, dim=1), one_hot),
        "bce": lambda: nn.BCEWithLogitsLoss()(logits, one_hot),
    }[loss]()


def dropout_scales(network, trials, batch, dtype):
    units = sum(units for _, units in network.architecture.dropout.values())
    generator = torch.Generator().manual_seed(2)
    return (torch.rand(trials, batch, units, generator=generator, dtype=dtype) > 0.4) / 0.6


def same_seed(trials):
    return torch.zeros(trials, dtype=torch.int64)


@cache
def _drawn(model, image, classes):
    return Network(model, image=image, classes=classes).initialize(range(3 if model in ("2c2d", *LARGE) else 7), "cpu")


def initial(network, dtype=torch.float32):
    """Weights of seven trials, or of three of a large network, whose drawing takes a while."""
    return _drawn(network.model, network.image, network.classes).to(dtype, copy=True)


def buffers_of(network, buffers_Q):
    shapes = {buffer.name: buffer.shape for buffer in network.architecture.buffers}
    return dict(zip(shapes, buffers_Q.split([*map(math.prod, shapes.values())]), strict=True))


def test_every_network_and_activation_has_its_module_and_every_network_its_place_in_the_docs():
    assert [*NETWORKS] == NAMES
    text = (Path(optbench.__file__).parent.parent / "docs" / "sweeps.md").read_text(encoding="utf-8")
    assert {name for name in NAMES if f"\n- `{name}`" in text} == {*NAMES} - {"made up"}
    assert FUNCTIONS.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_buffers_are_those_of_the_module(name):
    module, count = MODULES[name]
    named = {name: tuple(p.shape) for name, p in module("relu").named_parameters()}
    architecture = Network(name).architecture
    assert list(named.items()) == list(architecture.shapes.items())
    assert sum(p.numel() for p in module("relu").parameters()) == architecture.size == count
    buffers = {name: b.shape for name, b in module("relu").named_buffers() if not name.endswith("batches_tracked")}
    assert {buffer.name: buffer.shape for buffer in architecture.buffers} == buffers


@pytest.mark.parametrize(
    ("layers", "count"),
    [
        # As published to all digits: by DeepOBS, and by those who counted He et al.'s 0.27 million.
        (NETWORKS["3c3d"](10), 895_210),
        (NETWORKS["resnet20"](10), 269_722),
        # In the papers 36.5, 8.9 and 0.8 million.
        (wide_resnet.layers(10, depth=28, width=10), 36_479_194),
        (wide_resnet.layers(10, depth=40, width=4), 8_949_210),
        (densenet.layers(10, depth=100), 769_162),
        # Without the weights of its normalisations 1,649,402 in the paper.
        (NETWORKS["inception"](10), 1_649_402 + 1_712),
        # Of the usual forms for CIFAR-10.
        (NETWORKS["vgg"](10), 9_231_114),
        (NETWORKS["alexnet"](10), 23_272_266),
    ],
)
def test_networks_for_cifar_10_have_as_many_parameters_as_published(layers, count):
    assert Architecture(layers, (3, 32, 32)).size == count


def test_an_mlp_has_as_many_hidden_layers_as_widths():
    assert mlp.layers(10) == mlp.layers(10, widths=(500, 300))
    assert mlp.layers(10, widths=(9, 8, 7)) == Sequence(
        Flatten(),
        *(Hidden("linear1", 9), Dropout("dropout1", FIRST)),
        *(Hidden("linear2", 8), Dropout("dropout2", FIRST)),
        *(Hidden("linear3", 7), Dropout("dropout3", SECOND)),
        Linear("linear4", 10),
    )
    assert mlp.layers(2, widths=(9,)) == Sequence(
        Flatten(), Hidden("linear1", 9), Dropout("dropout1", SECOND), Linear("linear2", 2)
    )


# ---------------------------------------------------------------- initial weights

OF_HE = ["resnet20", "wide_resnet", "densenet"]


@pytest.mark.parametrize(
    "name", marked([name for name in NAMES if name not in ("2c2d", "3c3d", *OF_HE)], slow=["alexnet"])
)
def test_initial_weights_have_the_bounds_and_spread_of_torch(name):
    torch.manual_seed(0)
    network = Network(name)
    weights = network.weights(network.initialize([3], "cpu"))
    for parameter, theirs in MODULES[name][0]("relu").named_parameters():
        ours = weights[parameter]
        if "norm" in parameter:
            assert torch.equal(ours[0], theirs)
            continue
        bound = next(p.initial.bound for p in network.architecture.parameters if p.name == parameter)
        assert max(ours.abs().max(), theirs.abs().max()) <= bound
        if theirs.numel() > 1000:
            assert torch.isclose(ours.std(), theirs.std(), rtol=0.15)
            assert min(ours.abs().max(), theirs.abs().max()) > 0.95 * bound


def test_weights_of_2c2d_are_of_a_truncated_normal_and_its_biases_constant():
    network = Network("2c2d")
    for name, value in network.weights(network.initialize([3], "cpu")).items():
        if name.endswith("bias"):
            assert (value == 0.05).all()
        else:
            assert kstest(value.flatten()[:100_000], truncnorm(-2, 2, scale=0.05).cdf).pvalue > 0.01


@pytest.mark.parametrize("name", OF_HE)
def test_weights_of_convolutions_are_of_he_and_the_rest_of_torch(name):
    torch.manual_seed(0)
    network = Network(name)
    weights, scaled = network.weights(network.initialize([3], "cpu")), []
    for parameter, theirs in MODULES[name][0]("relu").named_parameters():
        if theirs.dim() == 4:
            scaled.append(weights[parameter].flatten() * math.sqrt(theirs[0].numel() / 2))
        elif "norm" in parameter:
            assert torch.equal(weights[parameter][0], theirs)
        else:
            assert weights[parameter].abs().max() <= network.architecture.shapes["linear.weight"][1] ** -0.5
    assert kstest(torch.cat(scaled)[::3], norm.cdf).pvalue > 0.01


def test_weights_of_3c3d_are_of_glorot_and_its_biases_zero():
    network = Network("3c3d")
    for name, value in network.weights(network.initialize([3], "cpu")).items():
        if name.endswith("bias"):
            assert (value == 0).all()
            continue
        _, outputs, inputs, *window = value.shape
        spread = math.sqrt(2 / (outputs + inputs) / math.prod(window))
        edges = truncnorm.std(-2, 2) / 2 if window else math.sqrt(1 / 3)  # of the spread, to the largest weight
        assert value.std() == pytest.approx(spread, rel=0.05)
        assert value.abs().max() == pytest.approx(spread / edges, rel=0.01)


# Draws are exact on every machine, so these hold everywhere; the first four are of version 0.1.
@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("cnn", "028cbcbabce2db0f"),
        ("mlp", "a653f3e6c661f4aa"),
        ("rnn", "b16808bb738ca735"),
        ("softmax", "eb0fdffe0a330fab"),
        ("lenet5", "dd1866433066423f"),
    ],
)
def test_initial_weights_of_a_seed_stay_what_they_were(name, digest):
    parameters_SP = Network(name).initialize([0, 7], "cpu")
    assert hashlib.sha256(parameters_SP.numpy().tobytes()).hexdigest()[:16] == digest


# ---------------------------------------------------------------- against the modules


def check_against_module(network, batch, dropout, steps=1):
    """Loss, gradients and buffers of several steps, and then logits in evaluation."""
    seed_of_T = torch.tensor([0, 1, 1])
    parameters_TP = initial(network, torch.float64)[:3]
    buffers_TQ = network.buffers(range(3), "cpu", torch.float64)
    scale_TBU = dropout_scales(network, 3, batch.labels.shape[1], torch.float64)
    if not dropout:
        scale_TBU = torch.ones_like(scale_TBU)
    modules = [module_with(network, network.weights(parameters_TP[t : t + 1])) for t in range(3)]
    for _ in range(steps):
        loss_T, gradients_TP = network.loss_and_gradients(
            parameters_TP, batch.images, batch.labels, seed_of_T, scale_TBU if dropout else None, buffers_TQ
        )
    with torch.inference_mode():
        weights = network.weights(parameters_TP)
        before_TQ = buffers_TQ.clone()
        logits_TBK = network.forward(weights, batch.images, seed_of_T, training=False, buffers_TQ=buffers_TQ)
    assert torch.equal(buffers_TQ, before_TQ)

    for t, seed in enumerate(seed_of_T.tolist()):
        module = modules[t]
        for _ in range(steps):
            logits = module(batch.images[seed], scales_of(network, scale_TBU[t]))
        loss = module_loss(network.loss, logits, batch.labels[seed])
        loss.backward()
        expected_P = torch.cat([p.grad.flatten() for p in module.parameters()])
        torch.testing.assert_close(loss_T[t], loss.detach(), rtol=1e-10, atol=0)
        torch.testing.assert_close(gradients_TP[t], expected_P, rtol=1e-10, atol=1e-12)
        theirs = dict(module.named_buffers())
        for name, buffer in buffers_of(network, buffers_TQ[t]).items():
            torch.testing.assert_close(buffer, theirs[name], rtol=1e-10, atol=1e-14)
        with torch.no_grad():
            expected_BK = module.eval()(batch.images[seed], scales_of(network, torch.ones_like(scale_TBU[t])))
        torch.testing.assert_close(logits_TBK[t], expected_BK, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize(
    "names", [*product(SMALL, ACTIVATIONS, ["cross_entropy"]), *product(["mlp"], ["relu"], LOSSES)]
)
def test_loss_gradients_and_evaluation_equal_the_module(names, dropout, random_batch):
    check_against_module(Network(*names), random_batch(2, 8, torch.float64), dropout)


@pytest.mark.parametrize("image", [(1, 28, 28), (3, 32, 32)], ids=str)
@pytest.mark.parametrize("name", LARGE_MARKED)
def test_large_networks_equal_the_module_in_grey_and_in_colour(name, image, random_batch, monkeypatch):
    module, count = MODULES[name]
    monkeypatch.setitem(MODULES, name, (partial(module, image=image), count))
    check_against_module(Network(name, image=image), random_batch(2, 4, torch.float64, image), dropout=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("names", [*product(["cnn", "made up"], ACTIVATIONS), ("2c2d", "relu")])
def test_every_way_to_convolve_equals_the_module(names, way, random_batch):
    network = Network(*names, convolution=way)
    assert way in network.ways
    check_against_module(network, random_batch(2, 8, torch.float64), dropout=True, steps=3)


def test_a_network_takes_images_of_any_size_and_colour(random_batch, monkeypatch):
    class Module(nn.Module):
        def __init__(self, activation):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.linear = nn.Linear(4 * 6 * 3, 7)

        def forward(self, x, scales):
            return self.linear(FUNCTIONS["tanh"](self.conv(x)).flatten(1))

    def layers(classes):
        return Sequence(Convolution("conv", 4, 3), Activation(), Flatten(), Linear("linear", classes))

    monkeypatch.setitem(NETWORKS, "colour", layers)
    monkeypatch.setitem(MODULES, "colour", (Module, 112 + 511))
    batch = random_batch(2, 4, torch.float64, image=(3, 8, 5))
    batch = replace(batch, labels=batch.labels % 7)
    for way in WAYS:
        network = Network("colour", "tanh", convolution=way, image=(3, 8, 5), classes=7)
        check_against_module(network, batch, dropout=True)


@pytest.mark.parametrize("name", ["mlp", "rnn", "softmax"])
def test_networks_without_convolutions_take_colour_too(name):
    network = Network(name, image=(3, 8, 5), classes=7)
    images_SBCHW = torch.randn(2, 6, 3, 8, 5)
    seed_of_T = torch.tensor([1, 0, 1])
    parameters_TP = network.initialize(range(3), "cpu")
    logits_TBK = network.forward(network.weights(parameters_TP), images_SBCHW, seed_of_T, training=False)
    assert logits_TBK.shape == (3, 6, 7)
    row, first = slice(0, 1), network.weights(parameters_TP[:1])
    alone_1BK = network.forward(first, images_SBCHW[1:], torch.zeros(1, dtype=torch.int64), training=False)
    assert torch.equal(alone_1BK, logits_TBK[row])


def test_images_that_are_too_small_are_refused():
    with pytest.raises(UserError, match="images of 3 × 3 are too small for a window of 5 × 5"):
        networks.architecture("lenet5", (1, 6, 6), 10)


# ---------------------------------------------------------------- as if alone


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_finite_where_exponentials_are_not(loss):
    logits_TBK = torch.tensor([[[1000.0] + [-1000.0] * 9] * 2], requires_grad=True)
    losses_TB = Network(loss=loss).losses(logits_TBK, torch.tensor([[0, 1]]))
    expected = {"cross_entropy": 2000.0, "mse": 0.2, "bce": 200.0}[loss]
    torch.testing.assert_close(losses_TB, torch.tensor([[0.0, expected]]))
    (gradient,) = torch.autograd.grad(losses_TB.sum(), logits_TBK)
    assert gradient.isfinite().all()


# A CPU trains in a loop. Without AMX it multiplies odd channels in bf16 with a neighbour's, times 0, which a NaN shows.
LEAKS_IN_BF16 = ("made up", "relu", "grouped_channels_last")


@pytest.mark.parametrize(
    "names",
    [
        names
        for names in [*product(SMALL, ACTIVATIONS), *product(["cnn", "made up"], ["relu"], WAYS[1:])]
        if names != LEAKS_IN_BF16
    ],
)
def test_bf16_rounds_and_no_more(names, random_batch):
    """Products of operands with 8 bits: gradients to a few percent, weights untouched; each trial as if alone."""
    model, activation, convolution = (*names, "loop")[:3]
    exact = Network(model, activation)
    network = Network(model, activation, precision="bf16", convolution=convolution)
    parameters_TP, buffers_TQ = initial(network)[:3], network.buffers(range(3), "cpu")
    batch = random_batch(1, 32, torch.float32)
    scale_TBU = dropout_scales(network, 3, 32, torch.float32)
    expected_T, expected_TP = exact.loss_and_gradients(
        parameters_TP, batch.images, batch.labels, same_seed(3), scale_TBU, buffers_TQ.clone()
    )
    parameters_TP[1] = float("nan")
    loss_T, gradients_TP = network.loss_and_gradients(
        parameters_TP, batch.images, batch.labels, same_seed(3), scale_TBU, buffers_TQ
    )
    assert loss_T.dtype == gradients_TP.dtype == torch.float32
    assert not loss_T[1].isfinite() and not gradients_TP[1].isfinite().any()
    for t in (0, 2):
        torch.testing.assert_close(loss_T[t], expected_T[t], rtol=1e-2, atol=0)
        error = torch.linalg.norm(gradients_TP[t] - expected_TP[t]) / torch.linalg.norm(expected_TP[t])
        assert 1e-5 < error < 0.1  # where rounding turns a relu on or off, by more than its 0.4 %
        row = slice(t, t + 1)
        alone_T, alone_TP = network.loss_and_gradients(
            parameters_TP[row], batch.images, batch.labels, same_seed(1), scale_TBU[row], network.buffers([0], "cpu")
        )
        torch.testing.assert_close(alone_T[0], loss_T[t], rtol=1e-3, atol=0)
        torch.testing.assert_close(alone_TP[0], gradients_TP[t], rtol=0.02, atol=1e-4)


# An odd batch leaves rows that no vector register divides, which some of torch's functions round differently.
@pytest.mark.parametrize("batch_size", [1, 7, 32])
@pytest.mark.parametrize(
    "names",
    [
        *product([name for name in SMALL if name != "2c2d"], ACTIVATIONS, ["cross_entropy"], ["fp32"]),
        *product(["2c2d"], ["relu"], ["cross_entropy"], ["fp32"]),
        *product(["cnn", "mlp", "rnn", "softmax"], ["sigmoid"], ["mse", "bce"], ["fp32"]),
        *product(["lenet5", "made up"], ["tanh"], ["cross_entropy"], ["bf16"]),
    ],
    ids="-".join,
)
def test_a_trial_is_bitwise_the_same_in_any_stack(names, batch_size, random_batch):
    check_stacks(Network(*names), batch_size, random_batch)


@pytest.mark.parametrize("name", LARGE_MARKED)
def test_a_trial_of_a_large_network_is_bitwise_the_same_in_any_stack(name, random_batch):
    check_stacks(Network(name), 7, random_batch)


def check_stacks(network, batch_size, random_batch):
    """Each of several stacks against one of all trials."""
    parameters_TP = initial(network)
    trials, batch = len(parameters_TP), random_batch(1, batch_size, torch.float32)
    scale_TBU = dropout_scales(network, trials, batch_size, torch.float32)

    def part(first, last):
        rows, same_T = slice(first, last), same_seed(last - first)
        buffers_TQ = network.buffers(range(first, last), "cpu")
        found = network.loss_and_gradients(
            parameters_TP[rows], batch.images, batch.labels, same_T, scale_TBU[rows], buffers_TQ
        )
        weights = network.weights(parameters_TP[rows])
        logits_TBK = network.forward(weights, batch.images, same_T, training=False, buffers_TQ=buffers_TQ)
        return *found, buffers_TQ, logits_TBK

    together = part(0, trials)
    for first, last in ((0, 1), (0, 2), (1, 3), (0, 4), (3, 5), (6, 7)):
        if last > trials:
            break
        for some, all_ in zip(part(first, last), together, strict=True):
            assert torch.equal(some, all_[first:last])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "names", [*product([*SMALL, "resnet20"], ACTIVATIONS), *product(["cnn", "made up"], ["relu"], WAYS[1:])]
)
def test_nan_in_one_trial_leaves_the_others_bitwise_unchanged(names, precision, random_batch):
    if precision == "bf16" and names == LEAKS_IN_BF16:
        pytest.skip("its library lets a NaN through on some CPUs, which never train in this way")
    model, activation, convolution = (*names, "loop")[:3]
    network = Network(model, activation, precision=precision, convolution=convolution)
    batch = random_batch(1, 16, torch.float32)

    def run(parameters_TP):
        buffers_TQ = network.buffers(range(3), "cpu")
        found = network.loss_and_gradients(
            parameters_TP, batch.images, batch.labels, same_seed(3), buffers_TQ=buffers_TQ
        )
        return *found, buffers_TQ

    parameters_TP = initial(network)[:3]
    clean = run(parameters_TP)
    parameters_TP[1] = float("nan")
    dirty = run(parameters_TP)
    for before, after in zip(clean, dirty, strict=True):
        assert torch.equal(before[[0, 2]], after[[0, 2]])
        assert not after[1].isfinite().any()


# ---------------------------------------------------------------- what is known about a network


@pytest.mark.parametrize("name", [name for name in NAMES if name != "rnn"])  # whose operations nothing here counts
def test_operations_are_those_that_torch_counts(name):
    network = Network(name)
    module, images_BCHW = MODULES[name][0](network.activation), torch.randn(2, 1, 28, 28)
    ones = scales_of(network, torch.ones(2, sum(units for _, units in network.architecture.dropout.values())))
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(module(images_BCHW, ones), torch.zeros(2, dtype=torch.int64)).backward()
    assert 2 * network.architecture.step_operations == counter.get_total_flops()


def test_operations_of_the_rnn_are_those_counted_by_hand():
    # Forward 28 products with 28 × 128 weights, 27 with 128 × 128, one with 128 × 10; backward twice as many, less
    # those for the gradient of the image.
    inputs, states, last = 28 * 28 * 128, 27 * 128 * 128, 1280
    assert Network("rnn").architecture.step_operations == 2 * (2 * inputs + 3 * states + 3 * last)


@pytest.mark.parametrize("name", marked(NAMES, slow=["alexnet"]))
def test_memory_of_activations_is_about_what_autograd_keeps(name):
    batch_size, kept = 101, {}

    def keep(tensor):
        if batch_size in tensor.shape:  # not the weights
            kept[tensor.untyped_storage().data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    network = Network(name)
    leaves = {name: weight.requires_grad_() for name, weight in network.weights(initial(network)[:1]).items()}
    scale_TBU, buffers_TQ = dropout_scales(network, 1, batch_size, torch.float32), network.buffers([0], "cpu")
    images_SBCHW = torch.randn(1, batch_size, 1, 28, 28)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.forward(leaves, images_SBCHW, same_seed(1), training=True, scale_TBU=scale_TBU, buffers_TQ=buffers_TQ)
    per_image = sum(kept.values()) / batch_size
    assert network.architecture.activation_bytes / 2 == pytest.approx(per_image, rel=0.25)  # the rest is gradients


def test_a_network_is_a_value_that_other_processes_can_be_sent():
    network = Network("2c2d", "tanh", image=(1, 28, 28))
    copy = pickle.loads(pickle.dumps(network))
    assert copy == network and hash(copy) == hash(network)
    assert copy.architecture is network.architecture


def test_names_and_sizes_are_known_without_torch():
    script = """
import sys
from optbench.networks import NETWORKS, architecture
print({name: architecture(name, (1, 28, 28), 10).size for name in NETWORKS})
sys.exit("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str({name: count for name, (_, count) in MODULES.items() if name != "made up"})


@pytest.mark.parametrize("widths", [(1,), (7,), (33, 21), (100, 50)])
@pytest.mark.parametrize("image", [(1, 28, 28), (3, 5, 5)])
def test_sizes_that_no_vector_divides_round_alike_in_any_stack(widths, image, random_batch):
    """MKL rounds some of them by how many trials there are, on AMD's processors."""
    network = Network(Model("mlp", {"widths": widths}), image=image)
    parameters_TP = network.initialize(range(5), "cpu")
    for batch_size in (1, 7, 64):
        batch = random_batch(1, batch_size, torch.float32, image)
        loss_T, gradients_TP = network.loss_and_gradients(parameters_TP, batch.images, batch.labels, same_seed(5))
        for row in (slice(t, t + 1) for t in range(5)):
            alone = network.loss_and_gradients(parameters_TP[row].clone(), batch.images, batch.labels, same_seed(1))
            assert torch.equal(loss_T[row], alone[0]) and torch.equal(gradients_TP[row], alone[1])
