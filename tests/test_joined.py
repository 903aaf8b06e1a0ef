"""Results of several folders read as one: the same report as of one sweep, or a refusal that names what differs."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optbench import stats
from optbench.errors import UserError
from optbench.report import agreement, build, formats
from optbench.report.query import Query
from optbench.report.results import prepare
from optbench.results.correct import SPLITS
from optbench.results.joined import Joined
from optbench.results.store import SCHEMA, Store
from optbench.scores import Score
from optbench.sweep import axes
from tests.generate import write


def part(whole, folder, keep, outline=lambda outline: outline, **columns):
    """Some trials of a folder of results in a folder of their own, with other values in some columns."""
    store = Store(folder)
    folder.mkdir(parents=True)
    labels = {}
    for path in whole.parts():
        table = pq.read_table(path)
        table = table.filter([keep(row) for row in table.select(["optimizer", "seed", "phase"]).to_pylist()])
        labels |= dict(zip(table["trial_id"].to_pylist(), table["optimizer"].to_pylist(), strict=True))
        for name, value in columns.items():
            changed = [value(row) for row in table.to_pylist()] if callable(value) else [value] * len(table)
            at = SCHEMA.get_field_index(name)
            table = table.set_column(at, SCHEMA.field(at), pa.array(changed, SCHEMA.field(at).type))
        if len(table):
            pq.write_table(table, folder / path.name)
    full = whole.outline()
    kept = list(dict.fromkeys(labels.values()))
    small = replace(
        full,
        trial_ids=tuple(i for i in full.trial_ids if i in labels),
        confirm_ids=tuple(i for i in full.confirm_ids if i in labels),
        optimizers={label: full.optimizers[label] for label in full.optimizers if label in kept},
        budgets={label: full.budgets[label] for label in full.budgets if label in kept},
    )
    store.write_meta("outline.json", json.dumps(vars(outline(small))))
    return store


OWN = ("sgd", "nesterov")
SHAPE = {"optimizers": 4, "schedules": 2, "batch_sizes": 1, "dropouts": 2, "seeds": 3, "confirm": 3, "diverged": 0.1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep that trained all optimizers."""
    return write(tmp_path_factory.mktemp("whole") / "all", 120, 3, **SHAPE)


@pytest.fixture(scope="module")
def own(whole, tmp_path_factory):
    """What an author would have trained of it."""
    return part(whole, tmp_path_factory.mktemp("own") / "mine", is_own)


@pytest.fixture(scope="module")
def theirs(whole, tmp_path_factory):
    """The others."""
    return part(whole, tmp_path_factory.mktemp("theirs") / "theirs", lambda row: not is_own(row))


def is_own(row):
    return row["optimizer"] in OWN


def refused(*stores):
    with pytest.raises(UserError) as error:
        agreement.beside(stores[0], stores[1:])
    return str(error.value)


@pytest.mark.parametrize("query", [Query(), Query(metric=Score.val_loss, at="best")])
def test_the_report_of_the_parts_is_that_of_the_undivided_sweep(whole, own, theirs, query):
    undivided, joined = prepare(whole, query), prepare(agreement.beside(own, [theirs]), query)
    expected, report = build.report(undivided), build.report(joined)
    assert report.note.replace(" From all: adam, adamw.", "") == expected.note != report.note
    report = replace(report, note=expected.note)
    for text in (formats.to_json, formats.markdown):  # all numbers, and all that is shown
        assert text(report) == text(expected)
    for name in ("rows", "finals", "tuning", "confirming", "timed"):  # what plots are made from
        frames = [getattr(results, name).sort_values(["trial_id", "epoch"]) for results in (joined, undivided)]
        pd.testing.assert_frame_equal(*(frame.reset_index(drop=True) for frame in frames))


def test_the_first_folders_optimizers_have_sentences_of_their_own(tmp_path):
    whole = write(tmp_path / "all", 80, 2, schedules=1, batch_sizes=1, dropouts=1, seeds=5, confirm=5, diverged=0)
    others = part(whole, tmp_path / "others", lambda row: row["optimizer"] != "lion")
    joined = Joined([part(whole, tmp_path / "lion", lambda row: row["optimizer"] == "lion"), others])
    ask = Query(baseline="adamw")
    report = build.build(joined, ask)
    first, second, *_ = report.findings
    assert first.startswith("lion is ") and "adamw: " in first
    assert second.startswith("Against adamw, ") and "lion" not in second
    assert build.build(whole, ask).findings[0].startswith("Against adamw, ")
    corrected = "corrected for 1 comparison of lion with adamw, and apart from them for 6 others."
    assert corrected in " ".join(table.caption for table in report.tables)
    # What one family corrects for are the p that each comparison has by itself.
    results = prepare(whole, ask)
    labels = sorted(set(results.tuning["optimizer"]) - {"adamw"})
    by_itself = [of_asked(results, label)[label] for label in labels]
    assert of_asked(results)[labels].tolist() == pytest.approx(stats.holm(by_itself))
    assert prepare(Joined([whole, others]), ask).reference.asked == {*labels}  # the baseline may be his own, too
    p = report.tables[0].data.set_index("optimizer")["p"]
    assert p["lion"] == by_itself[labels.index("lion")]
    rest = [label for label in labels if label != "lion"]
    assert p[rest].tolist() == pytest.approx(stats.holm([by_itself[labels.index(label)] for label in rest]))


