"""Stacks to workers: which of them trains what next, and what becomes of the stacks in one that dies.

A worker that dies (killed, out of memory) takes the stacks in it down with it and nothing else: they are tried again in
fresh workers, the one that trained up to `ATTEMPTS` times and then in halves, until what kills its worker is alone.

What a worker is made of is not known here: another kind of them is another class with the methods of `Worker`.
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
    """A worker is no more; the text says how it ended."""


class Worker(ABC):
    """Trains one stack at a time, while others wait in it at a rung. Made, it has been started."""

    @abstractmethod
    def train(self, stack: Stack, stop: frozenset[str]) -> None:
        """Begin a stack, or go on with one that waits here, without the trials in `stop`; returns at once.

        Never raises for a dead worker, which says so when it is asked what it has to say.
        """

    @abstractmethod
    def receive(self) -> list[dict[str, Any]] | Failure | Idle:
        """Rows of its stack, or why that failed, and when there are no more of them that it is idle.

        Waits until there is something. Raises `WorkerDiedError`.
        """

    @classmethod
    @abstractmethod
    def ready(cls, workers: Sequence[Self]) -> list[Self]:
        """Those of the workers that have something to say or died; waits until there is one."""

    @abstractmethod
    def close(self) -> None:
        """End it at once, whatever it does."""


class Queue:
    """The stacks that are still to begin, and what becomes of those whose worker died."""

    def __init__(self, stacks: Iterable[Stack]) -> None:
        self._stacks = deque(stacks)
        self._attempts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._stacks)

    def take(self) -> Stack:
        """The next stack, which is begun: one attempt more."""
        stack = self._stacks.popleft()
        self._attempts[stack.stack_id] += 1
        return stack

    def halve(self, stack: Stack) -> Halved:
        """The halves of a stack come next."""
        return halve(stack, self._stacks)

    def put_back(self, waiting: Sequence[Stack]) -> None:
        """These waited in a worker that died, which was not their fault: they begin again, and it does not count."""
        self._stacks.extendleft(waiting)
        self._attempts.subtract(stack.stack_id for stack in waiting)

    def again(self, stack: Stack, how: str) -> Halved | Failure | None:
        """This one was in training when its worker died, `how` in words; None: it is tried once more."""
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

    `settled` says that there is nothing left to do for the stack's trials.
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
    """Train the stacks in so many workers, each made by `start` when it is needed; see `execution.run`."""
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
    """Idle workers go on with what waits in them, where there is a verdict: stacks stay where they are."""
    for seat in seats:
        if seat.stack is None and (ready := seat.resumable(verdict)):
            stack, stop = ready
            if stop:
                yield stack, Stopped(stop)
            seat.train(stack, stop)


def _begin(queue: Queue, seats: list[_Seat[W]], start: Callable[[], W], workers: int) -> None:
    """Idle workers begin new stacks, fresh workers too as long as fewer than `workers` train."""
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
    """A worker died: its stacks go back to the queue, but for one with nothing left to do or with no hope."""
    assert seat.stack is not None
    seat.worker.close()
    queue.put_back(list(seat.waiting))
    end = None if seat.settled else queue.again(seat.stack, how)
    if end:
        yield seat.stack, end
