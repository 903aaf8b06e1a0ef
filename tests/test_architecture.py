"""Imports point only backwards along the line that the data walks, and --help stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import optbench

ROOT = Path(optbench.__file__).parent
# A module may import those above it. The registries stand before `spec`, which checks a sweep file against them.
LINE = [
    "errors",
    "scores",
    "bounds",
    "isolation",
    "device",
    "randomness",
    "datasets",
    "document",
    "schedules",
    "search",
    "wording",
    "hyperparameters",
    "networks.initial",
    "networks.layers",
    "networks.architecture",
    "networks.cnn",
    "networks.deepobs_2c2d",
    "networks.lenet5",
    "networks.mlp",
    "networks.rnn",
    "networks.softmax",
    "networks",
    "axes",
    "optimizers",
    "optimizers.library",
    "optimizers.foreign",
    "optimizers.lookup",
    "optimizers.adapter",
    "optimizers.rules",
    "kernels",
    "kernels.updates",
    "optimizers.stacked",
    "kernels.trunk",
    "networks.activations",
    "networks.losses",
    "networks.functions",
    "networks.convolution",
    "networks.forward",
    "networks.network",
    "blocks",
    "spec",
    "trials",
    "stacks",
    "step",
    "autotune",
    "engine",
    "check",
    "execution.event",
    "execution.in_process",
    "execution.workers",
    "execution.processes",
    "execution",
    "speed",
    "bench",
    "fit",
    "parts",
    "store",
    "stats.finals",
    "stats.intervals",
    "stats.ranking",
    "stats.selection",
    "stats.tuning",
    "stats.importance",
    "stats.targets",
    "stats.workloads",
    "stats.pairing",
    "stats",
    "halving",
    "report",
    "report.tables",
    "report.curves",
    "report.formats",
    "report.query",
    "report.results",
    "report.findings",
    "report.rankings",
    "report.insights",
    "report.build",
    "report.plots",
    "report.html",
    "report.figures",
    "report.status",
    "report.comparison",
    "report.listings",
    "job",
    "phases",
    "run",
    "estimate",
    "progress",
    "screen",
    "export",
    "cli",
    "__main__",
]


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree):
    """Modules of optbench that a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "optbench":
            base = node.module.partition(".")[2]
            for alias in node.names:
                inner = f"{base}.{alias.name}".strip(".")
                yield inner if inner in LINE else base
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("optbench."))


def test_imports_point_backwards():
    names = dict(modules())
    assert set(names) == set(LINE)
    for name, tree in names.items():
        for other in imported(tree):
            if other:
                assert LINE.index(other) < LINE.index(name), f"{name} imports {other}"


def test_every_public_function_and_class_has_a_docstring():
    bare = [
        f"{name}.{node.name}"
        for name, tree in modules()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
        and name not in ("cli", "optimizers", "optimizers.rules", "report.listings", "report.formats")
    ]
    assert bare == []


def test_help_and_broken_files_answer_without_torch_or_pandas(tmp_path):
    (tmp_path / "broken.yaml").write_text("epochs: ten")
    script = """
import sys
from optbench.cli import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    code = end.code
heavy = [name for name in ("torch", "pandas", "pyarrow", "scipy", "numpy") if name in sys.modules]
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    for arguments in (["--help"], ["run", "--help"], ["--version"], ["run", str(tmp_path / "broken.yaml")]):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
