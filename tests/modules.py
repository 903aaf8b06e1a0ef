"""Every network as anybody would write it; `scales` holds what each dropout multiplies with, (B, U) by its name.

Those with an argument `image` are written for images of 28 × 28 in grey and of 32 × 32 in colour.

Adding a network is a class and a row of `MODULES` here, and its name in `LARGE` if a step of it takes long.
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


class DeepObs3c3d(nn.Module):
    def __init__(self, activation, image=(1, 28, 28)):
        super().__init__()
        self.activation = FUNCTIONS[activation]
        self.conv1 = nn.Conv2d(image[0], 64, 5)
        self.conv2 = nn.Conv2d(64, 96, 3)
        self.conv3 = nn.Conv2d(96, 128, 3, padding="same")
        self.linear1 = nn.Linear({28: 512, 32: 1152}[image[1]], 512)
        self.linear2 = nn.Linear(512, 256)
        self.linear3 = nn.Linear(256, 10)

    def forward(self, x, scales):
        act = self.activation
        for convolution in (self.conv1, self.conv2, self.conv3):
            x = act(convolution(x))
            below = x.shape[2] % 2 == 0  # an odd side has no window that reaches outside
            x = F.max_pool2d(F.pad(x, (0, below, 0, below), value=-torch.inf), 3, 2)
        return self.linear3(act(self.linear2(act(self.linear1(x.flatten(1))))))


class ResidualBlock(nn.Module):
    def __init__(self, activation, inputs, channels, stride):
        super().__init__()
        self.activation, self.missing, self.stride = activation, channels - inputs, stride
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))
        return self.activation(self.norm2(self.conv2(self.activation(self.norm1(self.conv1(x))))) + shortcut)


class ResNet20(nn.Module):
    def __init__(self, activation, image=(1, 28, 28)):
        super().__init__()
        self.activation = FUNCTIONS[activation]
        self.conv = nn.Conv2d(image[0], 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        sizes = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
        self.blocks = []
        for n, size in enumerate(sizes, start=1):
            self.blocks.append(ResidualBlock(self.activation, *size))
            self.add_module(f"block{n}", self.blocks[-1])
        self.linear = nn.Linear(64, 10)

    def forward(self, x, scales):
        x = self.activation(self.norm(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class WideBlock(nn.Module):
    def __init__(self, activation, inputs, channels, stride):
        super().__init__()
        self.activation = activation
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        if inputs != channels:
            self.shortcut = nn.Conv2d(inputs, channels, 1, stride, bias=False)

    def forward(self, x):
        active = self.activation(self.norm1(x))
        shortcut = self.shortcut(active) if hasattr(self, "shortcut") else x
        return self.conv2(self.activation(self.norm2(self.conv1(active)))) + shortcut


class WideResNet(nn.Module):
    def __init__(self, activation, image=(1, 28, 28)):
        super().__init__()
        self.activation = FUNCTIONS[activation]
        self.conv = nn.Conv2d(image[0], 16, 3, padding=1, bias=False)
        self.blocks = []
        sizes = [(16, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
        for n, size in enumerate(sizes, start=1):
            self.blocks.append(WideBlock(self.activation, *size))
            self.add_module(f"block{n}", self.blocks[-1])
        self.norm = nn.BatchNorm2d(128)
        self.linear = nn.Linear(128, 10)

    def forward(self, x, scales):
        x = self.conv(x)
        for block in self.blocks:
            x = block(x)
        return self.linear(self.activation(self.norm(x)).mean((2, 3)))


class DenseLayer(nn.Module):
    def __init__(self, activation, inputs):
        super().__init__()
        self.activation = activation
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 48, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(48)
        self.conv2 = nn.Conv2d(48, 12, 3, padding=1, bias=False)

    def forward(self, x):
        narrow = self.conv1(self.activation(self.norm1(x)))
        return torch.cat([x, self.conv2(self.activation(self.norm2(narrow)))], dim=1)


class Transition(nn.Module):
    def __init__(self, activation, inputs):
        super().__init__()
        self.activation = activation
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, inputs // 2, 1, bias=False)

    def forward(self, x):
        return F.avg_pool2d(self.conv(self.activation(self.norm(x))), 2)


class DenseNet(nn.Module):
    def __init__(self, activation, image=(1, 28, 28)):
        super().__init__()
        self.activation, self.steps = FUNCTIONS[activation], []
        self.conv = nn.Conv2d(image[0], 24, 3, padding=1, bias=False)

        def add(name, kind, inputs):
            self.steps.append(kind(self.activation, inputs))
            self.add_module(name, self.steps[-1])

        for n in range(6):
            add(f"layer{n + 1}", DenseLayer, 24 + 12 * n)
        add("transition1", Transition, 96)
        for n in range(6):
            add(f"layer{n + 7}", DenseLayer, 48 + 12 * n)
        add("transition2", Transition, 120)
        for n in range(6):
            add(f"layer{n + 13}", DenseLayer, 60 + 12 * n)
        self.norm = nn.BatchNorm2d(132)
        self.linear = nn.Linear(132, 10)

    def forward(self, x, scales):
        x = self.conv(x)
        for step in self.steps:
            x = step(x)
        return self.linear(self.activation(self.norm(x)).mean((2, 3)))


class Vgg(nn.Module):
    def __init__(self, activation, image=(1, 28, 28)):
        super().__init__()
        self.activation = FUNCTIONS[activation]
        sizes = [image[0], 64, 128, 256, 256, 512, 512, 512, 512]
        for n in range(1, 9):
            self.add_module(f"conv{n}", nn.Conv2d(sizes[n - 1], sizes[n], 3, padding=1))
            self.add_module(f"norm{n}", nn.BatchNorm2d(sizes[n]))
        self.linear = nn.Linear(512, 10)

    def forward(self, x, scales):
        for n in range(1, 9):
            x = self.activation(getattr(self, f"norm{n}")(getattr(self, f"conv{n}")(x)))
            if n in (1, 2, 4, 6, 8):
                x = F.max_pool2d(x, 2, ceil_mode=True)
        return self.linear(x.flatten(1))


class AlexNet(nn.Module):
    def __init__(self, activation, image=(1, 28, 28)):
        super().__init__()
        self.activation = FUNCTIONS[activation]
        self.conv1 = nn.Conv2d(image[0], 64, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(64, 192, 3, padding=1)
        self.conv3 = nn.Conv2d(192, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 256, 3, padding=1)
        self.conv5 = nn.Conv2d(256, 256, 3, padding=1)
        self.linear1 = nn.Linear({28: 256, 32: 1024}[image[1]], 4096)
        self.linear2 = nn.Linear(4096, 4096)
        self.linear3 = nn.Linear(4096, 10)

    def forward(self, x, scales):
        act = self.activation
        x = F.max_pool2d(act(self.conv1(x)), 2)
        x = F.max_pool2d(act(self.conv2(x)), 2)
        x = act(self.conv4(act(self.conv3(x))))
        x = F.max_pool2d(act(self.conv5(x)), 2).flatten(1)
        x = act(self.linear1(x * scales["dropout1"]))
        return self.linear3(act(self.linear2(x * scales["dropout2"])))


class NormedConvolution(nn.Module):
    def __init__(self, activation, inputs, channels, size, stride=1):
        super().__init__()
        self.activation = activation
        self.conv = nn.Conv2d(inputs, channels, size, stride, padding=size // 2, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.activation(self.norm(self.conv(x)))


class InceptionModule(nn.Module):
    def __init__(self, activation, inputs, narrow, wide):
        super().__init__()
        self.narrow = NormedConvolution(activation, inputs, narrow, 1)
        self.wide = NormedConvolution(activation, inputs, wide, 3)

    def forward(self, x):
        return torch.cat([self.narrow(x), self.wide(x)], dim=1)


class Halved(NormedConvolution):
    def forward(self, x):
        return torch.cat([super().forward(x), F.max_pool2d(x, 3, 2, 1)], dim=1)


class Inception(nn.Module):
    def __init__(self, activation, image=(1, 28, 28)):
        super().__init__()
        act = FUNCTIONS[activation]
        self.first = NormedConvolution(act, image[0], 96, 3)
        self.module1 = InceptionModule(act, 96, 32, 32)
        self.module2 = InceptionModule(act, 64, 32, 48)
        self.half1 = Halved(act, 80, 80, 3, 2)
        self.module3 = InceptionModule(act, 160, 112, 48)
        self.module4 = InceptionModule(act, 160, 96, 64)
        self.module5 = InceptionModule(act, 160, 80, 80)
        self.module6 = InceptionModule(act, 160, 48, 96)
        self.half2 = Halved(act, 144, 96, 3, 2)
        self.module7 = InceptionModule(act, 240, 176, 160)
        self.module8 = InceptionModule(act, 336, 176, 160)
        self.linear = nn.Linear(336, 10)

    def forward(self, x, scales):
        *images, linear = self.children()
        for module in images:
            x = module(x)
        return linear(x.mean((2, 3)))


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


# The number of parameters for images of 28 × 28 in grey, as published or counted by hand. For the large ones, what is
# published is for images of 32 × 32 in colour: see `test_networks`.
MODULES = {
    "cnn": (Cnn, 300_426),
    "mlp": (Mlp, 545_810),
    "rnn": (Rnn, 21_514),
    "softmax": (Softmax, 7_850),
    "lenet5": (LeNet5, 61_706),
    "2c2d": (DeepObs2c2d, 3_274_634),
    "3c3d": (DeepObs3c3d, 564_330),
    "resnet20": (ResNet20, 269_434),
    "wide_resnet": (WideResNet, 691_386),
    "densenet": (DenseNet, 175_690),
    "vgg": (Vgg, 9_229_962),
    "alexnet": (AlexNet, 20_125_386),
    "inception": (Inception, 1_649_386),
    "made up": (MadeUp, 72 + 16 + 584 + 16 + 54 + 365 + 80 + 38 + 80 + 35 + 80),
}


LARGE = ["3c3d", "resnet20", "wide_resnet", "densenet", "vgg", "alexnet", "inception"]
SMALL = [name for name in MODULES if name not in LARGE]


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
