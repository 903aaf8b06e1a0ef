"""`Sweep` → trials: every configuration that the axes and the search give, except those excluded, once for each seed.

An optimizer without ranges has the product of its axes. For one with ranges, each combination of the axes that are
compared (batch size, schedule…) has `num_samples` configurations: its own lists are repeated, each time with the next
draw for the ranges, so that every value of a list gets its share of the same budget.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

from optbench import networks
from optbench.data.info import DatasetInfo, info_of
from optbench.errors import UserError
from optbench.sweep.axes import AXES, PARAMETERS, Axes, Transfer
from optbench.sweep.document import Problem, SweepError
from optbench.sweep.search import draws, fill, ranges
from optbench.sweep.spec import OptimizerGrid, Search, Sweep, matches
from optbench.wording import count, refusal

MAX_TRIALS = 1_000_000
# A search over few whole numbers ends when so many draws in a row bring nothing new.
_FRUITLESS_DRAWS = 100

# Part of every id: raise it when the same trial would train to other numbers, so that old rows do not pass as new.
NUMERICS = 1


@dataclass(frozen=True, kw_only=True)
class Trial(Axes):
    """One training with one seed, every hyperparameter resolved.

    `optimizer` is the sweep file's label, `dropout` the rates of the network's two places for it. `phase` is "tune",
    "confirm" for fresh seeds of a selected configuration, "default" for an optimizer at its defaults, or "pretrain" for
    a network that others begin with. `group` numbers the combinations of compared axes within each optimizer:
    configurations of one group compete for its budget.
    """

    phase: str = field(default="tune", compare=False)
    group: int = field(default=0, compare=False)

    @property
    def algorithm(self) -> str:
        """The optimizer behind the label."""
        return self.hyperparameters.algorithm

    @property
    def data(self) -> DatasetInfo:
        """What is known of its data, with its validation set. Raises `ValueError` where that takes too many images."""
        return info_of(self.dataset).validated(self.validation)

    @property
    def steps_per_epoch(self) -> int:
        """How many updates a whole epoch makes: the images left over, fewer than a batch, are left out."""
        return self.data.train // self.batch_size

    @cached_property
    def pretraining(self) -> Trial | None:
        """The trial that trains the network which this one begins with; None where it begins from scratch."""
        if not isinstance(self.transfer, Transfer):
            return None
        own = {axis.name: getattr(self, axis.name) for axis in AXES.values() if axis.is_pretrained}
        return Trial(**own, **self.transfer.recipe, phase="pretrain")

    @cached_property
    def configuration_id(self) -> str:
        """A hash of everything but the seed: the same configuration has the same id in every sweep."""
        return self._hash(seed=None)

    @cached_property
    def as_trained(self) -> str:
        """The `configuration_id`, without the axes of which a network from elsewhere has its own."""
        if not isinstance(self.model, networks.ForeignModel):
            return self.configuration_id
        own = {axis.name: axis.default for axis in AXES.values() if axis.is_own_of_modules}
        return replace(self, **own).configuration_id

    @cached_property
    def trial_id(self) -> str:
        """A hash of the resolved trial; a default has the same id, written in the sweep file or left out."""
        return self._hash(seed=self.seed)

    def _hash(self, seed: int | None) -> str:
        # Values equal to a default are left out, so that an axis or an argument that a later version adds, neutral by
        # default, does not change the ids of all earlier trials. Changing a default means raising NUMERICS.
        resolved: dict[str, Any] = {"numerics": NUMERICS, "algorithm": self.algorithm}
        if self.hyperparameters.source:
            resolved["source"] = self.hyperparameters.source
        for axis in AXES.values():
            value = getattr(self, axis.name)
            if axis.is_always_hashed or value != axis.default:
                resolved[axis.name] = axis.hashed(value)
        if self.pretraining:
            resolved["pretraining"] = self.pretraining.configuration_id
        resolved["seed"] = seed
        return hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()[:16]

    def columns(self) -> dict[str, Any]:
        """What a row of results says about its trial (see `store.SCHEMA`)."""
        ids = {"phase": self.phase, "trial_id": self.trial_id, "configuration_id": self.configuration_id}
        return ids | {
            column.name: column.of(getattr(self, axis.name))
            for axis in AXES.values()
            if not axis.is_resolved
            for column in axis.columns
        }


def confirmations(trials: Iterable[Trial], configuration_ids: Sequence[str], seeds: Sequence[int]) -> list[Trial]:
    """These configurations of the trials with other seeds, seed by seed."""
    by_configuration = {trial.configuration_id: trial for trial in trials}
    selected = [by_configuration[i] for i in configuration_ids]
    return [replace(trial, seed=seed, phase="confirm") for seed in seeds for trial in selected]


def defaults(sweep: Sweep) -> tuple[list[Trial], dict[str, str]]:
    """Each optimizer at its defaults on each dataset, seed by seed; and why one has none, by label.

    lr and the hyperparameters that the sweep varies have the defaults of the optimizer's class; those that it fixes
    stay, since they say what the label means, such as `nesterov: true`. All else is as in the first combination of the
    sweep that is not excluded. The seeds are those that score the selected configurations.
    """
    found, without = list[Trial](), dict[str, str]()
    for label in sweep.optimizers:
        for dataset in sweep.datasets:
            try:
                found.append(_default(sweep, label, dataset))
            except ValueError as error:
                without[label] = refusal(error)
    found = [trial for trial in found if trial.optimizer not in without]
    return [
        replace(trial, seed=seed, phase="default") for seed in sweep.confirm or sweep.seeds for trial in found
    ], without


def _default(sweep: Sweep, label: str, dataset: str) -> Trial:
    """An optimizer at its defaults, with the first seed. Raises `ValueError` where it has none."""
    grid = sweep.optimizers[label]
    own = {name: values for name, values in grid.axes.items() if name not in PARAMETERS}
    varied = {name for name, values in own.items() if len(values) > 1 or ranges(values[0])}
    fixed = {name: values[0] for name, values in own.items() if name not in varied | {"lr"}}
    hyperparameters = grid.hyperparameters(**fixed)
    resolved = {name: getattr(hyperparameters, name) for name in own}
    axes = {name: _listed(name, values) for name, values in _compared(sweep, grid).items()} | {"dataset": (dataset,)}
    for values in product(*axes.values()):
        compared = dict(zip(axes, values, strict=True))
        if not _is_excluded(sweep, label, resolved | compared, set()):
            return _trial(sweep, label, fixed | compared, group=0)
    raise ValueError(f"'exclude' leaves nothing on {dataset}")


def _listed(name: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of an axis without those that are drawn; its default if all are."""
    return tuple(value for value in values if not ranges(value)) or (PARAMETERS[name].default,)


