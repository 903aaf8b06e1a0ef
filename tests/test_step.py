"""A step that was recorded once does the same when it is replayed, and looks at no value on the host."""

import dataclasses
from typing import ClassVar

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from optbench.errors import PerformanceWarning
from optbench.networks.forward import WAYS
from optbench.networks.losses import LOSSES
from optbench.sweep.stacks import Stack
from optbench.training import engine, step
from optbench.training.rules import RULES
from optbench.training.step import Steps
from tests.modules import SMALL

RULES_YAML = "\n".join(["", *(f"  {name}: {{lr: 0.01}}" for name in RULES)])
MORE = """
  momentum: {optimizer: sgd, lr: 0.05, momentum: 0.9, dampening: 0.5, weight_decay: 0.001, dropout: 0.5}
  nesterov: {optimizer: sgd, lr: 0.05, momentum: 0.9, nesterov: true, schedule: cosine}
  amsgrad: {optimizer: adam, lr: 0.01, amsgrad: true, schedule: {name: step, step_size: 1}}
  centered: {optimizer: rmsprop, lr: 0.01, centered: true, momentum: 0.5}
  start: {optimizer: adagrad, lr: 0.01, initial_accumulator_value: 0.1, lr_decay: 0.1}
"""
LINES = ("epochs: 2", "seeds: 2", "parameters: {batch_size: 32, dropout: 0.25}")
WAITS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "item", "lift_fresh", "unique"}


@pytest.fixture(scope="module")
def trials(trials_of):
    return sorted(trials_of(RULES_YAML + MORE, *LINES), key=lambda trial: (trial.algorithm, trial.seed))


@pytest.fixture(autouse=True)
def _as_on_cuda(monkeypatch):
    """The stacked convolutions, which a CUDA device takes; the loop over trials asks for their seeds."""
    monkeypatch.setitem(WAYS, "loop", WAYS["grouped"])


