"""Sweep files: what is valid round-trips, what is not names its line and column, and nothing is a traceback."""

import re

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from optbench.cli import Precision
from optbench.errors import UserError
from optbench.networks import NETWORKS
from optbench.optimizers import OPTIMIZERS
from optbench.optimizers.schedules import SCHEDULES
from optbench.sweep import spec
from optbench.sweep.axes import PARAMETERS
from optbench.sweep.search import Range, SearchedSchedule

VALID = """\
version: 1
name: all-of-it
dataset: mnist
epochs: 10
seeds: 3
metric: val_loss
parameters:
  batch_size: [32, 128]
  dropout: [0.0, [0.1, 0.25]]
  schedule: [constant, {name: step, step_size: 3, gamma: 0.3}]
optimizers:
  sgd: {lr: [1e-3, 0.1], momentum: [0.0, 0.9]}
  adam: {betas: [[0.9, 0.99]]}
  mine: {optimizer: rmsprop, lr: 0.01, schedule: cosine}
exclude:
  - {batch_size: 32, optimizer: sgd}
"""


def problems(text, **options):
    with pytest.raises(UserError) as caught:
        spec.parse(text, **options)
    return str(caught.value).splitlines()


def with_line(old, new):
    assert old in VALID
    return VALID.replace(old, new)


# ---------------------------------------------------------------- valid files


def axis(items):
    """A scalar or a list of distinct values."""
    return st.one_of(items, st.lists(items, min_size=1, max_size=3, unique_by=str))


def spelled(value):
    """Equal for two spellings of the same schedule."""
    return str(sorted(value.items())) if isinstance(value, dict) else value


rates = st.floats(0, 0.9)
ranges = st.builds(
    lambda low, factor, log: {"min": low, "max": low * factor} | log,
    st.sampled_from([1e-4, 0.01, 0.5]),
    st.sampled_from([1.5, 10.0]),
    st.sampled_from([{}, {"log": True}, {"log": False}]),
)
schedule_values = st.one_of(
    st.sampled_from(["constant", "exponential", "cosine", "reduce_lr_on_plateau"]),
    st.fixed_dictionaries({"name": st.just("step"), "step_size": st.integers(1, 9)}),
    st.fixed_dictionaries({"name": st.just("multistep"), "milestones": st.lists(st.integers(1, 9), min_size=1)}),
    st.fixed_dictionaries({"name": st.just("linear"), "warmup_steps": st.sampled_from([0.25, 10])}),
    st.fixed_dictionaries({"name": st.just("StepLR"), "step_size": st.just([11, {"min": 12, "max": 20}])}),
    st.fixed_dictionaries({"name": st.just("CosineAnnealingLR"), "T_max": st.integers(1, 9)}),
    st.fixed_dictionaries(
        {"name": st.just("reduce_lr_on_plateau"), "patience": st.integers(0, 9), "factor": st.just(0.5)}
    ),
)
shared = st.fixed_dictionaries(
    {},
    optional={
        "batch_size": st.lists(st.integers(1, 1000), min_size=1, max_size=3, unique=True),
        "dropout": st.lists(
            st.one_of(rates, st.lists(rates, min_size=2, max_size=2)), min_size=1, max_size=2, unique_by=str
        ),
        "schedule": st.lists(schedule_values, min_size=1, max_size=2, unique_by=spelled),
        "lr": axis(st.floats(1e-6, 1)),
        "model": axis(st.sampled_from(list(NETWORKS))),
        "activation": axis(st.sampled_from(["relu", "tanh"])),
        "precision": axis(st.sampled_from(["auto", "fp32", "bf16"])),
        "loss": axis(st.sampled_from(["cross_entropy", "mse", "bce"])),
        "clip_norm": axis(st.none() | st.floats(1e-3, 1e3)),
        "weight_decay_on": axis(st.sampled_from(["all", "weights"])),
        "label_smoothing": axis(st.floats(0, 1, exclude_max=True)),
        "ema": axis(st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True)),
    },
)
labels = st.one_of(
    st.sampled_from(["no", "yes", "010", "1e-3", "null", "a b", "ä: {#", "true", "[red]", "_", "on"]),
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8),
)
blocks = st.builds(
    lambda name, lr, rest: {"optimizer": name} | lr | rest,
    st.sampled_from([name for name, model in OPTIMIZERS.items() if model.stacked and "eps" in model.model_fields]),
    st.fixed_dictionaries({}, optional={"lr": axis(st.floats(1e-6, 10) | ranges), "eps": axis(st.floats(0, 0.1))}),
    shared,
)
sweeps = st.fixed_dictionaries(
    {
        "dataset": st.sampled_from(["digits", "mnist", "fashion_mnist"]),
        "epochs": st.integers(1, 100),
        "optimizers": st.dictionaries(labels, blocks, min_size=1, max_size=4),
    },
    optional={
        "version": st.just(1),
        "name": st.from_regex(r"[a-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
        "seeds": st.one_of(
            st.integers(1, 20), st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4, unique=True)
        ),
        "metric": st.sampled_from(["val_accuracy", "val_loss"]),
        "parameters": shared,
        "confirm": st.fixed_dictionaries({"seeds": st.integers(1, 5)}),
        "defaults": st.booleans(),
    },
)
searches = st.fixed_dictionaries(
    {"num_samples": st.integers(1, 100)},
    optional={
        "method": st.sampled_from(["sobol", "random", "halton"]),
        "seed": st.integers(0, 9),
        "halving": st.fixed_dictionaries({}, optional={"factor": st.integers(2, 4)}),
    },
)


