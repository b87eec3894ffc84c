from __future__ import annotations

from collections.abc import Iterator

import pytest

from rlvr.sandbox import Program, Sandbox, SandboxUnavailable, Tier


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """The best tier that this machine gives, shared by all tests that do not break it."""
    with Sandbox(slots=4) as shared:
        yield shared


@pytest.fixture(scope="session", params=[Tier.FULL, Tier.LANDLOCK])
def each_tier(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(slots=2, only_tier=request.param) as of_tier:
        try:
            of_tier.run(Program("pass"))
        except SandboxUnavailable as reason:
            pytest.skip(str(reason))
        yield of_tier