class Watched(TorchDispatchMode):
    """Refuses what a CUDA device would have to wait for, and what would make new constants inside a recording."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in WAITS, f"{name} looks at a value on the host"
        return function(*args, **(kwargs or {}))


def rows_of(trials, dataset, rungs=()):
    return {
        (row["trial_id"], row["epoch"]): {k: v for k, v in row.items() if k != "train_seconds"}
        for rows in engine.train(Stack(tuple(trials), rungs), dataset, "cpu")
        for row in rows
    }


def on(trials, name, precision="auto", loss="cross_entropy"):
    return [dataclasses.replace(trial, model=name, precision=precision, loss=loss) for trial in trials]


def test_a_step_looks_at_no_value_on_the_host(trials, tiny, monkeypatch, made_up):
    original = Steps._step
    seen = []

    def watched(self):
        with Watched():
            original(self)
        seen.append(self)

    monkeypatch.setattr(Steps, "_step", watched)
    some = [trials[0], trials[-1]]
    everything = [
        on(trials, "mlp"),
        *(on(some, name) for name in SMALL),
        *(on(some, "softmax", loss=loss) for loss in LOSSES),
    ]
    for several in everything:
        rows_of([dataclasses.replace(trial, epochs=1) for trial in several], tiny)
    assert made_up in SMALL
    assert len(seen) == 8 * len(everything)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["cnn", pytest.param("mlp", marks=pytest.mark.slow), "made up"])
def test_a_recorded_step_replays_to_the_same_rows(name, precision, trials, tiny, monkeypatch, made_up):
    """The recording is that of torch.fx: the operations of one step, on the tensors that they were recorded with."""
    trials = on(trials if name == "mlp" else trials[::9], name, precision)
    expected = rows_of(trials, tiny)
    recorded = []

    def record(work, changed, device):
        before = [tensor.clone() for tensor in changed]
        recorded.append(make_fx(lambda: work())())
        for tensor, value in zip(changed, before, strict=True):
            tensor.copy_(value)
        return recorded[-1]

    monkeypatch.setattr(step, "record", record)
    assert rows_of(trials, tiny) == expected
    assert recorded


@pytest.mark.parametrize("lrs", ["[0.05, 0.1]", "[0.05, 0.1, 1.0e+30]"], ids=["all train on", "one diverges"])
def test_what_a_recording_warms_up_with_leaves_no_trace_at_rungs_either(lrs, trials_of, tiny, monkeypatch):
    """A stack that loses nobody at a rung gives its recording away and makes it again, between two epochs."""
    trials = trials_of(f"{{sgd: {{lr: {lrs}, momentum: 0.9}}}}", "epochs: 4", *LINES[2:])
    expected = rows_of(trials, tiny)
    recorded = []

    def record(work, changed, device):
        before = [tensor.clone() for tensor in changed]
        step.warm_up(work, changed)
        assert all(tensor.equal(value) for tensor, value in zip(changed, before, strict=True))
        recorded.append(work)
        return work

    monkeypatch.setattr(step, "record", record)
    found = rows_of(trials, tiny, rungs=(1, 2))
    assert str(found) == str(expected)  # NaN among them
    assert len(recorded) == 3


def test_a_step_that_cannot_be_recorded_is_launched_as_it_is(trials_of, tiny, monkeypatch):
    trials = trials_of("{sgd: {lr: 0.05}}", "epochs: 3", *LINES[2:])
    expected = rows_of(trials, tiny)

    def record(work, changed, device):
        raise step.RecordingError("operation not permitted when stream is capturing")

    monkeypatch.setattr(step, "record", record)
    with pytest.warns(PerformanceWarning, match="slower: operation not permitted when stream is capturing") as warned:
        assert rows_of(trials, tiny) == expected
    assert len(warned) == 1


def test_a_lack_of_memory_for_a_recording_is_the_stacks(trials_of, tiny, monkeypatch):
    """It goes on in halves, rather than slowly."""

    def record(work, changed, device):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(step, "record", record)
    with pytest.raises(RuntimeError, match="out of memory"):
        rows_of(trials_of("{sgd: {lr: 0.05}}", "epochs: 1"), tiny)


class Looks(torch.optim.Optimizer):
    """Asks what loss and gradient it would have so far away as `lr` says, and stays where it is."""

    seen: ClassVar[list[tuple[float, torch.Tensor]]] = []

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure):
        (group,) = self.param_groups
        before = [leaf.clone() for leaf in group["params"]]
        for leaf in group["params"]:
            leaf.add_(group["lr"])
        loss = float(closure())
        self.seen.append((loss, torch.cat([leaf.grad.flatten() for leaf in group["params"]])))
        for leaf, value in zip(group["params"], before, strict=True):
            leaf.copy_(value)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_closure_has_the_batch_and_the_dropout_of_its_step(dropout, trials_of, tiny, monkeypatch):
    """What a trial sees elsewhere is what another trial sees in the same step that is there."""
    monkeypatch.setattr(Looks, "seen", [])
    looks = f"optimizer: '{__name__}:Looks'"
    lines = ("epochs: 1", "seeds: 2", f"parameters: {{batch_size: 32, dropout: {dropout}}}")
    looking = engine.Training(
        Stack(tuple(trials_of(f"{{adam: , looks: {{{looks}, lr: 0.001}}}}", *lines))), tiny, "cpu"
    )
    being = engine.Training(Stack(tuple(trials_of(f"{{looks: {{{looks}, lr: 0.0}}}}", *lines))), tiny, "cpu")
    being.parameters_TP += 0.001
    for _ in range(3):
        looking.step()
        being.step()
        elsewhere, there = Looks.seen[:2], Looks.seen[2:]
        assert len(elsewhere) == len(there) == 2
        for (loss, gradient_P), (expected, expected_P) in zip(elsewhere, there, strict=True):
            assert loss == pytest.approx(expected, rel=1e-5)
            torch.testing.assert_close(gradient_P, expected_P)
        Looks.seen.clear()
