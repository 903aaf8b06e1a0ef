"""Stacks to workers: which worker trains what next, and what happens to the stacks of one that dies.

A worker that dies (killed, out of memory) takes only its own stacks down with it: they are tried again in fresh
workers, the one that was training up to `ATTEMPTS` times and then in halves, until the trial that kills its worker is
alone.

This module does not know what a worker is: another kind is another class with the methods of `Worker`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

from optbench.execution.event import Event, Failure, Halved, Stopped, Verdict, halve
from optbench.sweep.stacks import Stack

ATTEMPTS = 3


@dataclass(frozen=True)
class Idle:
    """A worker has no more rows of a stack for now: it waits at a rung, or is done."""

    waits: bool


class WorkerDiedError(Exception):
    """A worker died; the text says how."""


class Worker(ABC):
    """Trains one stack at a time, while others wait in it at a rung. The constructor starts it."""

    @abstractmethod
    def train(self, stack: Stack, stop: frozenset[str]) -> None:
        """Begin a stack, or resume one that waits here, without the trials in `stop`; returns at once.

        Never raises for a dead worker: `receive` does.
        """

    @abstractmethod
    def receive(self) -> list[dict[str, Any]] | Failure | Idle:
        """Rows of its stack, or why that failed, or, when there are no more rows, that the worker is idle.

        Waits until there is something. Raises `WorkerDiedError`.
        """

    @classmethod
    @abstractmethod
    def ready(cls, workers: Sequence[Self]) -> list[Self]:
        """The workers that have something to receive or died; waits until there is one."""

    @abstractmethod
    def close(self) -> None:
        """End it at once, whatever it is doing."""


class Queue:
    """The stacks that have not begun, and what happens to those whose worker died."""

    def __init__(self, stacks: Iterable[Stack]) -> None:
        self._stacks = deque(stacks)
        self._attempts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._stacks)

    def take(self) -> Stack:
        """The next stack, which now begins: one more attempt."""
        stack = self._stacks.popleft()
        self._attempts[stack.stack_id] += 1
        return stack

    def halve(self, stack: Stack) -> Halved:
        """The halves of a stack come next."""
        return halve(stack, self._stacks)

    def put_back(self, waiting: Sequence[Stack]) -> None:
        """These waited in a worker that died, which was not their fault: they begin again, and no attempt counts."""
        self._stacks.extendleft(waiting)
        self._attempts.subtract(stack.stack_id for stack in waiting)

    def again(self, stack: Stack, how: str) -> Halved | Failure | None:
        """This one was training when its worker died; `how` says how. None: it is tried once more."""
        if self._attempts[stack.stack_id] < ATTEMPTS:
            self._stacks.appendleft(stack)
            return None
        if len(stack) > 1:
            return self.halve(stack)
        return Failure(f"its worker process died {ATTEMPTS} times, {how}")


W = TypeVar("W", bound=Worker)


@dataclass
class _Seat(Generic[W]):
    """A worker, the stack it trains, and those that wait in it, each with its epoch.

    `settled` says that nothing is left to do for the stack's trials.
    """

    worker: W
    stack: Stack | None = None
    epoch: int = 0
    settled: bool = False
    waiting: dict[Stack, int] = field(default_factory=dict)

    def train(self, stack: Stack, stop: frozenset[str] = frozenset()) -> None:
        self.stack, self.epoch, self.settled = stack, self.waiting.pop(stack, 0), False
        self.worker.train(stack, stop)

    def rest(self, is_waiting: bool) -> None:
        assert self.stack is not None
        if is_waiting:
            self.waiting[self.stack] = self.epoch
        self.stack = None

    def resumable(self, verdict: Verdict) -> tuple[Stack, frozenset[str]] | None:
        """A stack that waits here and may go on, and which of its trials may not."""
        for stack, epoch in self.waiting.items():
            stop = verdict(stack, epoch)
            if stop is not None:
                return stack, stop
        return None


def run_in_workers(
    stacks: Sequence[Stack], start: Callable[[], W], workers: int, verdict: Verdict
) -> Generator[Event, None, None]:
    """Train the stacks in that many workers, each made by `start` when it is needed; see `execution.run`."""
    queue, seats = Queue(stacks), list[_Seat[W]]()
    try:
        while queue or any(seat.stack or seat.waiting for seat in seats):
            yield from _resume(seats, verdict)
            _begin(queue, seats, start, workers)
            busy = [seat for seat in seats if seat.stack]
            assert busy, "stacks wait for a verdict that nothing can bring about"
            ready = busy[0].worker.ready([seat.worker for seat in busy])
            for seat in [seat for seat in busy if seat.worker in ready]:
                try:
                    message = seat.worker.receive()
                except WorkerDiedError as death:
                    seats.remove(seat)
                    yield from _bury(seat, queue, str(death))
                else:
                    yield from _hear(seat, queue, message)
    finally:
        for seat in seats:
            seat.worker.close()


def _resume(seats: Sequence[_Seat[W]], verdict: Verdict) -> Iterator[Event]:
    """Idle workers resume the stacks that wait in them, once there is a verdict: stacks stay in their worker."""
    for seat in seats:
        if seat.stack is None and (ready := seat.resumable(verdict)):
            stack, stop = ready
            if stop:
                yield stack, Stopped(stop)
            seat.train(stack, stop)


def _begin(queue: Queue, seats: list[_Seat[W]], start: Callable[[], W], workers: int) -> None:
    """Idle workers begin new stacks; fresh workers do, too, as long as fewer than `workers` train."""
    while queue and sum(seat.stack is not None for seat in seats) < workers:
        idle = next((seat for seat in seats if seat.stack is None), None)
        if idle is None:
            idle = _Seat(start())
            seats.append(idle)
        idle.train(queue.take())


def _hear(seat: _Seat[W], queue: Queue, message: list[dict[str, Any]] | Failure | Idle) -> Iterator[Event]:
    assert seat.stack is not None
    if isinstance(message, Idle):
        seat.rest(message.waits)
        return
    if isinstance(message, Failure):
        seat.settled = True
        yield seat.stack, queue.halve(seat.stack) if message.is_too_large else message
        return
    seat.epoch = message[0]["epoch"]
    seat.settled = all(row["status"] != "running" for row in message)
    yield seat.stack, message


def _bury(seat: _Seat[W], queue: Queue, how: str) -> Iterator[Event]:
    """A worker died: its stacks go back to the queue, except one that has nothing left to do or is given up."""
    assert seat.stack is not None
    seat.worker.close()
    queue.put_back(list(seat.waiting))
    end = None if seat.settled else queue.again(seat.stack, how)
    if end:
        yield seat.stack, end
