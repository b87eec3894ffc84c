"""The watchdog: what moves is left alone, what stands still is ended and named."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from rlvr.watchdog import Stalled, watch

LIMIT_S = 0.1


async def standing_still() -> int:
    return 0


def where() -> str:
    return "step 3, stage learn"


async def work_of(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


async def test_the_result_of_the_work_comes_back() -> None:
    assert await watch(work_of(0), standing_still, where, 60.0) == "done"


async def test_what_the_work_raises_comes_back() -> None:
    async def fails() -> None:
        raise KeyError("reason")

    with pytest.raises(KeyError, match="reason"):
        await watch(fails(), standing_still, where, 60.0)


async def test_slow_work_that_moves_is_left_alone() -> None:
    counter = itertools.count()

    async def moving() -> int:
        return next(counter)

    assert await watch(work_of(5 * LIMIT_S), moving, where, LIMIT_S) == "done"


async def test_work_that_stands_still_is_ended_and_the_place_is_named() -> None:
    ended = asyncio.Event()

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(Stalled, match=r"nothing has moved for 0.1 s \(cluster.watchdog_s\): step 3, stage learn"):
        await asyncio.wait_for(watch(hangs(), standing_still, where, LIMIT_S), timeout=5)
    assert ended.is_set()


async def test_progress_that_does_not_answer_is_no_progress() -> None:
    async def hangs() -> int:
        await asyncio.Event().wait()
        return 0

    with pytest.raises(Stalled):
        await asyncio.wait_for(watch(work_of(60), hangs, where, LIMIT_S), timeout=5)


async def test_progress_that_fails_ends_the_work_and_is_told() -> None:
    ended = asyncio.Event()

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def fails() -> int:
        raise ConnectionError("generator-1 is gone")

    with pytest.raises(ConnectionError, match="generator-1 is gone"):
        await asyncio.wait_for(watch(hangs(), fails, where, LIMIT_S), timeout=5)
    assert ended.is_set()
