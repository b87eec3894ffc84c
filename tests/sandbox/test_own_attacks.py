"""The attacks of own_attacks.py hold in each tier, for root and for a user without rights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.sandbox import Limits, Program, Sandbox, Status, Tier, servers
from rlvr.sandbox.box import HostFolder

sys.path.insert(0, str(Path(__file__).parent))

import own_attacks
from unprivileged import run_unprivileged


def failed(verdicts: list[own_attacks.Verdict]) -> dict[str, str]:
    assert len(verdicts) >= 14
    return {verdict.name: verdict.seen for verdict in verdicts if not verdict.holds}


def test_all_hold(each_tier: Sandbox) -> None:
    assert failed(own_attacks.judge_all(each_tier)) == {}


@pytest.mark.parametrize("tier", [Tier.FULL, Tier.LANDLOCK])
def test_all_hold_for_a_user_without_rights(tier: Tier, tmp_path: Path) -> None:
    output = run_unprivileged(Path(own_attacks.__file__), tier, folder=tmp_path)
    assert failed([own_attacks.Verdict(**json.loads(line)) for line in output.splitlines()]) == {}


def test_where_the_machine_is_in_sight_its_files_and_processes_keep_their_rights() -> None:
    source = """
import os
open('own', 'w').close()
for change in (
    lambda: os.chmod('own', 0), lambda: os.setxattr('own', 'user.a', b'1'), lambda: os.chown('own', -1, -1),
    lambda: os.utime('own'), lambda: os.utime('/', (1, 1)),
    lambda: os.sched_setaffinity(os.getppid(), {0}), lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 5),
    lambda: os.setpriority(os.PRIO_USER, 0, 5), lambda: os.sched_setscheduler(os.getppid(), 3, os.sched_param(0)),
):
    try: change(); print('changed')
    except PermissionError: pass
with open('own', 'r+') as own: os.utime(own.fileno(), (1, 1))
if os.stat('own').st_mtime != 1: print('an open file keeps its times')
os.nice(1)
os.sched_setaffinity(0, os.sched_getaffinity(0))
"""
    with Sandbox(slots=1, only_tier=Tier.LANDLOCK) as landlock:
        result = landlock.run(Program(source))
    assert (result.status, result.stdout) == (Status.OK, b"")


def test_a_process_whose_first_thread_has_ended_is_not_left_behind(each_tier: Sandbox) -> None:
    source = """
import ctypes, os, threading, time
if os.fork() == 0:
    os.setsid()
    ctypes.CDLL(None).prctl(15, b'first-ended', 0, 0, 0)
    threading.Thread(target=time.sleep, args=(30,)).start()
    ctypes.CDLL(None).syscall(60, 0)
time.sleep(0.2)
"""
    assert each_tier.run(Program(source)).status is Status.OK
    assert [path for path in Path("/proc").glob("[0-9]*/comm") if _name(path) == "first-ended"] == []


def _name(comm: Path) -> str:
    try:
        return comm.read_text().strip()
    except OSError:  # it ended meanwhile
        return ""


def test_signals_to_init_change_nothing_where_it_is_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has handlers, and a program that could end its init would have no verdict instead of a wrong one."""
    monkeypatch.setattr(servers, "native_helper", lambda: None)
    source = """
import os, time
for number in range(1, 65):
    try: os.kill(1, number)
    except OSError: pass
time.sleep(0.02)
try: os.kill(os.getpid(), 2); time.sleep(1)
except KeyboardInterrupt: print('lives')
"""
    with Sandbox(slots=1, only_tier=Tier.FULL) as in_python:
        results = in_python.run_tests(Program(source), [b"", b""])
    assert [(result.status, result.stdout) for result in results] == [(Status.OK, b"lives\n")] * 2


def test_where_nothing_else_confines_signals_no_file_sends_one() -> None:
    """A file may send a signal of one's choice to its owner, which may be any process of the same user."""
    source = """
import array, fcntl, os
from rlvr.sandbox.seccomp import build_filter
from rlvr.sandbox.syscalls import call, this_machine
machine, parent = this_machine(), os.getppid()
call(machine, "prctl", 38, 1, 0, 0, 0)
filter = build_filter(machine, namespaces=False, signals=False)
call(machine, "seccomp", 1, 0, filter.address)
file, _ = os.pipe()
for own in (
    lambda: os.kill(parent, 0), lambda: fcntl.fcntl(file, fcntl.F_SETOWN, parent),
    lambda: fcntl.fcntl(file, 15, bytes(4) + parent.to_bytes(4, "little")),
    lambda: fcntl.ioctl(file, 0x8901, array.array("i", [parent])),
    lambda: fcntl.ioctl(file, 0x8902, array.array("i", [parent])),
    lambda: fcntl.ioctl(file, 0x5412, b"x"), lambda: fcntl.ioctl(file, 0x541C, b"x"),
):
    try: own(); print("ESCAPED")
    except PermissionError: pass
    except OSError as error: print("ESCAPED", error)
print(fcntl.ioctl(file, 0x541B, array.array("i", [0])), fcntl.fcntl(file, fcntl.F_GETFD))
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "0 1\n"


def test_a_folder_on_disk_goes_however_deep_it_is() -> None:
    box, here = HostFolder(), Path.cwd()
    os.chdir(box.path)
    for _ in range(1200):  # more than Python's recursion has
        Path("d").mkdir()
        os.chdir("d")
    Path().chmod(0)
    os.chdir(here)
    assert box.holds_more_than(1 << 30), "what is too deep to look at is too much"
    box.close()
    assert not Path(box.path).exists()


def test_a_folder_on_disk_counts_files_without_content() -> None:
    box = HostFolder()
    for number in range(20):
        Path(box.path, str(number)).touch()
    assert box.holds_more_than(64_000) and not box.holds_more_than(100_000)
    box.close()


def test_runs_share_their_time_and_their_compilers(sandbox: Sandbox) -> None:
    sleeper = Program("import time; time.sleep(0.4)")
    results = sandbox.run_tests(sleeper, [b""] * 9, limits=Limits(wall_s=5), together_s=1.0)
    assert [result.status for result in results[:-1]] == [Status.OK] * (len(results) - 1)
    assert results[-1].status is Status.TIMEOUT and len(results) <= 3
    assert sum(result.wall_s for result in results) <= 1.2
    bomb = Program(
        "template<int N,int M> struct F{static const long v=F<N-1,M>::v+F<N-1,M+1>::v;};"
        "template<int M> struct F<0,M>{static const long v=1;}; int main(){return F<400,0>::v;}",
        "cpp",
    )
    [stopped] = sandbox.run_tests(bomb, [b""], together_s=1.0)
    assert stopped.status is Status.COMPILE_ERROR and stopped.wall_s <= 1.2
