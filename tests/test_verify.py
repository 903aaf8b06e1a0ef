"""Published results: the verdict is scipy's test, the numbers are found in the rows, and each case is whole."""

import importlib.util
import io
import json
import math

import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import ttest_ind_from_stats

from optbench.report import formats
from optbench.scores import Score
from optbench.sweep.axes import PARAMETERS
from optbench.verify import outcome, published
from optbench.verify.published import Case, Published
from optbench.verify.verdict import Verdict, judge
from tests.test_cli import REPOSITORY, invoke

SEVERAL = Published(epoch=1, score=Score.test_accuracy, mean=98.34, sd=0.08, n=6)
SINGLE = Published(epoch=3, score=Score.val_accuracy, mean=97.8, tolerance=0.25)

# ---------------------------------------------------------------- verdicts


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(97.5, 99.2), min_size=2, max_size=20),
    st.floats(0.02, 1),
    st.integers(2, 20),
    st.integers(1, 6),
)
def test_a_mean_of_several_runs_is_hit_where_a_t_test_finds_no_difference(values, sd, n, comparisons):
    number = Published(epoch=1, score=Score.test_accuracy, mean=98.34, sd=sd, n=n)
    judged = judge(number, values, comparisons)
    series = pd.Series(values)
    p = ttest_ind_from_stats(series.mean(), series.std(), len(values), number.mean, sd, n, equal_var=True).pvalue
    if abs(p - 0.05 / comparisons) > 1e-6:
        assert judged.verdict == (Verdict.hit if p > 0.05 / comparisons else Verdict.miss)
    assert (judged.n, judged.lost) == (len(values), 0)
    assert judged.difference == pytest.approx(series.mean() - number.mean)


def test_one_run_may_miss_what_several_have_published():
    """As far as t · sd · √(1 + 1/6) with 5 degrees of freedom, 0.222."""
    assert judge(SEVERAL, [98.34 + 0.221]).verdict == Verdict.hit
    assert judge(SEVERAL, [98.34 - 0.223]).verdict == Verdict.miss
    assert judge(SEVERAL, [98.34 - 0.223], comparisons=2).verdict == Verdict.hit
    assert judge(SEVERAL, [98.34 + 0.221]).half == pytest.approx(2.5706 * 0.08 * math.sqrt(7 / 6), rel=1e-4)


def test_of_one_published_run_the_tolerance_decides():
    assert judge(SINGLE, [97.4, 97.7]).verdict == Verdict.hit  # their mean is 0.25 below
    assert judge(SINGLE, [97.4, 97.68]).verdict == Verdict.miss
    assert judge(SINGLE, [98.06]).verdict == Verdict.miss


def test_a_seed_that_diverged_is_a_miss_and_none_at_all_is_not_reached():
    for number in (SEVERAL, SINGLE):
        judged = judge(number, [number.mean, math.nan])
        assert (judged.verdict, judged.n, judged.lost) == (Verdict.miss, 2, 1)
        assert judge(number, []).verdict == Verdict.not_reached


@pytest.mark.parametrize(
    "wrong",
    [
        {"epoch": 1, "mean": 1.0},
        {"epoch": 1, "mean": 1.0, "sd": 0.1},
        {"epoch": 1, "mean": 1.0, "sd": 0.1, "n": 3, "tolerance": 0.1},
        {"epoch": 1, "step": 1, "mean": 1.0, "tolerance": 0.1},
        {"mean": 1.0, "tolerance": 0.1},
        {"epoch": 1, "mean": 1.0, "tolerance": 0.1, "score": Score.test_loss},
    ],
)
def test_a_published_number_says_when_and_how_sure(wrong):
    with pytest.raises(ValueError, match="takes"):
        Published(**{"score": Score.test_accuracy} | wrong)


# ---------------------------------------------------------------- rows


def rows_of(*trials):
    """Rows from (optimizer, status, accuracy after each epoch of 10 steps)."""
    return pd.DataFrame(
        {
            "trial_id": f"{i}",
            "optimizer": optimizer,
            "status": status,
            "epoch": epoch,
            "step": 10 * epoch,
            "test_accuracy": accuracy,
            "val_accuracy": accuracy,
        }
        for i, (optimizer, status, accuracies) in enumerate(trials)
        for epoch, accuracy in enumerate(accuracies, 1)
    )


ROWS = rows_of(
    ("sgd", "finished", [0.9, 0.95, 0.97]),
    ("sgd", "diverged", [0.8, math.nan]),
    ("sgd", "running", [0.92, 0.94]),
    ("adam", "finished", [0.5, 0.6, 0.7]),
)


