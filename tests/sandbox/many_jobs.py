"""Random jobs by the thousand, and what they leave behind. A test runs some hundred; by hand, as many as you like:

python tests/sandbox/many_jobs.py 10000
"""

from __future__ import annotations

import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from rlvr.sandbox import Limits, Program, Result, Sandbox, Status

sys.path.insert(0, str(Path(__file__).parent))

from process_tree import all_beneath, servers_of

# Source, and the ends that it may come to. WRONG_EXIT is not among them where a limit is the cause.
KINDS: list[tuple[str, str, set[Status]]] = [
    ("python", "print(1)", {Status.OK}),
    (
        "python",
        "import os\nopen('a', 'w').write('x' * 5000)\n"
        "try: os.mkdir('d'); os.symlink('/etc', 'e')\nexcept OSError: pass",
        {Status.OK},
    ),
    ("python", "import os, time\nfor _ in range(3): os.fork()", {Status.OK}),
    (
        "python",
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(60)\n    os._exit(0)",
        {Status.OK},
    ),
    (
        "python",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        {Status.OK},
    ),
    ("python", "raise ValueError", {Status.WRONG_EXIT}),
    ("python", "import ctypes; ctypes.string_at(0)", {Status.KILLED}),
    ("python", "while True: print('x' * 1000)", {Status.OUTPUT}),
    ("python", "import time; time.sleep(60)", {Status.TIMEOUT}),
    ("python", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", {Status.TIMEOUT}),
    ("python", "x = bytearray(10**10)", {Status.MEMORY}),
    ("python", "import socket; a, b = socket.socketpair(); print(1)", {Status.OK}),
    ("bash", "echo hi; sleep 30 & exit 0", {Status.OK}),
    ("bash", "exit 3", {Status.WRONG_EXIT}),
]
LIMITS = Limits(wall_s=0.5, memory_bytes=256 << 20, output_bytes=10_000)
# For those that end by themselves: on a busy machine that may take them seconds.
PATIENT = replace(LIMITS, wall_s=20.0)


@dataclass(frozen=True)
class Report:
    wrong: list[str]
    left: list[str]
    grown_kib: int
    jobs_per_s: float


def run_many(sandbox: Sandbox, jobs: int, seed: int) -> Report:
    """Run some jobs to warm up, look around, run the rest, look around again."""
    chosen = random.Random(seed).choices(KINDS, weights=[8] * 7 + [3, 1, 1, 3, 8, 5, 5], k=jobs)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda kind: _run(sandbox, kind), KINDS * 2))
        time.sleep(0.3)
        before, begun = _look(sandbox), time.monotonic()
        results = list(threads.map(lambda kind: _run(sandbox, kind), chosen))
        rate = jobs / (time.monotonic() - begun)
    time.sleep(0.3)
    after = _look(sandbox)
    wrong = [
        f"{source!r}: {result}"
        for (_, source, ends), result in zip(chosen, results, strict=True)
        if result.status not in ends
    ]
    left = [
        f"{name}: {before.counts[name]} -> {after.counts[name]}"
        for name in before.counts
        if after.counts[name] > before.counts[name]
    ]
    return Report(wrong, left, after.memory_kib - before.memory_kib, rate)


def _run(sandbox: Sandbox, kind: tuple[str, str, set[Status]]) -> Result:
    language, source, ends = kind
    limits = LIMITS if Status.TIMEOUT in ends else PATIENT
    if language == "python" and len(source) % 3 == 0:
        return sandbox.run_tests(Program(source, language), [b"", b"x"], limits=limits)[-1]
    return sandbox.run(Program(source, language), stdin=b"some input", limits=limits)


@dataclass(frozen=True)
class _Sight:
    counts: dict[str, int]
    memory_kib: int  # of the server that has most


def _look(sandbox: Sandbox) -> _Sight:
    servers = servers_of(os.getpid(), sandbox)
    counts = {
        "our descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "processes beneath servers": sum(len(all_beneath(pid)) for pid in servers),
        "folders of jobs": len(list(Path("/tmp").glob("rlvr-sandbox-*"))),
    }
    for place, pid in enumerate(sorted(servers)):
        counts[f"descriptors of server {place}"] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        counts[f"mounts of server {place}"] = len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
    return _Sight(counts, max(_resident_kib(pid) for pid in servers))


def _resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


if __name__ == "__main__":
    with Sandbox() as of_this_machine:
        print(run_many(of_this_machine, jobs=int(sys.argv[1]), seed=1))
