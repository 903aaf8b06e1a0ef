"""A sweep runs without the command line, in any thread, says what happens, and leaves the process as it was."""

import multiprocessing
import os
import signal
import sys
import threading

import pandas as pd
import pytest
import torch

from optbench import execution
from optbench.errors import UserError
from optbench.execution.in_process import run_in_process
from optbench.machine.device import settings_given_back
from optbench.report import build
from optbench.report.status import status
from optbench.results.store import Store
from optbench.runs import estimate, run
from optbench.runs.job import Job
from optbench.runs.phases import Confirm, Default, Timing, Tune
from optbench.runs.run import PhaseBegun, PhaseEnded, PhasePlanned, StackEvent
from optbench.sweep.spec import parse

SWEEP = """
name: small
dataset: digits
epochs: 1
parameters: {model: softmax, batch_size: 128}
confirm: {seeds: 2}
defaults: true
optimizers: {rmsprop: {lr: [0.001, 0.002, 0.005]}, adam: }
"""


def job_of(folder, text=SWEEP, **options):
    sweep = parse(text)
    return Job(sweep, Store(folder / sweep.name), "cpu", workers=1, **options)


def in_a_thread(work):
    """What `work` returns in a thread of its own."""
    results = []

    def call():
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def of_the_process():
    """What a run might change of the process that it runs in."""
    cudnn = torch.backends.cudnn
    return (
        torch.get_num_threads(),
        sys.float_info.min / 2,  # 0 where denormals are flushed
        (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32),
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        dict(os.environ),
    )


def phases_of(events, kind):
    return [type(event.phase) for event in events if isinstance(event, kind)]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The job of a sweep that ran in a thread, its events, and the process before and after, as that thread saw it."""
    job = job_of(tmp_path_factory.mktemp("ran"), stack_size=4, timing=True)

    def work():
        before = of_the_process()
        return list(run.events(job)), before, of_the_process()

    return job, *in_a_thread(work)


def test_a_sweep_runs_in_a_thread_and_tells_of_every_epoch_that_it_stores(ran):
    job, events, *_ = ran
    for kind in (PhasePlanned, PhaseBegun, PhaseEnded):
        assert phases_of(events, kind) == [Tune, Confirm, Default, Timing]
    told = [row for event in events if isinstance(event, StackEvent) for row in event.message]
    timed = Store(job.store.folder).timing
    stored = pd.concat([pd.read_parquet(store.folder) for store in (job.store, timed)])
    assert len(told) == len(stored) == (4 + 4 + 2 + 4) * 2
    assert sorted(row["val_loss"] for row in told) == sorted(stored["val_loss"])
    counts = {"tune": 4, "confirm": 4, "default": 2, "timing": 4}
    assert stored.groupby("phase")["trial_id"].nunique().to_dict() == counts
    assert set(stored["status"]) == {"finished"}


def test_it_leaves_the_process_as_it_was(ran):
    _, _, before, after = ran
    assert after == before


def test_once_more_there_is_nothing_to_do_and_it_says_of_which_phases(ran):
    job, *_ = ran
    parts = {path: path.stat().st_mtime_ns for path in job.store.folder.rglob("*.parquet")}
    events = list(run.events(job))
    assert phases_of(events, PhasePlanned) == phases_of(events, PhaseEnded) == [Tune, Confirm, Default, Timing]
    assert [type(event) for event in events] == [PhasePlanned, PhaseEnded] * 4
    assert [event.phase.stacks for event in events] == [[]] * 8
    assert parts == {path: path.stat().st_mtime_ns for path in job.store.folder.rglob("*.parquet")}
    assert [event.phase.progress() for event in events[::2]] == [
        "4/12 done",
        "8/10 done",
        "10/10 done",
        "10/10 done, 4/4 timed",
    ]
    assert phases_of(run.preview(job), PhasePlanned) == [Tune, Confirm, Default, Timing]


def test_defaults_train_once_and_count_twice_where_they_were_selected(ran):
    """adam has one configuration, its defaults; rmsprop's lr of 0.01 is not among those that were tried."""
    job, *_ = ran
    rows, outline = job.store.rows(last=True).set_index("trial_id"), job.store.outline()
    assert rows["phase"].value_counts().to_dict() == {"tune": 4, "confirm": 4, "default": 2}
    at = rows.loc[list(outline.default_ids)]
    assert at.groupby(["optimizer", "phase", "lr"], observed=True)["seed"].apply(list).to_dict() == {
        ("rmsprop", "default", 0.01): [10_000, 10_001],
        ("adam", "confirm", 0.001): [10_000, 10_001],
    }
    assert len(outline.ids) == len(rows) == sum(outline.optimizers.values()) == 10
    data = build.build(job.store).tables[2].data.set_index("optimizer")
    scores = rows.groupby(["optimizer", "phase"], observed=True)["test_accuracy"].mean()
    assert data.loc["adam", ["test_accuracy", "tuned", "gain"]].tolist() == [scores["adam", "confirm"]] * 2 + [0]
    found = data.loc["rmsprop", ["test_accuracy", "tuned", "gain"]].tolist()
    default, tuned = scores["rmsprop", "default"], scores["rmsprop", "confirm"]
    assert found == pytest.approx([default, tuned, tuned - default])
    assert data["n"].tolist() == [2, 2]
    assert status(job.store).is_over


