"""Modules from elsewhere over a stack: trial by trial, or vectorised over the trials.

Shape suffixes: T trials, S distinct seeds among them, B batch, C channels, H W image, K classes, P all parameters of
one trial in a row, Q all its buffers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from optbench.networks.foreign import Callee, ForeignArchitecture, channels_last
from optbench.networks.forward import Pass, Tensors


@dataclass(frozen=True, eq=False)
class Modules:
    """How a module from elsewhere is initialised and computed."""

    architecture: ForeignArchitecture

    ways = ("loop", "vmapped")
    waits: ClassVar[Collection[str]] = ()
    casts_weights = False  # `torch.autocast` says where a module rounds

    def is_alone(self, way: str) -> bool:
        """Whether each trial has its backward pass before the next one begins, with its activations still at hand."""
        return way == "loop"

    def initialize(self, seeds: Sequence[int], device: torch.device | str, dtype: torch.dtype) -> Tensor:
        """What the constructor draws under each seed, (S, P)."""
        rows = [_row(self._tensors(seed)[0].values(), dtype) for seed in seeds]
        return torch.stack(rows).to(device)

    def buffers(self, seeds: Sequence[int], device: torch.device | str, dtype: torch.dtype) -> Tensor:
        """What else the constructor makes under each seed, (S, Q)."""
        if not self.architecture.buffer_shapes:
            return torch.empty(len(seeds), 0, dtype=dtype, device=device)
        rows = [_row(self._tensors(seed)[1].values(), dtype) for seed in seeds]
        return torch.stack(rows).to(device)

    def _tensors(self, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        architecture = self.architecture
        tensors = architecture.tensors(architecture.build(seed))
        for own, shapes in zip(tensors, (architecture.shapes, architecture.buffer_shapes), strict=True):
            if {name: tuple(tensor.shape) for name, tensor in own.items()} != shapes:
                raise RuntimeError(f"{architecture.name} has other tensors with seed {seed} than with seed 0")
        return tensors

    def logits(self, way: str, stack: Pass, images_SBCHW: Tensor, seed_of_T: Tensor) -> Tensor:
        """(T, B, K); trial t sees the batch `seed_of_T[t]`."""
        device = images_SBCHW.device
        callee = self.architecture.callee(device)
        compute = {"loop": self._loop, "vmapped": self._vmapped}[way]
        # Without its cache, which a recording could not fill anew.
        with torch.autocast(device.type, torch.bfloat16, stack.precision == "bf16", cache_enabled=False):
            return compute(callee, stack, images_SBCHW, seed_of_T)

    def _loop(self, callee: Callee, stack: Pass, images_SBCHW: Tensor, seed_of_T: Tensor) -> Tensor:
        is_last = images_SBCHW.device.type == "cpu" and self.architecture.is_channels_last
        prepared = channels_last if is_last else dict
        made = []
        for t, trial in enumerate(stack.one_by_one()):
            # A copy, since some libraries round by where in memory a tensor begins.
            weights = prepared({name: own.squeeze(0).clone() for name, own in trial.weights.items()})
            images_1BCHW = images_SBCHW.index_select(0, seed_of_T[t : t + 1])
            images_BCHW = prepared({"": images_1BCHW.squeeze(0)})[""]
            buffers = {name: own.squeeze(0) for name, own in trial.buffers.items()}
            tensors = weights | self._copied(buffers)
            scales_BU = [trial.scales[name].squeeze(0) for name in trial.scales]
            with _PoolsInChannelsLast() if is_last else nullcontext():
                made.append(callee(tensors, images_BCHW, self._masks(scales_BU), stack.training))
            if stack.training:
                _keep(tensors, buffers)
        return torch.stack(made)

    def _vmapped(self, callee: Callee, stack: Pass, images_SBCHW: Tensor, seed_of_T: Tensor) -> Tensor:
        is_shared = len(images_SBCHW) == 1
        images = images_SBCHW[0] if is_shared else images_SBCHW.index_select(0, seed_of_T)
        buffers = self._copied(stack.buffers)

        def one(
            weights: dict[str, Tensor], buffers: dict[str, Tensor], scales_BU: list[Tensor], images_BCHW: Tensor
        ) -> tuple[Tensor, dict[str, Tensor]]:
            tensors = weights | buffers
            logits_BK = callee(tensors, images_BCHW, self._masks(scales_BU), stack.training)
            return logits_BK, {name: tensors[name] for name in buffers}

        vectorised = vmap(one, in_dims=(0, 0, 0, None if is_shared else 0))
        logits_TBK, after = vectorised(dict(stack.weights), buffers, list(stack.scales.values()), images)
        if stack.training:
            _keep(after, stack.buffers)
        return logits_TBK

    def _copied(self, buffers: Tensors) -> dict[str, Tensor]:
        """Copies of the buffers, counters and masks in a type of their own.

        Parts of one row would count as changed when one of them is, and autograd refuses what has changed.
        """
        types = self.architecture.buffer_types
        return {
            name: own.clone() if types[name].is_floating_point else own.to(types[name]) for name, own in buffers.items()
        }

    def _masks(self, scales_BU: Sequence[Tensor]) -> list[Tensor]:
        return [place.mask(own) for place, own in zip(self.architecture.places, scales_BU, strict=False)]


class _PoolsInChannelsLast(TorchFunctionMode):
    """Gradients reach max-pooling in this format, which `flatten` loses: in another it takes five times as long."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in (F.max_pool2d, torch.max_pool2d) and isinstance(made, Tensor) and made.requires_grad:
            made.register_hook(lambda grad: grad.contiguous(memory_format=torch.channels_last))
        return made


def _row(tensors: Collection[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.cat([torch.empty(0, dtype=dtype), *(tensor.to(dtype).flatten() for tensor in tensors)])


def _keep(after: Tensors, buffers: Tensors) -> None:
    """Keep what a pass has made of the buffers."""
    for name, own in buffers.items():
        own.copy_(after[name].detach())
