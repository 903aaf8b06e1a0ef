"""The same trial is the same trial: alone or stacked, once or twice, beside one that diverges."""

import dataclasses
import io
import math

import numpy as np
import pytest
import torch

from optbench.machine import randomness
from optbench.networks.network import Network
from optbench.sweep.stacks import Stack
from optbench.training import engine
from optbench.training.stacked import StackedOptimizer
from optbench.training.step import _Dropout
from tests.modules import SMALL, module_with, scales_of

SLOW = pytest.mark.slow
MIXED = """
  sgd: {lr: 0.05, momentum: 0.9, nesterov: true, dropout: 0.5}
  plain: {optimizer: sgd, lr: 0.1, dropout: 0, schedule: cosine}
  adagrad: {lr: 0.01, schedule: exponential}
  adadelta: {lr: [0.5, 1.0], dropout: [[0.1, 0.25]]}
  rmsprop: {lr: 0.001, momentum: 0.5}
  adam: {lr: 0.003, weight_decay: 0.001}
  adamw: {lr: 0.003, schedule: {name: step, step_size: 1}}
"""
LINES = ("epochs: 2", "parameters: {batch_size: 32, dropout: 0.25}")
NOT_OF_THE_TRIAL = {"train_seconds"}


def in_order(trials):
    """As `stacks.plan` orders them: neighbours with one optimizer share its update."""
    return Stack(tuple(sorted(trials, key=lambda trial: trial.algorithm)))


def rows_of(stack, dataset, **options):
    """All rows by (trial id, epoch), less what belongs to the run and not to the trial."""
    return {
        (row["trial_id"], row["epoch"]): {k: v for k, v in row.items() if k not in NOT_OF_THE_TRIAL}
        for rows in engine.train(stack, dataset, "cpu", **options)
        for row in rows
    }


def equal(a, b):
    return a.keys() == b.keys() and all(
        a[k] == b[k] or (isinstance(a[k], float) and math.isnan(a[k]) and math.isnan(b[k])) for k in a
    )


@pytest.fixture(scope="module")
def mixed(trials_of):
    trials = trials_of(MIXED, *LINES)
    assert len(trials) == 8
    return trials


def first_losses(stack, dataset, monkeypatch, n=20):
    """The first gradients (T, P) and the first n losses (N, T) of a stack, watched inside `train`."""
    seen = []
    original = Network.loss_and_gradients

    def watch(*arguments):
        loss_T, gradients_TP = original(*arguments)
        seen.append((loss_T.clone(), gradients_TP.clone()))
        return loss_T, gradients_TP

    with monkeypatch.context() as patch:
        patch.setattr(Network, "loss_and_gradients", watch)
        long = Stack(tuple(dataclasses.replace(trial, epochs=3) for trial in stack.trials))
        for _ in engine.train(long, dataset, "cpu"):
            pass
    return seen[0][1], torch.stack([loss_T for loss_T, _ in seen[:n]])


