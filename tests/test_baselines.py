"""Baselines: those that come with optbench are what they say, and an author's own sweep stands beside them."""

import json
import re

import pandas as pd
import pytest
import yaml

from optbench import baselines
from optbench.errors import UserError
from optbench.report import build
from optbench.results.store import Store
from optbench.sweep.settings import Settings
from optbench.sweep.spec import parse, read, to_yaml
from optbench.sweep.trials import expand
from tests.test_cli import OWN, REPOSITORY, invoke
from tests.test_report import accuracy, fill

NAMES = baselines.names()


def test_a_baseline_is_found_by_its_name_and_other_results_by_their_folder(tmp_path, monkeypatch):
    assert baselines.USUAL in NAMES
    assert baselines.locate(baselines.USUAL) == baselines.FOLDER / baselines.USUAL
    assert baselines.name(baselines.locate(baselines.USUAL)) == baselines.USUAL
    monkeypatch.chdir(tmp_path)
    (tmp_path / baselines.USUAL).mkdir()
    assert baselines.locate(f"./{baselines.USUAL}").resolve() == tmp_path / baselines.USUAL
    with pytest.raises(UserError, match=r"with digit-cnn: no such .*; did you mean 'digits-cnn'"):
        baselines.locate("digit-cnn")


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_is_complete_and_what_its_sweep_file_says(name):
    file = f"experiments/{name.replace('-', '_')}.yaml"
    out, _ = invoke("run", file, "--dry-run", "--output", baselines.FOLDER, cwd=REPOSITORY)
    left = [line.rpartition(" ")[2] for line in out.splitlines() if re.search(r" \d+$", line)]
    assert len(left) >= 2 and set(left) == {"0"}, out  # of each optimizer, to tune and to confirm
    folder = baselines.locate(name)
    assert read(folder / "_optbench" / "sweep.yaml") == read(REPOSITORY / file)
    report = build.build(Store(folder))
    assert re.search(r"; (\d+) trials: ", report.summary) and not re.search("missing|failed|running", report.summary)
    assert {path.name for path in folder.glob("_optbench/*")} <= {"outline.json", "sweep.yaml", "lock", "correct"}
    assert len(Store(folder).parts()) == 1


def test_the_table_of_baselines_is_computed_from_their_files():
    tables = json.loads(invoke("baselines", "--format", "json", cwd=REPOSITORY)[0])["tables"]
    listed = {row["baseline"]: row for row in tables[0]["rows"]}
    assert list(listed) == NAMES
    for name, row in listed.items():
        sweep, rows = read(baselines.locate(name) / "_optbench" / "sweep.yaml"), pd.read_parquet(baselines.locate(name))
        assert row["optimizers"] == ", ".join(sweep.optimizers)
        assert row["seeds"] == f"{len(sweep.seeds)} seeds and {len(sweep.confirm)} fresh"
        assert (row["epochs"], row["dataset"], row["budget"]) == (
            sweep.epochs,
            *sweep.datasets,
            sweep.search.num_samples,
        )
        assert row["measured"] == f"{rows['cpu'][0]} with torch {rows['torch_version'][0]}"
    assert "digits-cnn  digits   cnn" in invoke("baselines", cwd=REPOSITORY)[0]


def test_init_takes_the_settings_of_the_usual_baseline(tmp_path):
    (tmp_path / "my_opt.py").write_text(OWN)
    trained = set(Store(baselines.locate(baselines.USUAL)).outline().trial_ids)
    invoke("init", "--optimizer", "./my_opt.py:Mine", cwd=tmp_path)
    own = {trial.trial_id: trial.optimizer for trial in expand(read(tmp_path / "sweep.yaml"))}
    assert set(own.values()) == {"mine", "adamw", "sgd"}
    assert {own[i] for i in own.keys() & trained} == {"adamw", "sgd"} == {own[i] for i in own if own[i] != "mine"}
    assert sum(label != "mine" for label in own.values()) == len(own.keys() & trained)  # they need not train again
    out, _ = invoke("init", "beside.yaml", "--optimizer", "Lion", "--with", baselines.USUAL, cwd=tmp_path)
    assert out.splitlines()[-1].split("  ")[1] == "optbench report --with digits-cnn --baseline adamw"
    assert {trial.trial_id for trial in expand(read(tmp_path / "beside.yaml"))} < trained


THEIRS = """
name: theirs
dataset: digits
epochs: 1
seeds: [0, 3]
metric: val_loss
parameters: {model: softmax, batch_size: [64, 128], dropout: 0.25, split_seed: 1}
optimizers:
  sgd: {lr: [0.03, 0.1], momentum: 0.9}
  mine: {optimizer: "./gone.py:Mine", lr: [0.03, 0.1]}
"""


