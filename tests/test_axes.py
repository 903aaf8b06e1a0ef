"""The table of axes: what one row of it brings about, and that several datasets are several workloads."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from pydantic import TypeAdapter

import optbench
from optbench.data.datasets import load
from optbench.data.info import DATASETS
from optbench.errors import UserError
from optbench.execution.in_process import Trainer
from optbench.results.store import COLUMNS, Outline, Store
from optbench.runs.job import Job
from optbench.runs.run import events
from optbench.sweep import spec
from optbench.sweep.axes import AXES, COMPARED, PARAMETERS
from optbench.sweep.spec import parse, to_yaml
from optbench.sweep.stacks import plan
from optbench.sweep.trials import expand
from optbench.training.engine import train

PACKAGE = Path(optbench.__file__).parent
RESULTS = sorted(path.parent.parent for path in (PACKAGE.parent / "results").glob("*/_optbench/outline.json"))


def with_row(file, before, row, folder, *commands, then=""):
    """Run commands of optbench one after another, in one process, where a table in one of its files has another row."""
    package = shutil.copytree(PACKAGE, folder / "optbench", ignore=shutil.ignore_patterns("__pycache__"))
    text = (package / file).read_text(encoding="utf-8")
    assert text.count(before) == 1
    (package / file).write_text(text.replace(before, row + before), encoding="utf-8")
    script = folder / "commands.py"
    script.write_text(
        "import json, sys\n"
        "from pathlib import Path\n"
        "from optbench.cli import app\n"
        "if __name__ == '__main__':  # and not in the workers\n"
        "    for words in json.loads(sys.argv[1]):\n"
        "        assert not app(words, standalone_mode=False), words\n" + then
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), json.dumps([command.split() for command in commands])],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def tables_of(report):
    """Title → the rows of a table."""
    return {table["title"]: pd.DataFrame(table["rows"]) for table in report["tables"]}


# ---------------------------------------------------------------- one row more

LAST = "    seed: Seed = axis("
GRIP = """    grip: Literal["firm", "soft", "none"] = axis(
        Column("grip", "string", "how firmly weights are held"),
        default="firm",
        title="Grips",
        is_workload=True,
    )
"""
SWEEP = """
dataset: digits
epochs: 1
seeds: 2
parameters: {model: softmax, batch_size: 400}
optimizers: {sgd: {lr: 0.1}, adam: {lr: 0.01}}
"""
GRIPPED = SWEEP.replace("400}", "400, grip: [soft, firm, none]}") + "exclude: [{optimizer: adam, grip: none}]"
OWN = """
import torch

class Own(torch.optim.SGD):
    def __init__(self, params, lr=0.1, grip=0.5, strength=1.0):
        super().__init__(params, lr)
"""
ASKED = """
    from optbench.export import gather
    from optbench.sweep.lookup import find
    from optbench.results.store import Store
    runs = [(run.name, run.parameters["grip"]) for run in gather(Store(Path("results/new")))]
    Path("asked.json").write_text(json.dumps([runs, [*find("./own.py:Own", Path()).model_fields]]))
