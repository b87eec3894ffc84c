"""Which tier this machine gives, found out by trying, and servers of that tier."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from rlvr.sandbox.isolation import HOME
from rlvr.sandbox.job import SandboxUnavailable, Tier
from rlvr.sandbox.languages import tool_folders
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
        if Tier.FULL in tiers:
            for path in (*readable, sys.base_prefix):
                _check_not_in_tmp(path)
        self._preload = preload
        self._readable = readable
        self._packages = _package_folders() if preload else []
        self._tiers = tiers
        self._lock = threading.Lock()
        self._setup: Setup | None = None
        self._spare: Server | None = None  # with which the tier was found

    @property
    def tier(self) -> Tier | None:
        return self._setup.tier if self._setup is not None else None

    def find_tier(self) -> Tier:
        """Raises SandboxUnavailable, ServerDied."""
        with self._lock:
            if self._setup is None:
                self._setup, self._spare = self._first()
            return self._setup.tier

    def start(self) -> Server:
        """A warm server. Raises SandboxUnavailable, ServerDied, ServerRefused."""
        self.find_tier()
        with self._lock:
            server, self._spare = self._spare, None
            setup = self._setup
        assert setup is not None
        return server or Server(setup)

    def close(self) -> None:
        with self._lock:
            if self._spare is not None:
                self._spare.kill()
                self._spare = None

    def _first(self) -> tuple[Setup, Server]:
        native, refusals = native_helper(), []
        for tier in self._tiers:
            readable = (*self._readable, *tool_folders(tier))
            setup = Setup(tier, readable, self._preload, _seen(self._packages, tier), native)
            try:
                return setup, Server(setup)
            except ServerRefused as refusal:
                refusals.append(f"{tier}: {refusal}")
        raise SandboxUnavailable(f"no sandbox on this machine. {'; '.join(refusals)}. {_ADVICE}")


def tiers_down_to(minimum: Tier) -> tuple[Tier, ...]:
    return _TIERS[: _TIERS.index(minimum) + 1]


def _seen(packages: list[str], tier: Tier) -> tuple[tuple[str, str], ...]:
    """As in Setup. A virtual environment under /tmp would lie beneath the folder that each program has there."""
    return tuple(
        (f"/packages/{number}" if tier is Tier.FULL and _in_tmp(folder) else folder, folder)
        for number, folder in enumerate(packages)
    )


def _in_tmp(path: str) -> bool:
    return Path(path).resolve().is_relative_to(HOME)


def _check_not_in_tmp(path: str) -> None:
    if _in_tmp(path):
        raise ValueError(
            f"{path} lies in {HOME}, and in the full tier each program has a {HOME} of its own: put it elsewhere, or "
            "do without namespaces (only_tier=Tier.LANDLOCK)"
        )


def _package_folders() -> list[str]:
    return [path for path in sys.path if Path(path).name in _PACKAGE_FOLDERS and Path(path).is_dir()]
