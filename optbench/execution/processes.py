"""One single-threaded process per core: on a CPU the only arrangement that always scales."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

from optbench.execution.event import Event, Failure, Verdict
from optbench.execution.workers import Idle, Worker, WorkerDiedError, run_in_workers
from optbench.sweep.stacks import Stack

# Set before a worker starts, since libraries read them when they load. Without the last two every step's buffers are
# returned to the kernel and mapped again page by page, which takes up to a third of the time.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}
# A process that was forked from this one would have half of what its threads were doing.
CONTEXT = multiprocessing.get_context("spawn")
_STARTING = threading.Lock()  # the environment belongs to all threads, the interrupts to one


def run_in_processes(
    stacks: Sequence[Stack], workers: int, data_dir: Path | None, verdict: Verdict
) -> Generator[Event, None, None]:
    """Train the stacks in `workers` processes; see `execution.run`."""
    return run_in_workers(stacks, partial(Process, data_dir), workers, verdict)


class Process(Worker):
    """A process on this machine, reached through a pipe."""

    def __init__(self, data_dir: Path | None) -> None:
        self._connection, self._process = spawn(_work, data_dir)

    def train(self, stack: Stack, stop: frozenset[str]) -> None:
        with suppress(OSError):  # it is dead; reading its pipe will show that
            self._connection.send((stack, stop))

    def receive(self) -> list[dict[str, Any]] | Failure | Idle:
        try:
            message: list[dict[str, Any]] | Failure | Idle = self._connection.recv()
        except (EOFError, OSError):
            self._connection.close()
            self._process.join()
            raise WorkerDiedError(f"exit code {self._process.exitcode}") from None
        return message

    @classmethod
    def ready(cls, workers: Sequence[Self]) -> list[Self]:
        readable = wait([worker._connection for worker in workers])
        return [worker for worker in workers if worker._connection in readable]

    def close(self) -> None:
        self._connection.close()
        self._process.terminate()
        self._process.join()


def spawn(work: Callable[..., None], *arguments: object) -> tuple[Connection, BaseProcess]:
    """Start `work(connection, *arguments)` in a single-threaded process; returns our end of its pipe, and it."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=work, args=(theirs, *arguments), daemon=True)
    with _STARTING, _environment(), _deaf_to_interrupts():
        process.start()
    theirs.close()  # so that the worker's death ends the pipe
    return ours, process


@contextmanager
def _environment() -> Iterator[None]:
    """One thread per worker."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """A Ctrl-C reaches only this process, which then stops the workers: processes started meanwhile ignore it.

    Only the main thread may set what a signal does, but every thread may block it for itself and what it starts.
    """
    if threading.current_thread() is threading.main_thread():
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, handler)
        return
    resource_tracker.ensure_running()  # else it starts with the first worker and unblocks signals
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _work(connection: Connection, data_dir: Path | None) -> None:
    """The worker: receives stacks, sends their rows, then that it is idle; ends when the pipe does."""
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
            except Exception:  # the stack has an optimizer that this process cannot import
                connection.send(Failure(traceback.format_exc()))
                connection.send(Idle(waits=False))
                continue
            for message in trainer.advance(stack, stop):
                connection.send(message)
            connection.send(Idle(trainer.waits(stack)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
