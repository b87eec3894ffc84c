"""Each limit has a status of its own, in both tiers; a program that copes with a limit is not to blame."""

from __future__ import annotations

import signal
import textwrap
from dataclasses import replace

import pytest

from rlvr.sandbox import Limits, Program, Result, Sandbox, Status
from rlvr.sandbox.languages import LANGUAGES

MIB = 1 << 20
SMALL = Limits(wall_s=4.0, cpu_s=4.0, memory_bytes=96 * MIB, disk_bytes=8 * MIB, processes=16, output_bytes=100_000)


def run(sandbox: Sandbox, source: str, limits: Limits = SMALL, language: str = "python") -> Result:
    return sandbox.run(Program(textwrap.dedent(source), language), limits=limits)


def quickest(sandbox: Sandbox, source: str, limits: Limits) -> Result:
    """Of five runs, for promises on time: on a busy machine, our own kill waits for the processor."""
    return min((run(sandbox, source, limits) for _ in range(5)), key=lambda result: result.wall_s)


def test_wall_time(each_tier: Sandbox) -> None:
    result = quickest(each_tier, "print('begun', flush=True)\nimport time; time.sleep(60)", Limits(wall_s=0.5))
    assert (result.status, result.signal, result.stdout) == (Status.TIMEOUT, signal.SIGKILL, b"begun\n")
    assert 0.5 <= result.wall_s <= 0.6


def test_wall_time_ends_what_cannot_be_interrupted(each_tier: Sandbox) -> None:
    result = quickest(each_tier, "9 ** (9 ** 9)", Limits(wall_s=0.5))
    assert result.status is Status.TIMEOUT
    assert result.wall_s <= 0.6


@pytest.mark.parametrize("cpu_s", [0.3, 1.0])
def test_cpu_time(each_tier: Sandbox, cpu_s: float) -> None:
    result = run(each_tier, "while True: pass", Limits(wall_s=20, cpu_s=cpu_s))
    assert result.status is Status.CPU
    assert cpu_s * 0.9 <= result.cpu_s <= cpu_s + 1.1, "the kernel's own limit is in whole seconds"


def test_cpu_time_of_all_processes_together(each_tier: Sandbox) -> None:
    result = run(each_tier, "import os\nfor _ in range(3): os.fork()\nwhile True: pass", Limits(wall_s=20, cpu_s=1.0))
    assert result.status is Status.CPU
    assert result.cpu_s < 3


@pytest.mark.parametrize(
    "source",
    [
        "x = bytearray(10**9)",
        "x = []\nwhile True: x.append(bytearray(10**6))",
        """
        import mmap
        kept = []
        while True:
            shared = mmap.mmap(-1, 16 << 20)
            for page in range(0, len(shared), 4096): shared[page] = 1
            kept.append(shared)
        """,
        """
        import os, time
        for _ in range(8):
            if os.fork() == 0:
                mine = bytearray(30 << 20); time.sleep(30)
        time.sleep(30)
        """,
    ],
    ids=["at once", "bit by bit", "shared", "by many processes"],
)
def test_memory(each_tier: Sandbox, source: str) -> None:
    assert run(each_tier, source).status is Status.MEMORY


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("cpp", "#include <vector>\nint main(){std::vector<char*> v; for(;;) v.push_back(new char[1<<20]());}"),
        ("c", "#include <stdlib.h>\n#include <string.h>\nint main(){for(;;) memset(malloc(1<<20), 1, 1<<20);}"),
    ],
)
def test_memory_of_compiled_programs(sandbox: Sandbox, language: str, source: str) -> None:
    if LANGUAGES[language].missing():
        pytest.skip(f"no compiler for {language}")
    assert run(sandbox, source, language=language).status is Status.MEMORY


