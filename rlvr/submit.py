"""A run on a Ray cluster, through its job submission: the same config, the same command on the other side."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rlvr.api import run_coroutine, with_run_dir
from rlvr.config import Config
from rlvr.config_loading import to_yaml
from rlvr.placement import ClusterError

_AGENT_START_S = 60.0


def submit_and_follow(config: Config, address: str, python: str = sys.executable) -> bool:
    """Submit `rlvr train` with this config, print what it prints, and tell whether it succeeded.

    The config travels with the job; paths in it must mean the same on the cluster's head, where the driver runs.
    Raises ClusterError when no job server answers.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    config = _absolute(with_run_dir(config))
    with tempfile.TemporaryDirectory(prefix="rlvr-submit-") as folder:
        (Path(folder) / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
        try:
            client = JobSubmissionClient(address)
        except (ConnectionError, RuntimeError) as error:
            raise ClusterError(
                f"no Ray job server answers at {address} ({error}); start one with "
                "`ray start --head`, or name it with --address"
            ) from None
        job = _submit(
            client,
            entrypoint=f"{python} -m rlvr.cli train config.yaml cluster.address=auto",
            runtime_env={"working_dir": folder},
        )
        print(f"submitted as {job}; stop it with: ray job stop --address {address} {job}", flush=True)
        run_coroutine(_follow(client, job))
    status = client.get_job_status(job)
    if status is not JobStatus.SUCCEEDED:
        print(f"job {job} ended as {status}: {client.get_job_info(job).message}", file=sys.stderr)
    return status is JobStatus.SUCCEEDED


def _submit(client: Any, *, entrypoint: str, runtime_env: dict[str, str]) -> str:
    """A head that has just started answers before its agent can take jobs: try again for a while."""
    ends = time.monotonic() + _AGENT_START_S
    while True:
        try:
            return str(client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env))
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > ends:
                raise ClusterError(f"the cluster did not take the job: {error}") from None
            time.sleep(1)


async def _follow(client: Any, job: str) -> None:
    """Print the job's log as it grows, until the job is over."""
    async for text in client.tail_job_logs(job):
        print(text, end="", flush=True)
    while not client.get_job_status(job).is_terminal():
        await asyncio.sleep(0.5)


def _absolute(config: Config) -> Config:
    """Local paths made absolute, because the job starts in a folder of its own."""
    tree = config.model_dump(mode="json")
    tree["run_dir"] = str(Path(tree["run_dir"]).resolve())
    for section in (tree["data"], tree["evaluation"]["data"]):
        if section and Path(section["path"]).exists():
            section["path"] = str(Path(section["path"]).resolve())
    if Path(tree["model"]["name"]).exists():
        tree["model"]["name"] = str(Path(tree["model"]["name"]).resolve())
    for plugin in (*tree["reward"]["functions"], tree["env"]):
        where, separator, name = plugin["use"].rpartition(":")
        if where.endswith(".py"):
            plugin["use"] = f"{Path(where).resolve()}{separator}{name}"
    return Config.model_validate(tree)
