"""One peer's stage with the others played by scorers that say what a test wants them to."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from rlvr.config_loading import load_config
from rlvr.distill.codistill.peers import LivePeer, Verdicts, verdicts_of
from rlvr.distill.codistill.plan import CodistillSettings, PeerSignal
from rlvr.distill.codistill.stage import CoDistillation
from rlvr.learn.learner import Learner
from rlvr.types import (
    Divergence,
    FinishReason,
    Group,
    RLStream,
    Row,
    Score,
    ScoreRequest,
    Task,
    TokenScores,
    Trajectory,
)

SETTINGS = CodistillSettings(burn_in=0, ramp=0, fade=0)  # s = 0.5 throughout
OWN = (-1.0, -2.0)  # what the sampler said of each answer's two tokens


@dataclass
class Says:
    """Every token has this log-probability, and these ids are likeliest; in place of a pool of generators."""

    logprob: float = -0.5
    likeliest: tuple[int, ...] = tuple(range(16))
    each: float = -3.0  # log-probability of each id that is asked for
    version: int = 0
    said: int = 0  # the version that it scores with
    seconds: float = 0.0
    failure: Exception | None = None
    asked: list[ScoreRequest] = field(default_factory=list)

    async def score(self, request: ScoreRequest) -> TokenScores:
        self.asked.append(request)
        await asyncio.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure
        ids = np.tile(np.array(self.likeliest[: request.top_k], np.int32), (request.places, 1))
        if request.ids is not None:
            ids = request.ids
        logprobs = np.full(request.places, self.logprob, np.float32)
        return TokenScores(logprobs, ids, np.full(ids.shape, self.each, np.float32), self.said)


def peer(name: str, says: Says, *, learns: bool = True) -> LivePeer:
    return LivePeer(name, says, learns=learns)  # type: ignore[arg-type]


def group(number: int, *rights: bool, tag: str = "math") -> Group:
    task = Task(f"task-{number}", (), (1, 2), None, {"tag": tag})
    trajectories = [
        Trajectory((1, 2), [3, 4], [True, True], [*OWN], [0, 0], FinishReason.STOP, "", Score(v, parts={"judge": v}))
        for v in map(float, rights)
    ]
    return Group(number, task, trajectories)


def rows_of(groups: list[Group]) -> list[Row]:
    """With advantages `score - mean of the group`."""
    rows = []
    for one in groups:
        mean = sum(one.values()) / len(one.values())
        for place, value in enumerate(one.values()):
            stream = RLStream([0, 0, value - mean, value - mean], [0, 0, *OWN], [0] * 4)
            rows.append(Row(one.id, [1, 2, 3, 4], [False, False, True, True], stream, trajectory=place))
    return rows


def stage(own: LivePeer, *others: LivePeer, settings: CodistillSettings = SETTINGS, told: list[str] | None = None):  # type: ignore[no-untyped-def]
    def tell(text: str) -> None:
        assert told is not None, text
        told.append(text)

    return CoDistillation(
        own, others, settings, lambda one: verdicts_of(one, "judge", "tag"), temperature=1.0, steps=100, tell=tell
    )


def knows(one: LivePeer, number: int, rate: float, tag: str = "math") -> None:
    """The peer rolled out a group's task, with this pass rate."""
    one.rates.add([Verdicts(f"task-{number}", tag, tuple([True] * round(4 * rate) + [False] * round(4 - 4 * rate)))])


def advantages(row: Row) -> list[float]:
    assert row.rl is not None
    return row.rl.advantages


async def test_a_peer_that_solves_a_prompt_teaches_the_wrong_answers_to_it() -> None:
    mine, says = Says(), Says(logprob=-0.5)
    own, other = peer("own", mine), peer("other", says)
    knows(other, 0, 1.0)
    other.rates.by_tag["math"] = 0.5  # over all it is as good
    groups = [group(0, True, False)]
    rows = rows_of(groups)
    taught, metrics = await stage(own, other).teach(groups, rows, own.pool)
    assert taught[0] is rows[0], "the right answer needs nobody's correction"
    # A = 0.5 * hard + 0.5 * (l_j - l_i), hard = -0.5, of the two tokens trained.
    assert advantages(taught[1]) == pytest.approx([0, 0, -0.25 + 0.5 * 0.5, -0.25 + 0.5 * 1.5])
    expected = {
        "codistill/schedule": 0.5,
        "codistill/alpha": 0.25,  # half of the tokens
        "codistill/taught_share": 0.5,
        "codistill/kappa": 1.0,
        "codistill/imitated": 0.0,
        "codistill/pass_rate/math": 0.5,
        "codistill/unique_solve_share": 0.0,
        "codistill/other/overlap": 1.0,
        "codistill/other/overlap_gate": 1.0,
        "codistill/other/verifier_gate": 1.0,
        "codistill/other/staleness_factor": 1.0,
        "codistill/other/age": 0.0,
        "codistill/other/kl": -1.0,  # mean of -1 and -2, less -0.5
        "codistill/other/pass_rate_gap": 0.5,
        "codistill/other/dropped_share": 0.0,
    }
    assert metrics == pytest.approx(expected)


