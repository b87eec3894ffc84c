"""Runs a function in several processes that have joined a group, and brings back what each returned."""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from rlvr.config import Config

DEADLINE_S = 120.0
# The server imports once what every process needs, and processes are forked from it.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["rlvr.learn.learner", "rlvr.learn.sharded"])


class RankFailed(RuntimeError):
    """A process of the group ended with an error, or said nothing in time."""


def run_group(count: int, job: Callable[..., Any], config: Config, *arguments: Any) -> list[Any]:
    """`job(config, *arguments)` in `count` processes, each a rank; their results in order. `job` is found by name."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"file://{Path(folder) / 'group'}"
        pipes, processes = [], []
        for rank in range(count):
            ours, theirs = _context.Pipe()
            process = _context.Process(
                target=_run, args=(theirs, address, rank, count, job, config, arguments), daemon=True
            )
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        try:
            return [_result(pipe, rank) for rank, pipe in enumerate(pipes)]
        finally:
            for process in processes:
                process.kill()
                process.join()


def _result(pipe: Connection, rank: int) -> Any:
    if not pipe.poll(DEADLINE_S):
        raise RankFailed(f"rank {rank} said nothing in {DEADLINE_S:g} s")
    try:
        failure, result = pipe.recv()
    except EOFError:
        raise RankFailed(f"rank {rank} is gone") from None
    if failure:
        raise RankFailed(f"rank {rank}:\n{failure}")
    return result


def _run(
    pipe: Connection,
    address: str,
    rank: int,
    count: int,
    job: Callable[..., Any],
    config: Config,
    arguments: tuple[Any, ...],
) -> None:
    from rlvr.learn.sharded import join

    torch.set_num_threads(1)
    try:
        join(address, rank, count, config, DEADLINE_S)
        pipe.send(("", job(config, *arguments)))
    except Exception:  # noqa: BLE001 - whatever it is, it is told in the process of the test
        pipe.send((traceback.format_exc(), None))
    pipe.recv() if pipe.poll(DEADLINE_S) else None  # stays until it is ended: the others may still be at work
