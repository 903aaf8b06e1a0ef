"""Where stacks run makes no difference to their rows, and a worker's death none to the other stacks."""

import dataclasses
import math
import multiprocessing
import os
import signal

import pandas as pd
import pytest
import torch
from rich.console import Console

from optbench import execution
from optbench.execution import Failure, Halved, workers
from optbench.execution.in_process import run_in_process
from optbench.results.store import Store
from optbench.runs import estimate
from optbench.runs.job import Job
from optbench.runs.phases import Tune
from optbench.runs.progress import Progress
from optbench.runs.run import execute
from optbench.sweep.spec import parse
from optbench.sweep.stacks import Stack, plan
from optbench.sweep.trials import expand
from optbench.training import engine

SWEEP = "{adam: {lr: [1e-3, 3e-3]}, sgd: {lr: [0.05, 1e30], momentum: 0.9}}"
LINES = ("epochs: 2", "parameters: {batch_size: 64, dropout: 0.25, model: mlp}")


@pytest.fixture(scope="module")
def stacks(trials_of):
    return plan(trials_of(SWEEP, *LINES), 1)


def rows_of(events):
    """Rows by (trial id, epoch), as text so that NaN equals NaN; a stack that began again counts once."""
    rows = {}
    for stack, message in events:
        assert not isinstance(message, Failure), message
        if message[0]["epoch"] == 0:
            rows = {key: row for key, row in rows.items() if key[0] not in {t.trial_id for t in stack.trials}}
        rows |= {
            (row["trial_id"], row["epoch"]): str({k: v for k, v in row.items() if k != "train_seconds"})
            for row in message
        }
    return rows


def test_one_worker_or_two_in_any_order_give_identical_rows(trials_of):
    stacks = plan(trials_of(SWEEP, LINES[0], "parameters: {batch_size: 64, dropout: 0.25, model: cnn}"), 1)
    one = rows_of(execution.run(stacks, "cpu", 1, None))
    two = rows_of(execution.run(list(reversed(stacks)), "cpu", 2, None))
    assert len(one) == 3 * 3 + 2  # the one that diverges in its first epoch ends with it
    assert one == two


def test_a_dead_workers_stack_is_tried_again_and_the_others_go_on(stacks):
    undisturbed = rows_of(execution.run(stacks, "cpu", 2, None))
    killed = []

    def events():
        for event in execution.run(stacks, "cpu", 2, None):
            if not killed:
                victim = multiprocessing.active_children()[0]
                killed.append(victim.pid)
                os.kill(victim.pid, signal.SIGKILL)
            yield event

    assert rows_of(events()) == undisturbed
    assert killed


def test_a_stack_whose_workers_keep_dying_is_given_up(stacks, monkeypatch):
    monkeypatch.setattr(workers, "ATTEMPTS", 1)
    failures, finished = [], set()
    for stack, message in execution.run(stacks, "cpu", 1, None):
        if isinstance(message, Failure):
            failures.append((stack, message))
        elif message[0]["status"] != "running":
            finished.add(stack.stack_id)
        elif stack is stacks[1] and not failures:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    ((stack, failure),) = failures
    assert stack is stacks[1]
    assert failure.error == "its worker process died 1 times, exit code -9"
    assert finished == {s.stack_id for s in stacks} - {stack.stack_id}


def test_a_worker_that_dies_after_its_work_is_not_asked_again(stacks):
    def events():
        for stack, message in execution.run(stacks[:1], "cpu", 1, None):
            if message[0]["epoch"] == 2:
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            yield stack, message

    assert [message[0]["epoch"] for _, message in events()] == [0, 1, 2]


def test_an_exception_fails_its_own_stack_with_its_traceback(stacks):
    broken = Stack((dataclasses.replace(stacks[0].trials[0], dataset="nowhere"),))
    events = list(execution.run([broken, stacks[1]], "cpu", 1, None))
    assert "unknown dataset 'nowhere'" in events[0][1].error
    assert "Traceback" in events[0][1].error
    assert {stack for stack, _ in events[1:]} == {stacks[1]}


def out_of_memory_above(size, when=1):
    """`engine.train` on a device that holds so many trials and no more; it finds out in the epoch `when`."""
    real = engine.train

    def train(stack, *arguments):
        for rows in real(stack, *arguments):
            if len(stack) > size and rows[0]["epoch"] >= when:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            yield rows

    return train


def test_a_stack_that_does_not_fit_goes_on_in_halves(trials_of, monkeypatch):
    trials = trials_of(SWEEP, *LINES)
    (whole,) = plan(trials, 8)
    expected = rows_of(run_in_process([whole], "cpu", None, execution.never))
    monkeypatch.setattr(engine, "train", out_of_memory_above(2))
    events = list(run_in_process([whole], "cpu", None, execution.never))
    splits = {stack: message.into for stack, message in events if isinstance(message, Halved)}
    assert [len(part) for part in splits.pop(whole)] == [2, 2]
    assert splits == {}
    assert rows_of(event for event in events if event[0] is not whole) == expected


