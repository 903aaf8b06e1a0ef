"""Optimizers from elsewhere: what of their signature a sweep file may set, and what it says of those it cannot use."""

import pickle
import sys

import pytest

from optbench.errors import UserError
from optbench.sweep.lookup import find
from optbench.sweep.spec import parse
from optbench.sweep.trials import expand

SIGNATURES = """
import torch
class Base(torch.optim.SGD):
    def __init__(self, params, lr, scale, momentum=0, nesterov=False):
        self.scale = scale
        super().__init__(params, lr=lr, momentum=momentum, nesterov=nesterov)
class Derived(Base):
    def __init__(self, params, first, second, decay: float = 1, rounds: int = 3, **rest):
        assert first is not None and second is not None
        super().__init__(params, scale=first, **rest)
class Crowded(torch.optim.SGD):
    '''Its arguments have names with other meanings.'''
    def __init__(self, params, lr=0.1, seed=0, status="s", epochs=5, phase=0.5, batch_size=7, copy=False, table=None):
        self.seen = seed, status, epochs, phase, batch_size, copy, table
        super().__init__(params, lr=lr)
class Needs(torch.optim.SGD):
    def __init__(self, params, lr, model):
        super().__init__(params, lr=lr)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own.py").write_text(SIGNATURES)
    return tmp_path


def trials_of(folder, block):
    text = f"dataset: digits\nepochs: 1\nsearch: {{num_samples: 8}}\noptimizers:\n  own: {block}\n"
    return expand(parse(text if "min:" in block else text.replace("search: {num_samples: 8}\n", ""), folder=folder))


def test_arguments_come_from_all_classes_that_take_them(folder):
    derived = find("./own.py:Derived", folder)
    assert list(derived.model_fields) == ["lr", "first", "second", "decay", "rounds", "momentum", "nesterov"]
    required = [name for name, info in derived.model_fields.items() if info.is_required()]
    assert required == ["lr", "first", "second"]


@pytest.mark.parametrize(
    ("argument", "whole"), [("momentum", False), ("decay", False), ("rounds", True), ("first", True)]
)
def test_a_range_is_of_whole_numbers_where_the_argument_is(argument, whole, folder):
    given = {"lr": 0.1, "first": 1, "second": 2} | {argument: "{min: 0, max: 9}"}
    block = ", ".join(f"{name}: {value}" for name, value in given.items())
    trials = trials_of(folder, f"{{optimizer: './own.py:Derived', {block}}}")
    drawn = [getattr(trial.hyperparameters, argument) for trial in trials]
    assert len(drawn) == 8
    assert all(isinstance(value, int) for value in drawn) == whole


@pytest.mark.parametrize(("one", "other"), [("1", "1.0"), ("2", "2.0")])
def test_a_number_is_the_same_however_it_is_written(one, other, folder):
    block = "{{optimizer: './own.py:Derived', lr: 0.1, first: 1, second: 2, decay: {0}, momentum: {0}}}"
    (a,), (b,) = (trials_of(folder, block.format(value)) for value in (one, other))
    assert a.trial_id == b.trial_id


def test_names_with_another_meaning_cannot_be_set(folder):
    crowded = find("./own.py:Crowded", folder)
    assert list(crowded.model_fields) == ["lr", "seed", "status", "epochs", "phase", "table"]
    with pytest.raises(UserError, match=r"own.py:Needs needs 'model', which has another meaning in a sweep file"):
        find("./own.py:Needs", folder)


def test_a_file_that_changes_under_a_run_is_noticed(folder):
    (trial,) = trials_of(folder, "{optimizer: './own.py:Crowded', lr: 0.1}")
    sent = pickle.dumps(trial)
    assert pickle.loads(sent) == trial
    find_again = sys.modules["optbench.optimizers.foreign"].find_foreign
    find_again.cache_clear()  # as in a process that starts now
    (folder / "own.py").write_text(SIGNATURES + "\n# changed\n")
    with pytest.raises(UserError, match=r"the code of ./own.py:Crowded was changed while the sweep ran; run again"):
        pickle.loads(sent)
    find_again.cache_clear()


def test_a_script_that_exits_when_imported_is_named(folder):
    (folder / "script.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(UserError, match=r"cannot import .*script.py: SystemExit: 3"):
        find("./script.py:X", folder)


def test_a_misspelt_class_of_a_package_has_its_nearest_name(folder):
    with pytest.raises(UserError, match=r"torch.optim has no 'Adm'; did you mean 'Adam'\?"):
        find("torch.optim:Adm", folder)
