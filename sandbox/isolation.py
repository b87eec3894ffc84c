"""What stands between a program and the machine, as three tables of system calls, each with its reason.

    the server, once    a read-only root, an own uid, an empty network       `enclose_server`
    a job's init        namespaces of its own, a private folder, no rights   `confine_init`
    each program        limits on what it uses                               `start_program`

The server is cloned into a job's init, with new namespaces where there are any; init forks into the job's programs,
reaps what they leave behind, and dies with all of them.
"""

from __future__ import annotations

import fcntl
import math
import os
import resource
import signal
import struct
from collections.abc import Iterator, Sequence

from rlvr.sandbox.job import Limits
from rlvr.sandbox.root import Root
from rlvr.sandbox.seccomp import SECCOMP_SET_MODE_FILTER, Filter
from rlvr.sandbox.steps import KEPT, Step

HOME = "/tmp"  # the private folder as a program with its own root sees it
USER = 1000  # a program's uid and gid, as it sees them

# A job's init begins with these descriptors at 0, 1, 2: its socket to the server, its private folder, and Landlock's
# ruleset where there is one. It puts what it keeps on CONTROL and RULESET and closes all below, so that those it is
# sent for a program land on 0, 1, 2, 3. The server's own lie above: its objects may outlive a fork, and must not close
# a program's when they go.
FIRST_CONTROL, FIRST_BOX, FIRST_RULESET = 0, 1, 2
CONTROL, RULESET = 30, 31
PROGRAM = 3  # the binary or the Python source, the last that is sent; one higher where there is a link at 3
LINK = 3

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
# The network namespace is the server's: one empty one serves all its jobs, and a new one for each costs a quarter
# of the throughput.
JOB_NAMESPACES = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS

_AT_FDCWD = -100
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_FROM_DESCRIPTOR = 0x4
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECUREBITS = 1, 4, 28
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 8, 47, 2
_CAP_DAC_READ_SEARCH = 2
_SECUREBITS_LOCKED = 0xEF  # root gets no capabilities, none are kept over setuid, none raised; all for good
_CAPABILITY_VERSION = 0x20080522
_LAST = 0xFFFFFFFF  # the highest descriptor
_OPEN_FILES = 256
_PENDING = 1024

_NEW_ROOT = b"/sys"  # where the new root is put together: a folder that every machine has, and no program needs


def enclose_server(root: Root, own_uid: int | None) -> Iterator[Step]:
    """Leave the machine's files and network behind, for good.

    With `own_uid` the mounts are made by root, for whom no folder is shut, and the uid is changed after.
    """
    if own_uid is None:
        yield from _own_namespaces(os.getuid(), os.getgid())
        yield from _enter_new_root(root)
    else:
        yield Step("unshare", (CLONE_NEWNS,), "mounts of its own, made while it may still read all folders")
        yield from _enter_new_root(root)
        yield from change_uid(own_uid)
        # Changing the uid gave /proc/self to root.
        yield Step("prctl", (_PR_SET_DUMPABLE, 1, 0, 0, 0), "lets it write its own uid map")
        yield from _own_namespaces(own_uid, own_uid)


def change_uid(uid: int) -> Iterator[Step]:
    """To a uid that no other process has, so that its limit on processes counts its own alone.

    That limit does nothing for the machine's root, also when a user namespace shows it as another uid.
    """
    yield Step("setgroups", (0, 0), "no group of root's stays")
    yield Step("setresgid", (uid, uid, uid), "own group")
    yield Step("setresuid", (uid, uid, uid), "own uid; root's capabilities go with root's")


def change_uid_keep_search(uid: int) -> Iterator[Step]:
    """The same where the interpreter lies in a folder that is shut to others, as /root is, and cannot be mounted.

    Searching and reading any folder is all that is kept of root's rights, and Landlock, which holds for those who
    have it too, allows no folder but the listed ones.
    """
    yield Step("prctl", (_PR_SET_KEEPCAPS, 1, 0, 0, 0), "to keep one of them")
    yield from change_uid(uid)
    search = 1 << _CAP_DAC_READ_SEARCH
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    yield Step("capset", (header, struct.pack("=6I", search, search, search, 0, 0, 0)), "that one alone")
    yield Step("prctl", (_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_READ_SEARCH, 0, 0), "over exec too")


def _own_namespaces(uid: int, gid: int) -> Iterator[Step]:
    yield Step(
        "unshare",
        (CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC,),
        "rights over new namespaces, none over the machine; a network without interfaces",
    )
    yield from _map_user(uid, gid)
    yield Step("mount", (b"none", b"/", 0, _MS_REC | _MS_PRIVATE, 0), "no mount travels in or out")


def _map_user(uid: int, gid: int) -> Iterator[Step]:
    """One uid and one gid; all others of the machine are nobody. A group may ban, so none may be dropped."""
    texts = {"setgroups": "deny", "uid_map": f"{USER} {uid} 1", "gid_map": f"{USER} {gid} 1"}
    for name, text in texts.items():
        yield from _write_file(f"/proc/self/{name}", text.encode(), os.O_WRONLY)


