"""How fast stacks train on this device: against a sequential PyTorch loop, and against the least time it must take.

The workload is the cnn with Adam, dropout on and evaluation excluded, on random images. The sequential loop
is the same network as an `nn.Module` under `torch.optim.Adam`, with the data on the device and, on a CPU, PyTorch's
default threads. Throughput counts images × trials per second of the whole device; on a CPU that is all workers, each
with a stack of its own, all at the same time.

No training can be faster than its floor: the fewest bytes at the rate at which the device copies, or the operations at
the rate at which it computes, whichever takes longer. That rate is the better of a large matrix product and a large
convolution: they come from different libraries, and on some CPUs one is twice as fast as the other.

Shape suffixes: T trials, B batch, C channels, H W image, F features, K classes.
"""

from __future__ import annotations

import math
import operator
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optbench import __version__, execution
from optbench.data.info import DATASETS
from optbench.errors import ArgumentError, UserError
from optbench.machine.device import allow_tf32, clock, device_name, is_out_of_memory, make_deterministic, precision_on
from optbench.networks import architecture
from optbench.sweep.spec import parse
from optbench.sweep.stacks import Stack
from optbench.sweep.trials import expand
from optbench.training import engine
from optbench.training.speed import LEARNING_RATE, on_random_images, seconds_per_image

JSON_VERSION = 1
# How many trials a stack has, where nothing else is asked for.
TRIALS_CPU, TRIALS = (1, 4), (1, 8, 32, 128)
_DATASET, _DROPOUT, _CALIBRATION_STEPS, _FEWEST_STEPS = "mnist", 0.25, 4, 3
_DATA = DATASETS[_DATASET]
_CNN = architecture("cnn", _DATA.image, _DATA.classes)
# What is copied must be far larger than all caches; on a CPU the workers share it, with at least so much for each.
_COPIED_BYTES_CPU, _COPIED_BYTES_PER_WORKER, _COPIED_BYTES = 2**29, 2**26, 2**30
_OUT_OF_MEMORY = "too little memory; try fewer trials, fewer workers or a smaller batch size"
_MATRIX_SIDE_CPU, _MATRIX_SIDE = 1024, 8192
_CONVOLUTION_CPU, _CONVOLUTION = (8, 128), (256, 256)  # images, channels
_CONVOLUTION_SIDE = 32


# ---------------------------------------------------------------- the floor


def step_operations(trials: int, batch_size: int) -> int:
    """Floating-point operations of one training step of a stack: two for each multiplication with its addition.

    In the forward pass a weight of a convolution is used once for each pixel of the output, a weight of a linear layer
    once:

        conv1    16 × (1 × 3 × 3)  at 26 × 26      97,344
        conv2    32 × (16 × 3 × 3) at 24 × 24   2,654,208
        linear1  4608 × 64                        294,912
        linear2  64 × 10                              640
                                                3,047,104 multiplications for an image

    The backward pass makes as many for the gradients of the weights, and as many for the gradients of the layers'
    inputs, less conv1's, whose inputs are the images: 3 × 3,047,104 − 97,344 = 9,043,968, and twice that in operations.
    Not counted, about a fiftieth of it at batch size 64: biases, activations, pooling, dropout, the loss and the
    update; and the second computation of conv1 that `step_bytes` assumes.
    """
    return _CNN.step_operations * trials * batch_size


def step_bytes(trials: int, batch_size: int, precision: str = "fp32") -> int:
    """The fewest bytes of device memory that one training step of a stack reads and writes.

    A step is three passes: forward, backward, update. Each is assumed to be fused, to read each of its inputs once and
    to write each of its outputs once, in float32; in bf16 activations have half the bytes. The backward pass computes
    conv1 again rather than read it.

        images, uint8, one seed for the stack     read forward, read backward                  2 × 784      B
        pooled activations, the input of linear1  written forward, read backward               2 × 4608 × 4 B T
        which of four pixels won, one byte        written forward, read backward               2 × 4608     B T
        parameters, 300,426                       read forward, read backward                  2 × 4 P T
        gradients                                 written backward                             1 × 4 P T
        Adam                                      read p, g, m, v; written p, m, v             7 × 4 P T

    The rest is too little to count, or stays on the chip: labels, hidden units and logits, and their gradients.
    """
    _, pooled = _CNN.shapes["linear1.weight"]
    images, activations = 2 * math.prod(_CNN.image), 2 * pooled * ((2 if precision == "bf16" else 4) + 1)
    return images * batch_size + activations * batch_size * trials + 10 * 4 * _CNN.size * trials


