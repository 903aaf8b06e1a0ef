"""Networks are pretrained, and others begin with them: what is trained, what is kept, and what is said about it."""

import dataclasses
import json
from contextlib import closing

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from optbench import networks
from optbench.data.datasets import DATASETS
from optbench.errors import UserError
from optbench.machine import randomness
from optbench.networks import architecture
from optbench.networks.network import Network
from optbench.report import agreement, build
from optbench.report.query import Query
from optbench.report.status import status
from optbench.results.store import Store
from optbench.runs import run
from optbench.runs.job import Job
from optbench.runs.phases import Confirm, Pretrain, Timing, Tune
from optbench.runs.run import PhaseBegun, PhaseEnded, PhasePlanned, StackEvent
from optbench.sweep.settings import Settings
from optbench.sweep.spec import parse, to_yaml
from optbench.sweep.stacks import Stack, plan
from optbench.sweep.trials import expand
from optbench.training import engine, pretrained
from tests.modules import module_with, scales_of
from tests.test_cli import invoke
from tests.test_engine import rows_of
from tests.test_report import fill

SWEEP = """
dataset: digits
epochs: 2
pretrain: {dataset: digits, epochs: 2, lr: 0.003, batch_size: 32}
parameters: {model: MODEL, batch_size: 32, transfer: [features, fine_tune]}
optimizers: {sgd: {lr: 0.05, momentum: 0.9}, adam: {lr: 0.003}}
"""


def trials_of(text=SWEEP, model="mlp"):
    return expand(parse(text.replace("MODEL", model)))


@pytest.fixture(scope="module")
def other(digits, tiny):
    """As many other digits to train on."""
    return dataclasses.replace(tiny, train=digits.train[256:512], train_eval=digits.train[256:320])


def pretrain(trials, dataset, folder, dtype=torch.float32):
    """Train the networks that the trials begin with; returns them by trial id."""
    each = tuple(dict.fromkeys(trial.pretraining for trial in trials if trial.pretraining))
    *_, rows = engine.train(Stack(each, keeps_weights=True), dataset, "cpu", dtype)
    for row in rows:
        pretrained.write(folder, row["trial_id"], row["weights"])
    return {row["trial_id"]: row["weights"] for row in rows}


# ---------------------------------------------------------------- what is trained, against a plain loop


def train_plainly(module, network, optimizer, trial, dataset, is_frozen=False):
    """The epochs of a trial as anybody would write them. Weights and buffers change in place."""
    module.train(not is_frozen)
    places = network.architecture.dropout
    rate_U = torch.cat([torch.full((units,), trial.dropout[rate]) for rate, units in places.values()])
    if is_frozen:
        rate_U[: -places["dropout3"][1]] = 0
    for epoch in range(1, trial.epochs + 1):
        n, size = len(dataset.train.labels), trial.batch_size
        order = randomness.permutation([trial.seed], epoch, n, "cpu")[0]
        uniform_NU = randomness.dropout([trial.seed], epoch, 0, n, len(rate_U), "cpu")[0]
        for first in range(0, n - size + 1, size):
            images = dataset.normalise(dataset.train.images[order[first : first + size]], torch.float64)
            scale_BU = ((uniform_NU[first : first + size] >= rate_U) / (1 - rate_U.double())).double()
            loss = F.cross_entropy(
                module(images, scales_of(network, scale_BU)), dataset.train.labels[order[first : first + size]]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def plain_optimizer(parameters, trial):
    given = trial.hyperparameters
    if given.algorithm == "sgd":
        return torch.optim.SGD(parameters, lr=given.lr, momentum=given.momentum)
    return torch.optim.Adam(parameters, lr=given.lr)


@pytest.mark.parametrize("way", ["features", "fine_tune"])
@pytest.mark.parametrize("algorithm", ["sgd", "adam"])
def test_pretraining_and_what_follows_are_those_of_a_plain_loop(way, algorithm, made_up, tiny, other, tmp_path):
    (trial,) = [t for t in trials_of(model=made_up) if t.transfer == way and t.algorithm == algorithm]
    pretrain([trial], other, tmp_path, torch.float64)
    training = engine.Training(Stack((trial,), pretrained=tmp_path), tiny, "cpu", torch.float64)
    for _ in range(trial.epochs):
        training.epoch()

    network = Network(made_up)
    fresh = network.weights(network.initialize([trial.seed], "cpu", torch.float64))
    module = module_with(network, fresh)
    train_plainly(module, network, plain_optimizer(module.parameters(), trial.pretraining), trial.pretraining, other)
    with torch.no_grad():
        module.linear2.weight.copy_(fresh["linear2.weight"][0])
        module.linear2.bias.copy_(fresh["linear2.bias"][0])
    is_frozen = way == "features"
    trained = module.linear2.parameters() if is_frozen else module.parameters()
    train_plainly(module, network, plain_optimizer(trained, trial), trial, tiny, is_frozen)

    found = training.network.tensors(training.parameters_TP, training.buffers_TQ)
    expected = {name: tensor for name, tensor in module.state_dict().items() if "num_batches" not in name}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name][0], tensor, rtol=1e-7, atol=1e-9, msg=name)


