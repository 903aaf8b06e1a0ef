"""One single-threaded process per core: on a CPU the only arrangement that always scales.

A worker that dies (killed, out of memory) takes the stacks in it down with it and nothing else: they are tried again in
fresh workers, the one that trained up to `ATTEMPTS` times and then in halves, until what kills its worker is alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from optbench.execution.event import Event, Failure, Stopped, Verdict, split
from optbench.stacks import Stack

ATTEMPTS = 3

# Set before a worker starts, since libraries read them when they load. Without the last two every step's buffers go
# back to the kernel and come again page by page, up to a third of the time.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}


@dataclass
class _Worker:
    """A process, the stack it trains, and those that wait in it at a rung, each with its epoch.

    `settled` says that there is nothing left to do for the stack's trials.
    """

    connection: Connection
    process: SpawnProcess
    stack: Stack | None = None
    epoch: int = 0
    settled: bool = False
    waiting: dict[Stack, int] = field(default_factory=dict)

    def train(self, stack: Stack, stop: frozenset[str] = frozenset()) -> None:
        self.stack, self.epoch, self.settled = stack, self.waiting.pop(stack, 0), False
        with suppress(OSError):  # the worker is dead; its pipe says so when it is read
            self.connection.send((stack, stop))


def run_in_processes(
    stacks: Sequence[Stack], workers: int, data_dir: Path | None, verdict: Verdict
) -> Generator[Event, None, None]:
    """Train the stacks in `workers` processes; see `execution.run`."""
    new = deque(stacks)
    attempts: Counter[str] = Counter()
    crew: list[_Worker] = []
    try:
        while new or any(worker.stack or worker.waiting for worker in crew):
            for worker in crew:
                if worker.stack is None and (ready := _ready(worker, verdict)):
                    stack, stop = ready
                    if stop:
                        yield stack, Stopped(stop)
                    worker.train(stack, stop)
            while new and sum(worker.stack is not None for worker in crew) < workers:
                idle = next((worker for worker in crew if worker.stack is None), None)
                if idle is None:
                    idle = _Worker(*spawn(_work, data_dir))
                    crew.append(idle)
                stack = new.popleft()
                attempts[stack.stack_id] += 1
                idle.train(stack)
            busy = [worker.connection for worker in crew if worker.stack]
            assert busy, "stacks wait for a verdict that nothing can bring about"
            readable = wait(busy)
            for worker in [worker for worker in crew if worker.connection in readable]:
                assert worker.stack is not None
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    crew.remove(worker)
                    worker.connection.close()
                    worker.process.join()
                    new.extendleft(worker.waiting)
                    attempts.subtract(stack.stack_id for stack in worker.waiting)  # it was not their fault
                    if not worker.settled and attempts[worker.stack.stack_id] < ATTEMPTS:
                        new.appendleft(worker.stack)
                    elif not worker.settled and len(worker.stack) > 1:
                        yield worker.stack, split(worker.stack, new)
                    elif not worker.settled:
                        error = f"its worker process died {ATTEMPTS} times, exit code {worker.process.exitcode}"
                        yield worker.stack, Failure(error)
                    continue
                if isinstance(message, bool):  # no more rows for now: the stack waits at a rung, or is done
                    if message:
                        worker.waiting[worker.stack] = worker.epoch
                    worker.stack = None
                    continue
                if not isinstance(message, Failure):
                    worker.epoch = message[0]["epoch"]
                worker.settled = isinstance(message, Failure) or all(row["status"] != "running" for row in message)
                if isinstance(message, Failure) and message.is_too_large:
                    yield worker.stack, split(worker.stack, new)
                else:
                    yield worker.stack, message
    finally:
        for worker in crew:
            worker.connection.close()
            worker.process.terminate()
            worker.process.join()


def _ready(worker: _Worker, verdict: Verdict) -> tuple[Stack, frozenset[str]] | None:
    """A stack that waits in the worker and may go on."""
    for stack, epoch in worker.waiting.items():
        stop = verdict(stack, epoch)
        if stop is not None:
            return stack, stop
    return None


def spawn(work: Callable[..., None], *arguments: object) -> tuple[Connection, SpawnProcess]:
    """Start `work(connection, *arguments)` in a process for one thread; returns the other end of its pipe, and it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, *arguments), daemon=True)
    with _inherited_by_workers():
        process.start()
    theirs.close()  # so that the worker's death ends the pipe
    return ours, process


@contextmanager
def _inherited_by_workers() -> Iterator[None]:
    """One thread per worker, and a Ctrl-C that reaches only this process, which then stops the workers."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(connection: Connection, data_dir: Path | None) -> None:
    """The worker: receives stacks, sends their rows, then whether the stack waits; ends when the pipe does."""
    import torch

    from optbench.execution.in_process import Trainer

    torch.set_num_threads(1)
    trainer = Trainer("cpu", data_dir)
    try:
        while True:
            try:
                stack, stop = connection.recv()
            except (EOFError, OSError):
                raise
            except Exception:  # it holds an optimizer that this process cannot import
                connection.send(Failure(traceback.format_exc()))
                connection.send(False)
                continue
            for message in trainer.advance(stack, stop):
                connection.send(message)
            connection.send(trainer.waits(stack))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