def budgets(trials: Iterable[Trial]) -> dict[str, int]:
    """How many configurations are tuned of each optimizer."""
    found = {(trial.optimizer, trial.configuration_id) for trial in trials if trial.phase == "tune"}
    counts = Counter(label for label, _ in found)
    return {trial.optimizer: counts[trial.optimizer] for trial in trials}


def expand(sweep: Sweep) -> list[Trial]:
    """All trials of a sweep, seed by seed, so that a sweep cut short holds whole comparisons with fewer seeds.

    Raises `SweepError` for combinations that an optimizer refuses, for too many trials, and if there are none.
    """
    count = sum(_count(sweep, grid) for grid in sweep.optimizers.values()) * len(sweep.seeds)
    if count > MAX_TRIALS:
        many = f"{count:,} trials are more than the {MAX_TRIALS:,} that one sweep may have"
        raise SweepError([sweep.problem(many, "optimizers")])
    configurations: dict[str, Trial] = {}
    trained: dict[str, Trial] = {}
    refused: list[Problem] = []
    useful: set[int] = set()
    for label, grid in sweep.optimizers.items():
        compared = _compared(sweep, grid)
        for group, values in enumerate(product(*compared.values())):
            for combination in _combinations(sweep, label, dict(zip(compared, values, strict=True)), useful):
                try:
                    trial = _trial(sweep, label, combination, group)
                except ValueError as error:
                    why = f"{label}: {refusal(error)} (use 'exclude' for single combinations)"
                    refused.append(sweep.problem(why, "optimizers", label))
                    continue
                twin = trained.setdefault(trial.as_trained, trial)
                if twin.configuration_id != trial.configuration_id:
                    refused.append(sweep.problem(_twins(twin, trial), "optimizers", label))
                configurations.setdefault(trial.configuration_id, trial)
    for i in range(len(sweep.exclude)):
        if i not in useful:
            refused.append(sweep.problem("excludes nothing: it matches no combination of this sweep", "exclude", i))
    if refused:
        raise SweepError(refused)
    if not configurations:
        raise SweepError([sweep.problem("'exclude' leaves no trial", "exclude")])
    _check_halving(sweep, {trial.epochs for trial in configurations.values()})
    return [replace(trial, seed=seed) for seed in sweep.seeds for trial in configurations.values()]


