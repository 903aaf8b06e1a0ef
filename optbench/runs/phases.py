"""The phases of a sweep: pretrain, tune, confirm, default, timing. Each has trials to train, and knows what follows it.

Each class says what is special about its phase: no other code asks for a phase's name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import product
from typing import ClassVar

from optbench import stats
from optbench.errors import UserError
from optbench.machine.device import device_name, settings_given_back
from optbench.optimizers.schedules import ReduceLROnPlateau
from optbench.report import build
from optbench.results.store import Outline, Store
from optbench.runs.halving import Judge
from optbench.runs.job import Job
from optbench.sweep import stacks
from optbench.sweep.spec import to_yaml
from optbench.sweep.stacks import Stack
from optbench.sweep.trials import Trial, confirmations
from optbench.training import fit, pretrained
from optbench.wording import count

# Four trials together are a tenth faster than one alone on a CPU, and more gain nothing; but there must be enough
# stacks for all cores. The rule looks only at the sweep, so the stacks are the same on every machine.
_CPU_STACK = 4
_CPU_STACKS_AT_LEAST = 16


def phases_of(job: Job) -> Iterator[Phase]:
    """The phases of a job in order; each is planned when it is asked for, from what the one before has left."""
    phase: Phase | None = Pretrain(job) if job.pretraining else Tune(job)
    while phase is not None:
        yield phase
        phase = phase.following()


class Phase(ABC):
    """The planned trials of a job: `stacks` holds those that still have to train."""

    name: ClassVar[str]  # as the column "phase" has it
    done: ClassVar[str] = "done"  # what to call its trials that need no more training
    decides: ClassVar[bool] = True  # whether its scores decide what comes after it
    keeps_weights: ClassVar[bool] = False  # whether the networks that it trains are kept
    rungs: tuple[int, ...] = ()  # epochs after which trials may be stopped

    def __init__(self, job: Job, trials: Sequence[Trial], earlier: Sequence[Phase] = ()) -> None:
        self.job, self.trials, self._earlier = job, list(trials), list(earlier)
        with settings_given_back():  # on a GPU this tries how many trials fit
            planned = stacks.plan(self.trials, self._stack_size(), self.settled(), self.rungs)
        folder = job.store.pretrained.weights
        self.stacks = [replace(stack, pretrained=folder, keeps_weights=self.keeps_weights) for stack in planned]

    def _stack_size(self) -> int | Callable[[Sequence[Trial]], int]:
        if self.job.stack_size:
            return self.job.stack_size
        if self.job.device == "cpu":
            return min(_CPU_STACK, max(1, len(self.trials) // _CPU_STACKS_AT_LEAST))
        return partial(fit.stack_size, device=self.job.device)

    @property
    def store(self) -> Store:
        """Where its rows go."""
        return self.job.store

    @property
    def scored(self) -> Store:
        """Where the scores of its settled trials are."""
        return self.job.store

    @property
    def datasets(self) -> list[str]:
        """What the trials that still have to train are trained on."""
        return list(dict.fromkeys(stack.dataset for stack in self.stacks))

    @property
    def workers(self) -> int:
        """Processes that will train."""
        return min(self.job.workers, max(1, len(self.stacks)))

    @abstractmethod
    def settled(self) -> set[str]:
        """Ids of its trials that need no more training, judging by what is on disk now."""

    @abstractmethod
    def following(self) -> Phase | None:
        """The phase after this one, once it is over; None: it was the last, or has left nothing to go on with."""

    def begin(self) -> None:
        """Write down what will be trained; call it when the job's store is locked."""
        planned = {stack.stack_id: [trial.trial_id for trial in stack.trials] for stack in self.stacks}
        self.store.begin(self._outline(), to_yaml(self.job.sweep), planned)

    def _outline(self) -> Outline:
        return self.job.outline()

    def _aside(self) -> Outline:
        """The outline of a place beside the sweep's own rows, which has no trials of the sweep."""
        return Outline(self.job.sweep.name, self.job.sweep.metric, (), {})

    def judge(self) -> Judge | None:
        """What decides which trials are stopped; None: no trial is."""
        return None

    def _defaults(self) -> Phase | None:
        """The optimizers at their defaults, if the sweep asks for them and one has some; else timing."""
        return Default(self.job, [*self._earlier, self]) if self.job.defaults else self._timing()

    def _timing(self) -> Phase | None:
        """The last phase, if it was asked for and a table has something to show."""
        if not self.job.timing:
            return None
        try:
            return Timing(self.job, build.shown(self.job.store), [*self._earlier, self])
        except UserError:  # nothing has finished
            return None

    # ------------------------------------------------------------ numbers

    @cached_property
    def per_optimizer(self) -> Counter[str]:
        """Number of trials of each label, in the order of the sweep file."""
        return Counter(trial.optimizer for trial in self.trials)

    @cached_property
    def missing(self) -> Counter[str]:
        """How many of them still have to train."""
        return Counter(trial.optimizer for stack in self.stacks for trial in stack.trials)

    @property
    def seeds(self) -> int:
        """How many trials each configuration has."""
        return len({trial.seed for trial in self.trials})

    def share(self, stack: Stack) -> float:
        """The share of a stack's epochs that will be trained, as far as that is known in advance."""
        return 1.0

    @property
    def to_follow(self) -> int:
        """How many trials the phases after this one will have, without timing; the most, if that is not known yet."""
        return 0

    # ------------------------------------------------------------ in words

    @property
    def title(self) -> str:
        """What is trained."""
        sweep, data = self.job.sweep, " and ".join(self.job.sweep.datasets)
        return f"{sweep.name}: {count(len(self.trials), 'trial')} of {sweep.length} on {data}"

    @property
    def notes(self) -> list[str]:
        """What else to say: which trials stop, and what comes after."""
        return []

    @property
    def warnings(self) -> list[str]:
        """What is allowed but probably not intended."""
        return []

    def progress(self) -> str:
        """How much of the sweep needs no more training, judging by what is on disk now."""
        done = sum(len(phase.settled()) for phase in [*self._earlier, self])
        return f"{done}/{self._total} done"

    def nothing_to_do(self) -> str:
        """What to say when no phase up to this one, the last, had anything to train."""
        return f"nothing to do: all {self._total} trials are in {self.job.store.folder}"

    @property
    def _total(self) -> int:
        """How many trials the sweep has, not counting those that are timed once more."""
        return sum(len(phase.trials) for phase in [*self._earlier, self]) + self.to_follow


