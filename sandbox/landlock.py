"""Landlock: which files a program may open and how, whom it may signal, and whether it may use TCP.

The kernel's versions (ABI) know more and more kinds of access; all that this kernel knows are refused, and the
few that programs need are then granted beneath named folders. See Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Mapping

from rlvr.sandbox.syscalls import Machine, call

_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_SCOPES = 0b11  # abstract unix sockets, signals
_TCP = 0b11  # bind, connect

# struct landlock_ruleset_attr grew: the bytes of it that each ABI knows, and the rights on files that it has.
_FIRST_ABI_WITH_TCP, _FIRST_ABI_WITH_SCOPES = 4, 6
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # ABI: how many; later ones add none

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_DIR, _MAKE_REG, _MAKE_FIFO, _MAKE_SYM = 1 << 7, 1 << 8, 1 << 10, 1 << 12
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15

READ = EXECUTE | READ_FILE | READ_DIR
DEVICES = READ_FILE | READ_DIR | WRITE_FILE | _TRUNCATE | _IOCTL_DEV
OWN_FOLDER = (
    READ | WRITE_FILE | _TRUNCATE | _REFER | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_FIFO | _MAKE_SYM
)
_ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEV  # rights that make sense for what is no folder


def abi(machine: Machine) -> int:
    """Landlock's version in this kernel; 0 where there is none."""
    try:
        return call(machine, "landlock_create_ruleset", 0, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def confines_signals(version: int) -> bool:
    return version >= _FIRST_ABI_WITH_SCOPES


def create_ruleset(machine: Machine, version: int, beneath: Mapping[int, int]) -> int:
    """A ruleset as a descriptor. `beneath` maps descriptors of files and folders to the rights granted there."""
    rights = (1 << _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]) - 1
    fields = [rights]
    fields += [_TCP] if version >= _FIRST_ABI_WITH_TCP else []
    fields += [_SCOPES] if version >= _FIRST_ABI_WITH_SCOPES else []
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = call(machine, "landlock_create_ruleset", attributes, len(attributes), 0)
    for descriptor, granted in beneath.items():
        allow(machine, version, ruleset, descriptor, granted)
    return ruleset


def allow(machine: Machine, version: int, ruleset: int, descriptor: int, granted: int) -> None:
    """Grant rights beneath one open file or folder."""
    known = (1 << _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]) - 1
    allowed = granted & known & (-1 if stat.S_ISDIR(os.fstat(descriptor).st_mode) else _ON_FILES)
    rule = ctypes.create_string_buffer(struct.pack("=Qi", allowed, descriptor))
    call(machine, "landlock_add_rule", ruleset, _RULE_PATH_BENEATH, rule, 0)
