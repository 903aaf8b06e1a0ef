"""A sweep from plan to rows on disk: what is missing is trained, every epoch is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from optbench import __version__, execution, model, stacks
from optbench.errors import UserError
from optbench.execution import Event, Failure
from optbench.schedules import ReduceLROnPlateau
from optbench.spec import Sweep, to_yaml
from optbench.stacks import Stack
from optbench.store import Outline, Part, Store
from optbench.trials import Trial, expand

# Four trials together are a tenth faster than one alone on a CPU, and more gain nothing; but there must be enough
# stacks for all cores. The rule looks at the sweep alone, so the stacks are the same on every machine.
_CPU_STACK = 4
_CPU_STACKS_AT_LEAST = 16
_GPU_STACK = 512
_GPU_MEMORY_SHARE = 0.5
# Parameters, their gradient twice (autograd's and the flat one), and at most two buffers of optimizer state.
_COPIES_OF_PARAMETERS = 5


@dataclass(frozen=True)
class Plan:
    """What a run will do: all trials of the sweep, and the stacks that are still to be trained."""

    sweep: Sweep
    trials: list[Trial]
    stacks: list[Stack]
    store: Store
    device: str
    workers: int

    @cached_property
    def per_optimizer(self) -> Counter[str]:
        """Number of trials of each label, in the order of the sweep file."""
        return Counter(trial.optimizer for trial in self.trials)

    @cached_property
    def missing(self) -> Counter[str]:
        """How many of them are still to be trained."""
        return Counter(trial.optimizer for stack in self.stacks for trial in stack.trials)

    def done(self) -> int:
        """How many trials of the sweep need no more training, by what is on disk now."""
        return len(self.store.finished() & {trial.trial_id for trial in self.trials})

    @property
    def outline(self) -> Outline:
        return Outline(
            self.sweep.name,
            self.sweep.metric,
            tuple(trial.trial_id for trial in self.trials),
            dict(self.per_optimizer),
        )

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
        return len(set(last.trial_ids) - {trial.trial_id for trial in self.trials}) if last else 0


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
    pending = stacks.plan(trials, stack_size or _stack_size(trials, device), store.finished())
    workers = min(workers or execution.default_workers(), max(1, len(pending))) if device == "cpu" else 1
    return Plan(sweep, trials, pending, store, device, workers)


def _stack_size(trials: list[Trial], device: str) -> int:
    if device == "cpu":
        return min(_CPU_STACK, max(1, len(trials) // _CPU_STACKS_AT_LEAST))
    # Of the total, not of what is free now: a resumed run must cut the same stacks.
    _, total = torch.cuda.mem_get_info(device)
    largest = max(trial.batch_size for trial in trials)
    each = largest * model.ACTIVATION_BYTES + model.PARAMETERS * 4 * _COPIES_OF_PARAMETERS
    return max(1, min(_GPU_STACK, int(total * _GPU_MEMORY_SHARE) // each))


def execute(plan: Plan, data_dir: Path | None) -> Generator[Event, None, None]:
    """Train what the plan holds; every event has been stored when it is yielded."""
    with plan.store.locked():
        if plan.done() + plan.missing.total() > len(plan.trials):
            raise UserError(f"{plan.store.folder}: another run has finished trials meanwhile; run again")
        plan.store.begin(plan.outline, to_yaml(plan.sweep), [stack.stack_id for stack in plan.stacks])
        parts: dict[str, Part] = {}
        with closing(execution.run(plan.stacks, plan.device, plan.workers, data_dir)) as events:
            for stack, message in events:
                if stack.stack_id not in parts:
                    parts[stack.stack_id] = Part(plan.store, stack.stack_id, _columns(plan, stack))
                part = parts[stack.stack_id]
                if isinstance(message, Failure):
                    part.fail(message.error)
                else:
                    part.add(message)
                if isinstance(message, Failure) or message[0]["epoch"] == stack.epochs:
                    del parts[stack.stack_id]
                yield stack, message


def _columns(plan: Plan, stack: Stack) -> dict[str, dict[str, Any]]:
    """What is the same in all rows of each trial, by trial id."""
    common = {
        "sweep": plan.sweep.name,
        "phase": "tune",
        "stack": stack.stack_id,
        "stack_size": len(stack),
        "workers": plan.workers,
        "device": "cpu" if plan.device == "cpu" else torch.cuda.get_device_name(plan.device),
        "precision": "fp32",
        "error": None,
        "optbench_version": __version__,
        "torch_version": torch.__version__,
    }
    return {trial.trial_id: common | trial.columns() for trial in stack.trials}