async def test_a_peer_that_is_ahead_at_such_prompts_teaches_right_answers_too() -> None:
    own, other = peer("own", Says()), peer("other", Says(logprob=-0.5))
    knows(other, 0, 1.0)
    knows(other, 1, 0.75)
    groups = [group(0, True, False), group(1, True, True)]
    taught, _ = await stage(own, other).teach(groups, rows_of(groups), own.pool)
    assert advantages(taught[0])[2:] == pytest.approx([0.25 + 0.5 * 0.5, 0.25 + 0.5 * 1.5])
    assert advantages(taught[1])[2:] == pytest.approx([-0.25 + 0.5 * 0.5, -0.25 + 0.5 * 1.5])
    assert [advantages(row)[2:] for row in taught[2:]] == [[0.0, 0.0]] * 2, "here it is behind"


DENSE = CodistillSettings(signal="student_topk", burn_in=0, ramp=0, fade=0, k=4)


async def test_by_student_topk_a_peer_is_asked_at_the_students_ids() -> None:
    mine, says = Says(likeliest=(9, 8, 7, 6)), Says(likeliest=(6, 7, 8, 9))
    own, other = peer("own", mine), peer("other", says)
    knows(other, 0, 1.0)
    other.rates.by_tag["math"] = 1 / 3
    groups = [group(0, True, False, False)]
    rows = rows_of(groups)
    taught, metrics = await stage(own, other, settings=DENSE).teach(groups, rows, own.pool)
    assert taught[0] is rows[0]
    assert metrics["codistill/alpha"] == pytest.approx(0.5 * 2 / 3) and metrics["codistill/kappa"] == 1
    assert len(mine.asked) == 3, "each row once, whoever wants to know"
    for row, hard in zip(taught[1:], (-1 / 3, -1 / 3), strict=True):
        assert advantages(row)[2:] == pytest.approx([0.5 * hard] * 2)
        assert row.kl is not None
        assert row.kl.ids.tolist() == [[-1] * 4] * 2 + [[9, 8, 7, 6]] * 2
        assert row.kl.logprobs[2:] == pytest.approx(-3.0)
        # The learner divides by 4, the tokens with a divergence: each counts 0.5 of what one of the 6 tokens does.
        assert [weight / 4 for weight in row.kl.weights] == pytest.approx([0, 0, 0.5 / 6, 0.5 / 6])


async def test_by_peer_topk_what_the_peer_finds_likeliest_is_taught() -> None:
    mine, says = Says(likeliest=(9, 8, 7, 6)), Says(likeliest=(6, 7, 8, 9))
    own, other = peer("own", mine), peer("other", says)
    knows(other, 0, 1.0)
    other.rates.by_tag["math"] = 0.5
    groups = [group(0, True, False)]
    settings = DENSE.model_copy(update={"signal": PeerSignal.PEER_TOPK})
    rows = rows_of(groups)
    taught, _ = await stage(own, other, settings=settings).teach(groups, rows, own.pool)
    assert taught[0] is rows[0] and len(says.asked) == 2
    row = taught[1]
    assert advantages(row)[2:] == pytest.approx([-0.25, -0.25])
    assert row.kl is not None and row.kl.divergence == Divergence.forward_kl()
    assert row.kl.ids[2:].tolist() == [[6, 7, 8, 9]] * 2 and row.kl.logprobs[2:] == pytest.approx(-3.0)
    assert [weight / 2 for weight in row.kl.weights] == pytest.approx([0, 0, 0.5 / 4, 0.5 / 4])