"""


@pytest.fixture(scope="module")
def gripped(tmp_path_factory):
    """A folder in which optbench has worked with an axis more, also on results from before it was there."""
    folder = tmp_path_factory.mktemp("gripped")
    for name, text in {"old.yaml": SWEEP, "new.yaml": GRIPPED, "own.py": OWN}.items():
        (folder / name).write_text(text)
    list(events(Job(spec.read(folder / "old.yaml"), Store(folder / "results" / "old"), "cpu", workers=1)))
    with_row(
        "sweep/axes.py",
        LAST,
        GRIP,
        folder,
        "run new.yaml --workers 1",
        "run new.yaml --workers 1 -o again",
        "run old.yaml",  # nothing to do
        "report results/new -o new.json",
        "report results/old -o old.json",
        "compare results/new again/new --by grip -o same.json",
        "compare results/old results/new -o compared.json",
        "export results/new --to csv -o new.csv",
        then=ASKED,
    )
    return folder


def test_an_axis_is_one_row_from_the_sweep_file_to_the_rows(gripped):
    rows = pd.read_parquet(gripped / "results" / "new")
    assert rows.groupby("optimizer")["grip"].unique().map(sorted).to_dict() == {
        "adam": ["firm", "soft"],
        "sgd": ["firm", "none", "soft"],
    }
    assert rows.groupby("stack")["grip"].nunique().eq(1).all()
    before = {trial.trial_id for trial in expand(parse(SWEEP))}
    assert set(rows[rows["grip"] == "firm"]["trial_id"]) == before  # what has the default is what it was
    assert not before & set(rows[rows["grip"] != "firm"]["trial_id"])


def test_an_axis_is_one_row_from_the_rows_to_the_tables(gripped):
    report = read(gripped / "new.json")
    table = tables_of(report)["Grips"]
    found = set(zip(table["optimizer"], table["grip"], strict=True))
    assert found == {(label, grip) for label in ("sgd", "adam") for grip in ("firm", "soft", "none")} - {
        ("adam", "none")
    }
    assert table["n"].eq(2).all()
    (workloads,) = (table for table in report["tables"] if table["title"] == "Across workloads")
    assert workloads["caption"].startswith("3 workloads: each combination of grip.")


def test_an_axis_is_one_row_from_the_rows_to_a_comparison(gripped):
    (table,) = tables_of(read(gripped / "same.json")).values()
    assert table.set_index("grip")["identical_of"].to_dict() == {
        "soft": "4/4",
        "firm": "4/4",
        "none": "2/2",
        "all": "10/10",
    }


def test_an_axis_is_one_row_from_the_rows_to_an_export(gripped):
    exported, rows = (
        pd.read_csv(gripped / "new.csv", keep_default_na=False),
        pd.read_parquet(gripped / "results" / "new"),
    )
    assert exported["grip"].value_counts().to_dict() == rows["grip"].value_counts().to_dict()
    runs, arguments = read(gripped / "asked.json")
    assert len(runs) == 10
    assert all(f"_grip={grip}_" in name for name, grip in runs)
    assert arguments == ["lr", "strength"]  # of an optimizer, since `grip` has another meaning in a sweep file now


def test_rows_from_before_an_axis_have_its_default(gripped):
    assert "grip" not in pd.read_parquet(gripped / "results" / "old")
    assert "grip firm" in read(gripped / "old.json")["note"]
    compared = read(gripped / "compared.json")
    assert compared["findings"] == ["No trial differs: 4 of 4 are bit-identical."]
    assert "Only in B: 6 trials of 3 configurations." in compared["tables"][0]["caption"]


# ---------------------------------------------------------------- the rows that there are


def test_every_default_is_a_value_of_its_axis():
    for name, axis in PARAMETERS.items():
        if name != "schedule":  # whose values in a sweep file are names
            given = list(axis.default) if isinstance(axis.default, tuple) else axis.default
            assert TypeAdapter(axis.kind).validate_python(given) == axis.default


def test_every_axis_has_columns_of_its_own():
    names = [column.name for axis in AXES.values() for column in axis.columns]
    assert len(set(names)) == len(names)
    assert set(names) < {name for name, *_ in COLUMNS}
    for name in COMPARED:
        assert name in names, "a table of its values is made from the column of its name"


@pytest.mark.parametrize("folder", [f for f in RESULTS if "optimizers" not in f.name], ids=lambda folder: folder.name)
def test_the_trials_of_committed_results_have_kept_their_ids_and_their_order(folder):
    """Those with optimizers of a library are left out: its version is in their ids."""
    outline = Store(folder).outline()
    sweep = spec.read(folder / "_optbench" / "sweep.yaml")
    assert tuple(trial.trial_id for trial in expand(sweep)) == outline.trial_ids
    rows = Store(folder).rows(["trial_id", *(column.name for axis in AXES.values() for column in axis.columns)])
    assert set(outline.trial_ids) <= set(rows["trial_id"])
    assert parse(to_yaml(sweep)) == sweep  # an axis that is newer than the file has its default


# ---------------------------------------------------------------- several datasets

FIRST = '    "digits": DatasetInfo('
LETTERS = """    "letters": DatasetInfo(
        "Digits, otherwise split", "", 10, 1_000, 297, 500, (0.3053,), (0.3247,), (), {}, {}
    ),
