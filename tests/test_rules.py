"""Every update rule against `torch.optim`, step by step. Adding an optimizer is one row of `TORCH`."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench.optimizers import OPTIMIZERS
from optbench.training.rules import RULES
from optbench.training.stacked import StackedOptimizer


class Lion(torch.optim.Optimizer):
    """Algorithm 2 of Chen et al. (2023), written down line by line: torch.optim has no Lion."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for theta in group["params"]:
                m = self.state[theta].setdefault("m", torch.zeros_like(theta))
                c = beta1 * m + (1 - beta1) * theta.grad
                theta -= group["lr"] * (c.sign() + group["weight_decay"] * theta)
                self.state[theta]["m"] = beta2 * m + (1 - beta2) * theta.grad


TORCH = {
    "sgd": torch.optim.SGD,
    "asgd": torch.optim.ASGD,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "rmsprop": torch.optim.RMSprop,
    "rprop": torch.optim.Rprop,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "lion": Lion,
}
# Arguments of torch that change no number, or are not ours: Adam with decoupled decay is AdamW, t0 of ASGD only decides
# from when on an average is kept that nobody evaluates.
NOT_OURS = {"params", "foreach", "maximize", "capturable", "differentiable", "fused", "t0"}
NOT_OURS_OF = {"adam": {"decoupled_weight_decay"}}

or_zero = st.one_of(st.just(0.0), st.floats(1e-6, 0.5))
below_one = st.floats(0.0, 0.999)
STRATEGIES = {
    "lr": st.floats(1e-5, 1.0),
    "weight_decay": or_zero,
    "momentum": st.one_of(st.just(0.0), st.floats(0.01, 0.99)),
    "dampening": or_zero,
    "lr_decay": or_zero,
    "initial_accumulator_value": or_zero,
    "eps": st.floats(1e-10, 1e-2),
    "rho": below_one,
    "alpha": below_one,
    "betas": st.tuples(below_one, below_one),
    "nesterov": st.booleans(),
    "amsgrad": st.booleans(),
    "centered": st.booleans(),
    "decoupled_weight_decay": st.booleans(),
    "lambd": st.floats(1e-6, 0.1),
    "momentum_decay": st.floats(1e-4, 0.1),
    "etas": st.tuples(st.floats(0.1, 0.9), st.floats(1.1, 2.0)),
    "step_sizes": st.tuples(st.floats(1e-8, 1e-4), st.floats(1.0, 50.0)),
}
PARAMETERS, STEPS = 12, 50


@st.composite
def hyperparameters(draw, name):
    values = {key: draw(STRATEGIES[key]) for key in OPTIMIZERS[name].model_fields}
    if values.get("centered"):  # with alpha = 0 the variance is 0 up to rounding, and both divide by its root
        values["alpha"] = max(values["alpha"], 0.05)
    if name == "asgd":
        values["alpha"] = draw(st.floats(0.1, 1.0))
    if values.get("nesterov"):
        values |= {"dampening": 0.0, "momentum": draw(st.floats(0.01, 0.99))}
    return OPTIMIZERS[name](**values)


def test_the_table_is_complete():
    assert list(TORCH) == [name for name, kind in OPTIMIZERS.items() if kind.stacked] == list(RULES)


@pytest.mark.parametrize("name", TORCH)
def test_arguments_and_defaults_are_those_of_torch(name):
    signature = inspect.signature(TORCH[name]).parameters
    not_ours = NOT_OURS | NOT_OURS_OF.get(name, set())
    theirs = {key: p.default for key, p in signature.items() if key not in not_ours}
    assert OPTIMIZERS[name]().model_dump() == theirs


def step(optimizer, gradients_TP, lr_T1):
    """A step of rules alone, which need neither losses nor second evaluations."""
    optimizer.step(torch.zeros(len(lr_T1)), gradients_TP, lr_T1, lr_T1[:, 0].tolist(), None)


