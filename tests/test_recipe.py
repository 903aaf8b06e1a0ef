"""Clipped gradients, weight decay on weights, smoothed labels, averaged weights: against a plain loop, and stacked."""

import dataclasses
import io
import json
import math
import re
from functools import partial

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from optbench.errors import UserError
from optbench.export import gather
from optbench.machine import randomness
from optbench.networks.losses import LOSSES
from optbench.networks.network import Network
from optbench.results.store import Store
from optbench.sweep.settings import Settings
from optbench.sweep.spec import parse
from optbench.sweep.stacks import Stack
from optbench.sweep.trials import Trial, expand
from optbench.training import engine
from optbench.training.recipe import Clipping, MovingAverage, label_smoothing
from optbench.training.step import Steps
from tests.modules import module_with, scales_of
from tests.test_cli import invoke
from tests.test_rules import Lion

LINES = ("epochs: 2", "parameters: {batch_size: 32, dropout: 0}")
RECIPES = {
    "nothing": {},
    "clip_norm": {"clip_norm": 0.3},
    "weight_decay_on": {"weight_decay_on": "weights"},
    "label_smoothing": {"label_smoothing": 0.2},
    "ema": {"ema": 0.8},
    "all": {"clip_norm": 0.3, "weight_decay_on": "weights", "label_smoothing": 0.2, "ema": 0.8},
}


def with_recipes(trial: Trial, **more) -> list[Trial]:
    return [dataclasses.replace(trial, **recipe, **more) for recipe in RECIPES.values()]


def rows_of(trials, dataset, rungs=(), **options):
    rows = [row for rows in engine.train(Stack(tuple(trials), rungs), dataset, "cpu", **options) for row in rows]
    return {
        (row["trial_id"], row["epoch"]): str({k: v for k, v in row.items() if k != "train_seconds"}) for row in rows
    }


# ---------------------------------------------------------------- against a plain loop


def of_decay(weights, rest, decay, has_all):
    """Two groups, as scripts write them."""
    return [{"params": weights, "weight_decay": decay}, {"params": rest, "weight_decay": decay * has_all}]


def of_muon(weights, rest, has_all):
    muon = torch.optim.Muon(weights, lr=0.02, weight_decay=0.5)
    return [muon, torch.optim.AdamW(rest, lr=0.01, weight_decay=0.5 * has_all)]


# An optimizer as a sweep file has it, and as a plain script makes it from the weights and the rest.
OPTIMIZERS = {
    "sgd": (
        "{sgd: {lr: 0.05, momentum: 0.9, weight_decay: 0.5}}",
        lambda w, r, all_: [torch.optim.SGD(of_decay(w, r, 0.5, all_), lr=0.05, momentum=0.9)],
    ),
    "adam": (
        "{adam: {lr: 0.01, weight_decay: 0.5}}",
        lambda w, r, all_: [torch.optim.Adam(of_decay(w, r, 0.5, all_), lr=0.01)],
    ),
    "adamw": (
        "{adamw: {lr: 0.01, weight_decay: 0.5}}",
        lambda w, r, all_: [torch.optim.AdamW(of_decay(w, r, 0.5, all_), lr=0.01)],
    ),
    "lion": (
        "{lion: {lr: 0.001, weight_decay: 0.5}}",
        lambda w, r, all_: [Lion(of_decay(w, r, 0.5, all_), lr=0.001)],
    ),
    "muon": ("{muon: {lr: 0.02, weight_decay: 0.5, adamw_lr: 0.01}}", of_muon),
    "adafactor": (
        "{adafactor: {lr: 0.01, weight_decay: 0.5}}",
        lambda w, r, all_: [torch.optim.Adafactor(of_decay(w, r, 0.5, all_), lr=0.01)],
    ),
    "torch": (
        "{it: {optimizer: 'torch.optim:RAdam', lr: 0.01, weight_decay: 0.5}}",
        lambda w, r, all_: [torch.optim.RAdam(of_decay(w, r, 0.5, all_), lr=0.01)],
    ),
    "library": (
        "{it: {optimizer: pytorch_optimizer.sgd, lr: 0.05, weight_decay: 0.5}}",
        lambda w, r, all_: [torch.optim.SGD(of_decay(w, r, 0.5, all_), lr=0.05)],
    ),
    "lbfgs": ("{lbfgs: {lr: 0.1, max_iter: 2}}", lambda w, r, all_: [torch.optim.LBFGS([*w, *r], lr=0.1, max_iter=2)]),
}


