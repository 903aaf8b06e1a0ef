"""What is wrong with a value, in the words of a sweep file, and where it is: pydantic's errors, translated.

A validator that has the words itself raises `wrong`, and may add the key inside the value that it is about.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError


def wrong(why: str, at: str | None = None, is_key: bool = False) -> PydanticCustomError:
    """An error about a value, about what is `at` a key inside it, or about the key itself."""
    return PydanticCustomError("in_words", "{why}", {"why": why, "at": at, "is_key": is_key})


def wrong_at(loc: tuple[str | int, ...], why: str, value: Any, is_key: bool = False) -> InitErrorDetails:
    """One of several errors inside a value."""
    return InitErrorDetails(type=wrong(why, is_key=is_key), loc=loc, input=value)


def worth_saying(error: ValidationError) -> list[ErrorDetails]:
    """Its details, without lists that are too short only because their items have problems of their own."""
    return [detail for detail in error.errors() if not (detail["type"] == "too_short" and detail["input"])]


def location(detail: ErrorDetails) -> tuple[tuple[str | int, ...], bool]:
    """Where in the data an error is, and whether it is about the key there and not its value."""
    context = detail.get("ctx", {})
    at = (context["at"],) if context.get("at") else ()
    return (*detail["loc"], *at), detail["type"] == "extra_forbidden" or bool(context.get("is_key"))


def in_words(detail: ErrorDetails) -> str:
    """A pydantic error about a value."""
    kind, value = detail["type"], detail["input"]
    if kind == "in_words":
        return str(detail["msg"])
    if kind == "missing" and isinstance(detail["loc"][-1], int):
        return f"takes pairs: two numbers, not {show(value)}"
    if kind == "missing":
        return f"missing key '{detail['loc'][-1]}'"
    if isinstance(value, dict) and {"min", "max"} & set(value) and detail["loc"][-1:] != ("seeds",):
        return "no range can be searched here: list the values"
    if kind == "tuple_type":
        return f"takes pairs, and a list is a grid axis: write one pair as [[a, b]], not {show(value)}"
    types = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "string": "text",
        "dict": "a mapping",
        "model": "a mapping",
    }
    for name, wanted in types.items():
        if kind in (f"{name}_type", f"{name}_parsing", f"{name}_from_float"):
            return f"must be {wanted}, not {show(value)}"
    if kind == "too_short":
        return "needs at least one value"
    if kind == "too_long":
        return f"takes pairs: two numbers, not {show(value)}"
    if kind == "list_type":
        return f"must be a list, not {show(value)}"
    if kind == "string_pattern_mismatch":
        return f"must be letters, digits, '.', '_' and '-' and begin with a letter or digit, not {show(value)}"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return message if message == detail["msg"] else f"{message}, not {show(value)}"


def refusal(error: ValueError) -> str:
    """What is wrong with values that are valid one by one."""
    if not isinstance(error, ValidationError):
        return str(error)
    detail = error.errors()[0]
    if detail["type"] == "missing":
        return f"needs {detail['loc'][0]}"
    return detail["msg"].removeprefix("Value error, ")


def show(value: Any) -> str:
    """A value as the user would write it, shortened."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text '{value[:40]}'"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(show, value))}]"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def out_of(parts: Iterable[int], wholes: Iterable[int]) -> list[str]:
    """How many of how many there are, each as "3/8"."""
    return [f"{part}/{whole}" for part, whole in zip(parts, wholes, strict=True)]


def length_in_words(epochs: int | None, steps: int | None) -> str:
    """How long a trial trains: its number of epochs, or of steps where that is what was asked for."""
    if steps is not None:
        return f"{steps:,} step{'s' * (steps != 1)}"
    assert epochs is not None, "one of the two is known"
    return count(epochs, "epoch")


def count(n: int, noun: str, plural: str = "") -> str:
    """A number of things: 1 trial, 2 trials."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"
