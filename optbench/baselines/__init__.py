"""Baselines: sweeps that the project has measured, so that an author trains only his own optimizer.

Each folder beside this file is one, with its parquet, as `optbench run` left it.
"""

from __future__ import annotations

from pathlib import Path

from optbench.errors import ArgumentError, did_you_mean

FOLDER = Path(__file__).parent
USUAL = "digits-cnn"  # whose settings a comparison has unless another one is named


def names() -> list[str]:
    """The baselines that come with optbench."""
    return sorted(path.parent.parent.name for path in FOLDER.glob("*/_optbench/outline.json"))


def folder(text: str) -> Path:
    """The folder of a baseline, by its name, or any other folder; "./NAME" where one is called like a baseline."""
    return FOLDER / text if text in names() else Path(text)


def locate(text: str) -> Path:
    """The same, if it is there. Raises `UserError`."""
    found = folder(text)
    if not found.is_dir():
        raise ArgumentError("with", text, f"no such baseline or folder of results; {did_you_mean(text, names())}")
    return found


def name(path: Path) -> str:
    """What `folder` finds this folder by."""
    return path.name if path.parent == FOLDER else str(path)
