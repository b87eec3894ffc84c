"""The run: every peer's own training loop, side by side, with the others' generators as its teachers.

No loop waits for another. One that dies is told of, and the others go on without it; one that is finished goes on
teaching, with the weights it has. Each peer has its own checkpoints, and a resume takes up the newest of each: peers
exchange advice alone, so they need not be of one moment.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console as RichConsole

from rlvr.api import run_coroutine
from rlvr.checkpoint import Checkpoint, latest_checkpoint
from rlvr.closing import close_with
from rlvr.cluster import Roles, disconnect_ray, start_roles, start_teacher
from rlvr.console import Console
from rlvr.distill.codistill.peers import LivePeer, verdicts_of
from rlvr.distill.codistill.plan import CodistillPlan, PeerPlan, plan_file
from rlvr.distill.codistill.stage import CoDistillation
from rlvr.distill.gate import leave_records
from rlvr.distill.provenance import TeacherRecord
from rlvr.distill.tokenizers import fingerprint, refuse_mismatch
from rlvr.events import EventKind, append_event
from rlvr.placement import Share
from rlvr.prepare import Job, load_tokenizer, prepare, refuse_what_cannot_fit
from rlvr.run_folder import RunFolder, RunFolderError
from rlvr.training import RunResult, train_with


@dataclass(frozen=True, slots=True)
class CodistillResult:
    """What each peer left, and what those died of that did not come to their end."""

    folder: Path
    finished: dict[str, RunResult]
    died: dict[str, BaseException]


@dataclass(frozen=True, slots=True)
class _Learner:
    """A peer that learns, as far as it is known before anything is started."""

    name: str
    job: Job
    folder: RunFolder
    checkpoint: Checkpoint | None


def run_codistill(plan: CodistillPlan, *, resume: bool) -> CodistillResult:
    """Train all peers to their ends, or to that of the last one alive.

    Raises what the parts raise before anything is started; and what the first peer died of, if all have.
    """
    if plan_file(plan.run_dir).exists() != resume:
        raise RunFolderError(
            f"run_dir={plan.run_dir} holds no co-distillation to go on with"
            if resume
            else f"run_dir={plan.run_dir} already holds a run: go on with --resume, or name another run_dir"
        )
    records = _checked_records(plan)
    learners = [_prepared(peer, resume=resume) for peer in plan.learners]
    plan.save()
    try:
        result = run_coroutine(_Run(plan, learners).run())
    finally:
        if plan.peers[0].config.cluster.backend == "ray":
            disconnect_ray()
    for peer in plan.learners:
        if peer.name in result.finished:
            others = [record for name, record in records.items() if name != peer.name]
            policy = result.finished[peer.name].policy
            leave_records(policy, Path(peer.config.model.name), others, "codistill", plan.gate)
    return result


def _checked_records(plan: CodistillPlan) -> dict[str, TeacherRecord]:
    """Each peer as a teacher of the others, by name; licences and tokenizers checked."""
    models = list(dict.fromkeys(peer.config.model.name for peer in plan.peers))
    terms = dict(zip(models, plan.gate.check(models), strict=True))
    first, records = plan.peers[0], {}
    ours = load_tokenizer(first.config.model.name)
    for peer in plan.peers:
        model = peer.config.model.name
        theirs = load_tokenizer(model)
        refuse_mismatch(ours, theirs, f"{peer.name} (beside {first.name})")
        licences = tuple(licence.id for licence in terms[model].licences)
        records[peer.name] = TeacherRecord(model, licences, fingerprint(theirs))
    return records


def _prepared(peer: PeerPlan, *, resume: bool) -> _Learner:
    refuse_what_cannot_fit(peer.config)
    job = prepare(peer.config)
    assert peer.config.run_dir is not None
    folder = RunFolder(peer.config.run_dir)
    checkpoint = latest_checkpoint(folder.checkpoints) if resume else None
    if checkpoint is not None:
        checkpoint.teaching()  # or it says that there is nothing to go on from
    else:  # it had not come to its first checkpoint: it begins again
        shutil.rmtree(folder.path, ignore_errors=True)
    return _Learner(peer.name, job, folder, checkpoint)


class _PeerConsole(Console):
    """Plain lines, each with the peer's name before it: two live panels cannot share a terminal."""

    def __init__(self, name: str, total_steps: int) -> None:
        super().__init__(total_steps, RichConsole(highlight=False, force_terminal=False))
        self._name = name

    def _print(self, text: str) -> None:
        super()._print(f"{self._name}: {text}")


