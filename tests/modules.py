"""Every network as anybody would write it; `scales` holds what each dropout multiplies with, (B, U) by its name.

Adding a network is a class and a row of `MODULES` here.
"""

import torch
from torch import nn
from torch.nn import functional as F

from optbench.networks.layers import (
    FIRST,
    Activation,
    AveragePool,
    BatchNorm,
    Concatenation,
    Convolution,
    Dropout,
    Dropout2d,
    GlobalPool,
    Hidden,
    Linear,
    MaxPool,
    Sequence,
    Sum,
)

FUNCTIONS = {"relu": F.relu, "leaky_relu": F.leaky_relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


class Cnn(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.activation = FUNCTIONS[activation]
        self.conv1 = nn.Conv2d(1, 16, 3)
        self.conv2 = nn.Conv2d(16, 32, 3)
        self.linear1 = nn.Linear(4608, 64)
        self.linear2 = nn.Linear(64, 10)

    def forward(self, x, scales):
        x = self.activation(self.conv2(self.activation(self.conv1(x))))
        x = F.max_pool2d(x, 2) * scales["dropout1"][:, :, None, None]
        return self.linear2(self.activation(self.linear1(x.flatten(1))) * scales["dropout2"])


class Mlp(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.activation = FUNCTIONS[activation]
        self.linear1 = nn.Linear(784, 500)
        self.linear2 = nn.Linear(500, 300)
        self.linear3 = nn.Linear(300, 10)

    def forward(self, x, scales):
        x = self.activation(self.linear1(x.flatten(1))) * scales["dropout1"]
        return self.linear3(self.activation(self.linear2(x)) * scales["dropout2"])


class Rnn(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.activation = FUNCTIONS[activation]
        self.native = activation in ("relu", "tanh")
        self.rnn = nn.RNN(28, 128, nonlinearity=activation if self.native else "tanh", batch_first=True)
        self.linear = nn.Linear(128, 10)

    def forward(self, x, scales):
        rows = x.squeeze(1)
        if self.native:
            state = self.rnn(rows)[0][:, -1]
        else:
            state = torch.zeros(len(x), 128, dtype=x.dtype)
            for row in rows.unbind(1):
                inputs = F.linear(row, self.rnn.weight_ih_l0, self.rnn.bias_ih_l0)
                state = self.activation(inputs + F.linear(state, self.rnn.weight_hh_l0, self.rnn.bias_hh_l0))
        return self.linear(state * scales["dropout"])


class Softmax(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.linear = nn.Linear(784, 10)

    def forward(self, x, scales):
        return self.linear(x.flatten(1))


class LeNet5(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.activation = FUNCTIONS[activation]
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.linear1 = nn.Linear(400, 120)
        self.linear2 = nn.Linear(120, 84)
        self.linear3 = nn.Linear(84, 10)

    def forward(self, x, scales):
        x = F.avg_pool2d(self.activation(self.conv1(x)), 2)
        x = F.avg_pool2d(self.activation(self.conv2(x)), 2)
        x = self.activation(self.linear1(x.flatten(1)))
        return self.linear3(self.activation(self.linear2(x)))


class DeepObs2c2d(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.activation = FUNCTIONS[activation]
        self.conv1 = nn.Conv2d(1, 32, 5, padding="same")
        self.conv2 = nn.Conv2d(32, 64, 5, padding="same")
        self.linear1 = nn.Linear(3136, 1024)
        self.linear2 = nn.Linear(1024, 10)

    def forward(self, x, scales):
        x = F.max_pool2d(self.activation(self.conv1(x)), 2)
        x = F.max_pool2d(self.activation(self.conv2(x)), 2)
        return self.linear2(self.activation(self.linear1(x.flatten(1))))


def made_up(classes):
    """Every layer that the networks do not have, in all places where one might put it."""
    return Sequence(
        Convolution("conv1", 8, 3, stride=2, padding=1, has_bias=False),
        BatchNorm("norm1"),
        Activation(),
        Dropout2d("dropout1"),
        Sum(
            Sequence(Activation(), Convolution("conv2", 8, 3, padding=1), BatchNorm("norm2")),
            Sequence(),
        ),
        Activation(),
        Dropout("dropout2", rate=FIRST),
        Concatenation(
            Convolution("conv3", 6, 1),
            Sequence(MaxPool(3, stride=1, padding=1), Convolution("conv4", 5, 3, padding=1), Activation()),
            Sequence(),
        ),
        Activation(),
        MaxPool(3, stride=2, ceil=True),
        Sum(Convolution("conv5", 4, 1), Sequence(BatchNorm("norm3"), Activation(), Convolution("conv6", 4, 1))),
        AveragePool(2, stride=1),
        GlobalPool(),
        Hidden("linear1", 7),
        Dropout("dropout3"),
        Linear("linear2", classes),
    )


class MadeUp(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.activation = FUNCTIONS[activation]
        self.conv1 = nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(8)
        self.conv3 = nn.Conv2d(8, 6, 1)
        self.conv4 = nn.Conv2d(8, 5, 3, padding=1)
        self.conv5 = nn.Conv2d(19, 4, 1)
        self.norm3 = nn.BatchNorm2d(19)
        self.conv6 = nn.Conv2d(19, 4, 1)
        self.linear1 = nn.Linear(4, 7)
        self.linear2 = nn.Linear(7, 10)

    def forward(self, x, scales):
        act = self.activation
        x = act(self.norm1(self.conv1(x))) * scales["dropout1"][:, :, None, None]
        x = act(self.norm2(self.conv2(act(x))) + x)
        x = x * scales["dropout2"].unflatten(1, x.shape[1:])
        x = torch.cat([self.conv3(x), act(self.conv4(F.max_pool2d(x, 3, 1, 1))), x], dim=1)
        x = F.max_pool2d(act(x), 3, 2, ceil_mode=True)
        x = self.conv5(x) + self.conv6(act(self.norm3(x)))
        x = F.avg_pool2d(x, 2, 1).mean((2, 3))
        return self.linear2(act(self.linear1(x)) * scales["dropout3"])


# The number of parameters as published, or counted by hand.
MODULES = {
    "cnn": (Cnn, 300_426),
    "mlp": (Mlp, 545_810),
    "rnn": (Rnn, 21_514),
    "softmax": (Softmax, 7_850),
    "lenet5": (LeNet5, 61_706),
    "2c2d": (DeepObs2c2d, 3_274_634),
    "made up": (MadeUp, 72 + 16 + 584 + 16 + 54 + 365 + 80 + 38 + 80 + 35 + 80),
}


def module_with(network, weights):
    """A plain module that is the same network, with the weights of one trial (1, *shape)."""
    module = MODULES[network.model][0](network.activation)
    module = module.to(next(iter(weights.values())).dtype)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(weights[name][0])
    return module


def scales_of(network, scale_BU):
    """Under the names of the dropouts."""
    places = network.architecture.dropout
    return dict(zip(places, scale_BU.split([units for _, units in places.values()], dim=-1), strict=True))