def _check_halving(sweep: Sweep, epochs: set[int]) -> None:
    """Rungs are epochs, so trials that compete must have the same number of them, and more than the first rung."""
    halving = sweep.search.halving if sweep.search else None
    if halving is None:
        return
    fewest, most = min(epochs), max(epochs)
    if fewest < most:
        differ = f"{sweep.length} are {fewest} to {most} epochs, by batch size and data; say 'epochs' instead"
        raise SweepError([sweep.problem(f"halving needs trials of equal length: {differ}", "search", "halving")])
    if not halving.rungs(most):
        few = f"halving cannot act: the sweep has {count(most, 'epoch')}"
        raise SweepError([sweep.problem(few, "search", "halving")])


# Each combination of the values of these axes has an optimizer's whole budget.
_COMPARED = ("dataset", *PARAMETERS)


def _compared(sweep: Sweep, grid: OptimizerGrid) -> dict[str, tuple[Any, ...]]:
    values = {"dataset": sweep.datasets, **grid.axes}
    return {name: values[name] for name in _COMPARED}


def _trial(sweep: Sweep, label: str, combination: Mapping[str, Any], group: int) -> Trial:
    """The configuration with the first seed. Raises `ValueError` where its optimizer or its dataset refuses it."""
    own = {name: value for name, value in combination.items() if name not in _COMPARED}
    compared = {name: combination[name] for name in _COMPARED}
    if sweep.pretrain and compared["transfer"] != "scratch":
        compared["transfer"] = Transfer(compared["transfer"], sweep.pretrain)
    trial = Trial(
        epochs=sweep.epochs or 1,  # where it says steps they follow below, from the trial's data and batch size
        steps=sweep.steps,
        optimizer=label,
        hyperparameters=sweep.optimizers[label].hyperparameters(**own),
        seed=sweep.seeds[0],
        group=group,
        **compared,
    )
    images = trial.data.train
    if trial.batch_size > images:
        size = f"the training set of {trial.dataset}, {images} images"
        raise ValueError(f"batch_size {trial.batch_size} is larger than {size}")
    try:
        networks.architecture(trial.model, trial.data.image, trial.data.classes)
    except UserError as error:
        raise ValueError(str(error)) from None
    if trial.augment and trial.augment.crop >= min(trial.data.image[1:]):
        shape = " × ".join(map(str, trial.data.image[1:]))
        raise ValueError(
            f"crop {trial.augment.crop} may leave nothing of the images of {trial.dataset}, {shape} pixels"
        )
    if trial.pretraining:
        _check_transfer(trial, trial.pretraining)
    return trial if trial.steps is None else replace(trial, epochs=math.ceil(trial.steps / trial.steps_per_epoch))


