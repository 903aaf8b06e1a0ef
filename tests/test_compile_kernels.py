"""The kernels compile for GPUs, without a warning, on a machine that need not have one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parent.parent


def compiled(folder, *arguments):
    """What tests/compile_kernels.py says, each line once; in a process that takes nothing from Triton's cache."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.compile_kernels", *arguments],
        cwd=ROOT,
        env=environment | {"TRITON_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["80", "90"])
def test_updates_compile_with_fusion_asked_for(capability, tmp_path):
    assert compiled(tmp_path, capability, "updates") == {"_adam True", "_sgd True"}


# Two activations differ in a multiplication: one for each capability.
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize(("capability", "activation"), [("80", "leaky_relu"), ("90", "relu")])
def test_the_trunk_compiles_with_fusion_asked_for(capability, activation, precision, tmp_path):
    kernels = ("_forward", "_backward2", "_backward1", "_add_chunks")
    assert compiled(tmp_path, capability, "trunk", activation, precision) == {f"{name} True" for name in kernels}
