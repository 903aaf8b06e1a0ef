"""Exceptions for what the user can fix, caught once, in `cli`, and a warning for what is only slower."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable

_REASON = 300  # characters: a compiler's may have thousands


class UserError(Exception):
    """A problem that the user can fix; its text is shown without a traceback and the exit code is 2."""


class ArgumentError(UserError):
    """An argument with an impossible value; the command line names its option instead of the argument."""

    def __init__(self, argument: str, value: object, problem: str) -> None:
        super().__init__(f"{argument} {value}: {problem}")
        self.argument, self.value, self.problem = argument, value, problem


class PerformanceWarning(UserWarning):
    """Something works, but more slowly than it could; `cli` shows only its text, without a place in the code."""


def warn_slower(what: str, reason: str) -> None:
    """Warn in one line of what is slower, and why; the same line is shown only once.

    Of a long reason it has the beginning and the end: a compiler says last what is wrong.
    """
    line = " ".join(reason.split())
    if len(line) > _REASON:
        line = f"{line[: _REASON // 3].rstrip()} … {line[-_REASON * 2 // 3 :].lstrip()}"
    warnings.warn(f"{what}: {line}", PerformanceWarning, stacklevel=2)


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """The end of an error message: the nearest valid word, or all of them when none is near."""
    names = {name.lower(): name for name in valid}
    near = difflib.get_close_matches(word.lower(), names, n=1)
    return f"did you mean '{names[near[0]]}'?" if near else f"valid: {', '.join(names.values())}"
