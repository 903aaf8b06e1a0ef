"""Calls in another process: whatever they break there (a GPU's context, the process itself), they break nothing here.

The process starts with the first call and serves the next ones, too, until one fails: then it is replaced, because the
failure may have left it in any state.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

Value = TypeVar("Value")


class CallFailedError(Exception):
    """A call that raised, hung, or ended its process; the text says which."""


class Isolated:
    """Calls functions in another process, one after another."""

    def __init__(self) -> None:
        self._worker: tuple[Connection, SpawnProcess] | None = None
        self._stderr = Path()

    def call(self, function: Callable[..., Value], *arguments: object, seconds: float) -> Value:
        """What a function returns. Raises `CallFailedError` if it does not return within so many seconds.

        Function, arguments and value are pickled. The seconds include starting the process if there is none yet.
        """
        connection, process = self._worker = self._worker or self._start()
        value: Any = None
        error = f"no answer within {seconds:g} s"
        try:
            connection.send((function, arguments))
            if connection.poll(seconds):
                value, error = connection.recv()
        except (EOFError, OSError):
            process.join()
            error = f"its process ended with exit code {process.exitcode}{self._last_words()}"
        if error:
            self.close()
            raise CallFailedError(error)
        result: Value = value
        return result

    def _start(self) -> tuple[Connection, SpawnProcess]:
        file, name = tempfile.mkstemp(prefix="optbench-")
        os.close(file)
        self._stderr = Path(name)
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._stderr), daemon=True)
        process.start()
        theirs.close()  # so that the end of the process ends the pipe
        return ours, process

    def close(self) -> None:
        """End the process; the next call starts another one."""
        if self._worker:
            connection, process = self._worker
            connection.close()
            process.kill()
            process.join()
            self._stderr.unlink(missing_ok=True)
            self._worker = None

    def _last_words(self) -> str:
        """The last line that the process wrote to stderr."""
        lines = self._stderr.read_text(errors="replace").split("\n")
        return next((f": {line.strip()}" for line in reversed(lines) if line.strip()), "")


def _serve(connection: Connection, stderr: Path) -> None:
    """The process: receives functions with their arguments, sends what they return or raise; ends with the pipe."""
    with stderr.open("w") as file:  # what drivers print there does not belong on the user's screen
        os.dup2(file.fileno(), 2)
    try:
        while True:
            function, arguments = connection.recv()
            try:
                answer = function(*arguments), ""
            except Exception as error:
                answer = None, f"{type(error).__name__}: {error}"
            connection.send(answer)
    except (EOFError, OSError):
        pass
