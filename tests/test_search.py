"""Searches: what is drawn fills its range evenly, can be made longer, and every optimizer gets the same of it."""

import json
import math
from itertools import islice

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from optbench.errors import UserError
from optbench.sweep.search import Range, draws, ranges
from optbench.sweep.spec import parse
from optbench.sweep.trials import budgets, expand

METHODS = ["sobol", "random", "halton"]
HEAD = "dataset: digits\nepochs: 9\n"


def sweep(optimizers, **lines):
    return parse(
        HEAD
        + "".join(f"{key}: {json.dumps(value)}\n" for key, value in lines.items())
        + f"optimizers: {json.dumps(optimizers)}"
    )


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("method", METHODS)
def test_draws_are_points_of_the_unit_cube_that_fill_it(method):
    points = list(islice(draws(method, 0, 3), 256))
    assert len(set(points)) == 256
    for dimension in zip(*points, strict=True):
        assert all(0 <= x < 1 for x in dimension)
        counts = [sum(int(x * 8) == cell for x in dimension) for cell in range(8)]
        if method == "sobol":  # moved by a shift, each eighth may lose one point to its neighbour
            assert all(abs(n - 32) <= 1 for n in counts)
        elif method == "halton":
            assert all(abs(n - 32) <= 6 for n in counts)
        else:
            assert all(abs(n - 32) < 5 * math.sqrt(32) for n in counts)


@pytest.mark.parametrize("method", METHODS)
def test_draws_are_pinned(method):
    """If this fails, the trials of every search on disk are lost: they would be drawn anew."""
    pinned = {
        "sobol": (0.35076, 0.85076, 0.10076),
        "random": (0.274284, 0.498578, 0.006422),
        "halton": (0.35076, 0.85076, 0.60076),
    }
    assert tuple(round(x, 6) for (x,) in islice(draws(method, 0, 1), 3)) == pinned[method]


@pytest.mark.parametrize("method", METHODS)
def test_another_seed_draws_other_points(method):
    first, second = (list(islice(draws(method, seed, 2), 8)) for seed in (0, 1))
    assert not set(first) & set(second)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(1e-8, 1e3), st.floats(1.01, 1e6), st.booleans(), st.floats(0, 1, exclude_max=True), st.floats(0, 0.5))
def test_a_number_lies_in_its_range_where_its_share_says(low, factor, log, share, more):
    found = Range(low, low * factor, log).at(share)
    assert low <= found <= low * factor
    exact = low * factor**share if log else low + (low * factor - low) * share
    assert math.isclose(found, exact, rel_tol=6e-4 if log else 0, abs_tol=0 if log else 1e-4 * low * factor)
    assert Range(low, low * factor, log).at(min(share + more, 1.0)) >= found
    if log and found not in (low, low * factor):
        assert float(f"{found:.4g}") == found  # what a table prints is what was used


@pytest.mark.parametrize("log", [False, True])
def test_whole_numbers_are_drawn_alike_and_both_ends_are_among_them(log):
    drawn = [Range(1, 8, log, integer=True).at(i / 8000) for i in range(8000)]
    assert set(drawn) == set(range(1, 9))
    assert all(isinstance(value, int) for value in drawn)
    if not log:
        assert {drawn.count(value) for value in range(1, 9)} == {1000}


# ---------------------------------------------------------------- trials

