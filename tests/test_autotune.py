"""What is fastest is measured once, remembered, and chosen; what cannot run is left out, and costs only itself."""

import json
import logging
import os
import time

import pytest
import torch

from optbench.errors import PerformanceWarning
from optbench.machine import device
from optbench.machine.isolation import CallFailedError
from optbench.networks.forward import WAYS
from optbench.networks.network import Network
from optbench.training import autotune
from optbench.training.autotune import Choice
from optbench.training.step import RecordingError

CPU = torch.device("cpu")
DAY = 24 * 3600


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.delitem(WAYS, "triton")  # on a CPU its interpreter would take minutes
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "optbench" / "autotune.json"


class Here:
    """Calls functions in this process, and puts what they raise into the words of another one."""

    closed = 0

    def call(self, function, *arguments, seconds):
        try:
            return function(*arguments)
        except Exception as error:
            raise CallFailedError(f"{type(error).__name__}: {error}") from None

    def close(self):
        self.closed += 1


@pytest.fixture
def here(monkeypatch):
    here = Here()
    monkeypatch.setattr(autotune, "_elsewhere", lambda: here)
    return here


# ---------------------------------------------------------------- what is remembered


def test_what_was_measured_is_not_measured_again(cache):
    measured = []

    def measure():
        measured.append(1)
        return Choice("grouped")

    assert [autotune.remembered("a", measure) for _ in range(2)] == ["grouped", "grouped"]
    assert autotune.remembered("b", lambda: Choice(32)) == 32
    assert measured == [1]
    assert {key: entry["value"] for key, entry in json.loads(cache.read_text()).items()} == {"a": "grouped", "b": 32}
    for damage in ("damaged", "[1]", "null", '{"b": 3}', '{"b": {"value": 3}}'):
        cache.write_text(damage)
        assert autotune.remembered("b", lambda: Choice(64)) == 64


def test_a_choice_among_candidates_that_failed_holds_for_a_day(monkeypatch):
    now = [1e9]
    monkeypatch.setattr(time, "time", lambda: now[0])
    poor = Choice("grouped", {"triton": "no C compiler"})
    assert autotune.remembered("a", lambda: poor) == "grouped"
    now[0] += DAY - 1
    assert autotune.remembered("a", lambda: Choice("triton")) == "grouped"
    now[0] += 2
    assert autotune.remembered("a", lambda: Choice("triton")) == "triton"
    now[0] += 1000 * DAY
    assert autotune.remembered("a", lambda: poor) == "triton"


def test_what_another_process_remembered_meanwhile_is_kept(cache):
    def measure():
        autotune.remembered("b", lambda: Choice(1))
        return Choice(2)

    autotune.remembered("a", measure)
    assert autotune.remembered("b", lambda: Choice(3)) == 1


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert autotune.remembered("a", lambda: Choice(1)) == 1


# ---------------------------------------------------------------- what is chosen


def test_every_way_to_convolve_is_timed_and_the_fastest_is_taken(here, monkeypatch):
    timed = {}
    original = autotune._probe

    def watched(network, *rest):
        probe = original(network, *rest)
        timed[network.convolution] = probe.seconds
        assert probe.error < 1e-5
        return probe

    monkeypatch.setattr(autotune, "_probe", watched)
    choice = autotune.fastest(Network(), 2, 4, CPU)
    assert timed.keys() == WAYS.keys()
    assert timed[choice.value] == min(timed.values()) > 0
    assert choice.failures == {}