def test_alone_and_in_a_stack_of_eight_a_trial_is_the_same(mixed, tiny, monkeypatch):
    stack = in_order(mixed)
    gradients_TP, losses_NT = first_losses(stack, tiny, monkeypatch)
    assert losses_NT.shape == (20, 8)
    for t, trial in enumerate(stack.trials):
        gradients, losses = first_losses(Stack((trial,)), tiny, monkeypatch)
        torch.testing.assert_close(gradients[0], gradients_TP[t], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(losses[:, 0], losses_NT[:, t], rtol=1e-3, atol=0)


def test_on_a_cpu_even_the_rows_are_identical_alone_and_stacked(mixed, tiny):
    together = rows_of(in_order(mixed), tiny)
    alone = {}
    for trial in mixed:
        alone |= rows_of(Stack((trial,)), tiny)
    assert together.keys() == alone.keys()
    assert all(equal(together[key], alone[key]) for key in alone)


def test_after_the_last_epoch_a_row_says_which_images_were_right(trials_of, tiny):
    """As the trained weights predict them, image by image; no earlier row says it."""
    training = engine.Training(Stack(tuple(trials_of("\n  sgd: {lr: [0.01, 0.1]}\n", *LINES))), tiny, "cpu")
    assert not any(name.endswith("_correct") for row in training.rows() for name in row)
    for _ in range(2):
        training.epoch()
    images = tiny.normalise(tiny.test.images[None], torch.float32)
    weights, same_T = training.network.weights(training.parameters_TP), torch.zeros(2, dtype=torch.int64)
    logits_TBK = training.network.forward(weights, images, same_T, training=False, buffers_TQ=training.buffers_TQ)
    right_TN = (logits_TBK.argmax(dim=-1) == tiny.test.labels).numpy()
    for row, right_N in zip(training.rows(), right_TN, strict=True):
        bits = np.unpackbits(np.frombuffer(row["test_correct"], np.uint8), count=row["test_images"])
        assert bits.astype(bool).tolist() == right_N.tolist()
        assert row["test_accuracy"] == right_N.mean()
        assert row["val_images"] == len(tiny.val.labels)


def test_the_same_stack_twice_gives_identical_rows(mixed, tiny):
    first, second = (rows_of(in_order(mixed), tiny) for _ in range(2))
    assert first.keys() == second.keys()
    assert all(equal(first[key], second[key]) for key in first)


def test_a_diverging_trial_ends_with_its_rows_and_leaves_the_others_bitwise_unchanged(mixed, tiny, trials_of):
    (wild,) = trials_of("{wild: {optimizer: sgd, lr: 1e30}}", *LINES)
    without, beside = rows_of(in_order(mixed), tiny), rows_of(in_order([*mixed, wild]), tiny)
    assert all(equal(without[key], beside[key]) for key in without)
    rows = [beside[wild.trial_id, epoch] for epoch in range(2)]
    assert (wild.trial_id, 2) not in beside
    assert [row["status"] for row in rows] == ["running", "diverged"]
    assert rows[0]["val_accuracy"] > 0
    for split in ("train", "val", "test"):
        assert math.isnan(rows[1][f"{split}_loss"])
        assert math.isnan(rows[1][f"{split}_accuracy"])


def test_several_seeds_share_a_stack_and_stay_apart(trials_of, tiny):
    trials = trials_of("{adam: {lr: 0.003}}", "seeds: [3, 9]", *LINES)
    together = rows_of(Stack(tuple(trials)), tiny)
    for trial in trials:
        for key, row in rows_of(Stack((trial,)), tiny).items():
            assert equal(row, together[key])
    assert together[trials[0].trial_id, 2]["val_loss"] != together[trials[1].trial_id, 2]["val_loss"]


def test_rows_say_where_a_trial_is(trials_of, tiny):
    (trial,) = trials_of("{adam: {schedule: {name: exponential, gamma: 0.5}}}", *LINES)
    rows = [row for (row,) in engine.train(Stack((trial,)), tiny, "cpu")]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert [row["step"] for row in rows] == [0, 8, 16]
    assert [row["status"] for row in rows] == ["running", "running", "finished"]
    assert [row["scheduled_lr"] for row in rows] == [1e-3, 1e-3, 0.5e-3]
    assert [row["state_per_parameter"] for row in rows] == [None, 2.0, 2.0]
    assert [row["gradients_per_step"] for row in rows] == [None, 1.0, 1.0]
    assert {row["peak_memory_bytes"] for row in rows} == {None}  # of a CPU it is not known


def test_the_seconds_of_training_are_those_of_its_epochs_without_evaluation(trials_of, tiny, monkeypatch):
    times = iter([1.0, 4.0, 10.0, 12.0])  # the first epoch takes 3, evaluation 6, the second epoch 2
    monkeypatch.setattr(engine, "clock", lambda device: next(times))
    rows = [row for (row,) in engine.train(Stack(tuple(trials_of("{adam: }", *LINES))), tiny, "cpu")]
    assert [row["train_seconds"] for row in rows] == [0.0, 3.0, 5.0]


def test_the_peak_of_memory_is_that_of_its_epochs_without_evaluation(trials_of, tiny, monkeypatch):
    training = engine.Training(Stack(tuple(trials_of("{adam: }", *LINES))), tiny, "cpu")
    training._is_memory_its_own = True  # as on a GPU
    allocated = [50]

    def allocate(bytes_of_step, step=engine.Training.step):
        def watched(training):
            allocated.append(bytes_of_step)
            return step(training)

        monkeypatch.setattr(engine.Training, "step", watched)

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: allocated.clear())
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: max(allocated))
    found = []
    for bytes_of_step in (30, 20):
        allocate(bytes_of_step)
        training.epoch()
        allocated.append(90)  # as evaluation does
        found += [row["peak_memory_bytes"] for row in training.rows()]
    assert found == [30, 30]


