"""Every schedule against `torch.optim.lr_scheduler`, step by step."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from optbench.optimizers.schedules import SCHEDULES, LearningRate

STEPS_PER_EPOCH, EPOCHS = 4, 8
TOTAL = STEPS_PER_EPOCH * EPOCHS

gamma = st.floats(0.01, 1.0)
nothing = st.just({})


def by_step(factor):
    """torch's scheduler for a factor that is written down here a second time, from its definition."""
    return lambda optimizer, **parameters: lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, **parameters))


def cycles(optimizer, num_cycles):
    return lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=TOTAL // num_cycles)


def one_cycle(optimizer, **parameters):
    top = optimizer.param_groups[0]["lr"]
    return lr_scheduler.OneCycleLR(optimizer, max_lr=top, total_steps=TOTAL, cycle_momentum=False, **parameters)


REQUIRED = {
    "step": {"step_size": 2},
    "multistep": {"milestones": [2]},
    "CosineAnnealingLR": {"T_max": 2},
    "CosineAnnealingWarmRestarts": {"T_0": 2},
}
# Our parameters; torch's scheduler for them; whether torch's is stepped after every epoch or after every step.
CASES = {
    "constant": (nothing, by_step(lambda step: 1.0), "step"),
    "constant_with_warmup": (
        st.fixed_dictionaries({"warmup_steps": st.integers(1, TOTAL)}),
        by_step(lambda step, warmup_steps: min(1.0, step / warmup_steps)),
        "step",
    ),
    "linear": (
        nothing,
        lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=TOTAL),
        "step",
    ),
    "cosine": (nothing, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=TOTAL), "step"),
    "cosine_with_restarts": (st.fixed_dictionaries({"num_cycles": st.sampled_from([1, 2, 4, 8])}), cycles, "step"),
    "polynomial": (
        st.fixed_dictionaries({"power": st.floats(0.1, 4)}),
        lambda o, power: lr_scheduler.PolynomialLR(o, total_iters=TOTAL, power=power),
        "step",
    ),
    "inverse_sqrt": (nothing, by_step(lambda step: (1 + step / 10_000) ** -0.5), "step"),
    "inverse_time": (
        st.fixed_dictionaries({"gamma": st.floats(1e-5, 1), "power": st.floats(0.1, 4)}),
        by_step(lambda step, gamma, power: math.exp(-power * math.log1p(gamma * step))),
        "step",
    ),
    "warmup_stable_decay": (
        st.fixed_dictionaries({"warmup_steps": st.integers(1, 10), "decay_steps": st.integers(1, 10)}),
        by_step(
            lambda step, warmup_steps, decay_steps: min(
                step / warmup_steps, math.cos(math.pi / 2 * max(0, step - TOTAL + decay_steps) / decay_steps) ** 2, 1.0
            )
        ),
        "step",
    ),
    "one_cycle": (
        st.fixed_dictionaries(
            {
                "pct_start": st.floats(0.1, 0.9),
                "div_factor": st.floats(1.0, 100.0),
                "final_div_factor": st.floats(1.0, 1e4),
            }
        ),
        one_cycle,
        "step",
    ),
    "ConstantLR": (
        st.fixed_dictionaries({"factor": gamma, "total_iters": st.integers(1, 10)}),
        lr_scheduler.ConstantLR,
        "epoch",
    ),
    "LinearLR": (
        st.fixed_dictionaries({"start_factor": gamma, "end_factor": gamma, "total_iters": st.integers(1, 10)}),
        lr_scheduler.LinearLR,
        "epoch",
    ),
    "PolynomialLR": (
        st.fixed_dictionaries({"total_iters": st.integers(1, 10), "power": st.floats(0.1, 4)}),
        lr_scheduler.PolynomialLR,
        "epoch",
    ),
    "CosineAnnealingLR": (
        st.fixed_dictionaries({"T_max": st.integers(1, 10), "eta_min": st.floats(0, 1e-3)}),
        lr_scheduler.CosineAnnealingLR,
        "epoch",
    ),
    "CosineAnnealingWarmRestarts": (
        st.fixed_dictionaries({"T_0": st.integers(1, 10), "T_mult": st.integers(1, 3), "eta_min": st.floats(0, 1e-3)}),
        lr_scheduler.CosineAnnealingWarmRestarts,
        "epoch",
    ),
    "exponential": (st.fixed_dictionaries({"gamma": gamma}), lr_scheduler.ExponentialLR, "epoch"),
    "step": (st.fixed_dictionaries({"step_size": st.integers(1, 5), "gamma": gamma}), lr_scheduler.StepLR, "epoch"),
    "multistep": (
        st.fixed_dictionaries(
            {"milestones": st.lists(st.integers(1, EPOCHS), min_size=1, max_size=3).map(sorted), "gamma": gamma}
        ),
        lr_scheduler.MultiStepLR,
        "epoch",
    ),
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
    rate = LearningRate(SCHEDULES[name](name=name, **parameters), lr, STEPS_PER_EPOCH, STEPS_PER_EPOCH * EPOCHS)
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
    schedule = SCHEDULES["reduce_lr_on_plateau"](**parameters)
    rate = LearningRate(schedule, lr, STEPS_PER_EPOCH, STEPS_PER_EPOCH * len(losses))
    optimizer = torch_optimizer(lr)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, **parameters)
    for epoch, loss in enumerate(losses):
        assert rate.of_epoch(epoch) == [optimizer.param_groups[0]["lr"]] * STEPS_PER_EPOCH
        scheduler.step(loss)
        rate.observe(loss)


