"""The command line: parse, call, print. Heavy imports happen inside the commands, so that --help answers at once."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from optbench import __version__
from optbench.errors import ArgumentError, PerformanceWarning, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from optbench.report.tables import Report
    from optbench.results.store import Store
    from optbench.runs.job import Job
    from optbench.runs.screen import Screen

OK, TRIAL_FAILED, USAGE, BROKEN, INTERRUPTED = 0, 1, 2, 3, 130
MISSED = 1  # of `verify`
_MANY_RUNS = 100


class _Commands(TyperGroup):
    """Shows only the text of a `UserError` or a `PerformanceWarning`."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with warnings.catch_warnings(), _performance_warnings_as_text():
                return super().invoke(ctx)
        except UserError as error:
            text = _in_words(error)
            print(f"optbench: {text}" if "\n" not in text else text, file=sys.stderr)
            raise typer.Exit(USAGE) from None
        except BrokenPipeError:  # `optbench report | head`
            sys.stderr.close()
            raise typer.Exit(OK) from None


@contextmanager
def _performance_warnings_as_text() -> Iterator[None]:
    original = warnings.formatwarning

    def formatted(message: Warning | str, category: type[Warning], *place: Any) -> str:
        is_ours = issubclass(category, PerformanceWarning)
        return f"warning: {message}\n" if is_ours else original(message, category, *place)

    warnings.formatwarning = formatted  # type: ignore[assignment]  # typeshed names each part of the place
    try:
        yield
    finally:
        warnings.formatwarning = original


def _in_words(error: UserError) -> str:
    """What is wrong; for an argument, with the option that was typed."""
    if isinstance(error, ArgumentError):
        return f"--{error.argument.replace('_', '-')} {error.value}: {error.problem}"
    from optbench.sweep.document import SweepError

    if isinstance(error, SweepError):
        lines = [f"--{each}" if each.place and each.place.is_setting else str(each) for each in error.problems]
        return "\n".join(dict.fromkeys(lines))
    return str(error)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Benchmark optimizers: train a small CNN under every combination of a sweep, compare with confidence.",
)


class What(StrEnum):
    optimizers = "optimizers"
    networks = "networks"
    schedules = "schedules"
    datasets = "datasets"


class TextFormat(StrEnum):
    table = "table"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    json = "json"


class Format(StrEnum):
    table = "table"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    json = "json"
    html = "html"
    figures = "figures"


class Precision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"


class Tool(StrEnum):
    csv = "csv"
    tensorboard = "tensorboard"
    wandb = "wandb"
    mlflow = "mlflow"


class TableFormat(StrEnum):
    table = "table"
    json = "json"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"optbench {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


Output = Annotated[Path, typer.Option("--output", "-o", help="Folder that holds a folder for each sweep.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of the datasets. [default: $OPTBENCH_DATA, else the user's cache]")
]

AsTable = Annotated[TableFormat, typer.Option("--format", "-f", help="How to write it.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes on a CPU.", show_default="one per core")]


