"""A tier at work: what the server does once, and what each of its jobs and programs is started with."""

from __future__ import annotations

import functools
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from rlvr.sandbox import isolation, landlock
from rlvr.sandbox.box import Box, HostFolder, PrivateMount
from rlvr.sandbox.executor import Executor, NativeExecutor, PythonExecutor, end_all_but_init, run_steps
from rlvr.sandbox.isolation import HOME, JOB_NAMESPACES, PROGRAM, USER
from rlvr.sandbox.job import Limits, Tier
from rlvr.sandbox.processes import count_of_uid, inherited_bytes, kill_descendants
from rlvr.sandbox.python_program import FreshInterpreter, PythonProgram
from rlvr.sandbox.root import plan_root
from rlvr.sandbox.seccomp import build_filter
from rlvr.sandbox.steps import Table, compile_steps
from rlvr.sandbox.syscalls import this_machine
from rlvr.sandbox.wire import Job, Setup

_OWN_UIDS = 1_900_000_000  # far above what distributions give out; the server's pid is added
_NOBODY = 65534
_REAPING_DEADLINE_S = 1.0

_Executed = tuple[str | None, int, tuple[str, ...], tuple[str, ...]]  # as isolation.execute takes it


class Enclosure(Protocol):
    """`start` gives the pid of the job's init; in the program itself, where that stays the interpreter, 0."""

    tier: Tier

    def fork_template(self) -> PythonProgram | None:
        """To be called once, when this process is ready; returns again in each Python program, as that."""
        ...

    def open_box(self, limits: Limits) -> Box: ...

    def start(self, job: Job, box: Box, control: int) -> int: ...

    def end(self, init: int) -> None:
        """Kill a job with all its processes, and leave its init for the caller to reap. Init's socket is closed."""
        ...


def enclose(setup: Setup) -> Enclosure:
    """Put this process into the tier it was told, for good. Raises OSError where the machine does not give it."""
    if setup.tier is Tier.FULL:
        return FullEnclosure(setup)
    return OpenEnclosure(setup)


class FullEnclosure:
    """Namespaces, private root, Landlock where the kernel has it, seccomp, limits."""

    tier = Tier.FULL

    def __init__(self, setup: Setup) -> None:
        self._machine = this_machine()
        self._executor: Executor
        if setup.native is None:
            self._executor = PythonExecutor(self._machine, end_all_but_init, None)
        else:
            self._executor = NativeExecutor(setup.native, all_hooks=bool(setup.preload))
        steps = isolation.enclose_server(plan_root(setup.readable, setup.packages), _own_uid())
        run_steps(compile_steps(self._machine, steps))
        self._filter = build_filter(self._machine)
        self._abi = landlock.abi(self._machine)
        self._granted = _grants({"/": landlock.READ, "/dev": landlock.DEVICES})
        # A Python program may list what lies in its /proc/self and open its descriptors, and read nothing there: not
        # its own memory either, in which the interpreter keeps more than the program put there.
        shown = [folder for folder in os.listdir("/") if folder not in ("proc", "dev", HOME.strip("/"))]  # noqa: PTH208
        self._granted_python = _grants(
            {"/": landlock.READ_DIR, "/dev": landlock.DEVICES, **{f"/{name}": landlock.READ for name in shown}}
        )
        self._inherited = inherited_bytes()
        self._init_table = compile_steps(
            self._machine,
            isolation.confine_init(uid=USER, gid=USER, ruleset=self._abi > 0, filter=self._filter),
        )
        self._program_table = functools.lru_cache(maxsize=64)(self._compile_program)

    def fork_template(self) -> PythonProgram | None:
        forked = self._executor.fork_template(lambda: FreshInterpreter(HOME))
        return PythonProgram(forked[0], *_from_note(forked[1])) if forked is not None else None

    def open_box(self, limits: Limits) -> Box:
        return PrivateMount(self._machine, limits.disk_bytes)

    def start(self, job: Job, box: Box, control: int) -> int:
        ruleset = self._ruleset(box, self._granted_python if job.python else self._granted)
        what = None if job.python else (job.path, PROGRAM + job.has_link, job.arguments, job.environment)
        program = self._program_table(job.limits, what)
        descriptors = [control, box.descriptor, *([ruleset] if ruleset is not None else [])]
        pid = self._executor.start_job(JOB_NAMESPACES, self._init_table, program, descriptors, _note(job))
        if pid > 0 and ruleset is not None:  # a program's descriptors are its own
            os.close(ruleset)
        return pid

    def end(self, init: int) -> None:
        os.kill(init, signal.SIGKILL)  # the kernel ends its namespace with it

    def _ruleset(self, box: Box, granted: dict[int, int]) -> int | None:
        if self._abi == 0:
            return None
        return landlock.create_ruleset(self._machine, self._abi, granted | {box.descriptor: landlock.OWN_FOLDER})

    def _compile_program(self, limits: Limits, what: _Executed | None) -> Table:
        """`what` is to be executed; None: the interpreter stays."""
        processes = limits.processes + 1  # init counts
        inherited = self._inherited if what is None else 0
        steps = isolation.start_program(limits, processes=processes, inherited_bytes=inherited)
        end = isolation.show_python() if what is None else isolation.execute(*what)
        return compile_steps(self._machine, [*isolation.fixed_limits(), *steps, *end])


