"""What a device can do, what its measurements hold for, and the settings under which it computes the same bits.

ROCm's devices are called "cuda" in torch, too; comments say where they differ.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from optbench import __version__
from optbench.errors import ArgumentError, UserError

# How numbers are rounded in the forward and the backward pass.
PRECISIONS = ("fp32", "tf32", "bf16")
_TENSOR_CORES = (8, 0)  # the first compute capability with tensor cores for tf32 and bf16: NVIDIA's Ampere

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_DRIVER = Path("/proc/driver/nvidia/version")
_CPUINFO = Path("/proc/cpuinfo")
_CPU_NUMBERS = {"cpu family": "family", "model": "model", "CPU implementer": "implementer", "CPU part": "part"}
_SYSCTL = ("sysctl", "-n", "machdep.cpu.brand_string")
# As torch, the CPU's allocator, the driver, Triton, cuBLAS and cuDNN put it. cuBLAS and cuDNN say "not initialised" if
# there is no memory for a handle.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "alloc_failed", "status_not_initialized")


def resolve_device(device: str) -> str:
    """`auto` → cuda where there is one, else cpu. Raises `ArgumentError` for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    kind, _, index = device.partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        raise ArgumentError("device", device, "valid: auto, cpu, cuda, cuda:N")
    if int(index or 0) >= torch.cuda.device_count():
        raise ArgumentError("device", device, f"this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def device_name(device: str) -> str:
    """A device as the rows name it."""
    return "cpu" if device == "cpu" else torch.cuda.get_device_name(device)


@cache
def cpu_name() -> str:
    """The model of the CPU, on Linux with its numbers: virtual machines often give it a name that says little."""
    found: dict[str, str] = {}
    with suppress(OSError):
        first, *_ = _CPUINFO.read_text(encoding="utf-8").split("\n\n")
        found = dict(re.findall(r"^([\w ]+?)\s*: *(.+)$", first, re.MULTILINE))
    name = found.get("model name") or _apples_name() or platform.processor() or platform.machine()
    numbers = ", ".join(f"{word} {found[key]}" for key, word in _CPU_NUMBERS.items() if key in found)
    return f"{name} ({numbers})" if numbers else name


def _apples_name() -> str:
    """What macOS calls the CPU; its `platform.processor()` is only "arm"."""
    if sys.platform == "darwin":
        with suppress(OSError):
            return subprocess.run(_SYSCTL, capture_output=True, text=True, check=False).stdout.strip()
    return ""


def os_name() -> str:
    """The operating system, its version to the first point, and the architecture: Linux 6.1 x86_64."""
    version = re.match(r"\d+(\.\d+)?", platform.release())
    return " ".join([platform.system(), *([version[0]] if version else []), platform.machine()])


def make_deterministic(device: str) -> None:
    """Settings under which the same stack gives the same bits; call once in each process that trains.

    On a CPU, denormals are flushed to zero in this process from then on (`torch.set_flush_denormal` undoes that).
    """
    os.environ.setdefault(_CUBLAS, ":4096:8")  # else cuBLAS may sum in another order
    if device == "cpu":
        torch.set_flush_denormal(True)  # moments of dead units decay into denormals, which a CPU computes 100× slower
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    allow_tf32(False)


@contextmanager
def settings_given_back() -> Iterator[None]:
    """Restores torch's settings of threads, denormals, determinism and TF32 afterwards."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    threads, flushed, cublas = torch.get_num_threads(), _are_denormals_flushed(), os.environ.get(_CUBLAS)
    switches = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(flushed)
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = switches
        if cublas is None:
            os.environ.pop(_CUBLAS, None)
        else:
            os.environ[_CUBLAS] = cublas


def _are_denormals_flushed() -> bool:
    """Torch sets the processor's mode but cannot be asked for it; what the processor computes shows it."""
    return sys.float_info.min / 2 == 0.0


def allow_tf32(allowed: bool) -> None:
    """Whether a CUDA device may round operands of float32 products to 10 bits, in convolutions and matmuls alike."""
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


def clock(device: torch.device | str) -> float:
    """Seconds on a steady clock, once the device has done all its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def precisions(device: torch.device | str) -> tuple[str, ...]:
    """What a device computes in hardware; a CPU's bf16 may be emulated.

    NVIDIA's GPUs have tf32 and bf16 from compute capability 8.0 on (a T4, 7.5, has neither), AMD's have only bf16.
    """
    device = torch.device(device)
    if device.type == "cpu" or torch.version.hip:
        return "fp32", "bf16"
    return PRECISIONS if torch.cuda.get_device_capability(device) >= _TENSOR_CORES else ("fp32",)


def precision_on(device: torch.device | str, precision: str) -> str:
    """The precision on a device; `auto` is tf32 where the device has it, else fp32.

    Raises `UserError` for one that the device does not have.
    """
    available = precisions(device)
    if precision == "auto":
        return "tf32" if "tf32" in available else "fp32"
    if precision not in available:
        place = "a CPU" if torch.device(device).type == "cpu" else torch.cuda.get_device_name(device)
        needs = "an NVIDIA GPU of compute capability 8.0 or newer"
        raise UserError(f"precision {precision} needs {needs}; on {place}: {' or '.join(available)}")
    return precision


def memory_bytes(device: torch.device | str) -> int:
    """The memory of a GPU, free or not."""
    return int(torch.cuda.get_device_properties(device).total_memory)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or this machine, ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def key(device: torch.device | str) -> str:
    """What measurements hold for: a device, its driver, and the versions of all that chooses or makes kernels."""
    device = torch.device(device)
    name = f"{torch.cuda.get_device_name(device)}, driver {_driver()}" if device.type == "cuda" else device.type
    return f"{name}, optbench {__version__}, torch {torch.__version__}, triton {_triton()}"


@cache
def _driver() -> str:
    """NVIDIA's version, on Linux; elsewhere that of the runtime that torch was built with."""
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", _DRIVER.read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[0] if found else f"for {torch.version.hip or torch.version.cuda}"


@cache
def _triton() -> str:
    for name in ("triton", "pytorch-triton-rocm", "triton-windows"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "none"
