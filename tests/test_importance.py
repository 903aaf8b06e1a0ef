"""Shares of the variance against the textbook's sums, dense least squares and constructed data."""

import math
from itertools import combinations, permutations, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from optbench import stats
from optbench.report import explanations
from optbench.scores import Score
from tests.test_plots import made_up, results_of


def trials(cells, score, seeds=1):
    """Final rows of configurations with the given levels; a function of these and the seed gives the log error."""
    rows = [
        {
            "configuration_id": f"{c}",
            "seed": seed,
            "status": "finished",
            **levels,
            "val_accuracy": 1 - 10 ** score(levels, seed),
        }
        for c, levels in enumerate(cells)
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


def grid(**axes):
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def log_error(finals):
    return np.log10(1 - finals["val_accuracy"])


def shares(finals, factors):
    found = stats.importance(finals, factors, Score.val_accuracy)
    assert found["factor"].is_unique
    return found.set_index("factor")["share"]


GRID = grid(optimizer=["sgd", "adam", "lion"], lr=[0.1, 0.01, 0.001, 0.0001], batch_size=[32, 64], dropout=["0", "0.5"])


def classical(finals, factors):
    """Sums of squares of a balanced design by the textbook, as shares: of factors, their pairs, and of the seed."""
    y = log_error(finals)
    total, found = ((y - y.mean()) ** 2).sum(), {}
    means = {
        keys: y.groupby([finals[name] for name in keys]).transform("mean")
        for n in (1, 2)
        for keys in combinations(factors, n)
    }
    for (a,) in combinations(factors, 1):
        found[a] = ((means[a,] - y.mean()) ** 2).sum() / total
    for a, b in combinations(factors, 2):
        found[f"{a} × {b}"] = ((means[a, b] - means[a,] - means[b,] + y.mean()) ** 2).sum() / total
    noise = y - y.groupby(finals["configuration_id"]).transform("mean")
    return found | {"seed": (noise**2).sum() / total}


def test_a_balanced_design_gives_the_classical_analysis_of_variance():
    generator = np.random.default_rng(0)
    cells = [{("model" if name == "optimizer" else name): value for name, value in cell.items()} for cell in GRID]
    finals = trials(cells, lambda *_: generator.normal(), seeds=3)
    factors = ["model", "lr", "batch_size", "dropout"]
    found, expected = shares(finals, factors), classical(finals, factors)
    assert set(found.index) == {*expected, "rest"}
    assert found[list(expected)].to_dict() == pytest.approx(expected, rel=1e-9)
    assert found.sum() == pytest.approx(1)
    assert found["rest"] > 0  # what three and four factors do together


def test_a_learning_rate_counts_within_its_optimizer():
    """Nested analysis of variance: what is classically the effect of lr and its pair with the optimizer is one."""
    generator = np.random.default_rng(0)
    finals = trials(GRID, lambda *_: generator.normal(), seeds=3)
    factors = ["optimizer", "lr", "batch_size", "dropout"]
    found, expected = shares(finals, factors), classical(finals, factors)
    assert "optimizer × lr" not in found
    assert found["lr"] == pytest.approx(expected["lr"] + expected["optimizer × lr"], rel=1e-9)
    for name in ("optimizer", "batch_size", "dropout", "optimizer × batch_size", "batch_size × dropout", "seed"):
        assert found[name] == pytest.approx(expected[name], rel=1e-9)
    three = log_error(finals).groupby([finals[name] for name in ("optimizer", "lr", "dropout")]).transform("mean")
    known = dense(finals, [["optimizer", "lr"], ["optimizer", "dropout"]])
    centred = log_error(finals) - log_error(finals).mean()
    assert found["lr × dropout"] == pytest.approx(((three - three.mean()) ** 2).sum() / (centred**2).sum() - known)
    assert found.sum() == pytest.approx(1)


def test_ranges_that_differ_between_optimizers_make_no_effect():
    """The truth of this simulation: the distance from each one's own best lr decides a third, noise two thirds."""
    generator = np.random.default_rng(0)
    best = {"sgd": -1.0, "adam": -3.0, "lion": -4.0}
    cells = [{"optimizer": name, "lr": 10 ** (at + d)} for name, at in best.items() for d in (-1, -0.5, 0, 0.5, 1)]
    noise = math.sqrt(2 * np.var([1, 0.5, 0, 0.5, 1]))
    effect = lambda x, _: abs(math.log10(x["lr"]) - best[x["optimizer"]]) + generator.normal(0, noise)  # noqa: E731
    found = shares(trials(cells, effect, seeds=400), ["optimizer", "lr"])
    assert found["lr"] == pytest.approx(1 / 3, abs=0.03)
    assert found["optimizer"] < 0.005
    assert found["seed"] == pytest.approx(2 / 3, abs=0.03)
    assert list(found.index) == ["lr", "optimizer", "rest", "seed"]


@pytest.mark.parametrize("accuracy", [0.0, 0.1])
def test_how_badly_a_trial_fails_does_not_matter_and_who_failed_is_said(accuracy):
    rows, finals = made_up({"adam": [1e-3, 1e-2], "sgd": [1e-3, 1e-2, 1e-1]}, dropout=[(0.0, 0.0), (0.5, 0.5)])
    without = results_of((rows, finals[finals["lr"] != 0.1]))
    rows = rows.assign(val_accuracy=rows["val_accuracy"].where(rows["lr"] != 0.1, accuracy))
    bad = stats.with_hyperparameters(stats.with_labels(stats.final(rows)))[0]
    found, expected = explanations.importance(results_of((rows, bad))), explanations.importance(without)
    pd.testing.assert_frame_equal(found.data, expected.data)
    assert "Left out: 6 of 30 that diverged or guess (6 of sgd)" in found.caption
    assert "Left out" not in expected.caption


def test_ratios_of_errors_count_and_not_points():
    """A factor that halves a large and a small error alike has no interaction with what makes the error large."""
    cells = grid(model=["mlp", "cnn"], dropout=["0", "0.5"])
    error = {"mlp": 0.4, "cnn": 0.02}
    finals = trials(cells, lambda x, _: math.log10(error[x["model"]] * (0.5 if x["dropout"] == "0" else 1)))
    found = shares(finals, ["model", "dropout"])
    ratio = (math.log(2) / math.log(20)) ** 2
    assert found["dropout"] == pytest.approx(ratio / (1 + ratio))
    assert found["model × dropout"] == pytest.approx(0, abs=1e-12)


def test_no_error_at_all_counts_as_half_the_least():
    finals = trials(grid(lr=[0.1, 0.2, 0.3]), lambda *_: -1.0).assign(val_accuracy=[0.9, 0.96, 1.0])
    half = trials(grid(lr=[0.1, 0.2, 0.3]), lambda *_: -1.0).assign(val_accuracy=[0.9, 0.96, 0.98])
    pd.testing.assert_frame_equal(
        stats.importance(finals, ["lr"], Score.val_accuracy), stats.importance(half, ["lr"], Score.val_accuracy)
    )


def test_a_loss_counts_by_its_logarithm():
    finals = trials(grid(model=["a", "b"], dropout=["0", "1"]), lambda *_: 0.0).assign(val_loss=[0.1, 0.2, 1.0, 2.0])
    found = stats.importance(finals, ["model", "dropout"], Score.val_loss).set_index("factor")["share"]
    assert found["model × dropout"] == pytest.approx(0, abs=1e-12)
    assert found["model"] == pytest.approx(1 / (1 + math.log10(2) ** 2))


def dense(finals, terms):
    """The share of the variance that these terms explain, each a list of factors, by least squares on dummies."""
    labels = [finals[list(term)].astype(str).agg("|".join, axis=1) for term in terms]
    dummies = [np.ones((len(finals), 1)), *(pd.get_dummies(label).to_numpy(dtype=float) for label in labels)]
    X, y = np.hstack(dummies), log_error(finals).to_numpy()
    rest = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    return 1 - (rest @ rest) / ((y - y.mean()) ** 2).sum()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(4, 40), st.integers(2, 4), st.sampled_from(["model", "optimizer"]))
