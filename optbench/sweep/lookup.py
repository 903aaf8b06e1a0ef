"""The name of an optimizer in a sweep file → its hyperparameters."""

from __future__ import annotations

from pathlib import Path

from optbench.errors import UserError, did_you_mean
from optbench.optimizers import IMPOSSIBLE, OPTIMIZERS
from optbench.optimizers.hyperparameters import Hyperparameters
from optbench.sweep.axes import PARAMETERS

# What an optimizer's block in a sweep file has besides hyperparameters.
RESERVED = frozenset({"optimizer", "num_samples", *PARAMETERS})


def find(name: str, folder: Path) -> type[Hyperparameters]:
    """The optimizer of a name, in capitals or not; one from elsewhere is imported, a file looked for in `folder`.

    Raises `UserError`.
    """
    if name.lower() in OPTIMIZERS:  # torch's class names are in capitals
        return OPTIMIZERS[name.lower()]
    if name.lower() in IMPOSSIBLE:
        raise UserError(f"{name} cannot train here: {IMPOSSIBLE[name.lower()]}")
    if name.endswith(".py"):
        raise UserError(f"{name}: say which class of the file, '{name}:MyOptimizer'")
    if ":" in name or name.startswith("pytorch_optimizer."):
        from optbench.optimizers.foreign import find_foreign  # imports torch, so only where it is needed

        return find_foreign(name, folder.resolve(), RESERVED)
    raise UserError(f"unknown optimizer '{name}'; {did_you_mean(name, OPTIMIZERS)}")
