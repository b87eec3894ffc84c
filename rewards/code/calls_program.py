"""Calls one function of the answer with each of the given arguments, inside the sandbox, and writes what it gives.

A line of output for each call; it is compared elsewhere. What is printed meanwhile goes to stderr.
"""

import os
import sys
from pathlib import Path

from rlvr.rewards.code.answer_program import function_named, load_answer
from rlvr.rewards.code.values import NotPlain, decode, encode

CALLS = "calls"


def main() -> None:
    name, inputs = decode(Path(CALLS).read_bytes())
    output = os.dup(1)
    os.dup2(2, 1)
    names = load_answer()
    for args in inputs:
        try:
            line = encode(["value", function_named(name, names)(*args)])
        except NotPlain as error:
            line = encode(["raised", f"it gave {error}"])
        except Exception as error:  # noqa: BLE001 - whatever the answer raises is what this call came to
            sys.excepthook(type(error), error, error.__traceback__)
            line = encode(["raised", f"{type(error).__name__}: {error}"])
        os.write(output, line + b"\n")
    sys.stdout.flush()
