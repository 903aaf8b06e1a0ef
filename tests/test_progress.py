"""What the live table says while a phase trains: means over seeds, of epochs that were trained."""

import io
import math
import re

import pytest
from rich.console import Console

from optbench.results.store import Store
from optbench.runs.job import Job
from optbench.runs.phases import Tune
from optbench.runs.progress import Progress
from optbench.runs.run import StackEvent, execute
from optbench.sweep.spec import parse

SWEEP = """
name: s
dataset: digits
epochs: 2
seeds: 2
parameters: {model: softmax, batch_size: 128}
optimizers: {sgd: {lr: [0.1, 0.2]}, adam: }
"""


@pytest.fixture
def phase(tmp_path):
    sweep = parse(SWEEP)
    return Tune(Job(sweep, Store(tmp_path / sweep.name), "cpu", workers=1, stack_size=6))


def rows(phase, epoch, scores, status="running"):
    """An event of the one stack: the trials' scores in the order of the sweep, NaN for one that diverges."""
    (stack,) = phase.stacks
    return StackEvent(
        stack,
        [
            {
                "trial_id": trial.trial_id,
                "epoch": epoch,
                "status": "diverged" if math.isnan(score) else status,
                "val_accuracy": score,
            }
            for trial, score in zip(phase.trials, scores, strict=False)
        ],
    )


def drawn(progress, width=100):
    """The rows of the live table, by optimizer."""
    console = Console(file=io.StringIO(), width=width)
    console.print(progress._render())
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line.strip()}


def test_the_live_table_has_means_over_seeds_of_trained_epochs(phase):
    order = [(trial.optimizer, trial.hyperparameters.lr, trial.seed) for trial in phase.trials]
    assert order[:3] == [("sgd", 0.1, 0), ("sgd", 0.2, 0), ("adam", 0.001, 0)]
    progress = Progress(phase, Console(quiet=True))
    progress.update(rows(phase, 0, [0.9] * 6))
    assert drawn(progress)["sgd"] == "0/4 –"  # before training nothing has a score
    progress.update(rows(phase, 1, [0.5, 0.6]))
    assert drawn(progress)["sgd"] == "0/4 60.00 1 1 lr=0.2 batch_size=128 constant"
    assert drawn(progress)["adam"] == "0/2 –"
    progress.update(rows(phase, 1, [0.5, 0.6, 0.2, 0.8, 0.4]))
    assert drawn(progress)["sgd"] == "0/4 65.00 2 1 lr=0.1 batch_size=128 constant"
    progress.update(rows(phase, 2, [0.6], "finished"))
    assert drawn(progress)["sgd"] == "1/4 70.00 2 1–2 lr=0.1 batch_size=128 constant"


def test_a_configuration_with_a_diverged_seed_is_not_the_best(phase):
    progress = Progress(phase, Console(quiet=True))
    progress.update(rows(phase, 1, [0.9, 0.3, 0.2, math.nan, 0.4]))
    assert drawn(progress)["sgd"] == "1/4 35.00 2 1 lr=0.2 batch_size=128 constant"
    assert drawn(progress, 60)["sgd"] == "1/4 35.00 2 1 lr=0.2 ba…"


def test_a_stack_that_begins_again_has_its_scores_anew(phase):
    progress = Progress(phase, Console(quiet=True))
    progress.update(rows(phase, 1, [0.9] * 6))
    progress.update(rows(phase, 0, [0.1] * 6))
    assert drawn(progress)["sgd"] == "0/4 –"


def test_a_run_that_goes_on_shows_what_earlier_ones_have_trained(phase):
    for _ in execute(phase):
        pass
    longer = Job(parse(SWEEP.replace("[0.1, 0.2]", "[0.1, 0.2, 0.3]")), phase.job.store, "cpu", workers=1)
    found = drawn(Progress(Tune(longer), Console(quiet=True)))
    assert re.match(r"4/6 \d\d\.\d\d 2 2 lr=0", found["sgd"])
    scores = phase.store.rows(last=True).query("optimizer == 'adam'")["val_accuracy"]
    assert found["adam"] == f"2/2 {100 * scores.mean():.2f} 2 2 lr=0.001 batch_size=128 constant"