async def test_several_peers_by_student_topk() -> None:
    own, one, two = peer("own", Says()), peer("one", Says(each=-2.0)), peer("two", Says(each=-4.0))
    for knowing in (one, two):
        knows(knowing, 0, 1.0)
    groups = [group(0, False, False)]
    taught, _ = await stage(own, one, two, settings=DENSE).teach(groups, rows_of(groups), own.pool)
    assert taught[0].kl is not None
    tails = 1 - 4 * math.exp(-2), 1 - 4 * math.exp(-4)
    whole = 4 * math.exp(-3) + math.sqrt(tails[0] * tails[1])
    assert taught[0].kl.logprobs[2:] == pytest.approx(-3 - math.log(whole), rel=1e-5)


async def test_what_is_not_said_in_time_at_the_students_ids_is_dropped_too() -> None:
    own, late = peer("own", Says(seconds=30)), peer("late", Says())
    knows(late, 0, 1.0)
    groups = [group(0, False, False)]
    rows = rows_of(groups)
    settings = DENSE.model_copy(update={"patience_s": 0.05})
    taught, metrics = await asyncio.wait_for(stage(own, late, settings=settings).teach(groups, rows, own.pool), 5)
    assert all(after is before for after, before in zip(taught, rows, strict=True))
    assert metrics["codistill/late/dropped_share"] == 0.5, "it answered about watched rows alone"


async def test_what_the_students_own_generators_refuse_is_told_as_theirs() -> None:
    own, other = peer("own", Says(failure=RuntimeError("no memory"))), peer("other", Says())
    knows(other, 0, 1.0)
    groups, told = [group(0, False, False)], list[str]()
    await stage(own, other, settings=DENSE, told=told).teach(groups, rows_of(groups), own.pool)
    assert len(told) == 1 and told[0].startswith("its own generators did not say") and "no memory" in told[0]


async def test_every_factor_counts() -> None:
    says = Says(likeliest=tuple(range(4, 20)), version=20, said=12)  # 12 of 16 ids in common, 8 steps old
    own, other = peer("own", Says()), peer("other", says)
    knows(other, 0, 1.0)
    groups = [group(0, False, False)]
    taught, metrics = await stage(own, other).teach(groups, rows_of(groups), own.pool)
    o, d = (0.75 - 0.60) / 0.25, 0.5
    assert metrics["codistill/alpha"] == pytest.approx(0.5 * o * d)
    assert advantages(taught[0])[2:] == pytest.approx([0.5 * o * d * 0.5, 0.5 * o * d * 1.5])
    says.said = -13  # 33 steps old
    _, metrics = await stage(own, other).teach(groups, rows_of(groups), own.pool)
    assert metrics["codistill/alpha"] == 0 and metrics["codistill/other/staleness_factor"] == 0


async def test_peers_that_are_sure_of_the_same_mistake_do_not_confirm_each_other(tmp_path: Path) -> None:
    """Both wrong at the prompt, the other surer still: no token becomes likelier. One that solves it does move."""
    config = load_config([], [f"data={tmp_path}", "model=tiny", "learner.warmup_steps=0", "learner.learning_rate=1e-3"])
    own, other = peer("own", Says()), peer("other", Says(logprob=-0.01))
    knows(other, 0, 0.0)
    other.rates.by_tag["math"] = 1.0  # which otherwise is better at such prompts
    groups = [group(0, False, False)]
    rows = rows_of(groups)
    learner = Learner(config)
    learner.start()
    before = learner.logprobs(rows)
    for row, logprobs in zip(rows, before, strict=True):
        assert row.rl is not None
        row.rl.sampler_logprobs = [0, 0, *logprobs[2:]]
    taught, _ = await stage(own, other).teach(groups, rows, own.pool)
    learner.train(taught)
    assert learner.logprobs(rows) == before
    other.rates.by_prompt["task-0"] = 0.25
    taught, _ = await stage(own, other).teach(groups, rows, own.pool)
    learner.train(taught)
    assert sum(learner.logprobs(rows)[0]) > sum(before[0])


async def test_without_the_prompt_the_averages_of_its_tag_decide() -> None:
    own, better, worse = peer("own", Says()), peer("better", Says()), peer("worse", Says())
    knows(own, 7, 0.5, tag="code")
    knows(better, 8, 1.0, tag="code")
    knows(worse, 8, 0.25, tag="code")
    groups = [group(0, True, False, tag="code"), group(1, True, False, tag="math")]
    taught, metrics = await stage(own, better, worse).teach(groups, rows_of(groups), own.pool)
    assert [metrics[f"codistill/{name}/verifier_gate"] for name in ("better", "worse")] == [0.5, 0.0]
    assert [advantages(row)[2] for row in taught] == pytest.approx([0.5, -0.25 + 0.25, 0.5, -0.5])