def of_asked(results, *asked):
    """The p of the comparisons with adamw where these are asked about."""
    reference = stats.Reference("adamw", asked=frozenset(asked))
    table = stats.compare(results.tuning, ["optimizer"], results.metric, results.confirming, reference=reference)
    return table.set_index("optimizer")["p"]


def test_which_images_were_right_is_read_from_each_folder(whole, own, theirs):
    def masks(store, seed):
        rows, generator = store.rows(last=True).to_dict("records"), np.random.default_rng(seed)
        return {row["trial_id"]: generator.random(16) < 0.9 for row in rows}, rows

    written = {}
    for store in (own, theirs):
        found, rows = masks(store, len(written))
        bits = [
            row | {f"{split}_images": 16 for split in SPLITS}
            | {f"{split}_correct": np.packbits(found[row["trial_id"]]).tobytes() for split in SPLITS}
            for row in rows
        ]  # fmt: skip
        store.correct.replace("all", bits)
        written |= found
    asked = list(written)[::3]
    read = Joined([own, theirs]).correct.of(asked, "test")
    assert read.keys() == set(asked) and all((read[i] == written[i]).all() for i in asked)


def test_all_that_differs_is_named_at_once(whole, own, tmp_path):
    def other(name, kind):
        return lambda row: f"{row[name]}-x" if kind == "string" else (row[name] or 0) / 2 + 1

    columns = [column for name in agreement.AXES for column in axes.AXES[name].columns if not column.is_redundant]
    changed = {column.name: other(column.name, column.type) for column in columns}
    store = part(
        whole,
        tmp_path / "theirs",
        lambda row: not is_own(row) and row["seed"] not in (2, 10_002),
        lambda outline: replace(
            outline,
            metric="val_loss",
            budgets={"adam": 5, "adamw": 5},
            optimizers={"adam": 1, "adamw": 1},
            halving={"factor": 3, "min_epochs": 1},
            numerics=2,
            splits={"mnist": {"train": 1, "val": 5_000}},
            networks={"cnn": 7},
        ),
        **changed,
    )
    with_sizes = part(
        whole,
        tmp_path / "mine",
        is_own,
        lambda outline: replace(outline, splits={"mnist": {"train": 5_000, "val": 5_000}}, networks={"cnn": 300_426}),
    )
    head, *lines, hint = refused(with_sizes, store).splitlines()
    assert head == f"{with_sizes.folder} and {store.folder} are not shown together; they differ in"
    named = {line.strip().partition(": ")[0]: line.partition(": ")[2] for line in lines}
    assert list(named) == [
        *(name.replace("_", " ") for name in agreement.AXES),
        *("pretraining", "seeds", "fresh seeds", "configurations of each optimizer", "successive halving"),
        *("metric that selects", "version of the numerics", "mnist, images of the train split", "parameters of cnn"),
    ]
    assert named["epochs"] == f"3 in {with_sizes.folder}, 2 in {store.folder}"
    assert named["seeds"] == f"0, 1, 2 in {with_sizes.folder}, 0, 1 in {store.folder}"
    assert named["successive halving"] == f"none in {with_sizes.folder}, factor 3, min_epochs 1 in {store.folder}"
    assert hint == f"'optbench init --optimizer NAME --with {store.folder}' writes a sweep that agrees with it"


def test_the_same_values_in_other_combinations_differ(whole, own, tmp_path):
    swap = {"constant": 0.0, "cosine": 0.25}
    rates = {f"dropout_{place}": lambda row: swap[row["schedule"]] for place in ("conv", "linear")}
    store = part(whole, tmp_path / "theirs", lambda row: not is_own(row), **rates)
    assert refused(own, store).splitlines()[1:-1] == ["  combinations of schedule and dropout: each has others"]


