"""Checked against a reader of the word problems that is written here, and knows nothing of the generator."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from rlvr.demo.problems import Problem, Split, oracle_trace, problems, rows, split_of, weak_trace, write_jsonl

ADDS = {"buys", "gets", "finds", "wins", "picks", "earns"}
TAKES = {"gives", "loses", "eats", "sells", "drops", "breaks"}
ADDS_FAMILIAR = {"buys", "gets", "finds"}
TAKES_FAMILIAR = {"gives", "loses", "eats"}


def read(prompt: str) -> list[int]:
    """The counts of a story, from its first to its last, read from the text alone."""
    story = re.fullmatch(r"([A-Z][a-z]+) has (\d+) ([a-z]+)((?:, [a-z]+ \d+)+)\. How many ([a-z]+)\?", prompt)
    assert story is not None, prompt
    assert story[3] == story[5], "the question is about something else than the story"
    counts = [int(story[2])]
    for verb, amount in re.findall(r", ([a-z]+) (\d+)", story[4]):
        assert (verb in ADDS) != (verb in TAKES), verb
        counts.append(counts[-1] + int(amount) if verb in ADDS else counts[-1] - int(amount))
    return counts


def read_trace(text: str) -> tuple[list[tuple[int, str, int, int]], str]:
    """The equations of an answer, as (count, sign, amount, result), and what it boxes."""
    answer = re.fullmatch(r"<think>(.*)</think>\n\\boxed\{(\d+)\}", text, re.DOTALL)
    assert answer is not None, text
    lines = answer[1].split("\n") if answer[1] else []
    equations = [re.fullmatch(r"(\d+)([+-])(\d+)=(\d+)", line) for line in lines]
    assert all(equations), text
    return [(int(e[1]), e[2], int(e[3]), int(e[4])) for e in equations if e], answer[2]


def first(split: Split, count: int, seed: int) -> list[Problem]:
    return list(islice(problems(split, seed), count))


@pytest.mark.parametrize("split", list(Split))
def test_every_answer_is_what_the_story_says(split: Split) -> None:
    for problem in first(split, 2000, seed=3):
        counts = read(problem.prompt)
        assert problem.answer == str(counts[-1])
        assert 3 <= len(counts) <= 5
        assert min(counts) >= 0 and max(counts) <= 30


def test_splits_share_no_prompt_whatever_the_seeds() -> None:
    train = {p.prompt for seed in (0, 1) for p in first(Split.TRAIN, 4000, seed)}
    held_out = {p.prompt for seed in (0, 1, 2) for p in first(Split.HELD_OUT, 1000, seed)}
    assert train.isdisjoint(held_out)
    assert {split_of(prompt) for prompt in train} == {Split.TRAIN}
    assert {split_of(prompt) for prompt in held_out} == {Split.HELD_OUT}


def test_about_one_prompt_in_eight_is_held_out() -> None:
    prompts = [f"any text {i}" for i in range(8000)]
    share = sum(split_of(p) is Split.HELD_OUT for p in prompts) / len(prompts)
    assert share == pytest.approx(1 / 8, abs=0.015)  # four standard deviations


def test_equal_seeds_give_equal_problems_and_others_do_not() -> None:
    assert first(Split.TRAIN, 200, seed=5) == first(Split.TRAIN, 200, seed=5)
    assert first(Split.TRAIN, 200, seed=5) != first(Split.TRAIN, 200, seed=6)


def test_problems_are_the_same_on_every_machine() -> None:
    """The figures in docs/demo.md name seeds: they mean nothing if a seed means other problems elsewhere."""
    assert [p.prompt for p in first(Split.TRAIN, 2, seed=0)] == [
        "Max has 2 stars, wins 9, finds 7, loses 8. How many stars?",
        "Ben has 6 books, finds 2, earns 9. How many books?",
    ]
    assert first(Split.HELD_OUT, 1, seed=1)[0].prompt == "Eva has 3 pens, loses 3, earns 5. How many pens?"


@pytest.mark.parametrize("split", list(Split))
def test_no_prompt_comes_twice(split: Split) -> None:
    prompts = [p.prompt for p in first(split, 5000, seed=0)]
    assert len(set(prompts)) == 5000


def test_the_oracle_is_right_step_by_step() -> None:
    for problem in first(Split.TRAIN, 1000, seed=7):
        counts = read(problem.prompt)
        equations, boxed = read_trace(oracle_trace(problem))
        assert [e[0] for e in equations] == counts[:-1]
        assert [e[3] for e in equations] == counts[1:]
        for count, sign, amount, result in equations:
            assert result == (count + amount if sign == "+" else count - amount)
        assert boxed == str(counts[-1])


def test_the_weak_author_has_the_form_and_not_the_substance() -> None:
    rng = random.Random(0)
    right_thoughts: list[bool] = []
    right_guesses: list[bool] = []
    thinks: dict[int, list[bool]] = {2: [], 3: [], 4: []}
    for problem in first(Split.TRAIN, 4000, seed=8):
        equations, boxed = read_trace(weak_trace(problem, rng))
        changes = len(read(problem.prompt)) - 1
        thinks[changes].append(bool(equations))
        is_right = int(boxed) == read(problem.prompt)[-1]
        if equations:
            right_thoughts.append(is_right)
            assert len(equations) == changes
            assert boxed == str(equations[-1][3])
        else:
            right_guesses.append(is_right)
    for changes, share in {2: 0.6, 3: 0.6, 4: 0.4}.items():
        assert sum(thinks[changes]) / len(thinks[changes]) == pytest.approx(share, abs=0.05)
    # That thinking pays, even his, is what RL finds out first.
    assert sum(right_thoughts) / len(right_thoughts) == pytest.approx(0.50, abs=0.05)
    assert sum(right_guesses) / len(right_guesses) == pytest.approx(0.16, abs=0.04)


def test_the_weak_author_knows_half_of_the_verbs() -> None:
    rng = random.Random(1)
    read_right: dict[str, list[bool]] = {verb: [] for verb in ADDS | TAKES}
    for problem in first(Split.TRAIN, 6000, seed=9):
        equations, _ = read_trace(weak_trace(problem, rng))
        verbs = re.findall(r", ([a-z]+) \d+", problem.prompt)
        for verb, (count, sign, amount, _) in zip(verbs, equations, strict=False):
            if count >= amount:  # otherwise he has no choice: a count is never negative
                read_right[verb].append((sign == "+") == (verb in ADDS))
    readings_right: list[float] = []
    for verb, readings in read_right.items():
        share = sum(readings) / len(readings)
        if verb in ADDS_FAMILIAR | TAKES_FAMILIAR:
            assert share == 1.0, verb
        else:
            readings_right.append(share)
            assert share == pytest.approx(0.45, abs=0.08), verb  # three standard deviations
    assert sum(readings_right) / 6 < 0.5, "a greedy imitator must read them the wrong way round"


def test_rows_are_a_dataset(tmp_path: Path) -> None:
    found = rows(Split.HELD_OUT, 50, seed=1)
    assert len(found) == 50
    for row in found:
        assert set(row) == {"question", "answer"}
        assert row["answer"] == str(read(row["question"])[-1])

    path = tmp_path / "new folder" / "held_out.jsonl"
    write_jsonl(path, Split.HELD_OUT, 50, seed=1)
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == found


def test_a_process_that_only_makes_problems_does_not_load_torch() -> None:
    program = "import sys, rlvr.demo.problems; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
