"""Becoming a Python program, in a process forked from the warm server: the last of ours that runs in it."""

from __future__ import annotations

import atexit
import builtins
import gc
import io
import os
import sys
import tempfile
import threading
from _sitebuiltins import Quitter, _Helper
from types import ModuleType, TracebackType
from typing import NoReturn

from rlvr.sandbox.isolation import CONTROL, HOME

SOURCE_NAME = "main.py"


class FreshInterpreter:
    """This one, made to look new. Descriptors 0, 1, 2 must be open, and of the kinds that programs get.

    It is made for one process, or for all that are forked from it.
    """

    def __init__(self, folder: str) -> None:
        self.path = f"{folder}/{SOURCE_NAME}"
        self.main = ModuleType("__main__")
        self.main.__dict__.update(__builtins__=builtins, __file__=self.path, __loader__=None)
        ours = [name for name in sys.modules if name == "rlvr" or name.startswith("rlvr.")]
        # Kept, for to take them apart would cost each program more than all else at its start.
        self._hidden = [sys.modules.pop(name) for name in ours]
        sys.modules["__main__"] = self.main
        # What `site` adds to an interpreter, which the server does without: it would read path files.
        for name in ("exit", "quit"):
            setattr(builtins, name, Quitter(name, "Ctrl-D (i.e. EOF)"))
        builtins.help = _Helper()
        sys.argv = [SOURCE_NAME]
        sys.orig_argv = ["python", SOURCE_NAME]
        sys.path.insert(0, folder)
        if folder != HOME:
            os.environ.update(HOME=folder, TMPDIR=folder)
            tempfile.tempdir = None  # the server has looked for one, which is the machine's
        # Not the server's: theirs have looked at what the descriptors were then.
        sys.stdin = sys.__stdin__ = _text(0, "r")  # type: ignore[misc]
        sys.stdout = sys.__stdout__ = _text(1, "w")  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = _text(2, "w", errors="backslashreplace", line_buffering=True)  # type: ignore[misc]


class PythonProgram:
    """What `serve` returns in a program's process, with all of the server's frames gone."""

    def __init__(self, interpreter: FreshInterpreter, source: int, source_bytes: int) -> None:
        self.interpreter = interpreter
        self.source = source
        self.source_bytes = source_bytes

    def run(self) -> NoReturn:
        """Run the source, which descriptor `source` begins with, as a new interpreter would run a script."""
        text = os.pread(self.source, self.source_bytes, 0)
        os.close(self.source)
        os.close(CONTROL)
        gc.enable()
        path, names = self.interpreter.path, self.interpreter.main.__dict__
        code = 0
        try:
            exec(compile(text, path, "exec", dont_inherit=True), names)
        except SystemExit as end:
            code = _exit_code(end)
        except BaseException as error:  # noqa: BLE001 - of the program
            code = 1
            _report(error)
        _leave(code)


def _text(
    descriptor: int, mode: str, errors: str = "surrogateescape", line_buffering: bool = False
) -> io.TextIOWrapper:
    raw = io.FileIO(descriptor, mode, closefd=False)
    buffer = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, encoding="utf-8", errors=errors, line_buffering=line_buffering)


def _report(error: BaseException) -> None:
    """Print the traceback through the hook in force, without our own frame at its top."""
    trace: TracebackType | None = error.__traceback__.tb_next if error.__traceback__ else None
    try:
        sys.excepthook(type(error), error.with_traceback(trace), trace)
    except BaseException:  # noqa: BLE001 - of the program's own hook
        sys.__excepthook__(type(error), error, trace)


def _exit_code(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    print(end.code, file=sys.stderr)
    return 1


def _leave(code: int) -> NoReturn:
    """What an interpreter does at its end, short of taking itself apart: the kernel is quicker at that."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException as error:  # noqa: BLE001 - of what the program wants done at its end
        _report(error)
    try:
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - of what the program put in the stream's place
        _report(error)
        code = 120  # as an interpreter does that cannot flush
    try:
        sys.stderr.flush()
    finally:
        os._exit(code)
