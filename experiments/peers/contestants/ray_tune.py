"""Ray Tune with fractional GPUs: up to 16 trials share the device, each the careful loop in an actor of its own.

With a budget one wave of trials is measured, from the moment all of them have warmed up: starting actors and reporting
results to Tune are left out, which favours Ray Tune. On a CPU one single-threaded trial per core.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from workload import CannotRunError, DeviceData, Result, Settings, measure, prepare, side_by_side

import optbench.data.datasets
from contestants.eager import Eager

_AT_ONCE = 16
_PATIENCE = 300.0  # seconds to wait for the other trials


def _barrier(folder: Path, parties: int) -> Callable[[], None]:
    """Trials have no barrier in Ray Tune: each call puts a file there and waits for those of the others."""
    stage = 0

    def together() -> None:
        nonlocal stage
        stage += 1
        at = folder / str(stage)
        at.mkdir(exist_ok=True)
        (at / str(os.getpid())).touch()
        given_up = time.monotonic() + _PATIENCE
        while len(os.listdir(at)) < parties:
            if time.monotonic() > given_up:
                raise TimeoutError(f"the other trials did not come within {_PATIENCE:.0f} seconds")
            time.sleep(0.001)

    return together


def _trainable(config: dict[str, int], settings: Settings, data: optbench.data.datasets.Dataset, barrier: str) -> None:
    import torch
    from ray import tune

    torch.set_num_threads(1)
    prepare(settings)
    trainer = Eager(DeviceData(data, settings.device), settings)
    together = _barrier(Path(barrier), settings.trials) if settings.budget is not None else lambda: None
    tune.report(asdict(measure(trainer, [[config["seed"]]], data, settings, together)))


def run(settings: Settings) -> Result:
    """One Tune trial for each seed."""
    try:
        import ray
        from ray import tune
    except ImportError as error:
        raise CannotRunError(f"Ray Tune cannot be imported: {error}") from error
    cores = len(os.sched_getaffinity(0))
    at_once = min(_AT_ONCE if settings.device == "cuda" else cores, settings.trials)
    if settings.budget is not None:
        settings = replace(settings, trials=at_once)
    resources = {"cpu": min(1.0, cores / at_once), "gpu": 1 / at_once if settings.device == "cuda" else 0.0}
    with tempfile.TemporaryDirectory() as folder:
        ray.init(
            num_cpus=cores,
            num_gpus=int(settings.device == "cuda"),
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
        try:
            trainable = tune.with_parameters(_trainable, settings=settings, data=settings.load(), barrier=folder)
            tuner = tune.Tuner(
                tune.with_resources(trainable, resources),
                param_space={"seed": tune.grid_search(settings.seeds)},
                tune_config=tune.TuneConfig(max_concurrent_trials=at_once),
                run_config=tune.RunConfig(storage_path=str(Path(folder) / "results"), verbose=0),
            )
            grid = tuner.fit()
        finally:
            ray.shutdown()
        if grid.errors:
            raise grid.errors[0]
        names = Result.__dataclass_fields__
        results = [Result(**{name: trial.metrics[name] for name in names}) for trial in grid]
    result = side_by_side(results, at_once)
    result.notes["resources per trial"] = resources
    return result
