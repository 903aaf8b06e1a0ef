"""Successive halving: who is stopped when, that it saves what it promises, and that it may be interrupted."""

import dataclasses
import math
import random
from contextlib import closing
from itertools import islice

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench import execution
from optbench.results.store import Store
from optbench.runs.halving import Judge
from optbench.runs.job import Job
from optbench.runs.phases import Tune
from optbench.runs.run import StackEvent, events
from optbench.scores import Score
from optbench.sweep.spec import Halving, parse
from optbench.sweep.stacks import plan
from optbench.sweep.trials import expand


def trials_of(configurations, seeds, epochs, labels=("adam",)):
    lrs = [round(0.001 * (i + 1), 6) for i in range(configurations)]
    blocks = "".join(f"  {label}: {{optimizer: adam, lr: {lrs}}}\n" for label in labels)
    return expand(parse(f"dataset: digits\nepochs: {epochs}\nseeds: {seeds}\noptimizers:\n{blocks}"))


def row(trial, epoch, value, status="running"):
    return {"trial_id": trial.trial_id, "epoch": epoch, "status": status, "val_accuracy": value, "val_loss": 1 - value}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 30), st.integers(1, 3), st.integers(2, 4), st.integers(2, 30), st.integers(1, 3), st.data())
def test_the_best_of_each_rung_train_on(configurations, seeds, factor, epochs, min_epochs, data):
    """Against a second writing-down of the algorithm, with rows that arrive in any order from stacks of any size."""
    settings_ = Halving(factor=factor, min_epochs=min_epochs)
    trials = trials_of(configurations, seeds, epochs)
    generator = random.Random(data.draw(st.integers(0, 1000)))
    curve = {(t.trial_id, epoch): generator.random() for t in trials for epoch in range(epochs + 1)}
    metric = data.draw(st.sampled_from([Score.val_accuracy, Score.val_loss]))

    # Synchronously: all train to the rung, all but the best are gone.
    by_configuration = {}
    for trial in trials:
        by_configuration.setdefault(trial.configuration_id, []).append(trial.trial_id)
    alive, expected = list(by_configuration), {}
    for rung in settings_.rungs(epochs):
        better = sorted(alive, key=lambda c: -sum(curve[i, rung] for i in by_configuration[c]) / seeds)
        for configuration in better[max(1, len(alive) // factor) :]:
            expected |= dict.fromkeys(by_configuration[configuration], rung)
        alive = better[: max(1, len(alive) // factor)]

    # As a run does it: stacks go on in any order as soon as there is a verdict.
    judge = Judge(trials, settings_, metric)
    stacks = plan(trials, data.draw(st.integers(1, 5)), rungs=settings_.rungs(epochs))
    at = dict.fromkeys(stacks, 0)
    left = {stack: list(stack.trials) for stack in stacks}
    stopped, waits = {}, dict.fromkeys(stacks, False)
    while any(left.values()):
        ready = [s for s in stacks if left[s] and not (waits[s] and judge.verdict(s, at[s]) is None)]
        assert ready, "all wait for each other"
        stack = generator.choice(ready)
        if waits[stack]:
            verdict = judge.verdict(stack, at[stack])
            assert verdict <= {t.trial_id for t in left[stack]}  # nobody is stopped twice
            stopped |= dict.fromkeys(verdict, at[stack])
            left[stack] = [t for t in left[stack] if t.trial_id not in verdict]
            waits[stack] = False
        elif at[stack] == epochs:
            left[stack] = []
        else:
            at[stack] += 1
            judge.observe(row(t, at[stack], curve[t.trial_id, at[stack]]) for t in left[stack])
            waits[stack] = at[stack] in stack.rungs
    assert stopped == expected


def test_optimizers_and_compared_axes_each_have_their_own_race():
    trials = trials_of(3, 1, 3, labels=("a", "b"))
    judge = Judge(trials, Halving(factor=3), Score.val_accuracy)
    (stack,) = plan(trials, 6, rungs=(1,))
    judge.observe(row(t, 1, 0.9 if t.optimizer == "a" else 0.1) for t in trials)
    kept = {t.trial_id for t in trials} - judge.verdict(stack, 1)
    assert [t.optimizer for t in trials if t.trial_id in kept] == ["a", "b"]


def test_a_diverged_or_failed_trial_loses_and_is_no_longer_there_to_be_stopped():
    trials = trials_of(4, 1, 3)
    judge = Judge(trials, Halving(factor=2), Score.val_accuracy)
    (stack,) = plan(trials, 4, rungs=(1, 2))
    judge.observe([row(trials[0], 1, math.nan, "diverged"), row(trials[1], 0, 0.9, "failed"), row(trials[2], 1, 0.1)])
    assert judge.verdict(stack, 1) is None  # the fourth is still on its way
    judge.observe([row(trials[3], 1, 0.2)])
    assert judge.verdict(stack, 1) == frozenset()
    judge.observe([row(trials[2], 2, 0.1), row(trials[3], 2, 0.2)])
    assert judge.verdict(stack, 2) == {trials[2].trial_id}


def test_what_happened_after_a_rung_does_not_change_its_verdict():
    """Rows of an earlier run are known before its rungs are decided again, and all say how the trial ended."""
    trials = trials_of(2, 1, 3)
    (stack,) = plan(trials, 2, rungs=(1,))
    judge = Judge(trials, Halving(factor=2), Score.val_accuracy)
    judge.observe(row(trials[0], epoch, value, "diverged") for epoch, value in [(0, 0.1), (1, 0.9), (2, math.nan)])
    judge.observe([row(trials[1], 1, 0.1)])
    assert judge.verdict(stack, 1) == {trials[1].trial_id}


def test_epochs_saved():
    """27 configurations, 9 epochs: 27 + 9 · 2 + 3 · 6 of 243 epochs."""
    trials = trials_of(27, 1, 9)
    judge = Judge(trials, Halving(factor=3), Score.val_accuracy)
    (stack,) = plan(trials, 27, rungs=(1, 3))
    for epoch in range(1, 10):
        judge.observe(row(t, epoch, t.hyperparameters.lr) for t in trials)
    gone = {epoch: judge.verdict(stack, epoch) for epoch in (1, 3)}
    assert [len(gone[1]), len(gone[3])] == [18, 6]
    epochs = 18 * 1 + 6 * 3 + 3 * 9
    assert epochs == 63
    assert Halving(factor=3).share(27, 9) == 63 / 243


# ---------------------------------------------------------------- real training

SWEEP = """
name: halved
dataset: digits
epochs: 4
seeds: 2
parameters: {batch_size: 128, model: softmax}
search: {num_samples: 4, halving: {factor: 2, min_epochs: 1}}
confirm: {seeds: 2}
optimizers:
  sgd: {lr: {min: 1e-4, max: 1.0, log: true}}
  noisy: {optimizer: pytorch_optimizer.lion, lr: {min: 1e-4, max: 1.0, log: true}}
"""


def job_of(folder, text=SWEEP, workers=1, **options):
    sweep = parse(text)
    return Job(sweep, Store(folder / sweep.name), "cpu", workers, **options)


def run(folder, text=SWEEP, most=10**9, workers=1):
    """Run a sweep up to so many events of its stacks, through both phases; returns the rows that are then on disk."""
    job = job_of(folder, text, workers)
    with closing(events(job)) as happening:
        stacks = (event for event in happening if isinstance(event, StackEvent))
        for _ in islice(stacks, most):
            pass
    return job.store.rows()


def content(rows):
    rows = rows.drop(columns=["train_seconds", "workers", "stack", "stack_size"])
    return rows.sort_values(["trial_id", "epoch"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("undisturbed"), workers=2)


def test_a_halved_sweep_is_confirmed_on_fresh_seeds(undisturbed):
    last = undisturbed.sort_values("epoch").groupby("trial_id", observed=True).last()
    tuned, confirmed = last[last["phase"] == "tune"], last[last["phase"] == "confirm"]
    assert len(tuned) == 2 * 4 * 2
    for _, group in tuned.groupby("optimizer", observed=True):
        epochs = group.groupby("configuration_id", observed=True)["epoch"].first()
        assert sorted(epochs) == [1, 1, 2, 4]  # four at rung 1, two at rung 2, one to the end
        assert set(group[group["epoch"] < 4]["status"]) == {"stopped"}
    assert confirmed["status"].tolist() == ["finished"] * 4
    assert not set(confirmed["seed"]) & set(tuned["seed"])
    best = tuned[tuned["status"] == "finished"].groupby("optimizer", observed=True)["configuration_id"].first()
    assert confirmed.groupby("optimizer", observed=True)["configuration_id"].first().to_dict() == best.to_dict()


def test_a_stopped_trial_is_as_good_as_one_that_was_not(undisturbed, tmp_path):
    whole = run(tmp_path, SWEEP.replace(", halving: {factor: 2, min_epochs: 1}", ""))
    merged = undisturbed.merge(whole, on=["trial_id", "epoch"], suffixes=("", "_whole"))
    merged = merged[merged["phase"] == "tune"]
    assert len(merged) == (undisturbed["phase"] == "tune").sum()
    assert merged["val_loss"].equals(merged["val_loss_whole"])


@pytest.mark.parametrize("most", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (35, 70))])
def test_interrupted_at_any_point_it_goes_on_to_the_same_rows(most, undisturbed, tmp_path):
    partly = run(tmp_path, most=most, workers=2)
    assert len(partly) < len(undisturbed)
    again = run(tmp_path, workers=1)
    pd.testing.assert_frame_equal(content(again), content(undisturbed))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "halved").glob("*.parquet")}
    run(tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "halved").glob("*.parquet")}