def test_a_sweep_that_asks_for_defaults_later_keeps_what_it_has(tmp_path):
    text = SWEEP.replace("defaults: true\n", "").replace("confirm: {seeds: 2}\n", "")
    list(run.events(job_of(tmp_path, text)))
    job = job_of(tmp_path, text + "defaults: true\n")
    *_, last = run.preview(job)
    assert (type(last.phase), last.phase.missing) == (
        Default,
        {"rmsprop": 1},
    )  # adam's one configuration is its defaults
    list(run.events(job))
    assert job.store.rows(last=True)["phase"].value_counts().to_dict() == {"tune": 4, "default": 1}
    list(run.events(job_of(tmp_path, text.replace("0.002", "0.01"))))  # which makes that trial one that selects
    assert job.store.rows(last=True)["phase"].unique().tolist() == ["tune"]


def test_a_preview_ends_with_the_first_phase_that_has_to_train(tmp_path):
    job = job_of(tmp_path)
    assert [type(event) for event in run.preview(job)] == [PhasePlanned]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("somewhere", [lambda work: work(), in_a_thread], ids=["main thread", "another thread"])
def test_an_interrupt_of_the_terminal_is_for_this_process_and_not_for_its_workers(tmp_path, somewhere):
    def work():
        statuses = []
        for event in run.execute(Tune(job_of(tmp_path))):
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGINT)
            statuses += [row["status"] for row in event.message]
        return statuses

    assert somewhere(work) == ["running", "finished"] * 4


def test_a_run_that_is_closed_keeps_what_is_finished_and_frees_the_folder(tmp_path):
    """The thread that closes it is not the one that began it."""
    job = job_of(tmp_path, stack_size=1)
    events = run.events(job)
    in_a_thread(lambda: [next(events) for _ in range(2 + 3)])  # planned, begun, and the first epoch of the second stack
    with pytest.raises(UserError, match="another run is writing"):
        list(run.execute(Tune(job)))
    events.close()
    assert Tune(job).progress() == "1/12 done"
    assert Tune(job).missing.total() == 3
    with job.store.locked():
        pass


def test_settings_of_torch_are_given_back_by_a_run_in_this_process_and_by_its_estimate(tmp_path, monkeypatch):
    """As on a GPU, where this process trains."""
    monkeypatch.setattr(execution, "run", lambda stacks, *rest: run_in_process(stacks, "cpu", None, execution.never))
    before = of_the_process()
    phase = Tune(job_of(tmp_path))
    assert estimate.seconds(phase) > 0
    assert of_the_process() == before
    flushed = [sys.float_info.min / 2 == 0 for _ in run.execute(phase)]
    assert flushed and all(flushed)
    assert of_the_process() == before


def test_what_was_set_before_is_what_is_given_back(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.set_flush_denormal(True)
    threads = torch.get_num_threads()
    try:
        before = of_the_process()
        with settings_given_back():
            torch.set_flush_denormal(False)
            torch.set_num_threads(threads + 1)
            torch.backends.cudnn.benchmark = False
            torch.backends.cuda.matmul.allow_tf32 = not torch.backends.cuda.matmul.allow_tf32
            del os.environ["CUBLAS_WORKSPACE_CONFIG"]
        assert of_the_process() == before
    finally:
        torch.set_flush_denormal(False)
