"""Tables of what is no result of a sweep: what a file may name, what a check found, how fast training is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import pandas as pd
from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from optbench.bench import Benchmark
from optbench.check import Finding
from optbench.datasets import DATASETS, locate
from optbench.errors import UserError
from optbench.hyperparameters import Hyperparameters
from optbench.networks import NETWORKS, architecture
from optbench.optimizers import OPTIMIZERS, library
from optbench.optimizers.lookup import find
from optbench.report.tables import Column, Table
from optbench.schedules import SCHEDULES


def _parameters(model: type[BaseModel]) -> str:
    shown = []
    for name, field in model.model_fields.items():
        default = field.default
        if name == "name" or (name == "warmup_steps" and default == 0):  # what every schedule has
            continue
        if field.is_required():
            shown.append(f"{name} (required)")
        else:
            shown.append(f"{name}={_shown(default)}")
    return ", ".join(shown) or "–"


def _table(title: str, caption: str, columns: dict[str, list[object]]) -> Table:
    """The first column is the name, numbers are counts, all else may fold."""
    name, *others = columns
    kinds = {other: "count" if isinstance(columns[other][0], int) else "prose" for other in others}
    shown = (Column(name, name), *(Column(other, other, kind) for other, kind in kinds.items()))
    return Table(title, caption, shown, pd.DataFrame(columns))


def optimizers() -> list[Table]:
    own = _table(
        "Optimizers",
        "Hyperparameters have torch's names and defaults. Stacked: many trials take their step at once; others run as "
        "they are, one object for each trial. A list is a grid axis: one pair of betas is [[0.9, 0.999]]. Any other "
        "torch.optim.Optimizer is package.module:Class or ./file.py:Class; 'optbench check-optimizer' tries it.",
        {
            "optimizer": list(OPTIMIZERS),
            "provider": [model.provider for model in OPTIMIZERS.values()],
            "stacked": ["yes" if model.stacked else "no" for model in OPTIMIZERS.values()],
            "hyperparameters": [_parameters(model) for model in OPTIMIZERS.values()],
        },
    )
    return [own, _library()]


def _library() -> Table:
    """The tested optimizers of the library, with their hyperparameters if it is installed."""
    caption = f"Write {library.NAME}.NAME. None is stacked. "
    try:
        shown = [_parameters(find(f"{library.NAME}.{name}", Path())) for name in library.TESTED]
    except UserError as error:
        shown = ["–"] * len(library.TESTED)
        caption += f"{error}. "
    notes = []
    for name in library.TESTED:
        advice = f"set {library.advice(name)}" if name in library.WITH else None
        notes.append("; ".join(note for note in (advice, library.LICENCES.get(name)) if note))
    caption += "The others cannot train here; a sweep file that names one is told why."
    columns: dict[str, list[object]] = {
        "optimizer": list(library.TESTED),
        "hyperparameters": [f"{note}; {text}" if note else text for note, text in zip(notes, shown, strict=True)],
    }
    return _table(f"Optimizers from {library.NAME} that work here", caption, columns)


def print_findings(hyperparameters: Hyperparameters, findings: Sequence[Finding], console: Console) -> None:
    """What a check found out, and the verdict."""
    kind = type(hyperparameters)
    stacked = "a stacked rule" if kind.stacked else "an object for each trial"
    console.print(Text(f"{kind.algorithm}: from {kind.provider}, {stacked}", style="bold"))
    arguments = ", ".join(f"{name}={_shown(value)}" for name, value in hyperparameters.model_dump().items())
    console.print(Text(f"with {arguments}"))
    for finding in findings:
        mark = Text("ok " if finding.ok else "no ", style="green" if finding.ok else "red")
        console.print(mark + Text(f" {finding.check}: {finding.seen}", style=""), soft_wrap=True)
    wrong = [finding.check for finding in findings if not finding.ok]
    console.print(Text(f"It does not work here ({', '.join(wrong)})." if wrong else "It works here.", style="bold"))


def _shown(value: object) -> str:
    """A value as a sweep file writes it."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_shown, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def schedules() -> list[Table]:
    table = _table(
        "Learning-rate schedules",
        "Write a schedule as its name, or with parameters as {name: step, step_size: 3, gamma: 0.3}. Each takes "
        "warmup_steps, over which lr first rises from 0; below 1 it is a share of all steps.",
        {
            "schedule": list(SCHEDULES),
            "parameters": [_parameters(model) for model in SCHEDULES.values()],
            "learning rate": [" ".join((model.__doc__ or "").split()) for model in SCHEDULES.values()],
        },
    )
    return [table]


