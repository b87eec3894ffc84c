"""How a teacher reads a student's answer: as it stands, after a prompt of its own, or in its own tokens.

A reading makes of a question about a row the one that the teacher is asked, and of its answer one about the row's own
tokens again. So a signal needs to know nothing of it.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rlvr.data import render_prompt
from rlvr.distill.spans import TokenBytes, span_sums, spans, whole_characters
from rlvr.plugins import CommandError
from rlvr.types import Message, Row, ScoreRequest, Task, TokenScores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PromptError(CommandError):
    """A teacher's prompt that cannot be made."""


class UnreadableRow(ValueError):
    """A row that a teacher cannot read in its own tokens: it goes untaught, and is counted."""


def _unchanged(scores: TokenScores) -> TokenScores:
    return scores


@dataclass(frozen=True, slots=True)
class Question:
    """What a teacher is asked, and what makes of its answer one about the row's tokens, from the first trained on."""

    request: ScoreRequest
    of_the_row: Callable[[TokenScores], TokenScores] = _unchanged


class Reading(Protocol):
    """A teacher's way with rows."""

    def question(self, row: Row, task: Task, asked: ScoreRequest) -> Question:
        """`asked` is about the row's tokens from the first trained one on. Raises UnreadableRow."""
        ...


class AsItStands:
    """The student's prompt and tokens."""

    def question(self, row: Row, task: Task, asked: ScoreRequest) -> Question:
        return Question(asked)


Conversation = Callable[[Task], Sequence[Message]]


def same_conversation(task: Task) -> Sequence[Message]:
    """What the student reads."""
    return task.prompt


class PromptTemplate:
    """A task's conversation with its last message written anew: `{prompt}` is what it was, `{name}` a column.

    What only the teacher should know stands in the row's columns: a hint, a solution.
    """

    def __init__(self, template: str, columns: Sequence[str]) -> None:
        """Raises PromptError for a template that is none, and for a column that the data has not."""
        try:
            named = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        except ValueError as error:
            raise PromptError(f"--teacher-prompt {template!r}: {error}; a brace of the text is written twice") from None
        unknown = sorted(named - {"prompt", *columns})
        if unknown:
            raise PromptError(
                f"--teacher-prompt: no column {', '.join(map(repr, unknown))}; there are prompt (the task's last "
                f"message) and the columns {', '.join(columns)}"
            )
        self._template = template

    def __call__(self, task: Task) -> Sequence[Message]:
        last = task.prompt[-1]
        text = self._template.format(**{**task.columns, "prompt": last["content"]})
        return (*task.prompt[:-1], Message(role=last["role"], content=text))


class OtherPrompt:
    """The student's answer, token by token, after a prompt that only the teacher reads."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> None:
        self._tokenizer = tokenizer
        self._conversation = conversation

    def prompt_ids(self, task: Task) -> list[int]:
        return render_prompt(self._tokenizer, self._conversation(task))

    def question(self, row: Row, task: Task, asked: ScoreRequest) -> Question:
        prompt, own = self.prompt_ids(task), len(task.prompt_ids)
        ids = (*prompt, *asked.token_ids[own:])
        return Question(replace(asked, token_ids=ids, first=asked.first - own + len(prompt)))


class OtherTokenizer:
    """The student's text in the teacher's tokens, after the teacher's own chat template.

    Student and teacher are compared on spans (`rlvr.distill.spans`). A span's last token gets all that the teacher
    says of it, and the others what the student said itself. The end of the turn is a span of its own.
    """

    def __init__(
        self,
        student: PreTrainedTokenizerBase,
        ends: Collection[int],
        teacher: PreTrainedTokenizerBase,
        name: str,
        conversation: Conversation = same_conversation,
    ) -> None:
        """`ends` are the ids that end the student's turn; `name` is the teacher's.

        Raises UnreadableTokenizer, and PromptError for a teacher that cannot end a turn.
        """
        if teacher.eos_token_id is None:
            raise PromptError(f"teacher {name}: its tokenizer has no token that ends a turn")
        self._ends = frozenset(ends)
        self._teacher = teacher
        self._conversation = conversation
        self._ours, self._theirs = TokenBytes(student, "the student"), TokenBytes(teacher, f"teacher {name}")

    def question(self, row: Row, task: Task, asked: ScoreRequest) -> Question:
        if row.rl is None or not all(row.trained[asked.first :]):
            raise UnreadableRow("an answer of several turns, or none that was sampled")
        ended = row.token_ids[-1] in self._ends
        pieces = whole_characters(self._ours.of(row.token_ids[asked.first : -1 if ended else None]))
        read = None if pieces is None else self._theirs.of_text(b"".join(pieces))
        if pieces is None or read is None or not (read.ids or ended):
            raise UnreadableRow("its text is not what the teacher's tokens make of it, or there is none")
        prompt = render_prompt(self._teacher, self._conversation(task))
        ids = (*prompt, *read.ids, *([self._teacher.eos_token_id] if ended else []))
        end = [1] if ended else []
        at = spans([*map(len, pieces), *end], [*map(len, read.pieces), *end])
        own = np.asarray(row.rl.sampler_logprobs[asked.first :], np.float64)

        def of_the_row(scores: TokenScores) -> TokenScores:
            logprobs, last = own.copy(), at.ours - 1
            before = span_sums(own[: at.ours[-1]], at.ours) - own[last]
            logprobs[last] = span_sums(scores.logprobs, at.theirs) - before
            return replace(scores, logprobs=logprobs.astype(np.float32))

        return Question(replace(asked, token_ids=ids, first=len(prompt)), of_the_row)
