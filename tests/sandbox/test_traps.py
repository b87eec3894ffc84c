"""One test for each known way in which a sandbox of this kind fails without anybody noticing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rlvr.sandbox import Limits, Program, Result, Sandbox, SandboxUnavailable, Status, Tier

SECRET = "EXPECTED" + "-OUTPUT-" + "31337"


def run(sandbox: Sandbox, source: str, **more: object) -> Result:
    return sandbox.run(Program(textwrap.dedent(source)), **more)  # type: ignore[arg-type]


def test_the_limit_on_processes_counts_though_root_started_it(sandbox: Sandbox) -> None:
    """It does nothing for a user namespace that maps to the machine's root: the uid outside must be another."""
    result = run(
        sandbox,
        """
        import os, signal
        count = 0
        try:
            for _ in range(200):
                if os.fork() == 0: signal.pause()
                count += 1
        except OSError: pass
        print(count)
        """,
        limits=Limits(processes=10),
    )
    assert result.stdout == b"9\n"


def test_memory_in_many_processes_and_in_memfds_is_limited(sandbox: Sandbox) -> None:
    many = """
        import os, time
        for _ in range(20):
            if os.fork() == 0:
                mine = bytearray(20 << 20); time.sleep(30)
        time.sleep(30)
    """
    assert run(sandbox, many, limits=Limits(memory_bytes=128 << 20)).status is Status.MEMORY
    refused = run(sandbox, "import os\ntry: os.memfd_create('x')\nexcept OSError as e: print(e.errno)")
    assert refused.stdout == b"1\n"