def as_text(sweep):
    """YAML as a user may write it: with this project's quoting rules, so that `name: 1e-3` is quoted."""
    return yaml.dump(sweep, Dumper=spec.Dumper, sort_keys=False, allow_unicode=True)


def distinct(sweep):
    """Equal values under different spellings (0.1 and [0.1, 0.1], a range with `log: false`) are rightly refused."""
    blocks = [sweep.get("parameters", {}), *sweep["optimizers"].values()]
    axes = [[v if isinstance(v, list) else [v, v] for v in block.get("dropout", [])] for block in blocks]
    ranges = [block.get("lr", []) for block in blocks]
    axes += [[{"log": False} | v for v in axis if isinstance(v, dict)] for axis in ranges if isinstance(axis, list)]
    return all(value not in axis[:i] for axis in axes for i, value in enumerate(axis))


def fresh(sweep):
    """A number of seeds to confirm on means those from 10000 on, which must not have tuned."""
    seeds = sweep.get("seeds", 1)
    return "confirm" not in sweep or not isinstance(seeds, list) or max(seeds) < 10_000


@settings(max_examples=200, deadline=None, derandomize=True)
@given(sweeps.filter(distinct).filter(fresh), searches)
def test_a_valid_file_round_trips(sweep, search):
    if "'max'" in str(sweep):
        sweep |= {"search": search, "epochs": sweep["epochs"] + 1}
        sweep |= {} if "confirm" in sweep else {"defaults": False}  # halving could stop a default
    try:
        parsed = spec.parse(as_text(sweep))
    except UserError as error:  # every optimizer has a value of its own in the place of the shared range
        assume("there is no range {min, max} to search" not in str(error))
        raise
    assert any(grid.is_searched for grid in parsed.optimizers.values()) == (parsed.search is not None)
    assert spec.parse(spec.to_yaml(parsed)) == parsed
    assert parsed.epochs == sweep["epochs"]
    assert list(parsed.optimizers) == list(sweep["optimizers"])
    for label, block in sweep["optimizers"].items():
        grid = parsed.optimizers[label]
        assert grid.algorithm == block["optimizer"]
        given = {**sweep.get("parameters", {}), **block}
        for name in ("lr", "eps", "batch_size", "model", "clip_norm", "weight_decay_on", "label_smoothing", "ema"):
            if name in given:
                wanted = given[name] if isinstance(given[name], list) else [given[name]]
                assert grid.axes[name] == tuple(Range(**v) if isinstance(v, dict) else v for v in wanted)


def test_a_full_file_is_read_as_meant():
    sweep = spec.parse(VALID)
    assert sweep.seeds == (0, 1, 2)
    assert sweep.optimizers["sgd"].axes["lr"] == (1e-3, 0.1)
    assert sweep.optimizers["sgd"].axes["dropout"] == ((0.0, 0.0), (0.1, 0.25))
    assert sweep.optimizers["adam"].axes["betas"] == ((0.9, 0.99),)
    assert sweep.optimizers["mine"].axes["schedule"] == (SCHEDULES["cosine"](name="cosine"),)
    assert spec.parse(spec.to_yaml(sweep)) == sweep