# ---------------------------------------------------------------- what was measured


@dataclass(frozen=True)
class Measurement:
    """What was measured of stacks of so many trials, or of the sequential loop, for which `trials` is None.

    `throughput` is in images × trials per second, `ratios` are to the sequential loop; one of each for every repeat.
    """

    trials: int | None
    batch_size: int
    throughput: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def step_seconds(self) -> float:
        """Seconds for a step of one trial: those of the whole device, divided among all that train."""
        return self.batch_size / median(self.throughput)


@dataclass(frozen=True)
class Benchmark:
    """All that was measured on a device, one value for each repeat; rates are in bytes and operations per second.

    `workers` are processes with a stack each, None on a GPU; `threads` are those of the sequential loop on a CPU. Until
    it is complete, repeats, or all figures of a stack, are still missing.
    """

    device: str
    precision: str
    workers: int | None
    threads: int
    seconds: float
    copy_rates: tuple[float, ...]
    matmul_rates: tuple[float, ...]
    convolution_rates: tuple[float, ...]
    measurements: tuple[Measurement, ...]
    is_complete: bool = True

    @property
    def repeats(self) -> int:
        """How often everything was measured."""
        return len(self.copy_rates)

    @property
    def bandwidth(self) -> float:
        """Bytes read and written per second: the best of all copies."""
        return max(self.copy_rates)

    @property
    def arithmetic_rate(self) -> float:
        """Operations per second: the best of all matrix products and convolutions."""
        return max(*self.matmul_rates, *self.convolution_rates)

    def bounds(self, measurement: Measurement) -> tuple[float, float]:
        """The least seconds for a step of one trial: for its bytes and for its operations.

        A device whose caches hold the parameters can undercut the first.
        """
        trials = measurement.trials or 1
        memory = step_bytes(trials, measurement.batch_size, self.precision) / trials / self.bandwidth
        return memory, step_operations(1, measurement.batch_size) / self.arithmetic_rate

    def content(self) -> dict[str, Any]:
        """Everything as plain data for JSON, in bytes, operations and seconds; a rate not measured yet is null."""
        measurements = []
        for measurement in self.measurements:
            memory, arithmetic = self.bounds(measurement)
            measurements.append(
                {
                    "trials": measurement.trials,
                    "batch_size": measurement.batch_size,
                    "throughput": _spread(measurement.throughput),
                    "ratio": _spread(measurement.ratios),
                    "step_seconds": measurement.step_seconds,
                    "floor_seconds": max(memory, arithmetic),
                    "memory_share": memory / measurement.step_seconds,
                    "arithmetic_share": arithmetic / measurement.step_seconds,
                    "step_bytes": step_bytes(measurement.trials or 1, measurement.batch_size, self.precision),
                    "step_operations": step_operations(measurement.trials or 1, measurement.batch_size),
                }
            )
        return {
            "version": JSON_VERSION,
            "complete": self.is_complete,
            "device": self.device,
            "workers": self.workers,
            "threads": self.threads,
            "optbench_version": __version__,
            "torch_version": torch.__version__,
            "model": "cnn",
            "optimizer": "adam",
            "dropout": _DROPOUT,
            "precision": self.precision,
            "repeats": self.repeats,
            "seconds": self.seconds,
            "throughput_unit": "images × trials per second",
            "ceilings": {
                "copy_bytes_per_second": _spread(self.copy_rates),
                "matmul_operations_per_second": _spread(self.matmul_rates),
                "convolution_operations_per_second": _spread(self.convolution_rates),
            },
            "measurements": measurements,
        }


def _spread(values: Sequence[float]) -> dict[str, Any] | None:
    if not values:
        return None
    return {"median": median(values), "min": min(values), "max": max(values), "values": list(values)}


# ---------------------------------------------------------------- what is measured


def stack_of(trials: int, batch_size: int, precision: str) -> Stack:
    """Trials of one seed, as stacks hold them where they can, with Adam and dropout."""
    parameters = f"{{dropout: {_DROPOUT}, precision: {precision}}}"
    (trial,) = expand(parse(f"dataset: {_DATASET}\nepochs: 1\nparameters: {parameters}\noptimizers: {{adam: }}"))
    return Stack((replace(trial, batch_size=batch_size),) * trials)


