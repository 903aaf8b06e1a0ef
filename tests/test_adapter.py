"""Genuine optimizers on leaf views: each does to its part of the stack what it does to parameters of its own."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from optbench.optimizers import OPTIMIZERS
from optbench.sweep.lookup import find
from optbench.sweep.stacks import Stack
from optbench.training import engine
from optbench.training.adapter import LeafOptimizer
from optbench.training.stacked import StackedOptimizer

SHAPES = [(3, 2, 2), (3,), (4, 12), (4,)]
PARAMETERS = sum(torch.Size(shape).numel() for shape in SHAPES)
STEPS = 12


def target_loss(parts, goal):
    """A smooth loss of the parameters, so that a closure has something to compute."""
    return sum(
        ((part - aim) ** 2).sum() + 0.1 * part.abs().pow(1.5).sum() for part, aim in zip(parts, goal, strict=True)
    )


def views(flat_P):
    sizes = [torch.Size(shape).numel() for shape in SHAPES]
    return [part.view(shape) for part, shape in zip(flat_P.split(sizes), SHAPES, strict=True)]


def loss_and_gradient(flat_P, goal_P):
    leaf = flat_P.detach().clone().requires_grad_()
    loss = target_loss(views(leaf), views(goal_P))
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(PARAMETERS, generator=generator, dtype=torch.float64) for _ in range(2))


def adapted(hyperparameters, start_P, goal_P, lrs):
    flat_P = start_P.clone()
    optimizer = LeafOptimizer(flat_P, SHAPES, hyperparameters, seed=0)
    for lr in lrs:
        loss, gradient_P = loss_and_gradient(flat_P, goal_P)
        optimizer.step(loss, gradient_P, lr, lambda: loss_and_gradient(flat_P, goal_P))
    return flat_P


def genuine(make, start_P, goal_P, lrs, flatten=False):
    """The loop from torch's documentation, on parameters of their own."""
    leaves = [nn.Parameter(part.flatten(1) if flatten and part.ndim > 2 else part) for part in views(start_P.clone())]
    optimizers = make(leaves)

    def closure():
        for optimizer in optimizers:
            optimizer.zero_grad()
        shaped = [leaf.view(shape) for leaf, shape in zip(leaves, SHAPES, strict=True)]
        loss = target_loss(shaped, views(goal_P))
        loss.backward()
        return loss

    bases = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    for lr in lrs:
        for optimizer, base in zip(optimizers, bases, strict=True):
            for group, own in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = own * lr / lrs[0]
        if isinstance(optimizers[0], torch.optim.LBFGS):
            optimizers[0].step(closure)
        else:
            closure()
            for optimizer in optimizers:
                optimizer.step()
    return torch.cat([leaf.detach().flatten() for leaf in leaves])


class PlainSAM:
    """Foret et al. (2021), equations 2 and 3, written down without an optimizer class."""

    def __init__(self, leaves, lr, rho, adaptive, momentum):
        self.leaves, self.rho, self.adaptive, self.momentum = leaves, rho, adaptive, momentum
        self.param_groups = [{"lr": lr}]
        self.buffer = None

    def run(self, goal_P, lrs):
        w = torch.cat([leaf.detach().flatten() for leaf in self.leaves])
        for lr in lrs:
            _, g = loss_and_gradient(w, goal_P)
            t = w.abs() if self.adaptive else torch.ones_like(w)
            _, g = loss_and_gradient(w + self.rho * t * t * g / (t * g).norm(), goal_P)
            self.buffer = g if self.buffer is None else self.momentum * self.buffer + g
            w = w - lr * self.buffer
        return w


CONSTANT, FALLING = [0.02] * STEPS, [0.02 * 0.8**n for n in range(STEPS)]


