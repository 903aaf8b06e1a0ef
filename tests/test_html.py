"""The page in a headless browser: it draws what Python computed, filters, sorts, fits a phone and loads nothing."""

import itertools
import json
import math
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from optbench import stats
from optbench.report import html, plots
from optbench.report.tables import Column, Report, Table
from optbench.scores import Score
from tests.test_plots import explored, made_up, some_diverged

pytestmark = pytest.mark.slow  # a browser is
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
HOSTILE = """</script><b>&"'\u2028"""
LABELS = ["adam", HOSTILE, "<img src=x onerror=alert(1)>", "$x_1$ %{y} &lt;", *(f"optimizer {i}" for i in range(9))]
GRID = {"schedule": ["constant", "cosine"], "batch_size": [32, 128], "dropout": [(0.0, 0.0), (0.5, 0.5), (0.1, 0.25)]}
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
DIGITS = 6e-5  # the page has five


def report_of(frames):
    """A report with a table of the optimizers, one of an axis beside them, and one of numbers that are hard to sort."""
    finals = frames[1]
    tuning = finals[finals["phase"] == "tune"]
    fresh = finals[finals["phase"] == "confirm"]
    best = stats.compare(tuning, ["optimizer"], Score.val_accuracy, fresh if len(fresh) else None)
    best = best.sort_values("test_accuracy", ascending=False, ignore_index=True)
    best["rank"], best["best"] = [1, 1, *range(3, len(best) + 1)][: len(best)], [True, *[False] * (len(best) - 1)]
    best["diverged_of"] = [f"{k}/{n}" for k, n in zip(best["diverged"], best["trials"], strict=True)]
    scores = (Column("test_accuracy", "test accuracy %", "percent"), Column("n", "n", "count"))
    more = (Column("rank", "rank", "count"), Column("diverged_of", "diverged", "count"))
    columns = (Column("optimizer", "optimizer"), *scores, *more)
    tables = [Table("Optimizers", "A caption with <b>.", columns, best)]
    if finals["schedule"].nunique() > 1:
        by = stats.compare(tuning, ["optimizer", "schedule"], Score.val_accuracy)
        keys = (Column("optimizer", "optimizer"), Column("schedule", "schedule"))
        tables.append(Table("Schedules", "", (*keys, *scores), by, keys=2))
    odd = pd.DataFrame({"name": ["b", "a10", "a9", "c"], "value": [9.5, math.nan, 100.0, math.inf], "x": [1, 2, 3, 4]})
    odd["share"] = ["9/10", "10/100", "1/3", "0/0"]
    shown = (Column("name", "name"), Column("value", "value", "count"), Column("share", "share", "count"))
    tables.append(Table("Odd", "", shown, odd))
    findings = (f"Take {best['optimizer'][0]} with lr=0.01.", f"{HOSTILE} cannot be told apart from it.")
    return Report(f"sweep {HOSTILE}", "624 trials: 600 finished", findings, tuple(tables), "A note & more.")


@pytest.fixture(scope="module")
def frames():
    return made_up({label: [1e-3, 1e-2, 1e-1] for label in LABELS}, epochs=3, seeds=2, status=some_diverged, **GRID)


@pytest.fixture(scope="module")
def explorer(frames):
    return explored(frames, seconds={label: 40 / (1 + i) + 30 * (i % 2) for i, label in enumerate(LABELS)})


