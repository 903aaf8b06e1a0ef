"""What a device can do follows from what it is, and measurements hold for what they were made with."""

from types import SimpleNamespace

import pytest
import torch

from optbench.errors import UserError
from optbench.machine import device


@pytest.fixture
def made_up(monkeypatch):
    """A GPU of that compute capability, NVIDIA's or AMD's."""

    def make(capability, hip=None, name="GPU", memory=2**34):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=memory))
        monkeypatch.setattr(torch.version, "hip", hip)
        return "cuda:0"

    return make


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9R14\n\nprocessor\t: 1",
            "AMD EPYC 9R14 (family 25, model 17)",
        ),
        ("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n", "CPU (implementer 0x41, part 0xd40)"),
        (None, "CPU"),
    ],
)
def test_a_cpu_is_named_by_its_model(text, expected, tmp_path, monkeypatch):
    """As Linux describes those of AMD, Intel and Arm; elsewhere by what Python calls it."""
    monkeypatch.setattr(device, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(device, "_apples_name", lambda: "")
    monkeypatch.setattr(device.platform, "processor", lambda: "CPU")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    device.cpu_name.cache_clear()
    assert device.cpu_name() == expected
    device.cpu_name.cache_clear()


def test_a_mac_says_what_its_cpu_is(monkeypatch):
    monkeypatch.setattr(device.sys, "platform", "darwin")
    monkeypatch.setattr(device, "_SYSCTL", ("echo", "Apple M1"))
    assert device._apples_name() == "Apple M1"
    monkeypatch.setattr(device, "_SYSCTL", ("no-such-command",))
    assert device._apples_name() == ""


@pytest.mark.parametrize(
    ("release", "expected"), [("6.18.44-fc-v669", "Linux 6.18 x86_64"), ("11", "Linux 11 x86_64"), ("", "Linux x86_64")]
)
def test_the_operating_system_is_named_in_short(release, expected, monkeypatch):
    for name, value in (("system", "Linux"), ("release", release), ("machine", "x86_64")):
        monkeypatch.setattr(device.platform, name, lambda value=value: value)
    assert device.os_name() == expected


@pytest.mark.parametrize(
    ("capability", "hip", "auto", "valid"),
    [
        ((9, 0), None, "tf32", ("fp32", "tf32", "bf16")),  # H100, H200
        ((8, 0), None, "tf32", ("fp32", "tf32", "bf16")),  # A100
        ((7, 5), None, "fp32", ("fp32",)),  # T4
        ((9, 0), "6.2", "fp32", ("fp32", "bf16")),  # MI210, gfx90a, by ROCm's counting
        ((11, 0), "6.2", "fp32", ("fp32", "bf16")),  # gfx1100
    ],
)
def test_a_gpus_precision_is_one_that_it_computes_in_hardware(capability, hip, auto, valid, made_up):
    gpu = made_up(capability, hip)
    assert device.precision_on(gpu, "auto") == auto
    for precision in device.PRECISIONS:
        if precision in valid:
            assert device.precision_on(gpu, precision) == precision
        else:
            with pytest.raises(UserError, match=f"precision {precision} needs .* on GPU: {' or '.join(valid)}"):
                device.precision_on(gpu, precision)


def test_a_cpu_has_no_tf32():
    assert device.precision_on("cpu", "auto") == "fp32"
    assert device.precision_on("cpu", "bf16") == "bf16"
    with pytest.raises(UserError, match="on a CPU: fp32 or bf16"):
        device.precision_on("cpu", "tf32")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA driver error: out of memory"), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("out of resource: shared memory, Required: 300000, Hardware limit: 232448"), False),
    ],
)
def test_a_lack_of_memory_has_many_words(error, expected):
    assert device.is_out_of_memory(error) == expected


def test_measurements_hold_for_a_device_its_driver_and_all_versions(made_up, monkeypatch):
    gpu = made_up((9, 0))
    names = {"__version__": "0.9", "_driver": lambda: "580.1", "_triton": lambda: "3.9"}
    for name, value in names.items():
        monkeypatch.setattr(device, name, value)
    monkeypatch.setattr(torch, "__version__", "2.13")
    key = device.key(gpu)
    assert key == "GPU, driver 580.1, optbench 0.9, torch 2.13, triton 3.9"
    monkeypatch.setattr(device, "_driver", lambda: "590.2")
    assert device.key(gpu) != key


def test_the_drivers_version_is_that_of_the_kernel_module(tmp_path, monkeypatch):
    file = tmp_path / "version"
    file.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\nGCC version: 12.3.0\n"
    )
    monkeypatch.setattr(device, "_DRIVER", file)
    assert device._driver.__wrapped__() == "580.95.05"
    monkeypatch.setattr(device, "_DRIVER", tmp_path / "none")
    assert device._driver.__wrapped__().startswith("for ")