@pytest.mark.parametrize("precision", device.PRECISIONS)
def test_a_candidate_is_timed_with_the_rounding_that_the_stack_will_use(precision, here, monkeypatch):
    """A stack in tf32 must not be tuned with tf32 off, whatever ran before in this process."""
    seen = []
    original = Network.loss_and_gradients

    def watched(network, parameters_TP, *rest):
        seen.append((parameters_TP.dtype, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        return original(network, parameters_TP, *rest)

    monkeypatch.setattr(Network, "loss_and_gradients", watched)
    device.allow_tf32(precision != "tf32")
    autotune.fastest(Network(precision=precision), 2, 4, CPU)
    device.allow_tf32(False)
    tf32 = precision == "tf32"
    assert {flags for dtype, *flags in map(list, seen) if dtype == torch.float32 for flags in [tuple(flags)]} == {
        (tf32, tf32)
    }


def test_what_does_not_fit_is_left_out_and_a_stack_for_which_nothing_fits_is_too_large(here, monkeypatch):
    fits = {"unfolded"}

    def probe(network, *_):
        if network.convolution not in fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return autotune.Probe(seconds=1.0)

    monkeypatch.setattr(autotune, "_probe", probe)
    assert autotune.fastest(Network(), 2, 4, CPU) == Choice("unfolded")
    fits.clear()
    with pytest.raises(torch.OutOfMemoryError):  # the stack will be halved
        autotune.fastest(Network(), 2, 4, CPU)


def test_what_is_fast_and_wrong_is_not_taken(here, monkeypatch):
    right = WAYS["grouped"]
    monkeypatch.setitem(WAYS, "wrong", lambda *arguments: right(*arguments) * 1.5)
    monkeypatch.setitem(WAYS, "nan", lambda *arguments: right(*arguments) * float("nan"))
    said = "convolution (wrong|nan) is left out on cpu: its gradients differ from those of float64 by"
    with pytest.warns(PerformanceWarning, match=said) as warned:
        choice = autotune.fastest(Network(), 2, 4, CPU)
    assert len(warned) == 2
    assert choice.value not in ("wrong", "nan")
    assert choice.failures.keys() == {"wrong", "nan"}


def test_what_is_not_for_a_network_is_left_out_without_alarm(here, monkeypatch, caplog):
    def unfit(*_):
        raise NotImplementedError("the fused kernels know no tanh")

    monkeypatch.setitem(WAYS, "unfit", unfit)
    caplog.set_level(logging.INFO)
    assert autotune.fastest(Network(), 2, 4, CPU).failures == {}
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "convolution unfit is not for this network or machine: the fused kernels know no tanh")
    ]


def test_what_cannot_be_recorded_is_timed_as_it_is_and_its_process_replaced(here, monkeypatch):
    def record(work, changed, device):
        raise RecordingError("operation not permitted when stream is capturing")

    monkeypatch.setattr(autotune, "record", record)
    assert autotune.fastest(Network(), 2, 4, CPU).value in WAYS
    assert here.closed == len(WAYS)


def test_where_nothing_works_the_reasons_are_given(here, monkeypatch):
    def fails(*_):
        raise RuntimeError("no such device")

    monkeypatch.setattr(autotune, "_probe", fails)
    with pytest.raises(RuntimeError, match=r"no convolution works on cpu: .*no such device"):
        autotune.fastest(Network(), 2, 4, CPU)


# ---------------------------------------------------------------- in another process


def _probe_among_bad_ones(network, *rest):
    """As `autotune._probe`, in a process whose candidates are bad."""

    def crashes(*_):
        os.kill(os.getpid(), 9)

    def raises(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    WAYS.update(crashes=crashes, raises=raises)
    return autotune._probe(network, *rest)


def test_a_candidate_that_crashes_costs_only_itself(monkeypatch):
    for name in ("loop", "grouped_channels_last"):
        monkeypatch.delitem(WAYS, name)
    for name in ("crashes", "raises"):
        monkeypatch.setitem(WAYS, name, None)  # never called in this process
    monkeypatch.setattr(autotune, "_probe", _probe_among_bad_ones)
    with pytest.warns(PerformanceWarning, match="convolution (crashes|raises) is left out on cpu: ") as warned:
        choice = autotune.fastest(Network(), 2, 4, CPU)
    assert len(warned) == 2
    assert choice.value in ("grouped", "unfolded")
    assert choice.failures == {
        "crashes": "its process ended with exit code -9",
        "raises": "RuntimeError: CUDA error: an illegal memory access was encountered",
    }


# ---------------------------------------------------------------- for which stacks


def test_on_a_cpu_nothing_depends_on_the_stack(cache):
    for trials in (1, 7, 64):
        assert autotune.with_convolution(Network(), trials, 64, CPU).convolution == "loop"
    assert not cache.exists()


def test_elsewhere_it_depends_on_the_stack_up_to_a_factor_of_two(cache, monkeypatch):
    monkeypatch.setattr(autotune, "fastest", lambda network, trials, *_: Choice(f"for {trials}"))
    monkeypatch.setattr(device, "key", lambda device: "GPU, driver 1, optbench 2, torch 3, triton 4")
    cuda = torch.device("cuda")
    chosen = [autotune.with_convolution(Network(), n, 64, cuda).convolution for n in (1, 2, 3, 4, 5)]
    assert chosen == ["for 1", "for 2", "for 4", "for 4", "for 8"]
    assert autotune.with_convolution(Network("mlp"), 4, 64, cuda) == Network("mlp")
    key = "GPU, driver 1, optbench 2, torch 3, triton 4, convolution, cnn, relu, fp32, 8 × 64 × 1 × 28 × 28"
    assert key in json.loads(cache.read_text())
