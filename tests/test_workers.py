"""What becomes of stacks whose worker dies, with workers that are made of nothing but a script."""

import random
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from optbench.execution import Failure, Halved, Stopped, never, workers
from optbench.execution.workers import ATTEMPTS, Idle, Queue, Worker, WorkerDiedError, run_in_workers
from optbench.sweep.stacks import Stack

EPOCHS, RUNGS = 4, (1, 2)


def stack_of(*numbers, rungs=()):
    return Stack(tuple(SimpleNamespace(trial_id=str(number)) for number in numbers), rungs)


class Scripted(Worker):
    """Trains as a worker would, and dies in the epoch that `killers` has for a trial; `crew` holds all there were."""

    def __init__(self, killers, generator, crew, diverging=None):
        self.killers, self.generator, self.diverging = killers, generator, diverging or {}
        self.says, self.waits, self.is_alive = [], {}, True
        self.victim = None
        crew.append(self)

    def train(self, stack, stop):
        assert self.is_alive and not self.says, "only an idle worker is given a stack"
        left, first = self.waits.pop(stack, ([trial.trial_id for trial in stack.trials], 0))
        left = [trial_id for trial_id in left if trial_id not in stop]
        for epoch in range(first, EPOCHS + 1):
            if not left:
                break
            if any(self.killers.get(trial_id) == epoch for trial_id in left):
                self.says.append(None)
                self.victim = stack
                return
            statuses = {i: "diverged" if self.diverging.get(i) == epoch else "running" for i in left}
            statuses = {i: "finished" if epoch == EPOCHS and s == "running" else s for i, s in statuses.items()}
            self.says.append([{"trial_id": i, "epoch": epoch, "status": s} for i, s in statuses.items()])
            left = [i for i in left if statuses[i] == "running"]
            if left and epoch in stack.rungs:
                self.waits[stack] = left, epoch + 1
                self.says.append(Idle(waits=True))
                return
        self.says.append(Idle(waits=False))

    def receive(self):
        said = self.says.pop(0)
        if said is None:
            raise WorkerDiedError("it was told to")
        return said

    @classmethod
    def ready(cls, workers):
        assert all(worker.says for worker in workers)
        return workers[0].generator.sample(workers, workers[0].generator.randint(1, len(workers)))

    def close(self):
        self.is_alive = False


def at_random(generator, stopped):
    """A verdict on the trials of `stopped`, which stop at the first rung, sometimes after hesitation."""

    def verdict(stack, epoch):
        if generator.random() < 0.2 and any(worker.says for worker in verdict.crew):
            return None
        return frozenset(trial.trial_id for trial in stack.trials if epoch == RUNGS[0]) & stopped

    return verdict


TRIALS = [str(number) for number in range(12)]
some = st.frozensets(st.sampled_from(TRIALS), max_size=4)
some_at_an_epoch = st.dictionaries(st.sampled_from(TRIALS), st.integers(0, EPOCHS), max_size=4)


@given(st.integers(1, 5), st.integers(1, 4), some_at_an_epoch, some_at_an_epoch, some, st.integers(0, 10**6))
@settings(deadline=None, derandomize=True, max_examples=300)
@example(2, 1, {"0": 4}, {"1": 3}, frozenset(), 0)  # dies when only some of its stack have come to their end
def test_who_kills_its_worker_fails_alone_and_all_others_train(size, most, killers, diverging, stopped, seed):
    generator = random.Random(seed)
    diverging = {i: epoch for i, epoch in diverging.items() if i not in killers}
    stopped -= killers.keys() | diverging.keys()
    stacks = [stack_of(*TRIALS[i : i + size], rungs=RUNGS) for i in range(0, 12, size)]
    crew, ends = [], {}

    def start():
        return Scripted(killers, generator, crew, diverging)

    verdict = at_random(generator, stopped)
    verdict.crew = crew
    for stack, message in run_in_workers(stacks, start, most, verdict):
        assert sum(bool(worker.says) and worker.is_alive for worker in crew) <= most
        ids = {trial.trial_id for trial in stack.trials}
        if isinstance(message, Failure):
            assert len(ids) == 1 and ids <= killers.keys()
            assert message.error == f"its worker process died {ATTEMPTS} times, it was told to"
            assert sum(worker.victim is stack for worker in crew) == ATTEMPTS
            ends |= dict.fromkeys(ids, "failed")
        elif isinstance(message, Stopped):
            ends |= dict.fromkeys(message.trial_ids, "stopped")
        elif isinstance(message, Halved):
            assert ids & killers.keys()
            assert sum(worker.victim is stack for worker in crew) == ATTEMPTS
            assert [i for half in message.into for i in half.trials] == list(stack.trials)
        else:
            if message[0]["epoch"] == 0:  # after a death from the start, with those that had stopped
                assert {row["trial_id"] for row in message} == ids
            ends |= {row["trial_id"]: row["status"] for row in message}
    expected = dict.fromkeys(TRIALS, "finished") | dict.fromkeys(stopped, "stopped")
    expected |= dict.fromkeys(diverging, "diverged")
    assert ends == expected | dict.fromkeys(killers, "failed")
    assert not any(worker.is_alive for worker in crew)


def test_what_waited_in_a_dead_worker_begins_again_and_is_not_charged_with_it(monkeypatch):
    monkeypatch.setattr(workers, "ATTEMPTS", 2)
    queue = Queue([stack_of(0), stack_of(1), stack_of(2)])
    waiting, training = queue.take(), queue.take()
    queue.put_back([waiting])
    assert queue.again(training, "killed") is None
    assert [queue.take(), queue.take()] == [training, waiting]
    assert queue.again(waiting, "killed") is None  # its first death
    assert queue.again(training, "killed") == Failure("its worker process died 2 times, killed")
    assert len(queue) == 2


def test_a_stack_is_tried_again_before_others_and_then_in_halves():
    whole, other = stack_of(0, 1, 2), stack_of(3)
    queue = Queue([whole, other])
    for _ in range(ATTEMPTS - 1):
        assert queue.take() is whole
        assert queue.again(whole, "killed") is None
    split = queue.again(queue.take(), "killed")
    assert [[trial.trial_id for trial in half.trials] for half in split.into] == [["0"], ["1", "2"]]
    assert [queue.take() for _ in range(3)] == [*split.into, other]


def test_a_death_after_the_last_epoch_costs_nothing():
    class Mortal(Scripted):
        def receive(self):
            said = super().receive()
            if isinstance(said, Idle):
                raise WorkerDiedError("too late")
            return said

    events = list(run_in_workers([stack_of(0), stack_of(1)], lambda: Mortal({}, random.Random(0), []), 1, never))
    assert [message[0]["epoch"] for _, message in events] == 2 * [0, 1, 2, 3, 4]


def test_a_worker_that_is_closed_from_outside_leaves_no_other_behind():
    crew = []
    events = run_in_workers([stack_of(0), stack_of(1)], lambda: Scripted({}, random.Random(0), crew), 2, never)
    next(events)
    assert [worker.is_alive for worker in crew] == [True, True]
    events.close()
    assert [worker.is_alive for worker in crew] == [False, False]


def test_stacks_that_wait_for_one_another_are_noticed():
    with pytest.raises(AssertionError, match="nothing can bring about"):
        list(
            run_in_workers(
                [stack_of(0, rungs=(1,))], lambda: Scripted({}, random.Random(0), []), 1, lambda stack, epoch: None
            )
        )
