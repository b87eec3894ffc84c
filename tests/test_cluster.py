"""Starting Ray where it cannot be started. Whole runs under Ray are in test_training.py."""

from __future__ import annotations

import pytest
import ray

from rlvr.cluster import connect_ray
from rlvr.placement import ClusterError


def test_a_machine_on_which_ray_starts_too_slowly_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_slow(**_: object) -> None:
        raise Exception("The current node timed out during startup.")  # as Ray says it

    monkeypatch.setattr(ray, "init", too_slow)
    with pytest.raises(ClusterError, match=r"timed out during startup.*cluster.backend=local, which needs no Ray"):
        connect_ray("local")
