"""YAML text → plain data, with the place of every key and value.

YAML is read by version 1.2's rules for scalars, because PyYAML's 1.1 turns `1e-3` into text, `010` into 8 and `no`
into False. Duplicate keys, aliases that contain themselves and foreign tags are problems, never silent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from optbench.errors import UserError

Key = tuple[str | int, ...]
MAX_NODES = 100_000  # aliases of aliases can unfold a small file into gigabytes
MAX_DEPTH = 50


@dataclass(frozen=True)
class Place:
    """Where something is: in which text, or in which setting `key=value`; line and column count from 1."""

    source: str
    line: int = 1
    column: int = 1
    is_setting: bool = False

    def __str__(self) -> str:
        return f"set {self.source}" if self.is_setting else f"{self.source}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where that is known."""

    place: Place | None
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class Unfit(Problem):
    """A network that cannot train on the data, although it is named as it should be."""


class SweepError(UserError):
    """All that is wrong with a sweep; its text has a line for each problem."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(dict.fromkeys(map(str, self.problems))))


_SCALARS = {
    "null": re.compile(r"^(?:~|null|Null|NULL|)$"),
    "bool": re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    "int": re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"),
    "float": re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


class Dumper(yaml.SafeDumper):
    """Writes YAML that the loader reads back: what would be read as a number is quoted if it is text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


Dumper.add_multi_representer(str, yaml.SafeDumper.represent_str)  # text with attributes, too

for _name, _regexp in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _regexp, None)
    Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _regexp, None)


def _scalar(tag: str, text: str) -> Any:
    """The value of a scalar by YAML 1.2's core schema; ValueError when text and tag disagree."""
    match tag.removeprefix("tag:yaml.org,2002:"):
        case "str":
            return text
        case "null":
            return None
        case "bool" if _SCALARS["bool"].match(text):
            return text.lower() == "true"
        case "int" if _SCALARS["int"].match(text):
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        case "float" if _SCALARS["float"].match(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    raise ValueError(f"{text[:40]!r} cannot be read as {tag.rpartition(':')[2]}")


def _at(start: Place, mark: yaml.Mark) -> Place:
    return replace(start, line=mark.line + 1, column=mark.column + 1)


class Document:
    """Plain data of a YAML text, and for each path through it the place of its value and of its key.

    `folder` is where the files that it names are looked for.
    """

    def __init__(self, folder: Path = Path()) -> None:
        self.folder = folder
        self.data: Any = None
        self.values: dict[Key, Place] = {}
        self.keys: dict[Key, Place] = {}
        self.problems: list[Problem] = []
        self._nodes = 0

    def read(self, text: str, start: Place, path: Key = ()) -> Any:
        """Parse `text`, which begins at `start`, and record its places under `path`.

        A syntax error becomes the only problem.
        """
        try:
            loader = _Loader(text)
            try:
                node = loader.get_single_node()
            finally:
                loader.dispose()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = _at(start, mark) if mark else start
            self.problems.append(Problem(place, ": ".join(filter(None, (error.context, error.problem)))))
            return None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            column = error.position - text.rfind("\n", 0, error.position)
            place = replace(start, line=line, column=column)
            self.problems.append(Problem(place, f"a character is not allowed: {error.reason}"))
            return None
        except RecursionError:
            self.problems.append(Problem(start, "lists or mappings are nested too deeply"))
            return None
        if node is None:
            self.values[path] = start
            return None
        return self._convert(node, start, path, ())

    def _convert(self, node: yaml.Node, start: Place, path: Key, parents: tuple[yaml.Node, ...]) -> Any:
        place = _at(start, node.start_mark)
        self.values[path] = place
        self._nodes += 1
        if node in parents or self._nodes > MAX_NODES or len(parents) > MAX_DEPTH:
            why = "an alias contains itself" if node in parents else "too many or too deeply nested values"
            if self._nodes <= MAX_NODES + 1:  # reported once
                self.problems.append(Problem(place, why))
            return None
        if isinstance(node, yaml.ScalarNode):
            try:
                return _scalar(node.tag, node.value)
            except ValueError as error:
                self.problems.append(Problem(place, str(error)))
                return None
        if isinstance(node, yaml.SequenceNode):
            return [self._convert(item, start, (*path, i), (*parents, node)) for i, item in enumerate(node.value)]
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key_place = _at(start, key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(key_place, "a key must be a single word"))
                continue
            key = key_node.value  # as written: a label may be `no` or `010`
            if key in mapping:
                first = self.keys[(*path, key)]
                self.problems.append(Problem(key_place, f"key '{key}' occurs twice (first in line {first.line})"))
                continue
            self.keys[(*path, key)] = key_place
            mapping[key] = self._convert(value_node, start, (*path, key), (*parents, node))
        return mapping

    def override(self, setting: str) -> None:
        """Apply one setting, `a.b=value`; the value is YAML. Raises `SweepError`."""
        name, equals, text = setting.partition("=")
        path: Key = tuple(name.strip().split("."))
        place = Place(setting, is_setting=True)
        if not equals or not all(path):
            raise SweepError([Problem(place, "write it as key=value, for example epochs=3")])
        parent = self.data
        for depth, key in enumerate(path[:-1], 1):
            if not isinstance(parent, dict):
                break
            if parent.get(str(key)) is None:
                parent[str(key)] = {}
                self.keys[path[:depth]] = self.values[path[:depth]] = place
            parent = parent[str(key)]
        if not isinstance(parent, dict):
            raise SweepError([Problem(place, f"there is nothing below '{'.'.join(map(str, path[:-1]))}' to set")])
        for known in [p for p in self.values if p[: len(path)] == path]:
            del self.values[known]
        self.keys[path] = self.values[path] = place
        parent[str(path[-1])] = self.read(text, place, path)

    def place(self, loc: Sequence[str | int], key: bool = False) -> Place:
        """The place of what pydantic calls `loc`; its own additions to the path (union tags…) are skipped."""
        path: Key = ()
        for part in loc:
            if (*path, part) in self.values:
                path = (*path, part)
        return self.keys.get(path, self.values[path]) if key else self.values[path]
