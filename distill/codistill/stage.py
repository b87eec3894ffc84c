"""The stage of one peer, between its rollouts and its learner, where the others' word joins the verifier's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from rlvr.checkpoint import WriteState
from rlvr.distill.codistill.asking import Heard, hear
from rlvr.distill.codistill.imitation import Solution, chosen, imitating
from rlvr.distill.codistill.mixing import Word, hard, shares, softs, with_advantages, with_divergences
from rlvr.distill.codistill.peers import LivePeer, PassRates, Verdicts
from rlvr.distill.codistill.plan import CodistillSettings, PeerSignal
from rlvr.distill.codistill.weights import is_ahead, overlap_gate, rms, staleness, verifier_gate
from rlvr.distill.state_file import read_state, writing
from rlvr.evaluation import EvaluationReport
from rlvr.generate.pool import GeneratorPool
from rlvr.types import Group, Row, TokenScores
from rlvr.weights.update import WeightUpdate

# What the moving average of kappa keeps of itself in a step.
_KEPT = 0.9

_FILE = "stage.json"


@dataclass(frozen=True, slots=True)
class StageState:
    """What a peer's checkpoint keeps of its stage. The others' is in theirs."""

    step: int
    kappa: float
    rates: PassRates
    solutions: OrderedDict[str, Solution]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one peer may teach in a step: h by group, the rows where it is above 0, and how much better the peer is.

    `gap` is the mean difference of pass rates, None where the peer's are not known.
    """

    peer: LivePeer
    gates: Mapping[int, float]
    places: list[int]
    gap: float | None


