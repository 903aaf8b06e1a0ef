"""Every schedule against `torch.optim.lr_scheduler`, step by step."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from optbench.schedules import SCHEDULES, LearningRate

STEPS_PER_EPOCH, EPOCHS = 4, 8
TOTAL = STEPS_PER_EPOCH * EPOCHS

gamma = st.floats(0.01, 1.0)
# Our parameters; torch's scheduler for them; whether torch's is stepped after every epoch or after every step.
CASES = {
    "constant": (st.just({}), lambda o: lr_scheduler.LambdaLR(o, lambda _: 1.0), "step"),
    "exponential": (st.fixed_dictionaries({"gamma": gamma}), lr_scheduler.ExponentialLR, "epoch"),
    "step": (st.fixed_dictionaries({"step_size": st.integers(1, 5), "gamma": gamma}), lr_scheduler.StepLR, "epoch"),
    "cosine": (st.just({}), lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=TOTAL), "step"),
}
plateaus = st.fixed_dictionaries(
    {
        "factor": st.floats(0.01, 0.9),
        "patience": st.integers(0, 3),
        "threshold": st.floats(0.0, 0.1),
        "cooldown": st.integers(0, 3),
        "min_lr": st.floats(0.0, 0.01),
    }
)


def torch_optimizer(lr):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def test_the_tables_are_complete():
    assert set(CASES) | {"reduce_lr_on_plateau"} == set(SCHEDULES)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=50, deadline=None, derandomize=True)
@given(data=st.data(), lr=st.floats(1e-5, 10))
def test_schedule_equals_torch(name, data, lr):
    strategy, scheduler_class, stepped = CASES[name]
    parameters = data.draw(strategy)
    rate = LearningRate(SCHEDULES[name](name=name, **parameters), lr, STEPS_PER_EPOCH, EPOCHS)
    optimizer = torch_optimizer(lr)
    scheduler = scheduler_class(optimizer, **parameters)
    for epoch in range(EPOCHS):
        ours = rate.of_epoch(epoch)
        assert len(ours) == STEPS_PER_EPOCH
        for value in ours:
            assert math.isclose(value, optimizer.param_groups[0]["lr"], rel_tol=1e-9, abs_tol=1e-12 * lr)
            optimizer.step()
            if stepped == "step":
                scheduler.step()
        if stepped == "epoch":
            scheduler.step()
        rate.observe(1.0)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(plateaus, st.floats(1e-4, 1), st.lists(st.floats(0, 2) | st.just(math.nan), min_size=12, max_size=12))
def test_plateau_equals_torch(parameters, lr, losses):
    rate = LearningRate(SCHEDULES["reduce_lr_on_plateau"](**parameters), lr, STEPS_PER_EPOCH, len(losses))
    optimizer = torch_optimizer(lr)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, **parameters)
    for epoch, loss in enumerate(losses):
        assert rate.of_epoch(epoch) == [optimizer.param_groups[0]["lr"]] * STEPS_PER_EPOCH
        scheduler.step(loss)
        rate.observe(loss)


def test_labels_name_what_differs_from_the_defaults():
    assert str(SCHEDULES["exponential"](gamma=0.9)) == "exponential"
    assert str(SCHEDULES["exponential"](gamma=0.5)) == "exponential(gamma=0.5)"
    assert str(SCHEDULES["step"](step_size=3, gamma=0.1)) == "step(step_size=3)"
