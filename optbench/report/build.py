"""Results → a report: which tables a sweep has, the sentences above them, and what holds for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from optbench import stats
from optbench.report import costs, explanations, findings, rankings
from optbench.report.defaults import defaults
from optbench.report.formats import written
from optbench.report.query import Query
from optbench.report.results import Results, length_in_words, prepare, seeds_in_words
from optbench.report.tables import Report, Table
from optbench.results.joined import Joined
from optbench.results.store import Store
from optbench.sweep.axes import COMPARED
from optbench.wording import count


def build(store: Store | Joined, query: Query | None = None) -> Report:
    """The report of a folder of results, or of several. Raises `UserError` when nothing in it can be shown."""
    return report(prepare(store, query or Query()))


def shown(store: Store) -> set[str]:
    """Ids of the configurations in the tables of a folder's report. Raises `UserError` when nothing can be shown."""
    parts = prepare(store, Query()).on_each_dataset().values()
    return set().union(*(rankings.shown(part, by) for part in parts for by in rankings.groups(part)))


def report(results: Results) -> Report:
    """The report of results that are loaded; where there are several datasets, of each and then over all."""
    parts = results.on_each_dataset()
    answers = [_answer(part) for part in parts.values()]
    if len(parts) > 1:
        answers = [_on(dataset, *answer) for dataset, answer in zip(parts, answers, strict=True)]
    sentences = [sentence for said, _ in answers for sentence in said]
    tables = [table for _, found in answers for table in found]
    if len(parts) > 1 and "dataset" in results.query.by:
        tables = [rankings.axis(results, _by(results))]
    elif len(parts) > 1 and not results.query.by and (over_all := explanations.workloads(results)):
        tables.append(over_all)
    note = _note(results, list(parts.values()))
    return Report(results.name, f"{_about(results)}; {results.summary}", tuple(sentences), tuple(tables), note)


def _about(results: Results) -> str:
    """What was trained, for how long, how often and where: "cnn on digits, 8 epochs, 5 seeds and 10 fresh, cpu"."""
    finals = results.finals
    several = {"dataset": "data sets", "model": "models"}
    what = {}
    for name, plural in several.items():
        values = finals[name].unique()
        what[name] = str(values[0]) if len(values) == 1 else f"{len(values)} {plural}"
    where = sorted(finals["device"].dropna().unique())
    return ", ".join([f"{what['model']} on {what['dataset']}", length_in_words(finals), seeds_in_words(finals), *where])


def _on(dataset: str, sentences: list[str], tables: list[Table]) -> tuple[list[str], list[Table]]:
    """The answer for one of several datasets, which says so."""
    named = [
        replace(table, title=f"{table.title} ({dataset})", data=table.data.assign(dataset=dataset)) for table in tables
    ]
    return [f"On {dataset}: {sentences[0]}", *sentences[1:]], named


def _by(results: Results) -> list[str]:
    """The columns that the query asks for a table of."""
    return list(dict.fromkeys(map(results.column, results.query.by)))


def _answer(results: Results) -> tuple[list[str], list[Table]]:
    """The findings and the tables of one dataset."""
    optimizers = rankings.optimizers(results)
    evidence = findings.Evidence(
        optimizers=optimizers,
        defaults=defaults(results, optimizers.data),
        targets=explanations.targets(results, optimizers.data),
        costs=costs.table(results, optimizers.data),
        sensitivity=explanations.sensitivity(results),
        shares=explanations.importance(results),
        curse=explanations.selection(results),
    )
    sentences = findings.sentences(results, evidence)
    by = _by(results)
    if by:
        tables: list[Table | None] = [optimizers if by == ["optimizer"] else rankings.axis(results, by)]
    else:
        _, *others = rankings.groups(results)  # the first are the optimizers
        tables = [
            optimizers,
            rankings.differences(results, optimizers.data),
            evidence.defaults,
            *(rankings.axis(results, columns) for columns in others),
            evidence.sensitivity,
            explanations.divergence(results),
            explanations.failures(results),
            evidence.targets,
            evidence.costs,
            explanations.workloads(results),
            evidence.shares,
            evidence.curse,
            explanations.tuning(results),
            explanations.epochs(results, optimizers.data),
        ]
    found, budgets = [table for table in tables if table is not None], results.outline.budgets
    if len(set(budgets.values())) > 1:
        unequal = f"The tuning budgets differ: {stats.budgets_in_words(budgets)}."
        found = [replace(table, caption=f"{table.caption} {unequal}".strip()) for table in found]
    return sentences, found


