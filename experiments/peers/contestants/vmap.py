"""All trials at once through `torch.func`: vmap over grad, parameters stacked, one Adam over the stack.

Adam is elementwise, so one optimizer over tensors with a leading dimension T is T optimizers. Trials that share a seed
share their batches and dropout draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F
from workload import DeviceData, Net, Result, Settings, evaluation_batch, measure, prepare, scores


class Vmap:
    """See `workload.Trainer`."""

    def __init__(self, data: DeviceData, settings: Settings) -> None:
        self.data, self.settings = data, settings
        self.skeleton = Net().to("meta")  # the weights come from the stack
        of_batch = None if settings.has_shared_seed else 0
        randomness = "same" if settings.has_shared_seed else "different"
        self.gradients = vmap(grad(self._loss), in_dims=(0, of_batch, of_batch), randomness=randomness)
        self.outputs = vmap(self._output, in_dims=(0, None))

    def _output(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(self.skeleton, parameters, (x,))

    def _loss(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.nll_loss(self._output(parameters, x), y)

    def start(self, seeds: Sequence[int]) -> None:
        nets = []
        for seed in seeds:
            torch.manual_seed(seed)
            nets.append(Net().to(self.settings.device))
        self.parameters, _ = stack_module_state(nets)
        self.optimizer = torch.optim.Adam(self.parameters.values(), fused=True)
        # What is differentiated must not also require gradients, or autograd would record the outer computation too.
        self.values = {name: parameter.detach() for name, parameter in self.parameters.items()}

    def epoch(self) -> Iterator[int]:
        self.skeleton.train()
        trials = len(next(iter(self.values.values())))
        is_shared = self.settings.has_shared_seed
        for batch_TB in self.data.batches(self.settings.batch_size, 1 if is_shared else trials):
            batch = batch_TB[0] if is_shared else batch_TB
            gradients = self.gradients(self.values, self.data.images[batch], self.data.labels[batch])
            for name, parameter in self.parameters.items():
                parameter.grad = gradients[name]
            self.optimizer.step()
            yield trials * self.settings.batch_size

    def evaluate(self) -> dict[str, list[float]]:
        self.skeleton.eval()
        trials = len(next(iter(self.values.values())))
        size = evaluation_batch(self.settings.device, self.settings.trials)
        _, accuracies = scores(self.data, size, lambda x: self.outputs(self.values, x), trials)
        return {name: accuracy.tolist() for name, accuracy in accuracies.items()}


def run(settings: Settings) -> Result:
    """All trials at once."""
    prepare(settings)
    data = settings.load()
    trainer = Vmap(DeviceData(data, settings.device), settings)
    return measure(trainer, [settings.seeds], data, settings)