def test_features_leave_all_but_the_head_as_it_was_bit_by_bit(made_up, other, tiny, tmp_path):
    trials = trials_of(model=made_up)
    (kept,) = pretrain(trials, other, tmp_path).values()
    for way in ("features", "fine_tune"):
        stack = Stack(tuple(t for t in trials if t.transfer == way), pretrained=tmp_path)
        training = engine.Training(stack, tiny, "cpu")
        before = training.network.initialize([0], "cpu")
        training.epoch()
        for name, tensor in training.network.tensors(training.parameters_TP, training.buffers_TQ).items():
            is_head = name in ("linear2.weight", "linear2.bias")
            for one in tensor:
                assert np.array_equal(one.numpy(), kept[name]) == (way == "features" and not is_head), name
        head = slice(-80, None)
        assert not torch.equal(training.parameters_TP[:, head], before[:, head].expand(2, -1))


def test_the_head_is_fresh_before_training(other, tiny, tmp_path):
    trials = [t for t in trials_of() if t.algorithm == "sgd"]
    (kept,) = pretrain(trials, other, tmp_path).values()
    for trial in trials:
        training = engine.Training(Stack((trial,), pretrained=tmp_path), tiny, "cpu")
        network = training.network
        fresh = network.tensors(network.initialize([trial.seed], "cpu"), network.buffers([0], "cpu"))
        for name, tensor in network.tensors(training.parameters_TP, training.buffers_TQ).items():
            expected = fresh[name][0] if name.startswith("linear3") else torch.from_numpy(kept[name])
            assert torch.equal(tensor[0], expected), name


MODULE = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 4, 3, stride=3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(324, 10),
        )
