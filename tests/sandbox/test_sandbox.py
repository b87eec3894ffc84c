"""What a caller sees: programs in, results out, from threads and event loops."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlvr.sandbox import Limits, Program, Result, Sandbox, SandboxUnavailable, Status, Tier
from rlvr.sandbox.languages import LANGUAGES

needs_c = pytest.mark.skipif(LANGUAGES["c"].missing() is not None, reason="no C compiler")

C_SUM = """
#include <stdio.h>
int main() { long a, sum = 0; while (scanf("%ld", &a) == 1) sum += a; printf("%ld\\n", sum); return 0; }
"""


def test_a_program_gets_its_input_and_gives_its_output(each_tier: Sandbox) -> None:
    source = "import sys\nprint(input() * 2)\nprint('to stderr', file=sys.stderr)\nsys.exit(3)"
    result = each_tier.run(Program(source), stdin=b"ab\n")
    assert (result.stdout, result.stderr, result.exit_code) == (b"abab\n", b"to stderr\n", 3)
    assert result.status is Status.WRONG_EXIT
    assert result.tier is each_tier.tier
    assert 0 < result.cpu_s < 5 and 0 < result.wall_s < 5
    assert 1 << 20 < result.peak_memory_bytes < 1 << 30


def test_large_input_and_output_pass_whole(each_tier: Sandbox) -> None:
    data = bytes(range(256)) * 4000
    source = "import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])"
    result = each_tier.run(Program(source), stdin=data, limits=Limits(output_bytes=len(data)))
    assert (result.status, result.stdout) == (Status.OK, data[::-1])


def test_input_that_is_not_read_blocks_nobody(each_tier: Sandbox) -> None:
    assert each_tier.run(Program("print('ok')"), stdin=b"x" * 5_000_000).stdout == b"ok\n"


def test_files_lie_beside_the_program_and_results_are_collected(each_tier: Sandbox) -> None:
    source = (
        "import helper, pathlib\n"
        "pathlib.Path('out').mkdir()\n"
        "pathlib.Path('out/result.bin').write_bytes(helper.double(pathlib.Path('data/in.txt').read_bytes()))"
    )
    files = {"helper.py": b"def double(x): return x + x", "data/in.txt": b"abc"}
    result = each_tier.run(Program(source, files=files), collect=("out/result.bin", "never"))
    assert (result.status, result.files) == (Status.OK, {"out/result.bin": b"abcabc"})


def test_temporary_files_lie_in_its_folder(each_tier: Sandbox) -> None:
    source = "import os, tempfile\nprint(os.path.dirname(tempfile.NamedTemporaryFile().name) == os.getcwd())"
    assert each_tier.run(Program(source)).stdout == b"True\n"


def test_only_regular_files_of_its_own_are_collected(each_tier: Sandbox) -> None:
    source = (
        "import os\n"
        "os.symlink('/etc/passwd', 'link'); os.symlink('/', 'root'); os.mkdir('folder'); os.mkfifo('pipe')\n"
        "open('plain', 'w').write('x'); os.symlink('plain', 'inner')"
    )
    names = ("link", "root/etc/passwd", "folder", "pipe", "plain", "inner")
    assert each_tier.run(Program(source), collect=names).files == {"plain": b"x"}


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", "a//b", "main.py", "a\0b"])
def test_a_file_must_lie_in_the_folder(sandbox: Sandbox, name: str) -> None:
    with pytest.raises(ValueError, match=r"folder|called"):
        sandbox.run(Program("pass", files={name: b""}))


def test_an_unknown_language_is_refused_with_those_that_there_are(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match=r"bash.*python"):
        sandbox.run(Program("", "cobol"))


@needs_c
def test_a_program_is_compiled_once_and_run_many_times(sandbox: Sandbox) -> None:
    program = Program(C_SUM + "/* once */", "c")
    first = time.monotonic()
    assert sandbox.run(program, stdin=b"1 2 3").stdout == b"6\n"
    compiling = time.monotonic() - first
    second = time.monotonic()
    results = sandbox.run_tests(program, [b"4 5", b"", b"-1"])
    assert [result.stdout for result in results] == [b"9\n", b"0\n", b"-1\n"]
    assert (time.monotonic() - second) / 3 < compiling


@needs_c
def test_a_program_that_does_not_compile_says_why(sandbox: Sandbox) -> None:
    program = Program("int main() { return undeclared; }", "c")
    result = sandbox.run(program)
    assert result.status is Status.COMPILE_ERROR
    assert b"undeclared" in result.stderr and result.exit_code == 1
    assert [each.status for each in sandbox.run_tests(program, [b"", b""])] == [Status.COMPILE_ERROR] * 2


def test_bash(sandbox: Sandbox) -> None:
    assert sandbox.run(Program("read x; echo $((x * 2)); exit 4", "bash"), stdin=b"21\n").stdout == b"42\n"


def test_tests_run_in_order_each_in_a_fresh_process(each_tier: Sandbox) -> None:
    source = "import os, builtins\nassert not hasattr(builtins, 'mark')\nbuiltins.mark = 1\nprint(input(), os.getpid())"
    results = each_tier.run_tests(Program(source), [b"%d" % n for n in range(10)])
    assert [result.status for result in results] == [Status.OK] * 10
    assert [result.stdout.split()[0] for result in results] == [b"%d" % n for n in range(10)]
    assert len({result.stdout.split()[1] for result in results}) == 10


def test_a_test_that_is_killed_does_not_end_the_rest(each_tier: Sandbox) -> None:
    source = "n = int(input())\nif n == 1:\n    while True: pass\nprint(n)"
    results = each_tier.run_tests(Program(source), [b"0", b"1", b"2"], limits=Limits(wall_s=0.4))
    assert [result.status for result in results] == [Status.OK, Status.TIMEOUT, Status.OK]
    assert results[2].stdout == b"2\n"


def test_what_one_test_left_running_does_not_write_into_the_next(each_tier: Sandbox) -> None:
    source = "import os, time\nif os.fork() == 0:\n    time.sleep(0.05); print('late'); os._exit(0)\nprint('on time')"
    results = each_tier.run_tests(Program(source), [b""] * 5)
    assert [result.stdout for result in results] == [b"on time\n"] * 5


def test_until_ends_the_tests(sandbox: Sandbox) -> None:
    seen: list[Result] = []

    def until(result: Result) -> bool:
        seen.append(result)
        return result.stdout == b"1\n"

    results = sandbox.run_tests(Program("print(input())"), [b"0", b"1", b"2"], until=until)
    assert results == seen and len(results) == 2
    assert sandbox.run_tests(Program("pass"), []) == []


JOINED = "import socket\nlink = socket.socket(fileno=3)\nlines = link.makefile('rw')\n"


def test_two_programs_talk_over_descriptor_3(each_tier: Sandbox) -> None:
    judge = JOINED + "print(7, file=lines, flush=True)\nprint('judge heard', lines.readline().strip(), lines.read())"
    candidate = JOINED + "print(int(lines.readline()) ** 2, file=lines, flush=True)\nprint('done')"
    of_judge, of_candidate = each_tier.run_together(Program(judge), Program(candidate))
    assert (of_judge.stdout, of_candidate.stdout) == (b"judge heard 49 \n", b"done\n")
    assert of_judge.status is of_candidate.status is Status.OK


def test_a_candidate_does_not_outlive_its_judge(each_tier: Sandbox) -> None:
    of_judge, of_candidate = each_tier.run_together(
        Program("print('over')"), Program("import time; time.sleep(60)"), limits=Limits(wall_s=5)
    )
    assert of_judge.status is Status.OK
    assert of_candidate.status is Status.KILLED
    assert of_candidate.wall_s < 3


def test_a_judge_sees_that_its_candidate_has_ended(each_tier: Sandbox) -> None:
    judge = JOINED + "print(repr(lines.read()))"
    of_judge, of_candidate = each_tier.run_together(Program(judge), Program("pass"), limits=Limits(wall_s=5))
    assert (of_judge.stdout, of_candidate.status) == (b"''\n", Status.OK)


async def test_many_calls_on_one_loop_share_the_slots(sandbox: Sandbox) -> None:
    results = await asyncio.gather(*(sandbox.run_async(Program(f"print({n})")) for n in range(40)))
    assert [result.stdout for result in results] == [b"%d\n" % n for n in range(40)]
    tests = await sandbox.run_tests_async(Program("print(input())"), [b"a", b"b"])
    assert [result.stdout for result in tests] == [b"a\n", b"b\n"]
    both = await sandbox.run_together_async(Program("print(1)"), Program("pass"))
    assert both[0].stdout == b"1\n"


def test_many_threads_share_the_slots(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(8) as threads:
        outputs = list(threads.map(lambda n: sandbox.run(Program(f"print({n})")).stdout, range(40)))
    assert outputs == [b"%d\n" % n for n in range(40)]


async def test_pairs_cannot_wait_for_each_other_for_ever() -> None:
    with Sandbox(slots=2) as two:
        pairs = await asyncio.gather(
            *(two.run_together_async(Program("print(1)"), Program("pass")) for _ in range(6)),
            *(two.run_async(Program("print(2)")) for _ in range(6)),
        )
    assert len(pairs) == 12


def test_a_pair_needs_two_slots() -> None:
    with Sandbox(slots=1) as one, pytest.raises(ValueError, match="2 slots"):
        one.run_together(Program("pass"), Program("pass"))


async def test_a_cancelled_call_ends_its_program_and_frees_its_slot() -> None:
    with Sandbox(slots=1) as one:
        call = asyncio.create_task(one.run_async(Program("import time; time.sleep(60)"), limits=Limits(wall_s=60)))
        waiting = asyncio.create_task(one.run_async(Program("print('waited')")))
        await asyncio.sleep(0.5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await asyncio.wait_for(waiting, 20)).stdout == b"waited\n"


async def test_a_cancelled_wait_for_a_slot_takes_none() -> None:
    with Sandbox(slots=1) as one:
        first = asyncio.create_task(one.run_async(Program("import time; time.sleep(0.5); print(1)")))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(one.run_async(Program("print(2)")))
        await asyncio.sleep(0.05)
        second.cancel()
        assert (await first).stdout == b"1\n"
        assert (await asyncio.wait_for(one.run_async(Program("print(3)")), 20)).stdout == b"3\n"


def test_a_closed_sandbox_says_so() -> None:
    closed = Sandbox(slots=1)
    closed.run(Program("pass"))
    closed.close()
    with pytest.raises(RuntimeError, match="closed"):
        closed.run(Program("pass"))


def test_closing_ends_the_calls_in_hand() -> None:
    hurried = Sandbox(slots=1)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(hurried.run, Program("import time; time.sleep(60)"), limits=Limits(wall_s=60))
        time.sleep(1.0)
        hurried.close()
        with pytest.raises(RuntimeError, match="closed"):
            call.result(20)


def test_named_packages_are_there_and_the_server_stays_single_threaded() -> None:
    source = (
        "import sys; assert 'numpy' in sys.modules\n"
        "import numpy\nprint(numpy.arange(6).reshape(2, 3).sum(), numpy.random.rand())"
    )
    with Sandbox(slots=1, preload=("numpy",)) as with_numpy:
        results = [with_numpy.run(Program(source)) for _ in range(3)]
    assert [result.stdout.split()[0] for result in results] == [b"15"] * 3, results
    assert len({result.stdout.split()[1] for result in results}) == 3, "each draws numbers of its own"


def test_a_package_that_is_not_there_is_named() -> None:
    with (
        Sandbox(slots=1, preload=("no_such_package",)) as wrong,
        pytest.raises(SandboxUnavailable, match="no_such_package"),
    ):
        wrong.run(Program("pass"))


def test_less_than_the_minimum_tier_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlvr.sandbox import servers
    from rlvr.sandbox.link import ServerRefused

    def refuse(setup: object) -> None:
        raise ServerRefused("unshare: Operation not permitted")

    monkeypatch.setattr(servers, "Server", refuse)
    with Sandbox(slots=1) as nowhere, pytest.raises(SandboxUnavailable, match=r"full: unshare.*landlock: .*max_user"):
        nowhere.run(Program("pass"))


def test_what_lies_in_tmp_cannot_be_readable_where_programs_have_their_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of its own"):
        Sandbox(readable=(str(tmp_path),))
    (tmp_path / "word").write_text("open")
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        parent.chmod(parent.stat().st_mode | 0o001)
    with Sandbox(slots=1, readable=(str(tmp_path),), only_tier=Tier.LANDLOCK) as landlock:
        assert landlock.run(Program(f"print(open({str(tmp_path / 'word')!r}).read())")).stdout == b"open\n"


def test_without_isolation_only_by_name() -> None:
    with Sandbox(slots=1, only_tier=Tier.NONE) as bare:
        result = bare.run(Program("print(1)"))
    assert (result.stdout, result.tier) == (b"1\n", Tier.NONE)
