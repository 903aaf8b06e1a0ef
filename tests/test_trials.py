"""Sweep → trials → stacks: nothing lost, nothing twice, ids that depend on the resolved trial alone."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench.errors import UserError
from optbench.sweep.spec import parse
from optbench.sweep.stacks import plan
from optbench.sweep.trials import defaults, expand

HEAD = "dataset: digits\nepochs: 1\n"
axes = st.fixed_dictionaries(
    {
        "lr": st.lists(st.sampled_from([0.1, 0.01, 0.001]), min_size=1, unique=True),
        "batch_size": st.lists(st.sampled_from([8, 16, 32]), min_size=1, unique=True),
        "dropout": st.lists(st.sampled_from([0.0, 0.5]), min_size=1, unique=True),
        "schedule": st.lists(st.sampled_from(["constant", "cosine"]), min_size=1, unique=True),
    }
)
labels = st.lists(st.sampled_from(["sgd", "adam", "rmsprop"]), min_size=1, unique=True)
seeds = st.lists(st.integers(0, 50), min_size=1, max_size=3, unique=True)


def text_of(names, grid, seed_list, exclude=()):
    blocks = "".join(f"  {name}:\n" for name in names)
    shared = "".join(f"  {key}: {values}\n" for key, values in grid.items()).replace("'", "")
    excluded = "exclude:\n" + "".join(f"  - {entry}\n" for entry in exclude).replace("'", "") if exclude else ""
    return f"{HEAD}seeds: {seed_list}\nparameters:\n{shared}optimizers:\n{blocks}{excluded}"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(labels, axes, seeds, st.data())
def test_trials_are_the_product_less_the_exclusions(names, grid, seed_list, data):
    keys = data.draw(st.lists(st.sampled_from(["optimizer", *grid]), min_size=1, max_size=2, unique=True))
    entry = {key: data.draw(st.sampled_from(names if key == "optimizer" else grid[key])) for key in keys}
    combinations = [dict(zip(["optimizer", *grid], values, strict=True)) for values in product(names, *grid.values())]
    kept = [c for c in combinations if any(c[key] != value for key, value in entry.items())]
    text = text_of(names, grid, seed_list, [entry])
    if not kept:
        with pytest.raises(UserError, match=r"^sweep:\d+:\d+: .*leaves no trial"):
            expand(parse(text))
        return
    trials = expand(parse(text))
    found = [(t.optimizer, t.hyperparameters.lr, t.batch_size, t.dropout[0], t.schedule.name, t.seed) for t in trials]
    names_of = ("optimizer", "lr", "batch_size", "dropout", "schedule")
    assert sorted(found) == sorted((*(c[name] for name in names_of), seed) for c in kept for seed in seed_list)
    assert len({trial.trial_id for trial in trials}) == len(trials)
    assert len({trial.configuration_id for trial in trials}) == len(kept)
    assert [trial.seed for trial in trials] == [seed for seed in seed_list for _ in kept]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(labels, axes, seeds, st.integers(1, 7), st.data())
def test_stacks_hold_every_missing_trial_once(names, grid, seed_list, size, data):
    trials = expand(parse(text_of(names, grid, seed_list)))
    stacks = plan(trials, size)
    ids = [trial.trial_id for stack in stacks for trial in stack.trials]
    assert sorted(ids) == sorted(trial.trial_id for trial in trials)
    for stack in stacks:
        assert len(stack) <= size
        assert len({(t.dataset, t.epochs, t.batch_size) for t in stack.trials}) == 1
        algorithms = [trial.algorithm for trial in stack.trials]
        assert len(list(dict.fromkeys(algorithms))) == sum(
            a != b for a, b in zip(["", *algorithms], algorithms, strict=False)
        )
    assert len({stack.stack_id for stack in stacks}) == len(stacks)
    # A sweep interrupted after any stacks goes on with exactly the others.
    done = data.draw(st.lists(st.sampled_from(stacks), unique_by=lambda stack: stack.stack_id))
    finished = {trial.trial_id for stack in done for trial in stack.trials}
    left = {stack.stack_id for stack in plan(trials, size, finished)}
    assert left == {stack.stack_id for stack in stacks} - {stack.stack_id for stack in done}


def ids(optimizers, *lines):
    return [trial.trial_id for trial in expand(parse("\n".join([HEAD, *lines, f"optimizers: {optimizers}"])))]


def test_an_id_does_not_depend_on_how_the_trial_is_written():
    reference = ids("{adam: {lr: 1e-3}}")
    assert ids("{adam: {lr: 0.001, eps: 1e-8, betas: [[0.9, 0.999]]}}") == reference  # defaults written out
    assert ids("{adam: }") == reference
    assert ids("{adam: {}}", "parameters: {dropout: [[0.10, 0.25]], schedule: {name: constant}}") == reference
    assert ids("{sgd: , adam: {schedule: [cosine, constant]}}")[-1] == reference[0]
    assert ids("{adam: }", "seeds: [0]", "name: other", "metric: val_loss") == reference


def test_an_id_changes_with_anything_that_changes_the_trial():
    variants = [
        ids("{adam: }"),
        ids("{adam: {lr: 0.002}}"),
        ids("{adam: {betas: [[0.8, 0.999]]}}"),
        ids("{adamw: }"),
        ids("{mine: {optimizer: adam}}"),
        ids("{adam: {dropout: 0.1}}"),
        ids("{adam: {batch_size: 32}}"),
        ids("{adam: {schedule: cosine}}"),
        ids("{adam: {schedule: exponential}}"),
        ids("{adam: {schedule: {name: exponential, gamma: 0.5}}}"),
        ids("{adam: }", "seeds: [1]"),
    ]
    assert len({i for (i,) in variants}) == len(variants)


def test_ids_are_stable():
    """If this fails, results on disk are trained again: change NUMERICS on purpose, not the hash by accident."""
    assert ids("{adam: }") == ["212c25ac22e3a7d2"]


def test_what_an_optimizer_refuses_is_named_with_its_place():
    with pytest.raises(UserError) as caught:
        expand(parse(HEAD + "optimizers:\n  sgd: {nesterov: [true, false], momentum: [0.0, 0.9]}"))
    assert str(caught.value).startswith("sweep:4:8: sgd: nesterov needs a momentum above 0 and no dampening")
    trials = expand(
        parse(
            HEAD + "optimizers:\n  sgd: {nesterov: [true, false], momentum: [0.0, 0.9]}\n"
            "exclude: [{nesterov: true, momentum: 0.0}]"
        )
    )
    assert len(trials) == 3


def test_a_schedule_is_excluded_by_name_or_whole():
    base = HEAD + "parameters: {schedule: [cosine, {name: step, step_size: 1}, {name: step, step_size: 2}]}\n"
    base += "optimizers: {adam: }\nexclude: "
    names = lambda text: [str(trial.schedule) for trial in expand(parse(base + text))]  # noqa: E731
    assert names("[{schedule: step}]") == ["cosine"]
    assert names("[{schedule: {name: step, step_size: 2}}]") == ["cosine", "step(step_size=1)"]
    assert names("[{schedule: [cosine, {name: step, step_size: 2}]}]") == ["step(step_size=1)"]


def test_an_exclusion_that_matches_no_combination_is_refused():
    base = HEAD + "optimizers: {sgd: {momentum: [0.0, 0.9]}, adam: }\nexclude:\n"
    with pytest.raises(UserError, match=r"^sweep:5:5: excludes nothing: it matches no combination of this sweep$"):
        expand(parse(base + "  - {optimizer: adam, momentum: 0.9}"))
    assert len(expand(parse(base + "  - {momentum: 0.9}"))) == 2


def test_a_sweep_that_is_too_large_is_refused_before_it_is_expanded():
    lrs = ", ".join(str(i / 1000) for i in range(1, 300))
    text = HEAD + f"seeds: 10000\noptimizers: {{adam: {{lr: [{lrs}], eps: [{lrs}]}}}}"
    with pytest.raises(UserError, match=r"^sweep:4:13: 894,010,000 trials are more than"):
        expand(parse(text))


# ---------------------------------------------------------------- defaults


def defaults_of(text):
    """The trials of a sweep at defaults, with the first seed, by optimizer, and why the others have none."""
    trials, without = defaults(parse(HEAD + text))
    return {trial.optimizer: trial for trial in trials if trial.seed == trials[0].seed}, without


def test_what_a_sweep_varies_and_lr_go_back_to_the_defaults_and_what_it_fixes_stays():
    found, without = defaults_of(
        "search: {num_samples: 4}\n"
        "parameters: {lr: 0.5, batch_size: [32, 16], dropout: [0.5, 0.0]}\n"
        "optimizers:\n"
        "  sgd: {momentum: [0.8, 0.9]}\n"
        "  nesterov: {optimizer: sgd, momentum: 0.7, nesterov: true, lr: {min: 0.1, max: 1}}\n"
        "  adam: {betas: [[{min: 0.8, max: 0.9}, 0.99]], eps: 1e-6, amsgrad: [true, false]}\n"
    )
    taken = {label: trial.hyperparameters.model_dump(exclude_defaults=True) for label, trial in found.items()}
    assert taken == {"sgd": {}, "nesterov": {"momentum": 0.7, "nesterov": True}, "adam": {"eps": 1e-6}}
    assert [trial.hyperparameters.lr for trial in found.values()] == [1e-3, 1e-3, 1e-3]
    assert {(trial.batch_size, trial.dropout, trial.phase) for trial in found.values()} == {(32, (0.5, 0.5), "default")}
    assert without == {}


@pytest.mark.parametrize(
    ("schedules", "taken"),
    [
        ("[cosine, constant]", "cosine"),
        ("[{name: step, step_size: [3, 2]}]", "step(step_size=3)"),
        ("[{name: exponential, gamma: {min: 0.1, max: 0.9}}, cosine]", "cosine"),
        ("{name: exponential, gamma: {min: 0.1, max: 0.9}}", "constant"),
    ],
)
def test_defaults_have_the_first_value_of_an_axis_that_is_listed_or_its_own_default(schedules, taken):
    found, _ = defaults_of(
        f"search: {{num_samples: 4}}\noptimizers: {{adam: {{lr: {{min: 0.1, max: 1}}, schedule: {schedules}}}}}"
    )
    assert str(found["adam"].schedule) == taken


@pytest.mark.parametrize(("confirm", "wanted"), [("", [3, 4]), ("confirm: {seeds: [7, 8, 9]}\n", [7, 8, 9])])
def test_defaults_are_once_on_each_dataset_on_the_seeds_that_score(confirm, wanted):
    text = (
        f"dataset: [mnist, digits]\nepochs: 1\nseeds: [3, 4]\n{confirm}optimizers: {{adam: {{lr: [0.1, 0.2]}}, sgd: }}"
    )
    trials, _ = defaults(parse(text))
    each = product(wanted, ["adam", "sgd"], ["mnist", "digits"])
    assert [(trial.seed, trial.optimizer, trial.dataset) for trial in trials] == list(each)


def test_defaults_leave_out_what_is_excluded():
    base = "parameters: {batch_size: [32, 16]}\noptimizers: {adam: {lr: [0.001, 0.01]}, sgd: }\nexclude:\n"
    found, without = defaults_of(base + "  - {optimizer: adam, batch_size: 32}")
    assert ({label: trial.batch_size for label, trial in found.items()}, without) == ({"adam": 16, "sgd": 32}, {})
    found, without = defaults_of(base + "  - {optimizer: adam, lr: 0.001}")
    assert (list(found), without) == (["sgd"], {"adam": "'exclude' leaves nothing on digits"})


def test_what_has_no_default_or_is_refused_without_its_values_has_no_defaults(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\nclass Mine(torch.optim.SGD):\n"
        "    def __init__(self, params, lr, momentum=0.5):\n        super().__init__(params, lr, momentum)\n"
    )
    text = HEAD + "optimizers:\n  mine: {optimizer: ./mine.py:Mine, lr: 0.1}\n  adam: {eps: 1e-6}\n"
    text += "  nesterov: {optimizer: sgd, nesterov: true, momentum: [0.8, 0.9]}\n"
    trials, without = defaults(parse(text, folder=tmp_path))
    why = "nesterov needs a momentum above 0 and no dampening"
    assert ([trial.optimizer for trial in trials], without) == (["adam"], {"mine": "needs lr", "nesterov": why})


def test_a_default_that_is_also_listed_is_the_same_trial():
    text = "optimizers:\n  adam: {lr: [0.001, 0.1], betas: [[0.9, 0.999], [0.8, 0.9]]}\n"
    text += "  mine: {optimizer: 'torch.optim:Adam', lr: [0.001, 0.1]}\n"
    found, _ = defaults_of(text)
    listed = {trial.trial_id: trial for trial in expand(parse(HEAD + text))}
    assert [listed[trial.trial_id].optimizer for trial in found.values()] == ["adam", "mine"]


STEPS = "dataset: digits\nsteps: 40\nparameters: {batch_size: [64, 100]}\noptimizers: {adam: }"


def test_steps_are_as_many_epochs_as_they_need_and_part_of_the_id():
    trials = expand(parse(STEPS))
    assert [(trial.epochs, trial.steps, trial.steps_per_epoch) for trial in trials] == [(3, 40, 18), (4, 40, 12)]
    assert [(stack.epochs, stack.steps) for stack in plan(trials, 4)] == [(3, 40), (4, 40)]
    (same,) = expand(parse("dataset: digits\nsteps: 36\noptimizers: {adam: }"))
    (epochs,) = expand(parse("dataset: digits\nepochs: 2\noptimizers: {adam: }"))
    assert (same.epochs, epochs.steps) == (2, None)
    assert same.trial_id != epochs.trial_id
    assert plan([epochs], 1)[0].steps == 36


@pytest.mark.parametrize(
    ("steps", "sizes", "words"),
    [
        (40, "[64, 100]", "halving needs trials of equal length: 40 steps are 3 to 4 epochs, by batch size and data"),
        (18, "64", "halving cannot act: the sweep has 1 epoch"),
    ],
)
def test_halving_has_rungs_only_where_steps_are_the_same_epochs_for_all(steps, sizes, words):
    text = STEPS.replace("40", str(steps)).replace("[64, 100]", sizes) + "\nsearch: {halving: {factor: 2}}"
    with pytest.raises(UserError) as caught:
        expand(parse(text))
    assert words in str(caught.value) and str(caught.value).startswith("sweep:5:")
    assert len(expand(parse(text.replace(f"steps: {steps}", "steps: 37").replace("[64, 100]", "64")))) == 1