@pytest.fixture(autouse=True)
def _double():
    """torch keeps the scalars of some optimizers in the default type, whatever that of the parameters."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def run_torch(name, hyper, start_P, gradients_NP, lrs_N):
    parameter = torch.nn.Parameter(start_P.clone())
    optimizer = TORCH[name]([parameter], **hyper.model_dump())
    for gradient_P, lr in zip(gradients_NP, lrs_N, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = gradient_P.clone()
        optimizer.step()
        yield parameter.detach().clone()


@pytest.mark.parametrize("name", TORCH)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_rule_equals_torch(name, data):
    hypers = data.draw(st.lists(hyperparameters(name), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    parameters_TP = torch.randn(len(hypers), PARAMETERS, generator=generator, dtype=torch.float64)
    gradients_NTP = torch.randn(STEPS, len(hypers), PARAMETERS, generator=generator, dtype=torch.float64)
    factors_N = torch.rand(STEPS, generator=generator, dtype=torch.float64)
    lr_NT1 = factors_N[:, None, None] * torch.tensor([h.lr for h in hypers], dtype=torch.float64)[:, None]
    references = [
        run_torch(name, hyper, parameters_TP[t], gradients_NTP[:, t], lr_NT1[:, t, 0].tolist())
        for t, hyper in enumerate(hypers)
    ]
    optimizer = StackedOptimizer(parameters_TP, [(PARAMETERS,)], hypers, range(len(hypers)))
    for n, expected in enumerate(zip(*references, strict=True)):
        step(optimizer, gradients_NTP[n].clone(), lr_NT1[n])
        for t, expected_P in enumerate(expected):
            error = torch.linalg.norm(parameters_TP[t] - expected_P) / torch.linalg.norm(expected_P)
            assert error <= 1e-5, f"step {n}, {hypers[t]}"


def test_mixed_stack_updates_each_trial_as_if_alone():
    names = [name for name in TORCH for _ in range(2)]
    hypers = [OPTIMIZERS[name](lr=0.01 * (i + 1)) for i, name in enumerate(names)]
    generator = torch.Generator().manual_seed(0)
    start_TP = torch.randn(len(names), PARAMETERS, generator=generator)
    gradients_NTP = torch.randn(5, len(names), PARAMETERS, generator=generator)
    lr_T1 = torch.tensor([h.lr for h in hypers])[:, None]

    stacked = start_TP.clone()
    optimizer = StackedOptimizer(stacked, [(PARAMETERS,)], hypers, range(len(names)))
    for gradients_TP in gradients_NTP:
        step(optimizer, gradients_TP.clone(), lr_T1)
    for t in range(len(names)):
        alone = start_TP[t : t + 1].clone()
        single = StackedOptimizer(alone, [(PARAMETERS,)], [hypers[t]], [t])
        for gradients_TP in gradients_NTP:
            step(single, gradients_TP[t : t + 1].clone(), lr_T1[t : t + 1])
        assert torch.equal(stacked[t : t + 1], alone)


def test_rows_that_leave_do_not_change_the_others():
    names = [name for name in TORCH for _ in range(3)]
    hypers = [OPTIMIZERS[name](lr=0.01 * (i + 1)) for i, name in enumerate(names)]
    generator = torch.Generator().manual_seed(0)
    start_TP = torch.randn(len(names), PARAMETERS, generator=generator)
    gradients_NTP = torch.randn(6, len(names), PARAMETERS, generator=generator)
    lr_T1 = torch.tensor([h.lr for h in hypers])[:, None]
    kept = [t for t in range(len(names)) if t % 3 and t not in (4, 5)]  # one of three, and all of one optimizer

    whole, left = start_TP.clone(), start_TP.clone()
    undisturbed, shrunk = (
        StackedOptimizer(parameters, [(PARAMETERS,)], hypers, range(len(names))) for parameters in (whole, left)
    )
    for n, gradients_TP in enumerate(gradients_NTP):
        step(undisturbed, gradients_TP.clone(), lr_T1)
        if n == 3:
            left = left[kept]
            shrunk.keep(kept, left)
        rows = kept if n >= 3 else range(len(names))
        step(shrunk, gradients_TP[list(rows)].clone(), lr_T1[list(rows)])
    assert torch.equal(whole[kept], left)