def test_what_has_not_been_trained_yet_may_still_come(whole, own, theirs, tmp_path):
    begun = part(whole, tmp_path / "begun", lambda row: is_own(row) and row["seed"] == 0)
    report = build.build(agreement.beside(begun, [theirs]), Query(baseline="adam"))
    assert report.findings[0] == "sgd and nesterov cannot be compared with adam yet."
    missing = len(whole.statuses()) - len(theirs.statuses()) - len(begun.statuses())
    assert report.summary.endswith(f", {missing} missing")
    assert report.tables[0].caption == "Not confirmed yet: sgd, nesterov."
    more = part(whole, tmp_path / "more", lambda row: is_own(row) and row["seed"] < 3, seed=lambda row: row["seed"] + 1)
    assert "seeds: 1, 2, 3 in" in refused(more, theirs)


def test_the_same_trial_is_read_once_and_from_where_it_is_complete(whole, tmp_path):
    def running(row):
        return "running" if row["optimizer"] == "sgd" else row["status"]

    a = part(whole, tmp_path / "a", is_own, status=running)
    b = part(whole, tmp_path / "b", lambda row: row["optimizer"] != "nesterov", cpu="another CPU")
    joined = agreement.beside(a, [b])
    rows = joined.rows()
    assert len(rows) == len(whole.rows()) and not rows["status"].eq("running").any()
    assert rows.groupby("cpu", observed=True)["optimizer"].unique().map(set).to_dict() == {
        "a made-up CPU": {"nesterov"},
        "another CPU": {"sgd", "adam", "adamw"},
    }
    assert all(rows[name].cat.categories.is_monotonic_increasing for name in rows.select_dtypes("category"))
    assert joined.outline().optimizers == {
        label: whole.outline().optimizers[label] for label in (*OWN, "adam", "adamw")
    }
    assert not joined.is_locked()
    assert Joined([a]).rows(["epoch"]).equals(a.rows(["epoch"]))


def test_an_optimizer_is_confirmed_where_it_was_confirmed_first(whole, own, theirs, tmp_path):
    def another(name):
        return lambda row: f"{row[name]}!" if row["phase"] == "confirm" else row[name]

    again = part(whole, tmp_path / "again", lambda row: row["optimizer"] != "nesterov",
                 trial_id=another("trial_id"), configuration_id=another("configuration_id"))  # fmt: skip
    fixed = replace(again.outline(), confirm_ids=tuple(f"{i}!" for i in again.outline().confirm_ids))
    again.write_meta("outline.json", json.dumps(vars(fixed)))
    fresh = Joined([own, again]).rows().query("phase == 'confirm'")
    assert fresh.groupby("optimizer", observed=True)["configuration_id"].nunique().eq(1).all()
    assert not fresh[fresh["optimizer"] == "sgd"]["trial_id"].str.endswith("!").any()


def test_other_configurations_under_the_same_label_are_refused_with_a_hint(whole, theirs, tmp_path):
    store = part(whole, tmp_path / "own", lambda row: row["optimizer"] == "adam",
                 configuration_id=lambda row: f"{row['configuration_id']}!")  # fmt: skip
    assert refused(store, theirs).splitlines()[1:] == [
        "  adam: the configurations are others; give it a label of its own in your sweep, "
        "'my-adam: {optimizer: adam, …}'"
    ]
    assert refused(theirs, theirs) == f"{theirs.folder} and {theirs.folder} are the same folder"


@pytest.mark.parametrize(("cpu", "called"), [("another CPU", "another CPU"), (None, "an unknown CPU")])
def test_another_kind_of_machine_is_named_and_its_seconds_are_left_out(whole, own, tmp_path, cpu, called):
    alone = {"stack_size": 1, "workers": 1}
    mine = part(whole, tmp_path / "mine", is_own, **alone)
    alike = part(whole, tmp_path / "alike", lambda row: not is_own(row), **alone)
    apart = part(whole, tmp_path / "apart", lambda row: not is_own(row), cpu=cpu, **alone)
    timed = {name: set(Joined([mine, store]).timed(["optimizer"])["optimizer"]) for name, store in
             (("alike", alike), ("apart", apart))}  # fmt: skip
    assert timed == {"alike": {*OWN, "adam", "adamw"}, "apart": set(OWN)}
    assert build.build(Joined([mine, apart])).findings[-1] == (
        f"adam and adamw are from all, measured on {called} with torch 2.13.0+cpu, the others on a made-up CPU "
        "with torch 2.13.0+cpu: on another kind of machine an lr near the edge of stability may round to other scores, "
        "as with another seed."
    )