class SequentialNet(nn.Module):
    """The cnn as everybody writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3)
        self.conv2 = nn.Conv2d(16, 32, 3)
        self.dropout1 = nn.Dropout2d(_DROPOUT)
        self.linear1 = nn.Linear(4608, 64)
        self.dropout2 = nn.Dropout(_DROPOUT)
        self.linear2 = nn.Linear(64, _DATA.classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, K)."""
        x_BCHW = F.relu(self.conv2(F.relu(self.conv1(images_BCHW))))
        x_BF = self.dropout1(F.max_pool2d(x_BCHW, 2)).flatten(1)
        x_BF = self.dropout2(F.relu(self.linear1(x_BF)))
        logits_BK: Tensor = self.linear2(x_BF)
        return logits_BK


class _SequentialLoop:
    """One trial, trained by the loop that everybody writes, over batches on the device; bf16 by autocast."""

    def __init__(self, batch_size: int, device: str, precision: str, seconds: float) -> None:
        self._batch_size, self._device, self._precision = batch_size, device, precision
        self._net = SequentialNet().to(device)
        fused = True if device != "cpu" else None
        self._optimizer = torch.optim.Adam(self._net.parameters(), lr=LEARNING_RATE, fused=fused)
        self._load(_CALIBRATION_STEPS)
        self.throughput()
        self._load(_steps(seconds, batch_size / self.throughput(), batch_size))
        self.throughput()

    def _load(self, steps: int) -> None:
        images = steps * self._batch_size
        self._images = torch.randn(images, *_DATA.image, device=self._device)
        self._labels = torch.randint(_DATA.classes, (images,), device=self._device)

    def throughput(self) -> float:
        """Images per second over one epoch."""
        # Stacks set torch up to be deterministic in this process; the loop need not be.
        kind, is_tf32, is_bf16 = torch.device(self._device).type, self._precision == "tf32", self._precision == "bf16"
        allow_tf32(is_tf32)
        with torch.backends.cudnn.flags(enabled=True, deterministic=False, allow_tf32=is_tf32):
            started = clock(self._device)
            for batch in torch.randperm(len(self._labels), device=self._device).split(self._batch_size):
                self._optimizer.zero_grad()
                with torch.autocast(kind, torch.bfloat16, enabled=is_bf16):
                    loss = F.cross_entropy(self._net(self._images[batch]), self._labels[batch])
                loss.backward()
                self._optimizer.step()
            return len(self._labels) / (clock(self._device) - started)