async def test_a_peer_that_does_not_learn_is_a_teacher_of_all_answers() -> None:
    own, teacher = peer("own", Says()), peer("teacher", Says(logprob=-0.9), learns=False)
    groups = [group(0, True, False)]
    taught, metrics = await stage(own, teacher).teach(groups, rows_of(groups), own.pool)
    assert [advantages(row)[2] for row in taught] == pytest.approx([0.25 + 0.05, -0.25 + 0.05])
    assert "codistill/teacher/pass_rate_gap" not in metrics


async def test_what_is_not_said_in_time_is_dropped_and_counted() -> None:
    slow, broken = Says(seconds=30), Says(failure=RuntimeError("no memory"))
    own, late, dying = peer("own", Says()), peer("late", slow), peer("dying", broken)
    for one in (late, dying):
        knows(one, 0, 1.0)
    groups, told = [group(0, False, False)], list[str]()
    settings = SETTINGS.model_copy(update={"patience_s": 0.05})
    one = stage(own, late, dying, settings=settings, told=told)
    rows = rows_of(groups)
    for _ in range(2):
        taught, metrics = await asyncio.wait_for(one.teach(groups, rows, own.pool), 5)
        assert all(after is before for after, before in zip(taught, rows, strict=True))
        assert metrics["codistill/late/dropped_share"] == metrics["codistill/dying/dropped_share"] == 1.0
    assert len(told) == 1 and "dying" in told[0] and "no memory" in told[0]


async def test_a_dead_peer_is_not_asked() -> None:
    says = Says()
    own, other = peer("own", Says()), peer("other", says)
    knows(other, 0, 1.0)
    other.alive = False
    groups = [group(0, True, False)]
    rows = rows_of(groups)
    taught, metrics = await stage(own, other).teach(groups, rows, own.pool)
    assert all(after is before for after, before in zip(taught, rows, strict=True))
    assert says.asked == [] and metrics["codistill/alpha"] == 0


async def test_at_weight_0_rows_stay_the_same_and_are_watched_all_the_same() -> None:
    own, other = peer("own", Says()), peer("other", Says())
    knows(other, 0, 1.0)
    groups = [group(0, True, False)]
    rows = rows_of(groups)
    one = stage(own, other, settings=CodistillSettings(alpha_max=0))
    for _ in range(100):
        taught, metrics = await one.teach(groups, rows, own.pool)
        assert all(after is before for after, before in zip(taught, rows, strict=True))
    assert metrics["codistill/other/kl"] == pytest.approx(-1.0)


async def test_kappa_makes_the_peers_word_as_large_as_the_verifiers() -> None:
    own, other = peer("own", Says()), peer("other", Says())
    knows(other, 0, 1.0)
    groups = [group(0, True, False)]
    settings = SETTINGS.model_copy(update={"kappa": "rms"})
    one = stage(own, other, settings=settings)
    ratio = 0.5 / math.sqrt((0.5**2 + 1.5**2) / 2)
    _, metrics = await one.teach(groups, rows_of(groups), own.pool)
    assert metrics["codistill/kappa"] == pytest.approx(0.9 + 0.1 * ratio)
    for _ in range(80):
        _, metrics = await one.teach(groups, rows_of(groups), own.pool)
    assert metrics["codistill/kappa"] == pytest.approx(ratio, rel=1e-2)


async def test_a_resumed_stage_stands_where_it_was(tmp_path: Path) -> None:
    """Its step, kappa, pass rates and right answers: what it teaches, and what others see of it."""
    settings = CodistillSettings(kappa="rms")

    def fresh() -> tuple[LivePeer, CoDistillation]:
        own, other = peer("own", Says()), peer("other", Says())
        knows(other, 0, 1.0)
        return own, stage(own, other, settings=settings)

    groups = [group(0, True, False), group(1, False, False), group(2, True, True, tag="code")]
    own, whole = fresh()
    for _ in range(10):
        await whole.teach(groups, rows_of(groups), own.pool)
    write = whole.state()
    then = [group(0, True, True), group(1, False, True)]
    of_whole = await whole.teach(then, rows_of(then), own.pool)
    write(tmp_path)
    goes_on, resumed = fresh()
    await resumed.load(tmp_path)
    of_resumed = await resumed.teach(then, rows_of(then), goes_on.pool)
    assert of_resumed == of_whole and resumed.step == 11
    assert of_whole[1]["codistill/kappa"] not in (0.0, 1.0)
    assert goes_on.rates == own.rates and list(goes_on.rates.by_prompt) == list(own.rates.by_prompt)
    assert goes_on.solutions == own.solutions and len(own.solutions) == 3


