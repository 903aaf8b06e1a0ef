"""What a call in another process breaks, it breaks there: the reason comes back, and the next call works."""

import ctypes
import os
import sys
import time

import pytest

from optbench.machine.isolation import CallFailedError, Isolated

ENOUGH = 60.0


@pytest.fixture(scope="module")
def isolated():
    isolated = Isolated()
    yield isolated
    isolated.close()


def add(a, b):
    return a + b


def raises(text):
    raise FileNotFoundError(text)  # as a compiler that is not there does


def crashes():
    ctypes.string_at(0)


def says_why_and_exits(text):
    print(f"a driver's line\n{text}", file=sys.stderr, flush=True)
    os._exit(7)


def test_a_process_serves_many_calls(isolated):
    assert isolated.call(add, 1, 2, seconds=ENOUGH) == 3
    first = isolated.call(os.getpid, seconds=ENOUGH)
    assert first != os.getpid()
    assert isolated.call(os.getpid, seconds=ENOUGH) == first


@pytest.mark.parametrize(
    ("function", "arguments", "seconds", "reason"),
    [
        (raises, ("no cc here",), ENOUGH, "FileNotFoundError: no cc here"),
        (crashes, (), ENOUGH, "its process ended with exit code -11"),
        (says_why_and_exits, ("illegal access",), ENOUGH, "its process ended with exit code 7: illegal access"),
        (time.sleep, (3600,), 0.2, "no answer within 0.2 s"),
        (os.listdir, ("/", 1), ENOUGH, "TypeError"),
    ],
)
def test_a_call_that_fails_says_why_and_costs_only_its_process(function, arguments, seconds, reason, isolated, capfd):
    before = isolated.call(os.getpid, seconds=ENOUGH)
    with pytest.raises(CallFailedError, match=reason):
        isolated.call(function, *arguments, seconds=seconds)
    assert isolated.call(os.getpid, seconds=ENOUGH) != before
    assert capfd.readouterr().err == ""


def test_what_cannot_be_sent_is_the_callers_error(isolated):
    with pytest.raises(Exception, match="pickle"):
        isolated.call(lambda: 1, seconds=ENOUGH)
    assert isolated.call(add, 1, 2, seconds=ENOUGH) == 3
