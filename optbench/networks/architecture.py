"""What follows from a network's layers for images of some shape: its tensors, dropout, arithmetic and memory.

This file does not import torch.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from optbench.networks.layers import Buffer, Convolution, Dropout, Layer, Parameter, Sequence, Shape


@dataclass(frozen=True)
class Architecture:
    """A network's layers, for images of the shape (C, H, W).

    Raises `UserError` where the images are too small, `ValueError` where two layers have the same name.
    """

    layers: Sequence
    image: Shape

    def __post_init__(self) -> None:
        names = Counter(layer.name for layer, _ in self._walk if hasattr(layer, "name"))
        if twice := [name for name, n in names.items() if n > 1]:
            raise ValueError(f"layers of the same name: {', '.join(twice)}")

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """In the order in which they lie in a trial's row."""
        return tuple(own for layer, shape in self._walk for own in layer.parameters(shape))

    @cached_property
    def buffers(self) -> tuple[Buffer, ...]:
        """In the order in which they lie in a trial's row."""
        return tuple(own for layer, shape in self._walk for own in layer.buffers(shape))

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """The shapes of the parameters, by name."""
        return {parameter.name: parameter.shape for parameter in self.parameters}

    @property
    def buffer_shapes(self) -> dict[str, Shape]:
        """The shapes of the buffers, by name."""
        return {buffer.name: buffer.shape for buffer in self.buffers}

    @cached_property
    def dropout(self) -> dict[str, tuple[int, int]]:
        """For each place where dropout acts: which of the two rates it has, and for how many units of an example."""
        return {own.name: (own.rate, own.units(shape)) for own, shape in self._walk if isinstance(own, Dropout)}

    def rates(self, of_trial: tuple[float, float]) -> list[float]:
        """The rate of each place in `dropout`."""
        return [of_trial[rate] for rate, _ in self.dropout.values()]

    @cached_property
    def head(self) -> tuple[str, ...]:
        """The names of the parameters of the last layer that has any."""
        layer, shape = self._walk[self._with_parameters[-1]]
        return tuple(own.name for own in layer.parameters(shape))

    @cached_property
    def body(self) -> dict[str, Shape]:
        """The shapes of the parameters of all other layers, by name."""
        return {name: shape for name, shape in self.shapes.items() if name not in self.head}

    @cached_property
    def head_dropout(self) -> tuple[str, ...]:
        """The places where dropout acts on what reaches the head: after all other layers that have parameters."""
        first = self._with_parameters[-2] + 1 if self.body else 0
        return tuple(own.name for own, _ in self._walk[first:] if isinstance(own, Dropout))

    @cached_property
    def _with_parameters(self) -> list[int]:
        """The places in `_walk` of the layers that have parameters."""
        return [i for i, (layer, shape) in enumerate(self._walk) if layer.parameters(shape)]

    @property
    def size(self) -> int:
        """How many parameters there are, counted as numbers."""
        return sum(parameter.size for parameter in self.parameters)

    @cached_property
    def parts(self) -> tuple[Sequence, Sequence]:
        """The layers from images to features, and the rest; for a network without convolutions all are in the rest."""
        layers, shape, n = self.layers.layers, self.image, 0
        if not any(isinstance(layer, Convolution) for layer, _ in self._walk):
            return Sequence(), self.layers
        while len(shape) == 3:
            shape = layers[n].output(shape)
            n += 1
        return Sequence(*layers[:n]), Sequence(*layers[n:])

    @property
    def step_operations(self) -> int:
        """Floating-point operations of one training step for one image: two for each multiplication with its addition.

        The backward pass multiplies as often as the forward pass for the gradients of the weights, and as often for
        those of the layers' inputs, less the first layer's, which are the images.
        """
        forward = [parameter.uses * parameter.size for parameter in self.parameters]
        return 2 * (3 * sum(forward) - next(filter(None, forward), 0))

    @property
    def activation_bytes(self) -> int:
        """About what training takes for an image of a trial in float32: activations, and gradients of their sizes."""
        kept = sum(layer.kept(shape) for layer, shape in self._walk)
        return 2 * 4 * (math.prod(self.image) + kept)

    @cached_property
    def _walk(self) -> tuple[tuple[Layer, Shape], ...]:
        return tuple(self.layers.walk(self.image))