def test_interrupted_among_trials_that_diverged_it_goes_on_to_the_same_rows(tmp_path):
    exploding = SWEEP.partition("  noisy")[0].replace("sgd: {lr: {min: 1e-4", "sgd: {weight_decay: 300, lr: {min: 0.05")
    whole = run(tmp_path / "whole", exploding)
    last = whole[whole["phase"] == "tune"].groupby("trial_id", observed=True)[["epoch", "status"]].last()
    assert (last[last["epoch"] > 1]["status"] == "diverged").any()  # behind the first rung
    for most in (14, 22):
        folder = tmp_path / str(most)
        partly = run(folder, exploding, most=most, workers=1)
        assert len(partly) < len(whole)
        pd.testing.assert_frame_equal(content(run(folder, exploding, workers=1)), content(whole))


@pytest.mark.slow
def test_a_longer_search_keeps_what_was_trained_to_its_end_and_races_the_others_again(undisturbed, tmp_path):
    run(tmp_path)
    longer = SWEEP.replace("num_samples: 4", "num_samples: 6")
    assert Tune(job_of(tmp_path, longer)).missing.total() == 2 * (6 - 1) * 2  # all but each optimizer's winner
    rows = run(tmp_path, longer).query("phase == 'tune'")
    afresh = run(tmp_path / "afresh", longer).query("phase == 'tune'")
    # What won the shorter race may lose the longer one; its later epochs stay all the same.
    merged = afresh.merge(rows, on=["trial_id", "epoch"], suffixes=("", "_longer"))
    assert len(merged) == len(afresh)
    assert merged["val_loss"].equals(merged["val_loss_longer"])
    assert set(rows["trial_id"]) == set(afresh["trial_id"])
    winners = undisturbed[(undisturbed["phase"] == "tune") & (undisturbed["status"] == "finished")]
    assert set(merged[merged["status"] != merged["status_longer"]]["trial_id"]) <= set(winners["trial_id"])


