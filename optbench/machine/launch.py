"""Kernels written by hand, for devices where the library's are slow; each module says what it needs to be imported."""

from __future__ import annotations

from typing import Any

import torch

# Nothing is loaded ahead, which would take registers. a·b + c is rounded once, as in torch's own CUDA kernels, so in
# the `addcmul` and `lerp` of the update rules. Where this is left open, Triton 3.9 warns and 3.10 rounds twice.
_OPTIONS = {"num_stages": 1, "enable_fp_fusion": True}


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run a Triton kernel, a program for each place of the grid, on the device of its first argument, a tensor."""
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **constants, **_OPTIONS)
