"""Sweep files to start from: one that shows what a file may hold, and one that compares optimizers with baselines."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import yaml

from optbench import baselines
from optbench.errors import UserError
from optbench.optimizers import OPTIMIZERS, library
from optbench.sweep.document import Dumper, SweepError
from optbench.sweep.lookup import find
from optbench.sweep.settings import Settings
from optbench.sweep.spec import parse
from optbench.sweep.trials import expand

_COMPARED_WITH = ("adamw", "sgd")  # optimizers of the usual baseline
_REACH = 30  # from the usual learning rate to either end of the range: three decades, as wide for every optimizer
_COMMENTS = {
    "seeds": "of the search",
    "search": "learning rates of each optimizer",
    "confirm": "fresh seeds for the best of each; more tell smaller differences",
    "precision": "the same on every device",
}
_COMMENT_AT = 33  # columns
_AS_USUAL = (
    "All but 'optimizers' is as in the baseline {0}: while it stays so, 'optbench report --with {0}' adds others."
)
_AS_TRAINED = "All but 'optimizers' is as in {0}: with other settings the report does not show the two together."


def example() -> str:
    """A sweep that shows what a sweep file may hold."""
    return _text("starter.yaml")


def comparison(names: Sequence[str], path: Path, beside: str = "") -> str:
    """A sweep, to be written to `path`, that compares optimizers with those of a baseline, under its settings.

    `beside` is its name, or another folder of results; its optimizers are trained already, and not in the sweep.
    Without, AdamW and SGD are in it as they are in the usual baseline. The optimizers are named as in a sweep file in
    the current folder. Raises `UserError` for one that is not there, or that needs an argument without a default, and
    for results without settings that all their optimizers share.
    """
    usual, settings = _settings(baselines.USUAL), _settings(beside or baselines.USUAL)
    plain = [name.lower() if name.lower() in OPTIMIZERS else name for name in names]
    asked = _labelled(plain, {*OPTIMIZERS, *settings.optimizers})
    trained = [] if beside else [label for label in _COMPARED_WITH if label not in asked]
    against = f"what {beside} has trained" if beside else " and ".join(trained) or "each other"
    blocks = {label: _lines(label, name, path.parent) for label, name in asked.items() if name not in usual.optimizers}
    blocks |= {label: _pairs(usual.own(label)) for label in [*asked, *trained] if label not in blocks}
    text = Template(_text("comparison.yaml")).substitute(
        name=next(iter(asked)),
        path=path,
        ask=ask(beside),
        question=f"{', '.join(asked)} against {against}",
        settings_of=(_AS_TRAINED if beside else _AS_USUAL).format(beside or baselines.USUAL),
        shared="\n".join(_pairs(settings.shared())),
        parameters="\n".join(_pairs(settings.parameters(), "  ")),
        optimizers="\n".join("\n    ".join([f"  {label}:", *blocks[label]]) for label in [*asked, *trained]),
    )
    try:
        expand(parse(text, folder=path.parent))
    except SweepError as error:
        problems = dict.fromkeys(problem.message.partition(" (use 'exclude'")[0] for problem in error.problems)
        raise UserError(f"{'; '.join(problems)}; add it to a sweep that 'optbench init' writes without it") from None
    return text


def ask(beside: str = "") -> str:
    """The command that answers what a comparison asks."""
    labels = _settings(beside or baselines.USUAL).optimizers
    baseline = _COMPARED_WITH[0] if _COMPARED_WITH[0] in labels else labels[0]
    command = "optbench report --with {0} --baseline {1}" if beside else "optbench report --baseline {1}"
    return command.format(shlex.quote(beside), shlex.quote(baseline))


def _settings(baseline: str) -> Settings:
    return Settings(baselines.locate(baseline), baseline)


def _text(name: str) -> str:
    return (resources.files("optbench.sweep") / name).read_text(encoding="utf-8")


def _labelled(names: Sequence[str], taken: Collection[str]) -> dict[str, str]:
    """A label for each optimizer: its own name, or that of its class where no other is called so."""
    labelled: dict[str, str] = {}
    for name in dict.fromkeys(names):
        label = plain = name.rpartition(":")[2].rpartition(".")[2].lower()
        while label in labelled or (label in taken and name != label):  # a class may be called SGD, too
            label = f"{plain}-{len(labelled) + 2}"
        labelled[label] = name
    return labelled


def _lines(label: str, name: str, folder: Path) -> list[str]:
    """What the sweep file says about an optimizer that no baseline has."""
    usual, others = find(name, Path()).model_fields["lr"].default, library.advice(name.removeprefix(f"{library.NAME}."))
    why = f"around its default, {usual}"
    if not isinstance(usual, int | float) or usual <= 0:
        usual, why = 1e-3, "it has no default: move the range to where you expect the best"
    lines = [f"optimizer: {json.dumps(_from(folder, name))}"] if label != name else []
    lines.append(f"lr: {{min: {_short(usual / _REACH)}, max: {_short(usual * _REACH)}, log: true}}   # {why}")
    return lines + ([others] if others else [])


def _pairs(mapping: Mapping[str, Any], indent: str = "") -> list[str]:
    """Lines `key: value`, with comments where there is something to say."""
    lines = {key: f"{indent}{key}: {_in_line(value)}" for key, value in mapping.items()}
    return [f"{line:{_COMMENT_AT - 1}} # {_COMMENTS[key]}" if key in _COMMENTS else line for key, line in lines.items()]


class _InLine(Dumper):
    """Writes numbers as people do: 3e-5, not 3.0e-05."""


_InLine.add_representer(
    float, lambda dumper, x: dumper.represent_scalar("tag:yaml.org,2002:float", repr(x).replace("e-0", "e-"))
)


def _in_line(value: Any) -> str:
    """A value as YAML in one line."""
    text: str = yaml.dump(value, Dumper=_InLine, default_flow_style=True, sort_keys=False, width=math.inf)
    return text.removesuffix("...\n").rstrip("\n")


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