class Pretrain(Phase):
    """The networks that trials of later phases begin with, one of its own for each seed."""

    name = "pretrain"
    done = "pretrained"
    decides = False
    keeps_weights = True

    def __init__(self, job: Job) -> None:
        super().__init__(job, job.pretraining)

    @property
    def store(self) -> Store:
        """A place of their own, beside the networks: they are no trials of the sweep."""
        return self.job.store.pretrained

    @property
    def scored(self) -> Store:
        return self.store

    def settled(self) -> set[str]:
        """Ids of the trials that have left a network which is whole, and of those that diverged."""
        statuses, weights = self.store.statuses(), self.store.weights
        found = {trial.trial_id: statuses.get(trial.trial_id) for trial in self.trials}
        return {
            i
            for i, status in found.items()
            if status == "diverged" or (status == "finished" and pretrained.is_whole(weights, i))
        }

    def following(self) -> Phase:
        return Tune(self.job)

    def begin(self) -> None:
        """Also says in the sweep's own folder what is on its way there, so that its status can be asked for."""
        super().begin()
        none = {stack.stack_id: list[str]() for stack in self.stacks}
        self.job.store.begin(self.job.outline(), to_yaml(self.job.sweep), none)

    def _outline(self) -> Outline:
        return self._aside()

    @property
    def title(self) -> str:
        trials, (first, *_) = count(len(self.trials), "trial"), self.trials
        return f"{self.job.sweep.name}, pretraining: {trials} of {count(first.epochs, 'epoch')} on {first.dataset}"

    @property
    def notes(self) -> list[str]:
        return ["then the sweep: its trials begin with the networks of their own seeds"] if self.stacks else []

    def progress(self) -> str:
        return f"{len(self.settled())}/{len(self.trials)} pretrained"


