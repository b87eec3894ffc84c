"""The worker pool: whatever a function does, the caller gets an answer in time and the next call works."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlvr.workers.pool import WorkerCrashed, WorkerFailed, WorkerPool, WorkerStartError, WorkerTimeout

MEMORY_LIMIT = 512 * 1024**2


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(size=2, memory_limit_bytes=MEMORY_LIMIT) as pool:
        yield pool


def double(x: int) -> int:
    return 2 * x


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def hold_the_interpreter() -> int:
    return len(str(7 ** (7**9)))  # one C call of minutes, during which no signal handler runs


def exit_hard() -> None:
    os._exit(3)


def segfault() -> None:
    ctypes.string_at(0)


def eat_memory() -> int:
    return len(bytearray(2 * MEMORY_LIMIT))


def children_of(pid: int) -> list[int]:
    children = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        children += [int(child) for child in task.read_text().split()]
    return children


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool], limit_s: float = 5.0) -> bool:
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


async def test_a_result_comes_back_on_a_loop_and_in_a_thread(pool: WorkerPool) -> None:
    assert await pool.run(double, 21, deadline_s=10) == 42
    assert await asyncio.to_thread(pool.run_blocking, double, x=4, deadline_s=10) == 8


def test_no_process_is_started_before_the_first_call() -> None:
    before = set(children_of(os.getpid()))
    with WorkerPool(size=2):
        assert set(children_of(os.getpid())) == before


def test_functions_of_a_notebook_and_closures_are_taken(pool: WorkerPool) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("import math\nlimit = 3\ndef f(x):\n    return math.floor(x) + limit", namespace)
    assert pool.run_blocking(namespace["f"], 1.5, deadline_s=10) == 4
    assert pool.run_blocking(lambda x: x + MEMORY_LIMIT, 1, deadline_s=10) == MEMORY_LIMIT + 1


def test_a_callable_with_state_is_sent_as_it_is_now(pool: WorkerPool) -> None:
    class Adder:
        amount = 1

        def __call__(self, x: int) -> int:
            return x + self.amount

    adder = Adder()
    assert pool.run_blocking(adder, 1, deadline_s=10) == 2
    adder.amount = 10
    assert pool.run_blocking(adder, 1, deadline_s=10) == 11


def test_many_different_functions(pool: WorkerPool) -> None:
    results = [pool.run_blocking(lambda x, n=n: x + n, 1, deadline_s=10) for n in range(200)]  # type: ignore[misc]
    assert results == [1 + n for n in range(200)]


@pytest.mark.parametrize("function", [lambda: time.sleep(60), hold_the_interpreter])
async def test_a_call_past_its_deadline_is_killed_and_others_go_on(
    pool: WorkerPool, function: Callable[[], Any]
) -> None:
    await pool.run(double, 1, deadline_s=10)
    start = time.monotonic()
    hanging = asyncio.create_task(pool.run(function, deadline_s=0.5))
    assert [await pool.run(double, i, deadline_s=10) for i in range(50)] == [2 * i for i in range(50)]
    with pytest.raises(WorkerTimeout, match=r"0\.5 s"):
        await hanging
    assert 0.5 <= time.monotonic() - start < 1.0
    with pytest.raises(WorkerTimeout):
        await asyncio.to_thread(pool.run_blocking, function, deadline_s=0.2)
    assert await pool.run(double, 3, deadline_s=10) == 6


async def test_the_deadline_does_not_count_time_in_the_queue() -> None:
    with WorkerPool(size=1) as pool:
        calls = [pool.run(sleep, 1.0, deadline_s=2.9) for _ in range(3)]
        assert await asyncio.gather(*calls) == [1.0] * 3


async def test_a_late_event_loop_is_not_a_timeout(pool: WorkerPool) -> None:
    await pool.run(double, 1, deadline_s=10)
    call = asyncio.create_task(pool.run(double, 21, deadline_s=0.2))
    await asyncio.sleep(0)
    time.sleep(0.5)  # the loop is blocked past the deadline; the worker has long answered
    assert await call == 42


@pytest.mark.parametrize("function", [exit_hard, segfault])
async def test_a_crash_is_told_from_a_failure(pool: WorkerPool, function: Callable[[], None]) -> None:
    with pytest.raises(WorkerCrashed):
        await pool.run(function, deadline_s=10)
    with pytest.raises(WorkerCrashed):
        await asyncio.to_thread(pool.run_blocking, function, deadline_s=10)
    assert await pool.run(double, 3, deadline_s=10) == 6


def exit_at_first(attempts: Path, crashes: int) -> int:
    attempts.write_text(attempts.read_text() + "x" if attempts.exists() else "x")
    if len(attempts.read_text()) <= crashes:
        os._exit(1)
    return len(attempts.read_text())


async def test_a_call_whose_worker_dies_is_given_to_another(tmp_path: Path) -> None:
    with WorkerPool(size=1, tries=3) as pool:
        assert await pool.run(exit_at_first, tmp_path / "loop", 2, deadline_s=30) == 3
        assert pool.run_blocking(exit_at_first, tmp_path / "thread", 2, deadline_s=30) == 3
        with pytest.raises(WorkerCrashed):
            await pool.run(exit_at_first, tmp_path / "too often", 3, deadline_s=30)
        assert (tmp_path / "too often").read_text() == "xxx"
        assert pool.run_blocking(double, 4, deadline_s=30) == 8


def test_a_call_is_tried_at_least_once() -> None:
    with pytest.raises(ValueError, match="tries"):
        WorkerPool(size=1, tries=0)


def test_what_a_function_raises_comes_back_in_words(pool: WorkerPool) -> None:
    def fail() -> None:
        raise LookupError("no such row")

    with pytest.raises(WorkerFailed, match="LookupError: no such row") as caught:
        pool.run_blocking(fail, deadline_s=10)
    assert caught.value.type_name == "LookupError"
    assert caught.value.message == "no such row"
    assert "in fail" in caught.value.traceback
    with pytest.raises(WorkerFailed, match="SystemExit"):
        pool.run_blocking(sys.exit, 1, deadline_s=10)


def test_a_function_that_cannot_be_loaded_says_why_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    of_here = types.ModuleType("only_here")
    exec("def double(x):\n    return 2 * x", of_here.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", of_here)
    with WorkerPool(size=1) as pool:
        for _ in range(3):
            with pytest.raises(WorkerFailed, match="ModuleNotFoundError: No module named 'only_here'"):
                pool.run_blocking(of_here.double, 1, deadline_s=10)


def test_memory_is_limited(pool: WorkerPool) -> None:
    with pytest.raises(WorkerFailed) as caught:
        pool.run_blocking(eat_memory, deadline_s=10)
    assert caught.value.type_name == "MemoryError"
    assert pool.run_blocking(double, 3, deadline_s=10) == 6


def test_a_result_that_cannot_be_pickled_is_a_failure(pool: WorkerPool) -> None:
    with pytest.raises(WorkerFailed, match="pickle"):
        pool.run_blocking(threading.Lock, deadline_s=10)
    assert pool.run_blocking(double, 3, deadline_s=10) == 6


def test_large_arguments_and_results(pool: WorkerPool) -> None:
    data = os.urandom(20_000_000)
    assert pool.run_blocking(lambda x: x[::-1], data, deadline_s=30) == data[::-1]


def test_large_arguments_on_a_loop(pool: WorkerPool) -> None:
    data = os.urandom(5_000_000)
    assert asyncio.run(pool.run(lambda x: x[::-1], data, deadline_s=30)) == data[::-1]


def test_many_calls_from_several_loops_and_threads_at_once(pool: WorkerPool) -> None:
    results: dict[int, list[int]] = {}

    async def on_a_loop() -> list[int]:
        return await asyncio.gather(*(pool.run(double, i, deadline_s=30) for i in range(100)))

    def in_a_thread(number: int) -> None:
        if number % 2:
            results[number] = asyncio.run(on_a_loop())
        else:
            results[number] = [pool.run_blocking(double, i, deadline_s=30) for i in range(100)]

    threads = [threading.Thread(target=in_a_thread, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [2 * i for i in range(100)] for n in range(6)}


async def test_cancelled_calls_leave_the_pool_whole() -> None:
    with WorkerPool(size=1) as pool:
        calls = [asyncio.create_task(pool.run(sleep, 30.0, deadline_s=60)) for _ in range(5)]
        await asyncio.sleep(0.5)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert all(call.cancelled() for call in calls)
        assert await pool.run(double, 3, deadline_s=10) == 6


async def test_a_call_cancelled_while_its_worker_starts_leaves_no_worker() -> None:
    with WorkerPool(size=1) as pool:
        call = asyncio.create_task(pool.run(double, 3, deadline_s=10))
        await asyncio.sleep(0)  # it is starting the mother now, in a thread
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        mother = await pool.run(os.getppid, deadline_s=10)
        assert await asyncio.to_thread(wait_until, lambda: len([c for c in children_of(mother) if lives(c)]) == 1)


async def test_a_killed_mother_is_replaced(pool: WorkerPool) -> None:
    mother = await pool.run(os.getppid, deadline_s=10)
    in_hand = asyncio.create_task(pool.run(sleep, 30.0, deadline_s=60))
    await asyncio.sleep(0.2)
    os.kill(mother, signal.SIGKILL)
    with pytest.raises(WorkerCrashed):
        await in_hand
    assert await pool.run(double, 3, deadline_s=10) == 6
    assert await pool.run(os.getppid, deadline_s=10) != mother


def test_an_idle_worker_that_died_is_replaced() -> None:
    with WorkerPool(size=1) as pool:
        worker = pool.run_blocking(os.getpid, deadline_s=10)
        os.kill(worker, signal.SIGKILL)
        assert wait_until(lambda: not lives(worker))
        assert pool.run_blocking(os.getpid, deadline_s=10) != worker


def test_a_forked_copy_of_the_caller_leaves_the_workers_alone(pool: WorkerPool) -> None:
    worker = pool.run_blocking(os.getpid, deadline_s=10)
    child = os.fork()
    if child == 0:
        try:
            pool.run_blocking(double, 1, deadline_s=10)
        except RuntimeError:
            pool.close()  # frees what the copy holds
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert pool.run_blocking(os.getpid, deadline_s=10) == worker


def test_close_leaves_no_process(pool: WorkerPool) -> None:
    worker, mother = pool.run_blocking(lambda: (os.getpid(), os.getppid()), deadline_s=10)
    assert lives(worker) and lives(mother)
    pool.close()
    assert not lives(worker) and not lives(mother)
    with pytest.raises(RuntimeError, match="closed"):
        pool.run_blocking(double, 1, deadline_s=10)


async def test_close_ends_calls_in_hand_and_in_the_queue() -> None:
    pool = WorkerPool(size=1)
    calls = [asyncio.create_task(pool.run(sleep, 30.0, deadline_s=60)) for _ in range(2)]
    await asyncio.sleep(0.5)
    pool.close()
    first, second = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(first, WorkerCrashed)
    assert isinstance(second, RuntimeError)


def test_what_a_worker_started_ends_with_it(pool: WorkerPool, tmp_path: Path) -> None:
    def start_child_and_hang(note: str) -> None:
        child = subprocess.Popen(["sleep", "60"])
        Path(note).write_text(str(child.pid))
        time.sleep(60)

    note = tmp_path / "child"
    with pytest.raises(WorkerTimeout):
        pool.run_blocking(start_child_and_hang, str(note), deadline_s=1.0)
    child = int(note.read_text())
    assert wait_until(lambda: not lives(child))


def test_nothing_outlives_a_parent_that_was_killed() -> None:
    program = (
        "import os, time\n"
        "from rlvr.workers.pool import WorkerPool\n"
        "pool = WorkerPool(size=1)\n"
        "print(*pool.run_blocking(lambda: (os.getpid(), os.getppid()), deadline_s=30), flush=True)\n"
        "pool.run_blocking(time.sleep, 600, deadline_s=600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        worker, mother = map(int, parent.stdout.readline().split())
        assert lives(worker) and lives(mother)
        parent.kill()
        parent.wait()
    assert wait_until(lambda: not lives(worker) and not lives(mother))


def test_workers_have_one_thread_and_the_preloaded_modules() -> None:
    def look() -> tuple[bool, str, int]:
        threads = len(list(Path("/proc/self/task").iterdir()))
        return "wave" in sys.modules, os.environ["OMP_NUM_THREADS"], threads

    with WorkerPool(size=1, preload=("wave",)) as pool:
        assert pool.run_blocking(look, deadline_s=10) == (True, "1", 1)


def test_a_module_that_cannot_be_preloaded_is_named() -> None:
    with (
        WorkerPool(size=1, preload=("no_such_module_here",)) as pool,
        pytest.raises(WorkerStartError, match="No module named 'no_such_module_here'"),
    ):
        pool.run_blocking(double, 1, deadline_s=10)


def test_a_pool_needs_a_worker() -> None:
    with pytest.raises(ValueError, match="at least one worker"):
        WorkerPool(size=0)
