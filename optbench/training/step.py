"""The training steps of a stack, on memory that stays in place: a CUDA device records one step and replays it.

A step of small networks is a hundred small kernels, and launching them one by one costs more than running them. So all
that changes from step to step is read from tensors that are filled for many steps at once, and the step finds its place
in them by a counter that it moves itself; nothing waits for the host. Other devices run the same step unrecorded.

Shape suffixes: T trials, S distinct seeds among them, N examples or steps of an epoch, B batch, C channels, H W image,
P parameters, Q buffers, U dropout units; h and w are the height and width of padded images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from optbench.data.datasets import Dataset
from optbench.errors import warn_slower
from optbench.machine import randomness
from optbench.machine.device import is_out_of_memory
from optbench.networks.network import Network
from optbench.sweep.trials import Trial
from optbench.training.recipe import Clipping, label_smoothing
from optbench.training.stacked import StackedOptimizer

# Dropout is drawn at once for as many steps as need about this many numbers: on a CPU small tensors cost more in calls
# than in arithmetic, and large ones do not fit its caches; on a GPU memory is the limit.
DROPOUT_NUMBERS = {"cpu": 200_000, "cuda": 2**24}
_WARM_UP = 3  # steps before a recording


class Steps:
    """The steps of an epoch for `trials`, whose weights are `parameters_TP`; they train them in place.

    The network's `buffers_TQ` change, too, and `finite_T` turns false where a loss was not finite. `per_epoch` is the
    number of steps of a whole epoch, `steps` that of this one, `done` how many were made since `begin`.
    """

    def __init__(
        self,
        network: Network,
        data: Dataset,
        trials: Sequence[Trial],
        parameters_TP: Tensor,
        buffers_TQ: Tensor,
        optimizer: StackedOptimizer,
        finite_T: Tensor,
    ) -> None:
        device, like = parameters_TP.device, parameters_TP
        self._network, self._data, self._device = network, data, device
        self._parameters_TP, self._buffers_TQ = parameters_TP, buffers_TQ
        self._optimizer, self._finite_T = optimizer, finite_T
        self._seeds, self._seed_of_T = distinct_seeds([trial.seed for trial in trials], device)
        self._batch_size = trials[0].batch_size
        examples = len(data.train.labels)
        self.per_epoch = examples // self._batch_size  # the examples left over differ from epoch to epoch
        self.steps, self.done = self.per_epoch, 0

        self._epoch = 0
        self._lrs_NT: Sequence[Sequence[float]] = ()
        self._order_SN = torch.zeros(len(self._seeds), examples, dtype=torch.int64, device=device)
        self._lr_NT1 = torch.zeros(self.per_epoch, len(trials), 1, dtype=like.dtype, device=device)
        self._step_of_epoch = torch.zeros((), dtype=torch.int64, device=device)
        self._step_of_chunk = torch.zeros((), dtype=torch.int64, device=device)
        self._places_B = torch.arange(self._batch_size, device=device)
        self._dropout = _Dropout(network, trials, len(self._seeds), self.per_epoch, like)
        self._smoothing_T = label_smoothing(trials, like)
        self._clipping = Clipping(trials, like)
        self._augmenting = _Augmenting(trials[0], len(self._seeds), self._dropout.steps, device)
        self._chunk_ends = 0  # the step before which both are drawn again
        self._recorded: Callable[[], object] | None = None
        self._cannot_be_recorded = False

    def prepare(self) -> None:
        """Record the step, if the device can; once, and again after `release`."""
        if self._recorded is not None or self._cannot_be_recorded:
            return
        self._step_of_epoch.fill_(self.done)  # after an epoch the counters point past its last step
        if not 0 < self.done < self._chunk_ends:
            self._step_of_chunk.zero_()
        trained = [self._parameters_TP, self._buffers_TQ, self._finite_T, *self._optimizer.tensors()]
        try:
            changed = [*trained, self._step_of_epoch, self._step_of_chunk]
            self._recorded = record(self._step, changed, self._device)
        except RecordingError as error:
            self._cannot_be_recorded = True
            warn_slower("steps that cannot be recorded are launched one by one, which is slower", str(error))

    def release(self) -> None:
        """Free the memory of the recording while others train; it is made again when it is needed."""
        self._recorded = None
        del self._batch, self._loss_T, self._gradients_TP

    def begin(self, epoch: int, lrs_NT: Sequence[Sequence[float]], done: int = 0) -> None:
        """Begin an epoch, counted from 1, with the learning rates of all its steps; `done` were made before."""
        self._epoch, self._lrs_NT, self.done, self._chunk_ends = epoch, lrs_NT, done, done
        self.steps = len(lrs_NT)
        self._order_SN.copy_(randomness.permutation(self._seeds, epoch, self._order_SN.shape[1], self._device))
        self._lr_NT1[: self.steps].copy_(torch.tensor(lrs_NT, dtype=torch.float64).unsqueeze(-1))
        self._step_of_epoch.fill_(done)

    def step(self) -> Tensor:
        """The next step of the epoch; returns the losses (T,), in memory that the next step reuses."""
        if self.done == self._chunk_ends:
            n = min(self._dropout.steps, self.steps - self.done)
            self._dropout.draw(self._seeds, self._epoch, self.done, n)
            self._augmenting.draw(self._seeds, self._epoch, self.done, n)
            self._step_of_chunk.zero_()
            self._chunk_ends += n
        (self._recorded or self._step)()
        self._optimizer.step_singles(self._loss_T, self._gradients_TP, self._lrs_NT[self.done], self._again)
        self.done += 1
        return self._loss_T

    def _step(self) -> None:
        place_B = self._step_of_epoch * self._batch_size + self._places_B
        batch_SB = self._order_SN.index_select(1, place_B)
        drawn_B = self._step_of_chunk * self._batch_size + self._places_B
        pixels_SBCHW = self._augmenting.change(self._data.train.images[batch_SB], drawn_B)
        images_SBCHW = self._data.normalise(pixels_SBCHW, self._parameters_TP.dtype)
        labels_SB = self._data.train.labels[batch_SB]
        scale_TBU = self._dropout.scale(drawn_B, self._seed_of_T)
        self._batch = images_SBCHW, labels_SB, scale_TBU
        self._loss_T, self._gradients_TP = self._network.loss_and_gradients(
            self._parameters_TP,
            images_SBCHW,
            labels_SB,
            self._seed_of_T,
            scale_TBU,
            self._buffers_TQ,
            self._smoothing_T,
        )
        self._clipping.clip_(self._gradients_TP)
        lr_T1 = self._lr_NT1.index_select(0, self._step_of_epoch.unsqueeze(0)).squeeze(0)
        self._optimizer.step_groups(self._gradients_TP, lr_T1)
        self._finite_T &= self._loss_T.isfinite()
        self._step_of_epoch.add_(1)
        self._step_of_chunk.add_(1)

    def _again(self, t: int) -> tuple[Tensor, Tensor]:
        """Loss and gradient of trial `t` at its present weights, on the last batch. Buffers change, as in torch."""
        images_SBCHW, labels_SB, scale_TBU = self._batch
        row = slice(t, t + 1)
        with torch.enable_grad():  # optimizers step without
            loss_T, gradient_TP = self._network.loss_and_gradients(
                self._parameters_TP[row],
                images_SBCHW,
                labels_SB,
                self._seed_of_T[row],
                None if scale_TBU is None else scale_TBU[row],
                self._buffers_TQ[row],
                None if self._smoothing_T is None else self._smoothing_T[row],
            )
        self._clipping.clip_(gradient_TP, row)
        return loss_T[0], gradient_TP[0]


class _Dropout:
    """What dropout multiplies the units of each example with, drawn for `steps` steps at a time."""

    def __init__(self, network: Network, trials: Sequence[Trial], seeds: int, steps: int, like: Tensor) -> None:
        device, batch_size = like.device, trials[0].batch_size
        places = network.architecture.dropout.values()
        rates = [network.dropout_rates(trial.dropout) for trial in trials]
        self._is_on = any(map(any, rates))
        self.steps = steps
        if not self._is_on:
            return
        units = sum(units for _, units in places)
        units_of_place = torch.tensor([units for _, units in places], device=device)
        rate_TU = torch.tensor(rates, dtype=like.dtype, device=device).repeat_interleave(
            units_of_place, dim=1, output_size=units
        )
        self._rate_T1U = rate_TU.unsqueeze(1)
        self._scale_T1U = 1 / (1 - self._rate_T1U)
        numbers = DROPOUT_NUMBERS["cpu"] * seeds if device.type == "cpu" else DROPOUT_NUMBERS["cuda"]
        self.steps = max(1, min(steps, numbers // (seeds * batch_size * units)))
        self._batch_size, self._units = batch_size, units
        self._uniform_SNU = torch.zeros(seeds, self.steps * batch_size, units, device=device)

    def draw(self, seeds: Sequence[int], epoch: int, first: int, n: int) -> None:
        """Draw the numbers for `n` steps, from step `first` of the epoch on."""
        if self._is_on:
            size = self._batch_size
            uniform_SNU = randomness.dropout(
                seeds, epoch, first * size, n * size, self._units, self._uniform_SNU.device
            )
            self._uniform_SNU[:, : n * size].copy_(uniform_SNU)

    def scale(self, place_B: Tensor, seed_of_T: Tensor) -> Tensor | None:
        """(T, B, U): 0 or 1 / (1 - rate), for the examples at these places; None when no trial has any dropout."""
        if not self._is_on:
            return None
        uniform_SBU = self._uniform_SNU.index_select(1, place_B)
        return (uniform_SBU[seed_of_T] >= self._rate_T1U) * self._scale_T1U


class _Augmenting:
    """Random flips and crops of the images of each seed, drawn for as many steps at a time as dropout.

    Images are changed before they are normalised, so that what a crop adds is black, pixel 0.
    """

    def __init__(self, trial: Trial, seeds: int, steps: int, device: torch.device) -> None:
        self._is_on = trial.augment is not None
        if trial.augment is None:
            return
        self._flip, self._crop = trial.augment
        self._batch_size, (_, height, width) = trial.batch_size, trial.data.image
        self._uniform_SN3 = torch.zeros(seeds, steps * self._batch_size, 3, device=device)
        self._rows_H, self._columns_W = torch.arange(height, device=device), torch.arange(width, device=device)

    def draw(self, seeds: Sequence[int], epoch: int, first: int, n: int) -> None:
        """Draw the numbers for `n` steps, from step `first` of the epoch on."""
        if self._is_on:
            size = self._batch_size
            uniform_SN3 = randomness.augmentation(seeds, epoch, first * size, n * size, self._uniform_SN3.device)
            self._uniform_SN3[:, : n * size].copy_(uniform_SN3)

    def change(self, pixels_SBCHW: Tensor, place_B: Tensor) -> Tensor:
        """The images with what was drawn for these places."""
        if not self._is_on:
            return pixels_SBCHW
        uniform_SB3 = self._uniform_SN3.index_select(1, place_B)
        start_SB2 = (uniform_SB3[..., 1:] * (2 * self._crop + 1)).long()
        columns_SBW = self._columns_W.expand(*start_SB2.shape[:2], -1)
        if self._flip:
            columns_SBW = torch.where(uniform_SB3[..., :1] < 0.5, columns_SBW.flip(-1), columns_SBW)
        rows_SBCHw = (start_SB2[..., :1] + self._rows_H)[:, :, None, :, None]
        columns_SBChW = (start_SB2[..., 1:] + columns_SBW)[:, :, None, None, :]
        padded_SBChw = torch.nn.functional.pad(pixels_SBCHW, [self._crop] * 4)
        *shape, height, width = pixels_SBCHW.shape
        cropped_SBCHw = padded_SBChw.gather(3, rows_SBCHw.expand(*shape, height, padded_SBChw.shape[-1]))
        return cropped_SBCHw.gather(4, columns_SBChW.expand(*shape, height, width))


def distinct_seeds(seeds: Sequence[int], device: torch.device) -> tuple[list[int], Tensor]:
    """The distinct seeds, and which of them each trial has, an int64 index (T,)."""
    distinct = list(dict.fromkeys(seeds))
    return distinct, torch.tensor([distinct.index(seed) for seed in seeds], device=device)


class RecordingError(Exception):
    """Work that runs, but cannot be recorded."""


def record(work: Callable[[], object], changed: Sequence[Tensor], device: torch.device) -> Callable[[], object] | None:
    """The work as a CUDA graph, which can be called any number of times; None on other devices.

    `changed` are all tensors that it changes and did not make; their values are restored. Raises what the work itself
    raises, the device's error where it has too little memory for the recording, and otherwise `RecordingError`.
    """
    if device.type != "cuda":
        return None
    with torch.cuda.device(device):
        current, side = torch.cuda.current_stream(), _side_stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            warm_up(work, changed)
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=side):
                work()
        except Exception as error:
            torch.cuda.set_stream(current)  # a recording that breaks off leaves its own in place
            if is_out_of_memory(error):
                raise
            raise RecordingError(f"{type(error).__name__}: {error}") from error
    return graph.replay


def warm_up(work: Callable[[], object], changed: Sequence[Tensor]) -> None:
    """Do the work a few times, so that libraries make their choices and workspaces, and undo what it changed."""
    before = [tensor.clone() for tensor in changed]
    for _ in range(_WARM_UP):
        work()
        for tensor, value in zip(changed, before, strict=True):
            tensor.copy_(value)


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The same for all recordings: cuBLAS keeps a workspace for each stream that it has seen, 32 MiB on large GPUs."""
    return torch.cuda.Stream(device)
