"""Training throughput of optbench and its peers, side by side on one device.

    python3 experiments/peers/compare.py --device cuda --trials 64,128 --epochs 10 --budget 3
    python3 experiments/peers/compare.py --quick --output /tmp/peers

Every contestant trains the same network on the same data: Adam, dropout 0.25, equal batch size and precision, and
after every epoch loss and accuracy on the train-eval slice, validation and test. Runs are interleaved A B C A B C …,
each in a process of its own. The clock covers only training, in steady state, with the device synchronised; set-up
(start of the process, data, compiling, capture, warm-up) and evaluation are timed separately. What is measured is
images × trials per second; trial-epochs per second are that divided by the images of an epoch, and "with evaluation"
adds the measured seconds of one evaluation to each. Ratios are taken pair by pair, within each round.

Contestants that train trials one after another have one figure, whatever T is; those that train T at once have one for
each T of --trials, and with --seeds own,shared those that gain from a shared seed have one for each of the two.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch import CONTESTANTS, ROOT, end_contestants_with_this_process, run_contestant, unavailable

QUICK = {"dataset": "digits", "device": "cpu", "trials": [2], "epochs": 1, "repeats": 1, "budget": None}
RUN_LIMIT = 180.0  # seconds after which a run with a budget is given up
_NOT_MEASURED = {"reason": "not measured: no time was left", "printed": []}
_RUN_SECONDS = ("setup_seconds", "images", "train_seconds", "evaluated_images", "evaluation_seconds", "notes")


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments that all drivers share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contestants", help=f"some of {','.join(CONTESTANTS)}; default: all")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir", help="folder that has the dataset; default: $OPTBENCH_DATA, or the user's cache")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where torch sees a device")
    parser.add_argument("--epochs", type=int, default=3, help="of each trial")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", choices=["fp32", "tf32"], default="fp32")
    parser.add_argument("--limit", type=float, help="seconds after which no further run begins")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "throughput", help="folder for the results")
    parser.add_argument("--quick", action="store_true", help="two trials on digits on the CPU, to see that it works")
    return parser


def complete(given: argparse.Namespace, quick: dict[str, Any]) -> list[str]:
    """Fill in what depends on other arguments; returns the contestants, in order."""
    if given.quick:
        vars(given).update(quick)
    if given.device is None:
        import torch

        given.device = "cuda" if torch.cuda.is_available() else "cpu"
    if given.device == "cpu" and given.precision != "fp32":
        sys.exit("a CPU trains in fp32")
    names = sorted(given.contestants.split(","), key="optbench".__ne__) if given.contestants else list(CONTESTANTS)
    unknown = [name for name in names if name not in CONTESTANTS]
    if unknown:
        sys.exit(f"unknown contestants: {', '.join(unknown)}; valid: {', '.join(CONTESTANTS)}")
    sys.path.insert(0, str(ROOT))
    from optbench.data.datasets import ensure
    from optbench.errors import UserError

    try:
        ensure(given.dataset, Path(given.data_dir) if given.data_dir else None)
    except UserError as error:
        sys.exit(str(error))
    return names


def settings_of(given: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `workload.Settings` that a user chooses."""
    names = ("dataset", "data_dir", "device", "trials", "epochs", "batch_size", "precision", "budget")
    return {name: getattr(given, name) for name in names}


def recorded(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as a result file has them: without the folder of the data."""
    return {name: value for name, value in settings.items() if name != "data_dir"}


def write(path: Path, text: str) -> None:
    """Replace a file as a whole, so that a run cut short leaves the last complete one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, minimum and maximum, and the values themselves."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": list(values)}


def rates(run: dict[str, Any], images_per_epoch: int) -> dict[str, float]:
    """What follows from the seconds and images of one run."""
    images_per_second = run["images"] / run["train_seconds"]
    evaluation = sum(run["evaluation_images_per_trial"]) / (run["evaluated_images"] / run["evaluation_seconds"])
    return {
        "images_per_second": images_per_second,
        "trial_epochs_per_second": images_per_second / images_per_epoch,
        "with_evaluation": 1 / (images_per_epoch / images_per_second + evaluation),
    }


