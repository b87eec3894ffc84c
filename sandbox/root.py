"""What of the machine's files a program may read: the contents of its read-only root."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

# Programs, libraries and compilers as the distribution installs them, and what they need to find each other.
SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/lib32",
    "/etc/alternatives",  # /usr/bin/java and many more are links into it
    "/etc/ld.so.cache",
    "/nix/store",
    "/gnu/store",
)
_JAVA_SETTINGS = "java-*-openjdk"  # a JVM of Debian's links its settings to /etc
# Name, and the machine's. Memory that is mapped from the real `zero` and shared is seen by no limit; `full` reads the
# same and cannot be mapped.
_DEVICES = {"null": "null", "zero": "full", "full": "full", "random": "random", "urandom": "urandom"}
_LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
    "/dev/shm": "/tmp",  # named semaphores, as multiprocessing makes them: in the private folder
    "/var/tmp": "/tmp",
}
_TEXTS = {
    "/etc/passwd": b"sandbox:x:1000:1000::/tmp:/bin/sh\n",
    "/etc/group": b"sandbox:x:1000:\n",
}


@dataclass(frozen=True, slots=True)
class Root:
    """Paths in the new root, and what lies there."""

    folders: dict[str, str] = field(default_factory=dict)  # read-only: path -> path on the machine
    files: dict[str, str] = field(default_factory=dict)  # the same for single files
    devices: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)


def plan_root(readable: Iterable[str], packages: Iterable[tuple[str, str]] = ()) -> Root:
    """The system's folders, the interpreter's, `readable` (host paths that must exist), and `packages` as in Setup."""
    wanted = [path for path in map(Path, SYSTEM) if path.exists()]
    wanted += sorted(Path("/etc").glob(_JAVA_SETTINGS))
    wanted += [Path(sys.base_prefix), Path(sys.base_exec_prefix)]
    wanted += [Path(path).absolute() for path in readable]
    wanted += [Path(folder) for seen, folder in packages if seen == folder]
    root = Root(links=dict(_LINKS), texts=dict(_TEXTS))
    root.folders.update({seen: folder for seen, folder in packages if seen != folder})
    for path in sorted(set(wanted), key=lambda path: (path.is_symlink(), path)):  # links lead into folders
        _add(root, path)
    for name, host_name in _DEVICES.items():
        if Path("/dev", host_name).exists():
            root.devices[f"/dev/{name}"] = f"/dev/{host_name}"
    return root


def _add(root: Root, path: Path) -> None:
    if any(path.is_relative_to(folder) for folder in (*root.folders, *root.links)):
        return
    real = path.resolve(strict=True)
    if path.is_symlink() and path.parent == Path("/"):
        root.links[str(path)] = str(path.readlink())  # /lib -> usr/lib, as the machine has it
        _add(root, real)
        return
    (root.folders if real.is_dir() else root.files)[str(path)] = str(real)
    if real != path:
        _add(root, real)  # what lies there may know itself by this name
