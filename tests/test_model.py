"""The stacked networks against plain `nn.Module`s of the same definitions."""

from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from optbench.model import ACTIVATIONS, CONVOLUTIONS, LOSSES, MODELS, Network

PORTABLE = [name for name in CONVOLUTIONS if name != "triton"]  # whose kernels have tests of their own
FUNCTIONS = {"relu": F.relu, "leaky_relu": F.leaky_relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


class Cnn(nn.Module):
    """As anybody would write it; `first` and `second` (B, U) are what the two dropouts multiply with."""

    def __init__(self, activation):
        super().__init__()
        self.activation = FUNCTIONS[activation]
        self.conv1 = nn.Conv2d(1, 16, 3)
        self.conv2 = nn.Conv2d(16, 32, 3)
        self.linear1 = nn.Linear(4608, 64)
        self.linear2 = nn.Linear(64, 10)

    def forward(self, x, first, second):
        x = self.activation(self.conv2(self.activation(self.conv1(x))))
        x = F.max_pool2d(x, 2) * first[:, :, None, None]
        return self.linear2(self.activation(self.linear1(x.flatten(1))) * second)


class Mlp(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.activation = FUNCTIONS[activation]
        self.linear1 = nn.Linear(784, 500)
        self.linear2 = nn.Linear(500, 300)
        self.linear3 = nn.Linear(300, 10)

    def forward(self, x, first, second):
        x = self.activation(self.linear1(x.flatten(1))) * first
        return self.linear3(self.activation(self.linear2(x)) * second)


class Rnn(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.activation = FUNCTIONS[activation]
        self.native = activation in ("relu", "tanh")
        self.rnn = nn.RNN(28, 128, nonlinearity=activation if self.native else "tanh", batch_first=True)
        self.linear = nn.Linear(128, 10)

    def forward(self, x, first, second):
        rows = x.squeeze(1)
        if self.native:
            state = self.rnn(rows)[0][:, -1]
        else:
            state = torch.zeros(len(x), 128, dtype=x.dtype)
            for row in rows.unbind(1):
                inputs = F.linear(row, self.rnn.weight_ih_l0, self.rnn.bias_ih_l0)
                state = self.activation(inputs + F.linear(state, self.rnn.weight_hh_l0, self.rnn.bias_hh_l0))
        return self.linear(state * second)


class Softmax(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.linear = nn.Linear(784, 10)

    def forward(self, x, first, second):
        return self.linear(x.flatten(1))


MODULES = {"cnn": Cnn, "mlp": Mlp, "rnn": Rnn, "softmax": Softmax}


def module_loss(loss, logits, labels):
    one_hot = F.one_hot(labels, 10).to(logits.dtype)
    return {
        "cross_entropy": lambda: nn.NLLLoss()(F.log_softmax(logits, dim=1), labels),
        "mse": lambda: nn.MSELoss()(F.softmax(logits, dim=1), one_hot),
        "bce": lambda: nn.BCEWithLogitsLoss()(logits, one_hot),
    }[loss]()


def dropout_scales(network, trials, batch, dtype):
    units = sum(network.architecture.dropout_units)
    generator = torch.Generator().manual_seed(2)
    return (torch.rand(trials, batch, units, generator=generator, dtype=dtype) > 0.4) / 0.6


def same_seed(trials):
    return torch.zeros(trials, dtype=torch.int64)


def test_every_model_and_activation_has_its_module():
    assert MODULES.keys() == MODELS.keys()
    assert FUNCTIONS.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize(("name", "count"), [("cnn", 300_426), ("mlp", 545_810), ("rnn", 21_514), ("softmax", 7_850)])
def test_parameters_are_those_of_the_module(name, count):
    named = dict(MODULES[name]("relu").named_parameters())
    ours = {name: shape for name, (shape, _) in MODELS[name].shapes.items()}
    assert [(name, tuple(p.shape)) for name, p in named.items()] == list(ours.items())
    assert sum(p.numel() for p in named.values()) == MODELS[name].parameters == count


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_have_the_bounds_and_spread_of_torch(name):
    torch.manual_seed(0)
    network = Network(name)
    weights = network.weights(network.initialize([3], "cpu"))
    for parameter, theirs in MODULES[name]("relu").named_parameters():
        ours = weights[parameter]
        bound = 1 / network.architecture.shapes[parameter][1] ** 0.5
        assert max(ours.abs().max(), theirs.abs().max()) <= bound
        if theirs.numel() > 100:
            assert torch.isclose(ours.std(), theirs.std(), rtol=0.15)
            assert min(ours.abs().max(), theirs.abs().max()) > 0.95 * bound


def test_initial_weights_of_a_seed_stay_what_they_were():
    first_and_last = Network().initialize([0], "cpu")[0, [0, 1, -1]]
    assert first_and_last.tolist() == [-0.0673023909330368, 0.25368010997772217, 0.07591314613819122]


def check_against_module(network, dropout, batch):
    seed_of_T = torch.tensor([0, 1, 1])
    parameters_TP = network.initialize([4, 5, 6], "cpu", torch.float64)
    scale_TBU = dropout_scales(network, 3, batch.labels.shape[1], torch.float64)
    if not dropout:
        scale_TBU = torch.ones_like(scale_TBU)
    loss_T, gradients_TP = network.loss_and_gradients(
        parameters_TP, batch.images, batch.labels, seed_of_T, scale_TBU if dropout else None
    )
    for t, seed in enumerate(seed_of_T.tolist()):
        module = MODULES[network.model](network.activation).double()
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.copy_(network.weights(parameters_TP)[name][t])
        scales = scale_TBU[t].split(network.architecture.dropout_units, dim=-1)
        loss = module_loss(network.loss, module(batch.images[seed], *scales), batch.labels[seed])
        loss.backward()
        expected = torch.cat([p.grad.flatten() for p in module.parameters()])
        torch.testing.assert_close(loss_T[t], loss.detach(), rtol=1e-5, atol=0)
        torch.testing.assert_close(gradients_TP[t], expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("names", [*product(MODELS, ACTIVATIONS, LOSSES)], ids="-".join)
def test_loss_and_gradients_equal_the_module(names, dropout, random_batch):
    check_against_module(Network(*names), dropout, random_batch(2, 8, torch.float64))


@pytest.mark.parametrize("convolution", PORTABLE[1:])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_way_to_convolve_equals_the_module(activation, dropout, convolution, random_batch):
    network = Network("cnn", activation, convolution=convolution)
    check_against_module(network, dropout, random_batch(2, 8, torch.float64))


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_finite_where_exponentials_are_not(loss):
    logits_TBK = torch.tensor([[[1000.0] + [-1000.0] * 9] * 2], requires_grad=True)
    losses_TB = Network(loss=loss).losses(logits_TBK, torch.tensor([[0, 1]]))
    expected = {"cross_entropy": 2000.0, "mse": 0.2, "bce": 200.0}[loss]
    torch.testing.assert_close(losses_TB, torch.tensor([[0.0, expected]]))
    (gradient,) = torch.autograd.grad(losses_TB.sum(), logits_TBK)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("names", [*product(MODELS, ACTIVATIONS), *product(["cnn"], ["relu"], PORTABLE)], ids="-".join)
def test_bf16_rounds_and_no_more(names, random_batch):
    """Products of operands with 8 bits: gradients to a few percent, weights untouched; each trial as if alone."""
    model, activation, convolution = (*names, "loop")[:3]
    exact = Network(model, activation)
    network = Network(model, activation, precision="bf16", convolution=convolution)
    parameters_TP = network.initialize(range(4), "cpu")
    batch = random_batch(1, 32, torch.float32)
    scale_TBU = dropout_scales(network, 4, 32, torch.float32)
    expected_T, expected_TP = exact.loss_and_gradients(
        parameters_TP, batch.images, batch.labels, same_seed(4), scale_TBU
    )
    parameters_TP[1] = float("nan")
    loss_T, gradients_TP = network.loss_and_gradients(
        parameters_TP, batch.images, batch.labels, same_seed(4), scale_TBU
    )
    assert loss_T.dtype == gradients_TP.dtype == torch.float32
    assert not loss_T[1].isfinite() and not gradients_TP[1].isfinite().any()
    for t in (0, 2, 3):
        torch.testing.assert_close(loss_T[t], expected_T[t], rtol=1e-2, atol=0)
        error = torch.linalg.norm(gradients_TP[t] - expected_TP[t]) / torch.linalg.norm(expected_TP[t])
        assert 1e-5 < error < 0.1  # where rounding turns a relu on or off, by more than its 0.4 %
        row = slice(t, t + 1)
        alone_T, alone_TP = network.loss_and_gradients(
            parameters_TP[row], batch.images, batch.labels, same_seed(1), scale_TBU[row]
        )
        torch.testing.assert_close(alone_T[0], loss_T[t], rtol=1e-3, atol=0)
        torch.testing.assert_close(alone_TP[0], gradients_TP[t], rtol=0.02, atol=1e-4)


# An odd batch leaves rows that no vector register divides, which some of torch's functions round differently.
@pytest.mark.parametrize("batch_size", [1, 7, 32])
@pytest.mark.parametrize(
    "names",
    [*product(MODELS, ACTIVATIONS, ["cross_entropy"]), *product(MODELS, ["sigmoid"], ["mse", "bce"])],
    ids="-".join,
)
def test_a_trial_is_bitwise_the_same_in_any_stack(names, batch_size, random_batch):
    network = Network(*names)
    parameters_TP = network.initialize(range(7), "cpu")
    batch = random_batch(1, batch_size, torch.float32)
    scale_TBU = dropout_scales(network, 7, batch_size, torch.float32)

    def part(first, last):
        return network.loss_and_gradients(
            parameters_TP[first:last], batch.images, batch.labels, same_seed(last - first), scale_TBU[first:last]
        )

    loss_T, gradients_TP = part(0, 7)
    for first, last in ((0, 1), (0, 2), (0, 4), (3, 5), (6, 7)):
        some_T, some_TP = part(first, last)
        assert torch.equal(some_T, loss_T[first:last])
        assert torch.equal(some_TP, gradients_TP[first:last])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("names", [*product(MODELS, ACTIVATIONS), *product(["cnn"], ["relu"], PORTABLE)], ids="-".join)
def test_nan_in_one_trial_leaves_the_others_bitwise_unchanged(names, precision, random_batch):
    model, activation, convolution = (*names, "loop")[:3]
    network = Network(model, activation, precision=precision, convolution=convolution)
    parameters_TP = network.initialize(range(3), "cpu")
    batch = random_batch(1, 16, torch.float32)
    clean = network.loss_and_gradients(parameters_TP, batch.images, batch.labels, same_seed(3))
    parameters_TP[1] = float("nan")
    dirty = network.loss_and_gradients(parameters_TP, batch.images, batch.labels, same_seed(3))
    for before, after in zip(clean, dirty, strict=True):
        assert torch.equal(before[[0, 2]], after[[0, 2]])
        assert not after[1].isfinite().any()
