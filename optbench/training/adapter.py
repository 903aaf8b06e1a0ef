"""One genuine `torch.optim.Optimizer` on one trial's part of the stacked parameters, where there is no stacked rule.

Shape suffix: P parameters of one trial (all its tensors, flattened and concatenated).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from optbench.machine.randomness import seeded
from optbench.optimizers import LBFGS, SAM, Adafactor, Muon
from optbench.optimizers.foreign import Foreign, in_groups
from optbench.optimizers.hyperparameters import Hyperparameters

Shape = tuple[int, ...]
LossAndGradient = Callable[[], tuple[Tensor, Tensor]]


class Cost(NamedTuple):
    """What a trial's optimizer keeps and asks for, None where that is not known: columns of the rows."""

    state_per_parameter: float | None
    gradients_per_step: float | None


class LeafOptimizer:
    """Steps one trial. The caller catches whatever the optimizer raises.

    Its parameters are leaves that share the memory of `flat_P`, a row of the stacked parameters. Random numbers that it
    draws depend only on `seed`, not on its neighbours.
    """

    def __init__(
        self,
        flat_P: Tensor,
        shapes: Sequence[Shape],
        hyperparameters: Hyperparameters,
        seed: int,
        weight_decay_on: str = "all",
    ) -> None:
        if isinstance(hyperparameters, Muon):  # takes only two dimensions
            shapes = [(shape[0], math.prod(shape[1:])) if len(shape) > 1 else shape for shape in shapes]
        self._shapes, self._seed, self._steps, self._gradients = shapes, seed, 0, 0
        self._leaves = [nn.Parameter(view) for view in self._views(flat_P)]
        self._attach(flat_P)
        with self._own_randomness():
            self._optimizers = construct(hyperparameters, self._leaves, weight_decay_on)
        self._switching = [optimizer for optimizer in self._optimizers if hasattr(optimizer, "train")]
        self._trained_P = flat_P.clone() if self._switching else flat_P
        self.set_training(True)  # some insist on it before their first step
        # Groups may start at other rates than lr (biases, Muon's rest): a schedule scales them all by the same factor.
        self._base_lr = self._lr = hyperparameters.lr
        self._groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        self._group_lrs = [group.get("lr") for group in self._groups]

    def _views(self, flat_P: Tensor) -> list[Tensor]:
        parts = flat_P.split([math.prod(shape) for shape in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _attach(self, flat_P: Tensor) -> None:
        self._flat_P = flat_P
        self._addresses = [view.data_ptr() for view in self._views(flat_P)]

    def move(self, flat_P: Tensor) -> None:
        """Go on with the same weights at another place in memory."""
        for leaf, view in zip(self._leaves, self._views(flat_P), strict=True):
            leaf.data = view
        self._attach(flat_P)

    def step(self, loss: Tensor, gradient_P: Tensor, lr: float, again: LossAndGradient) -> None:
        """One update at learning rate `lr`.

        `again` computes loss and gradient at the weights of that moment, for optimizers that call their closure.
        """
        if lr != self._lr:  # while the schedule is constant, an optimizer may change its own lr
            self._lr = lr
            for group, base in zip(self._groups, self._group_lrs, strict=True):
                if base is not None and isinstance(group["lr"], Tensor):
                    group["lr"].fill_(base / self._base_lr * lr)
                elif base is not None:
                    group["lr"] = base / self._base_lr * lr
        if gradient_P.is_cuda:  # a recorded step will write its next results to the same place
            loss, gradient_P = loss.clone(), gradient_P.clone()
        before_P = self._flat_P.clone()
        known_P = gradient_P.clone()

        def closure() -> Tensor:  # a step may change the gradient that it is given
            here = torch.equal(self._flat_P, before_P)
            self._gradients += not here
            loss_here, gradient_P = (loss, known_P.clone()) if here else again()
            self._set_gradient(gradient_P)
            return loss_here

        self._set_gradient(gradient_P)
        self._steps += 1
        self._gradients += 1
        with self._own_randomness():
            for optimizer in self._optimizers:
                optimizer.step(closure)  # type: ignore[arg-type]
        if [leaf.data_ptr() for leaf in self._leaves] != self._addresses:
            name = type(self._optimizers[0]).__name__
            raise RuntimeError(f"{name} replaces the memory of its parameters instead of changing it in place")

    def _set_gradient(self, gradient_P: Tensor) -> None:
        for leaf, gradient in zip(self._leaves, self._views(gradient_P), strict=True):
            leaf.grad = gradient

    def _own_randomness(self) -> AbstractContextManager[None]:
        """Random numbers that follow from this trial's seed and step."""
        return seeded(f"{self._seed} {self._steps}", self._flat_P.device)

    def set_training(self, training: bool) -> None:
        """Tell optimizers that evaluate at other weights than they train (schedule-free ones) which ones to show."""
        if not self._switching or (self._steps == 0 and not training):
            return
        if not training:
            self._trained_P = self._flat_P.clone()
        for optimizer in self._switching:
            optimizer.train() if training else optimizer.eval()  # type: ignore[attr-defined]
        if training:  # switching there and back rounds
            self._flat_P.copy_(self._trained_P)

    def state_dict(self) -> dict[str, Any]:
        own = [optimizer.state_dict() for optimizer in self._optimizers]
        return {"steps": self._steps, "gradients": self._gradients, "lr": self._lr, "optimizers": own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps, self._gradients, self._lr = state["steps"], state["gradients"], state["lr"]
        for optimizer, own in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(own)
        self._groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def cost(self) -> Cost:
        """Its state now, and the gradients of its steps so far; the same one again does not count."""
        numbers = sum(_numbers(optimizer.state.values()) for optimizer in self._optimizers)
        return Cost(numbers / self._flat_P.numel(), self._gradients / self._steps if self._steps else None)


def _numbers(state: Any) -> int:
    if isinstance(state, Tensor):
        return state.numel()
    if isinstance(state, dict):
        return _numbers(state.values())
    return sum(map(_numbers, state)) if isinstance(state, Iterable) and not isinstance(state, str) else 0


def construct(
    hyperparameters: Hyperparameters, leaves: list[nn.Parameter], weight_decay_on: str = "all"
) -> list[torch.optim.Optimizer]:
    """The optimizer objects for a trial's parameters; more than one where they differ by kind of parameter."""
    has_decay = "weight_decay" in type(hyperparameters).model_fields
    of_rest = {"weight_decay": 0.0} if weight_decay_on == "weights" and has_decay else {}
    groups: Any = in_groups(leaves, {}, of_rest) if of_rest else leaves
    match hyperparameters:
        case Foreign():
            return [hyperparameters.make(leaves, of_rest)]
        case Adafactor():
            return [torch.optim.Adafactor(groups, **hyperparameters.model_dump())]
        case LBFGS():
            return [torch.optim.LBFGS(leaves, **hyperparameters.model_dump())]
        case Muon():
            return _muon(hyperparameters, leaves, of_rest)
        case SAM():
            return [_SharpnessAware(groups, hyperparameters)]
    raise TypeError(f"{hyperparameters.algorithm} is a stacked rule")


def _muon(hyperparameters: Muon, leaves: list[nn.Parameter], of_rest: dict[str, float]) -> list[torch.optim.Optimizer]:
    own = hyperparameters.model_dump(exclude={"adamw_lr"})
    matrices = [leaf for leaf in leaves if leaf.ndim == 2]
    rest = [leaf for leaf in leaves if leaf.ndim != 2]
    weight_decay = of_rest.get("weight_decay", hyperparameters.weight_decay)
    return [
        torch.optim.Muon(matrices, **own),
        torch.optim.AdamW(rest, lr=hyperparameters.adamw_lr, weight_decay=weight_decay),
    ]


class _SharpnessAware(torch.optim.Optimizer):
    """SGD at the gradient of the worst point near by (Foret et al., 2021; `adaptive`: Kwon et al., 2021).

    The worst point within rho is w + rho · g / |g|; the adaptive one, w + rho · w² · g / |w · g|, does not change when
    a layer is scaled up and the next one down.
    """

    def __init__(self, groups: Any, hyperparameters: SAM) -> None:
        self._rho, self._adaptive = hyperparameters.rho, hyperparameters.adaptive
        self._base = torch.optim.SGD(groups, **hyperparameters.model_dump(exclude={"rho", "adaptive"}))
        super().__init__(groups, self._base.defaults)
        self._share()

    def _share(self) -> None:
        self.param_groups, self.state = self._base.param_groups, self._base.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._base.load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        leaves = [leaf for group in self.param_groups for leaf in group["params"]]
        here = [leaf.clone() for leaf in leaves]
        uphill = [leaf.abs() * leaf.grad if self._adaptive else leaf.grad for leaf in leaves]
        scale = self._rho / (torch.cat([part.flatten() for part in uphill]).norm() + 1e-12)
        for leaf, part in zip(leaves, uphill, strict=True):
            leaf.add_(leaf.abs() * part * scale if self._adaptive else part * scale)
        with torch.enable_grad():
            loss = closure()
        for leaf, weights in zip(leaves, here, strict=True):
            leaf.copy_(weights)
        self._base.step()
        return loss