# They ask for gradients within a step; beside Muon, AdamW has the one at the weights that Muon has moved already.
ASKING = (torch.optim.LBFGS, torch.optim.Muon)


def plain_loop(trial, data, make):
    """The last row's score by a loop over a module, with torch's own clipping, smoothing and two sets of weights."""
    network = Network(trial.model)
    net, average = (
        module_with(network, network.weights(network.initialize([0], "cpu", torch.float64))) for _ in range(2)
    )
    weights, rest = ([p for p in net.parameters() if (p.ndim > 1) == is_weight] for is_weight in (True, False))
    optimizers = make(weights, rest, trial.weight_decay_on == "all")
    units = sum(units for _, units in network.architecture.dropout.values())
    ones = scales_of(network, torch.ones(1, units, dtype=torch.float64))

    def scaled(images):
        return data.normalise(images, torch.float64)

    def closure(batch):
        net.zero_grad()
        logits = net(scaled(data.train.images[batch]), ones)
        loss = F.cross_entropy(logits, data.train.labels[batch], label_smoothing=trial.label_smoothing)
        loss.backward()
        if trial.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), trial.clip_norm)
        return loss

    for epoch in range(1, trial.epochs + 1):
        for batch in randomness.permutation([0], epoch, 256, "cpu")[0].split(trial.batch_size):
            closure(batch)
            for optimizer in optimizers:
                optimizer.step(partial(closure, batch) if isinstance(optimizers[0], ASKING) else None)
            with torch.no_grad():
                for mean, now in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
                    mean.copy_(now if trial.ema is None else trial.ema * mean + (1 - trial.ema) * now)
    with torch.no_grad():
        logits = average.eval()(scaled(data.val.images), ones)
    return float(F.cross_entropy(logits, data.val.labels))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ("library", "torch") else ()) for name in OPTIMIZERS]
)
def test_each_part_of_a_recipe_and_all_together_are_those_of_a_plain_loop(name, trials_of, tiny, monkeypatch, made_up):
    text, make = OPTIMIZERS[name]
    # Where batch norm follows, the gradient of a bias is 0 but for its rounding, which Lion makes a whole step of.
    model = made_up if name in ("sgd", "adam", "adamw", "torch", "library") else "softmax"
    trials = with_recipes(*trials_of(text, "epochs: 1", LINES[1]), model=model)
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)  # in which Muon makes much of the last bits
    *_, last = engine.train(Stack(tuple(trials)), tiny, "cpu", dtype=torch.float64)
    found = [row["val_loss"] for row in last]
    assert found == pytest.approx([plain_loop(trial, tiny, make) for trial in trials], rel=1e-8)
    assert len(set(found)) == len(RECIPES) - (name == "lbfgs")  # it has no weight decay


