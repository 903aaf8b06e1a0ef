"""The sentences above the tables say what the numbers say, and nothing else."""

import math
import re

import numpy as np
import pytest

from optbench.report import build
from optbench.report.findings import names
from optbench.scores import Score
from tests.test_report import fill

SWEEP = """
dataset: digits
name: findings
epochs: 4
seeds: 5
optimizers:
  sgd: {lr: [0.01, 0.1, 1.0]}
  adam: {lr: [0.001, 0.01]}
  lion: {lr: 0.001}
"""
NOISE = (0.3, -0.4, 0.1, 0.2, -0.2)  # sums to 0


def findings(tmp_path, value, text=SWEEP, **kwargs):
    return " ".join(build.build(fill(tmp_path, text, value, **kwargs)).findings)


def steady(scores, noise=0.001):
    """Each optimizer's score at its best lr, a little different with each seed and optimizer, worse at others."""

    def value(trial, epoch):
        away = trial.hyperparameters.lr != {"sgd": 0.1, "adam": 0.01, "lion": 0.001}[trial.optimizer]
        shift = NOISE[(trial.seed + 2 * len(trial.optimizer)) % 5] * noise
        return (scores[trial.optimizer] - 0.05 * away + shift) * min(1, (epoch + 1) / 3)

    return value


def test_a_clear_winner_is_named_with_its_learning_rate_and_its_interval(tmp_path):
    text = findings(tmp_path, steady({"sgd": 0.9, "adam": 0.8, "lion": 0.7}))
    # NOISE has s = 0.2915, so the half width is 2.7764 · 0.2915 · 0.001 / √5.
    assert text.startswith(
        "Take sgd with lr=0.1: 90.00 ± 0.04 % test accuracy over 5 seeds. "
        "It is significantly better than every other optimizer."
    )


def test_what_cannot_be_told_apart_is_called_so_and_what_would_help_is_said(tmp_path):
    text = findings(tmp_path, steady({"sgd": 0.9, "adam": 0.8998, "lion": 0.7}))
    assert "adam cannot be told apart from it." in text
    assert re.search(r"About \d+ seeds would tell adam from it\.", text)
    assert "lion is significantly worse." in text


def test_equal_optimizers_are_all_tied(tmp_path):
    text = findings(tmp_path, steady({"sgd": 0.9, "adam": 0.9, "lion": 0.9}, noise=0.0))
    assert "No other optimizer can be told apart from it." in text
    assert "seeds would tell" not in text


def test_one_seed_says_nothing_about_certainty(tmp_path):
    text = findings(tmp_path, steady({"sgd": 0.9, "adam": 0.8, "lion": 0.7}), SWEEP.replace("seeds: 5", "seeds: 1"))
    assert "over 1 seed. With one seed nothing says how sure that is" in text
    assert "significantly" not in text and "told apart" not in text


def test_nothing_is_recommended_when_all_diverged(tmp_path):
    text = findings(tmp_path, steady({"sgd": 0.9, "adam": 0.8, "lion": 0.7}), status=lambda trial: "diverged")
    assert text == "No configuration can be recommended: no trial was trained to its end without diverging."


def test_a_best_learning_rate_at_the_edge_asks_for_a_wider_range(tmp_path):
    text = findings(tmp_path, steady({"sgd": 0.9, "adam": 0.8, "lion": 0.7}))
    assert "adam's best lr is the highest that was tried: extend its range upward." in text
    assert "sgd's best lr" not in text and "lion's best lr" not in text  # in the middle; only one tried


def test_diverged_trials_are_counted(tmp_path):
    lost = lambda trial: "diverged" if trial.hyperparameters.lr == 1.0 else "finished"  # noqa: E731
    text = findings(tmp_path, steady({"sgd": 0.9, "adam": 0.8, "lion": 0.7}), status=lost)
    assert "Trials that diverged: sgd 5 of 15." in text
    assert "diverged" not in findings(tmp_path / "none", steady({"sgd": 0.9, "adam": 0.8, "lion": 0.7}))


def test_epochs_to_the_target_are_compared(tmp_path):
    """The target is the median of the best of sgd and adam, 0.85: sgd gets there with its third epoch, adam never."""
    text = findings(tmp_path, steady({"sgd": 0.9, "adam": 0.8, "lion": 0.86}))
    assert "To 85.00 % validation accuracy, sgd and lion need 2 epochs; adam mostly does not get there." in text


def test_the_score_asked_for_is_the_score_that_is_told(tmp_path):
    from optbench.report.query import Query

    store = fill(tmp_path, SWEEP, steady({"sgd": 0.9, "adam": 0.8, "lion": 0.7}))
    first = build.build(store, Query(metric=Score.val_loss)).findings[0]
    assert first == "Take sgd with lr=0.1: 0.1000 ± 0.0004 validation loss over 5 seeds."


def test_selection_on_the_scoring_seeds_is_admitted(tmp_path):
    text = findings(tmp_path, steady({"sgd": 0.9, "adam": 0.8, "lion": 0.7}))
    assert text.endswith("'confirm: {seeds: 10}' scores it on fresh ones.")


