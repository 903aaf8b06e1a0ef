"""What networks are made of: each layer with its parameters, buffers, dropout and the shape of its output.

This file does not import torch, so that networks can be described at once; `forward.py` computes the layers over a
stack. Shapes are those of one example: (C, H, W) for an image and what convolutions make of it, (F,) for features. A
layer's name precedes those of its parameters, as in an `nn.Module`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from optbench.errors import UserError
from optbench.networks.initial import Constant, Initial, Uniform

Shape = tuple[int, ...]
Initialization = (
    Initial | Callable[[Shape], Initial] | None
)  # or what follows from a weight's shape, or torch's default

FIRST, SECOND = 0, 1  # of the two dropout rates that a trial has


@dataclass(frozen=True)
class Parameter:
    """A tensor that is trained. For one example the forward pass multiplies with each of its numbers `uses` times."""

    name: str
    shape: Shape
    initial: Initial
    uses: int = 0  # too few to count: biases and factors

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Buffer:
    """A tensor that training changes, but not by a gradient; `initial` is the value of all its numbers."""

    name: str
    shape: Shape
    initial: float


@dataclass(frozen=True)
class Layer:
    """A step from one shape to the next."""

    def output(self, shape: Shape) -> Shape:
        """The shape of the output for an input of this shape."""
        return shape

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """The layer's own for an input of this shape, not those of layers inside it."""
        return ()

    def buffers(self, shape: Shape) -> tuple[Buffer, ...]:
        """The layer's own for an input of this shape."""
        return ()

    def kept(self, shape: Shape) -> int:
        """About how many float32 words the forward pass keeps for the backward pass, for one example."""
        return math.prod(self.output(shape))

    def walk(self, shape: Shape) -> Iterator[tuple[Layer, Shape]]:
        """This layer and those inside it, in the order of the forward pass, each with the shape of its input."""
        yield self, shape


# ---------------------------------------------------------------- with parameters


@dataclass(frozen=True)
class Linear(Layer):
    """W x + b."""

    name: str
    features: int
    weight: Initialization = None
    bias: Initial | None = None

    def output(self, shape: Shape) -> Shape:
        return (self.features,)

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        (inputs,) = shape
        default, matrix = Uniform.by_fan_in(inputs), (self.features, inputs)
        return (
            Parameter(f"{self.name}.weight", matrix, _initial(self.weight, matrix) or default, uses=1),
            Parameter(f"{self.name}.bias", (self.features,), self.bias or default),
        )


@dataclass(frozen=True)
class Hidden(Linear):
    """act(W x + b): a linear layer with its activation, which is less work than the two separately."""


@dataclass(frozen=True)
class Convolution(Layer):
    """Windows of `size` × `size` pixels, `stride` apart, the image with `padding` zeros on each side."""

    name: str
    channels: int
    size: int
    stride: int = 1
    padding: int = 0
    has_bias: bool = True
    weight: Initialization = None
    bias: Initial | None = None

    def output(self, shape: Shape) -> Shape:
        return self.channels, *_windows(shape, self.size, self.stride, self.padding)

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        kernel = (self.channels, shape[0], self.size, self.size)
        default = Uniform.by_fan_in(math.prod(kernel[1:]))
        pixels = math.prod(self.output(shape)[1:])
        weight = Parameter(f"{self.name}.weight", kernel, _initial(self.weight, kernel) or default, uses=pixels)
        bias = Parameter(f"{self.name}.bias", (self.channels,), self.bias or default)
        return (weight, bias) if self.has_bias else (weight,)


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Each channel of an image shifted and scaled to mean 0 and variance 1, then by its own bias and weight.

    In training it uses the mean and variance of the batch, in evaluation running averages of them.
    """

    name: str
    momentum: float = 0.1  # the share of the newest batch in the running averages
    eps: float = 1e-5

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        channels, _, _ = shape
        return (
            Parameter(f"{self.name}.weight", (channels,), Constant(1.0)),
            Parameter(f"{self.name}.bias", (channels,), Constant(0.0)),
        )

    def buffers(self, shape: Shape) -> tuple[Buffer, ...]:
        channels, _, _ = shape
        return (
            Buffer(f"{self.name}.running_mean", (channels,), 0.0),
            Buffer(f"{self.name}.running_var", (channels,), 1.0),
        )


@dataclass(frozen=True)
class Recurrence(Layer):
    """The last state hₛ = act(W_ih xₛ + b_ih + W_hh hₛ₋₁ + b_hh) over the rows of an image, from a state of zeros.

    Parameters are named and drawn as those of `torch.nn.RNN`, all with the width of the state.
    """

    name: str
    features: int

    @property
    def names(self) -> tuple[str, ...]:
        """The names of W_ih, W_hh, b_ih and b_hh."""
        return tuple(f"{self.name}.{part}_l0" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))

    def output(self, shape: Shape) -> Shape:
        return (self.features,)

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        channels, rows, columns = shape
        n = self.features
        shapes = (n, channels * columns), (n, n), (n,), (n,)
        made = zip(self.names, shapes, (rows, rows - 1, 0, 0), strict=True)
        return tuple(Parameter(name, own, Uniform.by_fan_in(n), uses) for name, own, uses in made)

    def kept(self, shape: Shape) -> int:
        return (shape[1] + 1) * self.features


# ---------------------------------------------------------------- without parameters


@dataclass(frozen=True)
class Activation(Layer):
    """The trial's activation function."""

    def kept(self, shape: Shape) -> int:
        return 0  # it nearly always overwrites its input


