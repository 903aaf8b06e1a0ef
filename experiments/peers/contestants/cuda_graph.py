"""The careful loop with its step captured in a CUDA graph, one trial after another.

The graph is captured once; a new trial writes its weights into the same memory and sets the optimizer's state to zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional as F
from workload import CannotRunError, DeviceData, Net, Result, Settings, evaluation_batch, measure, prepare, scores

_STEPS_BEFORE_CAPTURE = 3


class CudaGraph:
    """See `workload.Trainer`."""

    def __init__(self, data: DeviceData, settings: Settings) -> None:
        self.data, self.settings = data, settings
        self.net = Net().to("cuda")
        self.optimizer = torch.optim.Adam(self.net.parameters(), fused=True, capturable=True)
        self.batch = torch.zeros(settings.batch_size, dtype=torch.int64, device="cuda")
        self.net.train()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_STEPS_BEFORE_CAPTURE):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        self.optimizer.zero_grad(set_to_none=True)  # so that each replay writes the gradients instead of adding to them
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._step()

    def _step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.nll_loss(self.net(self.data.images[self.batch]), self.data.labels[self.batch])
        loss.backward()
        self.optimizer.step()

    def start(self, seeds: Sequence[int]) -> None:
        torch.manual_seed(seeds[0])
        self.net.load_state_dict(Net().state_dict())
        with torch.no_grad():
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()

    def epoch(self) -> Iterator[int]:
        for batch in self.data.batches(self.settings.batch_size, 1):
            self.batch.copy_(batch[0])
            self.graph.replay()
            yield self.settings.batch_size

    def evaluate(self) -> dict[str, list[float]]:
        self.net.eval()
        _, accuracies = scores(self.data, evaluation_batch("cuda"), lambda x: self.net(x)[None], 1)
        self.net.train()
        return {name: accuracy.tolist() for name, accuracy in accuracies.items()}


def run(settings: Settings) -> Result:
    """One trial after another."""
    if settings.device != "cuda":
        raise CannotRunError("CUDA graphs need a CUDA device")
    prepare(settings)
    data = settings.load()
    trainer = CudaGraph(DeviceData(data, "cuda"), settings)
    return measure(trainer, [[seed] for seed in settings.seeds], data, settings)