def networks() -> list[Table]:
    of = DATASETS["mnist"]
    table = _table(
        "Networks",
        "Write one under 'model'. The trial's activation follows every layer with weights but the last. Parameters are "
        f"counted for images of {of.image[1]} × {of.image[2]} and {of.classes} classes.",
        {
            "model": list(NETWORKS),
            "parameters": [architecture(name, of.image, of.classes).size for name in NETWORKS],
            "layers": [(layers.__doc__ or "").rstrip(".") for layers in NETWORKS.values()],
        },
    )
    return [table]


def datasets() -> list[Table]:
    table = _table(
        "Datasets",
        "Missing ones are downloaded by 'optbench run'. Train accuracy is measured on a slice of the training set as "
        "large as the validation set.",
        {
            "dataset": list(DATASETS),
            "train": [info.train for info in DATASETS.values()],
            "validation": [info.val for info in DATASETS.values()],
            "test": [info.test for info in DATASETS.values()],
            "here": [
                str(locate(name, None) or "not yet") if info.files else "with optbench"
                for name, info in DATASETS.items()
            ],
            "licence": [info.licence for info in DATASETS.values()],
        },
    )
    return [table]


_UNSTEADY = 1.5  # the fastest repeat against the slowest


def throughput(benchmark: Benchmark) -> Table:
    """How fast stacks train, beside the sequential loop and what the device can do."""
    rows = []
    for measurement in benchmark.measurements:
        bounds, step_seconds = benchmark.bounds(measurement), measurement.step_seconds
        rows.append(
            {
                "label": f"{measurement.trials or 'loop'} × {measurement.batch_size}",
                "throughput": _spread(measurement.throughput, 1e3),
                "ratio": _spread(measurement.ratios),
                "memory_share": f"{100 * bounds[0] / step_seconds:.1f}",
                "arithmetic_share": f"{100 * bounds[1] / step_seconds:.1f}",
                "step": f"{1e3 * step_seconds:.3g}",
            }
        )
    columns = (
        Column("label", "trials × batch size"),
        Column("throughput", "thousand images × trials per second", "count"),
        Column("ratio", "ratio to loop", "count"),
        Column("memory_share", "memory bound %", "count"),
        Column("arithmetic_share", "arithmetic bound %", "count"),
        Column("step", "ms per step", "count"),
    )
    how = "loop: a sequential PyTorch loop"
    if benchmark.workers:
        processes = "process trains a stack" if benchmark.workers == 1 else "processes train a stack each"
        threads = f"{benchmark.threads} thread{'s' * (benchmark.threads != 1)}"
        how = f"{benchmark.workers} single-threaded {processes}; {how}, {threads}"
    rates = [max(values) / 1e9 for values in (benchmark.matmul_rates, benchmark.convolution_rates)]
    caption = (
        f"cnn with Adam, {benchmark.precision}, evaluation excluded; median (minimum–maximum) of {benchmark.repeats}, "
        "in alternation. "
        f"{how}. ms: for a step of one trial, the device's time divided among all that train. Bounds are what it would "
        f"take at least: of memory, for its fewest bytes at the measured copy bandwidth, "
        f"{benchmark.bandwidth / 1e9:,.1f} GB/s; of arithmetic, for its operations at {max(rates):,.0f} GFLOP/s, the "
        f"better of matrix products ({rates[0]:,.0f}) and convolutions ({rates[1]:,.0f}), as measured."
    )
    if any(max(m.throughput) > _UNSTEADY * min(m.throughput) for m in benchmark.measurements):
        caption += (
            " The spread is wide: if something else was running, it slowed the loop most, whose threads wait for "
        )
        caption += "one another; measure again."
    return Table(f"Training throughput, {benchmark.device}", caption, columns, pd.DataFrame(rows))


def _spread(values: Sequence[float], unit: float = 1.0) -> str:
    """Median (minimum–maximum), three digits at least."""
    middle, low, high = (value / unit for value in (median(values), min(values), max(values)))
    digits = 2 if middle < 10 else 1 if middle < 100 else 0
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


LISTINGS: dict[str, Callable[[], list[Table]]] = {
    "optimizers": optimizers,
    "networks": networks,
    "schedules": schedules,
    "datasets": datasets,
}
