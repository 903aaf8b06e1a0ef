"""The networks, written over a stack: a model, the activation of its hidden layers and a loss, each named in a dict.

cnn      conv 1→16 3×3, conv 16→32 3×3, max-pool 2, Dropout2d, flatten 4608, linear 64, dropout, linear 10
mlp      linear 784→500, dropout, linear 300, dropout, linear 10
rnn      one recurrent layer of 128 over the 28 rows of the image, dropout of its last state, linear 10
softmax  linear 784→10

An activation follows every hidden layer. Images are normalised, 1×28×28; initial weights are distributed as PyTorch's.

Shape suffixes: T trials, S distinct seeds among them, B batch, N examples of several batches, C channels, H W image
(for the rnn: steps and their features), F features, U dropout units, K classes, P all parameters of one trial in a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from optbench import randomness

CLASSES = 10

Weights = dict[str, Tensor]
Scales = tuple[Tensor | None, Tensor | None]  # (T, B, U) of the first and of the second dropout; None: evaluation

_aten = torch.ops.aten


class Activation(NamedTuple):
    """A monotone function and its backward pass, which needs the output alone: the input need not be kept."""

    apply_: Callable[[Tensor], Tensor]  # in place
    backward: Callable[[Tensor, Tensor], Tensor]  # gradient of the output, output → gradient of the input
    slope: float | None = None  # below zero, where it is the identity above


def _sigmoid_(x: Tensor) -> Tensor:
    # On a CPU torch.sigmoid rounds the last few elements of a tensor differently from the rest, and which trial's
    # elements those are depends on the stack.
    return x.neg_().exp_().add_(1).reciprocal_() if x.device.type == "cpu" else x.sigmoid_()


_SLOPE = 0.01  # of leaky_relu below zero; torch's default
ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(torch.relu_, lambda grad, output: _aten.threshold_backward(grad, output, 0), 0.0),
    "leaky_relu": Activation(
        lambda x: F.leaky_relu_(x, _SLOPE),
        lambda grad, output: _aten.leaky_relu_backward(grad, output, _SLOPE, True),
        _SLOPE,
    ),
    "tanh": Activation(torch.tanh_, _aten.tanh_backward),
    "sigmoid": Activation(_sigmoid_, _aten.sigmoid_backward),
}


def _cross_entropy(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Negative log-softmax of the label."""
    return F.cross_entropy(logits_NK, labels_N, reduction="none")


def _one_hot(labels_N: Tensor, like_NK: Tensor) -> Tensor:
    """As F.one_hot, which looks at the labels on the host first."""
    return (labels_N.unsqueeze(1) == torch.arange(CLASSES, device=labels_N.device)).to(like_NK.dtype)


