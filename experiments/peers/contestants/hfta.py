"""Horizontally Fused Training Array (Wang et al., MLSys 2021): all trials as one network of fused operators.

Its operators stand in for torch's (a convolution with T groups, a batched linear layer), its Adam for torch's. It is
not on PyPI: see requirements.txt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from workload import DROPOUT, CannotRunError, DeviceData, Result, Settings, evaluation_batch, measure, prepare, scores


class FusedNet(nn.Module):
    """`workload.Net` of `trials` trials; images (B, T, C, H, W) → log-probabilities (T, B, 10)."""

    def __init__(self, trials: int) -> None:
        from hfta.ops import convert_ops

        super().__init__()
        conv, linear, dropout2d, max_pool = convert_ops(trials, nn.Conv2d, nn.Linear, nn.Dropout2d, nn.MaxPool2d)
        self.conv1 = conv(1, 16, 3)
        self.conv2 = conv(16, 32, 3)
        self.pool = max_pool(2)
        self.dropout1 = dropout2d(DROPOUT)
        self.linear1 = linear(4608, 64)
        self.dropout2 = nn.Dropout(DROPOUT)  # elementwise operators are torch's own
        self.linear2 = linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = self.dropout1(self.pool(x))
        x = x.flatten(2).transpose(0, 1).contiguous()
        x = self.dropout2(F.relu(self.linear1(x)))
        return F.log_softmax(self.linear2(x), dim=2)


class Hfta:
    """See `workload.Trainer`."""

    def __init__(self, data: DeviceData, settings: Settings) -> None:
        self.data, self.settings = data, settings

    def start(self, seeds: Sequence[int]) -> None:
        from hfta.optim import get_hfta_optim_for

        self.trials = len(seeds)
        torch.manual_seed(seeds[0])
        self.net = FusedNet(self.trials).to(self.settings.device)
        self.optimizer = get_hfta_optim_for(torch.optim.Adam, B=self.trials)(list(self.net.parameters()), lr=1e-3)

    def epoch(self) -> Iterator[int]:
        self.net.train()
        for batch_TB in self.data.batches(self.settings.batch_size, self.trials):
            self.optimizer.zero_grad()
            output = self.net(self.data.images[batch_TB.T])
            # The mean over each batch, the sum over the trials: every trial gets the gradient it would get alone.
            loss = F.nll_loss(output.flatten(0, 1), self.data.labels[batch_TB].flatten()) * self.trials
            loss.backward()
            self.optimizer.step()
            yield batch_TB.numel()

    def evaluate(self) -> dict[str, list[float]]:
        self.net.eval()
        size = evaluation_batch(self.settings.device, self.settings.trials)

        def forward(x: Tensor) -> Tensor:
            return self.net(x.unsqueeze(1).repeat(1, self.trials, 1, 1, 1))

        _, accuracies = scores(self.data, size, forward, self.trials)
        return {name: accuracy.tolist() for name, accuracy in accuracies.items()}


def run(settings: Settings) -> Result:
    """All trials at once."""
    try:
        import hfta.ops
        import hfta.optim  # noqa: F401
    except Exception as error:
        raise CannotRunError(f"HFTA does not run with torch {torch.__version__}: {error}") from error
    prepare(settings)
    data = settings.load()
    trainer = Hfta(DeviceData(data, settings.device), settings)
    return measure(trainer, [settings.seeds], data, settings)
