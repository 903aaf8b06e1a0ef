"""Sweep → trials → stacks: nothing lost, nothing twice, ids that depend on the resolved trial alone."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench.errors import UserError
from optbench.sweep.spec import parse
from optbench.sweep.stacks import plan
from optbench.sweep.trials import expand

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