@pytest.mark.parametrize(
    "name", sorted(set(SCHEDULES) - {"constant_with_warmup", "warmup_stable_decay", "inverse_sqrt"})
)
def test_warmup_rises_from_zero_and_then_the_schedule_takes_its_course(name):
    required = REQUIRED.get(name, {})
    plain, warm, share = (
        SCHEDULES[name](**required, warmup_steps=warmup) for warmup in (0, STEPS_PER_EPOCH, 1 / EPOCHS)
    )
    for step in range(TOTAL):
        epoch = step // STEPS_PER_EPOCH
        value = warm.multiplier(0.1, epoch, step, TOTAL)
        assert value == share.multiplier(0.1, epoch, step, TOTAL)
        if step < STEPS_PER_EPOCH:
            assert value == step / STEPS_PER_EPOCH
        else:
            rest = TOTAL - STEPS_PER_EPOCH
            assert value == plain.multiplier(0.1, epoch, step - STEPS_PER_EPOCH, rest)


def test_inverse_sqrt_takes_its_timescale_from_the_warmup():
    schedule = SCHEDULES["inverse_sqrt"](warmup_steps=100)
    assert schedule.multiplier(0.1, 0, 50, 1000) == 0.5
    assert schedule.multiplier(0.1, 0, 100, 1000) == 1.0
    assert schedule.multiplier(0.1, 0, 400, 1000) == pytest.approx(0.5)  # √(100 / 400)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 0.5, 0.999, 7, 10**6])
def test_every_multiplier_is_from_0_to_1_even_in_the_shortest_training(name, warmup):
    required = REQUIRED.get(name, {})
    given = {"warmup_steps": warmup} if warmup or name != "constant_with_warmup" else {}
    schedule = SCHEDULES[name](**required, **given)
    for total in (1, 2, 5, 40):
        for step in range(total):
            assert 0 <= schedule.multiplier(0.1, step // 5, step, total) <= 1


@pytest.mark.parametrize("steps", [1, 7, 8, 9, 13])
def test_the_last_epoch_may_be_shorter_and_schedules_end_with_the_last_step(steps):
    rate = LearningRate(SCHEDULES["linear"](), 1.0, 4, steps)
    rates = [rate.of_epoch(epoch) for epoch in range(math.ceil(steps / 4))]
    assert [lr for of_epoch in rates for lr in of_epoch] == [1 - step / steps for step in range(steps)]
    assert [len(of_epoch) for of_epoch in rates] == [4] * (steps // 4) + [steps % 4] * (steps % 4 > 0)


def test_one_cycle_may_peak_at_its_first_step():
    schedule = SCHEDULES["one_cycle"](pct_start=0.5)
    assert schedule.multiplier(0.1, 0, 0, 2) == 1


def test_labels_name_what_differs_from_the_defaults():
    assert str(SCHEDULES["exponential"](gamma=0.9)) == "exponential"
    assert str(SCHEDULES["exponential"](gamma=0.5)) == "exponential(gamma=0.5)"
    assert str(SCHEDULES["step"](step_size=3, gamma=0.1)) == "step(step_size=3)"
    assert (
        str(SCHEDULES["multistep"](milestones=[3, 6], warmup_steps=0.1))
        == "multistep(warmup_steps=0.1, milestones=[3, 6])"
    )