"""


def test_of_a_network_from_elsewhere_the_last_linear_layer_is_the_head(other, tiny, tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    trials = [t for t in trials_of(model="./net.py:Net") if t.algorithm == "sgd"]
    (kept,) = pretrain(trials, other, tmp_path).values()
    for trial in trials:
        training = engine.Training(Stack((trial,), pretrained=tmp_path), tiny, "cpu")
        tensors = training.network.tensors(training.parameters_TP, training.buffers_TQ)
        is_fresh = {name: not np.array_equal(own[0].numpy(), kept[name]) for name, own in tensors.items()}
        assert {name for name, fresh in is_fresh.items() if fresh} == {"5.weight", "5.bias"}
        before = {name: own.clone() for name, own in tensors.items()}
        losses = [float(training.step()) for _ in range(8)]
        assert min(losses[4:]) < losses[0]
        changed = {name for name, own in tensors.items() if not torch.equal(own, before[name])}
        assert changed == ({"5.weight", "5.bias"} if trial.transfer == "features" else set(tensors))


def test_the_head_may_have_other_classes_than_the_pretrained_one(monkeypatch, other, tiny, tmp_path):
    """The pretrained head stays behind, and so its shape does not matter."""
    few = dataclasses.replace(DATASETS["digits"], classes=12)
    monkeypatch.setitem(DATASETS, "few", few)
    trials = trials_of(SWEEP.replace("pretrain: {dataset: digits", "pretrain: {dataset: few"))
    (kept,) = pretrain(trials, dataclasses.replace(other, info=dataclasses.replace(few, val=64)), tmp_path).values()
    assert kept["linear3.bias"].shape == (12,)
    for way in ("features", "fine_tune"):
        stack = Stack(tuple(t for t in trials if t.transfer == way), pretrained=tmp_path)
        *_, rows = engine.train(stack, tiny, "cpu")
        assert [row["status"] for row in rows] == ["finished"] * 2


def test_which_layer_is_the_head_and_which_dropout_acts_before_it(made_up):
    heads = {name: architecture(name, (1, 28, 28), 10).head for name in networks.NETWORKS}
    assert heads["cnn"] == ("linear2.weight", "linear2.bias")
    assert heads["rnn"] == ("linear.weight", "linear.bias")
    of = {name: architecture(name, (1, 28, 28), 10) for name in networks.NETWORKS}
    assert of["cnn"].head_dropout == ("dropout2",)
    assert of["rnn"].head_dropout == ("dropout",)
    assert of["lenet5"].head_dropout == ()
    assert of[made_up].head_dropout == ("dropout3",)
    assert of["softmax"].body == {}
    for name, network in of.items():
        assert [*network.body, *network.head] == list(network.shapes), name
    assert Network("mlp").dropout_rates((0.1, 0.2)) == [0.1, 0.2]
    assert Network("mlp", is_frozen=True).dropout_rates((0.1, 0.2)) == [0, 0.2]


def test_no_backward_pass_goes_through_what_is_fixed(monkeypatch, other, tiny, tmp_path):
    """Of a frozen network autograd records the head alone."""
    depths = []
    original = Network.losses

    def depth(node):
        return 0 if node is None else 1 + max((depth(inner) for inner, _ in node.next_functions), default=0)

    def watched(network, logits_TBK, *rest):
        depths.append(depth(logits_TBK.grad_fn))
        return original(network, logits_TBK, *rest)

    trials = [t for t in trials_of() if t.algorithm == "sgd"]
    pretrain(trials, other, tmp_path)
    monkeypatch.setattr(Network, "losses", watched)
    for trial in trials:
        training = engine.Training(Stack((trial,), pretrained=tmp_path), tiny, "cpu")
        training.step()
    features, fine_tune = depths
    assert features < fine_tune / 2


# ---------------------------------------------------------------- stacks

MIXED = """
dataset: digits
epochs: 2
seeds: 2
pretrain: {dataset: digits, epochs: 1, batch_size: 32}
parameters: {model: MODEL, batch_size: 32, transfer: [features, fine_tune]}
optimizers:
  sgd: {lr: [0.05, 1e38], momentum: 0.9, schedule: cosine}
  adam: {lr: 0.003, dropout: 0.5}
  sam: {lr: 0.05}