def test_a_longer_search_of_one_optimizer_leaves_the_other_races_alone(tmp_path):
    run(tmp_path, SWEEP.replace("confirm: {seeds: 2}", ""))
    longer = SWEEP.replace("sgd: {", "sgd: {num_samples: 5, ")
    assert set(Tune(job_of(tmp_path, longer)).missing) == {"sgd"}


def test_a_worker_that_dies_with_stacks_waiting_in_it_costs_nothing_but_time(undisturbed, tmp_path, monkeypatch):
    import multiprocessing
    import os
    import signal

    killed = []
    real = execution.run

    def disturbed(*arguments):
        for n, event in enumerate(real(*arguments)):
            if n == 12 and not killed:
                victim = multiprocessing.active_children()[0]
                killed.append(victim.pid)
                os.kill(victim.pid, signal.SIGKILL)
            yield event

    monkeypatch.setattr(execution, "run", disturbed)
    rows = run(tmp_path, workers=2)
    assert killed
    pd.testing.assert_frame_equal(content(rows), content(undisturbed))


def test_a_stack_that_kills_its_workers_is_given_up_alone(undisturbed, tmp_path, monkeypatch):
    """Those that wait beside it at a rung are not charged with its deaths."""
    import multiprocessing
    import os
    import signal

    real, victim = execution.run, []

    def disturbed(*arguments):
        for stack, message in real(*arguments):
            if isinstance(message, list) and message[0]["epoch"] == 0:  # it will be a while before the next epoch
                begun.add(stack)
                if len(begun) == 4 and not victim:
                    victim.append(stack)
                if victim and stack is victim[0]:
                    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            yield stack, message

    begun = set()
    monkeypatch.setattr(execution, "run", disturbed)
    rows = run(tmp_path, SWEEP.replace("confirm: {seeds: 2}", ""), workers=1)
    lost = {trial.trial_id for trial in victim[0].trials}
    last = rows.sort_values("epoch").groupby("trial_id", observed=True).last()
    assert set(last[last["status"] == "failed"].index) == lost
    assert last.loc[list(lost), "error"].str.contains("died 3 times").all()
    assert set(last[~last.index.isin(lost)]["status"]) == {"stopped", "finished"}


