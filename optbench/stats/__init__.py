"""Rows → numbers: pure functions on data frames, without I/O. Columns are those of `store.COLUMNS`.

Accuracies are shares between 0 and 1; every interval is one of 95 %. Each file has one question:

finals      what does a trial end with?
intervals   how sure is a mean?
selection   which configuration of each optimizer is best, and how good is it?
pairing     what changed between two results of the same trials?
"""

from optbench.stats.finals import (
    AXES,
    HYPERPARAMETER,
    SCORES,
    budgets_in_words,
    final,
    states,
    varying,
    with_dropout_labels,
    with_hyperparameters,
)
from optbench.stats.intervals import Estimate, estimate
from optbench.stats.pairing import COMPARED, Matched, changes, match, welch
from optbench.stats.selection import by_epoch, compare, select, sign

__all__ = [
    "AXES",
    "COMPARED",
    "HYPERPARAMETER",
    "SCORES",
    "Estimate",
    "Matched",
    "budgets_in_words",
    "by_epoch",
    "changes",
    "compare",
    "estimate",
    "final",
    "match",
    "select",
    "sign",
    "states",
    "varying",
    "welch",
    "with_dropout_labels",
    "with_hyperparameters",
]