class OpenEnclosure:
    """The machine's own files and processes in sight, and Landlock, seccomp and limits in the way; or limits alone."""

    def __init__(self, setup: Setup) -> None:
        self.tier = setup.tier
        self._machine = this_machine()
        self._confined = setup.tier is Tier.LANDLOCK
        self._abi = landlock.abi(self._machine) if self._confined else 0
        if self._confined and self._abi == 0:
            raise OSError("this kernel has no Landlock (it needs Linux 5.13, and landlock among its security modules)")
        root = plan_root(setup.readable, setup.packages)
        uid = _own_uid()
        if uid is not None and _all_may_enter(list(root.folders.values())):
            run_steps(compile_steps(self._machine, isolation.change_uid(uid)))
        elif uid is not None and self._confined:
            run_steps(compile_steps(self._machine, isolation.change_uid_keep_search(uid)))
        self._has_own_uid = uid is not None and os.getuid() == uid
        self._drop_rights = os.getuid() == 0
        self._filter = build_filter(self._machine, namespaces=False, signals=landlock.confines_signals(self._abi))
        self._granted = _grants(
            dict.fromkeys((root.folders | root.files).values(), landlock.READ)
            | dict.fromkeys(root.devices.values(), landlock.DEVICES)
        )

    def fork_template(self) -> PythonProgram | None:
        return None

    def open_box(self, limits: Limits) -> Box:
        return HostFolder()

    def start(self, job: Job, box: Box, control: int) -> int:
        assert isinstance(box, HostFolder)
        executor = PythonExecutor(self._machine, lambda: kill_descendants(os.getpid()), box.remove)
        ruleset = self._ruleset(box)
        init = isolation.watch_init(ruleset=ruleset is not None)
        # The limit is on the uid, which the server and init have too, and all else of an unprivileged caller's.
        others = 2 if self._has_own_uid else count_of_uid(os.getuid())
        program = [
            *isolation.fixed_limits(),
            *isolation.start_program(
                job.limits,
                processes=others + job.limits.processes,
                inherited_bytes=inherited_bytes() if job.python else 0,
            ),
            *isolation.confine_program(
                drop_rights=self._drop_rights,
                ruleset=ruleset is not None,
                filter=self._filter if self._confined else None,
            ),
            *(isolation.show_python() if job.python else _execute(_at_home(job, box.path))),
        ]
        tables = (compile_steps(self._machine, init), compile_steps(self._machine, program))
        descriptors = [control, box.descriptor, *([ruleset] if ruleset is not None else [])]
        pid = executor.start_job(0, *tables, descriptors, _note(job))
        if pid > 0 and ruleset is not None:
            os.close(ruleset)
        return pid

    def end(self, init: int) -> None:
        # Init reaps what is killed, and ends at the end of its socket. Killed earlier, it would leave zombies to the
        # machine, and they count in the uid's limit on processes for as long as that takes to reap them.
        deadline = time.monotonic() + _REAPING_DEADLINE_S
        while time.monotonic() < deadline:
            kill_descendants(init)
            if os.waitid(os.P_PID, init, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(0.0005)
        os.kill(init, signal.SIGKILL)

    def _ruleset(self, box: Box) -> int | None:
        if not self._confined:
            return None
        return landlock.create_ruleset(self._machine, self._abi, self._granted | {box.descriptor: landlock.OWN_FOLDER})


def _note(job: Job) -> int:
    """What a Python program must know of its job, as a number: the descriptor and the size of its source."""
    return job.files[0][1] << 8 | (PROGRAM + job.has_link) if job.python else 0


def _from_note(note: int) -> tuple[int, int]:
    return note & 0xFF, note >> 8


def _grants(rights: dict[str, int]) -> dict[int, int]:
    """Paths, opened."""
    return {os.open(path, os.O_PATH | os.O_CLOEXEC): granted for path, granted in rights.items()}


def _at_home(job: Job, folder: str) -> Job:
    """With its own folder for temporary files, where /tmp is the machine's."""
    others = [setting for setting in job.environment if not setting.startswith("HOME=")]
    return replace(job, environment=(*others, f"HOME={folder}", f"TMPDIR={folder}"))


def _execute(job: Job) -> list[isolation.Step]:
    return list(isolation.execute(job.path, PROGRAM + job.has_link, job.arguments, job.environment))


def _own_uid() -> int | None:
    """A uid for root to change to; None where this is not root, or a container's root that has no other uid."""
    if os.getuid() != 0:
        return None
    ranges = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    for uid in (_OWN_UIDS + os.getpid(), _NOBODY):
        if any(first <= uid < first + count for first, _, count in ranges):
            return uid
    return None


def _all_may_enter(folders: list[str]) -> bool:
    above = {parent for folder in folders for parent in (Path(folder), *Path(folder).parents)}
    return all(folder.stat().st_mode & 0o001 for folder in above)