def test_an_unbalanced_design_gives_what_a_factor_adds_in_all_orders(seed, n, k, outer):
    """By dense least squares; lr counts within the optimizer, if there is one, and comes after it."""
    generator = np.random.default_rng(seed)
    factors = [outer, "lr", "batch_size", "dropout"][:k]
    cells = [{name: int(generator.integers(0, 2 + i)) for i, name in enumerate(factors)} for _ in range(n)]
    finals = trials(cells, lambda *_: generator.normal(), seeds=2)
    finals = finals[generator.random(len(finals)) < 0.8]
    assume(len(finals) > 1)
    varying = [name for name in factors if finals[name].nunique() > 1]
    is_nested = {"optimizer", "lr"} <= set(varying)
    if is_nested:
        assume(finals.groupby("optimizer")["lr"].nunique().max() > 1)
    term = {name: ["optimizer", "lr"] if is_nested and name == "lr" else [name] for name in varying}
    orders = [o for o in permutations(varying) if not is_nested or o.index("optimizer") < o.index("lr")]
    pairs = [pair for pair in combinations(varying, 2) if not is_nested or pair != ("optimizer", "lr")]
    found = shares(finals, factors)
    explained = {
        frozenset(those): dense(finals, [term[name] for name in those])
        for size in range(len(varying) + 1)
        for those in combinations(varying, size)
    }
    for a in varying:
        added = [
            explained[frozenset(order[: order.index(a) + 1])] - explained[frozenset(order[: order.index(a)])]
            for order in orders
        ]
        assert found[a] == pytest.approx(np.mean(added), abs=1e-9)
    beyond, mains = {}, list(term.values())
    for a, b in pairs:
        others = [["optimizer", b if a == "lr" else a]] if is_nested and "lr" in (a, b) else []
        beyond[a, b] = dense(finals, [*mains, *others, [*term[a], *term[b]]]) - dense(finals, [*mains, *others])
    left = dense(finals, [["configuration_id"], *mains]) - dense(finals, mains)
    reduced = min(1, left / sum(beyond.values())) if sum(beyond.values()) > 1e-9 else 1
    for (a, b), added in beyond.items():
        assert found[f"{a} × {b}"] == pytest.approx(added * reduced, abs=1e-9)
    assert (found.dropna() >= 0).all()
    assert set(found.index) == {*varying, *(f"{a} × {b}" for a, b in pairs), "rest", "seed"}
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
