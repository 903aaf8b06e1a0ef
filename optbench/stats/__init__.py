"""Rows → numbers: pure functions on data frames, without I/O. Columns are those of `store.COLUMNS`.

Accuracies are shares between 0 and 1; every interval is one of 95 %. Each file has one question:

finals      what does a trial end with?
intervals   how sure is a mean?
selection   which configuration of each optimizer is best, and how good is it?
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
from optbench.stats.selection import by_epoch, compare, ranked, select, sign

__all__ = [
    "AXES",
    "HYPERPARAMETER",
    "SCORES",
    "Estimate",
    "budgets_in_words",
    "by_epoch",
    "compare",
    "estimate",
    "final",
    "ranked",
    "select",
    "sign",
    "states",
    "varying",
    "with_dropout_labels",
    "with_hyperparameters",
]
