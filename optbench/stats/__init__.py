"""Rows → numbers: pure functions on data frames, without I/O. Columns are those of `store.COLUMNS`.

Accuracies are shares between 0 and 1; every interval is one of 95 %. Each file answers one question:

finals      what does a trial end with?
intervals   how sure is a mean?
moderation  how variable are differences, when each has few seeds?
ranking     which groups can be told apart?
images      what would other images change?
verdicts    is each group better or worse than one of them, or as good?
selection   which configuration of each optimizer is best, and how good is it?
gains       what does tuning gain over an optimizer's defaults?
tuning      what does a tuning budget buy, how much does lr matter, what diverges, what was luck?
importance  which choices matter?
cost        what does it take in state, gradients, seconds and memory, and who is best at equal seconds?
targets     how soon is a trial good enough?
workloads   which optimizer is best over several workloads?
pairing     what changed between two results of the same trials?
"""

from optbench.stats.cost import Costs, after, costs, pareto
from optbench.stats.finals import (
    HYPERPARAMETER,
    SCORES,
    budgets_in_words,
    chance,
    final,
    images_of,
    states,
    varying,
    with_hyperparameters,
    with_labels,
    with_worst,
)
from optbench.stats.gains import gains
from optbench.stats.images import on_other_images
from optbench.stats.importance import importance
from optbench.stats.intervals import Estimate, estimate, iqm, median, t_interval, wilson
from optbench.stats.moderation import moderate
from optbench.stats.pairing import ROUNDING, Matched, changes, match, rounding, welch
from optbench.stats.ranking import candidates, differences, holm, ranks, resolution, shaffer
from optbench.stats.selection import Correct, at_epoch, by_epoch, chosen, compare, ranked, select, ties
from optbench.stats.targets import reaches, summarise_targets, target, time_to_target
from optbench.stats.tuning import divergence, expected_best, lr_sensitivity, tuning_curves, winners_curse
from optbench.stats.verdicts import Reference, seeds_needed, verdicts
from optbench.stats.workloads import (
    Friedman,
    aggregate,
    friedman,
    performance_profile,
    profile_score,
    signed_ranks,
    tied_groups,
)

__all__ = [
    "HYPERPARAMETER",
    "ROUNDING",
    "SCORES",
    "Correct",
    "Costs",
    "Estimate",
    "Friedman",
    "Matched",
    "Reference",
    "after",
    "aggregate",
    "at_epoch",
    "budgets_in_words",
    "by_epoch",
    "candidates",
    "chance",
    "changes",
    "chosen",
    "compare",
    "costs",
    "differences",
    "divergence",
    "estimate",
    "expected_best",
    "final",
    "friedman",
    "gains",
    "holm",
    "images_of",
    "importance",
    "iqm",
    "lr_sensitivity",
    "match",
    "median",
    "moderate",
    "on_other_images",
    "pareto",
    "performance_profile",
    "profile_score",
    "ranked",
    "ranks",
    "reaches",
    "resolution",
    "rounding",
    "seeds_needed",
    "select",
    "shaffer",
    "signed_ranks",
    "states",
    "summarise_targets",
    "t_interval",
    "target",
    "tied_groups",
    "ties",
    "time_to_target",
    "tuning_curves",
    "varying",
    "verdicts",
    "welch",
    "wilson",
    "winners_curse",
    "with_hyperparameters",
    "with_labels",
    "with_worst",
]
