"""Shares of the variance against the textbook's sums, dense least squares and constructed data."""

import math
from itertools import combinations, permutations, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from optbench import stats
from optbench.scores import Score


def trials(cells, score, seeds=1):
    """Final rows of configurations with the given levels, from a function of the levels and the seed."""
    rows = [
        {"configuration_id": f"{c}", "seed": seed, "status": "finished", **levels, "val_accuracy": score(levels, seed)}
        for c, levels in enumerate(cells)
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


def grid(**axes):
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def shares(finals, factors):
    found = stats.importance(finals, factors, Score.val_accuracy)
    assert found["factor"].is_unique
    return found.set_index("factor")["share"]


GRID = grid(optimizer=["sgd", "adam", "lion"], lr=[0.1, 0.01, 0.001, 0.0001], batch_size=[32, 64], dropout=["0", "0.5"])


def test_a_balanced_design_gives_the_classical_analysis_of_variance():
    generator = np.random.default_rng(0)
    finals = trials(GRID, lambda *_: generator.normal(), seeds=3)
    factors = ["optimizer", "lr", "batch_size", "dropout"]
    found = shares(finals, factors)
    y = finals["val_accuracy"]
    total = ((y - y.mean()) ** 2).sum()
    assert len(found) == 4 + 6 + 2
    for a in factors:
        main = finals.groupby(a)["val_accuracy"].transform("mean") - y.mean()
        assert found[a] == pytest.approx((main**2).sum() / total, rel=1e-9)
    for a, b in combinations(factors, 2):
        means = [finals.groupby(keys)["val_accuracy"].transform("mean") for keys in ([a, b], [a], [b])]
        pair = means[0] - means[1] - means[2] + y.mean()
        assert found[f"{a} × {b}"] == pytest.approx((pair**2).sum() / total, rel=1e-9)
    noise = y - finals.groupby("configuration_id")["val_accuracy"].transform("mean")
    assert found["seed"] == pytest.approx((noise**2).sum() / total, rel=1e-9)
    assert found.sum() == pytest.approx(1)
    assert found["rest"] > 0  # what three and four factors do together


def dense(finals, terms):
    """The share of the variance that these terms explain, each a list of factors, by least squares on dummies."""
    labels = [finals[list(term)].astype(str).agg("|".join, axis=1) for term in terms]
    dummies = [np.ones((len(finals), 1)), *(pd.get_dummies(label).to_numpy(dtype=float) for label in labels)]
    X, y = np.hstack(dummies), finals["val_accuracy"].to_numpy()
    rest = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    return 1 - (rest @ rest) / ((y - y.mean()) ** 2).sum()


def mains_of(factors):
    return [[name] for name in factors]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(4, 40), st.integers(2, 4))
def test_an_unbalanced_design_gives_what_a_factor_adds_in_all_orders(seed, n, k):
    generator = np.random.default_rng(seed)
    factors = ["optimizer", "lr", "batch_size", "dropout"][:k]
    cells = [{name: int(generator.integers(0, 2 + i)) for i, name in enumerate(factors)} for _ in range(n)]
    finals = trials(cells, lambda *_: generator.normal(), seeds=2)
    finals = finals[generator.random(len(finals)) < 0.8]
    varying = [name for name in factors if finals[name].nunique() > 1]
    assume(len(finals) > 1)
    found = shares(finals, factors)
    mains = mains_of(varying)
    sets = (those for size in range(len(varying) + 1) for those in combinations(varying, size))
    explained = {frozenset(those): dense(finals, mains_of(those)) for those in sets}
    for a in varying:
        added = [
            explained[frozenset(order[: order.index(a) + 1])] - explained[frozenset(order[: order.index(a)])]
            for order in permutations(varying)
        ]
        assert found[a] == pytest.approx(np.mean(added), abs=1e-9)
    beyond = {(a, b): dense(finals, [*mains, [a, b]]) - dense(finals, mains) for a, b in combinations(varying, 2)}
    left = dense(finals, [["configuration_id"], *mains]) - dense(finals, mains)
    reduced = min(1, left / sum(beyond.values())) if sum(beyond.values()) > 1e-9 else 1
    for (a, b), added in beyond.items():
        assert found[f"{a} × {b}"] == pytest.approx(added * reduced, abs=1e-9)
    assert (found.dropna() >= 0).all()
    assert set(found.index) == {*varying, *(f"{a} × {b}" for a, b in combinations(varying, 2)), "rest", "seed"}
    assert found.sum() == pytest.approx(1)


def test_a_pure_interaction_is_found_as_one():
    found = shares(trials(GRID, lambda x, _: float((x["batch_size"] == 32) == (x["dropout"] == "0"))), [*GRID[0]])
    assert found["batch_size × dropout"] == pytest.approx(1)
    assert found.drop(["batch_size × dropout", "seed"]).abs().max() < 1e-12


def test_an_interaction_of_three_stands_in_the_rest():
    cells = grid(model=["cnn", "mlp"], loss=["bce", "mse"], activation=["relu", "tanh"])
    found = shares(
        trials(cells, lambda x, _: ((x["model"] == "cnn") + (x["loss"] == "bce") + (x["activation"] == "relu")) % 2),
        ["model", "loss", "activation"],
    )
    assert found["rest"] == pytest.approx(1)


