"""Work on a thread of its own: what it returns and raises comes back, and what hangs keeps no process alive."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from rlvr.daemon import in_daemon

GIVES_UP = """
import asyncio, time
from rlvr.daemon import in_daemon
from rlvr.watchdog import watch

async def stands_still():
    return 0

asyncio.run(watch(in_daemon(time.sleep, 600), stands_still, lambda: "stage learn", 0.1))
"""


async def test_what_the_work_returns_comes_back() -> None:
    assert await in_daemon(divmod, 7, 2) == (3, 1)
    assert await in_daemon(threading.current_thread) is not threading.current_thread()


async def test_what_the_work_raises_comes_back() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_daemon(divmod, 7, 0)


def test_a_process_that_gave_up_work_that_hangs_ends_and_says_why() -> None:
    ended = subprocess.run([sys.executable, "-c", GIVES_UP], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "Stalled: nothing has moved for 0.1 s (cluster.watchdog_s): stage learn" in ended.stderr
