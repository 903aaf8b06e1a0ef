"""Rows → numbers: pure functions on data frames, without I/O. Columns are those of `store.COLUMNS`.

Accuracies are shares between 0 and 1; every interval is one of 95 %. Each file answers one question:

finals      what does a trial end with?
intervals   how sure is a mean?
ranking     which groups can be told apart?
selection   which configuration of each optimizer is best, and how good is it?
tuning      what does a tuning budget buy, how much does lr matter, what diverges, what was luck?
importance  which choices matter?
targets     how soon is a trial good enough?
workloads   which optimizer is best over several workloads?
pairing     what changed between two results of the same trials?
"""

from optbench.stats.finals import (
    HYPERPARAMETER,
    SCORES,
    budgets_in_words,
    final,
    states,
    varying,
    with_dropout_labels,
    with_hyperparameters,
)
from optbench.stats.importance import importance
from optbench.stats.intervals import Estimate, estimate, iqm, median, t_interval
from optbench.stats.pairing import Matched, changes, match, welch
from optbench.stats.ranking import differences, holm, rank, resolution, seeds_needed
from optbench.stats.selection import at_epoch, by_epoch, chosen, compare, ranked, select
from optbench.stats.targets import summarise_targets, target, time_to_target
from optbench.stats.tuning import divergence, expected_best, lr_sensitivity, tuning_curves, winners_curse
from optbench.stats.workloads import Friedman, friedman, performance_profile, profile_score

__all__ = [
    "HYPERPARAMETER",
    "SCORES",
    "Estimate",
    "Friedman",
    "Matched",
    "at_epoch",
    "budgets_in_words",
    "by_epoch",
    "changes",
    "chosen",
    "compare",
    "differences",
    "divergence",
    "estimate",
    "expected_best",
    "final",
    "friedman",
    "holm",
    "importance",
    "iqm",
    "lr_sensitivity",
    "match",
    "median",
    "performance_profile",
    "profile_score",
    "rank",
    "ranked",
    "resolution",
    "seeds_needed",
    "select",
    "states",
    "summarise_targets",
    "t_interval",
    "target",
    "time_to_target",
    "tuning_curves",
    "varying",
    "welch",
    "winners_curse",
    "with_dropout_labels",
    "with_hyperparameters",
]