@app.command()
def run(
    sweep: Annotated[Path, typer.Argument(help="Sweep file (YAML); 'optbench init' writes one.", show_default=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    device: Device = "auto",
    workers: Workers = None,
    output: Output = Path("results"),
    data_dir: DataDir = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the sweep, e.g. --set epochs=2. Repeatable."),
    ] = None,
    stack_size: Annotated[
        int | None,
        typer.Option(min=1, help="Trials trained together; 1 measures time. [default: by device]"),
    ] = None,
    timing: Annotated[
        bool,
        typer.Option("--timing", help="Then measure seconds: train one seed of each configuration in a table, alone."),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say only what failed, and at the end how it went and where it is.")
    ] = False,
) -> None:
    """Train every trial of a sweep that is not there yet. Run it again to resume."""
    if quiet and dry_run:
        raise UserError("--dry-run only says what would be done; leave out --quiet")
    if quiet:
        warnings.simplefilter("ignore", PerformanceWarning)
    from optbench.sweep import spec

    parsed = spec.read(sweep, settings or [])
    console = _console(stderr=not dry_run)
    with nullcontext() if quiet else _waiting(console, "planning …"):
        from optbench.results.store import Store
        from optbench.runs import screen
        from optbench.runs.job import Job

        store = Store(output / parsed.name)
        job = Job(parsed, store, device, workers, stack_size, data_dir, timing)
    shown = screen.Screen(console, every_phase=dry_run, quiet=quiet)
    _watch(job, dry_run, shown, console)
    if dry_run:
        return
    if shown.phase and not shown.trained:
        console.print(shown.phase.nothing_to_do(), soft_wrap=True)
    _leave_report(store, console)
    if shown.failed:
        raise typer.Exit(TRIAL_FAILED)


def _watch(job: Job, dry_run: bool, shown: Screen, console: Console) -> None:
    """Show what happens in a run, or in the plan of one, to its end; an interrupt says how to resume it."""
    from optbench.runs import run, screen

    happening = run.preview(job) if dry_run else run.events(job)
    try:
        with shown, screen.interruptible(), closing(happening) as events:
            for event in events:
                shown.show(event)
    except KeyboardInterrupt:
        if dry_run or shown.phase is None:
            raise
        resume = f"{shown.phase.progress()}; resume with: {_command_line(sys.argv)}"
        console.print(resume, soft_wrap=True, markup=False)
        raise typer.Exit(INTERRUPTED) from None


def _command_line(argv: Sequence[str]) -> str:
    """The command that was typed, to be typed again."""
    program = Path(argv[0]).name
    return shlex.join([*(["python", "-m", "optbench"] if program == "__main__.py" else [program]), *argv[1:]])


@app.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Which published results. [default: all]")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few seeds, the first epochs: minutes, not days.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained, and stop.")] = False,
    device: Device = "auto",
    workers: Workers = None,
    output: Output = Path("results/verify"),
    data_dir: DataDir = None,
    format: Annotated[TextFormat, typer.Option("--format", "-f", help="How to write it.")] = TextFormat.table,
) -> None:
    """Reproduce results that others have published; a miss is exit code 1. Run it again to resume."""
    from optbench.verify import published

    cases = [published.case(name) for name in names or published.names()]
    sweeps = [case.sweep(quick) for case in cases]
    console = _console(stderr=not dry_run)
    with _waiting(console, "planning …"):
        from optbench.results.store import Store
        from optbench.runs import screen
        from optbench.runs.job import Job

        folders = [output / (f"{case.name}-quick" if quick else case.name) for case in cases]
        jobs = [
            Job(sweep, Store(folder), device, workers, data_dir=data_dir)
            for sweep, folder in zip(sweeps, folders, strict=True)
        ]
    failed = 0
    for job in jobs:
        shown = screen.Screen(console, every_phase=dry_run)
        _watch(job, dry_run, shown, console)
        failed += shown.failed
    if dry_run:
        return
    from optbench.report import formats
    from optbench.verify import outcome

    rows = {
        case.name: job.store.rows(trial_ids=[trial.trial_id for trial in job.tuning])
        for case, job in zip(cases, jobs, strict=True)
    }
    built = outcome.report(rows, cases, f"{'quick, ' if quick else ''}{jobs[0].device}")
    if format is TextFormat.table:
        formats.terminal(built, _console())
    else:
        sys.stdout.write(formats.FORMATS[format.value](built))
    if failed or outcome.is_missed(built):
        raise typer.Exit(TRIAL_FAILED if failed else MISSED)


def _leave_report(store: Store, console: Console) -> None:
    """Write the tables beside the rows, and say how to see more of them."""
    from optbench.report import build, formats

    try:
        built = build.build(store)
        path = store.write_meta("report.md", formats.markdown(built))
    except UserError as error:
        console.print(f"no report: {error}", soft_wrap=True, markup=False)
        return
    console.print()
    console.print(" ".join(built.findings), markup=False)
    console.print()
    for line in (
        f"tables: optbench report {store.folder} --full",
        f"page: optbench report {store.folder} -o report.html",
        f"report: {path}",
    ):
        console.print(line, soft_wrap=True, markup=False)