@pytest.fixture(scope="module")
def file(frames, explorer, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html.page(report_of(frames), explorer), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on PATH")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield opened
        opened.close()


class Watched:
    """Pages of a browser and whatever goes wrong in them."""

    def __init__(self, browser):
        self.browser, self.problems, self.contexts = browser, [], []

    def open(self, address, **options):
        context = self.browser.new_context(**({"viewport": DESKTOP} | options))
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self.problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", lambda dialog: (self.problems.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: self.problems.append(request.url) if request.url != address else None)
        page.goto(address)
        if options.get("java_script_enabled", True):
            page.wait_for_selector("html[data-ready]")
        return page


@pytest.fixture(scope="module")
def watched(browser):
    watched = Watched(browser)
    yield watched
    for context in watched.contexts:
        context.close()


@pytest.fixture(scope="module")
def opened(watched, file):
    """The page, opened once: plotly takes a second to read."""
    return watched.open(file.as_uri())


@pytest.fixture
def page(opened, watched):
    """The page as it was when it was opened. Nothing may go wrong in it, and nothing but its file may be asked for."""
    opened.set_viewport_size(DESKTOP)
    opened.emulate_media(media="screen", color_scheme="light", reduced_motion="no-preference")
    opened.evaluate("delete document.documentElement.dataset.theme")
    opened.locator("[data-reset]").click()
    opened.evaluate("scrollTo({top: 0, behavior: 'instant'})")
    yield opened
    assert watched.problems == []


def traces(page, name):
    """What plotly draws: role, label code and numbers of each trace."""
    return page.evaluate(
        "name => document.querySelector(`#plot-${name} .canvas`).data.map(t => ({role: t.meta.role, v: t.meta.v, "
        "x: [...(t.x ?? [])], y: [...(t.y ?? [])], z: t.z, text: t.text}))",
        name,
    )


def box(page, axis, value):
    """The checkbox of a value of an axis."""
    return page.locator(f'fieldset input[name="axis-{axis}"][value="{value}"]')


def group(page, name):
    """The filter of an axis."""
    return page.get_by_role("group", name=name, exact=True)


def until(page, condition):
    """Wait for a condition in JavaScript; the page's policy does not let playwright's own way of waiting through."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    pytest.fail(f"never came: {condition}")


def numbers(values):
    return [math.nan if value is None else value for value in values]


def assert_lines(drawn, plot, explorer, dashed=False):
    """The lines and bands that the page draws are those of the plot, in any order and style."""
    scale, values = plots.SCALES[plot.unit], explorer.axis(plot.by).values
    role = "train" if dashed else "line"
    lines = {values[t["v"]]: t for t in drawn if t["role"] == role}
    bands = {values[t["v"]]: t for t in drawn if t["role"] == "band"}
    expected = [one for one in plot.series if one.dashed == dashed]
    assert set(lines) == {one.label for one in expected}
    for one in expected:
        x, y = ([*one.points[name]] for name in ("x", "y"))
        if plot.over:
            x = [explorer.axis(plot.over).values.index(value) for value in x]
        assert lines[one.label]["x"] == pytest.approx(x, rel=1e-4)
        assert numbers(lines[one.label]["y"]) == pytest.approx([scale * v for v in y], rel=DIGITS, nan_ok=True)
        sure = one.points.dropna(subset=["low", "high"])
        if not dashed and len(sure) > 1:
            polygon = [*sure["high"], *sure["low"][::-1]]
            assert bands[one.label]["y"] == pytest.approx([scale * v for v in polygon], rel=DIGITS)


def assert_points(drawn, plot, explorer):
    """The points and intervals that the page draws are those of the plot, and the steps join those on the front."""
    values = explorer.axis("optimizer").values
    found = {(t["role"], values[t["v"]]): t for t in drawn if t["role"] != "front"}
    assert {label for _, label in found} == {one.label for one in plot.series}
    points = pd.concat([one.points for one in plot.series], ignore_index=True)
    points[["y", "low", "high"]] *= plots.SCALES[plot.unit]
    for one, point in zip(plot.series, points.itertuples(), strict=True):
        dot, bar = found["line", one.label], found["band", one.label]
        assert [*dot["x"], *dot["y"], *bar["y"]] == pytest.approx([point.x, point.y, point.low, point.high], rel=DIGITS)
    front = points[~points["hollow"].astype(bool)].sort_values("x")
    (steps,) = (t for t in drawn if t["role"] == "front")
    assert 1 < len(front) < len(points) and steps["x"] == pytest.approx(front["x"].tolist(), rel=DIGITS)
    assert steps["y"] == pytest.approx(front["y"].tolist(), rel=DIGITS)


def assert_view(page, plot):
    """The page begins with the same range of y."""
    if plot.view:
        limits = page.evaluate(f"document.querySelector('#plot-{plot.name} .canvas').layout.yaxis.range")
        assert limits == pytest.approx([100 * end for end in plot.view], abs=0.02)


def test_without_filters_the_page_draws_what_python_plots(page, explorer):
    shown = page.evaluate("[...document.querySelectorAll('.plot')].map(figure => figure.id.slice(5))")
    found = plots.plots(explorer)
    assert shown == [plot.name for plot in found]
    for plot in found:
        drawn = traces(page, plot.name)
        if plot.kind == "lines":
            assert_lines(drawn, plot, explorer)
            assert_view(page, plot)
        elif plot.kind == "dots":
            dots = {explorer.axis("optimizer").values[t["v"]]: t["x"][0] for t in drawn if t["role"] == "line"}
            expected = {one.label: one.points["x"].iloc[0] for one in plot.series}
            assert set(dots) == set(expected)
            scale, (low, high) = plots.SCALES[plot.unit], plot.view or (-math.inf, math.inf)
            drawn_at = {label: scale * min(high, max(low, x)) for label, x in expected.items() if math.isfinite(x)}
            assert {label: dots[label] for label in drawn_at} == pytest.approx(drawn_at, rel=DIGITS)
        elif plot.kind == "points":
            assert_points(drawn, plot, explorer)
            assert_view(page, plot)
        else:
            xs = plots.rates(explorer) if plot.x == "learning rate" else explorer.axis("dropout").values
            table = plot.grid.pivot(index="y", columns="x", values="score")
            table = 100 * table.reindex(index=list(explorer.axis("batch_size").values), columns=list(xs))
            (grid,) = (t["z"] for t in drawn if t["role"] == "grid")
            assert [numbers(row) for row in grid] == [
                pytest.approx(row, rel=DIGITS, nan_ok=True) for row in table.to_numpy().tolist()
            ]


def test_training_curves_appear_when_asked_for(page, explorer):
    assert not [t for t in traces(page, "curves") if t["role"] == "train"]
    page.get_by_label("Training curves, dashed").check()
    (plot,) = (plot for plot in plots.plots(explorer) if plot.name == "curves")
    assert_lines(traces(page, "curves"), plot, explorer, dashed=True)


def test_a_filter_shows_what_python_would_show_of_the_trials_that_pass(page, frames, explorer):
    rows, finals = frames
    cosine = explorer.axis("schedule").values.index("cosine")
    labels = explorer.axis("optimizer").values
    box(page, 1, 1 - cosine).uncheck()
    box(page, 0, 0).uncheck()
    group(page, "Dropout").get_by_role("button", name="None").click()
    box(page, 3, explorer.axis("dropout").values.index("0.5")).check()
    box(page, 3, 0).check()
    passing = finals["schedule"].eq("cosine") & finals["optimizer"].ne(labels[0]) & finals["dropout"].isin(["0", "0.5"])
    ids = finals[passing]["trial_id"]
    expected = explored((rows[rows["trial_id"].isin(ids)], finals[passing]))
    found = {plot.name: plot for plot in plots.plots(expected)}
    for name in ("curves", "lr"):
        assert_lines(traces(page, name), found[name], explorer)
    (grid,) = (t["z"] for t in traces(page, "batch_size_dropout") if t["role"] == "grid")
    table = 100 * found["batch_size_dropout"].grid.pivot(index="y", columns="x", values="score")
    table = table.reindex(index=list(explorer.axis("batch_size").values), columns=list(explorer.axis("dropout").values))
    assert [numbers(row) for row in grid] == [
        pytest.approx(row, rel=DIGITS, nan_ok=True) for row in table.to_numpy().tolist()
    ]
    assert "10 best of 12 optimizers" in page.locator("#plot-curves .shown").inner_text()


def test_lines_may_be_of_another_axis_and_heat_maps_of_one_line(page, frames, explorer):
    page.locator("select[name=by]").select_option(label="by schedule")
    by_schedule = stats.compare(frames[1], ["schedule"], Score.val_accuracy).set_index("schedule")["val_accuracy"]
    values = explorer.axis("schedule").values
    ends = {values[t["v"]]: t["y"][-1] for t in traces(page, "curves") if t["role"] == "line"}
    assert ends == pytest.approx((100 * by_schedule).to_dict(), rel=DIGITS)
    page.locator("select[name=of]").select_option(label="cosine")
    of = frames[1][frames[1]["schedule"] == "cosine"]
    best = stats.compare(of, ["batch_size", "dropout"], Score.val_accuracy).set_index(["batch_size", "dropout"])
    (grid,) = (t["z"] for t in traces(page, "batch_size_dropout") if t["role"] == "grid")
    for i, batch in enumerate((32, 128)):
        for j, rate in enumerate(explorer.axis("dropout").values):
            assert grid[i][j] == pytest.approx(100 * best.loc[(batch, rate), "test_accuracy"], rel=DIGITS)


def test_ten_lines_are_drawn_unless_more_are_asked_for(page):
    count = lambda: len([t for t in traces(page, "lr") if t["role"] == "line"])  # noqa: E731
    assert count() == 10
    page.locator("select[name=top]").select_option(label="all")
    assert count() == len(LABELS) == len({(t["v"]) for t in traces(page, "lr") if t["role"] == "line"})
    keys = page.locator("#plot-lr .keys li").all_inner_texts()
    assert sorted(key.strip() for key in keys) == sorted(label.replace("\u2028", "").strip() for label in LABELS)


def test_the_whole_range_shows_every_point(page):
    hidden = page.locator("#plot-curves .shown")
    assert re.search(r"\d+ points lie outside", hidden.inner_text())
    page.get_by_label("Whole range").check()
    low, high = page.evaluate("document.querySelector('#plot-curves .canvas').layout.yaxis.range")
    values = [y for t in traces(page, "curves") if t["role"] != "band" for y in t["y"]]
    assert low < min(values) < max(values) < high
    assert "outside" not in hidden.inner_text()


def shown(page, name):
    """Of each trace of a plot its role, label code and how much of it is seen."""
    return page.evaluate(
        "name => { const canvas = document.querySelector(`#plot-${name} .canvas`); return canvas._fullData.map(t => "
        "[t.meta.role, t.meta.v, Number(getComputedStyle(canvas.querySelector(`.trace${t.uid}`)).opacity)]); }",
        name,
    )


def test_the_two_best_lines_have_bands_and_pointing_at_another_shows_its_own(page):
    bands = lambda: [v for role, v, seen in shown(page, "curves") if role == "band" and seen]  # noqa: E731
    assert bands() == [0, 1]
    page.locator("#plot-curves .keys li", has_text=re.compile("^optimizer 3$")).hover()
    (v,) = bands()
    assert {other for role, other, seen in shown(page, "curves") if role == "line" and seen == 1} == {v} != {0}
    page.mouse.move(1, 1)
    assert bands() == [0, 1]


def test_names_stand_beside_their_lines_and_not_on_one_another(page):
    for name in ("curves", "lr", "gap", "tuning"):
        names = page.locator(f"#plot-{name} .keys.beside li")
        boxes = sorted((item.bounding_box() for item in names.all()), key=lambda box: box["y"])
        assert len(boxes) == 10
        assert all(upper["y"] + 13.9 <= lower["y"] for upper, lower in itertools.pairwise(boxes)), name
        plot = page.locator(f"#plot-{name} .canvas .nsewdrag").bounding_box()
        assert all(plot["x"] + plot["width"] <= box["x"] for box in boxes)
        assert plot["y"] <= boxes[0]["y"] + 8 and boxes[-1]["y"] + 8 <= plot["y"] + plot["height"] + 1
    page.locator("select[name=top]").select_option(label="all")
    page.set_viewport_size(PHONE)
    until(page, "!document.querySelector('.keys.beside')")  # no room: a list above the plot
    assert page.locator("#plot-lr .keys li").count() == len(LABELS)


def test_lines_that_filters_leave_keep_apart_in_colour(page):
    colours = "[...document.querySelector('#plot-lr .canvas').data].filter(t => t.meta.role === 'line')"
    before = dict(page.evaluate(f"{colours}.map(t => [t.meta.v, t.line.color])"))
    for gone in (0, 1, 2):
        box(page, 0, gone).uncheck()
    after = dict(page.evaluate(f"{colours}.map(t => [t.meta.v, t.line.color])"))
    assert len(after) == len(set(after.values())) == 10
    assert all(after[v] == before[v] for v in set(before) & set(after))
    assert set(after.values()) <= set(plots.COLOURS["light"])


def test_bands_may_be_switched_off(page):
    assert [t for t in traces(page, "curves") if t["role"] == "band"]
    page.get_by_label("Bands: how sure").uncheck()
    assert not [t for t in traces(page, "curves") if t["role"] == "band"]


def test_where_trials_diverged_there_is_a_cross(page, explorer):
    marks = {t["v"]: t["x"] for t in traces(page, "lr") if t["role"] == "diverged"}
    assert len(marks) == 10 and set(map(tuple, marks.values())) == {(0.1,)}


def test_nothing_that_passes_is_said_and_not_an_empty_plot(page):
    group(page, "Schedule").get_by_role("button", name="None").click()
    assert page.locator("#plot-curves .empty").is_visible()
    assert not page.locator("#plot-curves .canvas").is_visible()
    assert "Nothing passes" in page.locator("#status").inner_text()
    group(page, "Schedule").get_by_role("button", name="All").click()
    assert page.locator("#plot-curves .canvas").is_visible()
    assert len([t for t in traces(page, "curves") if t["role"] == "line"]) == 10


def test_one_is_found_among_many_and_all_and_none_are_of_what_is_found(page, explorer):
    page.get_by_label("Find one of the optimizer values").fill("ADAM")
    optimizers = group(page, "Optimizer")
    assert optimizers.locator("label:visible").all_inner_texts() == ["adam"]
    optimizers.locator("button", has_text="None").click()
    adam = explorer.axis("optimizer").values.index("adam")
    assert not box(page, 0, adam).is_checked()
    assert optimizers.locator("input:checked").count() == len(LABELS) - 1
    page.get_by_label("Find one of the optimizer values").fill("")
    assert optimizers.locator("label:visible").count() == len(LABELS)


# ---------------------------------------------------------------- tables


def test_filters_hide_rows_and_say_that_ranks_stay(page, explorer):
    first = page.locator("#table-0 tbody tr:visible")
    assert first.count() == len(LABELS)
    ranks = page.locator("#table-0 tbody td:nth-child(4)").all_inner_texts()
    box(page, 0, 0).uncheck()
    cosine = explorer.axis("schedule").values.index("cosine")
    box(page, 1, cosine).uncheck()
    assert first.count() == len(LABELS) - 1
    assert page.locator("#table-0 tbody tr:visible td:nth-child(4)").all_inner_texts() == ranks[1:]
    assert page.locator("#table-1 tbody tr:visible").count() == len(LABELS) - 1
    assert page.locator("#table-1 tbody tr:visible", has_text="cosine").count() == 0
    assert page.locator("#table-0 .filtered").inner_text().startswith("1 row hidden by the filters. Ranks")
    assert not page.locator("#table-2 .filtered").is_visible()  # its rows are no optimizers
    page.locator("[data-reset]").click()
    assert first.count() == len(LABELS)
    assert not page.locator("#table-0 .filtered").is_visible()


def column(page, table, index):
    return page.locator(f"#table-{table} tbody td:nth-child({index})").all_inner_texts()


def test_tables_sort_by_their_numbers_and_missing_ones_come_last(page):
    value, share, name = (page.locator("#table-2 thead button", has_text=text) for text in ("value", "share", "name"))
    value.click()
    assert column(page, 2, 2) == ["inf", "100", "9.5", "–"]
    value.click()
    assert column(page, 2, 2) == ["9.5", "100", "inf", "–"]
    share.click()
    assert column(page, 2, 3) == ["9/10", "1/3", "10/100", "0/0"]
    name.click()
    assert column(page, 2, 1) == ["a9", "a10", "b", "c"]
    assert page.locator("#table-2 th[aria-sort]").count() == 1
    page.locator("#table-0 thead button", has_text="test accuracy").click()
    scores = [float(text.split()[0]) for text in column(page, 0, 2)]
    assert scores == sorted(scores, reverse=True)


def test_tables_sort_by_keyboard_and_say_how_they_are_sorted(page):
    button = page.locator("#table-0 thead button", has_text="optimizer")
    button.focus()
    header = page.locator("#table-0 th").first
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    ascending = column(page, 0, 1)
    page.keyboard.press("Space")
    assert header.get_attribute("aria-sort") == "descending"
    assert column(page, 0, 1) == ascending[::-1]


def test_the_best_row_and_its_ties_are_set_off(page):
    assert page.locator("#table-0 tr.best").count() == page.locator("#table-0 tr.tie").count() == 1
    assert "Bold: the best. Tinted ranks" in page.locator("#table-0 .caption").last.inner_text()
    assert page.locator("#table-2 .caption:not(.filtered)").count() == 0


# ---------------------------------------------------------------- first screen, phone, theme, print


def test_the_first_screen_answers(page, explorer):
    headline = page.locator("h1")
    assert headline.inner_text().startswith("Take ")
    row = page.locator(".compact tbody tr").first
    for item in (headline, row, row.locator(".strip .range"), row.locator(".strip .mean")):
        place = item.bounding_box()
        assert place["y"] >= 0 and place["y"] + place["height"] <= DESKTOP["height"]
    assert page.locator(".compact th").all_inner_texts() == [
        "rank", "optimizer", "lr", "test accuracy %", "95 % interval", "n",
    ]  # fmt: skip
    best = explorer.points.drop_duplicates("optimizer").set_index("optimizer")
    cells = row.locator("td").all_inner_texts()
    assert cells[2] == f"{best.loc[explorer.axis('optimizer').values[0], 'lr']:.4g}"
    assert re.fullmatch(r"\d\d\.\d\d ± \d\.\d\d", cells[3])


def test_on_a_phone_nothing_scrolls_sideways_but_tables_in_their_boxes(page):
    page.set_viewport_size(PHONE)
    until(page, "document.querySelector('#plot-curves .main-svg').getBoundingClientRect().width < 380")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    headline = page.locator("h1").bounding_box()
    assert headline["y"] + headline["height"] < PHONE["height"]
    assert page.locator(".compact tbody tr").first.bounding_box()["y"] < PHONE["height"]
    inner, outer = page.evaluate("(b => [b.scrollWidth, b.clientWidth])(document.querySelector('#table-0 .box'))")
    assert inner > outer


def test_filters_are_folded_when_the_page_is_opened_on_a_phone(watched, file):
    page = watched.open(file.as_uri(), viewport=PHONE, has_touch=True, is_mobile=True)
    assert not page.locator("#filters").is_visible()
    page.locator(".filters summary").click()
    assert page.locator("#filters").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert watched.problems == []


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_colours_follow_the_reader_and_the_button(page):
    ink = "document.querySelector('#plot-curves .canvas').layout.font.color"
    light = page.evaluate(ink)
    assert background(page) == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    until(page, f"{ink} !== '{light}'")
    assert background(page) == "rgb(20, 23, 28)"
    button = page.locator("#theme")
    assert (button.inner_text(), button.get_attribute("aria-label")) == ("Light", "Switch to light colours")
    button.click()
    assert background(page) == "rgb(255, 255, 255)"
    assert page.evaluate(ink) == light
    assert button.inner_text() == "Dark"


def test_colours_can_be_told_from_the_paper_and_from_one_another():
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for theme, paper in (("light", "#ffffff"), ("dark", "#14171c")):
        for colour in plots.COLOURS[theme]:
            dark, bright = sorted((luminance(colour), luminance(paper)))
            assert (bright + 0.05) / (dark + 0.05) >= 3, (theme, colour)  # WCAG 2.2, 1.4.11
        assert len(set(plots.COLOURS[theme])) == len(plots.COLOURS[theme])
    # A hundred lines differ in colour or marker.
    assert len({(plots.colour(style), plots.symbol(style)) for style in range(100)}) == 100


# What the colour-blind see of linear RGB: Machado, Oliveira and Fernandes (2009), severity 1.
SEEN = {
    "all": np.eye(3),
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("eyes", list(SEEN))
def test_the_colour_blind_tell_ten_colours_apart(theme, eyes):
    """By their distance in OKLab (Ottosson 2020), × 100: Petroff's own are 6.1 apart."""
    to_lms = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]]
    to_lms.append([0.0883024619, 0.2817188376, 0.6299787005])
    to_lab = [[0.2104542553, 0.793617785, -0.0040720468], [1.9779984951, -2.428592205, 0.4505937099]]
    to_lab.append([0.0259040371, 0.7827717662, -0.808675766])
    rgb = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in plots.COLOURS[theme]])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(SEEN[eyes]).T, 0, 1)
    lab = np.cbrt(seen @ np.array(to_lms).T) @ np.array(to_lab).T
    apart = [100 * np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)]
    assert min(apart) > 7.9