async def test_prompts_that_one_peer_alone_solves_are_counted() -> None:
    own, other = peer("own", Says()), peer("other", Says())
    knows(other, 0, 0.0)
    knows(other, 1, 0.5)
    groups = [group(0, True, False), group(1, True, False), group(2, True, True)]
    _, metrics = await stage(own, other).teach(groups, rows_of(groups), own.pool)
    assert metrics["codistill/unique_solve_share"] == 0.5  # of tasks 0 and 1, which both rolled out


async def test_of_a_peer_that_thinks_too_differently_its_right_answers_are_learned() -> None:
    own, other = peer("own", Says()), peer("other", Says(likeliest=tuple(range(100, 116))))
    solved = group(5, False, True, True)
    solved.task = group(0).task
    solved.trajectories[1].token_ids, solved.trajectories[1].sampled = [7, 8, 9], [True, False, True]
    solved.trajectories[2].token_ids, solved.trajectories[2].sampled = [7, 8, 9, 9], [True] * 4
    other.note([solved], {5: verdicts_of(solved, "judge", "tag")})
    groups = [group(0, False, False), group(1, False, False)]
    rows = rows_of(groups)
    taught, metrics = await stage(own, other).teach(groups, rows, own.pool)
    assert metrics["codistill/other/overlap"] == 0 and metrics["codistill/imitated"] == 1
    assert all(after is before for after, before in zip(taught, rows, strict=False))
    (imitated,) = taught[4:]
    assert (imitated.group_id, imitated.token_ids, imitated.rl) == (0, [1, 2, 7, 8, 9], None)
    assert imitated.trained == [False, False, True, False, True]
    # The learner divides by 2, the tokens with a cross-entropy; s = 0.5 of what one of the 8 other tokens counts.
    assert imitated.ce is not None
    assert [weight / 2 for weight in imitated.ce] == pytest.approx([0, 0, 0.5 / 8, 0, 0.5 / 8])


async def test_of_prompts_that_such_a_peer_has_not_met_its_newest_answers_to_others_are_learned() -> None:
    """With the same tag, and none twice: a peer that is behind in the data would have next to nothing to show."""
    own, other = peer("own", Says()), peer("other", Says(likeliest=tuple(range(100, 116))))
    for task, tag in ((10, "code"), (11, "code"), (12, "maths"), (1, "code")):
        solved = group(task, True, True, tag=tag)
        for answer in solved.trajectories:
            answer.token_ids, answer.sampled = [50 + task], [True]
        solved.task = replace(solved.task, prompt_ids=(20 + task,))
        other.note([solved], {task: verdicts_of(solved, "judge", "tag")})
    groups = [group(task, False, False, tag="code") for task in (0, 1, 2, 3)]
    taught, metrics = await stage(own, other).teach(groups, rows_of(groups), own.pool)
    assert metrics["codistill/imitated"] == 3
    # To task 1 there is an answer; to 0 and 2 the newest others are shown; nothing is left for 3.
    assert [(row.group_id, row.token_ids) for row in taught[8:]] == [(0, [31, 61]), (1, [21, 51]), (2, [30, 60])]


async def test_a_step_whose_groups_were_all_left_out_has_nothing_to_teach() -> None:
    own, other = peer("own", Says()), peer("other", Says())
    taught, metrics = await stage(own, other).teach([], [], own.pool)
    assert taught == [] and metrics["codistill/alpha"] == 0


def test_peers_take_turns_with_the_verifier_in_mode_alternate() -> None:
    settings = CodistillSettings(mode="alternate", burn_in=0, ramp=0, fade=0, alpha_max=0.5)
    assert [settings.strength(step, 100) for step in range(10)] == [0, 0, 0, 1, 1] * 2
    assert CodistillSettings(mode="alternate", alpha_max=0).strength(3, 100) == 0
