"""Every optimizer of pytorch_optimizer: those that are said to work do, and for the others there is a reason."""

import dataclasses
import re
from pathlib import Path

import pytest
import pytorch_optimizer
import torch

import optbench
from optbench.data.datasets import load as load_dataset
from optbench.errors import UserError
from optbench.optimizers import OPTIMIZERS, library
from optbench.sweep.lookup import find
from optbench.sweep.spec import read
from optbench.sweep.stacks import Stack
from optbench.training import check
from optbench.training.engine import Training

ALL_OPTIMIZERS = Path(optbench.__file__).parent.parent / "experiments" / "all_optimizers.yaml"


def test_every_name_is_known():
    supported = pytorch_optimizer.get_supported_optimizers()
    assert sorted([*library.TESTED, *library.UNSUITABLE]) == sorted(supported)
    assert {*library.WITH, *library.MUON_GROUPS, *library.LICENCES} <= set(library.TESTED)


@pytest.mark.parametrize("name", library.TESTED)
def test_it_steps_on_the_network(name):
    """A few steps; that each also learns, repeats itself and survives a checkpoint was surveyed once."""
    hyperparameters = find(f"{library.NAME}.{name}", Path())(lr=1e-3, **library.WITH.get(name, {}))
    trial = dataclasses.replace(check.trial_of("sgd", [], Path()), hyperparameters=hyperparameters)
    training = Training(Stack((trial,)), load_dataset("digits"), "cpu")
    start_TP = training.parameters_TP.clone()
    for _ in range(15):  # some wait for their moments before they move
        training.step()
        if training.optimizer.steps >= 3 and not torch.equal(training.parameters_TP, start_TP):
            break
    assert training.optimizer.failures == {}
    assert torch.isfinite(training.parameters_TP).all()
    assert not torch.equal(training.parameters_TP, start_TP)


@pytest.mark.parametrize("name", library.UNSUITABLE)
def test_what_cannot_train_is_refused_with_the_reason(name):
    with pytest.raises(UserError, match=re.escape(library.UNSUITABLE[name])):
        find(f"{library.NAME}.{name}", Path())


def test_the_large_sweep_holds_every_optimizer_with_what_it_needs():
    grids = read(ALL_OPTIMIZERS).optimizers.values()
    found = {grid.algorithm: grid for grid in grids}
    of_torch = {n for n in library.TESTED if pytorch_optimizer.load_optimizer(n).__module__.startswith("torch.optim")}
    assert set(found) == {*OPTIMIZERS, *(f"{library.NAME}.{name}" for name in set(library.TESTED) - of_torch)}
    for name, needed in library.WITH.items():
        axes = found[f"{library.NAME}.{name}"].axes
        assert {key: axes[key] for key in needed} == {
            key: (value,) if key != "num_iterations" else axes[key] for key, value in needed.items()
        }