@pytest.mark.parametrize(("share", "said"), [(0.049, ""), (0.051, " and dropout explains 5 %")])
def test_a_factor_is_named_that_explains_a_twentieth_of_the_variance(share, said, tmp_path):
    effects = {"lr": 0.1 * math.sqrt(1 - share), "dropout": 0.1 * math.sqrt(share)}  # of two levels each, independent

    def value(trial, epoch):
        return 0.5 + effects["lr"] * (trial.hyperparameters.lr == 0.1) + effects["dropout"] * (trial.dropout[0] == 0)

    lines = "dataset: digits\nname: shares\nepochs: 1\nseeds: 2\nparameters: {dropout: [0, 0.5]}\n"
    text = lines + "optimizers: {sgd: {lr: [0.1, 1]}}"
    (sentence,) = [found for found in build.build(fill(tmp_path, text, value)).findings if "explains" in found]
    assert sentence == f"Of the variance of validation accuracy, lr explains 95 %{said}."


# ---------------------------------------------------------------- no sentence claims more than its table


def random_report(folder, seed):
    """A report of optimizers with means, spreads and seeds that were drawn; some seeds diverged."""
    generator = np.random.default_rng(seed)
    labels = [f"opt{i}" for i in range(generator.integers(2, 9))]
    seeds, gap = int(generator.integers(1, 7)), 10.0 ** generator.uniform(-3, -1)
    scores = {
        (label, i): 0.8 + gap * mean + gap * spread * generator.standard_normal()
        for label in labels
        for mean, spread in [(generator.standard_normal(), math.exp(generator.standard_normal() - 1))]
        for i in range(seeds)
    }
    lost = {key for key in scores if generator.random() < generator.choice([0.0, 0.15])}
    blocks = "".join(f"  {label}: {{optimizer: sgd, lr: [0.01, 0.1]}}\n" for label in labels)
    return build.build(
        fill(
            folder,
            f"dataset: digits\nname: random\nepochs: 2\nseeds: {seeds}\noptimizers:\n{blocks}",
            lambda trial, epoch: scores[trial.optimizer, trial.seed] - (trial.hyperparameters.lr == 0.01) * gap,
            lambda trial: "diverged" if (trial.optimizer, trial.seed) in lost else "finished",
        )
    )


def labels_in(words, candidates):
    """The labels that "a, b and 3 others" stands for, which must be among the candidates, and all of them if cut."""
    found = re.findall(r"opt\d", words)
    assert set(found) <= set(candidates)
    others = re.search(r"and (\d+) others$", words)
    assert len(found) + (int(others[1]) if others else 0) == len(candidates), (words, candidates)
    return found


@pytest.mark.parametrize("seed", range(30))
def test_every_sentence_agrees_with_its_table(seed, tmp_path):
    report = random_report(tmp_path, seed)
    rows = report.tables[0].data.set_index("optimizer")
    (best,) = rows.index[rows["best"]] if rows["best"].any() else [None]
    text = " ".join(report.findings)
    if best is None:
        assert text.startswith("No configuration can be recommended")
        return
    others = rows.drop(best)
    compared = others[others["p"].notna()]
    # Of the table "Differences to the best", which has each one's own p.
    shown = {table.title: table.data for table in report.tables}.get(f"Differences to {best}")
    assert compared.empty if shown is None else compared["p"].equals(shown.set_index("optimizer")["p"])
    differs = compared["p"] <= 0.05
    worse = compared.index[differs & (compared["difference"] < 0)].tolist()
    better = compared.index[differs & (compared["difference"] > 0)].tolist()
    tied = compared.index[~differs].tolist()

    take = re.match(r"Take (opt\d) with lr=[\d.]+: ([\d.]+) .*?over (\d) seeds?\.", text)
    assert (take[1], take[2], int(take[3])) == (best, f"{100 * rows.test_accuracy[best]:.2f}", rows.n[best])
    said = set()
    for sentence in report.findings[1:]:
        if match := re.fullmatch(r"It is significantly better than (.*)\.", sentence):
            said.add("worse")
            assert tied == better == []
            if match[1] == "every other optimizer":
                assert worse == others.index.tolist()
            else:
                labels_in(match[1], worse)
        elif match := re.fullmatch(r"(.*) (?:is|are) significantly worse\.", sentence):
            said.add("worse")
            labels_in(match[1], worse)
        elif match := re.fullmatch(r"On the seeds that both have, (.*) (?:is|are) significantly better\.", sentence):
            said.add("better")
            labels_in(match[1], better)
        elif sentence == "No other optimizer can be told apart from it.":
            said.add("tied")
            assert worse == better == []
        elif match := re.fullmatch(r"(.*) cannot be told apart from it\.", sentence):
            said.add("tied")
            labels_in(match[1], tied)
        elif match := re.fullmatch(r"About ([\d,]+) seeds would tell (opt\d) from it\.", sentence):
            assert match[2] in tied
            assert float(match[1].replace(",", "")) == rows.seeds_needed[match[2]] == rows.seeds_needed[tied].min()
        elif match := re.fullmatch(r"Trials that diverged: (.*)\.", sentence):
            for label, lost, of in re.findall(r"(opt\d) (\d+) of (\d+)", match[1]):
                assert (int(lost), int(of)) == (rows.diverged[label], rows.trials[label])
    if rows.n[best] > 1:
        assert said == {name for name, found in (("worse", worse), ("better", better), ("tied", tied)) if found}
    else:
        assert said == set()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("a", "a"),
        ("ab", "a and b"),
        ("abc", "a, b and c"),
        ("abcd", "a, b, c and d"),
        ("abcdef", "a, b, c and 3 others"),
    ],
)
def test_names_are_listed_as_a_sentence_does(labels, words):
    assert names(list(labels)) == words