class Tune(Phase):
    """The trials of the sweep file, by which configurations are selected."""

    name = "tune"

    def __init__(self, job: Job) -> None:
        halving = job.halving
        self.rungs = halving.rungs(job.tuning[0].epochs) if halving else ()
        super().__init__(job, job.tuning)

    def settled(self) -> set[str]:
        """Ids of the trials that need no more training: trained, or stopped against the same rivals as now."""
        halving, last, statuses = self.job.halving, self.job.store.outline(), self.job.store.statuses()
        settled = {trial.trial_id for trial in self.trials if statuses.get(trial.trial_id) in ("finished", "diverged")}
        if halving and last.halving == halving.model_dump() and last.metric == self.job.sweep.metric:
            races = self.job.races.items()
            settled |= {i for i, race in races if race in last.races and statuses.get(i) == "stopped"}
        return settled

    def following(self) -> Phase | None:
        """Confirm, if the sweep asks for fresh seeds and a trial has finished to select from; else what comes then."""
        sweep = self.job.sweep
        if not sweep.confirm:
            return self._defaults()
        finals = stats.final(self.job.store.rows(trial_ids=[trial.trial_id for trial in self.trials], last=True))
        selected = stats.select(finals, ["dataset", "optimizer"], sweep.metric)
        each = product(sweep.datasets, self.job.budgets)
        chosen = [selected[dataset, label] for dataset, label in each if (dataset, label) in selected.index]
        return Confirm(self, chosen) if chosen else self._defaults()

    def judge(self) -> Judge | None:
        """Halving, where the sweep has it; knows the scores of those that need no more training."""
        halving, metric = self.job.halving, self.job.sweep.metric
        if not halving or not self.stacks:
            return None
        judge = Judge(self.trials, halving, metric)
        settled = self.settled()
        if settled:
            rows = self.job.store.rows(["trial_id", "epoch", "status", metric], settled)
            judge.observe({str(name): value for name, value in row.items()} for row in rows.to_dict("records"))
        return judge

    @cached_property
    def _rivals(self) -> Counter[tuple[str, int]]:
        """How many configurations compete in each race."""
        return Counter((t.optimizer, t.group) for t in self.trials if t.seed == self.trials[0].seed)

    def share(self, stack: Stack) -> float:
        halving, first = self.job.halving, stack.trials[0]
        return halving.share(self._rivals[first.optimizer, first.group], stack.epochs) if halving else 1.0

    @property
    def to_follow(self) -> int:
        return self._to_confirm + len(self.job.defaults_beside(self.trials))

    @property
    def _to_confirm(self) -> int:
        return self.job.selections.total() * len(self.job.sweep.confirm)

    @property
    def notes(self) -> list[str]:
        sweep, halving = self.job.sweep, self.job.halving
        notes = []
        if halving:
            rungs, best = ", ".join(map(str, self.rungs)), f"the best 1/{halving.factor}"
            notes.append(f"halving: after epoch {rungs} {best} of each optimizer's configurations train on")
        if self._to_confirm and self.stacks:
            seeds, trials = count(len(sweep.confirm), "fresh seed"), count(self._to_confirm, "trial")
            notes.append(f"then each optimizer's selected configuration on {seeds}: {trials} more")
        defaults = self.to_follow - self._to_confirm
        if defaults and self.stacks:
            notes.append(f"then each optimizer at its defaults: {count(defaults, 'trial')} more")
        if self.job.timing and self.stacks:
            notes.append("then one seed of each configuration that a table shows, alone, to measure its seconds")
        return notes

    @property
    def warnings(self) -> list[str]:
        found = {}
        for trial in self.trials:
            s = trial.schedule
            # The first epoch sets the mark, patience + 1 may miss it, the next is the first with a lower rate.
            if isinstance(s, ReduceLROnPlateau) and trial.epochs < s.patience + 3:
                found[str(s)] = (
                    f"schedule {s} cannot act: with patience {s.patience} it needs at least {s.patience + 3} epochs, "
                    f"the sweep has {trial.epochs}"
                )
        if len(set(self.job.budgets.values())) > 1:
            found["budgets"] = f"the tuning budgets differ: {stats.budgets_in_words(self.job.budgets)}"
        for label, why in self.job.without_defaults.items():
            found[f"default of {label}"] = f"{label} has no defaults to train with: {why}"
        others = len(set(self.job.store.outline().trial_ids) - {trial.trial_id for trial in self.trials})
        if others:
            found["others"] = (
                f"{self.job.store.folder} holds {others} trials that are not in this sweep; they stay, but reports "
                "will leave them out (another name or another folder keeps sweeps apart)"
            )
        return list(found.values())