def _steps(seconds: float, step_seconds: float, batch_size: int) -> int:
    """How many steps take about so many seconds, on a training set no larger than MNIST's."""
    wanted = max(_FEWEST_STEPS, round(seconds / step_seconds))
    return max(1, min(wanted, _DATA.train // batch_size))


# ---------------------------------------------------------------- measuring


class _Meter:
    """Measures in this process: on a GPU the only one, on a CPU one of the workers."""

    def __init__(self, device: str, precision: str) -> None:
        make_deterministic(device)
        self._device, self._precision = device, precision
        self._type = torch.bfloat16 if precision == "bf16" else torch.float32
        self._training: dict[tuple[int, int], engine.Rows] = {}
        self._trained: dict[tuple[int, int], float] = {}

    def copy_rate(self, size: int, seconds: float) -> float:
        """Bytes per second, read and written, of copies of a tensor of `size` bytes."""
        source = torch.empty(size // 8, dtype=torch.int64, device=self._device).random_()
        copy = torch.empty_like(source)
        return self._rate(lambda: copy.copy_(source), 2 * size, seconds)

    def matmul_rate(self, side: int, seconds: float) -> float:
        """Operations per second of products of two matrices, side × side."""
        a, b = (torch.randn(side, side, device=self._device).to(self._type) for _ in range(2))
        product = torch.empty_like(a)
        return self._rate(lambda: torch.mm(a, b, out=product), 2 * side**3, seconds)

    def convolution_rate(self, images: int, channels: int, seconds: float) -> float:
        """Operations per second of 3 × 3 convolutions, as many channels out as in."""
        layout = (
            torch.channels_last if self._device == "cpu" else torch.contiguous_format
        )  # as in `networks.convolution`
        shapes = (images, channels, _CONVOLUTION_SIDE + 2, _CONVOLUTION_SIDE + 2), (channels, channels, 3, 3)
        x, weight = (
            torch.randn(shape, device=self._device).to(self._type).contiguous(memory_format=layout) for shape in shapes
        )
        operations = 2 * images * weight.numel() * _CONVOLUTION_SIDE**2
        return self._rate(lambda: F.conv2d(x, weight), operations, seconds)

    def _rate(self, work: Callable[[], object], amount: int, seconds: float) -> float:
        """How much is done in a second by calls that do `amount` each and take about `seconds` together."""

        def timed(calls: int) -> float:
            started = clock(self._device)
            for _ in range(calls):
                work()
            return clock(self._device) - started

        allow_tf32(self._precision == "tf32")
        timed(1)  # warms up
        calls = max(1, round(seconds / timed(1)))
        return calls * amount / timed(calls)

    def step_seconds(self, trials: int, batch_size: int) -> float:
        """About how many seconds a step of a stack takes."""
        training, _ = seconds_per_image(stack_of(trials, batch_size, self._precision), self._device)
        return training * batch_size

    def start(self, trials: int, batch_size: int, steps: int, epochs: int) -> float:
        """Begin to train a stack for so many epochs; returns the throughput of the first, a warm-up."""
        key = trials, batch_size
        stack = stack_of(trials, batch_size, self._precision)
        training = on_random_images(stack, steps * batch_size, epochs, self._device)
        self._training[key], self._trained[key] = training, next(training)[0]["train_seconds"]
        return self.throughput(trials, batch_size, steps)

    def throughput(self, trials: int, batch_size: int, steps: int) -> float:
        """Images × trials per second of a stack over its next epoch."""
        key = trials, batch_size
        before, self._trained[key] = self._trained[key], next(self._training[key])[0]["train_seconds"]
        return trials * batch_size * steps / (self._trained[key] - before)

    def forget(self) -> float:
        """Free the memory of the stacks."""
        self._training.clear()
        self._trained.clear()
        return 0.0


_Ask = Callable[..., list[float]]


@contextmanager
def _meters(device: str, precision: str, workers: int) -> Iterator[_Ask]:
    """Ask all meters at the same time for what a method of `_Meter` measures: one in each worker, or one here."""
    if device != "cpu":
        meter = _Meter(device, precision)
        yield lambda method, *arguments: [getattr(meter, method)(*arguments)]
        return
    from optbench.execution.processes import spawn

    crew = [spawn(_work, precision) for _ in range(workers)]

    def ask(method: str, *arguments: object) -> list[float]:
        try:
            for connection, _ in crew:
                connection.send((method, arguments))
            answers = [connection.recv() for connection, _ in crew]
        except (EOFError, OSError):
            raise UserError(f"a worker process died, perhaps of {_OUT_OF_MEMORY}") from None
        for answer in answers:
            if isinstance(answer, str):
                raise UserError(_OUT_OF_MEMORY) if "can't allocate memory" in answer else RuntimeError(answer)
        return answers

    try:
        yield ask
    finally:
        for connection, process in crew:
            connection.close()
            process.terminate()
            process.join()


def _work(connection: Connection, precision: str) -> None:
    """The worker: receives a method and its arguments, sends what it returns, or a traceback; ends with the pipe."""
    torch.set_num_threads(1)
    meter = _Meter("cpu", precision)
    try:
        while True:
            method, arguments = connection.recv()
            try:
                connection.send(getattr(meter, method)(*arguments))
            except OSError:
                raise
            except Exception:
                connection.send(traceback.format_exc())
    except (EOFError, OSError):
        pass


@dataclass(frozen=True)
class Request:
    """What to measure.

    device: a resolved one.   precision: as a sweep file names it.   workers: processes on a CPU.
    trials, batch_sizes: of the stacks, in every combination.   repeats: how often everything is measured.
    seconds: about how long one measurement takes, after a warm-up of the same length.
    """

    device: str
    precision: str
    workers: int
    trials: Sequence[int]
    batch_sizes: Sequence[int]
    repeats: int
    seconds: float

    @property
    def is_on_cpu(self) -> bool:
        """Whether workers train, each a stack of its own at the same time."""
        return self.device == "cpu"


def measure(request: Request, say: Callable[[str], None]) -> Generator[Benchmark, None, None]:
    """Measure first the ceilings, then for each batch size the sequential loop and the stacks in alternation.

    Yields what there is after each single measurement, finally all of it. `say` is told each figure, and what takes
    time without one. Raises `UserError` for impossible counts, for a precision that the device does not have, and
    where memory runs out.
    """
    request = _checked(request)
    rates: dict[str, list[float]] = {"copy": [], "matmul": [], "convolution": []}
    measured: dict[tuple[int | None, int], list[float]] = {}

    def so_far(is_complete: bool = False) -> Benchmark:
        return Benchmark(
            device=f"{execution.default_workers()}-core CPU" if request.is_on_cpu else device_name(request.device),
            precision=request.precision,
            workers=request.workers if request.is_on_cpu else None,
            threads=torch.get_num_threads(),
            seconds=request.seconds,
            copy_rates=tuple(rates["copy"]),
            matmul_rates=tuple(rates["matmul"]),
            convolution_rates=tuple(rates["convolution"]),
            measurements=tuple(
                Measurement(n, size, tuple(values), tuple(map(operator.truediv, values, measured[None, size])))
                for (n, size), values in measured.items()
            ),
            is_complete=is_complete,
        )

    say("starting")
    try:
        with _meters(request.device, request.precision, request.workers) as ask:
            for repeat in range(request.repeats):
                for name, rate in _ceilings(ask, request):
                    rates[name].append(rate)
                    unit = "GB/s" if name == "copy" else "GFLOP/s"
                    say(f"{name}, repeat {repeat + 1}/{request.repeats}: {rate / 1e9:,.1f} {unit}")
                    yield so_far()
            for batch_size in request.batch_sizes:
                for n, throughput in _in_turn(batch_size, ask, request, say):
                    values = measured.setdefault((n, batch_size), [])
                    values.append(throughput)
                    name = f"{n or 'loop'} × {batch_size}"
                    say(f"{name}, repeat {len(values)}/{request.repeats}: {throughput:,.0f} images × trials per second")
                    yield so_far()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(_OUT_OF_MEMORY) from None
    yield so_far(is_complete=True)


def _checked(request: Request) -> Request:
    """The request with its precision resolved and every size once."""
    if not 0 < request.seconds < math.inf:
        raise ArgumentError("seconds", f"{request.seconds:g}", "must be more than 0")
    if min(*request.trials, *request.batch_sizes, request.workers, request.repeats) < 1:
        raise UserError("trials, batch sizes, workers and repeats must be at least 1")
    images = DATASETS[_DATASET].train
    if max(request.batch_sizes) > images:
        raise ArgumentError("batch_size", max(request.batch_sizes), f"larger than the training set of {images} images")
    return replace(
        request,
        precision=precision_on(request.device, request.precision),
        workers=request.workers if request.is_on_cpu else 1,
        trials=list(dict.fromkeys(request.trials)),
        batch_sizes=list(dict.fromkeys(request.batch_sizes)),
    )


def _ceilings(ask: _Ask, request: Request) -> Iterator[tuple[str, float]]:
    """What the whole device can do in a second: bytes copied, operations of matrix products and of convolutions."""
    on_cpu, seconds = request.is_on_cpu, request.seconds
    copied = max(_COPIED_BYTES_PER_WORKER, _COPIED_BYTES_CPU // request.workers) if on_cpu else _COPIED_BYTES
    yield "copy", sum(ask("copy_rate", copied, seconds))
    yield "matmul", sum(ask("matmul_rate", _MATRIX_SIDE_CPU if on_cpu else _MATRIX_SIDE, seconds))
    yield "convolution", sum(ask("convolution_rate", *(_CONVOLUTION_CPU if on_cpu else _CONVOLUTION), seconds))


def _in_turn(
    batch_size: int, ask: _Ask, request: Request, say: Callable[[str], None]
) -> Iterator[tuple[int | None, float]]:
    """Throughput of the sequential loop (None), then of stacks of so many trials, over and over.

    Each warms up right before it is first measured, so that a failure loses no figure of those before it.
    """

    def warmed_up(n: int | None) -> Callable[[], float]:
        say(f"{n or 'loop'} × {batch_size}: warming up")
        if n is None:
            return _SequentialLoop(batch_size, request.device, request.precision, request.seconds).throughput
        steps = _steps(request.seconds, max(ask("step_seconds", n, batch_size)), batch_size)
        ask("start", n, batch_size, steps, request.repeats + 1)
        return lambda: sum(ask("throughput", n, batch_size, steps))

    throughput: dict[int | None, Callable[[], float]] = {}
    for n in (None, *request.trials):
        throughput[n] = warmed_up(n)
        yield n, throughput[n]()
    for _ in range(request.repeats - 1):
        for n, once_more in throughput.items():
            yield n, once_more()
    ask("forget")
