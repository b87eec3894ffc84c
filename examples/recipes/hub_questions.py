"""Writes questions of public datasets for a recipe: `python hub_questions.py OUT math code --split train --count 4000`.

A row has `question`, `answer` and `tag`, which says who judges it: math (`math_answer`), code (the reward `code`, its
tests as JSON text), general (a judge; there is no answer to check against). What is read, from the Hugging Face hub:

math     agentica-org/DeepScaleR-Preview-Dataset (MIT); held out: HuggingFaceH4/MATH-500
code     google-research-datasets/mbpp (CC-BY-4.0), with the tests in the question, since they name the function
general  HuggingFaceH4/ultrafeedback_binarized (MIT), prompts alone
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.config import DataConfig
from rlvr.data import read_rows, write_rows


@dataclass(frozen=True)
class Source:
    """Where the rows of a tag come from, and what each asks and expects."""

    train: DataConfig
    held_out: DataConfig
    question: Callable[[Mapping[str, Any]], str]
    answer: Callable[[Mapping[str, Any]], str]


def code_question(row: Mapping[str, Any]) -> str:
    return f"{row['text']}\nThe function must pass these tests:\n" + "\n".join(row["test_list"])


SOURCES = {
    "math": Source(
        DataConfig(path="agentica-org/DeepScaleR-Preview-Dataset"),
        DataConfig(path="HuggingFaceH4/MATH-500", split="test"),
        lambda row: f"{row['problem']}\nPut the final answer within \\boxed{{}}.",
        lambda row: str(row["answer"]),
    ),
    "code": Source(
        DataConfig(path="google-research-datasets/mbpp", subset="full"),
        DataConfig(path="google-research-datasets/mbpp", subset="full", split="test"),
        code_question,
        lambda row: json.dumps(row["test_list"]),
    ),
    "general": Source(
        DataConfig(path="HuggingFaceH4/ultrafeedback_binarized", split="train_prefs"),
        DataConfig(path="HuggingFaceH4/ultrafeedback_binarized", split="test_prefs"),
        lambda row: str(row["prompt"]),
        lambda row: "",
    ),
}


def rows_of(tag: str, read: list[dict[str, Any]]) -> list[dict[str, str]]:
    source = SOURCES[tag]
    return [{"question": source.question(row), "answer": source.answer(row), "tag": tag} for row in read]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("tags", nargs="+", choices=list(SOURCES))
    parser.add_argument("--split", choices=["train", "held_out"], default="train")
    parser.add_argument("--count", type=int, help="rows of each tag, at most")
    given = parser.parse_args()
    found: list[dict[str, str]] = []
    for tag in given.tags:
        data = SOURCES[tag].train if given.split == "train" else SOURCES[tag].held_out
        found += rows_of(tag, read_rows(data.model_copy(update={"limit": given.count})))
    write_rows(found, given.out)


if __name__ == "__main__":
    main()