class Confirm(Phase):
    """Each optimizer's selected configuration, on fresh seeds that selected nothing."""

    name = "confirm"

    def __init__(self, tune: Tune, configuration_ids: Sequence[str]) -> None:
        trials = confirmations(tune.trials, configuration_ids, tune.job.sweep.confirm)
        super().__init__(tune.job, trials, [tune])

    def settled(self) -> set[str]:
        return self.job.trained() & {trial.trial_id for trial in self.trials}

    def following(self) -> Phase | None:
        return self._defaults()

    def _outline(self) -> Outline:
        return self.job.outline(self.trials)

    @property
    def to_follow(self) -> int:
        return len(self.job.defaults_beside([*self.job.tuning, *self.trials]))

    @property
    def title(self) -> str:
        return f"{super().title}, to confirm each optimizer's selected configuration on fresh seeds"


class Default(Phase):
    """Each optimizer at its defaults, on the seeds that score what was tuned; without what the phases before train."""

    name = "default"

    def __init__(self, job: Job, earlier: Sequence[Phase]) -> None:
        trained = [trial for phase in earlier for trial in phase.trials]
        self._confirming = [trial for trial in trained if trial.phase == Confirm.name]
        super().__init__(job, job.defaults_beside(trained), earlier)

    def settled(self) -> set[str]:
        return self.job.trained() & {trial.trial_id for trial in self.trials}

    def following(self) -> Phase | None:
        return self._timing()

    def _outline(self) -> Outline:
        return self.job.outline(self._confirming, self.job.defaults)

    @property
    def title(self) -> str:
        return f"{super().title}, each optimizer at its defaults"


class Timing(Phase):
    """One seed of each of some configurations once more, alone on an otherwise idle machine, to measure its seconds.

    It is the first seed, in the order of the sweep, that finished. Configurations without one are left out; those that
    already ran alone on this device, with any seed, are settled.
    """

    name = "timing"
    done = "timed"

    def __init__(self, job: Job, configuration_ids: Collection[str], earlier: Sequence[Phase]) -> None:
        statuses, first = job.store.statuses(), dict[str, Trial]()
        for trial in (trial for phase in earlier for trial in phase.trials):
            if trial.configuration_id in configuration_ids and statuses.get(trial.trial_id) == "finished":
                first.setdefault(trial.configuration_id, replace(trial, phase=self.name))
        super().__init__(job, list(first.values()), earlier)

    def _stack_size(self) -> int:
        return 1

    @property
    def store(self) -> Store:
        """A place of their own: these trials keep the rows that they have in the sweep."""
        return self.job.store.timing

    @property
    def workers(self) -> int:
        return 1

    @property
    def seeds(self) -> int:
        return 1

    def settled(self) -> set[str]:
        rows = self.job.store.timed(["configuration_id", "phase", "status", "device"], last=True)
        # A diverged trial of the sweep that ran alone says nothing about another seed that did not diverge.
        here = rows["device"] == device_name(self.job.device)
        timed = set(rows["configuration_id"][here & ((rows["status"] == "finished") | (rows["phase"] == self.name))])
        return {trial.trial_id for trial in self.trials if trial.configuration_id in timed}

    def following(self) -> None:
        return None

    def begin(self) -> None:
        if self.stacks:  # else there is no folder for them
            super().begin()

    def _outline(self) -> Outline:
        return self._aside()

    @property
    def title(self) -> str:
        trials = count(len(self.trials), "trial")
        return f"{self.job.sweep.name}, timing: {trials}, one at a time; let nothing else run meanwhile"

    def progress(self) -> str:
        return f"{self._earlier[-1].progress()}, {len(self.settled())}/{len(self.trials)} timed"

    def nothing_to_do(self) -> str:
        return f"{self._earlier[-1].nothing_to_do()}, {len(self.trials)} of them timed"
