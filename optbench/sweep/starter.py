"""Sweep files to start from: one that shows what a file may hold, and one that compares optimizers with baselines."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

from optbench.errors import UserError
from optbench.optimizers import OPTIMIZERS, library
from optbench.sweep.document import SweepError
from optbench.sweep.lookup import find
from optbench.sweep.spec import parse
from optbench.sweep.trials import expand

# What optimizers are compared with: a usual learning rate, and other hyperparameters.
BASELINES = {"adamw": (1e-3, ""), "sgd": (0.03, "momentum: 0.9")}
_REACH = 30  # from the usual learning rate to either end of the range: three decades, as wide for every optimizer


def example() -> str:
    """A sweep that shows what a sweep file may hold."""
    return _text("starter.yaml")


def comparison(names: Sequence[str], path: Path) -> str:
    """A sweep, to be written to `path`, that compares these optimizers with `BASELINES`.

    They are named as in a sweep file in the current folder. Raises `UserError` for one that is not there, or that needs
    an argument without a default.
    """
    asked = _labelled([name.lower() if name.lower() in OPTIMIZERS else name for name in names])
    baselines = {name: name for name in BASELINES if name not in asked}
    text = Template(_text("comparison.yaml")).substitute(
        name=next(iter(asked)),
        path=path,
        question=f"{', '.join(asked)} against {' and '.join(baselines) or 'each other'}",
        optimizers="\n".join(_block(label, name, path.parent) for label, name in (asked | baselines).items()),
    )
    try:
        expand(parse(text, folder=path.parent))
    except SweepError as error:
        problems = dict.fromkeys(problem.message.partition(" (use 'exclude'")[0] for problem in error.problems)
        raise UserError(f"{'; '.join(problems)}; add it to a sweep that 'optbench init' writes without it") from None
    return text


def _text(name: str) -> str:
    return (resources.files("optbench.sweep") / name).read_text(encoding="utf-8")


def _labelled(names: Sequence[str]) -> dict[str, str]:
    """A label for each optimizer: its own name, or that of its class."""
    labelled: dict[str, str] = {}
    for name in dict.fromkeys(names):
        label = plain = name.rpartition(":")[2].rpartition(".")[2].lower()
        while label in labelled or (label in OPTIMIZERS and name != label):  # a class may be called SGD, too
            label = f"{plain}-{len(labelled) + 2}"
        labelled[label] = name
    return labelled


def _block(label: str, name: str, folder: Path) -> str:
    """What the sweep file says about an optimizer."""
    default = find(name, Path()).model_fields["lr"].default
    usual, others = BASELINES.get(name, (default, library.advice(name.removeprefix(f"{library.NAME}."))))
    why = f"around {'' if name in BASELINES else 'its default, '}{usual}"
    if not isinstance(usual, int | float) or usual <= 0:
        usual, why = 1e-3, "it has no default: move the range to where you expect the best"
    lines = [f"optimizer: {json.dumps(_from(folder, name))}"] if label != name else []
    lines.append(f"lr: {{min: {_short(usual / _REACH)}, max: {_short(usual * _REACH)}, log: true}}   # {why}")
    lines += [others] if others else []
    return "\n    ".join([f"  {label}:", *lines])


def _from(folder: Path, name: str) -> str:
    """The name of an optimizer, as a sweep file in the folder says it."""
    path, _, class_name = name.rpartition(":")
    if not path.endswith(".py"):
        return name
    relative = Path(os.path.relpath(path, folder)).as_posix()
    return f"{relative if relative.startswith('.') else f'./{relative}'}:{class_name}"


def _short(value: float) -> str:
    """A number with one digit, as people write it in YAML: 3e-5, 0.3."""
    return f"{value:.1g}".replace("e-0", "e-")