@app.command()
def report(
    results: Annotated[
        str | None, typer.Argument(help="Folder of one sweep, or a baseline. [default: the newest]")
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="BASELINE",
            help="Show it with these results, too: a name of 'optbench baselines', or a folder of results. Repeatable.",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMNS", help="One table with a row for each value, e.g. --by optimizer,schedule."),
    ] = None,
    metric: Annotated[
        str, typer.Option(help="What ranks: test_, val_ or train_, with accuracy or loss.")
    ] = "test_accuracy",
    at: Annotated[
        str, typer.Option(help="Scores of the last epoch, of each trial's best on validation, or epoch=K.")
    ] = "last",
    where: Annotated[
        str, typer.Option(metavar="CONDITION", help="Only these trials, e.g. --where 'batch_size == 64'.")
    ] = "",
    target: Annotated[
        str | None,
        typer.Option(
            help="Validation score to reach, e.g. 98.5%. [default: what sgd, adam and adamw reach, the median]"
        ),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="OPTIMIZER", help="Compare all others with this one. [default: the best]")
    ] = None,
    rope: Annotated[
        str | None,
        typer.Option(
            metavar="POINTS", help="Differences below this do not matter. [default: what the test images cannot show]"
        ),
    ] = None,
    seconds: Annotated[bool, typer.Option("--seconds", help="Show seconds, of trials that ran alone.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Show all tables in the terminal, not one screen.")] = False,
    format: Annotated[
        Format | None,
        typer.Option("--format", "-f", help="How to write it. [default: by the file's ending, else table]"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file; figures: to this folder.")
    ] = None,
) -> None:
    """Which optimizer, at which learning rate, how sure: comparison tables, a page, figures."""
    console = _console(stderr=True)
    with _waiting(console, "computing …"):
        from optbench import baselines
        from optbench.report import agreement, build, formats, query
        from optbench.report.results import prepare
        from optbench.results.store import Store, newest

        score = query.parse_metric(metric)
        asked = query.Query(
            by=tuple(name.strip() for names in by or [] for name in names.split(",")),
            metric=score,
            at=query.parse_at(at),
            where=where,
            target=query.parse_target(target) if target else None,
            seconds=seconds,
            baseline=baseline,
            rope=query.parse_rope(rope, score) if rope else None,
        )
        others = [Store(baselines.locate(name)) for name in beside or []]
        own = Store(baselines.folder(results) if results else newest(Path("results")))
        loaded = prepare(agreement.beside(own, others), asked)
        built = build.report(loaded)
    name = format.value if format else formats.by_ending(output)
    if name == "figures":
        from optbench.report import figures, plots

        with _waiting(console, "drawing …"):
            written = figures.write(plots.explore(loaded), output or Path(f"{built.sweep}-figures"))
        print(f"wrote {len(written)} files to {written[0].parent} (figures)", file=sys.stderr)
        return
    if name == "html":
        from optbench.report import html, plots

        with _waiting(console, "drawing …"):
            text = html.page(built, plots.explore(loaded))
        if output is None and sys.stdout.isatty():
            output = Path(f"{built.sweep}.html")
    elif name == "table" and output is None:
        _show(built, full or bool(by))
        return
    else:
        text = formats.FORMATS[name](built)
    if output is None:
        sys.stdout.write(text)
        return
    _write(output, text, name)


def _show(built: Report, full: bool) -> None:
    from optbench.report import formats

    console = _console()
    if full:
        formats.terminal(built, console)
    elif left_out := formats.summary(built, console):
        console.print(f"\n--full also shows: {'; '.join(left_out)}.", style="dim", markup=False)


def _write(path: Path, text: str, format: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    print(f"wrote {path} ({format})", file=sys.stderr)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of results: before.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="Folder of results: after.", show_default=False)],
    by: Annotated[
        str, typer.Option(metavar="COLUMNS", help="A row for each value of these, with commas.")
    ] = "optimizer",
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION", help="Exit with 3 where it holds, e.g. 'test_accuracy < -0.5' (points). Repeatable."
        ),
    ] = None,
    format: Annotated[
        TextFormat | None,
        typer.Option("--format", "-f", help="How to write it. [default: by the file's ending, else table]"),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
) -> None:
    """What changed between two results of the same trials, by how much, and how sure that is."""
    from optbench.report import comparison, formats
    from optbench.results.store import Store

    conditions = [comparison.condition(text) for text in fail_if or []]
    columns = list(dict.fromkeys(name.strip() for name in by.split(",")))
    name = format.value if format else formats.by_ending(output)
    if name not in formats.FORMATS:
        raise UserError(f"{output}: only a report has a page; a comparison is .md, .tex, .csv, .json or a table")
    built = comparison.compare(Store(a), Store(b), columns)
    if output is not None:
        _write(output, formats.FORMATS[name](built), name)
    elif name == "table":
        formats.terminal(built, _console())
    else:
        sys.stdout.write(formats.FORMATS[name](built))
    broken, unknown = comparison.check(built, conditions)
    sys.stdout.flush()
    for line in [*broken, *unknown]:
        print(f"optbench: {line}", file=sys.stderr)
    if broken or unknown:
        raise typer.Exit(BROKEN if broken else USAGE)