def _mse(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Squared error between the softmax and the one-hot label, mean over the classes."""
    one_hot_NK = _one_hot(labels_N, logits_NK)
    return F.mse_loss(logits_NK.softmax(dim=1), one_hot_NK, reduction="none").mean(dim=1)


def _bce(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Binary cross-entropy between the sigmoid of each logit and the one-hot label, mean over the classes."""
    one_hot_NK = _one_hot(labels_N, logits_NK)
    # As F.binary_cross_entropy_with_logits, whose backward pass is torch.sigmoid again (see `_sigmoid_`).
    return ((1 - one_hot_NK) * logits_NK - F.logsigmoid(logits_NK)).mean(dim=1)


# logits (N, K), labels (N,) → the loss of each example (N,)
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross_entropy": _cross_entropy, "mse": _mse, "bce": _bce}


def _apply(function: type[torch.autograd.Function], activation: Activation, *tensors: Tensor) -> Tensor:
    output: Tensor = function.apply(activation, *tensors)
    return output


class _Activate(torch.autograd.Function):
    """An activation in place."""

    @staticmethod
    def forward(ctx: Any, activation: Activation, x: Tensor) -> Tensor:
        output = activation.apply_(x)
        ctx.mark_dirty(output)
        ctx.save_for_backward(output)
        ctx.activation = activation
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (output,) = ctx.saved_tensors
        return None, ctx.activation.backward(grad, output)


class _Dense(torch.autograd.Function):
    """act(W x + b). Autograd left alone makes the gradient of W transposed, and turning it round costs a fifth more."""

    @staticmethod
    def forward(ctx: Any, activation: Activation, x_TBF: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        output = activation.apply_(torch.baddbmm(bias.unsqueeze(1), x_TBF, weight.mT))
        ctx.save_for_backward(x_TBF, weight, output)
        ctx.activation = activation
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_TBF, weight, output = ctx.saved_tensors
        grad = ctx.activation.backward(grad, output)
        grad_x = torch.bmm(grad, weight) if ctx.needs_input_grad[1] else None
        return None, grad_x, torch.bmm(grad.mT, x_TBF), grad.sum(dim=1)


def _hidden(w: Weights, name: str, x_TBF: Tensor, scale_TBU: Tensor | None, activation: Activation) -> Tensor:
    """A linear layer with its activation and dropout."""
    x_TBF = _apply(_Dense, activation, x_TBF, w[f"{name}.weight"], w[f"{name}.bias"])
    return x_TBF if scale_TBU is None else x_TBF * scale_TBU


def _linear(w: Weights, name: str, x_TBF: Tensor) -> Tensor:
    return torch.baddbmm(w[f"{name}.bias"].unsqueeze(1), x_TBF, w[f"{name}.weight"].mT)


class _Trunk(torch.autograd.Function):
    """act(max_pool(conv2(act(conv1(images))))) of one trial, in channels-last memory.

    Two facts make the detour worth it on a CPU: in channels-last memory the convolution is up to twice, the pooling
    seven times as fast, and autograd left alone mixes the two layouts in the backward pass, which costs it all again.
    An activation is monotone, so act(max_pool(x)) equals max_pool(act(x)) and touches a quarter of the elements.
    """

    @staticmethod
    def forward(
        ctx: Any, activation: Activation, images_BCHW: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
    ) -> Tensor:
        w1, w2 = (w.contiguous(memory_format=torch.channels_last) for w in (w1, w2))
        conv1 = activation.apply_(F.conv2d(images_BCHW, w1, b1)).contiguous(memory_format=torch.channels_last)
        conv2 = F.conv2d(conv1, w2, b2)
        pooled, winners = F.max_pool2d(conv2, 2, return_indices=True)
        output = activation.apply_(pooled.contiguous())
        ctx.save_for_backward(images_BCHW, w1, conv1, w2, conv2, winners, output)
        ctx.activation = activation
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images_BCHW, w1, conv1, w2, conv2, winners, output = ctx.saved_tensors
        through = ctx.activation.backward
        grad = through(grad.contiguous(), output).contiguous(memory_format=torch.channels_last)
        grad = _aten.max_pool2d_with_indices_backward(grad, conv2, [2, 2], [2, 2], [0, 0], [1, 1], False, winners)
        geometry = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)
        grad, grad_w2, grad_b2 = _aten.convolution_backward(grad, conv1, w2, [32], *geometry, [True, True, True])
        grad = through(grad, conv1)
        _, grad_w1, grad_b1 = _aten.convolution_backward(grad, images_BCHW, w1, [16], *geometry, [False, True, True])
        return None, None, grad_w1, grad_b1, grad_w2, grad_b2


# Images (S, B, 1, 28, 28), the seed of each trial, weights → pooled features (T, B, 32, 12, 12).
Trunk = Callable[["Network", Tensor, Tensor, Weights], Tensor]


_CONVOLVED = ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias")


def _loop(network: Network, images_SBCHW: Tensor, seed_of_T: Tensor, w: Weights) -> Tensor:
    """Trial by trial: on a CPU faster than any stacked convolution, and bitwise independent of the stack."""
    trials = zip(seed_of_T.tolist(), *(w[name].unbind(0) for name in _CONVOLVED), strict=True)
    return torch.stack([_apply(_Trunk, network.hidden, images_SBCHW[seed], *tensors) for seed, *tensors in trials])


def _grouped(
    network: Network,
    images_SBCHW: Tensor,
    seed_of_T: Tensor,
    w: Weights,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """All trials as groups of one convolution, for devices on which a launch costs more than its arithmetic."""
    trials = len(seed_of_T)
    x = images_SBCHW[seed_of_T].squeeze(2).transpose(0, 1)  # (B, T, H, W): each trial is a group with one channel
    for name in ("conv1", "conv2"):
        x = x.contiguous(memory_format=memory_format)
        weight = w[f"{name}.weight"].flatten(0, 1).contiguous(memory_format=memory_format)
        x = F.conv2d(x, weight, w[f"{name}.bias"].flatten(), groups=trials)
        if name == "conv2":
            x = F.max_pool2d(x, 2)
        x = _apply(_Activate, network.hidden, x)
    features_TBCHW: Tensor = x.unflatten(1, (trials, 32)).transpose(0, 1)
    return features_TBCHW


def _unfolded(network: Network, images_SBCHW: Tensor, seed_of_T: Tensor, w: Weights) -> Tensor:
    """Every convolution as one product with the patches of its input, nine times the input's memory."""
    x = images_SBCHW
    for name in ("conv1", "conv2"):
        size = x.shape[-1] - 2
        windows = x.unfold(-2, 3, 1).unfold(-2, 3, 1).movedim((-2, -1), (3, 4))  # (·, B, C, 3, 3, H, W)
        patches = windows.flatten(2, 4).flatten(3)
        patches_TBCN = patches[seed_of_T] if name == "conv1" else patches
        weight_TKC, bias = w[f"{name}.weight"].flatten(2), w[f"{name}.bias"]
        x = (torch.matmul(weight_TKC.unsqueeze(1), patches_TBCN) + bias[:, None, :, None]).unflatten(-1, (size, size))
        if name == "conv2":
            x = F.max_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])
        x = _apply(_Activate, network.hidden, x)
    return x