def test_a_file_says_epochs_or_steps():
    text = "dataset: digits\nsteps: 500\noptimizers: {adam: }"
    sweep = spec.parse(text)
    assert (sweep.epochs, sweep.steps, sweep.length) == (None, 500, "500 steps")
    assert spec.parse(spec.to_yaml(sweep)) == sweep
    assert spec.parse(text, settings=["steps=null", "epochs=1"]).length == "1 epoch"


def test_lists_and_ranges_inside_a_schedule_are_axes():
    (grid,) = spec.parse(
        "dataset: digits\nepochs: 1\nsearch: {num_samples: 1}\noptimizers: {adam: {schedule: [linear, {name: step, "
        "step_size: [1, 2], gamma: [0.1, {min: 0.2, max: 0.5}]}, {name: MultiStepLR, milestones: [[1, 2], [3]]}]}}"
    ).optimizers.values()
    step, multistep = SCHEDULES["step"], SCHEDULES["multistep"]
    gamma = Range(0.2, 0.5)
    assert grid.axes["schedule"] == (
        SCHEDULES["linear"](),
        step(step_size=1),
        SearchedSchedule("step", (("step_size", 1), ("gamma", gamma))),
        step(step_size=2),
        SearchedSchedule("step", (("step_size", 2), ("gamma", gamma))),
        multistep(milestones=[1, 2]),
        multistep(milestones=[3]),
    )


def test_the_names_of_networks_are_those_that_there_are():
    from typing import get_args

    from optbench.machine.device import PRECISIONS
    from optbench.networks.activations import ACTIVATIONS
    from optbench.networks.losses import LOSSES

    named = {name: list(get_args(PARAMETERS[name].kind)) for name in ("activation", "loss", "precision")}
    assert named == {
        "activation": list(ACTIVATIONS),
        "loss": list(LOSSES),
        "precision": ["auto", *PRECISIONS],
    }
    assert [precision.value for precision in Precision] == ["auto", *PRECISIONS]


@pytest.mark.parametrize(
    ("written", "read"), [("1e-3", 0.001), ("1E3", 1000.0), (".5", 0.5), ("1.", 1.0), ("010", 10.0), ("+0.1", 0.1)]
)
def test_numbers_are_numbers(written, read):
    sweep = spec.parse(f"dataset: digits\nepochs: 1\noptimizers: {{adam: {{lr: {written}}}}}")
    assert sweep.optimizers["adam"].axes["lr"] == (read,)


def test_010_is_ten_and_no_is_a_word():
    sweep = spec.parse("dataset: digits\nepochs: 010\noptimizers:\n  no: {optimizer: sgd}\n  010: {optimizer: adam}")
    assert sweep.epochs == 10
    assert list(sweep.optimizers) == ["no", "010"]
    (line,) = problems("dataset: digits\nepochs: 1\noptimizers: {sgd: {nesterov: no, momentum: 0.9}}")
    assert line == "sweep:3:30: must be true or false, not the text 'no'"


def test_an_optimizers_own_value_wins_and_the_rest_is_inherited():
    sweep = spec.parse(
        "dataset: digits\nepochs: 1\nparameters: {lr: [0.1, 0.2], batch_size: 8}\noptimizers: {sgd: , adam: {lr: 1}}"
    )
    assert sweep.optimizers["sgd"].axes["lr"] == (0.1, 0.2)
    assert sweep.optimizers["adam"].axes["lr"] == (1.0,)
    assert sweep.optimizers["adam"].axes["batch_size"] == (8,)


def test_the_name_defaults_to_the_file(tmp_path):
    path = tmp_path / "my_sweep.yaml"
    path.write_text("dataset: digits\nepochs: 1\noptimizers: {adam: }")
    assert spec.read(path).name == "my_sweep"
    assert spec.read(path.rename(tmp_path / "my sweep (1).yaml")).name == "my-sweep-1"