def _write_file(path: str, text: bytes, flags: int) -> Iterator[Step]:
    yield Step("openat", (_AT_FDCWD, path.encode(), flags, 0o644), f"to write {path}", keeps=True)
    if text:
        yield Step("write", (KEPT, text, len(text)), f"{path}: {text.decode()!r}")
    yield Step("close", (KEPT,), f"{path} is written")


def _enter_new_root(root: Root) -> Iterator[Step]:
    yield Step("mount", (b"none", b"/", 0, _MS_REC | _MS_PRIVATE, 0), "no mount travels in or out")
    yield Step("mount", (b"tmpfs", _NEW_ROOT, b"tmpfs", _MS_NOSUID, b"mode=0755,size=1m"), "an empty root")
    new = _NEW_ROOT.decode()
    paths = [*root.folders, *root.files, *root.devices, *root.links, *root.texts, f"{HOME}/", "/proc/"]
    for folder in sorted({*_parents(paths), *root.folders}):
        yield Step("mkdirat", (_AT_FDCWD, f"{new}{folder}".encode(), 0o755), f"a place for {folder}")
    for path in [*root.files, *root.devices]:
        yield from _write_file(new + path, b"", os.O_WRONLY | os.O_CREAT)
    for path, text in root.texts.items():
        yield from _write_file(new + path, text, os.O_WRONLY | os.O_CREAT)
    for path, target in root.links.items():
        yield Step("symlinkat", (target.encode(), _AT_FDCWD, f"{new}{path}".encode()), f"{path} leads to {target}")
    for path, host_path in (root.folders | root.files).items():
        yield from _bind(host_path, new + path, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV)
    for path, host_path in root.devices.items():
        yield from _bind(host_path, new + path, _ATTR_NOSUID)
    # Its own id map is written there; each job covers it by one of its own. The kernel lets a job mount that only
    # where this one can be seen.
    yield from _bind("/proc", f"{new}/proc", _ATTR_NOSUID)
    yield Step("mount_setattr", (_AT_FDCWD, _NEW_ROOT, 0, _attributes(_ATTR_RDONLY), 32), "the root is read-only too")
    yield Step("chdir", (_NEW_ROOT,), "pivot_root takes the folder one is in")
    yield Step("pivot_root", (b".", b"."), "the new root over the old one")
    yield Step("umount2", (b".", _MNT_DETACH), "the old one, with all the machine's files, goes")
    yield Step("chdir", (b"/",), "no foot outside")


def _parents(paths: Sequence[str]) -> set[str]:
    """The folders above these paths."""
    split = [path.split("/") for path in paths]
    return {"/".join(parts[:i]) for parts in split for i in range(2, len(parts))}


def _bind(source: str, target: str, attributes: int) -> Iterator[Step]:
    tree = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    yield Step("open_tree", (_AT_FDCWD, source.encode(), tree), f"a second mount of {source}", keeps=True)
    yield Step(
        "mount_setattr",
        (KEPT, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, _attributes(attributes), 32),
        f"{source}: no setuid, and read-only and without devices where it is a folder",
    )
    yield Step("move_mount", (KEPT, b"", _AT_FDCWD, target.encode(), _MOVE_FROM_DESCRIPTOR), f"to {target}")
    yield Step("close", (KEPT,), "it is in its place")


def _attributes(flags: int) -> bytes:
    return struct.pack("=4Q", flags, 0, 0, 0)  # struct mount_attr: set, clear, propagation, user namespace


