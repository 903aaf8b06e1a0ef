"""Imports point only backwards along the line that the data walks, and --help stays light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import optbench

ROOT = Path(optbench.__file__).parent
# A package may import those above it, and a module those above it in its package. What a sweep file may name stands
# before `sweep`, which checks a file against it.
LINE = {
    "errors": [],
    "wording": [],
    "scores": [],
    "elsewhere": [],
    "machine": ["device", "isolation", "randomness", "launch"],
    "data": ["info", "downloads", "arrays", "named", "files", "own", "datasets"],
    "optimizers": ["bounds", "hyperparameters", "schedules", "", "library", "foreign"],
    "networks": [
        *("initial", "layers", "architecture", "alexnet", "cnn", "deepobs_2c2d", "deepobs_3c3d", "densenet"),
        *("inception", "lenet5", "mlp", "resnet20", "rnn", "softmax", "vgg", "wide_resnet", "foreign", ""),
        *("activations", "losses", "functions", "convolution", "trunk_kernels", "forward", "modules", "network"),
    ],
    "baselines": [],
    "sweep": ["search", "axes", "lookup", "document", "blocks", "spec", "trials", "stacks", "settings", "starter"],
    "training": [
        *("rules", "update_kernels", "adapter", "stacked", "recipe", "step", "autotune", "pretrained", "engine"),
        *("check", "check_model", "check_data", "speed", "fit"),
    ],
    "execution": ["event", "in_process", "workers", "processes", ""],
    "bench": [],
    "results": ["parts", "correct", "store", "joined"],
    "stats": [
        *(
            "finals",
            "intervals",
            "moderation",
            "ranking",
            "images",
            "verdicts",
            "selection",
            "gains",
            "tuning",
            "importance",
            "cost",
            "targets",
            "workloads",
            "pairing",
            "",
        ),
    ],
    "report": [
        *("tables", "characters", "formats", "query", "results", "findings", "rankings", "defaults", "costs"),
        *("explanations", "build"),
        *("agreement", "baselines", "plots", "html", "figures", "status", "comparison", "catalogue", "checks"),
    ],
    "runs": ["job", "halving", "phases", "run", "estimate", "progress", "screen"],
    "verify": ["published", "verdict", "outcome"],
    "export": [],
    "cli": [],
    "__main__": [],
}
ORDER = [f"{package}.{name}".strip(".") for package, names in LINE.items() for name in names or [""]]
# Packages whose `__init__` only says what they are for.
BARE = {package for package, names in LINE.items() if names and "" not in names}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        if path.is_relative_to(ROOT / "verify" / "cases"):
            continue  # files beside sweeps, such as a user has, and no modules
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
                yield inner if inner in ORDER or inner in BARE else base
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("optbench."))


def test_imports_point_backwards_among_packages_and_inside_them():
    names = dict(modules())
    assert set(names) == {*ORDER, *BARE}
    for name, tree in names.items():
        if name in BARE:
            assert all(isinstance(node, ast.Expr) for node in tree.body), f"{name}/__init__.py is more than a docstring"
            continue
        for other in filter(None, imported(tree)):
            assert ORDER.index(other) < ORDER.index(name), f"{name} imports {other}"


def test_the_map_for_contributors_names_every_module():
    text = (ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^\| `(\w+)(?:/|\.py)` \| (.*) \|$", text, flags=re.MULTILINE))
    assert [name for name in sections if name in LINE] == [name for name in LINE if name != "__main__"]
    for package, names in LINE.items():
        for name in filter(None, names):
            assert f"`{name}.py`" in sections[package], f"{package}/{name}.py is not on the map"
    files = {f"{name}.py" for names in LINE.values() for name in names if name}
    for package, says in sections.items():
        named = set(re.findall(r"`(\w+\.py)`", says))
        assert named <= files | {"__init__.py"}, f"{package}: the map names files that are not there"


def test_every_public_function_and_class_has_a_docstring():
    bare = [
        f"{name}.{node.name}"
        for name, tree in modules()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
        and name not in ("cli", "optimizers", "training.rules", "report.catalogue", "report.formats")
    ]
    assert bare == []


def test_messages_outside_the_command_line_do_not_speak_in_its_options():
    for name, tree in modules():
        if name == "cli":
            continue
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            commands_taken_out = re.sub(r"(optbench|tensorboard|mlflow) [^'`\n]*", "", text)
            assert not re.search(r"(?<![\w-])--[a-z]", commands_taken_out), f"{name}, line {node.lineno}: {text}"


def test_what_sweep_files_are_checked_against_is_known_without_torch():
    names = [
        name
        for name in ORDER
        if name.split(".")[0] in ("errors", "wording", "scores", "elsewhere", "data", "optimizers", "sweep")
    ]
    names += [f"networks.{name}" for name in LINE["networks"][: LINE["networks"].index("")]]
    script = "import importlib, sys\n[importlib.import_module(f'optbench.{name}') for name in sys.argv[1:]]\n"
    script += "sys.exit('torch is imported' if 'torch' in sys.modules else 0)"
    names = [name for name in names if not name.endswith(".foreign")]
    done = subprocess.run([sys.executable, "-c", script, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
