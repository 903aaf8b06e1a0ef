"""The layers over a stack: the forward pass of each, and the ways to compute those that work on images.

Images of a stack are one batch in which the channels of all trials are side by side, (B, T·C, H, W): a convolution with
groups, pooling and normalisation then process all trials at once. Features are (T, B, F).

Shape suffixes: T trials, S distinct seeds among them, B batch, C channels, H W image, F features, K classes, U units
that dropout decides about, P all parameters of one trial in a row, Q all its buffers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce, singledispatch

import torch
from torch import Tensor
from torch.nn import functional as F

from optbench.machine import randomness
from optbench.networks import layers
from optbench.networks.activations import Activation
from optbench.networks.architecture import Architecture
from optbench.networks.convolution import Convolve, grouped, of_one_trial, unfolded
from optbench.networks.functions import activate_, affine, flatten, is_independent, recur

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Pass:
    """What the layers of one forward pass share.

    `weights` and `buffers` are (T, *shape) under their names; the buffers change in place where `training` is true.
    `scales` are what dropout multiplies with, (T, B, U), under the names of its layers; empty if nothing is dropped.
    """

    trials: int
    training: bool
    activation: Activation
    precision: str
    weights: Tensors
    buffers: Tensors
    scales: Tensors
    convolve: Convolve = of_one_trial

    def one_by_one(self) -> Iterator[Pass]:
        """The same pass for each trial by itself."""
        if self.trials == 1:
            yield self  # `split` would copy the gradients
            return
        # The backward pass of `split` is one `cat`; that of indexing would fill a tensor of all trials for each trial.
        weights = {name: weight.split(1) for name, weight in self.weights.items()}
        for t in range(self.trials):
            yield replace(
                self,
                trials=1,
                weights={name: parts[t] for name, parts in weights.items()},
                buffers={name: buffer[t : t + 1] for name, buffer in self.buffers.items()},
                scales={name: scale[t : t + 1] for name, scale in self.scales.items()},
            )


# ---------------------------------------------------------------- layers


@singledispatch
def forward(layer: layers.Layer, x: Tensor, stack: Pass) -> Tensor:
    """What a layer makes of a stack's images (B, T·C, H, W) or features (T, B, F)."""
    raise TypeError(f"{type(layer).__name__} has no forward pass")


@forward.register
def _(layer: layers.Sequence, x: Tensor, stack: Pass) -> Tensor:
    may_overwrite = False
    for inner in layer.layers:
        in_place = may_overwrite and isinstance(inner, layers.Activation)
        x = activate_(x, stack.activation) if in_place else forward(inner, x, stack)
        may_overwrite = type(inner) in _MAKE_ANEW
    return x


# The output of these is a tensor that no other layer sees and no backward pass needs: it may be overwritten.
_MAKE_ANEW = (
    layers.Linear,
    layers.Convolution,
    layers.BatchNorm,
    layers.MaxPool,
    layers.AveragePool,
    layers.Sum,
    layers.Concatenation,
)


@forward.register
def _(layer: layers.Activation, x: Tensor, stack: Pass) -> Tensor:
    return activate_(x.clone(), stack.activation)


@forward.register
def _(layer: layers.Linear, x_TBF: Tensor, stack: Pass) -> Tensor:
    weight, bias = _own(layer.name, stack)
    if not is_independent(x_TBF, layer.features):
        return affine(x_TBF, weight, bias)
    return torch.baddbmm(bias.unsqueeze(1), x_TBF, weight.mT)


@forward.register
def _(layer: layers.Hidden, x_TBF: Tensor, stack: Pass) -> Tensor:
    return activate_(affine(x_TBF, *_own(layer.name, stack)), stack.activation)


@forward.register
def _(layer: layers.Convolution, x: Tensor, stack: Pass) -> Tensor:
    weight, bias = stack.weights[f"{layer.name}.weight"], stack.weights.get(f"{layer.name}.bias")
    return stack.convolve(x, weight, bias, layer.stride, layer.padding)


