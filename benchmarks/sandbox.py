"""The sandbox beside bubblewrap and beside no isolation at all, in turns: runs per second, latency, and ratios.

    python benchmarks/sandbox.py [--rounds 5] [--seconds 2]

As many callers as cores, each with one program after another. A row's rate is the median of the rounds, and each
ratio the median of the rounds' ratios, so that a machine that is busy for a while does not favour one row. The
baselines are one new process for each run: `python -I -S` without isolation, and the same in bubblewrap (all
namespaces, no limits, no seccomp filter) where it is installed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from rlvr.sandbox import Program, Sandbox, Status
from rlvr.sandbox.link import interpreter

CORES = len(os.sched_getaffinity(0))
TESTS = 20  # of one program in one sandbox
ECHO = "print(int(input()) * 2)"
NUMPY = "import numpy\nprint(numpy.arange(6).sum())"
CPP = """#include <bits/stdc++.h>
using namespace std;
int main() {
    int n; map<int, int> seen; vector<int> all;
    while (cin >> n) { seen[n]++; all.push_back(n); }
    sort(all.begin(), all.end());
    for (auto& [value, times] : seen) cout << value << ' ' << times << '\\n';
}
"""


@dataclass
class Row:
    """One kind of work. `work` does `size` units of it; latencies are of whole calls."""

    name: str
    unit: str
    work: Callable[[], None]
    size: int = 1
    callers: int = CORES
    baseline: str = ""
    rates: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)

    def measure(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        with ThreadPoolExecutor(self.callers) as threads:
            started = time.perf_counter()
            done = [
                latency for caller in threads.map(lambda _: self._until(end), range(self.callers)) for latency in caller
            ]
            self.rates.append(self.size * len(done) / (time.perf_counter() - started))
        self.latencies_s += done

    def _until(self, end: float) -> list[float]:
        latencies = []
        while not latencies or time.perf_counter() < end:
            started = time.perf_counter()
            self.work()
            latencies.append(time.perf_counter() - started)
        return latencies


def in_sandbox(sandbox: Sandbox, program: Program, stdin: bytes, expected: bytes) -> Callable[[], None]:
    def work() -> None:
        result = sandbox.run(program, stdin=stdin)
        assert (result.status, result.stdout) == (Status.OK, expected), result

    return work


def many_tests(sandbox: Sandbox) -> None:
    results = sandbox.run_tests(Program(ECHO), [b"21"] * TESTS)
    assert [result.stdout for result in results] == [b"42\n"] * TESTS


def process(command: list[str], stdin: bytes = b"", expected: bytes | None = None) -> Callable[[], None]:
    def work() -> None:
        done = subprocess.run(command, input=stdin, capture_output=True, check=True)
        assert expected is None or done.stdout == expected

    return work


def compile_anew(sandbox: Sandbox, number: count[int]) -> None:
    """Each source is another, so that none was compiled before."""
    result = sandbox.run(Program(f"{CPP}// {next(number)}\n", "cpp"))
    assert result.status is Status.OK, result


def bubblewrap(command: list[str]) -> list[str]:
    box = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr", "--tmpfs", "/tmp"]
    for name in ("bin", "lib", "lib64"):
        box += ["--symlink", f"usr/{name}", f"/{name}"]
    prefix = sys.base_prefix
    own = [] if Path(prefix).is_relative_to("/usr") else ["--ro-bind", prefix, prefix]
    return [*box, *own, "--proc", "/proc", "--dev", "/dev", *command]


def rows_of(sandbox: Sandbox, alone: Sandbox, with_numpy: Sandbox, folder: Path) -> list[Row]:
    plain = [interpreter(), "-I", "-S", "-c"]
    numpy_path = f"import sys; sys.path += {[path for path in sys.path if path.endswith('-packages')]}\n"
    source, binary = folder / "main.cpp", folder / "main"
    source.write_text(CPP)
    rows = [Row("python -I -S, no isolation", "runs/s", process([*plain, "print(1)"]))]
    if shutil.which("bwrap"):
        rows.append(Row("bubblewrap, python -I -S", "runs/s", process(bubblewrap([*plain, "print(1)"]))))
    one = Program("print(1)")
    rows += [
        Row("sandbox, Python", "runs/s", in_sandbox(sandbox, one, b"", b"1\n"), baseline=rows[0].name),
        Row("sandbox, Python, one caller", "runs/s", in_sandbox(alone, one, b"", b"1\n"), callers=1),
        Row(
            f"sandbox, {TESTS} tests of a program", "tests/s", lambda: many_tests(sandbox), TESTS, baseline=rows[0].name
        ),
        Row("python -I -S, import numpy, no isolation", "runs/s", process([*plain, numpy_path + NUMPY])),
        Row("sandbox, numpy preloaded", "runs/s", in_sandbox(with_numpy, Program(NUMPY), b"", b"15\n")),
    ]
    rows[-1].baseline = rows[-2].name
    if shutil.which("g++"):
        stdin, expected, number = b"2 1 2", b"1 1\n2 2\n", count()
        compile_plain = ["g++", "-O2", "-std=gnu++17", "-o", str(binary), str(source)]
        subprocess.run(compile_plain, check=True)
        rows += [
            Row("g++ -O2, no isolation, one caller", "compiles/s", process(compile_plain), callers=1),
            Row(
                "sandbox, C++ compiled and run, one caller",
                "compiles/s",
                lambda: compile_anew(alone, number),
                callers=1,
            ),
            Row("C++ binary, no isolation", "runs/s", process([str(binary)], stdin, expected)),
            Row("sandbox, C++ binary", "runs/s", in_sandbox(sandbox, Program(CPP, "cpp"), stdin, expected)),
        ]
        rows[-3].baseline, rows[-1].baseline = rows[-4].name, rows[-2].name
    return rows


def show(rows: list[Row]) -> None:
    print(f"\n{CORES} cores; latencies of one call in ms\n")
    print(f"{'':44}{'rate':>9} {'':11}{'median':>8}{'95th pc':>9}   ratio")
    by_name = {row.name: row for row in rows}
    for row in rows:
        latencies = sorted(1000 * latency for latency in row.latencies_s)
        p95 = latencies[int(0.95 * (len(latencies) - 1))]
        ratio = f"{_ratio(row, by_name[row.baseline]):.1f}x {row.baseline}" if row.baseline else ""
        rate = statistics.median(row.rates)
        print(f"{row.name:44}{rate:9.1f} {row.unit:11}{statistics.median(latencies):8.1f}{p95:9.1f}   {ratio}")
    ours, theirs = by_name["sandbox, Python"], by_name.get("bubblewrap, python -I -S")
    if theirs is not None:
        print(f"\nsandbox against bubblewrap: {_ratio(ours, theirs):.1f}x")
    print(f"{CORES} callers against one: {_ratio(ours, by_name['sandbox, Python, one caller']):.2f}x")


def _ratio(row: Row, baseline: Row) -> float:
    return statistics.median(mine / other for mine, other in zip(row.rates, baseline.rates, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each row in each round")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        Sandbox(slots=CORES) as sandbox,
        Sandbox(slots=1) as alone,
        Sandbox(slots=CORES, preload=("numpy",)) as with_numpy,
    ):
        rows = rows_of(sandbox, alone, with_numpy, Path(folder))
        for row in rows:
            row.measure(0.5)  # all are warm after that
            row.rates.clear()
            row.latencies_s.clear()
        for number in range(arguments.rounds):
            for row in rows:
                row.measure(arguments.seconds)
            print(f"round {number + 1} of {arguments.rounds}: " + ", ".join(f"{row.rates[-1]:.0f}" for row in rows))
        show(rows)


if __name__ == "__main__":
    main()
