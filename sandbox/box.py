"""A job's private folder: files in before it starts, files out after all its processes have ended."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from typing import Protocol

from rlvr.sandbox.isolation import HOME, USER
from rlvr.sandbox.syscalls import Machine, call

_FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 1, 6
_MOUNT_NOSUID_NODEV = 2 | 4
_INODES_PER_MIB, _FEWEST_INODES = 256, 1024
_LONGEST_PATH = 1024  # of a folder on the machine's disk: each look at it takes time by its length
_BYTES_PER_INODE = (1 << 20) // _INODES_PER_MIB
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_SURPRISE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Box(Protocol):
    """`descriptor` is the folder, open."""

    descriptor: int
    path: str  # as its programs see it

    def close(self) -> None: ...


class PrivateMount:
    """A tmpfs that is mounted nowhere until a job's init puts it in its place; it goes with the job."""

    def __init__(self, machine: Machine, disk_bytes: int) -> None:
        self.path = HOME
        inodes = max(_FEWEST_INODES, (disk_bytes >> 20) * _INODES_PER_MIB)
        options = {"size": disk_bytes, "nr_inodes": inodes, "mode": "0700", "uid": USER, "gid": USER}
        settings = call(machine, "fsopen", b"tmpfs", 1)
        try:
            for name, value in options.items():
                call(machine, "fsconfig", settings, _FSCONFIG_SET_STRING, name.encode(), str(value).encode(), 0)
            call(machine, "fsconfig", settings, _FSCONFIG_CMD_CREATE, 0, 0, 0)
            self.descriptor = call(machine, "fsmount", settings, 1, _MOUNT_NOSUID_NODEV)
        finally:
            os.close(settings)

    def close(self) -> None:
        os.close(self.descriptor)


class HostFolder:
    """A folder on the machine's disk, for tiers that cannot mount. Nothing but the watchdog limits its size."""

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(prefix="rlvr-sandbox-")
        self.descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self.descriptor)
        self.remove()

    def remove(self) -> None:
        """Its folders are moved to its top, opened up and emptied there: however deep they lay, no path is long."""
        name = f"{self.path}/{os.urandom(8).hex()}-"
        moved = itertools.count()
        with contextlib.suppress(OSError):
            while folders := [entry.path for entry in os.scandir(self.path) if entry.is_dir(follow_symlinks=False)]:
                for folder in folders:
                    os.chmod(folder, 0o700)  # noqa: PTH101 - as below: paths by the thousand
                    for entry in os.scandir(folder):
                        if entry.is_dir(follow_symlinks=False):
                            os.chmod(entry.path, 0o700)  # noqa: PTH101
                            os.rename(entry.path, f"{name}{next(moved)}")  # noqa: PTH104
                        else:
                            os.unlink(entry.path)  # noqa: PTH108
                    os.rmdir(folder)  # noqa: PTH106
        shutil.rmtree(self.path, ignore_errors=True)

    def holds_more_than(self, limit: int) -> bool:
        """In bytes; no file counts less than one does in a private mount. Also where it cannot be looked into."""
        total, folders = 0, [self.path]
        while folders and total <= limit:
            folder = folders.pop()
            if len(folder) > _LONGEST_PATH:
                return True
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        total += max(entry.stat(follow_symlinks=False).st_blocks * 512, _BYTES_PER_INODE)
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
            except FileNotFoundError:  # it went meanwhile
                continue
            except OSError:  # a folder that is shut
                return True
        return total > limit


def write_files(folder: int, files: tuple[tuple[str, int], ...], contents: int) -> None:
    """Put files (name, size) into a folder; `contents` holds their bytes, one after the other.

    They are copied in the kernel: a server's memory, which later jobs inherit, must never hold them.
    """
    offset = 0
    for name, size in files:
        parents, _, base = name.rpartition("/")
        with _open_folder(folder, parents, create=True) as parent:
            target = os.open(base, _NEW_FILE, 0o644, dir_fd=parent)
        try:
            end = offset + size
            while offset < end:
                sent = os.sendfile(target, contents, offset, end - offset)
                if sent == 0:
                    raise EOFError(f"the contents of {name!r} ended early")
                offset += sent
        finally:
            os.close(target)


def write_links(folder: int, links: tuple[tuple[str, str], ...]) -> None:
    for name, target in links:
        parents, _, base = name.rpartition("/")
        with _open_folder(folder, parents, create=True) as parent:
            os.symlink(target, base, dir_fd=parent)


def open_result(folder: int, name: str) -> tuple[int, int] | None:
    """A regular file that programs left, open, and its size; None if there is none. No link is followed."""
    parents, _, base = name.rpartition("/")
    try:
        with _open_folder(folder, parents, create=False) as parent:
            descriptor = os.open(base, _NO_SURPRISE, dir_fd=parent)
    except OSError:
        return None
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode):
        return descriptor, found.st_size
    os.close(descriptor)
    return None


@contextlib.contextmanager
def _open_folder(folder: int, path: str, *, create: bool) -> Iterator[int]:
    current = os.dup(folder)
    try:
        for name in filter(None, path.split("/")):
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=current)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
            os.close(current)
            current = below
        yield current
    finally:
        os.close(current)
