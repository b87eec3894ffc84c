"""Results that several ask for at the same time: made once, whatever becomes of those who asked."""

from __future__ import annotations

import asyncio

import pytest

from rlvr.rewards.once import Once


class Maker:
    """Makes its name, when it is let."""

    def __init__(self) -> None:
        self.calls = 0
        self.may_end = asyncio.Event()
        self.failure: Exception | None = None

    async def make(self) -> str:
        self.calls += 1
        await self.may_end.wait()
        if self.failure is not None:
            raise self.failure
        return f"result {self.calls}"


async def test_those_who_ask_while_it_is_made_get_the_same() -> None:
    once, maker = Once[str](4), Maker()
    asking = [asyncio.create_task(once.get("key", maker.make)) for _ in range(6)]
    await asyncio.sleep(0)
    asking[0].cancel()  # its deadline, say: the others are none the worse
    maker.may_end.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == ["result 1"] * 5
    assert await once.get("key", maker.make) == "result 1" and maker.calls == 1


async def test_a_failure_is_told_to_all_and_tried_again() -> None:
    once, maker = Once[str](4), Maker()
    maker.may_end.set()
    maker.failure = OSError("busy")
    results = await asyncio.gather(*(once.get("key", maker.make) for _ in range(3)), return_exceptions=True)
    assert results == [maker.failure] * 3 and maker.calls == 1
    maker.failure = None
    assert await once.get("key", maker.make) == "result 2"


async def test_the_oldest_results_go() -> None:
    once, maker = Once[str](2), Maker()
    maker.may_end.set()
    for key in ("a", "b", "c", "c", "b"):
        await once.get(key, maker.make)
    assert maker.calls == 3
    await once.get("a", maker.make)
    assert maker.calls == 4


def test_what_a_loop_left_unfinished_is_made_again_in_the_next() -> None:
    once = Once[str](4)

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(once.get("key", Maker().make), 0.01)

    async def ask() -> str:
        maker = Maker()
        maker.may_end.set()
        return await once.get("key", maker.make)

    asyncio.run(leave())
    assert asyncio.run(ask()) == "result 1"
    assert asyncio.run(ask()) == "result 1"
