"""Whether the contestants train to the same accuracy: test accuracy of ten seeds each, beside that of optbench.

    python experiments/peers/accuracy.py --device cuda --epochs 3 --output results/throughput

Each contestant trains all seeds for all epochs, with the settings of compare.py. A verdict is on the difference of the
means; its 95 % interval (Welch) says how sure that is. What there was no time for is "not measured"; --resume measures
what is missing in the file of an earlier run with the same settings.
"""

from __future__ import annotations

import datetime
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from compare import complete, failure_of, heading, parser, recorded, settings_of, write
from launch import CONTESTANTS, end_contestants_with_this_process, run_contestant, unavailable

TOLERANCE = 0.1  # percentage points
QUICK = {"dataset": "digits", "device": "cpu", "trials": 2, "epochs": 1}


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and the half-width of its 95 % interval (Student's t); None for one value."""
    from scipy.stats import t

    n = len(values)
    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n) if n > 1 else None
    return statistics.mean(values), half


def difference(values: Sequence[float], reference: Sequence[float]) -> tuple[float, float | None]:
    """Mean of `values` less that of `reference`, and the half-width of its 95 % interval (Welch)."""
    from scipy.stats import t

    mean = statistics.mean(values) - statistics.mean(reference)
    if min(len(values), len(reference)) < 2:
        return mean, None
    a, b = (statistics.variance(v) / len(v) for v in (values, reference))
    if a + b == 0:
        return mean, 0.0
    freedom = (a + b) ** 2 / (a**2 / (len(values) - 1) + b**2 / (len(reference) - 1))
    return mean, float(t.ppf(0.975, freedom)) * math.sqrt(a + b)


def _plus_minus(mean: float, half: float | None, sign: str = "") -> str:
    return f"{mean:{sign}.2f}" + ("" if half is None else f" ± {half:.2f}")


def _verdict(mean: float, half: float | None) -> str:
    """Whether the difference of means is within the tolerance, and whether its interval allows the other verdict."""
    within = abs(mean) <= TOLERANCE
    sure = half is not None and (abs(mean) + half <= TOLERANCE if within else abs(mean) - half > TOLERANCE)
    return ("yes" if within else "no") + ("" if sure else ", but the interval allows the other")


def table(report: dict[str, Any]) -> str:
    """The report as markdown; accuracies in %, differences in percentage points."""
    lines = [
        heading(report, f"{report['settings']['epochs']} epochs"),
        "",
        f"| contestant | test accuracy % | n | difference to optbench, points | within ±{TOLERANCE} points |",
        "|---|--:|--:|--:|---|",
    ]
    reference = [100 * value for value in report["contestants"].get("optbench", {}).get("test_accuracy", [])]
    for name, entry in report["contestants"].items():
        title = f"`{name}`: {CONTESTANTS[name].title}"
        values = [100 * value for value in entry.get("test_accuracy", [])]
        if not values:
            lines.append(f"| {title} | – | 0 | – | not measured: {entry['reason']} |")
            continue
        shift, verdict = "–", "–" if name == "optbench" else "not measured: no figure for optbench"
        if reference and name != "optbench":
            mean, half = difference(values, reference)
            shift, verdict = _plus_minus(mean, half, "+"), _verdict(mean, half)
        lines.append(f"| {title} | {_plus_minus(*interval(values))} | {len(values)} | {shift} | {verdict} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=10, dest="trials")
    arguments.add_argument("--resume", action="store_true", help="keep what the file has; for the same machine")
    arguments.set_defaults(budget=None)
    given = arguments.parse_args()
    names = complete(given, QUICK)
    end_contestants_with_this_process()
    settings = settings_of(given)
    path = given.output / f"accuracy-{given.device}-{given.dataset}-{given.precision}.json"
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "settings": recorded(settings),
        "environment": {},
        "contestants": {},
    }
    if given.resume and path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["settings"] == report["settings"]:
            measured = {name: e for name, e in before["contestants"].items() if "test_accuracy" in e}
            report |= {"date": before["date"], "environment": before["environment"], "contestants": measured}

    def save() -> None:
        write(path, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        write(path.with_suffix(".md"), table(report))

    missing = [name for name in names if name not in report["contestants"]]
    report["contestants"] |= {
        name: {"reason": unavailable(name, given.device) or "no time was left"} for name in missing
    }
    save()
    stop = time.monotonic() + given.limit if given.limit else math.inf
    for name in missing:
        left = stop - time.monotonic()
        if unavailable(name, given.device) or left <= 0:
            continue
        outcome = run_contestant(name, settings, left)
        if "result" in outcome:
            accuracies = outcome["result"]["accuracies"]
            values = [accuracies[seed]["test"] for seed in sorted(accuracies, key=int)]
            report["contestants"][name] = {"test_accuracy": values}
            report["environment"] = outcome["environment"]
            print(f"{name}: {100 * statistics.mean(values):.2f} % over {len(values)} seeds", file=sys.stderr)
        else:
            report["contestants"][name] = failure_of(name, outcome)
        save()
    print(table(report))


if __name__ == "__main__":
    main()