@dataclass(frozen=True)
class Entry:
    """A contestant with what its speed depends on besides the settings that are equal for all."""

    contestant: str
    trials: int
    has_shared_seed: bool

    @property
    def label(self) -> str:
        """Its name in files and tables."""
        contestant = CONTESTANTS[self.contestant]
        seeds = ", one seed" if self.has_shared_seed else ""
        return f"{self.contestant}, T = {self.trials}{seeds}" if contestant.is_stacked else self.contestant


def entries(names: Iterable[str], trials: Sequence[int], seeds: Sequence[str]) -> list[Entry]:
    """What is measured of these contestants, in their order."""
    return [
        Entry(name, n, kind == "shared")
        for name in names
        for n in (trials if CONTESTANTS[name].is_stacked else [max(trials)])
        for kind in (seeds if CONTESTANTS[name].can_share else ["own"])
    ]


def summarise(runs: Mapping[Entry, Mapping[int, dict[str, Any]]], images_per_epoch: int) -> dict[Entry, dict[str, Any]]:
    """The figures of each entry that has a run; `runs`: entry → round → run.

    `ratio` and `ratio_with_evaluation` are of each entry of optbench, by its label, to this one.
    """
    derived = {
        entry: {i: rates(run, images_per_epoch) for i, run in by_round.items()} for entry, by_round in runs.items()
    }
    references = [entry for entry in runs if entry.contestant == "optbench"]
    summary: dict[Entry, dict[str, Any]] = {}
    for entry, by_round in derived.items():
        if not by_round:
            continue
        figures = {key: spread([r[key] for r in by_round.values()]) for key in next(iter(by_round.values()))}
        figures["setup_seconds"] = spread([run["setup_seconds"] for run in runs[entry].values()])
        if entry not in references:
            for key, rate in (("ratio", "images_per_second"), ("ratio_with_evaluation", "with_evaluation")):
                pairs = {
                    reference.label: [
                        derived[reference][i][rate] / r[rate] for i, r in by_round.items() if i in derived[reference]
                    ]
                    for reference in references
                }
                figures[key] = {label: spread(values) for label, values in pairs.items() if values}
        summary[entry] = figures
    return summary


def heading(report: dict[str, Any], what: str) -> str:
    """The device, the version of torch and the workload; `what` is the part that only this report has."""
    settings, environment = report["settings"], report["environment"]
    return (
        f"{environment.get('device', settings['device'])}, torch {environment.get('torch')}, {settings['dataset']}, "
        f"{what}, batch {settings['batch_size']}, {settings['precision']}, {report['date']}"
    )


def table(report: dict[str, Any]) -> str:
    """The report as markdown."""
    measured = {label: entry for label, entry in report["contestants"].items() if "images_per_second" in entry}
    references = [label for label, entry in measured.items() if entry["contestant"] == "optbench"]
    headings = [
        "contestant",
        "images × trials per second: median (min to max)",
        "trial-epochs per second",
        "with evaluation",
        "set-up s",
        "runs",
        *(f"{label} / contestant (min to max)" for label in references),
    ]
    lines = [
        heading(report, f"T = {', '.join(map(str, report['settings']['trials']))}"),
        "",
        f"| {' | '.join(headings)} |",
        f"|---|{'--:|' * (len(headings) - 1)}",
        *(_row(label, entry, references) for label, entry in measured.items()),
    ]
    missing = [
        f"- {_title(label, entry)}: {failure['reason']}"
        for label, entry in report["contestants"].items()
        for failure in entry["failures"]
    ]
    if missing:
        lines += ["", "Did not run:", "", *missing]
    return "\n".join(lines) + "\n"


def _title(label: str, entry: dict[str, Any]) -> str:
    return f"`{label}`: {CONTESTANTS[entry['contestant']].title}"


def _row(label: str, entry: dict[str, Any], references: Iterable[str]) -> str:
    rate, ratios = entry["images_per_second"], entry.get("ratio", {})
    cells = [
        _title(label, entry),
        f"{rate['median']:,.0f} ({rate['min']:,.0f} to {rate['max']:,.0f})",
        f"{entry['trial_epochs_per_second']['median']:.4g}",
        f"{entry['with_evaluation']['median']:.4g}",
        f"{entry['setup_seconds']['median']:.1f}",
        str(len(rate["values"])),
        *(
            f"{ratios[name]['median']:.2f} ({ratios[name]['min']:.2f} to {ratios[name]['max']:.2f})"
            if name in ratios
            else "–"
            for name in references
        ),
    ]
    return f"| {' | '.join(cells)} |"