@pytest.mark.parametrize("lrs", [CONSTANT, FALLING], ids=["constant", "falling"])
@pytest.mark.parametrize(
    ("name", "more", "make"),
    [
        ("adafactor", {}, lambda leaves: [torch.optim.Adafactor(leaves, lr=0.02)]),
        ("adafactor", {"d": 2.0}, lambda leaves: [torch.optim.Adafactor(leaves, lr=0.02, d=2.0)]),
        ("lbfgs", {"max_iter": 4}, lambda leaves: [torch.optim.LBFGS(leaves, lr=0.02, max_iter=4)]),
        (
            "lbfgs",
            {"line_search_fn": "strong_wolfe"},
            lambda leaves: [torch.optim.LBFGS(leaves, lr=0.02, line_search_fn="strong_wolfe")],
        ),
        (
            "muon",
            {"adamw_lr": 0.1, "weight_decay": 0.01},
            lambda leaves: [
                torch.optim.Muon([p for p in leaves if p.ndim == 2], lr=0.02, weight_decay=0.01),
                torch.optim.AdamW([p for p in leaves if p.ndim == 1], lr=0.1, weight_decay=0.01),
            ],
        ),
        ("pytorch_optimizer.sgd", {"momentum": 0.9}, lambda leaves: [torch.optim.SGD(leaves, lr=0.02, momentum=0.9)]),
        (
            "torch.optim:Adam",
            {"betas": (0.5, 0.9)},
            lambda leaves: [torch.optim.Adam(leaves, lr=0.02, betas=(0.5, 0.9))],
        ),
    ],
)
def test_a_genuine_optimizer_does_what_it_does_elsewhere(name, more, make, lrs, problem, tmp_path):
    start_P, goal_P = problem
    ours = adapted(find(name, tmp_path)(lr=0.02, **more), start_P, goal_P, lrs)
    theirs = genuine(make, start_P, goal_P, lrs, flatten=name == "muon")
    assert not torch.equal(ours, start_P)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sam_is_that_of_its_paper(adaptive, momentum, problem):
    start_P, goal_P = problem
    sam = OPTIMIZERS["sam"](lr=0.02, rho=0.3, adaptive=adaptive, momentum=momentum)
    ours = adapted(sam, start_P, goal_P, FALLING)
    theirs = PlainSAM([start_P], 0.02, 0.3, adaptive, momentum).run(goal_P, FALLING)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_an_optimizer_that_changes_its_own_lr_is_left_in_peace_while_the_schedule_is_constant(tmp_path):
    (tmp_path / "own.py").write_text(
        "import torch\n"
        "class Halves(torch.optim.SGD):\n"
        "    def step(self, closure=None):\n"
        "        super().step()\n"
        "        self.param_groups[0]['lr'] /= 2\n"
    )
    flat_P, kind = torch.zeros(PARAMETERS), find("./own.py:Halves", tmp_path)
    optimizer = LeafOptimizer(flat_P, SHAPES, kind(lr=1.0), seed=0)
    for _ in range(3):
        optimizer.step(torch.zeros(()), torch.full((PARAMETERS,), -1.0), 1.0, None)
    assert flat_P.tolist() == [1.75] * PARAMETERS


# ---------------------------------------------------------------- inside a stack

