"""What is fastest is measured once, remembered, and chosen; what cannot run is passed over."""

import json

import pytest
import torch

from optbench import autotune
from optbench.model import CONVOLUTIONS, Network

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.delitem(CONVOLUTIONS, "triton")  # on a CPU its interpreter would take minutes
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "optbench" / "autotune.json"


def test_what_was_measured_is_not_measured_again(cache):
    measured = []

    def measure():
        measured.append(1)
        return "grouped"

    assert [autotune.remembered("a", measure) for _ in range(2)] == ["grouped", "grouped"]
    assert autotune.remembered("b", lambda: 32) == 32
    assert measured == [1]
    assert json.loads(cache.read_text()) == {"a": "grouped", "b": 32}
    cache.write_text("damaged")
    assert autotune.remembered("b", lambda: 64) == 64


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert autotune.remembered("a", lambda: 1) == 1


def test_every_way_to_convolve_is_timed_and_the_fastest_is_taken(monkeypatch):
    timed = {}
    original = autotune._seconds

    def watched(network, *rest):
        timed[network.convolution] = original(network, *rest)
        return timed[network.convolution]

    monkeypatch.setattr(autotune, "_seconds", watched)
    name = autotune.fastest(Network(), 2, 4, CPU)
    assert timed.keys() == CONVOLUTIONS.keys()
    assert timed[name] == min(timed.values()) > 0


def test_what_does_not_fit_or_is_not_there_is_passed_over(cache, monkeypatch):
    def refuses(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    for name in list(CONVOLUTIONS)[:-1]:
        monkeypatch.setitem(CONVOLUTIONS, name, refuses)
    assert autotune.fastest(Network(), 2, 4, CPU) == list(CONVOLUTIONS)[-1]
    monkeypatch.setitem(CONVOLUTIONS, list(CONVOLUTIONS)[-1], refuses)
    with pytest.raises(torch.OutOfMemoryError):  # the stack will be halved
        autotune.with_convolution(Network(), 2, 4, torch.device("meta"))
    assert not cache.exists()


def test_what_is_fast_and_wrong_is_not_taken(monkeypatch):
    right = CONVOLUTIONS["grouped"]
    monkeypatch.setitem(CONVOLUTIONS, "wrong", lambda *arguments: right(*arguments) * 1.5)
    monkeypatch.setattr(autotune, "_seconds", lambda network, *_: 0.0 if network.convolution == "wrong" else 1.0)
    assert autotune.fastest(Network(), 2, 4, CPU) == "grouped"


def test_on_a_cpu_nothing_depends_on_the_stack(cache):
    for trials in (1, 7, 64):
        assert autotune.with_convolution(Network(), trials, 64, CPU).convolution == "loop"
    assert not cache.exists()


def test_elsewhere_it_depends_on_the_stack_up_to_a_factor_of_two(cache, monkeypatch):
    monkeypatch.setattr(autotune, "fastest", lambda network, trials, *_: f"for {trials}")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    cuda = torch.device("cuda")
    chosen = [autotune.with_convolution(Network(), n, 64, cuda).convolution for n in (1, 2, 3, 4, 5)]
    assert chosen == ["for 1", "for 2", "for 4", "for 4", "for 8"]
    assert autotune.with_convolution(Network("mlp"), 4, 64, cuda) == Network("mlp")
    assert f"GPU, torch {torch.__version__}, convolution, relu, fp32, 8 × 64" in json.loads(cache.read_text())
