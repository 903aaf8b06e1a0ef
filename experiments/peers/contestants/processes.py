"""Several processes share the device; each runs the careful loop over its share of the trials.

On a CPU one single-threaded process per core. On a GPU their kernels take turns, unless the machine's owner runs an
MPS daemon, which lets them overlap: it is used where it runs, and never started here.
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Barrier

from workload import CannotRunError, DeviceData, Result, Settings, measure, prepare, side_by_side

from contestants.eager import Eager

_PATIENCE = 300.0  # seconds to wait for the others; more than any of them should take


def run(settings: Settings, processes: int | None = None) -> Result:
    """`processes` at a time; without a number, as many as there are cores."""
    processes = processes or len(os.sched_getaffinity(0))
    shares = [seeds for i in range(processes) if (seeds := settings.seeds[i::processes])]
    if settings.budget is not None and len(shares) < processes:
        raise CannotRunError(f"{processes} processes need at least as many trials")
    # The server imports torch once, then forks for each process; it never touches the device itself.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["contestants.processes"])
    if settings.device == "cpu":
        os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    barrier = context.Barrier(len(shares))
    pipes, crew = [], []
    for seeds in shares:
        ours, theirs = context.Pipe(duplex=False)
        crew.append(context.Process(target=_work, args=(settings, seeds, barrier, theirs)))
        crew[-1].start()
        theirs.close()  # so that a process's death ends its pipe
        pipes.append(ours)
    try:
        results = []
        while pipes:
            for pipe in wait(pipes):
                assert isinstance(pipe, Connection)
                results.append(pipe.recv())
                pipes.remove(pipe)
    except EOFError:
        barrier.abort()
        raise RuntimeError("a process died; its traceback is above") from None
    finally:
        for process in crew:
            process.join()
    result = side_by_side(results, len(shares))
    result.notes["MPS"] = settings.device == "cuda" and os.path.exists(
        os.path.join(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"), "control")
    )
    return result


def _work(settings: Settings, seeds: list[int], barrier: Barrier, connection: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    prepare(settings)
    data = settings.load()
    trainer = Eager(DeviceData(data, settings.device), settings)
    groups = [[seed] for seed in seeds]
    connection.send(measure(trainer, groups, data, settings, lambda: barrier.wait(_PATIENCE) and None))