def _twins(one: Trial, other: Trial) -> str:
    """Why two trials would train alike."""
    names = [axis.name for axis in AXES.values() if axis.is_own_of_modules]
    varied = " and ".join(name for name in names if getattr(one, name) != getattr(other, name))
    return (
        f"{other.optimizer}: {one.model} has its own {varied}, and would be trained again; 'exclude' all values but one"
    )


def _check_transfer(trial: Trial, pretraining: Trial) -> None:
    """Raises `ValueError` where the network has other layers than the one that it would begin with, or too few."""
    ours, theirs = (networks.architecture(t.model, t.data.image, t.data.classes) for t in (trial, pretraining))
    if not ours.body:
        raise ValueError(f"{trial.model} has no layers to transfer, only the last one, which is always fresh")
    if ours.body != theirs.body:
        sizes = [" × ".join(map(str, t.data.image)) for t in (trial, pretraining)]
        where = f"of {trial.dataset}, {sizes[0]}, begin with one for those of {pretraining.dataset}, {sizes[1]}"
        raise ValueError(f"{trial.model} cannot, for the images {where}")


def _budget(grid: OptimizerGrid, search: Search | None) -> int:
    """How many configurations each combination of compared axes has, where something is searched."""
    budget = grid.num_samples or (search.num_samples if search else None)
    assert budget is not None, "spec ensures that a range comes with num_samples"
    return budget


def _count(sweep: Sweep, grid: OptimizerGrid) -> int:
    """The most configurations that an optimizer can have."""
    compared = math.prod(map(len, _compared(sweep, grid).values()))
    own = math.prod(len(values) for name, values in grid.axes.items() if name not in PARAMETERS)
    return compared * max(own, _budget(grid, sweep.search)) if grid.is_searched else compared * own


def _combinations(sweep: Sweep, label: str, compared: Mapping[str, Any], useful: set[int]) -> Iterator[dict[str, Any]]:
    """The configurations of one combination of compared axes; `useful` collects the exclusions that removed one."""
    grid = sweep.optimizers[label]
    # lr comes first, so that its draws stay the same when something else is searched, too.
    own = {k: v for k, v in sorted(grid.axes.items(), key=lambda axis: axis[0] != "lr") if k not in PARAMETERS}
    templates = [{**dict(zip(own, values, strict=True)), **compared} for values in product(*own.values())]
    if not any(map(_ranges, templates)):
        for template in templates:
            if not _is_excluded(sweep, label, template, useful):
                yield template
        return

    search = sweep.search or Search()
    budget = _budget(grid, search)
    templates = [template for template in templates if not _is_excluded(sweep, label, template, useful)]
    if len(templates) > budget:
        short = f"{label}: num_samples {budget} cannot cover the {len(templates)} combinations of its lists"
        raise SweepError([sweep.problem(short, "optimizers", label)])
    seen: set[str] = set()
    fruitless = 0
    for point in draws(search.method, search.seed, max(map(_ranges, templates), default=0)):
        before = len(seen)
        for template in templates:
            shares = iter(point)
            combination = {name: fill(value, shares) for name, value in template.items()}
            if len(seen) == budget:
                return
            if str(combination) not in seen and not _is_excluded(sweep, label, combination, useful):
                seen.add(str(combination))
                yield combination
        fruitless = 0 if len(seen) > before else fruitless + 1
        if fruitless == _FRUITLESS_DRAWS or len(seen) == budget:
            return


def _ranges(combination: Mapping[str, Any]) -> int:
    return sum(map(ranges, combination.values()))


def _is_excluded(sweep: Sweep, label: str, combination: Mapping[str, Any], useful: set[int]) -> bool:
    exclusions = {i for i, exclusion in enumerate(sweep.exclude) if _matches(label, combination, exclusion)}
    useful |= exclusions
    return bool(exclusions)


def _matches(label: str, combination: Mapping[str, Any], exclusion: Mapping[str, tuple[Any, ...]]) -> bool:
    """Whether every key of the exclusion names this combination's value among its own."""
    named = {**combination, "optimizer": label}
    return all(key in named and any(matches(named[key], v) for v in wanted) for key, wanted in exclusion.items())