def test_in_this_process_it_is_the_same(undisturbed, tmp_path):
    """As on a GPU: one process, stacks of all that fit, waiting for each other."""
    from optbench.execution.in_process import run_in_process

    phase = Tune(job_of(tmp_path, stack_size=3))
    judge = Judge(phase.trials, Halving(factor=2), Score.val_accuracy)
    rows = []
    stopped = set()
    for _, message in run_in_process(phase.stacks, "cpu", None, judge.verdict):
        if isinstance(message, execution.Stopped):
            stopped |= message.trial_ids
        else:
            judge.observe(message)
            rows += message
    found = pd.DataFrame(rows)[["trial_id", "epoch", "val_loss"]].sort_values(["trial_id", "epoch"])
    tuned = undisturbed[undisturbed["phase"] == "tune"].sort_values(["trial_id", "epoch"])
    assert found.to_numpy().tolist() == tuned[["trial_id", "epoch", "val_loss"]].to_numpy().tolist()
    assert stopped == set(tuned[tuned["status"] == "stopped"]["trial_id"])


def test_the_selection_is_confirmed_though_the_tuning_seeds_are_many():
    sweep = parse("dataset: digits\nepochs: 1\nseeds: [10000, 3]\nconfirm: {seeds: [1, 2]}\noptimizers: {adam: }")
    assert sweep.confirm == (1, 2)
    counted = parse("dataset: digits\nepochs: 1\nseeds: 9999\nconfirm: {seeds: 3}\noptimizers: {adam: }")
    assert not set(counted.confirm) & set(counted.seeds)
    assert dataclasses.replace(counted, confirm=()) != counted