@dataclass(frozen=True)
class Flatten(Layer):
    """An image as features."""

    def output(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def kept(self, shape: Shape) -> int:
        return 0


@dataclass(frozen=True)
class MaxPool(Layer):
    """The largest number of each window; windows are `stride` apart, by default their own width.

    `ceil` allows windows that begin inside the image and end outside.
    """

    size: int
    stride: int | None = None
    padding: int = 0
    ceil: bool = False

    def output(self, shape: Shape) -> Shape:
        return shape[0], *_windows(shape, self.size, self.stride or self.size, self.padding, self.ceil)

    def kept(self, shape: Shape) -> int:
        return 3 * math.prod(self.output(shape))  # which pixel won is an int64


@dataclass(frozen=True)
class AveragePool(Layer):
    """The mean of each window; windows are `stride` apart, by default their own width."""

    size: int
    stride: int | None = None

    def output(self, shape: Shape) -> Shape:
        return shape[0], *_windows(shape, self.size, self.stride or self.size)


@dataclass(frozen=True)
class GlobalPool(Layer):
    """The mean of each channel, as features."""

    def output(self, shape: Shape) -> Shape:
        return (shape[0],)


@dataclass(frozen=True)
class Shortcut(Layer):
    """Every `stride`-th pixel down and across, and as many channels of zeros after the image's as make `channels`."""

    channels: int
    stride: int = 1

    def output(self, shape: Shape) -> Shape:
        return self.channels, *_windows(shape, 1, self.stride)

    def kept(self, shape: Shape) -> int:
        return 0


@dataclass(frozen=True)
class Dropout(Layer):
    """Drops each number independently in training, at one of the trial's two rates, and scales up what stays."""

    name: str
    rate: int = SECOND

    def units(self, shape: Shape) -> int:
        """How many decisions there are for an example."""
        return math.prod(shape)

    def kept(self, shape: Shape) -> int:
        return math.prod(shape) + self.units(shape)


@dataclass(frozen=True)
class Dropout2d(Dropout):
    """Drops whole channels."""

    rate: int = FIRST

    def units(self, shape: Shape) -> int:
        return shape[0]


# ---------------------------------------------------------------- made of other layers


@dataclass(frozen=True, init=False)
class Sequence(Layer):
    """One layer after the other; an empty one returns its input."""

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer) -> None:
        object.__setattr__(self, "layers", layers)

    def output(self, shape: Shape) -> Shape:
        for layer in self.layers:
            shape = layer.output(shape)
        return shape

    def kept(self, shape: Shape) -> int:
        return 0

    def walk(self, shape: Shape) -> Iterator[tuple[Layer, Shape]]:
        yield self, shape
        for layer in self.layers:
            yield from layer.walk(shape)
            shape = layer.output(shape)


@dataclass(frozen=True, init=False)
class _Branches(Layer):
    branches: tuple[Layer, ...]

    def __init__(self, first: Layer, second: Layer, *more: Layer) -> None:
        object.__setattr__(self, "branches", (first, second, *more))

    def kept(self, shape: Shape) -> int:
        ends = [list(branch.walk(shape))[-1] for branch in self.branches]
        replaced = [min(layer.kept(inner), math.prod(layer.output(inner))) for layer, inner in ends]
        return math.prod(self.output(shape)) - sum(replaced)  # the backward pass needs nothing of what it is made from

    def walk(self, shape: Shape) -> Iterator[tuple[Layer, Shape]]:
        yield self, shape
        for branch in self.branches:
            yield from branch.walk(shape)


class Sum(_Branches):
    """The sum of what several layers make of the same input; an empty `Sequence` is the input itself."""

    def output(self, shape: Shape) -> Shape:
        (same,) = {branch.output(shape) for branch in self.branches}
        return same


class Concatenation(_Branches):
    """What several layers make of the same image, channel after channel."""

    def output(self, shape: Shape) -> Shape:
        made = [branch.output(shape) for branch in self.branches]
        ((height, width),) = {(rows, columns) for _, rows, columns in made}
        return sum(channels for channels, _, _ in made), height, width


class Trunk(Sequence):
    """Layers for which there are fused kernels, see `forward.WAYS`."""


def blocks_per_stage(depth: int) -> int:
    """How many blocks of two convolutions each of three stages has in a network of `depth` layers.

    Four more layers are the first, the last, and one between stages. Raises `UserError` where that does not come out.
    """
    blocks, rest = divmod(depth - 4, 6)
    if blocks < 1 or rest:
        raise UserError(f"depth must be 6 n + 4, as 10, 16, 22, 28 or 40, not {depth}")
    return blocks


def _initial(given: Initialization, shape: Shape) -> Initial | None:
    return given(shape) if callable(given) else given


def _windows(shape: Shape, size: int, stride: int, padding: int = 0, ceil: bool = False) -> Shape:
    """How many windows an image has, down and across. Raises `UserError` where not even one fits."""
    _, height, width = shape
    if min(height, width) + 2 * padding < size:
        raise UserError(f"images of {height} × {width} are too small for a window of {size} × {size}")
    return tuple(_along(side, size, stride, padding, ceil) for side in (height, width))


def _along(side: int, size: int, stride: int, padding: int, ceil: bool) -> int:
    steps, rest = divmod(side + 2 * padding - size, stride)
    begins_inside = (steps + 1) * stride < side + padding
    return steps + 1 + (ceil and rest > 0 and begins_inside)
