"""Training throughput of optbench and its peers, side by side on one device.

    python experiments/peers/compare.py --device cuda --trials 64 --epochs 10 --budget 3 --output results/throughput
    python experiments/peers/compare.py --quick --output /tmp/peers

Every contestant trains the same network on the same data: Adam, dropout 0.25, equal batch size and precision, and
after every epoch loss and accuracy on the train-eval slice, validation and test. Runs are interleaved A B C A B C …,
each in a process of its own. The clock runs over training alone, in steady state, with the device synchronised;
set-up (start of the process, data, compiling, capture, warm-up) and evaluation are timed apart. What is measured is
images × trials per second; trial-epochs per second are that divided by the images of an epoch, and "with evaluation"
adds the measured seconds of one evaluation to each. Ratios are taken pair by pair, within each round.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from launch import CONTESTANTS, ROOT, run_contestant, unavailable

QUICK = {"dataset": "digits", "device": "cpu", "trials": 2, "epochs": 1, "repeats": 1, "budget": None}
RUN_LIMIT = 180.0  # seconds after which a run with a budget is given up
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
    names = given.contestants.split(",") if given.contestants else list(CONTESTANTS)
    unknown = [name for name in names if name not in CONTESTANTS]
    if unknown:
        sys.exit(f"unknown contestants: {', '.join(unknown)}; valid: {', '.join(CONTESTANTS)}")
    sys.path.insert(0, str(ROOT))
    from optbench.datasets import ensure
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
    """The settings as a result file has them: where the data lay is nobody's business."""
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


def summarise(runs: dict[str, dict[int, dict[str, Any]]], images_per_epoch: int) -> dict[str, dict[str, Any]]:
    """Contestant → its figures; `runs`: contestant → round → run."""
    derived = {
        name: {i: rates(run, images_per_epoch) for i, run in by_round.items()} for name, by_round in runs.items()
    }
    summary: dict[str, dict[str, Any]] = {}
    for name, by_round in derived.items():
        if not by_round:
            continue
        summary[name] = {key: spread([r[key] for r in by_round.values()]) for key in next(iter(by_round.values()))}
        summary[name]["setup_seconds"] = spread([run["setup_seconds"] for run in runs[name].values()])
        for key, rate in (("ratio", "images_per_second"), ("ratio_with_evaluation", "with_evaluation")):
            pairs = [derived["optbench"][i][rate] / r[rate] for i, r in by_round.items() if i in derived["optbench"]]
            if pairs and name != "optbench":
                summary[name][key] = spread(pairs)
    return summary


def heading(report: dict[str, Any], what: str) -> str:
    """On which device, with which torch, on which workload; `what` is of it and the report's own."""
    settings, environment = report["settings"], report["environment"]
    return (
        f"{environment.get('device', settings['device'])}, torch {environment.get('torch')}, {settings['dataset']}, "
        f"{what}, batch {settings['batch_size']}, {settings['precision']}, {report['date']}"
    )


def table(report: dict[str, Any]) -> str:
    """The report as markdown."""
    lines = [
        heading(report, f"T = {report['settings']['trials']}"),
        "",
        "| contestant | images × trials per second: median (min to max) | trial-epochs per second | with evaluation "
        "| set-up s | optbench / contestant (min to max) | with evaluation | runs |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    missing = []
    for name, entry in report["contestants"].items():
        title = f"`{name}`: {CONTESTANTS[name].title}"
        if "images_per_second" not in entry:
            missing.append(f"- {title}: {entry['reason']}")
            continue
        rate, setup = entry["images_per_second"], entry["setup_seconds"]["median"]
        row = [
            title,
            f"{rate['median']:,.0f} ({rate['min']:,.0f} to {rate['max']:,.0f})",
            f"{entry['trial_epochs_per_second']['median']:.4g}",
            f"{entry['with_evaluation']['median']:.4g}",
            f"{setup:.1f}",
            *(
                f"{entry[key]['median']:.2f} ({entry[key]['min']:.2f} to {entry[key]['max']:.2f})"
                if key in entry
                else "–"
                for key in ("ratio", "ratio_with_evaluation")
            ),
            str(len(rate["values"])),
        ]
        lines.append(f"| {' | '.join(row)} |")
        if "failures" in entry:
            missing.append(f"- {title}, failed runs: {'; '.join(entry['failures'])}")
    if missing:
        lines += ["", "Did not run:", "", *missing]
    return "\n".join(lines) + "\n"


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--trials", type=int, default=8, help="T: trials of the stacked contestants")
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--budget", type=float, help="seconds of training measured in a run; default: all epochs")
    given = arguments.parse_args()
    names = complete(given, QUICK)
    settings = settings_of(given)
    from optbench.datasets import DATASETS

    info = DATASETS[given.dataset]
    images_per_epoch = info.train // given.batch_size * given.batch_size
    stop = time.monotonic() + given.limit if given.limit else None
    report: dict[str, Any] = {
        "unit": "images × trials per second",
        "date": datetime.date.today().isoformat(),
        "settings": recorded(settings),
        "repeats": given.repeats,
        "images_per_epoch": images_per_epoch,
        "environment": {},
    }
    stem = f"{given.device}-{given.dataset}-T{given.trials}-{given.precision}"
    reasons = {name: reason for name in names if (reason := unavailable(name, given.device))}
    failures: dict[str, list[str]] = {}
    runs: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in dict.fromkeys([*names, "optbench"])}
    took: dict[str, float] = {}

    def save() -> None:
        summary = summarise(runs, images_per_epoch)
        report["contestants"] = {
            name: {"runs": list(runs[name].values()), **summary[name]}
            | ({"failures": failures[name]} if name in failures else {})
            if runs[name]
            else {"reason": reasons.get(name, "not measured: no time was left")}
            for name in names
        }
        write(given.output / f"{stem}.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        write(given.output / f"{stem}.md", table(report))

    save()
    for i, name in _interleaved(names, given.repeats):
        if name in reasons:
            continue
        left = stop - time.monotonic() if stop else math.inf
        if left <= took.get(name, 0):
            print(f"round {i + 1} {name}: no time left", file=sys.stderr)
            continue
        started = time.monotonic()
        outcome = run_contestant(name, settings, min(RUN_LIMIT, left) if given.budget else left)
        took[name] = time.monotonic() - started
        if "result" in outcome:
            run = {key: outcome["result"][key] for key in _RUN_SECONDS}
            run["evaluation_images_per_trial"] = [info.val, info.val, info.test]
            accuracies = outcome["result"]["accuracies"].values()
            run["val_accuracy"] = [accuracy["val"] for accuracy in accuracies]
            runs[name][i] = run
            report["environment"] = outcome["environment"]
            line = f"{run['images'] / run['train_seconds']:,.0f} images × trials per second"
        else:
            line = outcome["reason"]
            if runs[name]:
                failures.setdefault(name, []).append(line)
            else:
                reasons[name] = line  # once is enough
        print(f"round {i + 1}/{given.repeats} {name}: {line} ({took[name]:.0f} s)", file=sys.stderr)
        save()
    print(table(report))


def _interleaved(names: Iterable[str], repeats: int) -> list[tuple[int, str]]:
    return [(i, name) for i in range(repeats) for name in names]


if __name__ == "__main__":
    main()
