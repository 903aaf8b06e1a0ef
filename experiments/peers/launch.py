"""The contestants by name, and how one of them is run: in a process of its own, with a time limit. Imports no torch."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Contestant:
    """A module of `contestants`, what its `run` is given besides the settings, and what it needs."""

    title: str
    module: str
    options: Mapping[str, Any] = field(default_factory=dict)
    is_stacked: bool = False  # trains all T trials at once, so that its speed depends on T
    can_share: bool = False  # gains from trials that share their seed, and so their batches
    device: str | None = None  # the only one it is for
    package: str | None = None
    absent: str = ""  # what to say where the package is missing


# In the order in which they run: without optbench there is nothing to compare with, and the slow ones can wait.
CONTESTANTS = {
    "optbench": Contestant("one stack", "optbench", is_stacked=True, can_share=True),
    "vmap": Contestant("vmap(grad)", "vmap", is_stacked=True, can_share=True),
    "hfta": Contestant(
        "fused operators",
        "hfta",
        is_stacked=True,
        package="hfta",
        absent="HFTA is not installed; it is not on PyPI, see requirements.txt",
    ),
    "cuda_graph": Contestant("eager in a CUDA graph", "cuda_graph", device="cuda"),
    "eager": Contestant("data on the device, fused Adam", "eager"),
    "processes": Contestant("one eager process per core", "processes", device="cpu"),
    "processes_8": Contestant("8 eager processes share the GPU", "processes", {"processes": 8}, device="cuda"),
    "processes_16": Contestant("16 eager processes share the GPU", "processes", {"processes": 16}, device="cuda"),
    "ray_tune": Contestant("Ray Tune", "ray_tune", package="ray", absent="Ray is not installed, see requirements.txt"),
    "stock": Contestant("stock script, DataLoader", "stock"),
}
_PRINTED_LINES = 30  # of what a contestant without a result printed, at the end


def unavailable(name: str, device: str) -> str | None:
    """Why a contestant cannot run on this device, as far as that can be told without starting it."""
    contestant = CONTESTANTS[name]
    if contestant.device not in (None, device):
        return f"only for {contestant.device}, this is {device}"
    if contestant.package and importlib.util.find_spec(contestant.package) is None:
        return contestant.absent
    return None


def end_contestants_with_this_process() -> None:
    """A driver that is asked to terminate (SIGTERM) also ends the contestant, which has a session of its own."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))


def run_contestant(name: str, settings: Mapping[str, Any], limit: float) -> dict[str, Any]:
    """What `child` wrote: {"result": …, "environment": …}.

    If there is no result within `limit` seconds: {"reason": …, "printed": the last lines of its output}.
    """
    environment = os.environ | {
        # Processes that a contestant starts find its modules by this path, and optbench in this checkout.
        "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        # Ray Tune sends no statistics to its makers.
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "out.json", Path(folder) / "log"
        given = json.dumps(dict(settings) | {"launched": time.time()})
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, str(HERE / "child.py"), name, given, str(out)],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
            is_late = False
            try:
                process.wait(None if limit == math.inf else limit)
            except subprocess.TimeoutExpired:
                is_late = True
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # with all that it has started
                    process.wait()
        if process.returncode == 0 and out.exists():
            return json.loads(out.read_text(encoding="utf-8"))
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        what = f"no result after {limit:.0f} seconds" if is_late else f"failed with exit code {process.returncode}"
        return {"reason": f"{what}: {lines[-1] if lines else 'no output'}", "printed": lines[-_PRINTED_LINES:]}