@forward.register
def _(layer: layers.BatchNorm, x: Tensor, stack: Pass) -> Tensor:
    mean_TC, var_TC = (stack.buffers[f"{layer.name}.{name}"] for name in ("running_mean", "running_var"))
    mean, var = mean_TC.flatten().clone(), var_TC.flatten().clone()
    weight, bias = (parameter.flatten().to(mean.dtype) for parameter in _own(layer.name, stack))
    x = F.batch_norm(x, mean, var, weight, bias, stack.training, layer.momentum, layer.eps)
    if stack.training:
        mean_TC.copy_(mean.view_as(mean_TC))
        var_TC.copy_(var.view_as(var_TC))
    return x


@forward.register
def _(layer: layers.Recurrence, x: Tensor, stack: Pass) -> Tensor:
    x_BTCHW = x.unflatten(1, (stack.trials, -1))
    x_THBF = x_BTCHW.permute(1, 3, 0, 2, 4).flatten(3)
    w_ih, w_hh, b_ih, b_hh = (stack.weights[name] for name in layer.names)
    return recur(x_THBF, w_ih, w_hh, b_ih, b_hh, stack.activation)


@forward.register
def _(layer: layers.Flatten, x: Tensor, stack: Pass) -> Tensor:
    return flatten(x, stack.trials)


@forward.register
def _(layer: layers.MaxPool, x: Tensor, stack: Pass) -> Tensor:
    return F.max_pool2d(x, layer.size, layer.stride, layer.padding, ceil_mode=layer.ceil)


@forward.register
def _(layer: layers.AveragePool, x: Tensor, stack: Pass) -> Tensor:
    return F.avg_pool2d(x, layer.size, layer.stride)


@forward.register
def _(layer: layers.GlobalPool, x: Tensor, stack: Pass) -> Tensor:
    means_BTC: Tensor = x.mean(dim=(2, 3)).unflatten(1, (stack.trials, -1))
    return means_BTC.transpose(0, 1)


@forward.register
def _(layer: layers.Shortcut, x: Tensor, stack: Pass) -> Tensor:
    if layer.stride > 1:
        x = F.avg_pool2d(x, 1, layer.stride)  # unlike a slice, this keeps the memory format in the backward pass
    missing = layer.channels - x.shape[1] // stack.trials
    if missing == 0:
        return x
    zeros = 0, 0, 0, 0, 0, missing
    if stack.trials == 1:
        return F.pad(x, zeros)
    return F.pad(x.unflatten(1, (stack.trials, -1)), zeros).flatten(1, 2)


@forward.register
def _(layer: layers.Dropout, x: Tensor, stack: Pass) -> Tensor:
    if layer.name not in stack.scales:
        return x
    scale_TBU = stack.scales[layer.name]
    if x.dim() == 3:
        return x * scale_TBU
    image = (-1, 1, 1) if isinstance(layer, layers.Dropout2d) else (-1, *x.shape[2:])
    return x * side_by_side(scale_TBU.unflatten(2, image))


@forward.register
def _(layer: layers.Sum, x: Tensor, stack: Pass) -> Tensor:
    return reduce(torch.add, (forward(branch, x, stack) for branch in layer.branches))


@forward.register
def _(layer: layers.Concatenation, x: Tensor, stack: Pass) -> Tensor:
    made = [forward(branch, x, stack) for branch in layer.branches]
    if stack.trials == 1:
        return torch.cat(made, dim=1)
    return torch.cat([x.unflatten(1, (stack.trials, -1)) for x in made], dim=2).flatten(1, 2)


def _own(name: str, stack: Pass) -> tuple[Tensor, Tensor]:
    return stack.weights[f"{name}.weight"], stack.weights[f"{name}.bias"]


def side_by_side(x_TBCHW: Tensor) -> Tensor:
    """(T, B, C, H, W) → (B, T·C, H, W)."""
    return x_TBCHW.transpose(0, 1).flatten(1, 2)


def seen_by(seed_of_T: Tensor, images_SBCHW: Tensor) -> Tensor:
    """(S, B, C, H, W), which of them each trial sees → (B, T·C, H, W)."""
    images_BSCHW = images_SBCHW.transpose(0, 1)
    if images_BSCHW.shape[1] == 1:
        return images_BSCHW.expand(-1, len(seed_of_T), -1, -1, -1).flatten(1, 2)
    return images_BSCHW.index_select(1, seed_of_T).flatten(1, 2)


# ---------------------------------------------------------------- ways to compute those that work on images

