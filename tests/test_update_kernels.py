"""The kernels of update rules against the rules; Triton's interpreter runs them where there is no GPU."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytestmark = pytest.mark.gpu

from optbench.errors import PerformanceWarning
from optbench.optimizers import OPTIMIZERS
from optbench.training import update_kernels as updates
from optbench.training.rules import RULES
from optbench.training.stacked import StackedOptimizer, _columns

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS = 4
rate = st.floats(1e-4, 1.0)
COMMON = {"lr": rate, "weight_decay": st.sampled_from([0.0, 0.1])}
ADAM = {"betas": st.tuples(st.floats(0, 0.99), st.floats(0.5, 0.999)), "eps": st.floats(1e-8, 1e-2)}
OWN = {"adam": ADAM, "adamw": ADAM, "sgd": {"momentum": st.sampled_from([0.0, 0.9]), "nesterov": st.booleans()}}


@st.composite
def groups(draw, name):
    """Trials of one rule; what one of them has and the others not is 0 for those."""
    drawn = []
    for _ in range(draw(st.integers(1, 3))):
        values = {key: draw(strategy) for key, strategy in (COMMON | OWN[name]).items()}
        if name == "sgd":
            values["nesterov"] &= values["momentum"] > 0
            values["dampening"] = 0.0 if values["nesterov"] else draw(st.sampled_from([0.0, 0.5]))
        drawn.append(OPTIMIZERS[name](**values))
    return drawn


def trained(update, name, hypers, start_TP, gradients_NTP):
    """Weights and state after a few steps."""
    columns = _columns([h.model_dump() for h in hypers], start_TP)
    rule = RULES[name]
    needed = [*rule.state, *(buffer for key, buffer in rule.optional.items() if key in columns)]
    p, state = start_TP.clone(), {buffer: torch.zeros_like(start_TP) for buffer in needed}
    lr_T1 = torch.tensor([[h.lr] for h in hypers], device=DEVICE)
    for n, gradients_TP in enumerate(gradients_NTP):
        t = torch.tensor(n + 1.0, dtype=torch.float64, device=DEVICE)
        update(p, gradients_TP.clone(), state, columns, lr_T1 * 0.9**n, t)
    return {"p": p, **state}


# 1 and 1023 leave a program mostly idle, 1025 needs one for a single number.
@pytest.mark.parametrize("parameters", [1, 1023, 1025])
@pytest.mark.parametrize("name", updates.UPDATES)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_kernel_equals_its_rule(name, parameters, data):
    hypers = data.draw(groups(name))
    generator = torch.Generator().manual_seed(0)
    start_TP = torch.randn(len(hypers), parameters, generator=generator).to(DEVICE)
    gradients_NTP = torch.randn(STEPS, len(hypers), parameters, generator=generator).to(DEVICE)
    kernel = updates.update_of(name, _columns([h.model_dump() for h in hypers], start_TP))
    found = trained(kernel, name, hypers, start_TP, gradients_NTP)
    expected = trained(RULES[name].update, name, hypers, start_TP, gradients_NTP)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", updates.UPDATES)
def test_nan_in_one_trial_leaves_the_others_bitwise_unchanged(name):
    hypers = [OPTIMIZERS[name](lr=0.1 * (t + 1)) for t in range(3)]
    generator = torch.Generator().manual_seed(0)
    start_TP = torch.randn(3, 100, generator=generator).to(DEVICE)
    gradients_NTP = torch.randn(STEPS, 3, 100, generator=generator).to(DEVICE)
    kernel = updates.UPDATES[name][0]
    clean = trained(kernel, name, hypers, start_TP, gradients_NTP)
    start_TP[1] = float("nan")
    dirty = trained(kernel, name, hypers, start_TP, gradients_NTP)
    assert dirty["p"][1].isnan().all()
    for key, value in clean.items():
        assert torch.equal(dirty[key][[0, 2]], value[[0, 2]])


def test_what_a_kernel_does_not_know_stays_with_the_rule():
    like = torch.zeros(1)
    assert updates.update_of("adam", _columns([OPTIMIZERS["adam"](amsgrad=True).model_dump()], like)) is None
    assert updates.update_of("adagrad", {}) is None
    assert updates.update_of("sgd", {"weight_decay": torch.zeros(2, 1)}) is updates.sgd
    assert updates.update_of("sgd", {"weight_decay": torch.zeros(2, 5)}) is None  # not all that a trial has decays
    assert updates.UPDATES.keys() <= RULES.keys()


class OnCuda(torch.Tensor):
    """Says that it is where kernels are used."""

    is_cuda = True


@pytest.fixture(autouse=True)
def _ask_anew():
    updates.obstacle_on.cache_clear()
    yield
    updates.obstacle_on.cache_clear()


def stepped():
    """Weights, at first 0, after a step of Adam with gradients of 1, whose size is the learning rate."""
    parameters_TP = torch.zeros(2, 100, device=DEVICE)
    optimizer = StackedOptimizer(parameters_TP.as_subclass(OnCuda), [(100,)], [OPTIMIZERS["adam"](lr=0.1)] * 2, [0, 1])
    optimizer.step_groups(torch.ones_like(parameters_TP), torch.full((2, 1), 0.1, device=DEVICE))
    return parameters_TP


STEPPED = torch.full((2, 100), -0.1, device=DEVICE)


def test_a_stack_is_updated_by_kernels_where_they_work(monkeypatch):
    launched, launch = [], updates.launch

    def watched(kernel, *rest, **named):
        launched.append(kernel)
        launch(kernel, *rest, **named)

    monkeypatch.setattr(updates, "launch", watched)
    torch.testing.assert_close(stepped(), STEPPED)
    assert launched == [updates._sgd, updates._adam]  # the first one to see whether it works


def test_a_stack_without_kernels_trains_and_says_why(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(updates, "launch", fails)
    with pytest.warns(PerformanceWarning, match=r"which is slower: RuntimeError: Failed to find C compiler\.$"):
        torch.testing.assert_close(stepped(), STEPPED)
    with pytest.raises(PerformanceWarning):  # a test that does not expect it fails
        stepped()


def test_a_stack_without_triton_trains_and_says_so(monkeypatch):
    monkeypatch.delitem(sys.modules, "optbench.training.update_kernels")
    monkeypatch.setitem(sys.modules, "triton", None)  # an import of it raises ModuleNotFoundError
    with pytest.warns(PerformanceWarning, match="triton"):
        torch.testing.assert_close(stepped(), STEPPED)


@pytest.mark.slow
def test_the_command_line_shows_it_once_in_one_line():
    """Triton itself refuses: the tensors that say they are on a GPU are in the CPU's memory."""
    script = "import torch, sys; torch.Tensor.is_cuda = True; from optbench.cli import app; app(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", script, "check-optimizer", "adam"],
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: optimizers run without fused kernels, which is slower: ")
    assert done.stderr.count("\n") == 1
