"""A sweep to be run: where its rows go, and what trains it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from optbench import execution, networks
from optbench.data.info import OwnData, info_of
from optbench.machine.device import precision_on, resolve_device
from optbench.results.store import Outline, Store
from optbench.sweep.spec import Halving, Sweep
from optbench.sweep.trials import NUMERICS, Trial, budgets, defaults, expand


class Job:
    """A sweep to be run: where its rows go, and what trains it. Nothing on disk changes.

    tuning: the trials of the sweep file.   defaults: the optimizers at their defaults, where the sweep asks for them;
    some of these trials may be among the others.   without_defaults: why an optimizer has none, by label.
    pretraining: the trials that train networks for others to begin with, for all seeds of the sweep.
    """

    def __init__(
        self,
        sweep: Sweep,
        store: Store,
        device: str = "auto",
        workers: int | None = None,
        stack_size: int | None = None,
        data_dir: Path | None = None,
        timing: bool = False,
    ) -> None:
        """A job on this machine.

        device: "cpu", "cuda", "cuda:N", or "auto" for CUDA where there is a device.
        workers: how many processes train on a CPU; None: one for each core.
        stack_size: how many trials train together; None: as many as suits the device.
        data_dir: the folder of the datasets; None: $OPTBENCH_DATA, else the user's cache.
        timing: whether a last phase measures the seconds of what the tables show.

        Raises `UserError` for a sweep without valid trials, and for a device that is not there or that lacks one of
        their precisions.
        """
        self.sweep, self.store, self.data_dir, self.timing = sweep, store, data_dir, timing
        self.stack_size = stack_size
        self.tuning = expand(sweep)
        self.defaults, self.without_defaults = defaults(sweep) if sweep.defaults else ([], {})
        self.pretraining = _pretraining([*self.tuning, *self.defaults], (*sweep.seeds, *sweep.confirm))
        self.device = resolve_device(device)
        self.workers = (workers or execution.default_workers()) if self.device == "cpu" else 1
        for precision in {trial.precision for trial in self.tuning}:
            precision_on(self.device, precision)

    @property
    def halving(self) -> Halving | None:
        """What stops tuning trials early, if anything."""
        return self.sweep.search.halving if self.sweep.search else None

    @cached_property
    def budgets(self) -> dict[str, int]:
        """How many configurations of each optimizer are tuned."""
        return budgets(self.tuning)

    def defaults_beside(self, trials: Iterable[Trial]) -> list[Trial]:
        """The trials at defaults that are not among these."""
        others = {trial.trial_id for trial in trials}
        return [trial for trial in self.defaults if trial.trial_id not in others]

    @cached_property
    def selections(self) -> Counter[str]:
        """How many configurations of each optimizer are selected: one on each dataset."""
        return Counter(label for label, _ in {(trial.optimizer, trial.dataset) for trial in self.tuning})

    @cached_property
    def races(self) -> dict[str, str]:
        """For each tuning trial, by id, a digest of it and all trials that compete with it in halving."""
        rivals: dict[tuple[str, int], list[str]] = {}
        for trial in self.tuning:
            rivals.setdefault((trial.optimizer, trial.group), []).append(trial.trial_id)
        return {
            trial_id: hashlib.sha256(" ".join(sorted(ids)).encode()).hexdigest()[:16]
            for ids in rivals.values()
            for trial_id in ids
        }

    def trained(self) -> set[str]:
        """Ids of the trials in the store that were trained to their end, diverged or not."""
        return {trial_id for trial_id, status in self.store.statuses().items() if status in ("finished", "diverged")}

    def outline(self, confirming: Sequence[Trial] = (), defaults: Sequence[Trial] = ()) -> Outline:
        """What the folder of the rows says about the sweep, as far as its phases have come."""
        sweep, halving = self.sweep, self.halving
        tuned = Counter(trial.optimizer for trial in self.tuning)
        more = Counter(trial.optimizer for trial in self.defaults_beside([*self.tuning, *confirming]))
        return Outline(
            name=sweep.name,
            metric=sweep.metric,
            trial_ids=tuple(trial.trial_id for trial in self.tuning),
            confirm_ids=tuple(trial.trial_id for trial in confirming),
            default_ids=tuple(trial.trial_id for trial in defaults),
            pretrain_ids=tuple(trial.trial_id for trial in self.pretraining),
            without_defaults=self.without_defaults,
            optimizers={
                label: n + self.selections[label] * len(sweep.confirm) + more[label] for label, n in tuned.items()
            },
            budgets=self.budgets,
            searched=sweep.searched,
            searched_schedules=sweep.searched_schedules,
            halving=halving.model_dump() if halving else None,
            races=tuple(sorted(set(self.races.values()))) if halving else (),
            splits={trial.dataset: info_of(trial.dataset).splits for trial in self.tuning},
            networks={trial.model: _parameters(trial) for trial in self.tuning},
            digests={t.dataset: t.dataset.digest for t in self.tuning if isinstance(t.dataset, OwnData)}
            | {t.model: t.model.source for t in self.tuning if isinstance(t.model, networks.ForeignModel)},
            numerics=NUMERICS,
        )


def _pretraining(trials: Iterable[Trial], seeds: Iterable[int]) -> list[Trial]:
    """The trials that train what these begin with, seed by seed, also for seeds that only a later phase has."""
    needed = dict.fromkeys(replace(trial.pretraining, seed=0) for trial in trials if trial.pretraining)
    return [replace(trial, seed=seed) for seed in seeds for trial in needed]


def _parameters(trial: Trial) -> int:
    """How many parameters the trial's network has."""
    return networks.architecture(trial.model, trial.data.image, trial.data.classes).size