def test_sam_clips_both_of_its_gradients_and_decays_only_weights(trials_of, tiny):
    """Two gradients of a step, by hand: one at the weights, one at the worst point."""
    (trial,) = trials_of("{sam: {lr: 0.05, rho: 0.5, weight_decay: 0.5}}", "epochs: 1", *LINES[1:])
    trial = dataclasses.replace(trial, model="softmax", **RECIPES["clip_norm"], **RECIPES["weight_decay_on"])
    training = engine.Training(Stack((trial,)), tiny, "cpu", dtype=torch.float64)
    w = training.parameters_TP[0].clone()
    training.step()
    batch = randomness.permutation([0], 1, 256, "cpu")[0][:32]
    x = tiny.normalise(tiny.train.images[batch], torch.float64).flatten(1)

    def gradient(at):
        at = at.clone().requires_grad_()
        F.cross_entropy(x @ at[:7840].view(10, 784).T + at[7840:], tiny.train.labels[batch]).backward()
        return at.grad * min(1.0, 0.3 / (float(at.grad.norm()) + 1e-6))

    here = gradient(w)
    there = gradient(w + 0.5 * here / here.norm())
    decayed = torch.cat([0.5 * w[:7840], torch.zeros(10, dtype=torch.float64)])
    torch.testing.assert_close(training.parameters_TP[0], w - 0.05 * (there + decayed), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_smoothed_losses_are_those_of_a_smoothed_target(name):
    logits_NK = torch.randn(6, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels_N = torch.arange(6)
    for smoothing in (0.0, 0.1, 0.9):
        target_NK = F.one_hot(labels_N, 10).double() * (1 - smoothing) + smoothing / 10
        expected_N = {
            "cross_entropy": lambda t: F.cross_entropy(logits_NK, t, reduction="none"),
            "mse": lambda t: (logits_NK.softmax(1) - t).square().mean(1),
            "bce": lambda t: F.binary_cross_entropy_with_logits(logits_NK, t, reduction="none").mean(1),
        }[name](target_NK)
        found_N = LOSSES[name](logits_NK, labels_N, torch.full((6,), smoothing, dtype=torch.float64))
        torch.testing.assert_close(found_N, expected_N, rtol=1e-12, atol=0)


# ---------------------------------------------------------------- from a sweep file to the tables

SWEEP = """
dataset: digits
epochs: 1
seeds: 2
parameters: {model: softmax, batch_size: 400, clip_norm: [null, 0.5, 10], ema: [null, 0.9]}
optimizers:
  sgd: {lr: 0.1, weight_decay: 0.1, weight_decay_on: [all, weights], label_smoothing: [0, 0.1]}
  adam: {lr: 0.01}
exclude: [{optimizer: adam, clip_norm: null}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the sweep has run from the command line, twice."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "recipe.yaml").write_text(SWEEP)
    for output in ("results", "again"):
        invoke("run", "recipe.yaml", "--workers", "1", "-o", output, cwd=folder)
    return folder


def tables_of(folder, *options):
    invoke("report", "results/recipe", *options, "-o", "report.json", cwd=folder)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {table["title"]: table["rows"] for table in report["tables"]}, report


def test_rows_and_tables_have_each_value_and_null_is_none(folder):
    rows = pd.read_parquet(folder / "results" / "recipe")
    found = set(rows[["optimizer", "clip_norm"]].fillna(-1.0).itertuples(index=False, name=None))
    assert found == {("sgd", -1.0), ("sgd", 0.5), ("sgd", 10.0), ("adam", 0.5), ("adam", 10.0)}
    assert set(rows["ema"].dropna()) == {0.9} and rows["ema"].isna().any()
    tables, report = tables_of(folder)
    values = {
        ("Gradient clipping", "clip_norm"): [0.5, 10.0, "none"],
        ("Averaged weights", "ema"): [0.9, "none"],
        ("Weight decay on", "weight_decay_on"): ["all", "weights"],
        ("Label smoothing", "label_smoothing"): [0.0, 0.1],
    }
    for (title, name), expected in values.items():
        assert [row[name] for row in tables[title] if row["optimizer"] == "sgd"] == expected
    assert [row["clip_norm"] for row in tables["Gradient clipping"] if row["optimizer"] == "adam"] == [0.5, 10.0]
    assert "Across workloads" not in tables  # how it is trained makes no other task
    assert "clip_norm=" in report["findings"][0]


def test_a_condition_finds_null_and_numbers(folder):
    for where, is_said in (("clip_norm.isnull()", False), ("clip_norm >= 1", True)):  # null is the default
        tables, report = tables_of(folder, "--where", where)
        assert "Gradient clipping" not in tables
        assert ("clip_norm 10;" in report["note"].partition("The same for all:")[2]) == is_said


def test_a_page_filters_by_the_values_that_its_tables_show(folder):
    invoke("report", "results/recipe", "-o", "page.html", cwd=folder)
    page = (folder / "page.html").read_text(encoding="utf-8")
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    axes = {axis["name"]: axis["values"] for axis in data["axes"]}
    assert axes["clip_norm"] == ["0.5", "10", "none"] and axes["label_smoothing"] == ["0", "0.1"]
    place = list(axes).index("clip_norm")
    keys = [key.split(",")[place] for key in re.findall(r'data-keys="([^"]*)"', page)]
    assert {key for key in keys if key} == {"0", "1", "2"}


def test_folders_with_null_are_compared_shown_together_and_exported(folder):
    invoke("compare", "results/recipe", "again/recipe", "--by", "clip_norm", "-o", "compared.json", cwd=folder)
    compared = json.loads((folder / "compared.json").read_text(encoding="utf-8"))
    (table,) = compared["tables"]
    assert [(row["clip_norm"], row["identical_of"]) for row in table["rows"]] == [
        (0.5, "20/20"), (10.0, "20/20"), ("none", "16/16"), ("all", "56/56"),
    ]  # fmt: skip
    invoke("report", "results/recipe", "--with", "again/recipe", cwd=folder)
    names = {run.name.partition("_seed")[0] for run in gather(Store(folder / "results" / "recipe"))}
    assert "sgd_clip_norm=none_weight_decay_on=all_label_smoothing=0_ema=none" in names


def test_settings_of_a_folder_are_those_of_its_file(folder):
    (folder / "small.yaml").write_text(SWEEP.partition("optimizers")[0] + "optimizers: {adam: {lr: [0.1, 0.2]}}")
    invoke("run", "small.yaml", "--workers", "1", cwd=folder)
    found = Settings(folder / "results" / "small", "small").parameters()
    assert (found["clip_norm"], found["ema"]) == ([None, 0.5, 10.0], [None, 0.9])
    assert not {"weight_decay_on", "label_smoothing"} & found.keys()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("clip_norm: 0", "must be greater than 0, not 0"),
        ("clip_norm: none", "must be a number, not the text 'none'"),
        ("clip_norm: {min: 0.1, max: 10, log: true}", "no range can be searched here: list the values"),
        ("clip_norm: [null, null]", "the value nothing occurs twice"),
        ("weight_decay_on: biases", "must be 'all' or 'weights', not the text 'biases'"),
        ("label_smoothing: 1", "must be less than 1, not 1"),
        ("ema: 1.0", "must be less than 1, not 1.0"),
    ],
)
def test_what_is_wrong_with_a_value_is_said(given, problem):
    with pytest.raises(UserError) as caught:
        parse(f"dataset: digits\nepochs: 1\nparameters: {{{given}}}\noptimizers: {{adam: }}")
    assert str(caught.value).partition(": ")[2] == problem


def test_neutral_values_that_are_written_out_are_no_other_trials():
    neutral = "parameters: {clip_norm: null, weight_decay_on: all, label_smoothing: 0, ema: }"
    text = "dataset: digits\nepochs: 1\noptimizers: {adam: }\n"
    (written,), (left_out,) = expand(parse(text + neutral)), expand(parse(text))
    assert written.trial_id == left_out.trial_id == "212c25ac22e3a7d2"


# ---------------------------------------------------------------- in a stack

MIXED = """
  sgd: {lr: 0.05, momentum: 0.9, weight_decay: 0.1}
  adamw: {lr: 0.003, weight_decay: 0.1}
  nadam: {lr: 0.003, weight_decay: 0.1, decoupled_weight_decay: [false, true]}
  muon: {lr: 0.003}
  lbfgs: {lr: 0.5, max_iter: 2}
  averaged: {optimizer: pytorch_optimizer.schedulefreeadamw, weight_decay: 0.1}
"""


def stacked(trials):
    """As `stacks.plan` orders them: neighbours with one optimizer share its update."""
    return sorted(trials, key=lambda trial: trial.algorithm)


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        ("softmax", "cross_entropy"),
        pytest.param("softmax", "bce", marks=pytest.mark.slow),
        pytest.param("lenet5", "cross_entropy", marks=pytest.mark.slow),
        ("lenet5", "mse"),
    ],
)
def test_a_trial_is_the_same_bit_by_bit_whatever_the_recipes_of_its_neighbours(model, loss, trials_of, tiny):
    plain = [dataclasses.replace(trial, loss=loss, model=model) for trial in trials_of(MIXED, *LINES)]
    if model == "lenet5":
        plain = plain[:2]
    trials = stacked([other for trial in plain for other in with_recipes(trial)])
    together = rows_of(trials, tiny)
    assert rows_of(stacked(plain), tiny).items() <= together.items()  # without any recipe beside them
    for trial in trials:
        assert rows_of([trial], tiny).items() <= together.items()


def test_neighbours_of_a_trial_that_diverges_keep_their_bits(trials_of, tiny):
    (trial,) = trials_of("{sgd: {lr: 0.05, weight_decay: 0.1}}", *LINES)
    good = with_recipes(trial, model="lenet5")
    wild = dataclasses.replace(good[0], hyperparameters=type(trial.hyperparameters)(lr=1e30))
    bad = [dataclasses.replace(wild, **RECIPES[name]) for name in ("nothing", "label_smoothing", "ema")]
    together = rows_of([good[0], *bad, *good[1:]], tiny)
    assert rows_of(good, tiny).items() <= together.items()
    for one in bad:
        assert rows_of([one], tiny).items() <= together.items()
        assert "'diverged'" in together[one.trial_id, 1] and "'val_loss': nan" in together[one.trial_id, 1]


def test_gradients_that_are_not_finite_stay_in_their_row(trials_of):
    (trial,) = trials_of("{adam: }", *LINES)
    trials = [dataclasses.replace(trial, clip_norm=norm) for norm in (None, 1.0, None, 1.0, None)]
    gradients_TP = torch.tensor([[1e3, 2e3], [3.0, 4.0], [math.inf, 1.0], [math.nan, 1.0], [-0.0, 1e-30]])
    expected_TP = gradients_TP.clone()
    Clipping(trials, gradients_TP).clip_(gradients_TP)
    expected_TP[1] = torch.tensor([0.6, 0.8])
    expected_TP[3] = math.nan
    torch.testing.assert_close(gradients_TP, expected_TP, equal_nan=True, atol=0, rtol=1e-6)
    assert gradients_TP[[0, 2, 4]].equal(expected_TP[[0, 2, 4]])
    again_TP = torch.tensor([[3.0, 4.0]])
    Clipping(trials, gradients_TP).clip_(again_TP, slice(1, 2))
    torch.testing.assert_close(again_TP, expected_TP[1:2])


@pytest.mark.parametrize("parameters", [1, 7, 33, 1000, 7850, 21_514])
def test_a_norm_on_a_cpu_does_not_depend_on_the_stack(parameters, trials_of):
    (trial,) = trials_of("{adam: }", *LINES)
    trials = [dataclasses.replace(trial, clip_norm=0.5)] * 9
    gradients_TP = torch.randn(9, parameters, generator=torch.Generator().manual_seed(parameters))
    for size in (9, 4, 2):
        together_TP = gradients_TP[:size].clone()
        Clipping(trials[:size], together_TP).clip_(together_TP)
        for t in range(size):
            alone_TP = gradients_TP[t : t + 1].clone()
            Clipping(trials[:1], alone_TP).clip_(alone_TP)
            assert torch.equal(alone_TP[0], together_TP[t])


def test_a_stack_without_a_recipe_has_no_work_and_no_memory_for_one(trials_of):
    trials, weights_TP = trials_of("{adam: {lr: [0.1, 0.2]}}", *LINES), torch.ones(2, 5)
    assert label_smoothing(trials, weights_TP) is None
    average = MovingAverage(trials, weights_TP)
    assert [tensor.numel() for tensor in average.state_dict()["averages"]] == [0]
    assert average.averaged(weights_TP)[0] is weights_TP
    half = [trials[0], dataclasses.replace(trials[1], ema=0.5)]
    assert [tensor.shape for tensor in MovingAverage(half, weights_TP).state_dict()["averages"]] == [(1, 5)]


def test_an_average_begins_at_the_first_weights_and_training_does_not_know_of_it(trials_of, tiny, monkeypatch):
    (trial,) = trials_of("{adam: {lr: 0.01}}", *LINES)
    trial = dataclasses.replace(trial, model="softmax")
    plain, averaged = (
        engine.Training(Stack((dataclasses.replace(trial, ema=ema),)), tiny, "cpu") for ema in (None, 0.999)
    )
    first = plain.rows()[0]
    for training in (plain, averaged):
        training.epoch()
    assert torch.equal(plain.parameters_TP, averaged.parameters_TP)
    (row,), (slow,) = plain.rows(), averaged.rows()
    assert abs(slow["val_loss"] - first["val_loss"]) < 0.05 * abs(row["val_loss"] - first["val_loss"])
    assert row["state_per_parameter"] == slow["state_per_parameter"] == 2  # the optimizer does not keep the average


def test_a_training_with_a_recipe_goes_on_bit_by_bit_from_its_state(trials_of, tiny, made_up):
    plain = trials_of("{sgd: {lr: 0.05, momentum: 0.9}, muon: , lbfgs: {max_iter: 2}}", *LINES)
    stack = Stack(tuple(other for trial in plain for other in with_recipes(trial, model=made_up)))
    whole, resumed = (engine.Training(stack, tiny, "cpu") for _ in range(2))
    for _ in range(3):
        whole.step()
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file))
    rows = []
    for training in (whole, resumed):
        training.epoch()
        rows.append([{k: v for k, v in row.items() if k != "train_seconds"} for row in training.rows()])
    assert rows[0] == rows[1]


def test_trials_that_stop_at_rungs_take_their_averages_with_them(trials_of, tiny):
    plain = trials_of("{sgd: {lr: 0.05, weight_decay: 0.1}, muon: }", "epochs: 3", LINES[1])
    trials = [other for trial in plain for other in with_recipes(trial, model="softmax")]
    undisturbed = rows_of(trials, tiny)
    stopped = frozenset(trial.trial_id for trial in trials[::5])
    training = engine.train(Stack(tuple(trials), rungs=(1,)), tiny, "cpu")
    rows = [*next(training), *next(training), *training.send(stopped), *next(training)]
    found = {(r["trial_id"], r["epoch"]): str({k: v for k, v in r.items() if k != "train_seconds"}) for r in rows}
    assert found.keys() == {key for key in undisturbed if key[1] < 2 or key[0] not in stopped}
    assert found.items() <= undisturbed.items()


def test_averages_of_rows_that_are_kept_go_on_as_if_nobody_had_left(trials_of):
    (trial,) = trials_of("{adam: }", *LINES)
    trials = [dataclasses.replace(trial, ema=ema) for ema in (0.5, None, 0.9, None, 0.7)]
    rows_NTX = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(0))
    whole, left = (MovingAverage(trials, rows_NTX[0], rows_NTX[0, :, :1]) for _ in range(2))
    for kept in ([4, 2, 1], [0]):  # of five, and of three
        left.keep(kept)
        rows = [4, 2, 1] if kept != [0] else [4]
        for rows_TX in rows_NTX[1:4]:
            whole.update(rows_TX, rows_TX[:, :1])
            left.update(rows_TX[rows], rows_TX[rows, :1])
        for ours, theirs in zip(
            left.averaged(rows_TX[rows], rows_TX[rows, :1]), whole.averaged(rows_TX, rows_TX[:, :1]), strict=True
        ):
            assert torch.equal(ours, theirs[rows])
    left.keep([])
    assert left.averaged(rows_TX[:0], rows_TX[:0])[0].numel() == 0


def test_what_is_recorded_of_a_step_looks_at_no_value_on_the_host(trials_of, tiny, monkeypatch):
    from optbench.networks.forward import WAYS
    from tests.test_step import Watched

    monkeypatch.setitem(WAYS, "loop", WAYS["grouped"])
    original, seen = Steps._step, []

    def watched(self):
        with Watched():
            original(self)
        seen.append(self)

    monkeypatch.setattr(Steps, "_step", watched)
    (trial,) = trials_of("{adamw: }", "epochs: 1", LINES[1])
    for loss in LOSSES:
        rows_of(with_recipes(trial, loss=loss, model="softmax"), tiny)
    assert len(seen) == 8 * len(LOSSES)