@pytest.mark.parametrize("name", [*SMALL, pytest.param("resnet20", marks=pytest.mark.slow)])
def test_training_equals_a_plain_loop(name, trials_of, tiny, made_up):
    """An independent loop over torch.optim sees the same batches and ends at the same weights and metrics."""
    (trial,) = trials_of(
        "{adam: {lr: 0.002, dropout: 0, schedule: cosine}}", "epochs: 2", "parameters: {batch_size: 64}"
    )
    trial, network = dataclasses.replace(trial, model=name), Network(name)
    net = module_with(network, network.weights(network.initialize([0], "cpu", torch.float64)))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.002)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)

    def scaled(images):
        return (images.double() / 255 - tiny.info.mean[0]) / tiny.info.std[0]

    units = sum(units for _, units in network.architecture.dropout.values())
    ones = scales_of(network, torch.ones(1, units, dtype=torch.float64))
    for epoch in (1, 2):
        order = randomness.permutation([0], epoch, 256, "cpu")[0]
        for batch in order.split(64):
            optimizer.zero_grad()
            logits = net(scaled(tiny.train.images[batch]), ones)
            torch.nn.functional.cross_entropy(logits, tiny.train.labels[batch]).backward()
            optimizer.step()
            scheduler.step()
    with torch.no_grad():
        logits = net.eval()(scaled(tiny.val.images), ones)
    *_, (last,) = engine.train(Stack((trial,)), tiny, "cpu", dtype=torch.float64)
    loss = torch.nn.functional.cross_entropy(logits, tiny.val.labels)
    assert last["val_loss"] == pytest.approx(float(loss), rel=1e-6)
    assert last["val_accuracy"] == (logits.argmax(1) == tiny.val.labels).double().mean()


@pytest.mark.parametrize(
    ("name", "places", "units"),
    [
        ("cnn", (0, 1), (32, 64)),
        ("mlp", (0, 1), (500, 300)),
        ("rnn", (1,), (128,)),
        ("made up", (0, 0, 1), (8, 1568, 7)),
    ],
)
def test_dropout_has_the_rates_of_its_places_and_keeps_the_mean(name, places, units, trials_of, made_up):
    trials = trials_of("{adam: {dropout: [0.0, 0.5, [0.1, 0.25]]}}", "epochs: 1", "parameters: {batch_size: 64}")
    network = Network(name)
    dropout, same_T = _Dropout(network, trials, 1, 30, torch.zeros(1)), torch.zeros(3, dtype=int)
    dropout.draw([0], 1, 0, dropout.steps)
    scales = dropout.scale(torch.arange(dropout.steps * 64), same_T)
    assert scales.shape == (3, dropout.steps * 64, sum(units))
    for t, rates in enumerate([(0.0, 0.0), (0.5, 0.5), (0.1, 0.25)]):
        for place, part in zip(places, scales[t].split(units, dim=-1), strict=True):
            rate = rates[place]
            dropped = (part == 0).double().mean()
            assert abs(dropped - rate) < 5 * (rate * (1 - rate) / part.numel()) ** 0.5 + 1e-12
            torch.testing.assert_close(part.max(), torch.tensor(1 / (1 - rate)))


def test_optimizer_groups_follow_the_order_of_the_stack(mixed):
    stack = in_order(mixed)
    optimizer = StackedOptimizer(
        Network().initialize([0] * 8, "cpu"),
        list(Network().architecture.shapes.values()),
        [trial.hyperparameters for trial in stack.trials],
        [0] * 8,
    )
    assert len(optimizer._groups) == 6


@pytest.mark.parametrize(
    "names",
    [
        ("mlp", "sigmoid", "bce"),
        ("rnn", "tanh", "mse"),
        ("softmax", "relu", "bce"),
        ("lenet5", "tanh", "cross_entropy"),
        ("made up", "relu", "cross_entropy"),
    ],
)
def test_other_networks_too_are_identical_alone_and_stacked(names, mixed, tiny, made_up):
    model, activation, loss = names
    trials = [dataclasses.replace(trial, model=model, activation=activation, loss=loss) for trial in mixed]
    together = rows_of(in_order(trials), tiny)
    for trial in trials:
        for key, row in rows_of(Stack((trial,)), tiny).items():
            assert equal(row, together[key])


@pytest.mark.parametrize("name", ["cnn", "made up"])
def test_trials_that_are_stopped_leave_and_the_others_go_on_bitwise_unchanged(name, mixed, tiny, made_up):
    stack = in_order([dataclasses.replace(trial, model=name) for trial in mixed])
    undisturbed = rows_of(stack, tiny)
    stopped = frozenset(trial.trial_id for trial in stack.trials[::3])
    training = engine.train(stack, tiny, "cpu")
    rows = [*next(training), *training.send(None), *training.send(stopped)]
    with pytest.raises(StopIteration):
        next(training)
    found = {(row["trial_id"], row["epoch"]): {k: v for k, v in row.items() if k != "train_seconds"} for row in rows}
    assert found.keys() == {key for key in undisturbed if key[1] < 2 or key[0] not in stopped}
    assert all(equal(found[key], undisturbed[key]) for key in found)


def test_a_stack_ends_when_all_its_trials_are_stopped(trials_of, tiny):
    trials = trials_of("{adam: , sgd: }", *LINES)
    training = engine.train(Stack(tuple(trials)), tiny, "cpu")
    next(training)
    with pytest.raises(StopIteration):
        training.send(frozenset(trial.trial_id for trial in trials))