def test_memory_that_forks_share_counts_once(each_tier: Sandbox) -> None:
    source = """
        import os, time
        x = bytearray(40 << 20)
        for _ in range(6):
            if os.fork() == 0: time.sleep(0.3); os._exit(0)
        for _ in range(6): os.wait()
    """
    assert run(each_tier, source).status is Status.OK


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output(each_tier: Sandbox, stream: str) -> None:
    result = run(each_tier, f"import sys\nwhile True: sys.{stream}.write('x' * 1000)")
    assert (result.status, result.signal) == (Status.OUTPUT, signal.SIGKILL)
    assert getattr(result, stream) == b"x" * SMALL.output_bytes
    assert result.wall_s < 2


def test_output_of_just_the_limit_is_none_too_many(each_tier: Sandbox) -> None:
    result = run(each_tier, f"print('x' * {SMALL.output_bytes - 1})")
    assert (result.status, len(result.stdout)) == (Status.OK, SMALL.output_bytes)


@pytest.mark.parametrize(
    "source",
    [
        "import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(60)",
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
    ],
    ids=["processes", "threads"],
)
def test_processes(each_tier: Sandbox, source: str) -> None:
    limits = replace(SMALL, memory_bytes=512 * MIB)  # for a thread counts its stack, 8 MiB
    assert run(each_tier, source, limits).status is Status.PROCESSES


def test_processes_may_be_as_many_as_the_limit(each_tier: Sandbox) -> None:
    source = f"""
        import os, time
        for _ in range({SMALL.processes - 1}):
            if os.fork() == 0: time.sleep(0.1); os._exit(0)
        for _ in range({SMALL.processes - 1}): os.wait()
    """
    assert run(each_tier, source).status is Status.OK


@pytest.mark.parametrize(
    "source",
    [
        "file = open('a', 'wb')\nwhile True: file.write(b'x' * (1 << 20))",
        "import itertools, pathlib\nfor n in itertools.count(): pathlib.Path(str(n)).write_bytes(b'x' * (1 << 20))",
    ],
    ids=["one file", "many files"],
)
def test_disk(each_tier: Sandbox, source: str) -> None:
    assert run(each_tier, source).status is Status.DISK


def test_files_may_not_be_without_number(sandbox: Sandbox) -> None:
    assert run(sandbox, "import itertools\nfor n in itertools.count(): open(str(n), 'w')").status is Status.DISK


@pytest.mark.parametrize(
    "source",
    [
        "try: bytearray(10**10)\nexcept MemoryError: pass",
        "try:\n    f = open('a', 'wb', 0)\n    while True: f.write(b'x' * (1 << 20))\nexcept OSError: pass",
        "import os\ntry:\n    while True:\n        if os.fork() == 0: __import__('signal').pause()\n"
        "except OSError: pass",
    ],
    ids=["memory", "disk", "processes"],
)
def test_a_program_that_copes_with_a_limit_is_ok(sandbox: Sandbox, source: str) -> None:
    assert run(sandbox, source).status is Status.OK


def test_ends_of_a_programs_own(each_tier: Sandbox) -> None:
    assert run(each_tier, "pass").exit_code == 0
    wrong = run(each_tier, "import sys; sys.exit(7)")
    assert (wrong.status, wrong.exit_code, wrong.signal) == (Status.WRONG_EXIT, 7, None)
    for call in ("exit(7)", "quit(7)"):  # which a started interpreter has, and an imported module need not
        assert run(each_tier, call).exit_code == 7
    crash = run(each_tier, "import os; os.abort()")
    assert (crash.status, crash.exit_code, crash.signal) == (Status.KILLED, None, signal.SIGABRT)
    own = run(each_tier, "import os; os.kill(os.getpid(), 9)")
    assert (own.status, own.signal) == (Status.KILLED, signal.SIGKILL)


@pytest.mark.parametrize("name", ["wall_s", "cpu_s", "memory_bytes", "output_bytes", "disk_bytes", "processes"])
def test_a_limit_of_nothing_is_refused(sandbox: Sandbox, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        sandbox.run(Program("pass"), limits=Limits(**{name: 0}))
