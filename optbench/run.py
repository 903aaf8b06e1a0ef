"""A sweep from plan to rows on disk: what is missing is trained, every epoch is stored."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from optbench import __version__, execution, fit, model, stacks, stats
from optbench.datasets import DATASETS
from optbench.device import precision_on
from optbench.errors import UserError
from optbench.execution import Event, Failure, Split, Stopped
from optbench.halving import Judge
from optbench.schedules import ReduceLROnPlateau
from optbench.spec import Halving, Sweep, to_yaml
from optbench.stacks import Stack
from optbench.store import Outline, Part, Store
from optbench.trials import Trial, budgets, confirmations, expand

# Four trials together are a tenth faster than one alone on a CPU, and more gain nothing; but there must be enough
# stacks for all cores. The rule looks at the sweep alone, so the stacks are the same on every machine.
_CPU_STACK = 4
_CPU_STACKS_AT_LEAST = 16

_MANY_PARTS = 64  # more are merged when the phase that wrote them is over: each costs a millisecond to read


@dataclass(frozen=True)
class Plan:
    """What a run will do in one phase: the phase's trials, and the stacks that are still to be trained.

    `tuning` are the trials of the first phase, which select the configurations of the second, "confirm". A third,
    "timing", trains some trials of both once more, one at a time, so that their seconds are their own.
    """

    sweep: Sweep
    phase: str
    tuning: list[Trial]
    trials: list[Trial]
    stacks: list[Stack]
    store: Store
    device: str
    workers_wanted: int
    stack_size: int | None

    @property
    def target(self) -> Store:
        """Where the rows of this phase go: a trial that is timed keeps those that it has in the sweep."""
        return self.store.timing if self.phase == "timing" else self.store

    @property
    def workers(self) -> int:
        """Processes that will train."""
        return min(self.workers_wanted, max(1, len(self.stacks)))

    @cached_property
    def per_optimizer(self) -> Counter[str]:
        """Number of trials of each label in this phase, in the order of the sweep file."""
        return Counter(trial.optimizer for trial in self.trials)

    @cached_property
    def missing(self) -> Counter[str]:
        """How many of them are still to be trained."""
        return Counter(trial.optimizer for stack in self.stacks for trial in stack.trials)

    @property
    def datasets(self) -> list[str]:
        """What is still to be trained on."""
        return list(dict.fromkeys(stack.dataset for stack in self.stacks))

    @cached_property
    def selections(self) -> Counter[str]:
        """How many configurations of each optimizer are selected: one on each dataset."""
        return Counter(label for label, _ in {(trial.optimizer, trial.dataset) for trial in self.tuning})

    @cached_property
    def budgets(self) -> dict[str, int]:
        """How many configurations of each optimizer are tuned."""
        return budgets(self.tuning)

    @property
    def confirming(self) -> list[Trial]:
        """The trials of the phase "confirm", where it is this one."""
        return self.trials if self.phase == "confirm" else []

    @property
    def total(self) -> int:
        """How many trials the sweep has in all phases."""
        return len(self.tuning) + self.selections.total() * len(self.sweep.confirm)

    def done(self) -> str:
        """How much of the sweep needs no more training, by what is on disk now, in words."""
        confirming = {trial.trial_id for trial in self.confirming} | self._confirmed()
        done = _settled(self.store, self.sweep, self.tuning) | (_trained(self.store) & confirming)
        timed = f", {len(self.settled())}/{len(self.trials)} timed" if self.phase == "timing" else ""
        return f"{len(done)}/{self.total} done{timed}"

    def settled(self) -> set[str]:
        """Ids of the trials of this phase that need no more training, by what is on disk now."""
        if self.phase == "tune":
            return _settled(self.store, self.sweep, self.tuning)
        if self.phase == "confirm":
            return _trained(self.store) & {trial.trial_id for trial in self.trials}
        rows = self.store.timed(["configuration_id", "phase", "status", "device"], last=True)
        # A diverged trial of the sweep that ran alone says nothing about another seed that did not diverge.
        counts = (rows["device"] == _name(self.device)) & ((rows["status"] == "finished") | (rows["phase"] == "timing"))
        timed = set(rows["configuration_id"][counts])
        return {trial.trial_id for trial in self.trials if trial.configuration_id in timed}

    def _confirmed(self) -> set[str]:
        last = self.store.outline()
        return set(last.confirm_ids) if last else set()

    @property
    def outline(self) -> Outline:
        """What the folder of the rows says about the sweep."""
        if self.phase == "timing":
            return Outline(self.sweep.name, self.sweep.metric, (), {})
        halving = _halving(self.sweep)
        tuned = Counter(trial.optimizer for trial in self.tuning)
        return Outline(
            name=self.sweep.name,
            metric=self.sweep.metric,
            trial_ids=tuple(trial.trial_id for trial in self.tuning),
            confirm_ids=tuple(trial.trial_id for trial in self.confirming),
            optimizers={label: n + self.selections[label] * len(self.sweep.confirm) for label, n in tuned.items()},
            budgets=self.budgets,
            searched=self.sweep.searched,
            searched_schedules=self.sweep.searched_schedules,
            halving=halving.model_dump() if halving else None,
            races=tuple(sorted(set(_races(self.tuning).values()))) if halving else (),
            splits={name: DATASETS[name].splits for name in self.sweep.datasets},
            networks={trial.model: model.MODELS[trial.model].parameters for trial in self.tuning},
        )

    def confirmation(self) -> Plan | None:
        """The plan to train each optimizer's selected configuration with fresh seeds, once the tuning is over.

        None where the sweep wants none, or no trial has finished that could select.
        """
        if not self.sweep.confirm:
            return None
        finals = stats.final(self.store.rows(trial_ids=[trial.trial_id for trial in self.tuning], last=True))
        selected = stats.select(finals, ["dataset", "optimizer"], self.sweep.metric)
        each = product(self.sweep.datasets, self.budgets)
        chosen = [selected[dataset, label] for dataset, label in each if (dataset, label) in selected.index]
        if not chosen:
            return None
        trials = confirmations(self.tuning, chosen, self.sweep.confirm)
        size = self.stack_size or _stack_size(trials, self.device)
        return replace(self, phase="confirm", trials=trials, stacks=stacks.plan(trials, size, _trained(self.store)))

    def timing(self, configuration_ids: Collection[str]) -> Plan:
        """The plan to train one seed of each of these configurations alone, on an otherwise idle machine.

        That is the first seed in the order of the sweep that finished. Left out are configurations of which none has,
        and settled are those that ran alone on this device already, with whichever seed.
        """
        statuses, first = self.store.statuses(), dict[str, Trial]()
        for trial in [*self.tuning, *self.confirming]:
            if trial.configuration_id in configuration_ids and statuses.get(trial.trial_id) == "finished":
                first.setdefault(trial.configuration_id, replace(trial, phase="timing"))
        trials = list(first.values())
        plan = replace(self, phase="timing", trials=trials, stacks=[], workers_wanted=1, stack_size=1)
        return replace(plan, stacks=stacks.plan(trials, 1, plan.settled()))

    @property
    def warnings(self) -> list[str]:
        """What is allowed but hardly meant."""
        found = {}
        for trial in self.trials:
            s = trial.schedule
            # The first epoch sets the mark, patience + 1 may miss it, the next is the first with a lower rate.
            if isinstance(s, ReduceLROnPlateau) and trial.epochs < s.patience + 3:
                found[str(s)] = (
                    f"schedule {s} cannot act: with patience {s.patience} it needs {s.patience + 3} epochs at least, "
                    f"the sweep has {trial.epochs}"
                )
        if len(set(self.budgets.values())) > 1:
            found["budgets"] = f"the tuning budgets differ: {stats.budgets_in_words(self.budgets)}"
        others = self._others()
        if others:
            found["others"] = (
                f"{self.store.folder} holds {others} trials that are not of this sweep; they stay, but reports will "
                "leave them out ('--set name=NAME' or '--output FOLDER' keeps sweeps apart)"
            )
        return list(found.values())

    def _others(self) -> int:
        """How many trials of the sweep that ran last in this folder do not belong to this one."""
        last = self.store.outline()
        return len(set(last.trial_ids) - {trial.trial_id for trial in self.tuning}) if last else 0


def _halving(sweep: Sweep) -> Halving | None:
    return sweep.search.halving if sweep.search else None


def _trained(store: Store) -> set[str]:
    """Ids of the trials in the store that were trained to their end, diverged or not."""
    return {trial_id for trial_id, status in store.statuses().items() if status in ("finished", "diverged")}


def _settled(store: Store, sweep: Sweep, tuning: list[Trial]) -> set[str]:
    """Ids of the tuning trials that need no more training: trained, or stopped against the same rivals as now."""
    halving, last, statuses = _halving(sweep), store.outline(), store.statuses()
    settled = {trial.trial_id for trial in tuning if statuses.get(trial.trial_id) in ("finished", "diverged")}
    if halving and last and last.halving == halving.model_dump() and last.metric == sweep.metric:
        races = _races(tuning).items()
        settled |= {i for i, race in races if race in last.races and statuses.get(i) == "stopped"}
    return settled


def _races(tuning: list[Trial]) -> dict[str, str]:
    """For each trial, by id, a digest of all that compete in halving with it and itself."""
    rivals: dict[tuple[str, int], list[str]] = {}
    for trial in tuning:
        rivals.setdefault((trial.optimizer, trial.group), []).append(trial.trial_id)
    return {
        trial_id: hashlib.sha256(" ".join(sorted(ids)).encode()).hexdigest()[:16]
        for ids in rivals.values()
        for trial_id in ids
    }


def resolve_device(name: str) -> str:
    """`auto` → cuda where there is one, else cpu. Raises `UserError` for a device that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if name == "cpu":
        return name
    if kind != "cuda" or (index and not index.isdigit()):
        raise UserError(f"--device {name}: valid: auto, cpu, cuda, cuda:N")
    if int(index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices")
    return name


def make_plan(sweep: Sweep, output: Path, device: str, workers: int | None, stack_size: int | None) -> Plan:
    """Expand the sweep, look up what is finished, and cut the rest into stacks. Changes nothing on disk."""
    trials = expand(sweep)
    store = Store(output / sweep.name)
    device = resolve_device(device)
    for precision in {trial.precision for trial in trials}:
        precision_on(device, precision)
    halving = _halving(sweep)
    pending = stacks.plan(
        trials,
        stack_size or _stack_size(trials, device),
        _settled(store, sweep, trials),
        halving.rungs(sweep.epochs) if halving else (),
    )
    wanted = (workers or execution.default_workers()) if device == "cpu" else 1
    return Plan(sweep, "tune", trials, trials, pending, store, device, wanted, stack_size)


def _stack_size(trials: list[Trial], device: str) -> int | Callable[[Sequence[Trial]], int]:
    if device == "cpu":
        return min(_CPU_STACK, max(1, len(trials) // _CPU_STACKS_AT_LEAST))
    return partial(fit.stack_size, device=device)


def execute(plan: Plan, data_dir: Path | None) -> Generator[Event, None, None]:
    """Train what the plan holds; every event has been stored when it is yielded."""
    with plan.store.locked():
        here = plan.settled()
        if any(trial.trial_id in here for stack in plan.stacks for trial in stack.trials):
            raise UserError(f"{plan.store.folder}: another run has finished trials meanwhile; run again")
        judge = _judge(plan)
        planned = {stack.stack_id: [trial.trial_id for trial in stack.trials] for stack in plan.stacks}
        if planned or plan.phase != "timing":
            plan.target.begin(plan.outline, to_yaml(plan.sweep), planned)
        parts: dict[str, Part] = {}
        verdict = judge.verdict if judge else execution.never
        with closing(execution.run(plan.stacks, plan.device, plan.workers, data_dir, verdict)) as events:
            for stack, message in events:
                if stack.stack_id not in parts:
                    parts[stack.stack_id] = Part(plan.target, stack.stack_id, _columns(plan, stack))
                part = parts[stack.stack_id]
                if isinstance(message, Split):
                    part.hand_on(message.into[0].stack_id)
                elif isinstance(message, Failure):
                    part.fail(message.error)
                elif isinstance(message, Stopped):
                    part.stop(message.trial_ids)
                else:
                    part.add(message)
                if judge and isinstance(message, Failure):
                    judge.give_up(stack.trials)
                elif judge and isinstance(message, list):
                    judge.observe(message)
                if part.is_settled or isinstance(message, Split):
                    del parts[stack.stack_id]
                yield stack, message
        if len(plan.target.parts()) > _MANY_PARTS:
            plan.target.compact()


def _judge(plan: Plan) -> Judge | None:
    """Who decides which trials are stopped; knows the scores of those that need no more training."""
    halving = _halving(plan.sweep)
    if not halving or not plan.stacks or plan.phase != "tune":
        return None
    judge = Judge(plan.tuning, halving, plan.sweep.metric)
    settled = _settled(plan.store, plan.sweep, plan.tuning)
    if settled:
        rows = plan.store.rows(["trial_id", "epoch", "status", plan.sweep.metric], settled)
        judge.observe({str(name): value for name, value in row.items()} for row in rows.to_dict("records"))
    return judge


def _name(device: str) -> str:
    """The device as the rows name it."""
    return "cpu" if device == "cpu" else torch.cuda.get_device_name(device)


def _columns(plan: Plan, stack: Stack) -> dict[str, dict[str, Any]]:
    """What is the same in all rows of each trial, by trial id."""
    common = {
        "sweep": plan.sweep.name,
        "stack": stack.stack_id,
        "stack_size": len(stack),
        "workers": plan.workers,
        "device": _name(plan.device),
        "precision": stack.network(plan.device).precision,
        "optbench_version": __version__,
        "torch_version": torch.__version__,
    }
    return {trial.trial_id: common | trial.columns() for trial in stack.trials}