NOISY = """
import random, numpy, torch
class Noisy(torch.optim.Optimizer):
    '''Draws from every generator that there is.'''
    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                noise = torch.randn_like(p) + random.random() + numpy.random.rand()
                p.sub_(p.grad * group["lr"] + 1e-4 * noise)
class Raises(Noisy):
    def step(self, closure=None):
        self.n = getattr(self, "n", 0) + 1
        if self.n == 5:
            raise ValueError("five is too much")
        super().step()
class Rebinds(Noisy):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.data = p.data - 0.1 * p.grad
class ReturnsNaN(Noisy):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.fill_(float("nan"))
class Decomposes(Noisy):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if not p.grad.isfinite().all():
                    raise RuntimeError("input contains NaN")
                p.mul_(1e4)
class Clips(torch.optim.SGD):
    '''Changes the gradient it is given, and asks for it again.'''
    @torch.no_grad()
    def step(self, closure=None):
        for _ in range(2):
            with torch.enable_grad():
                closure()
            for p in self.param_groups[0]["params"]:
                p.grad.mul_(0.5)
        super().step()
class Insists(torch.optim.SGD):
    '''Wants to be told, as the package schedulefree does.'''
    told = False
    def train(self):
        self.told = True
    def eval(self):
        self.told = False
    def step(self, closure=None):
        if not self.told:
            raise RuntimeError("call train() first")
        super().step(closure)
class Counts(torch.optim.SGD):
    '''Evaluates at weights of its own, as schedule-free optimizers do.'''
    def eval(self):
        for p in self.param_groups[0]["params"]:
            p.data.mul_(0)
    def train(self):
        for p in self.param_groups[0]["params"]:
            p.data.add_(1e9)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("optimizers")
    (folder / "own.py").write_text(NOISY)
    return folder


def trials_in(folder, text, epochs=2):
    from optbench.sweep.spec import parse
    from optbench.sweep.trials import expand

    return expand(
        parse(
            f"dataset: digits\nepochs: {epochs}\nparameters: {{batch_size: 64, lr: 0.05}}\noptimizers:\n{text}",
            folder=folder,
        )
    )


def rows_of(trials, dataset):
    rows = [row for rows in engine.train(Stack(tuple(trials)), dataset, "cpu") for row in rows]
    return {(r["trial_id"], r["epoch"]): str({k: v for k, v in r.items() if k != "train_seconds"}) for r in rows}


def test_a_trial_is_the_same_alone_and_beside_others_and_disturbs_nobodys_random_numbers(folder, tiny):
    trials = trials_in(
        folder,
        "  noisy: {optimizer: './own.py:Noisy'}\n  adam:\n  alice: {optimizer: pytorch_optimizer.alice}\n"
        "  again: {optimizer: './own.py:Noisy'}\n  lbfgs: {max_iter: 2}\n  muon:\n  sam:\n",
    )
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    together = rows_of(trials, tiny)
    after = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    for trial in trials:
        alone = rows_of([trial], tiny)
        assert alone == {key: row for key, row in together.items() if key[0] == trial.trial_id}


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("Raises", "failed", "ValueError: five is too much"),
        (
            "Rebinds",
            "failed",
            "RuntimeError: Rebinds replaces the memory of its parameters instead of changing it in place",
        ),
        ("ReturnsNaN", "diverged", None),
        ("Decomposes", "diverged", None),
    ],
)
def test_a_bad_optimizer_ends_alone(name, status, words, folder, tiny):
    good = trials_in(folder, "  adam:\n  noisy: {optimizer: './own.py:Noisy'}\n")
    (bad,) = trials_in(folder, f"  bad: {{optimizer: './own.py:{name}'}}\n")
    undisturbed = rows_of(good, tiny)
    rows = [row for rows in engine.train(Stack((good[0], bad, good[1])), tiny, "cpu") for row in rows]
    last = [row for row in rows if row["trial_id"] == bad.trial_id][-1]
    assert (last["epoch"], last["status"]) == (2 if name == "Raises" else 1, status)
    if words is None:
        assert last["error"] is None
    else:
        assert last["error"].startswith("Traceback")
        assert last["error"].strip().splitlines()[-1] == words
    assert rows_of([good[0], bad, good[1]], tiny).items() >= undisturbed.items()


def test_evaluation_happens_at_the_weights_an_optimizer_shows_and_changes_nothing(folder, tiny):
    (counts,) = trials_in(folder, "  counts: {optimizer: './own.py:Counts'}\n", epochs=3)
    (plain,) = trials_in(folder, "  counts: {optimizer: 'torch.optim:SGD'}\n", epochs=3)
    shown, hidden = ([rows[0] for rows in engine.train(Stack((t,)), tiny, "cpu")] for t in (counts, plain))
    assert shown[0]["val_loss"] == hidden[0]["val_loss"]  # nothing to show before the first step
    assert [row["val_loss"] for row in shown[1:]] == pytest.approx([np.log(10)] * 3)  # all weights are 0

    seen = []
    step = LeafOptimizer.step
    for trial in (counts, plain):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                LeafOptimizer, "step", lambda self, loss, *rest: (seen.append(float(loss)), step(self, loss, *rest))
            )
            list(engine.train(Stack((trial,)), tiny, "cpu"))
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]


def test_to_raise_at_numbers_that_are_not_finite_is_to_diverge(folder):
    decomposes = find("./own.py:Decomposes", folder)(lr=1.0)
    nan_P = torch.full((1, PARAMETERS), float("nan"))
    for loss, expected in [(1.0, float("nan")), (float("nan"), 1.0)]:  # without a finite loss there is no step at all
        weights_TP = torch.ones(1, PARAMETERS)
        optimizer = StackedOptimizer(weights_TP, SHAPES, [decomposes], [0])
        for _ in range(2):
            optimizer.step(torch.tensor([loss]), nan_P.clone(), torch.ones(1, 1), [1.0], None)
        assert optimizer.failures == {}
        torch.testing.assert_close(weights_TP, torch.full_like(weights_TP, expected), equal_nan=True)


def test_an_optimizer_is_told_before_its_first_step_that_it_trains(folder, tiny):
    (insists,) = trials_in(folder, "  insists: {optimizer: './own.py:Insists'}\n")
    (plain,) = trials_in(folder, "  insists: {optimizer: 'torch.optim:SGD'}\n")
    shown, hidden = ([rows[0] for rows in engine.train(Stack((t,)), tiny, "cpu")] for t in (insists, plain))
    assert [row["status"] for row in shown] == ["running", "running", "finished"]
    assert [row["val_loss"] for row in shown] == [row["val_loss"] for row in hidden]


def test_a_closure_gives_the_same_gradient_again_whatever_was_done_to_it(folder):
    flat_P = torch.zeros(PARAMETERS)
    optimizer = LeafOptimizer(flat_P, SHAPES, find("./own.py:Clips", folder)(lr=1.0), seed=0)
    optimizer.step(torch.zeros(()), torch.full((PARAMETERS,), -1.0), 1.0, None)
    assert flat_P.tolist() == [0.5] * PARAMETERS


def test_leaves_move_with_a_stack_that_shrinks(folder, tiny):
    trials = trials_in(
        folder, "  one: {optimizer: './own.py:Noisy'}\n  adam:\n  two: {optimizer: 'torch.optim:Adam'}\n", epochs=3
    )
    undisturbed = rows_of(trials, tiny)
    training = engine.train(Stack(tuple(trials)), tiny, "cpu")
    rows = [*next(training), *training.send(None), *training.send(frozenset({trials[0].trial_id})), *next(training)]
    found = {(r["trial_id"], r["epoch"]): str({k: v for k, v in r.items() if k != "train_seconds"}) for r in rows}
    assert found.keys() == {key for key in undisturbed if key[0] != trials[0].trial_id or key[1] < 2}
    assert found.items() <= undisturbed.items()


@pytest.mark.parametrize(
    "name", ["adam", "sgd", "torch.optim:Adam", "muon", "sam", "lbfgs", "pytorch_optimizer.prodigy"]
)
def test_state_survives_a_checkpoint(name, problem, tmp_path):
    start_P, goal_P = problem
    hyperparameters = find(name, tmp_path)(lr=0.05)

    def steps(flat_TP, optimizer, n):
        for _ in range(n):
            loss, gradient_P = loss_and_gradient(flat_TP[0], goal_P)
            optimizer.step(
                loss[None], gradient_P[None], torch.full((1, 1), 0.05, dtype=torch.float64), [0.05],
                lambda t: loss_and_gradient(flat_TP[0], goal_P),
            )  # fmt: skip

    whole_TP, first_TP = start_P.clone()[None], start_P.clone()[None]
    whole, first = (StackedOptimizer(p, SHAPES, [hyperparameters], [0]) for p in (whole_TP, first_TP))
    steps(whole_TP, whole, 10)
    steps(first_TP, first, 5)
    second_TP = first_TP.clone()
    second = StackedOptimizer(second_TP, SHAPES, [hyperparameters], [0])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.costs() == first.costs()
    steps(second_TP, second, 5)
    assert torch.equal(second_TP, whole_TP)


# ---------------------------------------------------------------- what optimizers cost


def stepped(given, problem, n=5):
    """Optimizers of one stack after n steps, and how often each asked for another gradient."""
    start_P, goal_P = problem
    flat_TP, calls = start_P.repeat(len(given), 1), [0] * len(given)
    optimizer = StackedOptimizer(flat_TP, SHAPES, given, [0] * len(given))

    def again(t):
        calls[t] += 1
        return loss_and_gradient(flat_TP[t], goal_P)

    for _ in range(n):
        losses, gradients = zip(*(loss_and_gradient(flat_P, goal_P) for flat_P in flat_TP), strict=True)
        lr_T1 = torch.full((len(given), 1), 0.05, dtype=torch.float64)
        optimizer.step(torch.stack(losses), torch.stack(gradients), lr_T1, [0.05] * len(given), again)
    return optimizer, calls


def kept(optimizer, leaves):
    """The buffers of a genuine optimizer that are as large as its parameters, after a step."""
    sum(leaf.sum() for leaf in leaves).backward()
    optimizer.step()
    states = [(leaf, value) for leaf in leaves for value in optimizer.state[leaf].values()]
    numbers = [value.numel() for leaf, value in states if isinstance(value, torch.Tensor) and value.shape == leaf.shape]
    return sum(numbers) / PARAMETERS


def test_state_is_that_of_torch_and_not_that_of_neighbours(problem):
    """A stack has room for momentum as soon as one of its trials has any."""
    given = [
        ("sgd", {"momentum": 0.0}, 0),
        ("sgd", {"momentum": 0.9}, 1),
        ("adagrad", {}, 1),
        ("rmsprop", {}, 1),
        ("rmsprop", {"centered": True, "momentum": 0.9}, 3),
        ("adam", {"amsgrad": True}, 3),
        ("adam", {}, 2),
    ]
    classes = {"sgd": "SGD", "adagrad": "Adagrad", "rmsprop": "RMSprop", "adam": "Adam"}
    leaves = [nn.Parameter(part) for part in views(torch.ones(PARAMETERS))]
    optimizer, calls = stepped([OPTIMIZERS[name](lr=0.05, **more) for name, more, _ in given], problem)
    for (name, more, state), cost in zip(given, optimizer.costs(), strict=True):
        assert cost == (state, 1.0)
        assert kept(getattr(torch.optim, classes[name])(leaves, lr=0.05, **more), leaves) == state
    assert sum(calls) == 0


def test_gradients_are_those_that_an_optimizer_asked_for(folder, problem):
    names = ["torch.optim:Adam", "sam", "lbfgs", "./own.py:Clips"]
    optimizer, calls = stepped([find(name, folder)(lr=0.05) for name in names], problem)
    adam, sam, lbfgs, clips = costs = optimizer.costs()
    assert adam.state_per_parameter == pytest.approx(2 + len(SHAPES) / PARAMETERS)  # torch counts each tensor's steps
    assert [cost.gradients_per_step for cost in costs] == [1 + n / 5 for n in calls]
    assert (adam.gradients_per_step, sam.gradients_per_step, clips.gradients_per_step) == (1, 2, 1)
    assert (sam.state_per_parameter, clips.state_per_parameter) == (0, 0)
    (own,) = optimizer.state_dict()["singles"][2]["optimizers"]
    assert lbfgs.gradients_per_step == own["state"][0]["func_evals"] / 5 > 2  # by its own count
    assert lbfgs.state_per_parameter > 2  # up to 100 pairs of vectors
