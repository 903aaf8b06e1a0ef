"""The stacked network against a plain `nn.Module` of the same definition."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from optbench import model


class Net(nn.Module):
    """The network as anybody would write it; `scale_BU` is what the two dropouts multiply with."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3)
        self.conv2 = nn.Conv2d(16, 32, 3)
        self.linear1 = nn.Linear(4608, 64)
        self.linear2 = nn.Linear(64, 10)

    def forward(self, x, scale_BU):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = F.max_pool2d(x, 2) * scale_BU[:, :32, None, None]
        x = F.relu(self.linear1(x.flatten(1))) * scale_BU[:, 32:]
        return F.log_softmax(self.linear2(x), dim=1)


def test_parameters_are_those_of_the_module():
    named = dict(Net().named_parameters())
    assert {name: tuple(p.shape) for name, p in named.items()} == {n: shape for n, (shape, _) in model.SHAPES.items()}
    assert sum(p.numel() for p in named.values()) == model.PARAMETERS == 300_426


def test_initial_weights_have_the_bounds_and_spread_of_torch():
    torch.manual_seed(0)
    ours = model.weights(model.initialize([3], torch.device("cpu")))
    for name, theirs in Net().named_parameters():
        bound = 1 / model.SHAPES[name][1] ** 0.5
        assert ours[name].abs().max() <= bound
        if theirs.numel() > 100:
            assert torch.isclose(ours[name].std(), theirs.std(), rtol=0.15)
            assert ours[name].abs().max() > 0.95 * bound


@pytest.mark.parametrize("trunk", [model._trunk_loop, model._trunk_grouped])
@pytest.mark.parametrize("dropout", [False, True])
def test_loss_and_gradients_equal_the_module(trunk, dropout, random_batch, monkeypatch):
    monkeypatch.setattr(model, "_trunk_loop", trunk)
    seed_of_T = torch.tensor([0, 1, 1])
    parameters_TP = model.initialize([4, 5, 6], torch.device("cpu"), torch.float64)
    batch = random_batch(2, 8, torch.float64)
    scale_TBU = torch.ones(3, 8, 96, dtype=torch.float64)
    if dropout:
        scale_TBU = (torch.rand(3, 8, 96, dtype=torch.float64) > 0.4) / 0.6
    loss_T, gradients_TP = model.loss_and_gradients(
        parameters_TP, batch.images, batch.labels, seed_of_T, scale_TBU if dropout else None
    )
    for t, seed in enumerate(seed_of_T.tolist()):
        net = Net().double()
        with torch.no_grad():
            for name, p in net.named_parameters():
                p.copy_(model.weights(parameters_TP)[name][t])
        loss = F.nll_loss(net(batch.images[seed], scale_TBU[t]), batch.labels[seed])
        loss.backward()
        expected = torch.cat([p.grad.flatten() for p in net.parameters()])
        torch.testing.assert_close(loss_T[t], loss.detach(), rtol=1e-5, atol=0)
        torch.testing.assert_close(gradients_TP[t], expected, rtol=1e-5, atol=1e-12)


def test_a_trial_is_bitwise_the_same_in_any_stack(random_batch):
    parameters_TP = model.initialize(range(7), torch.device("cpu"))
    batch = random_batch(1, 32, torch.float32)
    for trials in (1, 2, 4, 7):
        loss_T, gradients_TP = model.loss_and_gradients(
            parameters_TP[:trials], batch.images, batch.labels, torch.zeros(trials, dtype=int)
        )
        alone = model.loss_and_gradients(parameters_TP[:1], batch.images, batch.labels, torch.zeros(1, dtype=int))
        assert torch.equal(loss_T[:1], alone[0])
        assert torch.equal(gradients_TP[:1], alone[1])


def test_nan_in_one_trial_leaves_the_others_bitwise_unchanged(random_batch):
    parameters_TP = model.initialize(range(3), torch.device("cpu"))
    batch = random_batch(1, 16, torch.float32)
    clean = model.loss_and_gradients(parameters_TP, batch.images, batch.labels, torch.zeros(3, dtype=int))
    parameters_TP[1] = float("nan")
    dirty = model.loss_and_gradients(parameters_TP, batch.images, batch.labels, torch.zeros(3, dtype=int))
    for before, after in zip(clean, dirty, strict=True):
        assert torch.equal(before[[0, 2]], after[[0, 2]])
        assert not after[1].isfinite().all()
