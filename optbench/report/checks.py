"""What was checked and measured outside sweeps: whether an optimizer works, and how fast stacks train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from optbench.bench import Benchmark
from optbench.optimizers.hyperparameters import Hyperparameters
from optbench.report.catalogue import as_yaml
from optbench.report.formats import print_table
from optbench.report.tables import Column, Table
from optbench.training.check import Finding
from optbench.training.check_data import SPLITS, CheckedData

# What a verdict says where nothing is wrong, and where something is.
_IT = ("It works here", "It does not work here")
_DATA = ("They can be trained on", "Something is wrong with them")


def _verdict(findings: Sequence[Finding], words: tuple[str, str]) -> str:
    """Whether what was checked works here, in a sentence."""
    right, wrong = words
    failed = [finding.check for finding in findings if not finding.ok]
    if failed:
        return f"{wrong} ({', '.join(failed)})."
    reservations = [finding.but for finding in findings if finding.but]
    return f"{right}, but {', and '.join(reservations)}." if reservations else f"{right}."


def content(hyperparameters: Hyperparameters, findings: Sequence[Finding]) -> dict[str, Any]:
    """What a check found, as JSON has it."""
    kind = type(hyperparameters)
    return {
        "optimizer": kind.algorithm,
        "provider": kind.provider,
        "stacked": kind.stacked,
        "hyperparameters": hyperparameters.model_dump(mode="json"),
        **_judged(findings),
    }


def content_of_model(model: str, dataset: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """What a check of a network found, as JSON has it."""
    return {"model": model, "dataset": dataset, **_judged(findings)}


def content_of_data(checked: CheckedData) -> dict[str, Any]:
    """What a check of data found, as JSON has it."""
    info = checked.dataset.info
    return {
        "dataset": checked.dataset.name,
        "splits": info.splits,
        "image": info.image,
        "classes": checked.balance.to_dict("records"),
        **_judged(checked.findings, _DATA),
    }


def _judged(findings: Sequence[Finding], words: tuple[str, str] = _IT) -> dict[str, Any]:
    return {
        "works": all(finding.ok for finding in findings),
        "verdict": _verdict(findings, words),
        "findings": [asdict(finding) for finding in findings],
    }


def about(hyperparameters: Hyperparameters) -> tuple[str, str]:
    """What kind of optimizer was checked, and with which arguments."""
    kind = type(hyperparameters)
    stacked = "a stacked rule" if kind.stacked else "an object for each trial"
    arguments = ", ".join(f"{name}={as_yaml(value)}" for name, value in hyperparameters.model_dump().items())
    return f"{kind.algorithm}: from {kind.provider}, {stacked}", f"with {arguments}"


def print_findings(heading: Sequence[str], findings: Sequence[Finding], console: Console) -> None:
    """What a check of an optimizer or a network found, and the verdict."""
    first, *others = heading
    console.print(Text(first, style="bold"))
    for line in others:
        console.print(Text(line))
    _print(findings, _IT, console)


def print_data(checked: CheckedData, console: Console) -> None:
    """The classes of data, what a check found, and the verdict."""
    columns = (Column("name", "class"), *(Column(split, words, "count") for split, words in SPLITS.items()))
    print_table(Table(checked.dataset.name, "", columns, checked.balance), console)
    _print(checked.findings, _DATA, console)


def _print(findings: Sequence[Finding], words: tuple[str, str], console: Console) -> None:
    for finding in findings:
        word, colour = ("no", "red") if not finding.ok else ("but", "yellow") if finding.but else ("ok", "green")
        console.print(Text(f"{word:3}", style=colour) + Text(f" {finding.check}: {finding.seen}"), soft_wrap=True)
    console.print(Text(_verdict(findings, words), style="bold"))


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
        f"{how}. ms: for a step of one trial, the device's time divided among all that train. Bounds are the least "
        f"that it could take: for memory, its fewest bytes at the measured copy bandwidth, "
        f"{benchmark.bandwidth / 1e9:,.1f} GB/s; for arithmetic, its operations at {max(rates):,.0f} GFLOP/s, the "
        f"better of matrix products ({rates[0]:,.0f}) and convolutions ({rates[1]:,.0f}), as measured."
    )
    if any(max(m.throughput) > _UNSTEADY * min(m.throughput) for m in benchmark.measurements):
        caption += (
            " The spread is wide: if something else was running, it slowed the loop most, since its threads wait for "
        )
        caption += "one another; measure again."
    return Table(f"Training throughput, {benchmark.device}", caption, columns, pd.DataFrame(rows))


def _spread(values: Sequence[float], unit: float = 1.0) -> str:
    """Median (minimum–maximum), with at least three digits."""
    middle, low, high = (value / unit for value in (median(values), min(values), max(values)))
    digits = 2 if middle < 10 else 1 if middle < 100 else 0
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"
