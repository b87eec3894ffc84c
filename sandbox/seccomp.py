"""The seccomp filter: which system calls a program may not make, compiled to BPF for the kernel.

A deny-list. The namespaces, the missing capabilities and Landlock already take from these calls what they could
do to others; refusing them as well keeps programs away from code in the kernel that is seldom used and was often
wrong. Everything refused fails with EPERM, which programs know how to report.

The filter is a search tree over the call's number, not a list of comparisons: the kernel runs a new filter once for
each number that exists, to remember which are always allowed, and so a list of eighty costs 0.4 ms at each start of
a program, a tree 0.05.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rlvr.sandbox.syscalls import LAST_KNOWN, Machine

# linux/seccomp.h and linux/filter.h
SECCOMP_SET_MODE_FILTER = 1
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL_PROCESS = 0x80000000
_LOAD, _JUMP, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
_AND = 0x54
_NUMBER_OFFSET, _ARCH_OFFSET, _ARGS_OFFSET = 0, 4, 16  # in struct seccomp_data

_EPERM = _ERRNO | errno.EPERM
_ENOSYS = _ERRNO | errno.ENOSYS
_ENOMEM = _ERRNO | errno.ENOMEM

DENIED = {
    "mounts": (
        "mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr statmount "
        "listmount quotactl quotactl_fd swapon swapoff acct"
    ),
    "namespaces and other security domains": "unshare setns lsm_set_self_attr",
    "other processes' memory and descriptors": (
        "ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp"
    ),
    "the kernel's own programs, and doors that go round this filter": (
        "bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register fanotify_init fanotify_mark "
        "init_module finit_module delete_module kexec_load kexec_file_load lookup_dcookie nfsservctl"
    ),
    "the machine": (
        "reboot syslog vhangup iopl ioperm modify_ldt sethostname setdomainname settimeofday clock_settime adjtimex "
        "clock_adjtime mbind set_mempolicy get_mempolicy set_mempolicy_home_node migrate_pages move_pages"
    ),
    "keys, and files by handle instead of by path": "add_key request_key keyctl open_by_handle_at name_to_handle_at",
    "memory that no limit on a process sees": (
        "memfd_create memfd_secret shmget shmat shmctl semget msgget mq_open remap_file_pages"
    ),
    "sockets of any family, abstract ones too; a pair is allowed": "socket",
}

# Where the machine's files and processes are in sight, what Landlock does not confine.
DENIED_IN_SIGHT = (
    "chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat setxattr lsetxattr fsetxattr setxattrat removexattr "
    "lremovexattr fremovexattr removexattrat utime utimes futimesat"
)
SIGNALS = "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal"

_NEW_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag
_CLONE_FILES, _CLONE_THREAD, _CLOSE_RANGE_UNSHARE = 0x400, 0x10000, 0x2
_PRIO_PROCESS, _IOPRIO_WHO_PROCESS = 0, 1
_AF_UNIX, _STREAM, _SEQPACKET, _SOCKET_KIND = 1, 1, 5, 0xF
_SHARED, _ANONYMOUS, _HUGE_PAGES = 0x01, 0x20, 0x40000  # of mmap
_PERSONALITY_QUERY = 0xFFFFFFFF
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_F_SETOWN, _F_SETOWN_EX = 8, 15  # of fcntl
_FIOSETOWN, _SIOCSPGRP = 0x8901, 0x8902  # of ioctl

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter in the kernel's form; keeps the memory that `address` points to."""

    instructions: ctypes.Array[ctypes.c_char]
    program: ctypes.Array[ctypes.c_char]  # struct sock_fprog

    @property
    def address(self) -> int:
        return ctypes.addressof(self.program)


def build_filter(machine: Machine, *, namespaces: bool = True, signals: bool = True) -> Filter:
    """The filter for one machine.

    Without `namespaces` it also refuses to change the rights and times of files, and the priority of other processes;
    without `signals` to send any, where nothing else confines them.
    """
    rules = _rules(machine, namespaces=namespaces, signals=signals)
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions(machine, rules))
    block = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(block)))
    return Filter(block, program)


def instructions(machine: Machine, rules: Mapping[int, list[Instruction]]) -> list[Instruction]:
    """Calls of a foreign architecture kill; x32's numbers lie above all known ones, and so do not exist here."""
    starts: list[tuple[int, list[Instruction]]] = [(0, [_return(_ALLOW)])]
    for number in sorted(rules):
        if starts[-1][0] == number:
            starts[-1] = (number, rules[number])
        else:
            starts.append((number, rules[number]))
        starts.append((number + 1, [_return(_ALLOW)]))
    starts.append((LAST_KNOWN + 1, [_return(_ENOSYS)]))
    return [
        (_LOAD, 0, 0, _ARCH_OFFSET),
        (_JUMP_EQUAL, 1, 0, machine.audit_arch),
        _return(_KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        *_search(_merged(starts)),
    ]


def _rules(machine: Machine, *, namespaces: bool, signals: bool) -> dict[int, list[Instruction]]:
    names = [name for group in DENIED.values() for name in group.split()]
    names += [] if namespaces else DENIED_IN_SIGHT.split()
    names += [] if signals else SIGNALS.split()
    rules = {machine.numbers[name]: [_return(_EPERM)] for name in names if name in machine.numbers}
    checked: dict[str, Callable[[], list[Instruction]]] = {
        # A library that meets ENOSYS falls back to clone, whose flags this filter can see.
        "clone3": lambda: [_return(_ENOSYS)],
        # A thread with descriptors of its own: only those of a process are counted. close_range can make one too.
        "clone": lambda: [
            _argument(0),
            (_JUMP_ANY_BIT, 2, 0, _NEW_NAMESPACES),
            (_JUMP_ANY_BIT, 0, 2, _CLONE_THREAD),
            (_JUMP_ANY_BIT, 1, 0, _CLONE_FILES),
            _return(_EPERM),
            _return(_ALLOW),
        ],
        "close_range": lambda: [
            _argument(2),
            (_JUMP_ANY_BIT, 0, 1, _CLOSE_RANGE_UNSHARE),
            _return(_EPERM),
            _return(_ALLOW),
        ],
        # One of datagrams could be bound to a name, and send to sockets that have one.
        "socketpair": lambda: [
            _argument(0),
            (_JUMP_EQUAL, 0, 4, _AF_UNIX),
            _argument(1),
            (_AND, 0, 0, _SOCKET_KIND),
            (_JUMP_EQUAL, 2, 0, _STREAM),
            (_JUMP_EQUAL, 1, 0, _SEQPACKET),
            _return(_EPERM),
            _return(_ALLOW),
        ],
        # Shared memory without a file is held also where it is not mapped any more, and seen by no limit.
        "mmap": lambda: [
            _argument(3),
            (_JUMP_ANY_BIT, 2, 0, _HUGE_PAGES),
            (_JUMP_ANY_BIT, 0, 2, _SHARED),
            (_JUMP_ANY_BIT, 0, 1, _ANONYMOUS),
            _return(_ENOMEM),
            _return(_ALLOW),
        ],
        # Another process's limits: init's, or any of the same user's where there are no namespaces.
        "prlimit64": lambda: _only(0),
        "personality": lambda: [
            _argument(0),
            (_JUMP_EQUAL, 1, 0, _PERSONALITY_QUERY),
            _return(_EPERM),
            _return(_ALLOW),
        ],
        # Typing into a terminal that the program happens to hold.
        "ioctl": lambda: _all_but(1, _TIOCSTI, _TIOCLINUX),
    }
    if not signals:  # by way of a file that sends one to its owner
        checked["fcntl"] = lambda: _all_but(1, _F_SETOWN, _F_SETOWN_EX)
        checked["ioctl"] = lambda: _all_but(1, _TIOCSTI, _TIOCLINUX, _FIOSETOWN, _SIOCSPGRP)
    if not namespaces:
        for name in ("sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"):
            checked[name] = lambda: _only(0)
        # The times of an open file alone, whose path is a null pointer: Landlock let it be opened.
        checked["utimensat"] = lambda: [
            *(_argument(1), (_JUMP_EQUAL, 1, 0, 0), _return(_EPERM)),
            *(_high_half(1), (_JUMP_EQUAL, 1, 0, 0), _return(_EPERM)),
            _return(_ALLOW),
        ]
        checked["setpriority"] = lambda: _only(_PRIO_PROCESS, 0)
        checked["ioprio_set"] = lambda: _only(_IOPRIO_WHO_PROCESS, 0)
    return rules | {machine.numbers[name]: rule() for name, rule in checked.items()}


def _only(*arguments: int) -> list[Instruction]:
    """Allowed with these first arguments alone. The pid 0 is the caller."""
    code: list[Instruction] = [_return(_ALLOW)]
    for index in reversed(range(len(arguments))):
        code = [_argument(index), (_JUMP_EQUAL, 1, 0, arguments[index]), _return(_EPERM), *code]
    return code


def _all_but(index: int, *values: int) -> list[Instruction]:
    """Refused where that argument is one of these."""
    last = len(values) - 1
    tests: list[Instruction] = [(_JUMP_EQUAL, last - place, place == last, value) for place, value in enumerate(values)]
    return [_argument(index), *tests, _return(_EPERM), _return(_ALLOW)]


def _return(value: int) -> Instruction:
    return (_RETURN, 0, 0, value)


def _argument(index: int) -> Instruction:
    return (_LOAD, 0, 0, _ARGS_OFFSET + 8 * index)  # its low half: both machines are little-endian


def _high_half(index: int) -> Instruction:
    return (_LOAD, 0, 0, _ARGS_OFFSET + 8 * index + 4)


def _merged(starts: list[tuple[int, list[Instruction]]]) -> list[tuple[int, list[Instruction]]]:
    """Neighbouring ranges of call numbers with the same rule become one."""
    merged = [starts[0]]
    for start, rule in starts[1:]:
        if start == merged[-1][0]:
            merged.pop()
        if not merged or rule != merged[-1][1]:
            merged.append((start, rule))
    return merged


def _search(starts: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """A binary search for the range that the number in the accumulator lies in."""
    if len(starts) == 1:
        return starts[0][1]
    middle = len(starts) // 2
    below, above = _search(starts[:middle]), _search(starts[middle:])
    if len(below) <= 255:  # how far a conditional jump reaches
        return [(_JUMP_AT_LEAST, len(below), 0, starts[middle][0]), *below, *above]
    return [(_JUMP_AT_LEAST, 0, 1, starts[middle][0]), (_JUMP, 0, 0, len(below)), *below, *above]
