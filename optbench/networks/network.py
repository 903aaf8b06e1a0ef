"""A network over a stack: initial weights, logits, loss and gradients of T trials at once.

Shape suffixes: T trials, S distinct seeds among them, B batch, C channels, H W image, K classes, U dropout units,
P all parameters of one trial in a row, Q all its buffers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optbench import networks
from optbench.networks.activations import ACTIVATIONS
from optbench.networks.architecture import Architecture
from optbench.networks.foreign import ForeignArchitecture
from optbench.networks.forward import Layered, Pass
from optbench.networks.layers import Shape
from optbench.networks.losses import LOSSES
from optbench.networks.modules import Modules

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Network:
    """What is trained: one each of `NETWORKS`, `ACTIVATIONS`, `LOSSES` and `PRECISIONS`, for the whole stack.

    `image` is the shape (C, H, W) of the images. `convolution`, one of `ways`, changes only the rounding. A module from
    elsewhere has its own activations. With `is_frozen` only the head is trained, the last layer that has parameters:
    all before it is fixed, and computed as in evaluation, its buffers and dropout included.

    In bf16 the forward and the backward pass work on copies of the weights in bfloat16 (products are summed up in
    float32); the weights themselves, the buffers, the losses and the optimizers stay in float32.
    """

    model: str = "cnn"
    activation: str = "relu"
    loss: str = "cross_entropy"
    precision: str = "fp32"
    convolution: str = "loop"
    image: Shape = (1, 28, 28)
    classes: int = 10
    is_frozen: bool = False

    @property
    def architecture(self) -> Architecture | ForeignArchitecture:
        """What it is, for these images."""
        return networks.architecture(self.model, self.image, self.classes)

    @property
    def computed(self) -> Layered | Modules:
        """How it is initialised and computed."""
        own = self.architecture
        return Layered(own) if isinstance(own, Architecture) else Modules(own)

    @property
    def trained(self) -> dict[str, Shape]:
        """The shapes of the parameters that are trained, by name; they are neighbours in a trial's row."""
        shapes = self.architecture.shapes
        return {name: shapes[name] for name in self.architecture.head} if self.is_frozen else shapes

    @property
    def trained_columns(self) -> slice:
        """Where these parameters are in a trial's row."""
        shapes = self.architecture.shapes
        before = list(shapes)[: list(shapes).index(next(iter(self.trained)))]
        first = sum(math.prod(shapes[name]) for name in before)
        return slice(first, first + sum(map(math.prod, self.trained.values())))

    def dropout_rates(self, rates: tuple[float, float]) -> list[float]:
        """The rate at each place of `architecture.dropout` for a trial's two rates; 0 in layers that are fixed."""
        architecture = self.architecture
        acts = architecture.head_dropout if self.is_frozen else architecture.dropout
        every = zip(architecture.dropout, architecture.rates(rates), strict=True)
        return [rate if name in acts else 0.0 for name, rate in every]

    @property
    def ways(self) -> Sequence[str]:
        """The names of the ways to convolve; none for a network without convolutions."""
        return self.computed.ways

    def initialize(
        self, seeds: Sequence[int], device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Initial weights (S, P), one row for each seed; the same seed gives the same row on every device."""
        return self.computed.initialize(seeds, device, dtype)

    def buffers(self, seeds: Sequence[int], device: torch.device | str, dtype: torch.dtype = torch.float32) -> Tensor:
        """Buffers before training (S, Q), one row for each seed; Q is 0 for most networks."""
        return self.computed.buffers(seeds, device, dtype)

    def tensors(self, parameters_TP: Tensor, buffers_TQ: Tensor) -> Tensors:
        """The parameters and buffers under their names, each (T, *shape): views."""
        return _under_names(parameters_TP, self.architecture.shapes) | self._buffers(buffers_TQ)

    def weights(self, parameters_TP: Tensor) -> Tensors:
        """The parameters under their names, each (T, *shape): views, or copies in bf16."""
        if self.precision == "bf16" and self.computed.casts_weights:
            parameters_TP = parameters_TP.to(torch.bfloat16)
        return _under_names(parameters_TP, self.architecture.shapes)

    def forward(
        self,
        weights: Tensors,
        images_SBCHW: Tensor,
        seed_of_T: Tensor,
        *,
        training: bool,
        scale_TBU: Tensor | None = None,
        buffers_TQ: Tensor | None = None,
    ) -> Tensor:
        """Logits (T, B, K) of a stack.

        `images_SBCHW` are normalised; trial t sees the batch `seed_of_T[t]`, an int64 index. `scale_TBU` holds what
        dropout multiplies each example's units with (0 or 1 / (1 - p)), place by place in the order of
        `architecture.dropout`; None means no dropout. Training changes `buffers_TQ`; only networks without buffers
        may leave it out.
        """
        dtype = next(iter(weights.values())).dtype
        stack = Pass(
            trials=len(seed_of_T),
            training=training,
            activation=ACTIVATIONS[self.activation],
            precision=self.precision,
            weights=weights,
            buffers=self._buffers(buffers_TQ),
            scales={} if scale_TBU is None else self._scales(scale_TBU.to(dtype)),
        )
        logits_TBK = self.computed.logits(self.convolution, stack, images_SBCHW.to(dtype), seed_of_T)
        return logits_TBK.to(images_SBCHW.dtype)

    def _buffers(self, buffers_TQ: Tensor | None) -> Tensors:
        shapes = self.architecture.buffer_shapes
        return {} if buffers_TQ is None or not shapes else _under_names(buffers_TQ, shapes)

    def _scales(self, scale_TBU: Tensor) -> Tensors:
        places = self.architecture.dropout
        return dict(zip(places, scale_TBU.split([units for _, units in places.values()], dim=-1), strict=True))

    def losses(self, logits_TBK: Tensor, labels_TB: Tensor, smoothing_T: Tensor | None = None) -> Tensor:
        """The loss of each example, (T, B); labels are smoothed by the share `smoothing_T`, if there is one."""
        smoothing_N = None if smoothing_T is None else smoothing_T.unsqueeze(1).expand(labels_TB.shape).flatten()
        return LOSSES[self.loss](logits_TBK.flatten(0, 1), labels_TB.flatten(), smoothing_N).view(labels_TB.shape)

    def loss_and_gradients(
        self,
        parameters_TP: Tensor,
        images_SBCHW: Tensor,
        labels_SB: Tensor,
        seed_of_T: Tensor,
        scale_TBU: Tensor | None = None,
        buffers_TQ: Tensor | None = None,
        smoothing_T: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Each trial's mean loss over its own batch (T,) and its gradient (T, P), in training; see `forward`, `losses`.

        The gradient is of the `trained` parameters; P counts these.

        The T losses are summed for the backward pass, so the gradients stay separate, as if each trial were alone.
        """
        batch = images_SBCHW, labels_SB
        if not self.computed.is_alone(self.convolution):
            return self._loss_and_gradients(*batch, parameters_TP, seed_of_T, scale_TBU, buffers_TQ, smoothing_T)
        gradients_TP, losses_1 = torch.empty_like(parameters_TP[:, self.trained_columns]), []
        for row in (slice(t, t + 1) for t in range(len(parameters_TP))):
            own = (scale_TBU, buffers_TQ, smoothing_T)
            scale_1BU, buffers_1Q, smoothing_1 = (None if each is None else each[row] for each in own)
            loss_1, _ = self._loss_and_gradients(
                *batch, parameters_TP[row], seed_of_T[row], scale_1BU, buffers_1Q, smoothing_1, out=gradients_TP[row]
            )
            losses_1.append(loss_1)
        return torch.cat(losses_1), gradients_TP

    def _loss_and_gradients(
        self,
        images_SBCHW: Tensor,
        labels_SB: Tensor,
        parameters_TP: Tensor,
        seed_of_T: Tensor,
        scale_TBU: Tensor | None,
        buffers_TQ: Tensor | None,
        smoothing_T: Tensor | None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Those of trials with one backward pass, the gradients into `out` if it is given."""
        weights = self.weights(parameters_TP)
        leaves = {name: weights[name].detach().requires_grad_() for name in self.trained}
        logits_TBK = self.forward(
            weights | leaves,
            images_SBCHW,
            seed_of_T,
            training=not self.is_frozen,
            scale_TBU=scale_TBU,
            buffers_TQ=buffers_TQ,
        )
        loss_T = self.losses(logits_TBK, labels_SB.index_select(0, seed_of_T), smoothing_T).mean(dim=1)
        gradients = torch.autograd.grad(loss_T.sum(), list(leaves.values()))
        gradients_TP = torch.cat([gradient.flatten(1) for gradient in gradients], dim=1, out=out)
        return loss_T.detach(), gradients_TP.to(parameters_TP.dtype)


def _under_names(row_TX: Tensor, shapes: dict[str, Shape]) -> Tensors:
    """The parts of rows under their names, each (T, *shape)."""
    parts = row_TX.split([math.prod(shape) for shape in shapes.values()], dim=1)
    return {name: part.view(-1, *shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}
