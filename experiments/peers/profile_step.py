"""Where the time of a stack's training step goes: milliseconds for a step, and the kernels that take them.

    python3 experiments/peers/profile_step.py --trials 128

The cnn with Adam and dropout on random images, as `optbench bench` trains it; first recorded, as it always is on a
CUDA device, then with every kernel launched. Milliseconds are measured without the profiler, kernels by torch.profiler
in the epoch after that; in the rest of a step the device waited.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from candidates import Figures, append
from torch.profiler import ProfilerActivity, profile

from optbench import bench
from optbench.machine.device import make_deterministic
from optbench.training import engine, speed, step

_WIDTH = 90  # of a kernel's name, which has all its template's arguments


def of_epochs(given: argparse.Namespace, profiler: profile) -> float:
    """Milliseconds for a step of an epoch; the profiler then watches the training of the epoch after it."""
    stack = bench.stack_of(given.trials, given.batch_size, given.precision)
    training = speed.on_random_images(stack, given.steps * given.batch_size, 3, given.device)
    _, warm, timed = (next(training)[0]["train_seconds"] for _ in range(3))
    epoch = engine.Training.epoch

    def profiled(training: engine.Training) -> None:
        with profiler:
            epoch(training)

    with mock.patch.object(engine.Training, "epoch", profiled):
        next(training)
    return 1e3 * (timed - warm) / given.steps


def kernels(profiler: profile, given: argparse.Namespace) -> list[Figures]:
    """What ran on the device, the longest first: name, calls and milliseconds of a step."""
    on_cuda = given.device != "cpu"
    rows = [
        {
            "kernel": event.key[:_WIDTH],
            "calls": event.count / given.steps,
            "milliseconds": (event.self_device_time_total if on_cuda else event.self_cpu_time_total)
            / 1e3
            / given.steps,
        }
        for event in profiler.key_averages()
        if (event.device_type == torch.autograd.DeviceType.CUDA) == on_cuda
    ]
    return sorted(rows, key=lambda row: -row["milliseconds"])


def table(rows: list[Figures], milliseconds: float, most: int) -> str:
    """The kernels as text, with their share of the step."""
    busy = sum(row["milliseconds"] for row in rows)
    lines = [
        f"{milliseconds:.3f} ms per step, {busy:.3f} of them in {len(rows)} kinds of kernels",
        "     ms  share   calls  kernel",
    ]
    for row in rows[:most]:
        share = row["milliseconds"] / milliseconds
        lines.append(f"{row['milliseconds']:7.4f} {share:6.1%} {row['calls']:7.1f}  {row['kernel']}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--steps", type=int, default=50, help="of an epoch")
    parser.add_argument("--top", type=int, default=25, help="how many kernels are listed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="append the figures to this file, a line of JSON")
    given = parser.parse_args()
    make_deterministic(given.device)
    activities = [ProfilerActivity.CPU] if given.device == "cpu" else [ProfilerActivity.CUDA]
    for how in ("recorded", "launched"):
        unrecorded = mock.patch.object(step, "record", return_value=None)
        with unrecorded if how == "launched" else nullcontext():
            profiler = profile(activities=activities, acc_events=True)
            milliseconds = of_epochs(given, profiler)
        rows = kernels(profiler, given)
        print(f"\nT = {given.trials}, {how}: {table(rows, milliseconds, given.top)}", flush=True)
        of = {"profile": how, "trials": given.trials, "batch_size": given.batch_size, "milliseconds": milliseconds}
        append(of | {"kernels": rows[: given.top]}, given.output)


if __name__ == "__main__":
    main()