@pytest.mark.parametrize(
    ("gigabytes", "images"),
    [(139, 1000), (15, 960), (1, 64)],  # an H200, a T4, a very small one
)
def test_evaluation_takes_its_share_of_a_gpus_memory(gigabytes, images, monkeypatch):
    monkeypatch.setattr(engine, "memory_bytes", lambda device: gigabytes * 2**30)
    per_image = 2**20
    assert engine._evaluated_at_once(per_image, torch.device("cuda")) == images
    assert engine._evaluated_at_once(2**40, torch.device("cuda")) == 1
    assert engine._evaluated_at_once(per_image, torch.device("cpu")) == 100


STATEFUL = """
  nesterov: {optimizer: sgd, lr: 0.05, momentum: 0.9, nesterov: true, dropout: 0.5, schedule: cosine}
  adam: {lr: 0.003, schedule: {name: reduce_lr_on_plateau, patience: 0, factor: 0.5}}
  lbfgs: {lr: 0.5, max_iter: 2}
  muon: {lr: 0.003}
  prodigy: {optimizer: pytorch_optimizer.prodigy}
"""


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        pytest.param("made up", 8, marks=SLOW),
        ("made up", 13),
        pytest.param("made up", 1, marks=SLOW),
        pytest.param("cnn", 13, marks=SLOW),
    ],
)
def test_a_training_goes_on_bit_by_bit_from_its_state(name, steps, trials_of, tiny, made_up):
    """At any step of an epoch, or between two, through a file."""
    trials = trials_of(STATEFUL, "epochs: 4", "seeds: 2", LINES[1])
    stack = Stack(tuple(dataclasses.replace(trial, model=name) for trial in trials))
    whole = engine.Training(stack, tiny, "cpu")
    whole.rows()
    for step in range(steps):
        if step == 8:
            whole.rows()
        whole.step()
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed = engine.Training(stack, tiny, "cpu")
    resumed.load_state_dict(torch.load(file))
    assert resumed.step_number == whole.step_number == steps
    for _ in range(2):
        rows = []
        for training in (whole, resumed):
            training.epoch()
            rows.append([{k: v for k, v in row.items() if k not in NOT_OF_THE_TRIAL} for row in training.rows()])
        assert rows[0] == rows[1]
        assert torch.equal(whole.parameters_TP, resumed.parameters_TP)
        assert torch.equal(whole.buffers_TQ, resumed.buffers_TQ)


def test_a_training_step_by_step_is_a_training_epoch_by_epoch(trials_of, tiny):
    stack = Stack(tuple(trials_of(STATEFUL, *LINES)))
    by_step, by_epoch = (engine.Training(stack, tiny, "cpu") for _ in range(2))
    for _ in range(8):
        losses_T = by_step.step()
        assert losses_T.shape == (len(stack),)
    by_epoch.epoch()
    assert (by_step.epoch_number, by_step.step_number) == (by_epoch.epoch_number, by_epoch.step_number) == (1, 8)
    assert torch.equal(by_step.parameters_TP, by_epoch.parameters_TP)


def test_steps_end_within_an_epoch_and_are_the_steps_of_longer_trainings(trials_of, tiny):
    """13 steps, of 8 an epoch: the first 13 of two epochs where the learning rate does not depend on what is left."""
    trials = trials_of("{sgd: {lr: 0.05, momentum: 0.9}, adam: {lr: 0.003}}", *LINES)
    short = Stack(tuple(dataclasses.replace(trial, steps=13) for trial in trials))
    by_epoch, by_step = engine.Training(short, tiny, "cpu"), engine.Training(Stack(tuple(trials)), tiny, "cpu")
    by_epoch.epoch()
    for _ in range(11):
        by_step.step()
    resumed = engine.Training(short, tiny, "cpu")
    resumed.load_state_dict(by_step.state_dict())
    for _ in range(2):
        by_step.step()
    for training in (by_epoch, resumed):
        training.epoch()
        assert (training.epoch_number, training.step_number) == (2, 13)
        assert {row["status"] for row in training.rows()} == {"finished"}
        assert torch.equal(training.parameters_TP, by_step.parameters_TP)


def test_the_rows_of_steps_say_how_many_were_made_and_the_learning_rate_of_the_last(trials_of, tiny):
    (trial,) = trials_of("{sgd: {lr: 0.1, schedule: linear}}", *LINES)
    rows = [row for (row,) in engine.train(Stack((dataclasses.replace(trial, steps=13),)), tiny, "cpu")]
    assert [(row["epoch"], row["step"], row["status"]) for row in rows] == [
        (0, 0, "running"),
        (1, 8, "running"),
        (2, 13, "finished"),
    ]
    assert [row["scheduled_lr"] for row in rows[1:]] == pytest.approx([0.1 * (1 - 7 / 13), 0.1 / 13])
