"""What the user can mend: one exception, caught once, in `cli`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A problem that the user can mend; its text is shown without a traceback and the exit code is 2."""


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """The end of an error message: the nearest valid word, or all of them when none is near."""
    names = list(valid)
    near = difflib.get_close_matches(word, names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(names)}"