def _note(results: Results, parts: Sequence[Results]) -> str:
    """What holds for all tables; `parts` are the results on each dataset."""
    text = f"Each row shows its best configuration by mean {results.metric} over the seeds, {results.query.when}."
    if results.confirming is not None:
        text += (
            " Where optimizers as a whole are compared it is scored on fresh seeds, which selected nothing; elsewhere "
            "the same seeds select and score."
        )
    else:
        text += " The same seeds select and score."
    for share in results.shares[1:]:
        text += f" From {share.name}: {', '.join(share.optimizers) or 'nothing that is not in yours'}."
    budgets = parts[0].outline.budgets
    if budgets and len({n for part in parts for n in part.outline.budgets.values()}) == 1:
        text += f" Tuning budget: {stats.budgets_in_words(budgets)}."
    said = [name for name in COMPARED if name not in results.varying and not _is_left_out(results, name)]
    constant = [f"{name} {written(results.finals[name].iloc[0])}" for name in said]
    constant.insert("dataset" not in results.varying, length_in_words(results.finals))
    return (
        f"{text} n: seeds behind the scores; ±: 95 % interval of the mean (Student's t; from 20 seeds on BCa bootstrap "
        "as [low, high]; none for n = 1); lost: seeds that diverged (loss infinite or NaN) or ended no better than "
        "guessing, of those scored: scores leave them out, order and tests count them as guessing. Rank: those that "
        "share one cannot be told apart; 2–5 is where the true rank lies, with 95 % confidence for all rows together "
        "(paired t tests on common seeds, their variances moderated by those of all rows, Shaffer's correction over "
        f"all pairs of rows that are ranked together). {_images(parts)}{_pretraining(results)} The same for all: "
        f"{', '.join(constant)}; and what is not named, as by default."
    )


def _is_left_out(results: Results, name: str) -> bool:
    """Whether an axis that all trials leave at its default goes without saying."""
    axis = COMPARED[name]
    if axis.is_always_hashed or axis.is_workload or axis.is_resolved or not axis.has_default:
        return False
    default = axis.columns[0].of(axis.default)
    return written(results.finals[name].iloc[0]) == written("none" if default is None else default)


def _pretraining(results: Results) -> str:
    """What trials began with, where any did not begin from scratch, and what that took."""
    networks, recipes = results.pretraining, [text for text in results.rows["pretrain"].unique() if text]
    if networks.empty or not recipes:
        return ""
    where, finished = sorted(networks["device"].unique()), int((networks["status"] == "finished").sum())
    text = (
        f" Trials that are not from scratch begin with a network that was pretrained ({'; '.join(recipes)}) with their "
        f"own seed, so that intervals contain the spread of pretraining: {count(len(networks), 'network')}, "
        f"{networks['epoch'].sum():,} epochs in all, on {', '.join(where)}, which no epochs and seconds here contain."
    )
    lost = len(networks) - finished
    return text + f" {lost} of them diverged or failed; trials that would begin with these failed." * (lost > 0)


def _images(parts: Sequence[Results]) -> str:
    """What intervals and ranks do not hold for: other images."""
    if parts[0].score.is_loss:
        return "All this is about other seeds, not about other images."
    errors = [f"± {100 * 1.96 * part.error_of_images:.2g} points for {part.images:,} images" for part in parts]
    text = (
        "All this is about other seeds on the same images; other images would move the best accuracy by "
        f"{', '.join(errors)} (at the top: Wilson's interval)."
    )
    if all(part.correct is not None for part in parts):
        return f"{text} What holds for other images, too, the table of differences and the sentences say."
    kept = "which images were right is kept for the last epoch, and was not by older versions"
    return f"{text} How far they would move differences is not known: {kept}."