def test_on_paper_there_are_no_filters_and_everything_is_light_and_whole(page):
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator(".filters").is_visible()
    assert not page.locator("#theme").is_visible()
    assert background(page) == "rgb(255, 255, 255)"
    until(page, "document.querySelector('#plot-curves .canvas').layout.font.color === '#3d4650'")
    whole = page.evaluate(
        "[...document.querySelectorAll('.box')].every(b => b.clientHeight >= b.scrollHeight - 1 && "
        "getComputedStyle(b).overflow === 'visible')"
    )
    assert whole
    paper = page.pdf(format="A4")
    assert paper.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", paper)) >= 2
    page.emulate_media(media="screen", color_scheme="light")
    assert page.evaluate("document.querySelector('#plot-curves .canvas').layout.width") != 330


def test_motion_is_reduced_when_asked_for(page):
    how = "getComputedStyle(document.documentElement).scrollBehavior"
    assert page.evaluate(how) == "smooth"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(how) == "auto"


# ---------------------------------------------------------------- address and keyboard


def test_the_address_holds_the_view_and_brings_it_back(page, watched, file, explorer):
    hostile = explorer.axis("optimizer").values.index(HOSTILE)
    group(page, "Optimizer").get_by_role("button", name="None").click()
    box(page, 0, hostile).check()
    box(page, 1, 0).uncheck()
    page.locator("select[name=top]").select_option(label="5 best")
    page.get_by_label("Training curves, dashed").check()
    page.locator("select[name=of]").select_option(str(hostile))
    address = page.url
    assert address.startswith(file.as_uri() + "#")
    expected = {plot.name: traces(page, plot.name) for plot in plots.plots(explorer)}
    other = Watched(watched.browser)
    again = other.open(address)
    assert {plot.name: traces(again, plot.name) for plot in plots.plots(explorer)} == expected
    assert again.locator('input[name="axis-0"]:checked').count() == 1
    assert box(again, 0, hostile).is_checked() and not box(again, 1, 0).is_checked()
    assert again.locator("select[name=of]").input_value() == str(hostile)
    assert again.locator("#table-0 tbody tr:visible").count() == 1
    again.context.close()
    assert [problem for problem in other.problems if problem != file.as_uri()] == []
    page.locator("[data-reset]").click()
    assert page.url == file.as_uri()


