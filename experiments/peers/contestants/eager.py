"""The careful loop: data on the device, orders drawn there, fused Adam, one trial after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional as F
from workload import DeviceData, Net, Result, Settings, evaluation_batch, measure, prepare, scores


class Eager:
    """See `workload.Trainer`."""

    def __init__(self, data: DeviceData, settings: Settings) -> None:
        self.data, self.settings = data, settings

    def start(self, seeds: Sequence[int]) -> None:
        torch.manual_seed(seeds[0])
        self.net = Net().to(self.settings.device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), fused=True)

    def epoch(self) -> Iterator[int]:
        self.net.train()
        for batch in self.data.batches(self.settings.batch_size, 1):
            self.optimizer.zero_grad()
            loss = F.nll_loss(self.net(self.data.images[batch[0]]), self.data.labels[batch[0]])
            loss.backward()
            self.optimizer.step()
            yield self.settings.batch_size

    def evaluate(self) -> dict[str, list[float]]:
        self.net.eval()
        size = evaluation_batch(self.settings.device)
        _, accuracies = scores(self.data, size, lambda x: self.net(x)[None], 1)
        return {name: accuracy.tolist() for name, accuracy in accuracies.items()}


def run(settings: Settings) -> Result:
    """One trial after another."""
    prepare(settings)
    data = settings.load()
    trainer = Eager(DeviceData(data, settings.device), settings)
    return measure(trainer, [[seed] for seed in settings.seeds], data, settings)
