"""The stage of one peer, between its rollouts and its learner: what the others say is mixed into the advantages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from rlvr.distill.codistill.asking import Heard, hear
from rlvr.distill.codistill.imitation import Solution, imitating
from rlvr.distill.codistill.peers import LivePeer, Verdicts
from rlvr.distill.codistill.plan import CodistillSettings
from rlvr.distill.codistill.weights import Tokens, alpha, mixed, overlap_gate, rms, soft, staleness, verifier_gate
from rlvr.distill.signals import first_trained
from rlvr.evaluation import EvaluationReport
from rlvr.generate.pool import GeneratorPool
from rlvr.types import Group, Row

# What the moving average of kappa keeps of itself in a step.
_KEPT = 0.9

_KAPPA = "codistill/kappa"


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one peer may teach in a step: h by group, the rows where it is above 0, and how much better the peer is.

    `gap` is the mean difference of pass rates, None where the peer's are not known.
    """

    peer: LivePeer
    gates: Mapping[int, float]
    places: list[int]
    gap: float | None


@dataclass(frozen=True, slots=True)
class Word:
    """A peer's word on one row: how far it is followed there, and what it says of each token."""

    followed: float
    soft: Tokens


class CoDistillation:
    """`own` is who is taught here, by `others`; `steps` are those of its whole run.

    `begun` counts the steps that a resumed run has done, and `metrics` are its last. `tell` takes what a reader of the
    run should know.
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
        begun: int = 0,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        self.step = begun
        self._own = own
        self._others = others
        self._settings = settings
        self._verdicts_of = verdicts_of
        self._temperature = temperature
        self._steps = steps
        self._tell = tell
        self._silent: set[str] = set()
        self._kappa = (metrics or {}).get(_KAPPA, 1.0)
        own.rates.restore(metrics or {})

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def evaluated(self, report: EvaluationReport) -> tuple[dict[str, float], str | None]:
        """A peer that gets worse goes on: gates decide what it may still teach."""
        return {}, None

    async def teach(
        self, groups: Sequence[Group], rows: Sequence[Row], students: GeneratorPool
    ) -> tuple[list[Row], dict[str, float]]:
        """The rows with the peers' word in their advantages, and metrics. Rows that nobody teaches stay as they are.

        Behind them stand right answers of peers that think too differently to teach in any other way.
        """
        s = self._settings
        strength = s.strength(self.step, self._steps)
        self.step += 1
        verdicts = {group.id: self._verdicts_of(group) for group in groups}
        self._own.note(groups, verdicts)
        open_rows = [place for place, row in enumerate(rows) if strength > 0 and _may_learn(row, verdicts)]
        lessons = [self._lesson(peer, verdicts, rows, open_rows) for peer in self._others if peer.alive]
        asked = {lesson.peer: lesson.places for lesson in lessons}
        heard = await hear(rows, asked, students, self._temperature, s.overlap_k, s.patience_s)
        self._tell_failures(heard)
        metrics = {"codistill/schedule": strength} | self._own.rates.metrics() | self._unique(verdicts)
        words: dict[int, list[Word]] = {}
        solutions: dict[int, Solution] = {}
        for lesson in lessons:
            trust, of_peer = self._trust(lesson, heard)
            metrics |= of_peer
            for place, followed in self._followed(lesson, heard, strength * trust).items():
                told = soft(heard.peers[lesson.peer.name].scores[place].logprobs, heard.logprobs(place), s.clip)
                words.setdefault(place, []).append(Word(followed, np.where(heard.trained(place), told, 0.0)))
            if strength > 0 and heard.differs(lesson.peer.name, s.overlap_low):
                solutions |= _solutions(lesson, groups)
        self._measure_kappa(rows, words)
        taught = [_taught(row, words[place], self._kappa) if place in words else row for place, row in enumerate(rows)]
        metrics |= {_KAPPA: self._kappa, "codistill/imitated": float(len(solutions))} | _shares(rows, words)
        return taught + imitating(groups, solutions, strength, sum(sum(row.trained) for row in rows)), metrics

    # ---------------------------------------------------------------- the factors

    def _lesson(
        self, peer: LivePeer, verdicts: Mapping[int, Verdicts], rows: Sequence[Row], open_rows: Sequence[int]
    ) -> Lesson:
        gates = {group: self._verifier_gate(peer, of_group) for group, of_group in verdicts.items()}
        gaps = [gap for of_group in verdicts.values() if (gap := self._gap(peer, of_group)) is not None]
        places = [place for place in open_rows if gates[rows[place].group_id] > 0]
        return Lesson(peer, gates, places, fmean(gaps) if gaps else None)

    def _verifier_gate(self, peer: LivePeer, group: Verdicts) -> float:
        if not peer.learns:
            return 1.0
        if group.rate is None:
            return 0.0
        averages = self._own.rates.by_tag.get(group.tag), peer.rates.by_tag.get(group.tag)
        return verifier_gate(group.rate, peer.rates.by_prompt.get(group.task), *averages, self._settings.delta)

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
        ages = [lesson.peer.age(of_row.version) for of_row in said.scores.values()]
        measured = {
            "overlap": share,
            "overlap_gate": o,
            "verifier_gate": fmean(lesson.gates.values()) if lesson.gates else None,
            "staleness_factor": fmean(map(self._staleness, ages)) if ages else None,
            "age": fmean(ages) if ages else None,
            "kl": kl,
            "pass_rate_gap": lesson.gap,
            "dropped_share": said.dropped / said.asked if said.asked else 0.0,
        }
        return o, {f"codistill/{name}/{what}": value for what, value in measured.items() if value is not None}

    def _followed(self, lesson: Lesson, heard: Heard, scale: float) -> dict[int, float]:
        """a_j by row, where it is above 0."""
        said = heard.peers[lesson.peer.name].scores
        of_rows = {
            place: scale
            * lesson.gates[heard.rows[place].group_id]
            * self._staleness(lesson.peer.age(said[place].version))
            for place in lesson.places
            if place in said
        }
        return {place: followed for place, followed in of_rows.items() if followed > 0}

    def _staleness(self, age: float) -> float:
        return staleness(age, self._settings.half_life, self._settings.highest_age)

    def _measure_kappa(self, rows: Sequence[Row], words: Mapping[int, Sequence[Word]]) -> None:
        if self._settings.kappa != "rms":
            self._kappa = self._settings.kappa
            return
        hard = rms(np.concatenate([_hard(row)[np.asarray(row.trained)] for row in rows])) if rows else 0.0
        told = rms(np.concatenate([word.soft for of_row in words.values() for word in of_row])) if words else 0.0
        if hard > 0 and told > 0:
            self._kappa = _KEPT * self._kappa + (1 - _KEPT) * hard / told

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
        for name, said in heard.peers.items():
            if said.failure is not None and name not in self._silent:
                self._silent.add(name)
                failure = said.failure
                self._tell(f"{name} did not say what it was asked ({type(failure).__name__}: {failure}); without it")


def _may_learn(row: Row, verdicts: Mapping[int, Verdicts]) -> bool:
    """A right answer needs nobody's correction."""
    return verdicts[row.group_id].right[row.trajectory] is not True


