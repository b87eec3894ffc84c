"""No row of the attack list holds against the sandbox: as root, as a user without rights, and without namespaces."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from rlvr.sandbox import Program, Sandbox, Tier

sys.path.insert(0, str(Path(__file__).parent))

import attack_rows
from unprivileged import run_unprivileged

pytestmark = pytest.mark.skipif("RLVR_DATA" not in os.environ, reason="RLVR_DATA names no folder with the attack list")

# What a machine without namespaces cannot give: its own files are in sight, and no folder has a size.
NOT_IN_LANDLOCK_TIER = {
    "disk_fill": "/tmp is the machine's there, and may not be written at all",
    "docker_sock": "that a file exists can be seen; opening it is refused",
}


def ids(verdicts: list[attack_rows.Verdict]) -> dict[str, str]:
    return {verdict.id: verdict.seen for verdict in verdicts if not verdict.holds}


def test_every_row_holds_in_the_full_tier(sandbox: Sandbox) -> None:
    verdicts = attack_rows.judge_all(sandbox)
    assert {verdict.tier for verdict in verdicts} == {Tier.FULL}
    assert len(verdicts) >= 70
    assert ids(verdicts) == {}


def test_every_row_holds_for_a_user_without_rights(tmp_path: Path) -> None:
    output = run_unprivileged(Path(attack_rows.__file__), Tier.FULL, folder=tmp_path)
    verdicts = [attack_rows.Verdict(**json.loads(line)) for line in output.splitlines()]
    assert len(verdicts) >= 70
    assert ids(verdicts) == {}


def test_without_namespaces_all_rows_hold_but_the_named_ones() -> None:
    with Sandbox(slots=4, only_tier=Tier.LANDLOCK) as landlock:
        verdicts = attack_rows.judge_all(landlock)
    assert {verdict.tier for verdict in verdicts} == {Tier.LANDLOCK}
    failed = ids(verdicts)
    assert failed.keys() <= NOT_IN_LANDLOCK_TIER.keys(), failed


def test_in_the_landlock_tier_control_sockets_and_devices_cannot_be_opened() -> None:
    source = "\n".join(
        [
            "import os",
            "for path in ('/dev/kvm', '/dev/vsock', '/dev/fuse', '/var/run/docker.sock', '/etc/passwd'):",
            "    try: os.open(path, os.O_RDONLY); print('opened', path)",
            "    except OSError: pass",
        ]
    )
    with Sandbox(slots=1, only_tier=Tier.LANDLOCK) as landlock:
        assert landlock.run(Program(source)).stdout == b""