def test_a_package_that_starts_threads_is_not_preloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork of a process with threads can wait for ever for a lock that one of them held."""
    packages = tmp_path / "site-packages"
    packages.mkdir()
    tmp_path.chmod(0o755)
    (packages / "threaded.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    monkeypatch.syspath_prepend(str(packages))
    with (
        Sandbox(slots=1, preload=("threaded",), only_tier=Tier.LANDLOCK) as wrong,
        pytest.raises(SandboxUnavailable, match="1 thread"),
    ):
        wrong.run(Program("pass"))


def test_the_numeric_library_of_the_server_has_one_thread() -> None:
    source = """
        import numpy, os
        a = numpy.random.rand(400, 400)
        (a @ a).sum()
        print(len(os.listdir('/proc/self/task')))
    """
    with Sandbox(slots=1, preload=("numpy",)) as with_numpy:
        assert run(with_numpy, source).stdout == b"1\n"


def test_init_shows_nothing(sandbox: Sandbox) -> None:
    result = run(
        sandbox,
        """
        import os
        for name in ('fd', 'environ', 'maps', 'mem', 'cwd', 'root', 'exe', 'cmdline', 'status'):
            try: os.listdir(f'/proc/1/{name}') if name == 'fd' else open(f'/proc/1/{name}', 'rb').read(1)
            except OSError: continue
            print('open:', name)
        print([name for name in os.listdir('/proc') if name.isdigit()])
        """,
    )
    assert result.stdout == b"['2']\n"


def test_no_frame_and_no_argument_leads_to_the_caller(sandbox: Sandbox) -> None:
    expected = SECRET  # here, in the process that judges, and nowhere else
    result = run(
        sandbox,
        """
        import gc, os, sys
        frame, seen = sys._getframe().f_back, []
        while frame:
            seen += [repr(value) for value in frame.f_locals.values()]
            frame = frame.f_back
        seen += [repr(o) for o in gc.get_objects() if isinstance(o, (str, bytes, dict, list, tuple))]
        print(bytes([51, 49, 51, 51, 55]).decode() in ''.join(seen), sys.argv, len(sys.orig_argv))
        print(sorted(os.environ))
        """,
    )
    first, second = result.stdout.splitlines()
    assert first == b"False ['main.py'] 2", result
    names = {"HOME", "LANG", "PATH", "LC_CTYPE"}
    threads = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"}
    assert set(eval(second)) <= names | threads
    assert expected == SECRET


def test_the_servers_command_line_and_environment_name_nothing(sandbox: Sandbox) -> None:
    result = sandbox.run(Program("tr '\\0' ' ' < /proc/$PPID/cmdline; cat /proc/self/environ | tr '\\0' '\\n'", "bash"))
    for word in (str(Path.cwd()), os.environ.get("USER", "root/"), "KEY", "TOKEN", "rlvr"):
        assert word.encode() not in result.stdout


def test_what_one_job_had_is_not_in_the_memory_of_the_next() -> None:
    """Programs are forked from one server: what it ever held in its memory, they could read in theirs."""
    mark = b"mark-" + os.urandom(8).hex().encode()
    with Sandbox(slots=1) as one:
        one.run(Program(f"print({mark!r})", files={"f": mark}), stdin=mark)
        one.run(Program("pass"))
        pid = server_pids(os.getpid())[-1]
        assert mark not in memory_of(pid)


def server_pids(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task").glob("*/children")
    pids = [int(pid) for file in children for pid in file.read_text().split()]
    return [pid for pid in pids if b"os.read(0,65536)" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def memory_of(pid: int) -> bytes:
    """All that a process may write to. Needs root, or the same user."""
    pieces = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if rights.startswith("rw"):
                start, end = (int(word, 16) for word in span.split("-"))
                memory.seek(start)
                try:
                    pieces.append(memory.read(end - start))
                except OSError:
                    continue
    return b"".join(pieces)


def test_a_path_file_of_a_virtual_environment_is_not_run(sandbox: Sandbox) -> None:
    """It would cost each start 25 ms, and run what somebody installed."""
    assert run(sandbox, "import sys; print('site' in sys.modules, sys.flags.no_site)").stdout == b"False 1\n"


def test_late_output_does_not_count(each_tier: Sandbox) -> None:
    source = """
        import os, time
        if os.fork() == 0:
            os.setsid()
            time.sleep(60); os.write(1, b'late'); os._exit(0)
        os.write(1, b'in time ')
    """
    results = [run(each_tier, source) for _ in range(3)]
    assert [(result.stdout, result.status) for result in results] == [(b"in time ", Status.OK)] * 3
    assert min(result.wall_s for result in results) < 5


def test_jobs_of_one_server_share_nothing(each_tier: Sandbox) -> None:
    leave = "import os; open('mark', 'w').write('x'); os.mkdir('d'); os.chmod('d', 0)"
    look = "import os; print(sorted(os.listdir('.')))"
    for _ in range(3):
        run(each_tier, leave)
        assert run(each_tier, look).stdout == b"['main.py']\n"


def test_each_program_draws_random_numbers_of_its_own(sandbox: Sandbox) -> None:
    drawn = {run(sandbox, "import random; print(random.random())").stdout for _ in range(5)}
    assert len(drawn) == 5
    tests = sandbox.run_tests(Program("import random; print(random.random())"), [b""] * 5)
    assert len({result.stdout for result in tests}) == 5


def test_no_process_can_gain_rights(sandbox: Sandbox) -> None:
    result = sandbox.run(Program("grep -E '^(Cap(Inh|Prm|Eff|Amb)|NoNewPrivs|Seccomp):' /proc/self/status", "bash"))
    fields = dict(line.split() for line in result.stdout.decode().splitlines())
    assert [fields[f"Cap{which}:"] for which in ("Inh", "Prm", "Eff", "Amb")] == ["0" * 16] * 4
    assert (fields["NoNewPrivs:"], fields["Seccomp:"]) == ("1", "2")


def test_bubblewrap_and_this_sandbox_refuse_the_same(sandbox: Sandbox) -> None:
    """A cross-check against another's isolation, where it is installed."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    probes = "cat /etc/shadow; mount -t tmpfs none /mnt; hostname other; kill -0 1; ls /home"
    box = ["bwrap", "--unshare-all", "--cap-drop", "ALL", "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin"]
    box += ["--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--proc", "/proc"]
    for probe in probes.split("; "):
        theirs = subprocess.run([*box, "bash", "-c", probe], capture_output=True, check=False).returncode
        ours = sandbox.run(Program(probe, "bash")).exit_code
        assert (theirs == 0) == (ours == 0), probe


def test_the_client_needs_nothing_but_the_standard_library() -> None:
    program = (
        "import sys, rlvr.sandbox\n"
        "print(*sorted({'torch', 'ray', 'numpy', 'pydantic', 'cloudpickle'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []
