"""Which tier this machine gives, found out by trying, and servers of that tier."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path

from rlvr.sandbox.job import SandboxUnavailable, Tier
from rlvr.sandbox.link import Server, ServerRefused
from rlvr.sandbox.native import native_helper
from rlvr.sandbox.wire import Setup

_TIERS = (Tier.FULL, Tier.LANDLOCK, Tier.NONE)
_PACKAGE_FOLDERS = ("site-packages", "dist-packages")
_ADVICE = (
    "For the full tier, allow user namespaces (sysctl user.max_user_namespaces > 0; on Ubuntu also "
    "kernel.apparmor_restrict_unprivileged_userns=0; in a container, a seccomp profile that allows unshare, mount and "
    "clone with CLONE_NEWUSER) on Linux 5.12 or later. For the landlock tier, Linux 5.13 or later with Landlock "
    "enabled (lsm=...,landlock). To run without isolation, ask for it: minimum_tier=Tier.NONE"
)


class Servers:
    """Starts servers. `tier` is None until the first has found what the machine gives."""

    def __init__(self, *, preload: tuple[str, ...], readable: tuple[str, ...], tiers: tuple[Tier, ...]) -> None:
        packages = tuple(_package_folders()) if preload else ()
        self._preload = preload
        self._readable = (*readable, *packages)
        self._search_path = packages
        self._tiers = tiers
        self._lock = threading.Lock()
        self._setup: Setup | None = None

    @property
    def tier(self) -> Tier | None:
        return self._setup.tier if self._setup is not None else None

    def start(self) -> Server:
        """A warm server. Raises SandboxUnavailable, ServerDied."""
        with self._lock:
            if self._setup is None:
                return self._first()
        return Server(self._setup)

    def _first(self) -> Server:
        setup = Setup(Tier.FULL, self._readable, self._preload, self._search_path, native_helper())
        refusals = []
        for tier in self._tiers:
            setup = replace(setup, tier=tier)
            try:
                server = Server(setup)
            except ServerRefused as refusal:
                refusals.append(f"{tier}: {refusal}")
            else:
                self._setup = setup
                return server
        raise SandboxUnavailable(f"no sandbox on this machine. {'; '.join(refusals)}. {_ADVICE}")


def tiers_down_to(minimum: Tier) -> tuple[Tier, ...]:
    return _TIERS[: _TIERS.index(minimum) + 1]


def _package_folders() -> list[str]:
    return [path for path in sys.path if Path(path).name in _PACKAGE_FOLDERS and Path(path).is_dir()]