# The layers up to features, a pass, images (S, B, C, H, W), which of them each trial sees (T,) → features (T, B, F).
Way = Callable[[layers.Sequence, Pass, Tensor, Tensor], Tensor]


def _loop(first: layers.Sequence, stack: Pass, images_SBCHW: Tensor, seed_of_T: Tensor) -> Tensor:
    """One trial after another: on a CPU faster than any stacked convolution, and bitwise independent of the stack."""
    alone = zip(seed_of_T.tolist(), replace(stack, convolve=of_one_trial).one_by_one(), strict=True)
    return torch.cat([forward(first, images_SBCHW[seed], trial) for seed, trial in alone])


def _together(
    convolve: Convolve, first: layers.Sequence, stack: Pass, images_SBCHW: Tensor, seed_of_T: Tensor
) -> Tensor:
    """Layer by layer, each for all trials."""
    return forward(first, seen_by(seed_of_T, images_SBCHW), replace(stack, convolve=convolve))


def _triton(first: layers.Sequence, stack: Pass, images_SBCHW: Tensor, seed_of_T: Tensor) -> Tensor:
    """The trunk of the cnn in fused kernels, which never write the planes of 16 and 32 channels to memory."""
    from optbench.networks.trunk_kernels import trunk  # Triton comes with torch only on Linux

    if stack.activation.slope is None:
        raise NotImplementedError("the fused kernels have only relu and leaky_relu")
    names = ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias")
    weights = {name: stack.weights[name].float() for name in names}
    x_TBCHW = trunk(images_SBCHW.float(), seed_of_T, weights, stack.activation.slope, stack.precision)
    x_TBCHW = x_TBCHW.to(images_SBCHW.dtype)
    if "dropout1" in stack.scales:
        x_TBCHW = x_TBCHW * stack.scales["dropout1"][..., None, None]
    return x_TBCHW.flatten(2)


# Which is fastest depends on the device, the network and the stack; each rounds differently.
WAYS: dict[str, Way] = {
    "loop": _loop,
    "grouped": partial(_together, grouped),
    "grouped_channels_last": partial(_together, partial(grouped, memory_format=torch.channels_last)),
    "unfolded": partial(_together, unfolded),
    "triton": _triton,
}


# The ways that compute all layers of a `Trunk` in one.
_FUSED = {"triton"}


@dataclass(frozen=True)
class Layered:
    """How a network of layers is initialised and computed."""

    architecture: Architecture

    waits = ("loop",)
    casts_weights = True

    @property
    def ways(self) -> Sequence[str]:
        """The names of the ways in which it can be computed; none for a network without convolutions.

        Those in `waits` ask the host for the trials' seeds, which ends a recording.
        """
        first, _ = self.architecture.parts
        if not first.layers:
            return []
        is_trunk = isinstance(first.layers[0], layers.Trunk)
        return [name for name in WAYS if is_trunk or name not in _FUSED]

    def is_alone(self, way: str) -> bool:
        """Whether each trial has its backward pass before the next one begins."""
        return False

    def initialize(self, seeds: Sequence[int], device: torch.device | str, dtype: torch.dtype) -> Tensor:
        """Initial weights, (S, P)."""
        parameters = self.architecture.parameters
        uniform_SP = randomness.weights(seeds, self.architecture.size, device)
        parts = uniform_SP.split([parameter.size for parameter in parameters], dim=1)
        drawn = [parameter.initial.draw(part) for parameter, part in zip(parameters, parts, strict=True)]
        return torch.cat(drawn, dim=1).to(dtype)

    def buffers(self, seeds: Sequence[int], device: torch.device | str, dtype: torch.dtype) -> Tensor:
        """Buffers before training, (S, Q); the same for every seed."""
        values = [b.initial for b in self.architecture.buffers for _ in range(math.prod(b.shape))]
        return torch.tensor(values, dtype=dtype, device=device).repeat(len(seeds), 1)

    def logits(self, way: str, stack: Pass, images_SBCHW: Tensor, seed_of_T: Tensor) -> Tensor:
        """(T, B, K); trial t sees the batch `seed_of_T[t]`."""
        first, rest = self.architecture.parts
        if first.layers:
            return forward(rest, WAYS[way](first, stack, images_SBCHW, seed_of_T), stack)
        return forward(rest, seen_by(seed_of_T, images_SBCHW), stack)
