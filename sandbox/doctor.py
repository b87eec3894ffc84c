"""What this machine gives a sandbox, and programs that try what none may do."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rlvr.sandbox import landlock
from rlvr.sandbox.job import MIB, Limits, Program, Result, SandboxUnavailable, Status, Tier
from rlvr.sandbox.languages import LANGUAGES
from rlvr.sandbox.native import native_helper
from rlvr.sandbox.processes import descendants
from rlvr.sandbox.sandbox import Sandbox
from rlvr.sandbox.syscalls import this_machine

_SMALL = Limits(wall_s=10.0, memory_bytes=128 * MIB, output_bytes=MIB, disk_bytes=8 * MIB, processes=8)
_TIMED_RUNS = 20
_ENDING_S = 5.0  # for the last job's processes, on a machine with other work
_LOOK_EVERY_S = 0.01


@dataclass(frozen=True, slots=True)
class Row:
    """`good` is None for what is worth knowing and neither good nor bad."""

    part: str
    good: bool | None
    what: str
    found: str


@dataclass(frozen=True, slots=True)
class _Probe:
    """A program that tries something, and whether its result shows that it could not."""

    what: str
    source: str
    holds: Callable[[Result], bool]
    limits: Limits = _SMALL


def examine() -> Iterator[Row]:
    """Looks at the machine, then starts programs. Rows come as they are found; the last ones take some seconds."""
    yield from _machine()
    with Sandbox(slots=1) as sandbox:
        try:
            started = time.monotonic()
            sandbox.run(Program("pass"))
        except SandboxUnavailable as reason:
            yield Row("isolation", False, "tier", str(reason))
            return
        tier = sandbox.tier
        assert tier is not None
        yield Row("isolation", True, "tier", f"{tier}: {_MEANING[tier]}; first program {_ms(started)}")
        if tier is not Tier.FULL:
            yield Row("isolation", None, "why not full", _why_not_full())
        yield from _languages(tier)
        yield from _self_test(sandbox)
        yield _speed(sandbox)


def show(rows: Iterator[Row]) -> bool:
    """Print them, and say whether all is well."""
    console = Console(highlight=False)
    table = Table("", "", "what")
    table.add_column("found", overflow="fold")
    signs = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[yellow]-[/]"}
    part, bad = "", []
    for row in rows:
        if row.part != part and part:
            table.add_section()
        table.add_row(row.part if row.part != part else "", signs[row.good], row.what, row.found)
        part = row.part
        bad += [row.what] if row.good is False else []
    console.print(table)
    console.print(f"not as it should be: {', '.join(bad)}" if bad else "programs of strangers can be run here")
    return not bad


_MEANING = {
    Tier.FULL: "namespaces, private root, Landlock, seccomp, limits",
    Tier.LANDLOCK: "no namespaces; Landlock, seccomp, limits",
    Tier.NONE: "limits alone",
}


def _machine() -> Iterator[Row]:
    try:
        machine = this_machine()
    except OSError as reason:
        yield Row("machine", False, "processor", str(reason))
        return
    yield Row("machine", True, "kernel", f"Linux {platform.release()}, {machine.name}")
    yield Row(
        "machine", None, "user", "root: programs get a uid of their own" if os.getuid() == 0 else f"{os.getuid()}"
    )
    namespaces = _read("/proc/sys/user/max_user_namespaces")
    restricted = _read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1"
    found = f"at most {namespaces}" + (", but AppArmor restricts them" if restricted else "")
    yield Row("machine", (namespaces not in ("", "0") and not restricted) or None, "user namespaces", found)
    abi = landlock.abi(machine)
    yield Row("machine", abi > 0 or None, "Landlock", f"ABI {abi}" if abi else "not in this kernel, or not enabled")
    actions = _read("/proc/sys/kernel/seccomp/actions_avail")
    yield Row("machine", "errno" in actions or None, "seccomp", "yes" if actions else "not in this kernel")
    yield Row("machine", None, "cgroup", f"{_cgroup()}; not needed: limits are rlimits and a watch on all processes")
    helper = native_helper()
    yield Row("machine", helper is not None or None, "C helper", helper or "no C compiler: programs start more slowly")


def _languages(tier: Tier) -> Iterator[Row]:
    for language in LANGUAGES.values():
        missing = language.missing(tier)
        tools = [language.find(name) for name in language.tool_names()]
        paths = ", ".join(tool.path for tool in tools if tool is not None)
        yield Row("languages", missing is None or None, language.name, missing or paths or _this_python())


def _self_test(sandbox: Sandbox) -> Iterator[Row]:
    before = set(descendants(os.getpid()))
    with _secret() as secret, _listener() as port:
        for probe in _probes(secret, port):
            started = time.monotonic()
            result = sandbox.run(Program(probe.source), limits=probe.limits)
            seen = "" if probe.holds(result) else f": {result.status} {result.stdout[:200]!r} {result.stderr[-200:]!r}"
            yield Row("self-test", not seen, probe.what, _ms(started) + seen)
    started = time.monotonic()
    left = _left_after(before)
    yield Row("self-test", not left, "no process is left", ", ".join(map(_named, left)) or _ms(started))


def _left_after(before: set[int]) -> set[int]:
    """Processes that are not of `before`, once they had time to end: a job's are killed when its result is told."""
    until = time.monotonic() + _ENDING_S
    while (left := set(descendants(os.getpid())) - before) and time.monotonic() < until:
        time.sleep(_LOOK_EVERY_S)
    return left


