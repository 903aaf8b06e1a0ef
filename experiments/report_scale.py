"""How long `optbench report` takes, and how much memory, over sweeps of more and more trials.

    python experiments/report_scale.py --output scale.json
    python experiments/report_scale.py --trials 1000,10000 --unmerged

Results are made up (tests/generate.py) and left as a run leaves them, in a few large parts, or with --unmerged in one
part per stack. Each report is a process of its own, from its start to its end: importing, reading, computing, writing
JSON. Peak memory is what the system counted for that process; since that includes what a process inherits from its
parent, this one stays small and makes the results up in another. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

COMMAND = [sys.executable, "-m", "optbench", "report", "--format", "json"]
_TRIALS_PER_PART = 400  # before they are merged; quicker to write than a part for each stack


def run(folder: Path) -> tuple[float, float]:
    """Seconds and peak memory in MB of one report."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    started = time.perf_counter()
    process = subprocess.Popen([*COMMAND, str(folder)], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"optbench report {folder}: exit code {process.returncode}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def make_up(folder: Path, trials: int, epochs: int, unmerged: bool) -> dict[str, int]:
    """Make up a sweep; returns how large it is."""
    import pyarrow.parquet as pq

    from tests.generate import write

    store = write(folder, trials, epochs, confirm=10, trials_per_part=None if unmerged else _TRIALS_PER_PART)
    if not unmerged:
        store.compact()
    paths = store.parts()
    return {
        "trials": len(store.statuses()),
        "rows": sum(pq.read_metadata(path).num_rows for path in paths),
        "parts": len(paths),
        "bytes": sum(path.stat().st_size for path in paths),
    }


def measure(folder: Path, trials: int, epochs: int, repeats: int, unmerged: bool) -> dict[str, Any]:
    """Make up a sweep and report on it several times."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        size = pool.submit(make_up, folder, trials, epochs, unmerged).result()
    runs = [run(folder) for _ in range(repeats)]
    return {**size, "seconds": [seconds for seconds, _ in runs], "peak_mb": [peak for _, peak in runs]}


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """The measurements as a table: medians, and from the quickest to the slowest."""
    lines = [
        "| trials | rows | parts | MB on disk | seconds | µs per row | peak memory, MB |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in results:
        seconds = r["seconds"]
        cells = [
            *(f"{r[name]:,}" for name in ("trials", "rows", "parts")),
            f"{r['bytes'] / 1e6:.1f}",
            f"{median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f})",
            f"{median(seconds) / r['rows'] * 1e6:.2f}",
            f"{median(r['peak_mb']):,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", default="1000,10000,100000", help="about how many, several with commas")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--unmerged", action="store_true", help="leave a part for each stack of four trials")
    parser.add_argument("--output", type=Path, help="write the measurements as JSON to this file")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for trials in map(int, arguments.trials.split(",")):
            name = f"made-up-{trials}"
            results.append(
                measure(Path(folder) / name, trials, arguments.epochs, arguments.repeats, arguments.unmerged)
            )
            print(markdown(results[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(markdown(results))
    if arguments.output:
        environment = {
            "date": datetime.date.today().isoformat(),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            **{name: version(name) for name in ("pandas", "pyarrow", "numpy")},
        }
        content = {"environment": environment, "epochs": arguments.epochs, "results": results}
        arguments.output.write_text(f"{json.dumps(content, indent=1)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