def _triton(network: Network, images_SBCHW: Tensor, seed_of_T: Tensor, w: Weights) -> Tensor:
    """All in fused kernels, which keep the planes of 16 and 32 channels out of the memory."""
    from optbench.kernels.trunk import trunk  # Triton comes with torch on Linux alone

    if network.hidden.slope is None:
        raise NotImplementedError(f"the fused kernels know no {network.activation}")
    weights = {name: w[name].float() for name in _CONVOLVED}
    features_TBCHW = trunk(images_SBCHW.float(), seed_of_T, weights, network.hidden.slope, network.precision)
    return features_TBCHW.to(images_SBCHW.dtype)


# The ways to compute the convolutional part of the cnn; which is fastest depends on the device and the stack.
CONVOLUTIONS: dict[str, Trunk] = {
    "loop": _loop,
    "grouped": _grouped,
    "grouped_channels_last": partial(_grouped, memory_format=torch.channels_last),
    "unfolded": _unfolded,
    "triton": _triton,
}


def _cnn(network: Network, w: Weights, images_SBCHW: Tensor, seed_of_T: Tensor, scales: Scales) -> Tensor:
    x_TBCHW = CONVOLUTIONS[network.convolution](network, images_SBCHW, seed_of_T, w)
    if scales[0] is not None:
        x_TBCHW = x_TBCHW * scales[0][..., None, None]
    return _linear(w, "linear2", _hidden(w, "linear1", x_TBCHW.flatten(2), scales[1], network.hidden))


def _mlp(network: Network, w: Weights, images_SBCHW: Tensor, seed_of_T: Tensor, scales: Scales) -> Tensor:
    x_TBF = _hidden(w, "linear1", images_SBCHW.flatten(2)[seed_of_T], scales[0], network.hidden)
    return _linear(w, "linear3", _hidden(w, "linear2", x_TBF, scales[1], network.hidden))


