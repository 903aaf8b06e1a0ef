"""Code from elsewhere: classes and functions of the user's own files and of installed packages, by name.

A sweep file names them `./file.py:Name` (beside the sweep file) or `package.module:Name`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from optbench.errors import UserError, did_you_mean


def named(name: str, folder: Path, is_wanted: Callable[[Any], bool], what: str) -> Any:
    """What a name stands for; a file is looked for in `folder`.

    Raises `UserError` when it cannot be imported or has no such name. The message then suggests what of the file
    `is_wanted`, called `what` ("optimizers").
    """
    module_name, _, path = name.rpartition(":")
    module = _file(folder / module_name) if module_name.endswith(".py") else _module(module_name)
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            names = [own for own, value in vars(module).items() if is_wanted(value)]
            hint = did_you_mean(path, names) if names else f"it has no {what}"
            raise UserError(f"{module_name} has no '{path}'; {hint}")
        found = getattr(found, part)
    return found


def in_words(value: Any) -> str:
    """What a value is that is not what was looked for: "a class derived from object"."""
    if isinstance(value, type):
        return f"a class derived from {' and '.join(base.__name__ for base in value.__bases__)}"
    return f"a {type(value).__name__}"


def one_line(error: BaseException) -> str:
    """An exception of somebody else's code as part of a message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


# A script that ends with sys.exit cannot be imported any more than one that raises.
_IMPORT_ERRORS = (Exception, SystemExit)


def _on_path(folder: Path) -> None:
    """Let imports find modules in the folder, after all others. Programs installed by pip do not search it."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _module(name: str) -> ModuleType:
    _on_path(Path.cwd())
    try:
        return importlib.import_module(name)
    except _IMPORT_ERRORS as error:
        raise UserError(f"cannot import {name}: {one_line(error)}") from None


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    _on_path(path.parent.resolve())
    name = f"optbench_file_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except _IMPORT_ERRORS as error:
        del sys.modules[name]
        raise UserError(f"cannot import {path}: {one_line(error)}") from None
    return module


def source(found: Any) -> str:
    """A digest of the file that defines a class or a function, so that what changed code computed is not reused."""
    try:
        path = inspect.getsourcefile(found)
    except TypeError:
        path = None
    text = Path(path).read_bytes().replace(b"\r\n", b"\n") if path else b""
    return hashlib.sha256(text).hexdigest()[:16]


# ---------------------------------------------------------------- signatures

Whole = Annotated[int | float, AfterValidator(lambda n: int(n) if float(n).is_integer() else n)]


def kind(argument: inspect.Parameter) -> Any:
    """The type of one value, from the default: annotations are too often missing, or wrong.

    A whole number as default, without annotation, may well mean a real number (`weight_decay=0`). None for arguments
    that a sweep file cannot express, such as a dtype or a function.
    """
    default = argument.default
    match default:
        case bool() | str():
            return type(default)
        case float():
            return float
        case int():
            annotation = getattr(argument.annotation, "__name__", str(argument.annotation))
            return {"int": int, "float": float}.get(annotation, Whole)
        case tuple() | list() if default and all(type(part) in (int, float) for part in default):
            parts = tuple(float if isinstance(part, float) else Whole for part in default)
            return Annotated[tuple[parts], Field(strict=False)]  # type: ignore[valid-type]
        case tuple() | list() | None | argument.empty:
            return Any
    is_required_by_old_convention = type(default).__name__ == "_RequiredParameter"
    return Any if is_required_by_old_convention else None