@app.command()
def export(
    to: Annotated[Tool, typer.Option(help="One file of all rows, or a run for each trial.", show_default=False)],
    results: Annotated[Path | None, typer.Argument(help="Folder of one sweep. [default: the newest]")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File ('-': stdout) or folder. [default: NAME.csv; runs/NAME; else the current folder]",
        ),
    ] = None,
) -> None:
    """Write a sweep's rows for other tools. Exporting again replaces what is there: nothing doubles."""
    from optbench import export
    from optbench.results.store import Store, newest

    exported = export.gather(Store(results or newest(Path("results"))))
    if to is Tool.csv:
        path = output or Path(f"{exported.name}.csv")
        export.csv(exported, None if path == Path("-") else path)
        if path != Path("-"):
            print(f"wrote {path} (csv)", file=sys.stderr)
        return
    destination = export.TOOLS[to.value](exported, output)
    console, total, done = _console(stderr=True), len(exported), 0
    try:
        with _one_line(console) as say:
            for done, _ in enumerate(destination.runs, 1):
                # In a terminal one line; elsewhere ten lines, or none where there are few runs.
                if console.is_terminal or (total >= _MANY_RUNS and done % (total // 10) == 0):
                    say(f"{done}/{total} runs")
    except KeyboardInterrupt:
        print(f"interrupted: {done}/{total} runs are in {destination.where}; run again for all", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        raise UserError(f"{destination.where}: cannot be written: {error.strerror or error}") from None
    print(f"wrote {total} run{'s' * (total != 1)} to {destination.where} ({to.value})", file=sys.stderr)
    if destination.hint:
        print(f"next: {destination.hint}", file=sys.stderr)


@app.command()
def status(
    results: Annotated[Path | None, typer.Argument(help="Folder of one sweep. [default: the newest]")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Redraw it every few seconds, until nothing is left to train or Ctrl-C.")
    ] = False,
    format: AsTable = TableFormat.table,
) -> None:
    """How far a sweep is, also while it runs."""
    if watch and format is TableFormat.json:
        raise UserError("--watch shows a table; without it, --format json is the status now")
    from optbench.report import formats
    from optbench.report import status as states
    from optbench.results.store import Store, newest

    store, console = Store(results or newest(Path("results"))), _console()
    interrupted = False
    if watch:
        try:
            states.watch(store, console)
        except KeyboardInterrupt:
            interrupted = True
    found = states.status(store)
    if format is TableFormat.json:
        sys.stdout.write(formats.json_text(found.content()))
    else:
        formats.print_table(found.table, console)
    if interrupted:
        raise typer.Exit(INTERRUPTED)


@app.command()
def compact(
    results: Annotated[Path | None, typer.Argument(help="Folder of one sweep. [default: the newest]")] = None,
) -> None:
    """Merge the many parquet files of a sweep into few; no row changes. 'run' does so at its end."""
    from optbench.results.store import Store, newest

    store = Store(results or newest(Path("results")))
    store.rows(["epoch"])  # raises unless there are results and all of them can be read
    with store.locked():
        for each in (store, store.timing, store.pretrained):
            before, after = each.compact()
            if after < before:
                print(f"{each.folder}: {before} parts → {after}")
            elif each is store:
                print(f"{each.folder}: {before} part{'s' * (before != 1)}, nothing to merge")


@app.command("list")
def list_(
    what: Annotated[What, typer.Argument(help="What to list.", show_default=False)],
    plot: Annotated[bool, typer.Option("--plot", help="Draw each schedule's learning rate.")] = False,
    format: AsTable = TableFormat.table,
) -> None:
    """The optimizers, networks, schedules or datasets that a sweep file may name."""
    from optbench.report import catalogue, formats

    if plot and (what is not What.schedules or format is TableFormat.json):
        raise UserError("--plot draws schedules: optbench list schedules --plot")
    if plot:
        catalogue.plot_schedules(_console())
        return
    tables = catalogue.CATALOGUE[what.value]()
    if format is TableFormat.json:
        sys.stdout.write(formats.json_text({"tables": [formats.content(table) for table in tables]}))
        return
    console = _console()
    for i, table in enumerate(tables):
        if i > 0:
            console.print()
        formats.print_table(table, console)


@app.command("baselines")
def baselines_(format: AsTable = TableFormat.table) -> None:
    """What the project has measured: show your own results with it, and train only your own optimizer."""
    from optbench.report import baselines, formats

    table = baselines.table()
    if format is TableFormat.json:
        sys.stdout.write(formats.json_text({"tables": [formats.content(table)]}))
    else:
        formats.print_table(table, _console())


@app.command()
def check_optimizer(
    optimizer: Annotated[
        str,
        typer.Argument(
            metavar="OPTIMIZER",
            help="As in a sweep file: adam, ./my_opt.py:MyOptimizer, package.module:Class, pytorch_optimizer.NAME.",
            show_default=False,
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A hyperparameter, e.g. --set lr=0.1. Repeatable."),
    ] = None,
    format: AsTable = TableFormat.table,
) -> None:
    """Check an optimizer: does it step, learn, repeat itself and survive a checkpoint, and what does it cost?"""
    from optbench.report import checks, formats
    from optbench.training import check

    console = _console()
    trial = check.trial_of(optimizer, settings or [], Path())
    with _waiting(console, "training …"):
        findings = check.check(trial)
    if format is TableFormat.json:
        sys.stdout.write(formats.json_text(checks.content(trial.hyperparameters, findings)))
    else:
        checks.print_findings(checks.about(trial.hyperparameters), findings, console)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(TRIAL_FAILED)


@app.command()
def check_model(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="As in a sweep file: cnn, ./my_net.py:MyNet, package.module:Class.",
            show_default=False,
        ),
    ],
    dataset: Annotated[str, typer.Option(help="As in a sweep file: what it is to be trained on.")] = "digits",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An argument of it, e.g. --set width=32. Repeatable."),
    ] = None,
    format: AsTable = TableFormat.table,
) -> None:
    """Check a network: what is it, does it learn, repeat itself and not depend on its stack, and what does it cost?"""
    from optbench.report import checks, formats
    from optbench.training import check_model

    console = _console()
    with _waiting(console, "training …"):
        name, findings = check_model.findings_about(model, settings or [], dataset, Path())
    if format is TableFormat.json:
        sys.stdout.write(formats.json_text(checks.content_of_model(name, dataset, findings)))
    else:
        checks.print_findings([f"{name} on {dataset}"], findings, console)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(TRIAL_FAILED)


@app.command()
def check_data(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="As in a sweep file: mnist, ./flowers.npz, ./table.parquet, a folder, ./my_data.py:load.",
            show_default=False,
        ),
    ],
    data_dir: DataDir = None,
    format: AsTable = TableFormat.table,
) -> None:
    """Check data: can they be read, which classes have how many images, are test images also trained on?"""
    from optbench.report import checks, formats
    from optbench.training import check_data

    console = _console()
    with _waiting(console, "reading …"):
        checked = check_data.check(dataset, data_dir, Path())
    if format is TableFormat.json:
        sys.stdout.write(formats.json_text(checks.content_of_data(checked)))
    else:
        checks.print_data(checked, console)
    if not all(finding.ok for finding in checked.findings):
        raise typer.Exit(TRIAL_FAILED)


