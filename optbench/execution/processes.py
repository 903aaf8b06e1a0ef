"""One single-threaded process per core: on a CPU the only arrangement that always scales.

A worker that dies (killed, out of memory) takes its stack down with it and nothing else: the stack is tried again in
a fresh worker, up to `ATTEMPTS` times.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from optbench.execution.event import Event, Failure
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


def run_in_processes(stacks: Sequence[Stack], workers: int, data_dir: Path | None) -> Generator[Event, None, None]:
    """Train the stacks in `workers` processes; see `execution.run`."""
    waiting = deque(stacks)
    attempts: Counter[str] = Counter()
    complete: set[str] = set()
    busy: dict[Connection, tuple[SpawnProcess, Stack]] = {}
    idle: list[tuple[Connection, SpawnProcess]] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                connection, process = idle.pop() if idle else _start(data_dir)
                stack = waiting.popleft()
                attempts[stack.stack_id] += 1
                busy[connection] = process, stack
                _send(connection, stack)
            ready = wait(list(busy))
            for connection in [c for c in busy if c in ready]:
                process, stack = busy[connection]
                try:
                    message = connection.recv()
                except (EOFError, OSError):
                    del busy[connection]
                    connection.close()
                    process.join()
                    if stack.stack_id in complete:
                        pass  # it died after its work was done
                    elif attempts[stack.stack_id] < ATTEMPTS:
                        waiting.appendleft(stack)
                    else:
                        yield stack, Failure(f"its worker process died {ATTEMPTS} times, exit code {process.exitcode}")
                    continue
                if message is None:  # the stack is done
                    del busy[connection]
                    idle.append((connection, process))
                else:
                    if isinstance(message, Failure) or message[0]["epoch"] == stack.epochs:
                        complete.add(stack.stack_id)
                    yield stack, message
    finally:
        for connection, process in [*idle, *((c, p) for c, (p, _) in busy.items())]:
            connection.close()
            process.terminate()
            process.join()


def _start(data_dir: Path | None) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, data_dir), daemon=True)
    with _inherited_by_workers():
        process.start()
    theirs.close()  # so that the worker's death ends the pipe
    return ours, process


def _send(connection: Connection, stack: Stack) -> None:
    with suppress(OSError):  # the worker is dead; its pipe says so when it is read
        connection.send(stack)


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
    """The worker: receives stacks, sends their rows, then None; ends when the pipe does."""
    import torch

    from optbench.execution.in_process import run_in_process

    torch.set_num_threads(1)
    try:
        # One call for all stacks, so that the dataset is loaded once.
        for _, message in run_in_process(_received(connection), "cpu", data_dir):
            connection.send(message)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass


def _received(connection: Connection) -> Iterator[Stack]:
    while True:
        yield connection.recv()
        connection.send(None)