@dataclass
class _Run:
    plan: CodistillPlan
    learners: Sequence[_Learner]
    live: dict[str, LivePeer] = field(default_factory=dict)
    stages: dict[str, CoDistillation] = field(default_factory=dict)

    async def run(self) -> CodistillResult:
        async with AsyncExitStack() as parts:
            roles = await self._start(parts)
            loops = {asyncio.create_task(self._train(one, roles[one.name])): one for one in self.learners}
            parts.push_async_callback(_cancel, list(loops))
            finished: dict[str, RunResult] = {}
            died: dict[str, BaseException] = {}
            running = set(loops)
            while running:
                ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for loop in ended:
                    if (failure := loop.exception()) is None:
                        finished[loops[loop].name] = loop.result()
                    else:
                        died[loops[loop].name] = failure
                        self._bury(loops[loop], failure)
            if not finished:
                raise next(iter(died.values()))
            return CodistillResult(self.plan.run_dir, finished, died)

    async def _start(self, parts: AsyncExitStack) -> dict[str, Roles]:
        """The roles of those that learn, by name. One after the other: one process cannot load two models at once."""
        roles: dict[str, Roles] = {}
        for number, peer in enumerate(self.plan.peers):
            share = Share(number, len(self.plan.peers))
            if peer.learns:
                roles[peer.name] = await start_roles(peer.config, share)
                live = LivePeer(peer.name, roles[peer.name].pool)
                close_with(parts, peer.name, partial(_close, live, roles[peer.name]))
            else:
                live = LivePeer(peer.name, await start_teacher(peer.config, share), learns=False)
                close_with(parts, peer.name, live.pool.close)
            self.live[peer.name] = live
        return roles

    async def _train(self, one: _Learner, roles: Roles) -> RunResult:
        config = one.job.config
        with _PeerConsole(one.name, config.steps) as console:
            self.stages[one.name] = stage = self._stage(one, console)
            return await train_with(roles, one.job, one.folder, one.checkpoint, console, stage)

    def _stage(self, one: _Learner, console: Console) -> CoDistillation:
        settings, job = self.plan.settings, one.job

        def tell(text: str) -> None:
            append_event(one.folder, stage.step, EventKind.WARNING, text)
            console.note(text)

        stage = CoDistillation(
            self.live[one.name],
            [peer for name, peer in self.live.items() if name != one.name],
            settings,
            lambda group: verdicts_of(group, job.verifier(group.task), settings.tag_column),
            temperature=job.config.sampling.temperature,
            steps=job.config.steps,
            tell=tell,
        )
        return stage

    def _bury(self, one: _Learner, failure: BaseException) -> None:
        """The others ask it no more, and whoever reads them is told."""
        self.live[one.name].alive = False
        step = self.stages[one.name].step
        text = f"{one.name} died after step {step} ({type(failure).__name__}: {failure}); the others go on without it"
        append_event(RunFolder(self.plan.run_dir), step, EventKind.FAILURE, text)
        for other in self.learners:
            if other is not one and self.live[other.name].alive:
                append_event(other.folder, self.stages[other.name].step, EventKind.WARNING, text)
        print(text, flush=True)


async def _cancel(loops: Sequence[asyncio.Task[RunResult]]) -> None:
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)


async def _close(peer: LivePeer, roles: Roles) -> None:
    """What has died need not be able to close."""
    (failure,) = await asyncio.gather(roles.close(), return_exceptions=True)
    if failure is not None and peer.alive:
        raise failure