@app.command()
def bench(
    device: Device = "auto",
    trials: Annotated[
        str | None,
        typer.Option(help="Trials in a stack, several with commas.", show_default="1,4; on a GPU 1,8,32,128"),
    ] = None,
    batch_size: Annotated[str, typer.Option(help="Images per step, several with commas.")] = "64",
    precision: Annotated[Precision, typer.Option(help="As in a sweep file.")] = Precision.auto,
    repeats: Annotated[int, typer.Option(min=1, help="How often everything is measured, in alternation.")] = 5,
    seconds: Annotated[float, typer.Option(help="About how long one measurement takes.")] = 1.0,
    workers: Workers = None,
    format: Annotated[
        TableFormat | None,
        typer.Option("--format", "-f", help="How to write it. [default: by the file's ending, else table]"),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
) -> None:
    """How fast this device trains stacks, against a sequential PyTorch loop and against what it could do at best.

    A JSON file has each figure as soon as it is measured; it is finished once it says "complete": true.
    """
    sizes = _numbers("batch_size", batch_size)
    stacked = _numbers("trials", trials) if trials is not None else None
    if output is not None and (output.is_dir() or not output.parent.is_dir()):  # before the work, rather than after it
        raise UserError(f"{output}: cannot be written: {'it is a folder' if output.is_dir() else 'no such folder'}")
    import json

    console = _console(stderr=True)
    with _waiting(console, "starting …"):
        from optbench import bench, execution
        from optbench.machine.device import resolve_device
        from optbench.report import checks, formats
        from optbench.runs import screen

    where = resolve_device(device)
    counts = stacked or (bench.TRIALS_CPU if where == "cpu" else bench.TRIALS)
    processes = workers or execution.default_workers()
    request = bench.Request(where, precision.value, processes, counts, sizes, repeats, seconds)
    name = format.value if format else "json" if formats.by_ending(output) == "json" else "table"

    def text(benchmark: bench.Benchmark) -> str:
        if name == "table":
            return formats.plain_table(checks.throughput(benchmark))
        return f"{json.dumps(benchmark.content(), indent=1, ensure_ascii=False)}\n"

    try:
        with screen.interruptible(), _one_line(console) as say:
            measured = bench.measure(request, say)
            with closing(measured):
                for benchmark in measured:
                    if output is not None and name == "json":
                        _replace(output, text(benchmark))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    if output is not None:
        _write(output, text(benchmark), name)
    elif name == "json":
        sys.stdout.write(text(benchmark))
    else:
        formats.print_table(checks.throughput(benchmark), _console())


def _replace(path: Path, text: str) -> None:
    """Replace a file in one step: even if a run is killed, there is a complete one. Leaves pipes and links alone."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


@contextmanager
def _one_line(console: Console) -> Iterator[Callable[[str], None]]:
    """Says what is being measured, without a thread that would take time from it; in a terminal on a single line."""

    def say(what: str) -> None:
        if console.is_terminal:
            print(f"\r{what.ljust(console.width - 1)[: console.width - 1]}", end="", file=sys.stderr, flush=True)
        else:
            print(what, file=sys.stderr, flush=True)

    try:
        yield say
    finally:
        if console.is_terminal:
            print(f"\r{' ' * (console.width - 1)}\r", end="", file=sys.stderr, flush=True)


def _numbers(argument: str, text: str) -> list[int]:
    """Whole numbers from 1, with commas between."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise ArgumentError(argument, text, "must be whole numbers of at least 1 with commas between, as in 1,4")
    return numbers


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("sweep.yaml"),
    optimizer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPTIMIZER",
            help="Compare it with adamw and sgd: ./my_opt.py:MyOptimizer, or another name of a sweep file. Repeatable.",
        ),
    ] = None,
    beside: Annotated[
        str,
        typer.Option(
            "--with",
            metavar="BASELINE",
            help="Compare it with what this baseline, or folder of results, has trained already.",
            show_default=False,
        ),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
) -> None:
    """Write a commented sweep file to start from, or one that compares an optimizer of your own with the usual ones."""
    if beside and not optimizer:
        raise UserError(f"say what to compare with {beside}: optbench init --optimizer NAME --with {beside}")
    from optbench.sweep import starter

    text = starter.comparison(optimizer, path, beside) if optimizer else starter.example()
    try:
        with path.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UserError(f"{path} is there already; --force overwrites it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    if not optimizer:
        print(f"wrote {path}; next: optbench run {path}")
        return
    steps = {f"optbench check-optimizer {name}": "does it work here?" for name in optimizer}
    steps |= {f"optbench run {path}": "train it; again to resume"}
    steps |= {starter.ask(beside): "better, worse or neither?"}
    width = max(map(len, steps))
    print(f"wrote {path}; next:", *(f"{step:{width}}  {why}" for step, why in steps.items()), sep="\n  ")


def _waiting(console: Console, why: str) -> AbstractContextManager[Any]:
    """In a terminal, says what the user is waiting for."""
    return console.status(why) if console.is_terminal else nullcontext()


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)