"""


def test_rows_are_identical_alone_and_stacked_also_beside_one_without_a_network(made_up, other, tiny, tmp_path):
    trials = trials_of(MIXED, made_up)
    pretrain(trials, other, tmp_path)
    lacking = {trial.pretraining.trial_id for trial in trials if trial.seed == 1}
    pretrained.forget(tmp_path, lacking)
    stacks = [dataclasses.replace(stack, pretrained=tmp_path) for stack in plan(trials, 8)]
    assert [len(stack) for stack in stacks] == [8, 8]
    for stack in stacks:
        together = rows_of(stack, tiny)
        alone = {}
        for trial in stack.trials:
            alone |= rows_of(dataclasses.replace(stack, trials=(trial,)), tiny)
        pd.testing.assert_frame_equal(*(pd.DataFrame(rows).T.sort_index() for rows in (together, alone)))
        for trial in stack.trials:
            last = max(epoch for trial_id, epoch in together if trial_id == trial.trial_id)
            row = together[trial.trial_id, last]
            if trial.seed == 1:
                assert (row["status"], last) == ("failed", 0)
                reason = "no pretrained network to begin with: its trial {} failed or diverged"
                assert row["error"] == reason.format(trial.pretraining.trial_id)
            else:
                assert row["status"] == ("diverged" if trial.hyperparameters.lr == 1e38 else "finished")
                assert row["state_per_parameter"] in (None, {"sgd": 1, "adam": 2, "sam": 0}[trial.algorithm])


def test_one_that_waited_goes_on_bit_by_bit(other, tiny, tmp_path):
    stack = Stack(tuple(t for t in trials_of() if t.transfer == "features"), pretrained=tmp_path)
    pretrain(stack.trials, other, tmp_path)
    first, second = (engine.Training(stack, tiny, "cpu") for _ in range(2))
    for _ in range(3):
        first.step()
    second.load_state_dict(first.state_dict())
    for training in (first, second):
        training.epoch()
    assert torch.equal(first.parameters_TP, second.parameters_TP)
    assert [row["val_loss"] for row in first.rows()] == [row["val_loss"] for row in second.rows()]


# ---------------------------------------------------------------- files


def test_a_network_is_a_file_of_arrays_and_damage_is_noticed(tmp_path):
    arrays = {"linear.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "norm.running_mean": np.zeros(2)}
    pretrained.write(tmp_path, "a", arrays)
    (path,) = tmp_path.iterdir()
    found = pretrained.read(tmp_path, "a")
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], arrays[name]) and found[name].dtype == arrays[name].dtype for name in arrays)
    whole = path.read_bytes()
    weights = whole.index(np.float32(5).tobytes())
    for broken in (b"", whole[: len(whole) // 2], whole[:weights] + b"\0\0\0\1" + whole[weights + 4 :]):
        path.write_bytes(broken)
        assert not pretrained.is_whole(tmp_path, "a")
        with pytest.raises(UserError, match=r"a\.npz: damaged: .*; the next run trains it again$"):
            pretrained.read(tmp_path, "a")
    path.write_bytes(whole)
    assert pretrained.is_whole(tmp_path, "a")
    pretrained.forget(tmp_path, ["a", "b"])
    assert not pretrained.is_whole(tmp_path, "a")


# ---------------------------------------------------------------- ids and sweep files

ALL = SWEEP.replace("[features, fine_tune]", "[scratch, features, fine_tune]").replace("MODEL", "mlp")


def test_ids_have_the_recipe_and_only_where_something_begins_with_it():
    def ids(text):
        return {(t.algorithm, str(t.transfer)): (t.trial_id, t.configuration_id) for t in expand(parse(text))}

    first = ids(ALL)
    assert len(set(first.values())) == 6
    plain = SWEEP.replace("MODEL", "mlp").replace(", transfer: [features, fine_tune]", "")
    plain = plain.replace("pretrain: {dataset: digits, epochs: 2, lr: 0.003, batch_size: 32}\n", "")
    scratch = {key: value for key, value in first.items() if key[1] == "scratch"}
    assert ids(plain) == scratch
    for other in ("epochs: 3, lr: 0.003", "epochs: 2, lr: 0.004", "epochs: 2, lr: 0.003, schedule: cosine"):
        changed = ids(ALL.replace("epochs: 2, lr: 0.003", other))
        assert {key for key in first if first[key] == changed[key]} == set(scratch)
    written = "epochs: 2, lr: 0.003, optimizer: adam, betas: [0.9, 0.999], dropout: [0.1, 0.25], schedule: constant"
    assert ids(ALL.replace("epochs: 2, lr: 0.003", written)) == first


def test_a_network_is_pretrained_like_the_trial_and_by_the_recipe():
    text = ALL.replace("model: mlp", "model: mlp, activation: tanh, loss: mse, split_seed: 3, precision: fp32")
    for trial in expand(parse(text.replace("epochs: 2\n", "epochs: 2\nseeds: [7]\n", 1))):
        own = trial.pretraining
        if trial.transfer == "scratch":
            assert own is None
            assert trial.columns()["pretrain"] == ""
            continue
        shared = ("model", "activation", "loss", "split_seed", "precision", "seed")
        assert [getattr(own, name) for name in shared] == [getattr(trial, name) for name in shared]
        assert (own.epochs, own.batch_size, own.dropout, str(own.schedule)) == (2, 32, (0.1, 0.25), "constant")
        assert (own.optimizer, own.hyperparameters.lr, own.pretraining, own.phase) == ("adam", 0.003, None, "pretrain")
        assert trial.columns()["transfer"] == trial.transfer
        assert trial.columns()["pretrain"] == "dataset=digits, epochs=2, optimizer=adam, lr=0.003, batch_size=32"


def test_a_sweep_with_a_recipe_is_written_and_read_again(tmp_path):
    text = ALL.replace(
        "lr: 0.003, batch_size: 32}", "optimizer: SGD, momentum: 0.9, schedule: {name: step, step_size: 1}}"
    )
    sweep = parse(text)
    assert parse(to_yaml(sweep)) == sweep
    assert sweep.pretrain["hyperparameters"].momentum == 0.9
    store = Store(tmp_path)
    store.begin(Job(sweep, store, "cpu").outline(), to_yaml(sweep), {})
    (tmp_path / "alike.yaml").write_text("")
    settings = Settings(tmp_path, "it").shared()["pretrain"]
    assert settings["optimizer"] == "sgd"
    assert settings["schedule"] == {"name": "step", "step_size": 1}


HEAD = "dataset: digits\nepochs: 1\noptimizers: {sgd: {lr: 0.1}}\n"


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (
            "parameters: {model: mlp, transfer: [scratch, features]}",
            "4:46: features needs a pretrained network: 'pretrain: {dataset: mnist, epochs: 5}' trains it",
        ),
        (
            "parameters: {model: mlp}\npretrain: {dataset: digits, epochs: 1}",
            "5:1: nothing begins with a pretrained network: 'parameters: {transfer: [scratch, features, fine_tune]}' "
            "does",
        ),
        ("pretrain: {epochs: 1}", "4:11: missing key 'dataset'"),
        ("pretrain: {dataset: mnits, epochs: 1}", "4:21: unknown dataset 'mnits'; did you mean 'mnist'?"),
        ("pretrain: {dataset: digits, epochs: 0}", "4:37: must be greater than or equal to 1, not 0"),
        (
            "pretrain: {dataset: digits, epochs: 1, model: mlp}",
            "4:40: 'model' cannot be set here: it is that of the trials that begin with the network",
        ),
        ("pretrain: {dataset: digits, epochs: 1, lrr: 1}", "4:40: unknown key 'lrr'; did you mean 'lr'?"),
        (
            "pretrain: {dataset: digits, epochs: 1, momentum: 0.9}",
            "4:40: 'momentum' is not a hyperparameter of adam",
        ),
        (
            "pretrain: {dataset: digits, epochs: 1, lr: {min: 0.1, max: 1.0}}",
            "4:44: takes one value: nothing is searched here",
        ),
        (
            "pretrain: {dataset: digits, epochs: 1, schedule: [cosine, linear]}",
            "4:50: takes one value: nothing is searched here",
        ),
        ("pretrain: {dataset: digits, epochs: 1, lr: [0.1, 0.2]}", "4:44: must be a number, not [0.1, 0.2]"),
        (
            "pretrain: {dataset: digits, epochs: 1, optimizer: adm}",
            "4:51: unknown optimizer 'adm'; did you mean 'adam'?",
        ),
        (
            "pretrain: {dataset: digits, epochs: 1, batch_size: 5000}",
            "4:52: batch_size 5000 is larger than the training set of 1200 images",
        ),
        (
            "pretrain: {dataset: digits, epochs: 1, optimizer: sgd, nesterov: true}",
            "4:1: nesterov needs a momentum above 0 and no dampening",
        ),
        ("pretrain: 3", "4:11: must be a mapping, not 3"),
        ("parameters: {transfer: tune}", "4:24: must be 'scratch', 'features' or 'fine_tune', not the text 'tune'"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(lines, problem):
    with pytest.raises(UserError) as caught:
        parse(HEAD + lines)
    assert str(caught.value) == f"sweep:{problem}"


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("cnn", "cnn cannot, for the images of digits, 1 × 28 × 28, begin with one for those of colour, 3 × 32 × 32"),
        ("softmax", "softmax has no layers to transfer, only the last one, which is always fresh"),
    ],
)
def test_a_network_that_cannot_begin_with_the_pretrained_one_is_named_with_its_place(model, problem, monkeypatch):
    monkeypatch.setitem(DATASETS, "colour", dataclasses.replace(DATASETS["digits"], image=(3, 32, 32)))
    lines = f"parameters: {{model: {model}, transfer: [scratch, fine_tune]}}\npretrain: {{dataset: colour, epochs: 1}}"
    with pytest.raises(UserError) as caught:
        expand(parse(HEAD + lines))
    assert str(caught.value) == f"sweep:3:19: sgd: {problem} (use 'exclude' for single combinations)"


# ---------------------------------------------------------------- a whole run

RUN = """
name: run
dataset: digits
epochs: 1
seeds: 2
pretrain: {dataset: digits, epochs: 2, batch_size: 128}
parameters: {model: mlp, batch_size: 128, transfer: [scratch, features, fine_tune]}
confirm: {seeds: 2}
optimizers: {sgd: {lr: [0.05, 0.1]}, adam: }
"""


def job_of(folder, text=RUN, **options):
    sweep = parse(text)
    return Job(sweep, Store(folder / sweep.name), "cpu", workers=1, stack_size=4, **options)


def scores(folder):
    """The scores of all trials, of the sweep and of its pretraining, by trial and epoch."""
    store = Store(folder)
    rows = pd.concat([pd.read_parquet(folder), pd.read_parquet(store.pretrained.folder)])
    rows = rows[["trial_id", "epoch", "phase", "status", "train_loss", "val_loss", "test_loss", "test_accuracy"]]
    return rows.sort_values(["trial_id", "epoch"], ignore_index=True)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    job = job_of(tmp_path_factory.mktemp("ran"), timing=True)
    return job, list(run.events(job))


def test_networks_are_pretrained_first_for_all_seeds_and_only_once(ran):
    job, events = ran
    for kind in (PhasePlanned, PhaseBegun, PhaseEnded):
        assert [type(e.phase) for e in events if isinstance(e, kind)] == [Pretrain, Tune, Confirm, Timing]
    rows = pd.read_parquet(job.store.pretrained.folder)
    assert set(rows["phase"]) == {"pretrain"}
    assert rows.groupby("seed")["trial_id"].nunique().to_dict() == {0: 1, 1: 1, 10_000: 1, 10_001: 1}
    assert set(job.store.outline().pretrain_ids) == set(rows["trial_id"])
    assert all(pretrained.is_whole(job.store.pretrained.weights, i) for i in rows["trial_id"])
    own = pd.read_parquet(job.store.folder)
    assert not set(own["trial_id"]) & set(rows["trial_id"])
    assert own.groupby("transfer")["stack"].unique().map(len).ge(2).all()
    begins = "dataset=digits, epochs=2, optimizer=adam, lr=0.001, batch_size=128"
    assert own.groupby("transfer")["pretrain"].unique().map(list).to_dict() == {
        "scratch": [""],
        "features": [begins],
        "fine_tune": [begins],
    }
    again = [event for event in run.events(job) if isinstance(event, StackEvent)]
    assert again == []


def test_at_epoch_0_they_are_at_the_features_of_the_pretrained_network_of_their_seed(ran):
    """Features and fine-tuning begin at the same point, which differs from seed to seed and from scratch."""
    job, _ = ran
    rows = pd.read_parquet(job.store.folder)
    rows = rows[(rows["epoch"] == 0) & (rows["phase"] == "tune")]
    at = rows.groupby(["transfer", "seed"])["val_loss"].unique().map(list).to_dict()
    assert all(len(values) == 1 for values in at.values())
    assert at["features", 0] == at["fine_tune", 0] != at["features", 1] == at["fine_tune", 1]
    assert at["scratch", 0] != at["features", 0]


def test_an_interrupted_run_ends_with_the_same_rows(ran, tmp_path, capsys):
    job, _ = ran
    expected = scores(job.store.folder)

    def interrupted(after):
        again = job_of(tmp_path)
        with closing(run.events(again)) as events:
            for event in events:
                if after(event):
                    return again.store
        raise AssertionError("the run was not interrupted")

    store = interrupted(lambda event: isinstance(event, StackEvent))  # in pretraining
    assert status(store).line == f"0/22 trials done in {store.folder}, 0/4 pretrained"
    assert set(store.pretrained.statuses().values()) == {"running"}
    store = interrupted(lambda event: isinstance(event, PhaseEnded))  # between the phases
    assert status(store).line == f"0/22 trials done in {store.folder}, 4/4 pretrained"
    networks_ = sorted(store.pretrained.weights.iterdir())
    before = [path.read_bytes() for path in networks_]
    networks_[0].write_bytes(before[0][:-1000])  # a damaged one trains again, and ends with the same bits
    networks_[1].unlink()
    store = interrupted(lambda event: isinstance(event, PhaseEnded) and isinstance(event.phase, Tune))
    assert [path.read_bytes() for path in networks_] == before
    list(run.events(job_of(tmp_path)))
    pd.testing.assert_frame_equal(scores(store.folder), expected, check_exact=True)


def test_the_report_has_the_table_of_transfer_and_says_what_it_took(ran):
    job, _ = ran
    report = build.build(job.store)
    (table,) = (table for table in report.tables if table.title == "Transfer")
    assert [column.heading for column in table.columns] == [
        *("optimizer", "transfer", "rank", "test accuracy %", "difference to scratch", "verdict", "p"),
        *("validation accuracy %", "n", "lost", "best configuration"),
    ]
    data = table.data.set_index(["optimizer", "transfer"])
    assert len(data) == 6
    assert data["n"].eq(2).all()
    finals = pd.read_parquet(job.store.folder)
    finals = finals[finals["epoch"] == 1].set_index(["configuration_id", "seed"])["test_accuracy"]
    for (optimizer, way), row in data.iterrows():
        pairs = finals[row["configuration_id"]] - finals[data.loc[(optimizer, "scratch"), "configuration_id"]]
        assert row["difference"] == pytest.approx(pairs[[0, 1]].mean())
        assert pd.isna(row["p"]) == (way == "scratch")
        assert (row["verdict"] == "") == (way == "scratch")
    assert (
        "Trials that are not from scratch begin with a network that was pretrained (dataset=digits, epochs=2, "
        "optimizer=adam, lr=0.001, batch_size=128) with their own seed, so that intervals contain the spread of "
        "pretraining: 4 networks, 8 epochs in all, on cpu, which no epochs and seconds here contain. The same"
        in report.note
    )
    assert "Differences: to scratch, seed by seed" in table.caption
    (over_all,) = build.build(job.store, Query(by=("transfer",))).tables
    assert over_all.data["transfer"].tolist() == ["features", "fine_tune", "scratch"]
    assert over_all.data.set_index("transfer")["p"].isna().to_dict() == {
        "features": False,
        "fine_tune": False,
        "scratch": True,
    }


def test_where_nothing_is_from_scratch_nothing_is_compared_with_it(tmp_path):
    text = RUN.replace("confirm: {seeds: 2}\n", "") + "exclude: [{optimizer: adam, transfer: scratch}]"
    store = fill(tmp_path, text, value=lambda t, epoch: 0.5 + 0.01 * (t.transfer == "features") + 0.001 * t.seed)
    (table,) = (table for table in build.build(store).tables if table.title == "Transfer")
    data = table.data.set_index(["optimizer", "transfer"])
    assert data.loc["adam", ["difference", "p"]].isna().all(axis=None)
    assert data.loc["adam", "verdict"].eq("").all()
    assert data.loc["sgd", "difference"].round(6).to_dict() == {"features": 0.01, "fine_tune": 0, "scratch": 0}


def test_the_command_line_counts_pretraining(tmp_path):
    (tmp_path / "run.yaml").write_text(RUN)
    out, _ = invoke("run", "run.yaml", "--dry-run", cwd=tmp_path)
    words = " ".join(out.split())
    assert "run, pretraining: 4 trials of 2 epochs on digits" in words
    assert "then the sweep: its trials begin with the networks of their own seeds" in words
    assert "run: 18 trials of 1 epoch on digits" in words
    assert words.count("trials to run in") == 2
    assert not (tmp_path / "results").exists()


def test_what_would_begin_with_a_network_that_diverged_fails_and_the_report_says_so(tmp_path):
    text = RUN.replace("batch_size: 128}\nparameters", "batch_size: 128, optimizer: sgd, lr: 1e30}\nparameters")
    text = text.replace("seeds: 2\npretrain", "seeds: 1\npretrain").replace("confirm: {seeds: 2}\n", "")
    job = job_of(tmp_path, text)
    list(run.events(job))
    rows = job.store.rows(last=True)
    assert rows.groupby("transfer", observed=True)["status"].unique().map(list).to_dict() == {
        "scratch": ["finished"],
        "features": ["failed"],
        "fine_tune": ["failed"],
    }
    report = build.build(job.store)
    assert " 1 of them diverged or failed; trials that would begin with these failed. The same" in report.note
    (table,) = (table for table in report.tables if table.title.startswith("Failed"))
    assert "no pretrained network to begin with" in json.dumps(table.data.astype(str).to_dict())
    assert status(job.store).line.endswith(", 1/1 pretrained")  # once more would diverge again


def test_results_that_began_with_other_networks_are_not_shown_together(tmp_path):
    first = fill(tmp_path / "a", RUN)
    other = RUN.replace("epochs: 2, batch_size", "epochs: 3, batch_size").replace("sgd:", "nadam:")
    second = fill(tmp_path / "b", other.replace("adam: }", "radam: }"))
    with pytest.raises(UserError) as caught:
        agreement.beside(first, [second])
    said = [line for line in str(caught.value).splitlines() if "pretraining" in line]
    begins = "dataset=digits, epochs={}, optimizer=adam, lr=0.001, batch_size=128"
    assert said == [f"  pretraining: {begins.format(2)} in {first.folder}, {begins.format(3)} in {second.folder}"]
    alike = fill(tmp_path / "c", RUN.replace("sgd:", "nadam:").replace("adam: }", "radam: }").replace("run", "alike"))
    assert agreement.beside(first, [alike]).pretraining(["trial_id"]).empty  # made-up rows have none
