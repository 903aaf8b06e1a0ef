"""Runs one contestant in this process: python child.py NAME SETTINGS OUT, with OUT the JSON file to write."""

from __future__ import annotations

import importlib
import json
import platform
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from launch import CONTESTANTS


def _environment(device: str) -> dict[str, Any]:
    import torch

    from optbench.execution import default_workers

    cores = default_workers()
    on_gpu = device == "cuda"
    versions = {}
    for name in ("optbench", "ray", "hfta"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "device": torch.cuda.get_device_name() if on_gpu else f"{cores}-core CPU",
        "cores": cores,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        **versions,
    }


def main() -> None:
    name, given, out = sys.argv[1:]
    from workload import CannotRunError, Settings

    settings = Settings(**json.loads(given))
    contestant = CONTESTANTS[name]
    run = importlib.import_module(f"contestants.{contestant.module}").run
    try:
        outcome: dict[str, Any] = {"result": asdict(run(settings, **contestant.options))}
    except CannotRunError as reason:
        outcome = {"reason": str(reason)}
    Path(out).write_text(json.dumps(outcome | {"environment": _environment(settings.device)}), encoding="utf-8")


if __name__ == "__main__":
    main()