def confine_init(*, uid: int, gid: int, ruleset: bool, filter: Filter) -> Iterator[Step]:
    """A job's init in its new namespaces. What holds for it holds for the programs that it forks."""
    yield from _map_user(uid, gid)
    yield Step("prctl", (_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "ends with the server, and the job with it")
    yield Step("prctl", (_PR_SET_DUMPABLE, 0, 0, 0, 0), "programs may not look into it: /proc/1 is shut")
    yield Step("move_mount", (FIRST_BOX, b"", _AT_FDCWD, HOME.encode(), _MOVE_FROM_DESCRIPTOR), "the private folder")
    yield Step(
        "mount",
        (b"proc", b"/proc", b"proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, b"subset=pid,hidepid=invisible"),
        "a /proc of its own processes alone",
    )
    yield Step("sethostname", (b"sandbox", 7), "not the machine's name")
    yield Step("chdir", (HOME.encode(),), "where programs start")
    yield from _no_rights()
    yield from _confine(FIRST_RULESET if ruleset else None, filter)
    yield from _keep_open(ruleset=False)


def watch_init(*, ruleset: bool) -> Iterator[Step]:
    """A job's init where there are no namespaces: it adopts what its programs leave behind, to end it."""
    yield Step("prctl", (_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0), "ends the job when the server has died")
    yield Step("prctl", (_PR_SET_DUMPABLE, 0, 0, 0, 0), "programs may not look into it")
    yield Step("prctl", (_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "orphans of the job come to it")
    yield Step("fchdir", (FIRST_BOX,), "where programs start")
    yield from _keep_open(ruleset=ruleset)


def _keep_open(*, ruleset: bool) -> Iterator[Step]:
    yield Step("dup3", (FIRST_CONTROL, CONTROL, os.O_CLOEXEC), "its socket, above what programs get")
    if ruleset:
        yield Step("dup3", (FIRST_RULESET, RULESET, os.O_CLOEXEC), "for each program to confine itself by")
    yield Step("close_range", (0, CONTROL - 1, 0), "no descriptor of the server's")
    yield Step("close_range", (RULESET + 1 if ruleset else CONTROL + 1, _LAST, 0), "none")


def _no_rights() -> Iterator[Step]:
    yield Step("prctl", (_PR_SET_SECUREBITS, _SECUREBITS_LOCKED, 0, 0, 0), "no way to capabilities by uid or exec")
    yield Step("capset", (struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24)), "no capabilities")


def _confine(ruleset: int | None, filter: Filter) -> Iterator[Step]:
    yield Step("prctl", (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "setuid programs give nothing")
    if ruleset is not None:
        yield Step("landlock_restrict_self", (ruleset, 0), "files by list, no TCP, no signals to others")
    yield Step("seccomp", (SECCOMP_SET_MODE_FILTER, 0, filter.address), "the calls that are refused")


def start_program(limits: Limits, *, processes: int, inherited_bytes: int) -> Iterator[Step]:
    """What one program may use. `processes` is the limit on its uid; `inherited_bytes` what it is forked with.

    Memory is limited where it may be written (RLIMIT_DATA), not where it is mapped (RLIMIT_AS): each thread, and
    each runtime that compiles or collects garbage, maps far more than it uses. What processes share does not count
    here, and is watched from outside.
    """
    cpu = max(1, math.ceil(limits.cpu_s))
    memory = inherited_bytes + limits.memory_bytes
    yield _limit(resource.RLIMIT_CPU, (cpu, cpu + 1), "SIGXCPU at the limit, SIGKILL a second later")
    yield _limit(resource.RLIMIT_DATA, (memory, memory), "memory of one process")
    yield _limit(resource.RLIMIT_NPROC, (processes, processes), "processes and threads of all")
    yield _limit(resource.RLIMIT_FSIZE, (limits.disk_bytes, limits.disk_bytes), "one file; the folder has a size too")


def fixed_limits() -> Iterator[Step]:
    yield _limit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES), "bounds the memory in pipes and sockets too")
    yield _limit(resource.RLIMIT_CORE, (1, 1), "no core file; for 0, the machine's own collector would be started")
    yield _limit(resource.RLIMIT_MEMLOCK, (0, 0), "no memory that cannot be swapped")
    yield _limit(resource.RLIMIT_MSGQUEUE, (0, 0), "no message queues: kernel memory")
    yield _limit(resource.RLIMIT_SIGPENDING, (_PENDING, _PENDING), "signals that wait, and timers: kernel memory")
    yield _limit(resource.RLIMIT_RTPRIO, (0, 0), "no priority over the server")
    yield _limit(resource.RLIMIT_NICE, (0, 0), "none")
    yield _limit(resource.RLIMIT_STACK, (8 << 20, -1), "as Linux has it; a program may ask for more")
    yield Step("setsid", (), "a session of its own: no terminal, and signals to its group stay in the job")


def _limit(which: int, values: tuple[int, int], why: str) -> Step:
    return Step("prlimit64", (0, which, struct.pack("=2q", *values), 0), why)


def confine_program(*, drop_rights: bool, ruleset: bool, filter: Filter | None) -> Iterator[Step]:
    """A program's own confinement, where its init is not confined already."""
    yield Step("prctl", (_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "ends with its init")
    if drop_rights:
        yield from _no_rights()
    if filter is not None:
        yield from _confine(RULESET if ruleset else None, filter)
    if ruleset:
        yield Step("close", (RULESET,), "who holds it may add to it, and the job's next program is confined by it too")


def show_python() -> Iterator[Step]:
    yield Step("prctl", (_PR_SET_DUMPABLE, 1, 0, 0, 0), "its own /proc/self is its own, unlike its init's")


def execute(path: str | None, program: int, arguments: Sequence[str], environment: Sequence[str]) -> Iterator[Step]:
    """Become another program: at `path`, or the binary open at descriptor `program`."""
    default = bytes(32)  # struct sigaction: SIG_DFL
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        yield Step("rt_sigaction", (ignored, default, 0, 8), f"Python ignores {ignored.name}; a new program does not")
    argv, envp = tuple(map(os.fsencode, arguments)), tuple(map(os.fsencode, environment))
    if path is not None:
        yield Step("execveat", (_AT_FDCWD, path.encode(), argv, envp, 0), f"become {path}")
    else:
        yield Step("fcntl", (program, fcntl.F_SETFD, fcntl.FD_CLOEXEC), "it need not see its own binary")
        yield Step("execveat", (program, b"", argv, envp, _AT_EMPTY_PATH), "become the compiled program")