def test_what_was_measured_is_found_by_epoch_or_step_and_optimizer_and_the_diverged_count():
    def measured(optimizer, **when):
        number = Published(optimizer=optimizer, score=Score.test_accuracy, mean=1.0, tolerance=1.0, **when)
        return [None if math.isnan(value) else round(value, 6) for value in outcome.measured(ROWS, number)]

    assert measured("sgd", epoch=1) == measured("sgd", step=10) == [90, 80, 92]
    assert measured("sgd", epoch=2) == [95, None, 94]
    assert measured("sgd", epoch=3) == [97, None]
    assert measured("adam", step=30) == [70]
    assert measured("adam", step=40) == measured("adam", step=35) == []
    assert measured(None, epoch=1) == [90, 80, 92, 50]


NUMBERS = (
    Published(optimizer="adam", epoch=1, score=Score.test_accuracy, mean=50.1, sd=0.2, n=3),
    Published(optimizer="adam", epoch=3, score=Score.test_accuracy, mean=71.0, tolerance=0.5),
    Published(optimizer="adam", epoch=100, score=Score.test_accuracy, mean=80.0, tolerance=0.5),
    Published(optimizer="sgd", epoch=3, score=Score.test_accuracy, mean=97.0, tolerance=0.5),
)
CASE = Case(name="made-up", title="Made up", source="nobody", notes="None.", quick=(), values=NUMBERS)


def test_the_outcome_is_a_table_that_fits_a_screen_and_sentences_that_name_the_misses():
    report = outcome.report({"made-up": ROWS}, [CASE], "cpu")
    assert report.findings == (
        "Reproduced: 1 of 4 published numbers; missed: 2; not reached: 1.",
        "Missed: made-up, adam: test, epoch 3 (-1.00 points).",
        "Missed: made-up, sgd: test, epoch 3 (diverged).",
    )
    assert outcome.is_missed(report)
    stream = io.StringIO()
    formats.terminal(report, Console(file=stream, width=80, highlight=False))
    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines() if line.startswith(("adam: ", "sgd: "))]
    assert lines == [
        "adam: test, epoch 1 50.10 ± 0.20 50.00 1 -0.10 ± 0.99 hit",
        "adam: test, epoch 3 71.00 ± 0.50 70.00 1 -1.00 miss",
        "adam: test, epoch 100 80.00 ± 0.50 – 0 – not reached",
        "sgd: test, epoch 3 97.00 ± 0.50 – 1/2 – miss",
    ]
    (table,) = json.loads(formats.to_json(report))["tables"]
    assert [row["verdict"] for row in table["rows"]] == ["hit", "miss", "not reached", "miss"]
    assert (table["rows"][0]["published"], table["rows"][0]["measured"]) == (pytest.approx(0.501), pytest.approx(0.5))
    assert table["rows"][3]["n"] == "1/2"
    good = outcome.report({"made-up": ROWS}, [CASE.model_copy(update={"values": NUMBERS[:1]})], "cpu")
    assert not outcome.is_missed(good)


# ---------------------------------------------------------------- the cases

PARAMETERS_OF = {"KerasConvnet": 34_826, "CaffeLeNet": 431_080, "FlaxCNN": 824_458, "Shallow": 79_510}


@pytest.mark.parametrize("name", published.names())
def test_a_case_is_whole(name):
    case = published.case(name)
    sweep = yaml.safe_load(case.sweep_file.read_text(encoding="utf-8"))
    assert sweep["name"] == name
    assert {value.optimizer for value in case.values} <= {None, *sweep["optimizers"]}
    assert (len(sweep["optimizers"]) == 1) == all(value.optimizer is None for value in case.values)
    last = sweep.get("epochs", sweep.get("steps"))
    assert max(value.epoch or value.step for value in case.values) == last
    assert name in (REPOSITORY / "docs" / "verify.md").read_text(encoding="utf-8")
    assert {setting.partition("=")[0] for setting in case.quick} <= {"seeds", "epochs"}


@pytest.mark.skipif("validation" not in PARAMETERS, reason="sweeps cannot say yet which images validate")
@pytest.mark.parametrize("name", published.names())
def test_the_sweep_of_a_case_is_valid_in_whole_and_quick(name):
    case = published.case(name)
    whole, quick = case.sweep(), case.sweep(quick=True)
    assert len(quick.seeds) < len(whole.seeds)