# ---------------------------------------------------------------- wrong files


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "epochs: 10",
            "epoch: 10",
            ["1:1: missing key 'epochs' (or 'steps')", "4:1: unknown key 'epoch'; did you mean 'epochs'?"],
        ),
        (
            "epochs: 10",
            "epochs: 10\nsteps: 5",
            ["5:1: 'epochs' already says how long each trial trains; leave out one"],
        ),
        ("epochs: 10", "steps: 0", ["4:8: must be greater than or equal to 1, not 0"]),
        ("epochs: 10", "epochs: 1.5", ["4:9: must be a whole number, not 1.5"]),
        ("epochs: 10", "epochs: 0", ["4:9: must be greater than or equal to 1, not 0"]),
        ("epochs: 10", "epochs: true", ["4:9: must be a whole number, not true"]),
        ("epochs: 10", "epochs: '10'", ["4:9: must be a whole number, not the text '10'"]),
        ("epochs: 10", "epochs: 10\nepochs: 11", ["5:1: key 'epochs' occurs twice (first in line 4)"]),
        ("dataset: mnist", "dataset: mnsit", ["3:10: unknown dataset 'mnsit'; did you mean 'mnist'?"]),
        ("seeds: 3", "seeds: [1, 1]", ["5:8: the value 1 occurs twice"]),
        ("seeds: 3", "seeds: {min: 1}", ["5:8: takes a number of seeds or a list of them"]),
        ("seeds: 3", "seeds: 3\nschedule: cosine", ["6:1: 'schedule' belongs under 'parameters'"]),
        (
            "  batch_size:",
            "  momentum: 0.9\n  batch_size:",
            ["8:3: 'momentum' is not a hyperparameter of adam"],
        ),
        ("[0.0, [0.1, 0.25]]", "[[0.1, 0.2, 0.3]]", ["9:13: takes pairs: two numbers, not [0.1, 0.2, 0.3]"]),
        ("[0.0, [0.1, 0.25]]", "[[0.1]]", ["9:13: takes pairs: two numbers, not [0.1]"]),
        ("seeds: 3", "seeds: 0", ["5:8: the number of seeds must be from 1 to 10000"]),
        ("seeds: 3", "seeds: [-1]", ["5:9: must be greater than or equal to 0, not -1"]),
        ("metric: val_loss", "metric: test_accuracy", ["6:9: selecting on the test set would bias it; select on"]),
        ("[32, 128]", "[32, 70000]", ["8:20: batch_size 70000 is larger than the training set of 55000 images"]),
        ("  batch_size:", "  batchsize:", ["8:3: unknown key 'batchsize'; did you mean 'batch_size'?"]),
        ("[0.0, [0.1, 0.25]]", "[1.0]", ["9:13: must be less than 1, not 1.0"]),
        ("[0.0, [0.1, 0.25]]", "[]", ["9:12: needs at least one value"]),
        ("[constant,", "[cosin,", ["10:14: unknown schedule 'cosin'; did you mean 'cosine'?"]),
        ("[constant,", "[{name: linear, warmup_steps: -1},", ["10:43: must be greater than or equal to 0, not -1"]),
        ("step_size: 3, ", "", ["10:24: missing key 'step_size'"]),
        (
            "step_size: 3",
            "stepsize: 3",
            ["10:24: missing key 'step_size'", "10:37: unknown key 'stepsize'; did you mean"],
        ),
        ("sgd: {", "sdg: {", ["12:3: unknown optimizer 'sdg'; did you mean 'sgd'?"]),
        ("momentum:", "learning_rate:", ["12:26: unknown key 'learning_rate'; did you mean 'lr'?"]),
        ("momentum:", "wd:", ["12:26: unknown key 'wd'; did you mean 'weight_decay'?"]),
        ("momentum:", "momentun:", ["12:26: unknown key 'momentun'; did you mean 'momentum'?"]),
        ("[1e-3, 0.1]", "{min: 1e-3, max: 1}", ["12:3: sgd has a range: say how many values to try, 'search: {num_"]),
        ("[1e-3, 0.1]", "{min: 1, max: 1}", ["12:19: the range from 1 to 1 is empty"]),
        ("[1e-3, 0.1]", "{min: 1, max: 1e-3}", ["12:19: the range from 1 to 0.001 is reversed"]),
        ("[1e-3, 0.1]", "{min: 0, max: 1, log: true}", ["12:19: a logarithmic range must begin above 0"]),
        ("[1e-3, 0.1]", "{min: -1, max: 1}", ["12:19: must be greater than or equal to 0, not -1"]),
        ("[1e-3, 0.1]", "{min: 0, max: x}", ["12:27: must be a number, not the text 'x'"]),
        ("[1e-3, 0.1]", "{min: 0, max: true}", ["12:27: must be a number, not true"]),
        ("[1e-3, 0.1]", "{min: 0, max: .inf}", ["12:27: must be a finite number"]),
        ("[1e-3, 0.1]", "{min: 0, max: 1, log: 1}", ["12:35: must be true or false, not 1"]),
        ("[1e-3, 0.1]", "{min: 0}", ["12:13: a range needs 'max'"]),
        ("[1e-3, 0.1]", "{min: 0, max: 1, step: 2}", ["12:36: unknown key 'step'; a range has min, max and log"]),
        ("[1e-3, 0.1]", "[0.1, {min: 1, max: 0}]", ["12:25: the range from 1 to 0 is reversed"]),
        ("[[0.9, 0.99]]", "[[{min: 0.9, max: 1.5}, 0.99]]", ["13:35: must be less than 1, not 1.5"]),
        ("gamma: 0.3", "gamma: {min: 2, max: 1}", ["10:64: must be less than or equal to 1, not 2"]),
        ("gamma: 0.3", "gamma: [0.3, 0.3]", ["10:58: the value 0.3 occurs twice"]),
        ("[32, 128]", "{min: 32, max: 128}", ["8:15: no range can be searched here: list the values"]),
        ("[constant,", "[LambdaLR,", ["10:14: LambdaLR cannot be used in a sweep file: it takes a Python function"]),
        ("[constant,", "[StepLr,", ["10:14: unknown schedule 'StepLr'; did you mean 'StepLR'?"]),
        ("[constant,", "[{name: CosineAnnealingLR},", ["10:14: missing key 'T_max'"]),
        (
            "  batch_size:",
            "  model: cnnn\n  batch_size:",
            ["8:10: unknown network 'cnnn'; did you mean 'cnn'?"],
        ),
        ("[1e-3, 0.1]", "[1e-3, -1]", ["12:20: must be greater than or equal to 0, not -1"]),
        ("[1e-3, 0.1]", "[1e-3, .nan]", ["12:20: must be a finite number"]),
        ("[1e-3, 0.1]", "1e999", ["12:13: must be a finite number"]),
        (
            "[[0.9, 0.99]]",
            "[0.9, 0.99]",
            ["13:18: takes pairs, and a list is a grid axis: write one pair as [[a, b]]", "13:23: takes pairs"],
        ),
        ("betas: [[0.9, 0.99]]", "momentum: 0.9", ["13:10: 'momentum' is not a hyperparameter of adam"]),
        ("betas: [[0.9, 0.99]]", "maximize: true", ["13:10: 'maximize' cannot be set: the loss is minimized"]),
        (
            "optimizer: rmsprop",
            "optimizer: pytorch_optimizer.lino",
            ["14:21: pytorch_optimizer has no optimizer 'lino'; did you mean 'lion'?"],
        ),
        (
            "optimizer: rmsprop",
            "optimizer: my.module:Class",
            ["14:21: cannot import my.module: ModuleNotFoundError: No module named 'my'"],
        ),
        ("optimizer: rmsprop", "optimizer: SparseAdam", ["14:21: SparseAdam cannot train here: it takes only sparse"]),
        (
            "optimizer: rmsprop",
            "optimizer: pytorch_optimizer.lomo",
            ["14:21: pytorch_optimizer.lomo cannot train here"],
        ),
        ("optimizer: rmsprop", "optimizer: ./none.py:X", ["none.py: no such file"]),
        ("optimizer: rmsprop", "optimizer: my.py", ["14:21: my.py: say which class of the file, 'my.py:MyOptimizer'"]),
        ("optimizer: rmsprop", "optimizer: 'math:sqrt'", ["14:21: math:sqrt is a builtin_function_or_method, not a"]),
        (
            "optimizer: rmsprop",
            "optimizer: 'torch.nn:Linear'",
            ["14:21: torch.nn:Linear is a class derived from Module"],
        ),
        ("optimizer: rmsprop", "optimizer: 'torch.optim:Adm'", ["14:21: torch.optim has no 'Adm'"]),
        (
            "optimizer: rmsprop",
            "optimizer: 'torch.optim:Adam', lrr: 1",
            ["14:41: unknown key 'lrr'; did you mean 'lr'?"],
        ),
        ("  mine: {optimizer: rmsprop,", "  Muom: {", ["14:3: unknown optimizer 'Muom'; did you mean 'muon'?"]),
        (
            "optimizer: sgd}",
            "optimizer: sdg}",
            ["16:33: excludes nothing: no optimizer of this sweep is the text 'sdg'"],
        ),
        ("{batch_size: 32, ", "{batch_size: 64, ", ["16:18: excludes nothing: no batch_size of this sweep is 64"]),
        ("{batch_size: 32, ", "{batchsize: 32, ", ["16:6: unknown key 'batchsize'; did you mean 'batch_size'?"]),
        ("exclude:", "search: {method: sobol}\nexclude:", ["15:1: there is no range {min, max} to search"]),
        ("exclude:", "search: {methd: sobol}\nexclude:", ["15:10: unknown key 'methd'; did you mean 'method'?"]),
        (
            "exclude:",
            "search: {method: grid}\nexclude:",
            ["15:18: must be 'sobol', 'random' or 'halton', not the text"],
        ),
        (
            "exclude:",
            "search: {halving: {factr: 3}}\nexclude:",
            ["15:20: unknown key 'factr'; did you mean 'factor'?"],
        ),
        (
            "exclude:",
            "search: {halving: {min_epochs: 10}}\nexclude:",
            ["15:32: halving cannot act: the sweep has 10 epochs"],
        ),
        ("exclude:", "confirm: {seeds: [7, 2]}\nexclude:", ["15:18: seed 2 is a tuning seed, too"]),
        ("exclude:", "confirm: {seeds: 0}\nexclude:", ["15:18: the number of seeds must be from 1 to 10000"]),
        ("exclude:", "confirm: {}\nexclude:", ["15:10: missing key 'seeds'"]),
        ("exclude:", "defaults: 3\nexclude:", ["15:11: must be true or false, not 3"]),
        (
            "exclude:",
            "defaults: true\nsearch: {halving: {factor: 3}}\nexclude:",
            ["15:11: halving may stop what is also a default; 'confirm: {seeds: 5}' gives it seeds of its own"],
        ),
        ("exclude:", "confirm: 3\nexclude:", ["15:10: must be a mapping, not 3"]),
        ("momentum: [0.0, 0.9]", "num_samples: 0", ["12:39: must be a whole number from 1 to 10000, not 0"]),
        ("momentum: [0.0, 0.9]", "num_samples: 3", ["12:26: sgd has no range {min, max} to search"]),
        ("momentum: [0.0, 0.9]", "num_samples: 3, momentum: {min: 1, max: 0}", ["12:58: the range from 1 to 0 is"]),
        ("momentum: [0.0, 0.9]", "momentum: {min: 0, max: 1.0e+305}", ["12:50: must lie within ±1e+300 in a range"]),
        (
            "{batch_size: 32, ",
            "{lr: {min: 0.5, max: 1}, ",
            ["16:10: excludes nothing: no lr of this sweep is {min: 0.5, max: 1}"],
        ),
        ("name: all-of-it", "name: ../x", ["2:7: must be letters, digits"]),
        ("{betas: [[0.9, 0.99]]}", "5", ["13:9: must be a mapping, not 5"]),
        ("{betas: [[0.9, 0.99]]}", "[a]", ["13:9: must be a mapping, not ['a']"]),
        ("version: 1", "version: 2", ["1:10: must be 1, not 2"]),
        ("dataset: mnist", "dataset: !!python/name:os.system x", ["3:10: 'x' cannot be read as"]),
        ("dataset: mnist", "dataset: [mnist", ["4:7: while parsing a flow sequence"]),
        ("dataset: mnist", "dataset: \x07", ["3:10: a character is not allowed"]),
    ],
)
def test_a_problem_has_its_place_and_its_words(old, new, expected):
    lines = problems(with_line(old, new))
    assert len(lines) == len(expected), lines
    for line, words in zip(lines, expected, strict=True):
        assert words in line
        assert re.match(r"sweep:\d+:\d+: ", line)