"""
BOTH = """
dataset: [digits, letters]
epochs: 2
seeds: 2
parameters: {model: softmax, batch_size: [200, 400]}
optimizers: {sgd: {lr: [0.01, 1.0]}, adam: {lr: [0.001, 0.01]}}
confirm: {seeds: 3}
exclude: [{dataset: letters, batch_size: 400}]
"""
LETTERS_ALONE = BOTH.replace("[digits, letters]", "letters").replace("[200, 400]", "200").partition("exclude")[0]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A folder in which a sweep over two datasets has run, and one over the second alone; and what was said."""
    folder = tmp_path_factory.mktemp("both")
    (folder / "both.yaml").write_text(BOTH)
    (folder / "alone.yaml").write_text(LETTERS_ALONE)
    said = with_row(
        "data/info.py",
        FIRST,
        LETTERS,
        folder,
        "run both.yaml --workers 1",
        "run alone.yaml --workers 1",
        "report results/both -o both.json",
        "report results/both -o both.md",
        "report results/both -o both.html",
        "report results/both --format figures -o figures",
        "report results/both --by dataset,optimizer -o by.json",
        "report results/alone -o alone.json",
        "compare results/alone results/both -o compared.json",
    )
    return folder, said


@pytest.mark.slow
def test_a_sweep_over_datasets_selects_and_confirms_on_each(both):
    folder, said = both
    assert "both: 24 trials of 2 epochs on digits and letters" in said
    assert "then each optimizer's selected configuration on 3 fresh seeds: 12 trials more" in said
    rows = pd.read_parquet(folder / "results" / "both")
    assert rows.groupby("stack")["dataset"].nunique().eq(1).all()
    last = rows[rows["epoch"] == 2]
    tuned, confirming = (last[last["phase"] == phase] for phase in ("tune", "confirm"))
    means = tuned.groupby(["dataset", "optimizer", "configuration_id"])["val_accuracy"].mean()
    best = {group: of_group.idxmax()[2] for group, of_group in means.groupby(level=[0, 1])}
    found = confirming.groupby(["dataset", "optimizer"])["configuration_id"].unique()
    assert found.map(list).to_dict() == {group: [configuration] for group, configuration in best.items()}
    outline = Store(folder / "results" / "both").outline()
    assert outline.splits["letters"] == {"train": 1000, "val": 297, "test": 500}
    assert outline.splits["digits"] == DATASETS["digits"].splits
    assert outline.optimizers == {"sgd": 18, "adam": 18}
    assert len(outline.confirm_ids) == 12


@pytest.mark.slow
def test_the_report_on_several_datasets_says_of_each_what_its_own_sweep_would_say(both):
    folder, _ = both
    report, alone = read(folder / "both.json"), read(folder / "alone.json")
    assert f"On letters: {alone['findings'][0]}" in report["findings"]
    assert {said for said in alone["findings"][1:] if "seconds" not in said} <= set(report["findings"])
    found, expected = tables_of(report), tables_of(alone)
    for title, table in expected.items():
        part = found.pop(f"{title} (letters)")
        assert part.pop("dataset").eq("letters").all()
        columns = [name for name in table if not name.startswith("seconds")]  # those are never the same twice
        if title == "Cost":
            columns = ["optimizer", "configuration_id", "state_per_parameter", "gradients_per_step"]
        pd.testing.assert_frame_equal(part[columns], table[columns])
    assert all(title.endswith(" (digits)") for title in found if title != "Across workloads")
    assert {"Optimizers (digits)", "Batch sizes and training time (digits)", "Across workloads"} <= set(found)
    assert "dataset" not in report["note"].partition("The same for all:")[2]
    assert (folder / "both.md").read_text(encoding="utf-8").count("## Optimizers (") == 2


@pytest.mark.slow
def test_a_table_may_be_asked_for_over_all_datasets(both):
    (table,) = tables_of(read(both[0] / "by.json")).values()
    found = set(zip(table["dataset"], table["optimizer"], strict=True))
    assert found == {(dataset, label) for dataset in ("digits", "letters") for label in ("sgd", "adam")}