def own(case, file, name):
    path = published.FOLDER / case / f"{file}.py"
    spec = importlib.util.spec_from_file_location(f"{case}.{file}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


@pytest.mark.parametrize(
    ("case", "name", "sds"),
    [
        ("keras-convnet", "KerasConvnet", {"layers.0.weight": (2 / 297) ** 0.5, "layers.8.weight": (2 / 1610) ** 0.5}),
        ("caffe-lenet", "CaffeLeNet", {"layers.0.weight": 1 / 5, "layers.5.weight": 800**-0.5, "layers.5.bias": 0}),
        ("flax-mnist", "FlaxCNN", {"layers.3.weight": 288**-0.5, "layers.7.weight": 3136**-0.5, "layers.7.bias": 0}),
        ("nielsen-sigmoid", "Shallow", {"hidden.weight": 0.1, "hidden.bias": 1, "output.weight": 0, "output.bias": 0}),
    ],
)
def test_a_network_has_the_published_parameters_and_initial_weights(case, name, sds):
    torch.manual_seed(0)
    network = own(case, "networks", name)()
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS_OF[name]
    assert network(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
    for parameter, sd in sds.items():
        values = network.get_parameter(parameter).detach()
        assert float(values.std()) == pytest.approx(sd, rel=0.2 if values.numel() < 1000 else 0.05)


def test_caffes_sgd_is_torchs_but_for_biases_and_for_the_learning_rates_of_earlier_steps():
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 2), (4,))]
    gradients = [[torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in start] for _ in range(5)]
    constant = {"momentum": 0.9, "weight_decay": 0.1}

    def after(make, lrs):
        weights = [w.clone().requires_grad_() for w in start]
        optimizer = make(weights)
        for lr, step in zip(lrs, gradients, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("times", 1)
            for weight, gradient in zip(weights, step, strict=True):
                weight.grad = gradient.clone()
            optimizer.step()
        return [weight.detach() for weight in weights]

    def torchs(weights):
        groups = [{"params": [weights[0]], "times": 1}, {"params": [weights[1]], "times": 2}]
        return torch.optim.SGD(groups, lr=1.0, **constant)

    caffes = own("caffe-lenet", "optimizers", "CaffeSGD")
    same = after(lambda weights: caffes(weights, **constant), [0.1] * 5)
    for weight, expected in zip(same, after(torchs, [0.1] * 5), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-12)
    (weight, _) = after(lambda weights: caffes(weights, **constant), [0.1, 0.2])
    first = 0.1 * (gradients[0][0] + 0.1 * start[0])
    middle = start[0] - first
    torch.testing.assert_close(weight, middle - 0.9 * first - 0.2 * (gradients[1][0] + 0.1 * middle))


# ---------------------------------------------------------------- the command

SWEEP = (
    "{name: easy, dataset: digits, epochs: 2, seeds: 2, parameters: {model: softmax}, optimizers: {adam: {lr: 0.01}}}"
)
EASY = {
    "title": "Easy",
    "source": "nobody",
    "notes": "None.",
    "quick": ["seeds=1", "epochs=1"],
    "values": [
        {"epoch": 1, "score": "test_accuracy", "mean": 90.0, "tolerance": 10.0},
        {"epoch": 2, "score": "test_accuracy", "mean": 92.0, "tolerance": 8.0},
    ],
}


@pytest.fixture
def cases(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "FOLDER", tmp_path / "cases")
    for name, values in (("easy", EASY["values"]), ("hard", [EASY["values"][0] | {"mean": 50.0}])):
        folder = tmp_path / "cases" / name
        folder.mkdir(parents=True)
        (folder / "sweep.yaml").write_text(SWEEP)
        (folder / "published.yaml").write_text(yaml.safe_dump(EASY | {"values": values}))
    return tmp_path


def test_verify_trains_says_what_was_reproduced_and_ends_with_1_where_something_is_missed(cases):
    run = ("verify", "--device", "cpu", "--workers", 1, "--output", "out")
    assert "2 trials of 2 epochs on digits" in invoke(*run, "easy", "--dry-run", cwd=cases)[0].replace("\n", " ")
    assert not (cases / "out").exists()
    out, err = invoke(*run, "easy", cwd=cases)
    assert "Reproduced: 2 of 2 published numbers; missed: 0; not reached: 0." in " ".join(out.split())
    assert "2/2 trials done" in err
    assert len(pd.read_parquet(cases / "out" / "easy")) == 2 * 3
    out, err = invoke(*run, "easy", "-f", "markdown", cwd=cases)
    assert "## easy" in out and "stack" not in err  # nothing was left to train
    quick = json.loads(invoke(*run, "--quick", "-f", "json", cwd=cases, code=1)[0])
    assert [[row["verdict"] for row in table["rows"]] for table in quick["tables"]] == [
        ["hit", "not reached"],
        ["miss"],
    ]
    assert {path.name for path in (cases / "out").iterdir()} == {"easy", "easy-quick", "hard-quick"}
    words = "optbench: nothing is published as 'eesy'; did you mean 'easy'?"
    assert words in invoke(*run, "eesy", cwd=cases, code=2)[1]
