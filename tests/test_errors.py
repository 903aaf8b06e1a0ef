"""What users are told: in one line, and what matters of it."""

import pytest

from optbench.errors import PerformanceWarning, did_you_mean, warn_slower


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("no\n  compiler ", "slow: no compiler"),
        ("at " + "x" * 297, "slow: at " + "x" * 297),
        ("error at " + "y" * 1000 + "\nout of registers", f"slow: error at {'y' * 91} … {'y' * 183} out of registers"),
    ],
)
def test_a_warning_has_the_beginning_and_the_end_of_a_long_reason(reason, line):
    with pytest.warns(PerformanceWarning) as warned:
        warn_slower("slow", reason)
    assert str(warned[0].message) == line


def test_the_nearest_word_is_meant_or_any():
    assert did_you_mean("adma", ["sgd", "adam"]) == "did you mean 'adam'?"
    assert did_you_mean("zzz", ["sgd", "adam"]) == "valid: sgd, adam"