class CoDistillation:
    """`own` is who is taught here, by `others`; `steps` are those of its whole run.

    `tell` takes what a reader of the run should know.
    """

    def __init__(
        self,
        own: LivePeer,
        others: Sequence[LivePeer],
        settings: CodistillSettings,
        verdicts_of: Callable[[Group], Verdicts],
        *,
        temperature: float,
        steps: int,
        tell: Callable[[str], None],
    ) -> None:
        self.step = 0
        self._own = own
        self._others = others
        self._settings = settings
        self._verdicts_of = verdicts_of
        self._temperature = temperature
        self._steps = steps
        self._tell = tell
        self._silent: set[str] = set()
        self._kappa = 1.0 if settings.kappa == "rms" else settings.kappa

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def published(self, update: WeightUpdate) -> None: ...

    def progress(self) -> int:
        """The step: nothing else moves, and no peer is waited for beyond `patience_s`."""
        return self.step

    def state(self) -> WriteState:
        own = self._own
        return writing(_FILE, StageState(self.step, self._kappa, own.rates.copy(), own.solutions.copy()))

    async def load(self, folder: Path) -> None:
        saved = read_state(folder / _FILE, StageState)
        self.step, self._own.rates, self._own.solutions = saved.step, saved.rates, saved.solutions
        if self._settings.kappa == "rms":
            self._kappa = saved.kappa

    def evaluated(self, report: EvaluationReport) -> tuple[dict[str, float], str | None]:
        """A peer that gets worse goes on: gates decide what it may still teach."""
        return {}, None

    async def teach(
        self, groups: Sequence[Group], rows: Sequence[Row], students: GeneratorPool
    ) -> tuple[list[Row], dict[str, float]]:
        """The rows with the peers' word beside the verifier's, and metrics. Rows that nobody teaches stay as they are.

        Behind them stand right answers of peers that think too differently to teach in any other way.
        """
        s = self._settings
        strength = s.strength(self.step, self._steps)
        self.step += 1
        verdicts = {group.id: self._verdicts_of(group) for group in groups}
        self._own.note(groups, verdicts)
        lessons = [self._lesson(peer, verdicts, rows) for peer in self._others if peer.alive]
        asked = {lesson.peer: lesson.places if strength > 0 else [] for lesson in lessons}
        heard = await hear(rows, asked, students, self._temperature, s.signal, s.k, s.patience_s)
        self._tell_failures(heard)
        metrics = {"codistill/schedule": strength} | self._own.rates.metrics() | self._unique(verdicts)
        words: dict[int, list[Word]] = {}
        solutions: dict[int, Solution] = {}
        for lesson in lessons:
            trust, of_peer = self._trust(lesson, heard)
            metrics |= of_peer
            for place, word in self._words(lesson, heard, strength * trust).items():
                words.setdefault(place, []).append(word)
            if strength > 0 and heard.differs(lesson.peer.name, s.overlap_low):
                solutions |= _solutions(lesson, verdicts)
        taught = self._taught(rows, words)
        metrics |= {"codistill/kappa": self._kappa, "codistill/imitated": float(len(solutions))} | shares(rows, words)
        return taught + imitating(groups, solutions, strength, sum(sum(row.trained) for row in rows)), metrics

    # ---------------------------------------------------------------- the factors

    def _lesson(self, peer: LivePeer, verdicts: Mapping[int, Verdicts], rows: Sequence[Row]) -> Lesson:
        gates = {group: self._verifier_gate(peer, of_group) for group, of_group in verdicts.items()}
        gaps = [gap for of_group in verdicts.values() if (gap := self._gap(peer, of_group)) is not None]
        places = [
            place for place, row in enumerate(rows) if gates[row.group_id] > 0 and self._may_teach(peer, row, verdicts)
        ]
        return Lesson(peer, gates, places, fmean(gaps) if gaps else None)

    def _verifier_gate(self, peer: LivePeer, group: Verdicts) -> float:
        if not peer.learns:
            return 1.0
        if group.rate is None:
            return 0.0
        there = peer.rates.by_prompt.get(group.task)
        return verifier_gate(group.rate, there, self._is_ahead(peer, group.tag), self._settings.delta)

    def _is_ahead(self, peer: LivePeer, tag: str) -> bool:
        return is_ahead(self._own.rates.by_tag.get(tag), peer.rates.by_tag.get(tag), self._settings.delta)

    def _may_teach(self, peer: LivePeer, row: Row, verdicts: Mapping[int, Verdicts]) -> bool:
        """On right answers a peer is heard only where it is ahead at such prompts.

        There it must be: from wrong ones alone a student learns to do the other thing everywhere.
        """
        group = verdicts[row.group_id]
        return group.right[row.trajectory] is not True or not peer.learns or self._is_ahead(peer, group.tag)

    def _gap(self, peer: LivePeer, group: Verdicts) -> float | None:
        """By how much the peer's pass rate is higher, at this prompt or at those like it."""
        there = peer.rates.by_prompt.get(group.task)
        if group.rate is None or (there is None and group.tag not in peer.rates.by_tag):
            return None
        if there is not None:
            return there - group.rate
        return peer.rates.by_tag[group.tag] - self._own.rates.by_tag[group.tag]

    def _trust(self, lesson: Lesson, heard: Heard) -> tuple[float, dict[str, float]]:
        """o, and what is measured of the peer."""
        s, name = self._settings, lesson.peer.name
        share, kl, said = heard.overlap(name), heard.kl(name), heard.peers[name]
        gap = float("inf") if lesson.gap is None else lesson.gap
        o = 0.0 if share is None else overlap_gate(share, s.overlap_low, s.overlap_high, gap, s.delta)
        ages = [lesson.peer.age(version) for version in said.versions()]
        measured = {
            "overlap": share,
            "overlap_gate": o,
            "verifier_gate": fmean(lesson.gates.values()) if lesson.gates else None,
            "staleness_factor": fmean(map(self._staleness, ages)) if ages else None,
            "age": fmean(ages) if ages else None,
            "kl": kl,
            "pass_rate_gap": lesson.gap,
            "dropped_share": 1 - said.answered / said.asked if said.asked else 0.0,
        }
        return o, {f"codistill/{name}/{what}": value for what, value in measured.items() if value is not None}

    def _words(self, lesson: Lesson, heard: Heard, scale: float) -> dict[int, Word]:
        """By row, where a_j is above 0."""
        said = heard.peers[lesson.peer.name].taught
        words = {
            place: Word(scale * self._followed(lesson, heard.rows[place], scores), scores)
            for place, scores in said.items()
        }
        return {place: word for place, word in words.items() if word.followed > 0}

    def _followed(self, lesson: Lesson, row: Row, scores: TokenScores) -> float:
        """h_j d_j"""
        return lesson.gates[row.group_id] * self._staleness(lesson.peer.age(scores.version))

    def _staleness(self, age: float) -> float:
        return staleness(age, self._settings.half_life, self._settings.highest_age)

    # ---------------------------------------------------------------- what is taught

    def _taught(self, rows: Sequence[Row], words: Mapping[int, Sequence[Word]]) -> list[Row]:
        s = self._settings
        if s.signal is not PeerSignal.SAMPLED:
            return with_divergences(rows, words, s.signal, self._kappa)
        self._measure_kappa(rows, words)
        return [
            with_advantages(row, words[place], s.clip, self._kappa) if place in words else row
            for place, row in enumerate(rows)
        ]

    def _measure_kappa(self, rows: Sequence[Row], words: Mapping[int, Sequence[Word]]) -> None:
        if self._settings.kappa != "rms":
            return
        verifiers = rms(np.concatenate([hard(row)[np.asarray(row.trained)] for row in rows])) if rows else 0.0
        told = [told for place, of_row in words.items() for told in softs(rows[place], of_row, self._settings.clip)]
        peers = rms(np.concatenate(told)) if told else 0.0
        if verifiers > 0 and peers > 0:
            self._kappa = _KEPT * self._kappa + (1 - _KEPT) * verifiers / peers

    # ---------------------------------------------------------------- what is told

    def _unique(self, verdicts: Mapping[int, Verdicts]) -> dict[str, float]:
        """Share of the prompts that others rolled out too which this peer solves and they do not."""
        alone = []
        for group in verdicts.values():
            theirs = [rate for peer in self._others if (rate := peer.rates.by_prompt.get(group.task)) is not None]
            if theirs and group.rate is not None:
                alone.append(float(group.rate > 0 and max(theirs) == 0))
        return {"codistill/unique_solve_share": fmean(alone)} if alone else {}

    def _tell_failures(self, heard: Heard) -> None:
        """Once for each peer: it may be dying, which its own loop finds out, or refuse what it is asked."""
        for name, said in {"its own generators": heard.own, **heard.peers}.items():
            if said.failure is not None and name not in self._silent:
                self._silent.add(name)
                failure = said.failure
                self._tell(f"{name} did not say what it was asked ({type(failure).__name__}: {failure}); without it")


def _solutions(lesson: Lesson, verdicts: Mapping[int, Verdicts]) -> dict[int, Solution]:
    """The peer's right answers to what it is better at, by group."""
    better = ((group, v.task, v.tag) for group, v in verdicts.items() if lesson.gates[group] > 0)
    return chosen(better, lesson.peer.solutions)