values = {
    "lr": st.sampled_from(
        [0.1, {"min": 1e-4, "max": 1.0, "log": True}, [0.1, 0.2], [0.3, {"min": 0.001, "max": 0.01}]]
    ),
    "weight_decay": st.sampled_from([0.0, {"min": 1e-6, "max": 1e-2, "log": True}, [0.0, 1e-4]]),
    "eps": st.sampled_from([1e-8, {"min": 1e-10, "max": 1e-3, "log": True}]),
    "betas": st.sampled_from([[[0.9, 0.99]], [[{"min": 0.8, "max": 0.95}, 0.999]], [[0.5, 0.9], [0.9, 0.99]]]),
}
shared = st.fixed_dictionaries(
    {},
    optional={
        "batch_size": st.sampled_from([[32, 64], 16]),
        "model": st.sampled_from([["cnn", "mlp"]]),
        "schedule": st.sampled_from(
            [["cosine", "linear"], [{"name": "step", "step_size": {"min": 1, "max": 5}}, "constant"]]
        ),
    },
)
searched_block = st.fixed_dictionaries({"lr": values["lr"]}, optional={k: v for k, v in values.items() if k != "lr"})
blocks = st.dictionaries(st.sampled_from(["adam", "adamw", "nadam", "radam"]), searched_block, min_size=1)
searches = st.fixed_dictionaries(
    {"num_samples": st.integers(8, 16)}, optional={"method": st.sampled_from(METHODS), "seed": st.integers(0, 5)}
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(blocks, shared, searches, st.integers(1, 2), st.data())
def test_a_search_keeps_its_budget_its_ids_and_loses_nothing(optimizers, parameters, search, seeds, data):
    assume('"min"' in json.dumps([optimizers, parameters]))
    given_ = {"parameters": parameters, "search": search, "seeds": seeds}
    trials = expand(sweep(optimizers, **given_))
    ids = [trial.trial_id for trial in trials]
    assert len(set(ids)) == len(ids)
    assert [trial.trial_id for trial in expand(sweep(optimizers, **given_))] == ids
    assert len(trials) == sum(budgets(trials).values()) * seeds  # none lost, none twice

    # Every optimizer with a range of its own has num_samples configurations for each combination that is compared.
    for label, grid in sweep(optimizers, **given_).optimizers.items():
        own = any(ranges(value) for name, values in grid.axes.items() if name != "schedule" for value in values)
        for group in {trial.group for trial in trials if trial.optimizer == label} if own else ():
            of_group = [t for t in trials if (t.optimizer, t.group, t.seed) == (label, group, 0)]
            assert len(of_group) == search["num_samples"]

    # A longer search keeps all of it.
    longer = expand(sweep(optimizers, **given_ | {"search": search | {"num_samples": search["num_samples"] + 5}}))
    assert set(ids) <= {trial.trial_id for trial in longer}

    # What is excluded is gone, and nothing of the kind is left.
    victim = data.draw(st.sampled_from(trials))
    excluded = {"optimizer": victim.optimizer, "batch_size": victim.batch_size, "model": victim.model}
    rest = [t for t in trials if {k: getattr(t, k) for k in excluded} != excluded]
    if rest:
        kept = expand(sweep(optimizers, **given_, exclude=[excluded]))
        assert [t.trial_id for t in kept] == [t.trial_id for t in rest]


def test_an_optimizers_own_lists_share_its_budget():
    trials = expand(
        sweep(
            {
                "sgd": {"lr": {"min": 1e-3, "max": 1, "log": True}, "momentum": [0.0, 0.9]},
                "adam": {"lr": {"min": 1e-5, "max": 1e-2}},
            },
            search={"num_samples": 8},
        )
    )
    assert budgets(trials) == {"sgd": 8, "adam": 8}
    sgd = [t.hyperparameters for t in trials if t.optimizer == "sgd"]
    assert [h.momentum for h in sgd].count(0.9) == 4
    lrs = [{h.lr for h in sgd if h.momentum == momentum} for momentum in (0.0, 0.9)]
    assert lrs[0] == lrs[1]
    assert len(lrs[0]) == 4


def test_all_optimizers_are_tried_at_the_same_points_of_their_ranges():
    trials = expand(
        sweep(
            {
                "adam": {"lr": {"min": 1e-5, "max": 1e-2, "log": True}},
                "sgd": {"lr": {"min": 1e-3, "max": 1, "log": True}},
            },
            search={"num_samples": 6},
        )
    )
    adam, sgd = ([t.hyperparameters.lr for t in trials if t.optimizer == label] for label in ("adam", "sgd"))
    assert [a * 100 for a in adam] == pytest.approx(sgd, rel=1e-3)


def test_another_searched_hyperparameter_leaves_the_draws_of_lr():
    lr = {"min": 1e-5, "max": 1e-2, "log": True}
    search = {"num_samples": 6}
    alone = expand(sweep({"adam": {"lr": lr}}, search=search))
    both = expand(sweep({"adam": {"eps": {"min": 1e-9, "max": 1e-6, "log": True}, "lr": lr}}, search=search))
    assert [t.hyperparameters.lr for t in alone] == [t.hyperparameters.lr for t in both]
    assert len({t.hyperparameters.eps for t in both}) == 6


def test_a_search_of_few_whole_numbers_ends():
    trials = expand(
        sweep({"adam": {"schedule": {"name": "step", "step_size": {"min": 1, "max": 3}}}}, search={"num_samples": 8})
    )
    assert sorted(trial.schedule.step_size for trial in trials) == [1, 2, 3]


def test_too_small_a_budget_for_the_lists_is_refused():
    with pytest.raises(UserError, match=r"^sweep:\d+:\d+: adam: num_samples 2 cannot cover the 3 combinations"):
        expand(sweep({"adam": {"lr": {"min": 0.1, "max": 1}, "eps": [1e-8, 1e-7, 1e-6]}}, search={"num_samples": 2}))


def test_an_optimizer_may_have_a_budget_of_its_own():
    lr = {"min": 1e-5, "max": 1e-2}
    trials = expand(sweep({"adam": {"lr": lr, "num_samples": 3}, "sgd": {"lr": lr}}, search={"num_samples": 5}))
    assert budgets(trials) == {"adam": 3, "sgd": 5}


def test_an_excluded_value_of_a_list_leaves_its_budget_to_the_others():
    trials = expand(
        sweep(
            {"sgd": {"lr": {"min": 1e-3, "max": 1}, "momentum": [0.0, 0.9]}},
            search={"num_samples": 6},
            parameters={"batch_size": [32, 64]},
            exclude=[{"momentum": 0.0, "batch_size": 32}],
        )
    )
    assert len(trials) == 12
    assert {t.hyperparameters.momentum for t in trials if t.batch_size == 32} == {0.9}
    assert len({t.hyperparameters.lr for t in trials if t.batch_size == 32}) == 6