def run_of(outcome: dict[str, Any], evaluation_images_per_trial: Sequence[int]) -> dict[str, Any]:
    """A run as the report has it."""
    result = outcome["result"]
    return {
        **{key: result[key] for key in _RUN_SECONDS},
        "evaluation_images_per_trial": list(evaluation_images_per_trial),
        "val_accuracy": [accuracy["val"] for accuracy in result["accuracies"].values()],
    }


def failure_of(label: str, outcome: dict[str, Any]) -> dict[str, Any]:
    """Why there is no result, shown with what was printed last."""
    failure = {"reason": outcome["reason"], "printed": outcome.get("printed", [])}
    print("\n".join([*failure["printed"], f"{label}: {failure['reason']}"]), file=sys.stderr)
    return failure


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--trials", type=_numbers, default=[8], help="T of the stacked contestants, with commas")
    arguments.add_argument("--seeds", type=_seeds, default=["own"], help="own, shared or both: own,shared")
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--budget", type=float, help="seconds of training measured in a run; default: all epochs")
    given = arguments.parse_args()
    names = complete(given, QUICK)
    end_contestants_with_this_process()
    from optbench.data.datasets import DATASETS

    info = DATASETS[given.dataset]
    images_per_epoch = info.train // given.batch_size * given.batch_size
    stop = time.monotonic() + given.limit if given.limit else math.inf
    settings = settings_of(given)
    report: dict[str, Any] = {
        "unit": "images × trials per second",
        "date": datetime.date.today().isoformat(),
        "settings": recorded(settings) | {"seeds": given.seeds},
        "repeats": given.repeats,
        "images_per_epoch": images_per_epoch,
        "environment": {},
    }
    stem = f"{given.device}-{given.dataset}-T{'-'.join(map(str, given.trials))}-{given.precision}"
    runs: dict[Entry, dict[int, dict[str, Any]]] = {e: {} for e in entries(names, given.trials, given.seeds)}
    failures: dict[Entry, list[dict[str, Any]]] = {entry: [] for entry in runs}
    for entry in runs:
        if reason := unavailable(entry.contestant, given.device):
            failures[entry].append({"reason": reason, "printed": []})
    took: dict[Entry, float] = {}

    def save() -> None:
        figures = summarise(runs, images_per_epoch)
        report["contestants"] = {
            entry.label: {
                **vars(entry),
                **figures.get(entry, {}),
                "runs": list(by_round.values()),
                "failures": failures[entry] or ([] if by_round else [_NOT_MEASURED]),
            }
            for entry, by_round in runs.items()
        }
        write(given.output / f"{stem}.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        write(given.output / f"{stem}.md", table(report))

    save()
    for i, entry in itertools.product(range(given.repeats), runs):
        if failures[entry] and not runs[entry]:
            continue  # once is enough
        left, place = stop - time.monotonic(), f"round {i + 1}/{given.repeats} {entry.label}"
        if left <= took.get(entry, 0):
            print(f"{place}: no time left", file=sys.stderr)
            continue
        started = time.monotonic()
        changes = {"trials": entry.trials, "has_shared_seed": entry.has_shared_seed}
        limit = min(RUN_LIMIT, left) if given.budget else left
        outcome = run_contestant(entry.contestant, settings | changes, limit)
        took[entry] = time.monotonic() - started
        if "result" in outcome:
            report["environment"] = outcome["environment"]
            run = runs[entry][i] = run_of(outcome, [info.val, info.val, info.test])
            rate = run["images"] / run["train_seconds"]
            print(f"{place}: {rate:,.0f} images × trials per second ({took[entry]:.0f} s)", file=sys.stderr)
        else:
            failures[entry].append(failure_of(place, outcome))
        save()
    print(table(report))


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _seeds(text: str) -> list[str]:
    kinds = text.split(",")
    if not set(kinds) <= {"own", "shared"}:
        raise argparse.ArgumentTypeError(f"{text}: own, shared or own,shared")
    return kinds


if __name__ == "__main__":
    main()