class _Recurrence(torch.autograd.Function):
    """Last state (T, B, F) of hₛ = act(W_ih xₛ + b_ih + W_hh hₛ₋₁ + b_hh) over the steps H of x, from a state of zeros.

    Autograd left alone would add up the gradients of W_hh step by step; here they are one product for all steps.
    """

    @staticmethod
    def forward(
        ctx: Any, activation: Activation, x_THBW: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
    ) -> Tensor:
        inputs_TNF = torch.baddbmm((b_ih + b_hh).unsqueeze(1), x_THBW.flatten(1, 2), w_ih.mT)
        states_THBF: Tensor = inputs_TNF.unflatten(
            1, x_THBW.shape[1:3]
        )  # step by step, states take their inputs' place
        steps = states_THBF.unbind(1)
        activation.apply_(steps[0])
        for before_TBF, step_TBF in pairwise(steps):
            activation.apply_(step_TBF.baddbmm_(before_TBF, w_hh.mT))
        ctx.save_for_backward(x_THBW, w_hh, states_THBF)
        ctx.activation = activation
        return steps[-1].clone()

    @staticmethod
    def backward(ctx: Any, grad_TBF: Tensor) -> tuple[Tensor | None, ...]:
        x_THBW, w_hh, states_THBF = ctx.saved_tensors
        grads_THBF = torch.empty_like(states_THBF)  # of what the activation is applied to
        for step_TBF, state_TBF in reversed(list(zip(grads_THBF.unbind(1), states_THBF.unbind(1), strict=True))):
            step_TBF.copy_(ctx.activation.backward(grad_TBF, state_TBF))
            grad_TBF = torch.bmm(step_TBF, w_hh)
        every_TNF = grads_THBF.flatten(1, 2)
        grad_ih = torch.bmm(every_TNF.mT, x_THBW.flatten(1, 2))
        grad_hh = torch.bmm(grads_THBF[:, 1:].flatten(1, 2).mT, states_THBF[:, :-1].flatten(1, 2))
        grad_b = every_TNF.sum(dim=1)
        return None, None, grad_ih, grad_hh, grad_b, grad_b


def _rnn(network: Network, w: Weights, images_SBCHW: Tensor, seed_of_T: Tensor, scales: Scales) -> Tensor:
    x_THBW = images_SBCHW.squeeze(2).transpose(1, 2)[seed_of_T]
    names = ("rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_ih_l0", "rnn.bias_hh_l0")
    x_TBF = _apply(_Recurrence, network.hidden, x_THBW, *(w[name] for name in names))
    if scales[1] is not None:
        x_TBF = x_TBF * scales[1]
    return _linear(w, "linear", x_TBF)


def _softmax(network: Network, w: Weights, images_SBCHW: Tensor, seed_of_T: Tensor, scales: Scales) -> Tensor:
    return _linear(w, "linear", images_SBCHW.flatten(2)[seed_of_T])


@dataclass(frozen=True)
class Model:
    """An architecture."""

    # name: (shape, fan-in); torch draws weights and biases alike from U(-1/√fan_in, 1/√fan_in).
    shapes: dict[str, tuple[tuple[int, ...], int]]
    logits: Callable[[Network, Weights, Tensor, Tensor, Scales], Tensor]  # as `Network.forward`
    dropout_units: tuple[int, int]  # what the first and the second rate decide about for each example
    activations: int  # numbers kept for one image from the forward to the backward pass, in float32 words, about

    @cached_property
    def sizes(self) -> dict[str, int]:
        return {name: math.prod(shape) for name, (shape, _) in self.shapes.items()}

    @property
    def parameters(self) -> int:
        """How many there are."""
        return sum(self.sizes.values())

    @property
    def activation_bytes(self) -> int:
        """What training takes for one image and trial in float32: the activations and gradients of the same sizes."""
        return 2 * 4 * self.activations


def _linear_shapes(name: str, features: int, outputs: int) -> dict[str, tuple[tuple[int, ...], int]]:
    return {f"{name}.weight": ((outputs, features), features), f"{name}.bias": ((outputs,), features)}


MODELS: dict[str, Model] = {
    "cnn": Model(
        {
            "conv1.weight": ((16, 1, 3, 3), 9),
            "conv1.bias": ((16,), 9),
            "conv2.weight": ((32, 16, 3, 3), 144),
            "conv2.bias": ((32,), 144),
            **_linear_shapes("linear1", 4608, 64),
            **_linear_shapes("linear2", 64, CLASSES),
        },
        _cnn,
        dropout_units=(32, 64),  # channels, features
        activations=28 * 28 + 16 * 26 * 26 + 32 * 24 * 24 + 3 * 4608 + 3 * 64,  # pooled values have int64 indices
    ),
    "mlp": Model(
        {
            **_linear_shapes("linear1", 784, 500),
            **_linear_shapes("linear2", 500, 300),
            **_linear_shapes("linear3", 300, CLASSES),
        },
        _mlp,
        dropout_units=(500, 300),
        activations=28 * 28 + 3 * (500 + 300),
    ),
    "rnn": Model(
        {
            "rnn.weight_ih_l0": ((128, 28), 128),  # torch draws all of a recurrent layer with the width of its state
            "rnn.weight_hh_l0": ((128, 128), 128),
            "rnn.bias_ih_l0": ((128,), 128),
            "rnn.bias_hh_l0": ((128,), 128),
            **_linear_shapes("linear", 128, CLASSES),
        },
        _rnn,
        dropout_units=(0, 128),
        activations=28 * 28 + 28 * 128 + 3 * 128,
    ),
    "softmax": Model(_linear_shapes("linear", 784, CLASSES), _softmax, dropout_units=(0, 0), activations=28 * 28),
}