@pytest.mark.slow
def test_the_plots_of_several_datasets_compare_nothing_across_them(both):
    folder, _ = both
    page = (folder / "both.html").read_text(encoding="utf-8")
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert data["axes"][data["by"]]["name"] == "dataset"
    assert not {"tuning", "targets"} & {plot["name"] for plot in data["plots"]}
    assert (folder / "figures" / "curves.svg").exists()


@pytest.mark.slow
def test_a_comparison_says_which_dataset_one_side_has_alone(both):
    compared = read(both[0] / "compared.json")
    assert "No trial differs: 14 of 14 are bit-identical." in compared["findings"]
    assert "Only B has the dataset digits; only what both have is compared." in compared["findings"]


def test_a_batch_may_be_too_large_for_one_dataset_if_it_is_excluded_there():
    text = "dataset: [digits, mnist]\nepochs: 1\nparameters: {batch_size: [64, 5000]}\noptimizers: {adam: }\n"
    with pytest.raises(UserError) as caught:
        expand(parse(text))
    assert str(caught.value) == (
        "sweep:4:19: adam: batch_size 5000 is larger than the training set of digits, 1200 images "
        "(use 'exclude' for single combinations)"
    )
    trials = expand(parse(text + "exclude: [{dataset: digits, batch_size: 5000}]"))
    assert [(trial.dataset, trial.batch_size) for trial in trials] == [("digits", 64), ("mnist", 64), ("mnist", 5000)]
    assert [len(stack) for stack in plan(trials, 4)] == [1, 1, 1]
    with pytest.raises(UserError, match=r"batch_size 70000 is larger than the training set of 55000 images$"):
        parse(text.replace("5000", "70000"))


@pytest.mark.parametrize(
    ("datasets", "problem"),
    [
        ("[digits, mnits]", "1:19: unknown dataset 'mnits'; did you mean 'mnist'?"),
        ("[digits, digits]", "1:10: the value the text 'digits' occurs twice"),
        ("[]", "1:10: needs at least one value"),
        ("[[digits]]", "1:11: must be text, not ['digits']"),
    ],
)
def test_what_is_wrong_with_a_list_of_datasets_is_named_with_its_place(datasets, problem):
    with pytest.raises(UserError) as caught:
        parse(f"dataset: {datasets}\nepochs: 1\noptimizers: {{adam: }}")
    assert str(caught.value) == f"sweep:{problem}"


def test_an_outline_from_before_there_were_several_datasets_is_read(tmp_path):
    store = Store(tmp_path)
    store.begin(Outline("s", optbench.scores.Score.val_loss, (), {}), "", {})
    text = (store.meta / "outline.json").read_text()
    (store.meta / "outline.json").write_text(text.replace('"splits": {}', '"splits": {"train": 30, "val": 10}'))
    assert store.outline().splits == {"": {"train": 30, "val": 10}}


def test_a_trial_is_trained_on_its_own_split(tmp_path):
    """Its rows are those of the same stack with the dataset of that split, and the default's those of ever before."""
    text = "dataset: digits\nepochs: 1\noptimizers: {sgd: {lr: 0.1}}\nparameters: {model: softmax, split_seed: [0, 3]}"
    stacks = plan(expand(parse(text)), 4)
    assert [stack.split_seed for stack in stacks] == [0, 3]
    trainer = Trainer("cpu", None)
    rows = {stack.split_seed: list(trainer.advance(stack)) for stack in stacks}
    for stack in stacks:
        expected = list(train(stack, load("digits", split_seed=stack.split_seed), "cpu"))
        for found, wanted in zip(rows[stack.split_seed], expected, strict=True):
            assert found[0]["val_loss"] == wanted[0]["val_loss"]
    assert rows[0][0][0]["val_loss"] != rows[3][0][0]["val_loss"]
    without = expand(parse(text.replace(", split_seed: [0, 3]", "")))
    assert without[0].trial_id == stacks[0].trials[0].trial_id