def test_a_factor_that_does_nothing_explains_nothing():
    effect = {"sgd": 0.5, "adam": 0.9, "lion": 0.8}
    found = shares(trials(GRID, lambda x, _: effect[x["optimizer"]], seeds=2), [*GRID[0]])
    assert found["optimizer"] == pytest.approx(1)
    assert found.drop("optimizer").abs().max() < 1e-12
    assert found["seed"] == 0


def test_noise_falls_to_the_seeds():
    generator = np.random.default_rng(0)
    found = stats.importance(trials(GRID, lambda *_: generator.normal(), seeds=20), [*GRID[0]], Score.val_accuracy)
    by_kind = found.groupby("kind")["share"].sum()
    freedom = len(GRID) * 20 - 1
    assert by_kind["seed"] == pytest.approx(len(GRID) * 19 / freedom, abs=0.03)
    assert found["kind"].tolist()[-2:] == ["rest", "seed"]
    assert found["share"][:-2].is_monotonic_decreasing


def test_noise_that_cannot_be_told_from_interactions_is_not_called_zero():
    generator = np.random.default_rng(0)
    found = shares(trials(GRID, lambda *_: generator.normal()), [*GRID[0]])
    assert math.isnan(found["seed"])
    assert found.drop("seed").sum() == pytest.approx(1)


def test_diverged_and_stopped_trials_and_constant_factors_are_not_in_it():
    finals = trials(GRID, lambda x, _: float(x["batch_size"])).assign(model="cnn")
    extra = finals.assign(status=["diverged", "stopped"] * (len(finals) // 2), model="mlp", val_accuracy=math.nan)
    factors = [*GRID[0], "model"]
    both = stats.importance(pd.concat([finals, extra]), factors, Score.val_accuracy)
    pd.testing.assert_frame_equal(both, stats.importance(finals, factors, Score.val_accuracy))
    assert not both["factor"].str.contains("model").any()


def test_where_nothing_varies_nothing_is_said():
    finals = trials(GRID, lambda *_: 0.1, seeds=3)
    assert stats.importance(finals, [*GRID[0]], Score.val_accuracy)["share"].isna().all()
    nothing = stats.importance(finals[:0], [*GRID[0]], Score.val_accuracy)
    assert nothing["factor"].tolist() == ["rest", "seed"]
    assert nothing["share"].isna().all()


def test_learning_rates_are_binned_to_half_decades_and_other_numbers_to_eight_groups():
    generator = np.random.default_rng(0)
    cells = [{"lr": 10 ** generator.uniform(-4, 0), "hyperparameter.beta": generator.random()} for _ in range(2000)]
    found = shares(trials(cells, lambda x, _: round(2 * math.log10(x["lr"]))), ["lr", "hyperparameter.beta"])
    assert found["lr"] > 0.99
    assert found["lr × hyperparameter.beta"] < 1e-9
    found = shares(trials(cells, lambda x, _: x["hyperparameter.beta"]), ["lr", "hyperparameter.beta"])
    assert found["hyperparameter.beta"] == pytest.approx(1 - 1 / 64, abs=0.01)  # between eighths of a uniform variable


def test_eight_learning_rates_are_not_binned_and_zero_is_one_of_nine():
    eight = [{"lr": 0.1 + i / 1000} for i in range(8)]
    assert shares(trials(eight, lambda x, _: x["lr"]), ["lr"])["lr"] == pytest.approx(1)
    binned = [*eight, {"lr": 0.11}]
    assert "lr" not in shares(trials(binned, lambda x, _: x["lr"]), ["lr"])
    nine = [{"lr": 0.0}, *({"lr": 0.1 + i / 1000} for i in range(8))]
    assert shares(trials(nine, lambda x, _: float(x["lr"] == 0)), ["lr"])["lr"] == pytest.approx(1)


def test_a_hyperparameter_that_others_do_not_have_is_a_level_of_its_own():
    cells = [{"optimizer": "sgd", "momentum": 0.0}, {"optimizer": "sgd", "momentum": 0.9}] * 4
    cells += [{"optimizer": "adam", "momentum": math.nan}] * 4
    found = shares(trials(cells, lambda x, _: float(x["momentum"] == 0.9)), ["optimizer", "momentum"])
    # Of 4 (2/3)² + 8 (1/3)² there are 8 (1/2)² within sgd; the other quarter is between optimizers, which momentum
    # tells apart as well, so they share it.
    assert found["momentum"] == pytest.approx(0.875)
    assert found["optimizer"] == pytest.approx(0.125)
    assert found["optimizer × momentum"] == pytest.approx(0)
    assert found["rest"] == pytest.approx(0)


def test_factors_that_mask_one_another_share_what_they_explain_together():
    levels = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3), (3, 3)]
    finals = trials([{"lr": a, "dropout": b} for a, b in levels], lambda x, _: x["dropout"] - x["lr"])
    found = shares(finals, ["lr", "dropout"])
    # Neither explains much alone, both explain all.
    assert stats.importance(finals, ["lr"], Score.val_accuracy)["share"][0] < 0.5
    assert found["lr"] == pytest.approx(found["dropout"]) == pytest.approx(0.5)


def test_categories_give_the_same_as_text():
    generator = np.random.default_rng(0)
    finals = trials(GRID, lambda *_: generator.normal(), seeds=2)
    categories = finals.astype(dict.fromkeys(("configuration_id", "optimizer", "dropout", "status"), "category"))
    pd.testing.assert_frame_equal(
        stats.importance(finals, [*GRID[0]], Score.val_accuracy),
        stats.importance(categories, [*GRID[0]], Score.val_accuracy),
    )
