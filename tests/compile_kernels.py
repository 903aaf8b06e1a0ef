"""Compiles kernels for a GPU that need not be there.

    python -m tests.compile_kernels CAPABILITY updates
    python -m tests.compile_kernels CAPABILITY trunk ACTIVATION PRECISION

They are launched as in training, but on tensors in the CPU's memory; where Triton would start a kernel, it stops.
Prints for each its name and what the launch said about fusion. A warning is an error. TRITON_INTERPRET must not be set.
"""

import sys
import warnings
from itertools import chain, combinations

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from optbench.networks.network import Network
from optbench.training import update_kernels as updates


class AbsentGPU:
    """All that Triton asks a driver before it starts a kernel."""

    def __init__(self, capability):
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self):
        return self._target

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def compile_only(run):
    """In place of `JITFunction.run`."""

    def compiling(self, *arguments, warmup, **options):
        run(self, *arguments, warmup=True, **options)
        print(self.fn.__name__, options.get("enable_fp_fusion"))

    return compiling


def launch_updates():
    """Every update, with every combination of the hyperparameters that may be left out."""
    p_TP, one_T1, step = torch.ones(2, 1000), torch.ones(2, 1), torch.ones((), dtype=torch.float64)
    state = dict.fromkeys(("exp_avg", "exp_avg_sq", "momentum_buffer"), p_TP)
    for name, (update, _) in updates.UPDATES.items():
        optional = ["weight_decay", *(("momentum", "nesterov", "dampening") if name == "sgd" else ())]
        always = () if name == "sgd" else ("beta1", "beta2", "eps")
        for given in chain.from_iterable(combinations(optional, n) for n in range(len(optional) + 1)):
            update(p_TP, p_TP, state, dict.fromkeys((*always, *given), one_T1), one_T1, step)


def launch_trunk(activation, precision):
    """Forward and backward pass."""
    network = Network(activation=activation, precision=precision, convolution="triton")
    images_SBCHW, labels_SB = torch.ones(1, 8, *network.image), torch.zeros(1, 8, dtype=torch.int64)
    seed_of_T = torch.zeros(2, dtype=torch.int64)
    network.loss_and_gradients(network.initialize(range(2), "cpu"), images_SBCHW, labels_SB, seed_of_T)


if __name__ == "__main__":
    capability, what, *how = sys.argv[1:]
    warnings.simplefilter("error")
    driver.set_active(AbsentGPU(int(capability)))
    JITFunction.run = compile_only(JITFunction.run)
    {"updates": launch_updates, "trunk": launch_trunk}[what](*how)
