"""Servers that die, clients that die, and what is left behind: nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import many_jobs
import pytest
from process_tree import all_beneath, servers_of

from rlvr.sandbox import Limits, Program, Sandbox, Status, Tier, native

# A program that can be seen to run, among what else a server has beneath it.
FAMILY = "import os, time\nfor _ in range(5):\n    if os.fork() == 0: time.sleep(60); os._exit(0)\n"


def family_lives(server: int) -> bool:
    return len(all_beneath(server)) >= 6


@pytest.mark.parametrize("tier", [Tier.FULL, Tier.LANDLOCK])
def test_a_killed_server_is_replaced_and_its_job_run_again(tier: Tier) -> None:
    with Sandbox(slots=1, only_tier=tier) as sandbox, ThreadPoolExecutor(1) as threads:
        sandbox.run(Program("pass"))
        [first] = servers_of(os.getpid(), sandbox)
        job = threads.submit(sandbox.run, Program(FAMILY + "time.sleep(0.5); print('whole')"))
        wait_for(lambda: family_lives(first))
        os.kill(first, signal.SIGKILL)
        result = job.result(30)
        assert (result.status, result.stdout) == (Status.OK, b"whole\n")
        assert servers_of(os.getpid(), sandbox) != [first]


def test_the_tests_that_were_run_before_a_server_died_are_kept() -> None:
    with Sandbox(slots=1) as sandbox:
        sandbox.run(Program("pass"))

        def kill_after_two(result: object) -> bool:
            seen.append(result)
            if len(seen) == 2:
                os.kill(servers_of(os.getpid(), sandbox)[0], signal.SIGKILL)
            return False

        seen: list[object] = []
        results = sandbox.run_tests(Program("print(input())"), [b"%d" % n for n in range(5)], until=kill_after_two)
    assert [result.stdout for result in results] == [b"%d\n" % n for n in range(5)]
    assert [result.status for result in results] == [Status.OK] * 5


def test_a_server_that_dies_again_and_again_is_a_failure_of_ours() -> None:
    with Sandbox(slots=1) as sandbox, ThreadPoolExecutor(1) as threads:
        sandbox.run(Program("pass"))
        job = threads.submit(sandbox.run, Program(FAMILY + "time.sleep(60)"), limits=Limits(wall_s=60))
        while not job.done():
            for pid in servers_of(os.getpid(), sandbox):
                if family_lives(pid):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        assert job.result().status is Status.SANDBOX_ERROR
        assert job.result().detail
        assert sandbox.run(Program("print(1)")).stdout == b"1\n", "and the next job has a new one"


def test_a_server_without_its_template_is_replaced() -> None:
    """In the full tier, with a C compiler, jobs are cloned from a child of the server: the one that an idle one has."""
    with Sandbox(slots=1) as sandbox:
        sandbox.run(Program("pass"))
        [server] = servers_of(os.getpid(), sandbox)
        for template in all_beneath(server):
            with contextlib.suppress(ProcessLookupError):  # what is left of the job goes by itself
                os.kill(template, signal.SIGKILL)
        for word in ("a", "b"):
            result = sandbox.run(Program(f"print({word!r})"))
            assert (result.status, result.stdout) == (Status.OK, f"{word}\n".encode())


def test_with_servers_killed_at_random_no_job_is_lost_or_wrong() -> None:
    done = threading.Event()
    with Sandbox(slots=2) as sandbox:

        def kill_one_now_and_then() -> None:
            while not done.wait(0.7):
                for pid in servers_of(os.getpid(), sandbox)[:1]:
                    os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_one_now_and_then)
        killer.start()
        try:
            with ThreadPoolExecutor(4) as threads:
                results = list(threads.map(lambda n: sandbox.run(Program(f"print({n})")), range(150)))
        finally:
            done.set()
            killer.join()
    for n, result in enumerate(results):
        assert result.status is Status.SANDBOX_ERROR or (result.status, result.stdout) == (Status.OK, b"%d\n" % n)
    assert sum(result.status is Status.OK for result in results) >= 140


@pytest.mark.parametrize("tier", [Tier.FULL, Tier.LANDLOCK])
def test_all_end_with_the_client_however_it_ends(tier: Tier, tmp_path: Path) -> None:
    source = (
        "import threading\n"
        "from rlvr.sandbox import *\n"
        f"sandbox = Sandbox(slots=2, only_tier=Tier({tier.value!r}))\n"
        "job = Program('import os, time\\nfor _ in range(3):\\n if os.fork() == 0: os.setsid()\\ntime.sleep(600)')\n"
        "limits = {'limits': Limits(wall_s=600)}\n"
        "for _ in range(2): threading.Thread(target=sandbox.run, args=(job,), kwargs=limits).start()\n"
    )
    client = subprocess.Popen([sys.executable, "-c", source], env=os.environ | {"TMPDIR": str(tmp_path)})
    try:
        wait_for(lambda: len(all_beneath(client.pid)) >= 2 + 2 * 9)
        family = all_beneath(client.pid)
    finally:
        client.kill()
        client.wait()
    wait_for(lambda: not any(alive(pid) for pid in family))
    assert not list(tmp_path.iterdir())


def test_hundreds_of_random_jobs_leave_nothing(each_tier: Sandbox) -> None:
    report = many_jobs.run_many(each_tier, jobs=150, seed=0)
    assert report.wrong == []
    assert report.left == []
    assert report.grown_kib < 512


def test_without_a_compiler_the_tables_run_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlvr.sandbox import servers

    monkeypatch.setattr(servers, "native_helper", lambda: None)
    with Sandbox(slots=1, only_tier=Tier.FULL) as sandbox:
        assert sandbox.run(Program("print(input())"), stdin=b"1").stdout == b"1\n"
        results = sandbox.run_tests(
            Program("n = int(input())\nwhile n: pass\nprint(n)"), [b"0", b"1", b"0"], limits=Limits(wall_s=0.5)
        )
        assert [result.status for result in results] == [Status.OK, Status.TIMEOUT, Status.OK]
        escape = sandbox.run(Program("import os\nos.kill(-1, 9)"))
        assert escape.status in (Status.KILLED, Status.OK, Status.WRONG_EXIT)
        assert sandbox.run(Program("print(2)")).stdout == b"2\n"


def test_the_helper_is_not_loaded_from_where_others_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = native.native_helper()
    if first is None:
        pytest.skip("no C compiler")
    built = Path(first).stat().st_mtime_ns
    assert native.native_helper() == first and Path(first).stat().st_mtime_ns == built, "built once"
    Path(first).chmod(0o777)
    again = native.native_helper()
    assert again is not None and Path(again).stat().st_mode & 0o022 == 0, "what others could write is built anew"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition: object, deadline_s: float = 20.0) -> None:
    assert callable(condition)
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)