def test_all_problems_of_a_file_come_at_once():
    text = VALID.replace("epochs: 10", "epochs: ten").replace("momentum", "momentun").replace("rmsprop", "rms")
    places = [line.split(": ")[0] for line in problems(text)]
    assert places == ["sweep:4:9", "sweep:12:26", "sweep:14:21"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing",
        "- 1",
        "5",
        "a: &x [*x]",
        "? [1]\n: 2",
        "{",
        "\t- x",
        "a: " + "[" * 3000,
        "a: *b",
        "--- 1\n--- 2",
        "%",
    ],
)
def test_what_is_no_sweep_at_all(text):
    assert re.match(r"sweep:\d+:\d+: ", problems(text)[0])


def test_aliases_work_and_cannot_explode():
    text = "dataset: digits\nepochs: 1\nparameters: {lr: &a [0.1, 0.2]}\noptimizers: {sgd: {lr: *a}}"
    assert spec.parse(text).optimizers["sgd"].axes["lr"] == (0.1, 0.2)
    bomb = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(9)
    )
    assert any("too many" in line for line in problems(bomb))


mutations = st.one_of(
    st.tuples(st.just("key"), st.text(max_size=6)),
    st.tuples(st.just("value"), st.text(max_size=8)),
    st.tuples(
        st.just("value"),
        st.sampled_from(
            ["[]", "{}", "null", "-1", "1e999", ".nan", "true", "[[[]]]", "{min: 1}", "!!int x", "0x1F", "9" * 5000]
        ),
    ),
    st.tuples(st.just("delete"), st.just("")),
)
spots = [match.span() for match in re.finditer(r"[^\s,:{}\[\]-][^\s,:{}\[\]]*", VALID)]


