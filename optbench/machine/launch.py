"""How kernels written by hand are launched, for devices where the library's are slow."""

from __future__ import annotations

from typing import Any

import torch

# Nothing is loaded ahead, which would take registers. a·b + c is rounded once, as in torch's own CUDA kernels, for
# example `addcmul` and `lerp` in the update rules. If this is not set, Triton 3.9 warns and 3.10 rounds twice.
_OPTIONS = {"num_stages": 1, "enable_fp_fusion": True}


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run a Triton kernel, one program per place of the grid, on the device of its first argument, a tensor."""
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **constants, **_OPTIONS)