def _named(pid: int) -> str:
    return f"{pid} ({_read(f'/proc/{pid}/comm') or 'ended'})"


def _probes(secret: Path, port: int) -> list[_Probe]:
    silent = [
        _Probe("no file of the machine's", _NO_FILE.format(paths=["/etc/shadow", str(secret)]), _says_nothing),
        _Probe("no network, not even this machine's", _NO_NETWORK.format(port=port), _says_nothing),
        _Probe("no other process", _NO_PROCESS.format(pid=os.getpid()), _says_nothing),
        _Probe("no rights, and no way to any", _NO_RIGHTS, _says_nothing),
        _Probe("nothing of the caller's environment", _NO_ENVIRONMENT.format(names=_names()), _says_nothing),
    ]
    ends = [
        ("wall time", "import time; time.sleep(60)", Status.TIMEOUT, Limits(wall_s=0.3)),
        ("CPU time", "while True: pass", Status.CPU, Limits(cpu_s=0.3)),
        ("memory", "x = bytearray(1 << 30)", Status.MEMORY, _SMALL),
        ("output", "while True: print('x' * 1000)", Status.OUTPUT, _SMALL),
        ("processes", _FORK_BOMB, Status.PROCESSES, _SMALL),
        ("disk", "f = open('f', 'wb')\nwhile True: f.write(bytes(1 << 20))", Status.DISK, _SMALL),
    ]
    limits = [_Probe(f"limit on {what}", source, _ends_as(status), given) for what, source, status, given in ends]
    return [*silent, *limits, _Probe("a process that hides ends with its program", _DAEMON, _ends_as(Status.OK))]


_NO_FILE = "for path in {paths}:\n    try: print(open(path).read(1))\n    except OSError: pass"
_NO_NETWORK = """
import socket
try:
    with socket.create_connection(("127.0.0.1", {port}), 2): print("connected")
except OSError: pass
"""
_NO_PROCESS = """
import os
try: os.kill({pid}, 0); print("may signal the caller")
except OSError: pass
try: print(open("/proc/{pid}/cmdline").read(1))
except OSError: pass
"""
_NO_RIGHTS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(39, 0, 0, 0, 0) != 1: print("no_new_privs is not set")
if libc.prctl(21, 0, 0, 0, 0) != 2: print("no filter on system calls")
if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0: print("may mount")
if libc.unshare(0x10000000) == 0: print("may make namespaces")
try: os.setuid(0); print("may be root")
except OSError: pass
"""
_NO_ENVIRONMENT = "import os\nprint(*sorted(set(os.environ) & set({names})), end='')"
_FORK_BOMB = "import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(9)"
_DAEMON = (
    "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(600)\n    os._exit(0)"
)
_OURS = {"PATH", "HOME", "LANG", "LC_CTYPE", "TMPDIR"}


def _names() -> list[str]:
    return sorted(name for name in os.environ if name not in _OURS and not name.endswith("_NUM_THREADS"))


def _says_nothing(result: Result) -> bool:
    return result.status is Status.OK and not result.stdout


def _ends_as(status: Status) -> Callable[[Result], bool]:
    return lambda result: result.status is status


@contextlib.contextmanager
def _secret() -> Iterator[Path]:
    """A file that anybody may read."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        secret = Path(folder, "secret")
        secret.write_text("secret")
        secret.chmod(0o644)
        yield secret


@contextlib.contextmanager
def _listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _speed(sandbox: Sandbox) -> Row:
    program, times = Program("print(1)"), []
    for _ in range(_TIMED_RUNS):
        started = time.monotonic()
        sandbox.run(program)
        times.append(time.monotonic() - started)
    return Row("speed", None, "print(1), one at a time", f"median {1000 * statistics.median(times):.1f} ms")


def _ms(started: float) -> str:
    return f"{1000 * (time.monotonic() - started):.0f} ms"


def _why_not_full() -> str:
    try:
        with Sandbox(slots=1, only_tier=Tier.FULL) as full:
            full.run(Program("pass"))
    except (SandboxUnavailable, ValueError) as reason:
        return str(reason)
    return "it was there at the second try"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _cgroup() -> str:
    controllers = _read("/sys/fs/cgroup/cgroup.controllers")
    if controllers:
        return f"v2 ({controllers})"
    return "v1" if Path("/sys/fs/cgroup/memory").is_dir() else "none"


def _this_python() -> str:
    return f"this Python, {platform.python_version()} ({sys.base_prefix})"