@pytest.mark.parametrize("lack", [torch.OutOfMemoryError(), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling …")])
def test_the_estimate_takes_halves_where_the_run_will(lack, trials_of, monkeypatch):
    def seconds_per_image(stack, device):
        if len(stack) > 1:
            raise lack
        return 2.0, 1.0

    monkeypatch.setattr(estimate.speed, "seconds_per_image", seconds_per_image)
    (whole,) = plan(trials_of(SWEEP, *LINES), 8)
    assert estimate._seconds_per_image(whole, "cuda") == (8.0, 4.0)


def test_one_trial_that_does_not_fit_fails(stacks, monkeypatch):
    monkeypatch.setattr(engine, "train", out_of_memory_above(0))
    *_, (stack, failure) = run_in_process(stacks[:1], "cpu", None, execution.never)
    assert stack is stacks[0]
    assert failure.error.strip().endswith("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_sweep_of_stacks_that_do_not_fit_has_all_its_rows(tmp_path, monkeypatch):
    text = f"name: s\ndataset: digits\noptimizers: {SWEEP}\n" + "\n".join(LINES).replace("epochs: 2", "epochs: 1")

    def rows(folder):
        phase = Tune(Job(parse(text), Store(folder / "s"), "cpu", workers=1, stack_size=8))
        display = Progress(phase, Console(quiet=True))
        for event in execute(phase):
            display.update(event)
            phase.store.rows()
        assert display.done == 4
        found = phase.store.rows().sort_values(["trial_id", "epoch"])
        return found.drop(columns=["train_seconds", "stack", "stack_size"]).reset_index(drop=True), found["stack_size"]

    monkeypatch.setattr(execution, "run", lambda stacks, *rest: run_in_process(stacks, "cpu", None, execution.never))
    expected, _ = rows(tmp_path / "whole")
    monkeypatch.setattr(engine, "train", out_of_memory_above(1, when=0))
    found, sizes = rows(tmp_path / "split")
    assert set(sizes) == {1}
    pd.testing.assert_frame_equal(found, expected)
    assert len(list((tmp_path / "split" / "s").glob("*.parquet"))) == 4


def test_what_kills_its_worker_ends_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "ATTEMPTS", 1)
    (tmp_path / "own.py").write_text(
        "import os, torch\nclass Kills(torch.optim.SGD):\n    def step(self, closure=None):\n        os._exit(7)\n"
    )
    text = (
        "dataset: digits\nepochs: 1\noptimizers: {sgd: {lr: [0.1, 0.2]}, own: {optimizer: './own.py:Kills', lr: 0.1}}"
    )
    (whole,) = plan(expand(parse(text, folder=tmp_path)), 8)
    last = dict(execution.run([whole], "cpu", 1, None))
    ended = {
        trial.optimizer: message.error if isinstance(message, Failure) else message[0]["status"]
        for stack, message in last.items()
        for trial in stack.trials
        if not isinstance(message, Halved)
    }
    assert ended == {"sgd": "finished", "own": "its worker process died 1 times, exit code 7"}


def test_an_optimizer_whose_file_changed_fails_with_the_reason_and_the_worker_goes_on(stacks, tmp_path):
    code = "import torch\nclass Mine(torch.optim.SGD):\n    pass\n"
    (tmp_path / "own.py").write_text(code)
    text = "dataset: digits\nepochs: 1\noptimizers: {own: {optimizer: './own.py:Mine', lr: 0.1}}"
    (changed,) = plan(expand(parse(text, folder=tmp_path)), 1)
    (tmp_path / "own.py").write_text(code + "# another\n")
    (_, failure), *others = execution.run([changed, stacks[1]], "cpu", 1, None)
    assert failure.error.strip().endswith("was changed while the sweep ran; run again")
    assert {stack for stack, _ in others} == {stacks[1]}


def test_closing_stops_all_workers(stacks):
    events = execution.run(stacks, "cpu", 2, None)
    next(events)
    assert len(multiprocessing.active_children()) == 2
    events.close()
    assert multiprocessing.active_children() == []


def test_a_diverging_trial_is_no_failure(stacks):
    (wild,) = [stack for stack in stacks if stack.trials[0].hyperparameters.lr == 1e30]
    *_, (_, (last,)) = execution.run([wild], "cpu", 1, None)
    assert last["status"] == "diverged"
    assert math.isnan(last["test_accuracy"])
