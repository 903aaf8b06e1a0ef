"""Whether a sweep with halving stops the same trials on two devices, whose rounding differs.

    optbench run experiments/halving.yaml --device cpu -o /tmp/on-cpu
    optbench run experiments/halving.yaml --device cuda -o /tmp/on-cuda
    python3 experiments/peers/verdicts.py /tmp/on-cpu/halving /tmp/on-cuda/halving

The exit code is 1 where a trial failed on only one device, or more than a fifth of the trials end at another epoch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

_MOST_OTHERS = 0.2  # of the trials; close scores change places, and so do trials that only just diverge


def ends(rows: pd.DataFrame) -> pd.DataFrame:
    """The last row of each trial, by its id."""
    return rows.sort_values("epoch").groupby("trial_id").last()


def best(last: pd.DataFrame) -> tuple[str, float]:
    """The configuration with the highest mean validation accuracy of those that were not stopped."""
    scores = last[last["status"] == "finished"].groupby("configuration_id")["val_accuracy"].mean()
    return str(scores.idxmax()), float(scores.max())


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", type=Path, help="folder of the results of a sweep")
    parser.add_argument("b", type=Path, help="the same sweep on another device")
    parser.add_argument("--output", type=Path, help="write the rows of both to this parquet file")
    given = parser.parse_args()
    a, b = pd.read_parquet(given.a), pd.read_parquet(given.b)
    if given.output:
        pd.concat([a, b]).to_parquet(given.output, index=False)

    both = ends(a).add_suffix("_a").join(ends(b).add_suffix("_b"), how="outer")
    names = [f"{rows['device'].iloc[0]}, {rows['precision'].iloc[0]}" for rows in (a, b)]
    print(f"trials by the epoch they end with: {names[0]} down, {names[1]} across")
    print(pd.crosstab(both["epoch_a"], both["epoch_b"]).to_string())
    for name, last in zip(names, (ends(a), ends(b)), strict=True):
        configuration, accuracy = best(last)
        print(f"{name}: {last['status'].value_counts().to_dict()}; best {configuration}, {100 * accuracy:.2f} %")
    others = float((both["epoch_a"] != both["epoch_b"]).mean())
    failed = both[(both["status_a"] == "failed") != (both["status_b"] == "failed")]
    print(f"{others:.1%} of the trials end at another epoch; {len(failed)} failed on only one device")
    return int(others > _MOST_OTHERS or not failed.empty)


if __name__ == "__main__":
    sys.exit(main())