@settings(max_examples=600, deadline=None, derandomize=True)
@given(st.sampled_from(spots), mutations)
def test_any_mutation_gives_a_sweep_or_problems_with_a_place(spot, mutation):
    text = VALID[: spot[0]] + mutation[1] + VALID[spot[1] :]
    try:
        parsed = spec.parse(text)
    except UserError as error:
        for line in str(error).splitlines():
            assert re.match(r"sweep:\d+:\d+: \S", line), line
    else:
        assert spec.parse(spec.to_yaml(parsed)) == parsed


# ---------------------------------------------------------------- --set


def test_torchs_names_of_classes_are_names():
    for name in ("AdamW", "NAdam", "SGD", "LBFGS"):
        sweep = spec.parse(
            f"dataset: digits\nepochs: 1\noptimizers: {{{name}: , mine: {{optimizer: {name}, lr: 0.1}}}}"
        )
        assert {label: grid.algorithm for label, grid in sweep.optimizers.items()} == dict.fromkeys(
            (name, "mine"), name.lower()
        )
        assert spec.parse(spec.to_yaml(sweep)) == sweep


def test_settings_change_the_sweep():
    sweep = spec.parse(
        VALID, settings=["epochs=2", "optimizers.sgd.lr=[1e-2]", "parameters.batch_size=32", "exclude=null"]
    )
    assert sweep.epochs == 2
    assert sweep.optimizers["sgd"].axes["lr"] == (0.01,)
    assert sweep.optimizers["adam"].axes["batch_size"] == (32,)
    assert spec.parse(
        "dataset: digits\nepochs: 1\noptimizers: {adam: }", settings=["parameters.dropout=0.5"]
    ).optimizers["adam"].axes["dropout"] == ((0.5, 0.5),)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("epochs=ten", "set epochs=ten: must be a whole number, not the text 'ten'"),
        ("epoch=2", "set epoch=2: unknown key 'epoch'; did you mean 'epochs'?"),
        ("epochs", "set epochs: write it as key=value"),
        ("epochs.x=1", "set epochs.x=1: there is nothing below 'epochs' to set"),
        ("epochs=[", "set epochs=[: while parsing"),
        ("=1", "set =1: write it as key=value"),
    ],
)
def test_a_wrong_setting_is_named(setting, expected):
    (line,) = problems(VALID, settings=[setting])
    assert line.startswith(expected)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="no such sweep file"):
        spec.read(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        spec.read(tmp_path / "binary.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        spec.read(tmp_path)