def test_an_address_that_changes_changes_the_view_and_nonsense_in_it_is_harmless(page):
    page.evaluate("location.hash = 'not-schedule=cosine&optimizer=adam&optimizer=none+such&top=x&lines=nothing&of=no'")
    until(page, "document.querySelectorAll('input[name=axis-0]:checked').length === 1")
    assert len([t for t in traces(page, "lr") if t["role"] == "line"]) == 1
    assert page.locator('input[name="axis-1"]:checked').count() == 1


def test_the_keyboard_skips_to_the_answer_and_keeps_the_address(page):
    box(page, 0, 0).uncheck()
    address = page.url
    first = page.locator("a, button, input, select, summary, [tabindex]").first
    assert first.inner_text() == "Skip to the answer"
    assert first.bounding_box()["x"] < 0
    first.focus()
    assert first.bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.url == address


def test_everything_that_can_be_used_has_a_name(page):
    nameless = page.evaluate(
        """[...document.querySelectorAll('main input, main select, button, .canvas, [role=region]')].filter(e =>
        !(e.labels?.length && e.labels[0].textContent.trim()) && !e.getAttribute('aria-label') && !e.textContent.trim()
        ).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    assert page.locator("fieldset").count() == page.locator("fieldset > legend").count() == 5
    assert page.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size") == page.evaluate(
        "document.querySelectorAll('[id]').length"
    )


# ---------------------------------------------------------------- text from a sweep file, and what the page may load


def test_text_from_a_sweep_file_is_only_text(page, explorer):
    page.locator("select[name=top]").select_option(label="all")
    assert page.locator("main img, main script, main b:not(.canvas b), h1 b").count() == 0
    shown = page.locator("#table-0 tbody td:first-child").evaluate_all("cells => cells.map(c => c.textContent)")
    assert set(shown) == set(LABELS)
    values = explorer.axis("optimizer").values
    for trace in traces(page, "curves"):
        if trace["role"] == "line":
            name = re.match(r"<b>(.*?)</b><br>", trace["text"][0])[1]
            assert not set("<>") & set(name)
            for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&#36;", "$"), ("&amp;", "&")):
                name = name.replace(entity, character)
            assert name == values[trace["v"]]
    pointed_at = page.evaluate(
        """hostile => { const canvas = document.querySelector('#plot-lr .canvas');
        const curveNumber = canvas.data.findIndex(t => t.meta.role === 'line' && t.meta.v === hostile);
        Plotly.Fx.hover(canvas, [{curveNumber, pointNumber: 1}]);
        return canvas.querySelector('.hoverlayer').textContent; }""",
        values.index(HOSTILE),
    )
    assert pointed_at.startswith((HOSTILE, HOSTILE.replace("\u2028", "")))
    assert re.search(r"\d\d\.\d\d ± \d+\.\d\dn = 2", pointed_at)
    drawn = page.locator("#plot-targets .ytick text").evaluate_all("texts => texts.map(t => t.textContent)")
    assert "<img src=x onerror=al…" in drawn


def test_the_page_holds_all_it_needs_and_forbids_the_rest(file):
    text = file.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:")
    own = text.replace(re.search(r"/\*\*\n\* plotly\.js.*?</script>", text, flags=re.DOTALL)[0], "")
    # The namespace of SVG is a name, nothing is loaded from there.
    assert [link for link in re.findall(r"https?://[^\s\"'`]+", own) if "www.w3.org/2000/svg" not in link] == []
    assert len(own) < 2_000_000


def test_embedded_data_is_json_that_no_label_can_leave(file):
    text = file.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    assert not set("<>&\u2028") & set(data)
    assert set(json.loads(data)["axes"][0]["values"]) == set(LABELS)


def test_the_same_report_is_the_same_page(frames, explorer, file):
    assert html.page(report_of(frames), explorer) == file.read_text(encoding="utf-8")


def test_without_javascript_the_answer_and_the_tables_are_there(watched, file):
    page = watched.open(file.as_uri(), java_script_enabled=False)
    assert page.locator("h1").inner_text().startswith("Take ")
    assert page.locator("#table-0 tbody tr:visible").count() == len(LABELS)
    assert "need JavaScript" in page.locator("noscript").inner_text()
    assert watched.problems == []


def test_confirmed_configurations_show_fresh_seeds_until_an_axis_is_filtered(watched, tmp_path):
    frames = made_up({"adam": [1e-2, 1e-1], "sgd": [1e-2, 1e-1]}, confirm=5, epochs=8, schedule=GRID["schedule"])
    explorer = explored(frames)
    path = tmp_path / "confirmed.html"
    path.write_text(html.page(report_of(frames), explorer), encoding="utf-8")
    other = Watched(watched.browser)
    page = other.open(path.as_uri())
    for plot in plots.plots(explorer):
        if plot.kind == "lines":
            assert_lines(traces(page, plot.name), plot, explorer)
            assert_view(page, plot)
    said = page.locator("#plot-curves .shown")
    assert said.inner_text().startswith("2 optimizers, on fresh seeds, n = 5.")
    box(page, 0, 1).uncheck()
    assert said.inner_text().startswith("1 optimizer, on fresh seeds, n = 5.")
    box(page, 1, 1).uncheck()
    assert said.inner_text().startswith("1 optimizer, on the seeds that selected them, n = 3.")
    finals = frames[1]
    of = finals[(finals["phase"] == "tune") & (finals["schedule"] == explorer.axis("schedule").values[0])]
    best = stats.compare(of, ["optimizer"], Score.val_accuracy).set_index("optimizer")
    (line,) = (t for t in traces(page, "curves") if t["role"] == "line")
    expected = best.loc[explorer.axis("optimizer").values[0], "val_accuracy"]
    assert line["y"][-1] == pytest.approx(100 * expected, rel=DIGITS)
    page.context.close()
    assert other.problems == []


def test_bars_join_the_rows_of_the_diagram_that_filters_leave(watched, tmp_path):
    labels = {"adam": [1e-2], "sgd": [1e-2], "lion": [1e-2], "muon": [1e-1]}
    frames = made_up(labels, epochs=2, model=["cnn", "mlp", "rnn"], loss=["cross_entropy", "mse"])
    explorer = explored(frames)
    path = tmp_path / "workloads.html"
    path.write_text(html.page(report_of(frames), explorer), encoding="utf-8")
    other = Watched(watched.browser)
    page = other.open(path.as_uri())
    (plot,) = (plot for plot in plots.plots(explorer) if plot.name == "mean_ranks")
    names = page.locator("#plot-mean_ranks .ytick text").evaluate_all("texts => texts.map(t => t.textContent)")
    assert names == [one.label for one in plot.series] and names[-1] == "muon"
    bars = "document.querySelector('#plot-mean_ranks .canvas').layout.shapes.map(s => [s.y0, s.y1])"
    assert page.evaluate(bars) == [[-0.2, 3.2]]
    box(page, 0, explorer.axis("optimizer").values.index("muon")).uncheck()
    assert page.evaluate(bars) == [[-0.2, 2.2]]
    for plot in plots.plots(explorer):
        if plot.name == "profile":
            page.locator("[data-reset]").click()
            assert_lines(traces(page, "profile"), plot, explorer)
    page.context.close()
    assert other.problems == []


def test_a_sweep_without_anything_to_draw_is_a_page_of_tables():
    frames = made_up({"adam": [0.01]}, status=lambda *_: "diverged")
    text = html.page(report_of(frames), explored(frames))
    assert 'id="plots"' not in text and 'id="table-0"' in text


def test_what_diverged_stands_at_the_worst_end_also_of_a_loss(watched, tmp_path):
    frames = made_up({"adam": [1e-2, 1e-1], "sgd": [1e-2, 1e-1]}, status=some_diverged, epochs=2)
    explorer = explored(frames, Score.val_loss, Score.val_loss)
    path = tmp_path / "loss.html"
    path.write_text(html.page(report_of(frames), explorer), encoding="utf-8")
    other = Watched(watched.browser)
    page = other.open(path.as_uri())
    (plot,) = (plot for plot in plots.plots(explorer) if plot.name == "lr")
    assert_lines(traces(page, "lr"), plot, explorer)
    sgd = explorer.axis("optimizer").values.index("sgd")
    marks = {t["v"]: t["y"] for t in traces(page, "lr") if t["role"] == "diverged"}
    assert marks[sgd] == pytest.approx([plot.view[1]], rel=1e-3)
    assert plot.is_loss and "validation loss" in page.locator("#plot-lr .ytitle").text_content()
    page.context.close()
    assert other.problems == []