def _solutions(lesson: Lesson, groups: Sequence[Group]) -> dict[int, Solution]:
    """The peer's right answers to what it is better at, by group."""
    found = {group.id: lesson.peer.solutions.get(group.task.id) for group in groups if lesson.gates[group.id] > 0}
    return {group: solution for group, solution in found.items() if solution is not None}


def _hard(row: Row) -> Tokens:
    assert row.rl is not None, "rows of a policy's own answers have an rl stream"
    return np.asarray(row.rl.advantages)


def _taught(row: Row, words: Sequence[Word], kappa: float) -> Row:
    assert row.rl is not None
    first = first_trained(row)
    before, hard = row.rl.advantages[:first], _hard(row)[first:]
    advantages: list[float] = mixed(hard, [w.soft for w in words], [w.followed for w in words], kappa).tolist()
    return replace(row, rl=replace(row.rl, advantages=[*before, *advantages]))


def _shares(rows: Sequence[Row], words: Mapping[int, Sequence[Word]]) -> dict[str, float]:
    """Means over the step: alpha over its trained tokens, and the share of its rows that a peer taught."""
    tokens = [sum(row.trained) for row in rows]
    alphas = [alpha([word.followed for word in words.get(place, ())]) for place in range(len(rows))]
    whole = sum(tokens)
    return {
        "codistill/alpha": sum(n * a for n, a in zip(tokens, alphas, strict=True)) / whole if whole else 0.0,
        "codistill/taught_share": len(words) / len(rows) if rows else 0.0,
    }