def test_an_author_trains_only_his_own(tmp_path):
    (tmp_path / "my_opt.py").write_text(OWN)
    (tmp_path / "gone.py").write_text(OWN)
    fill(tmp_path, THEIRS, accuracy)
    (tmp_path / "gone.py").unlink()
    invoke("init", "--optimizer", "./my_opt.py:Mine", "--with", "theirs", cwd=tmp_path)
    text = (tmp_path / "sweep.yaml").read_text()
    assert list(yaml.safe_load(text)["optimizers"]) == ["mine-2"]
    fill(tmp_path, text.replace("epochs: 1", "epochs: 2"), accuracy)
    ask = ("report", "mine-2", "--with", "theirs", "--baseline", "sgd")
    assert invoke(*ask, cwd=tmp_path, code=2)[1].splitlines() == [
        "mine-2 and theirs are not shown together; they differ in",
        "  epochs: 2 in mine-2, 1 in theirs",
        "'optbench init --optimizer NAME --with theirs' writes a sweep that agrees with it",
    ]
    fill(tmp_path, text, accuracy)
    answer = " ".join(invoke(*ask, cwd=tmp_path)[0].split())
    assert "26 finished mine-2 is worse than sgd: " in answer  # before what is not his own
    report = json.loads(invoke(*ask, "-f", "json", cwd=tmp_path)[0])
    assert report["sweep"] == "mine-2+theirs"
    assert {row["optimizer"]: row["seeds"] for row in report["tables"][0]["rows"]} == {"sgd": 2, "mine": 2, "mine-2": 2}
    assert "From theirs: sgd, mine." in report["note"]


def test_steps_are_said_agree_and_are_taken_over_as_epochs_are(tmp_path):
    (tmp_path / "my_opt.py").write_text(OWN)
    (tmp_path / "again").mkdir()
    for name in ("gone.py", "again/gone.py"):
        (tmp_path / name).write_text(OWN)
    text = THEIRS.replace("epochs: 1", "steps: 30").replace("[64, 128]", "64")
    for folder in (tmp_path, tmp_path / "again"):
        fill(folder, text, accuracy)
    invoke("init", "--optimizer", "./my_opt.py:Mine", "--with", "theirs", cwd=tmp_path)
    text = (tmp_path / "sweep.yaml").read_text()
    assert yaml.safe_load(text)["steps"] == 30 and "epochs" not in yaml.safe_load(text)
    fill(tmp_path, text.replace("steps: 30", "epochs: 3"), accuracy)
    ask = ("report", "mine-2", "--with", "theirs")
    assert invoke(*ask, cwd=tmp_path, code=2)[1].splitlines()[1:3] == [
        "  epochs: 3 in mine-2, 2 in theirs",
        "  steps: none in mine-2, 30 in theirs",
    ]
    fill(tmp_path, text, accuracy)
    assert "softmax on digits, 30 steps, 2 seeds" in " ".join(invoke(*ask, cwd=tmp_path)[0].split())
    assert "No trial differs" in " ".join(invoke("compare", "theirs", "again/theirs", cwd=tmp_path)[0].split())


def settings(tmp_path, text):
    (tmp_path / "_optbench").mkdir(exist_ok=True)
    (tmp_path / "gone.py").write_text(OWN)
    (tmp_path / "_optbench" / "sweep.yaml").write_text(to_yaml(parse(text, folder=tmp_path)))
    (tmp_path / "gone.py").unlink()
    return Settings(tmp_path, "results/theirs")


def test_settings_are_those_that_all_optimizers_share(tmp_path):
    theirs = settings(tmp_path, f"{THEIRS}exclude: [{{optimizer: sgd, lr: 0.03, batch_size: 64}}]")
    assert theirs.shared() == {  # what is left out of one optimizer is not
        "dataset": "digits", "epochs": 1, "seeds": [0, 3], "metric": "val_loss", "search": {"num_samples": 2}
    }  # fmt: skip
    assert theirs.parameters() == {
        "batch_size": [64, 128], "dropout": 0.25, "schedule": "constant", "model": "softmax", "split_seed": 1
    }  # fmt: skip
    found = settings(
        tmp_path,
        """
        {name: theirs, dataset: [digits, mnist], epochs: 4, seeds: 2,
        search: {method: halton, num_samples: 4, halving: {factor: 2}}, confirm: {seeds: [7, 9]},
        parameters: {dropout: [[0.1, 0.3]], schedule: {name: step, step_size: {min: 1, max: 3}}},
        optimizers: {adam: {betas: [[{min: 0.8, max: 0.9}, 0.99]]}, sgd: {lr: [0.1, 0.2]}},
        exclude: [{dataset: mnist, schedule: step}]}
        """.replace("\n", " "),
    )
    assert found.shared() == {
        "dataset": ["digits", "mnist"], "epochs": 4, "seeds": 2,
        "search": {"num_samples": 4, "method": "halton", "halving": {"factor": 2, "min_epochs": 1}},
        "confirm": {"seeds": [7, 9]}, "exclude": [{"dataset": ["mnist"], "schedule": ["step"]}],
    }  # fmt: skip
    assert found.parameters() == {
        "schedule": {"name": "step", "step_size": [{"min": 1, "max": 3}]}, "batch_size": 64, "dropout": [[0.1, 0.3]]
    }  # fmt: skip
    assert found.own("sgd") == {"lr": [0.1, 0.2]}
    for block, problem in (
        ("sgd: {lr: [0.1, 0.2]}, adam: ", "differ in how many configurations they have"),
        ("sgd: {lr: [0.1, 0.2]}, adam: {lr: [0.1, 0.2], batch_size: 32}", "differ in batch_size"),
    ):
        other = settings(tmp_path, f"{{dataset: digits, epochs: 1, optimizers: {{{block}}}}}")
        with pytest.raises(UserError, match=f"results/theirs: its optimizers {problem}: write a sweep"):
            other.shared(), other.parameters()
    (tmp_path / "_optbench" / "sweep.yaml").unlink()
    with pytest.raises(UserError, match="results/theirs: does not say which sweep"):
        Settings(tmp_path, "results/theirs")
