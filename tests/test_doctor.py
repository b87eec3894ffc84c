"""`rlvr doctor`: what it says of the machine is what a run gets."""

from __future__ import annotations

import os

import pytest

from rlvr import doctor
from rlvr.config import Config
from rlvr.doctor import Finding, Health, examine, show
from rlvr.placement import place


@pytest.mark.parametrize("cores", [2, 5, 8])
def test_cores_and_memory_are_those_that_roles_get(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(doctor, "machine_memory", lambda: 3 * 2**30)  # a container's limit
    found = {finding.what: finding for finding in examine()}
    (generator,), (learner,) = place(Config(model="tiny", data="none"), range(cores), gpus=0)
    assert len(generator.cores) == len(learner.cores)
    assert found["cores"].follows == f"{len(learner.cores)} each for generator and learner"
    assert found["memory"].found == "3 GiB"


def test_what_is_told_is_not_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    show([Finding(Health.NOTE, "vllm", "missing", "pip install 'rlvr[gpu]'")])
    assert "pip install 'rlvr[gpu]'" in capsys.readouterr().out