@dataclass(frozen=True)
class Network:
    """What is trained: one of `MODELS`, `ACTIVATIONS`, `LOSSES` and `PRECISIONS` each, for the whole stack.

    How the cnn's convolutions are computed, a name from `CONVOLUTIONS`, changes no more than the rounding.

    In bf16 the forward and the backward pass work on copies of the weights in bfloat16 (products are summed up in
    float32); the weights themselves, the losses and the optimizers stay in float32.
    """

    model: str = "cnn"
    activation: str = "relu"
    loss: str = "cross_entropy"
    precision: str = "fp32"
    convolution: str = "loop"

    @property
    def architecture(self) -> Model:
        return MODELS[self.model]

    @property
    def hidden(self) -> Activation:
        """The activation of the hidden layers."""
        return ACTIVATIONS[self.activation]

    def initialize(
        self, seeds: Sequence[int], device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Initial weights (S, P), one row for each seed; the same seed gives the same row on every device."""
        sizes, shapes = self.architecture.sizes, self.architecture.shapes
        uniform_SP = randomness.weights(seeds, self.architecture.parameters, device)
        bounds = [torch.full((sizes[name],), 1 / math.sqrt(fan_in)) for name, (_, fan_in) in shapes.items()]
        return ((2 * uniform_SP - 1) * torch.cat(bounds).to(device)).to(dtype)

    def weights(self, parameters_TP: Tensor) -> Weights:
        """The parameters under their names, each (T, *shape): views of them, or in bf16 copies."""
        if self.precision == "bf16":
            parameters_TP = parameters_TP.to(torch.bfloat16)
        parts = parameters_TP.split(list(self.architecture.sizes.values()), dim=1)
        named = zip(parts, self.architecture.shapes.items(), strict=True)
        return {name: part.unflatten(1, shape) for part, (name, (shape, _)) in named}

    def forward(self, w: Weights, images_SBCHW: Tensor, seed_of_T: Tensor, scale_TBU: Tensor | None) -> Tensor:
        """Logits (T, B, K) of a stack.

        `images_SBCHW` are normalised; trial t sees the batch `seed_of_T[t]`, an int64 index. `scale_TBU` holds what
        dropout multiplies each example's units with (0 or 1 / (1 - p)), those of the first rate before those of the
        second; None means evaluation.
        """
        first = second = None
        dtype = next(iter(w.values())).dtype
        if scale_TBU is not None:
            first, second = scale_TBU.to(dtype).split(self.architecture.dropout_units, dim=-1)
        logits_TBK = self.architecture.logits(self, w, images_SBCHW.to(dtype), seed_of_T, (first, second))
        return logits_TBK.to(images_SBCHW.dtype)

    def losses(self, logits_TBK: Tensor, labels_TB: Tensor) -> Tensor:
        """The loss of each example, (T, B)."""
        return LOSSES[self.loss](logits_TBK.flatten(0, 1), labels_TB.flatten()).view(labels_TB.shape)

    def loss_and_gradients(
        self,
        parameters_TP: Tensor,
        images_SBCHW: Tensor,
        labels_SB: Tensor,
        seed_of_T: Tensor,
        scale_TBU: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Each trial's mean loss over its own batch (T,) and its gradient (T, P).

        The T losses are summed for the backward pass, so the gradients stay apart: each is as if alone.
        """
        leaves = {name: view.detach().requires_grad_() for name, view in self.weights(parameters_TP).items()}
        logits_TBK = self.forward(leaves, images_SBCHW, seed_of_T, scale_TBU)
        loss_T = self.losses(logits_TBK, labels_SB[seed_of_T]).mean(dim=1)
        gradients = torch.autograd.grad(loss_T.sum(), list(leaves.values()))
        gradients_TP = torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)
        return loss_T.detach(), gradients_TP.to(parameters_TP.dtype)
