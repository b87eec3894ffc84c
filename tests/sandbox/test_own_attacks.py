"""The attacks of own_attacks.py hold in each tier, for root and for a user without rights."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from rlvr.sandbox import Limits, Program, Sandbox, Status, Tier
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
    lambda: os.sched_setaffinity(os.getppid(), {0}), lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 5),
    lambda: os.setpriority(os.PRIO_USER, 0, 5), lambda: os.sched_setscheduler(os.getppid(), 3, os.sched_param(0)),
):
    try: change(); print('changed')
    except PermissionError: pass
os.setpriority(os.PRIO_PROCESS, 0, 1)
os.sched_setaffinity(0, os.sched_getaffinity(0))
"""
    with Sandbox(slots=1, only_tier=Tier.LANDLOCK) as landlock:
        result = landlock.run(Program(source))
    assert (result.status, result.stdout) == (Status.OK, b"")


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
