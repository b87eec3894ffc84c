"""Examples to imitate: rows of a dataset as token ids, of which the model's own turns are learned.

A row has a prompt and, in the column `data.completion`, the answer to it; or its prompt is a whole conversation, and
each turn of the assistant is learned. A turn is what the policy would sample there: the tokens after its prompt as
the chat template renders it, up to the end-of-turn token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rlvr.config import DataConfig
from rlvr.data import DataError, messages_of, read_rows, render_prompt
from rlvr.types import Message, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Learnable(Protocol):
    """What makes a row when its turn comes. Its length is in tokens."""

    def __len__(self) -> int: ...

    def row(self, number: int) -> Row:
        """What a learner eats; `number` tells it from the others of its step."""
        ...


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids that are read at once, and which of them are learned."""

    token_ids: list[int]
    learned: list[bool]

    def __len__(self) -> int:
        return len(self.token_ids)

    def row(self, number: int) -> Row:
        return Row(number, self.token_ids, self.learned, ce=[float(learned) for learned in self.learned])


@dataclass(frozen=True, slots=True)
class ExampleSet:
    """Examples of one dataset, and how many were left out because they are too long."""

    examples: list[Learnable]
    too_long: int

    def rows(self) -> list[Row]:
        return [example.row(number) for number, example in enumerate(self.examples)]


def that_fit(found: Sequence[Learnable], longest: int, where: str) -> ExampleSet:
    """Those of at most `longest` tokens. Raises DataError where there are none; `where` says what was read."""
    if not found:
        raise DataError(f"{where}: no rows")
    short = [example for example in found if len(example) <= longest]
    if not short:
        raise DataError(
            f"{where}: every example is longer than learner.token_budget={longest} "
            f"(the shortest has {min(map(len, found))} tokens)"
        )
    return ExampleSet(short, len(found) - len(short))


def load_examples(config: DataConfig, tokenizer: PreTrainedTokenizerBase, longest: int) -> ExampleSet:
    """Read the rows that `config` names. Those of more than `longest` tokens are left out. Raises DataError."""
    found = [
        example
        for number, row in enumerate(read_rows(config), start=1)
        for example in examples_of(*_conversation(row, number, config), tokenizer)
    ]
    return that_fit(found, longest, f"data.path={config.path}")


def has_answers(config: DataConfig) -> bool:
    """Whether its first row has something to learn, and is not a task alone."""
    first = next(iter(read_rows(config)), {})
    prompt = first.get(config.prompt)
    turns = prompt if isinstance(prompt, list) else []
    return first.get(config.completion) is not None or any(turn.get("role") == "assistant" for turn in turns)


def examples_of(
    messages: Sequence[Message], learned: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> list[Example]:
    """The turns at `learned`, each after the prompt that the messages before it make.

    One example where every prompt goes on from the turn before. Some chat templates show earlier turns otherwise than
    they were sampled, without their thoughts for instance: then there is one more example for each such turn.
    Raises DataError for a tokenizer without an end-of-text token.
    """
    if tokenizer.eos_token_id is None:
        raise DataError("the model's tokenizer has no end-of-text token, with which an answer would end")
    examples: list[Example] = []
    for place in learned:
        prompt = render_prompt(tokenizer, messages[:place])
        turn = tokenizer.encode(messages[place]["content"], add_special_tokens=False)
        if turn[-1:] != [tokenizer.eos_token_id]:  # some data has it in the text
            turn.append(tokenizer.eos_token_id)
        if examples and prompt[: len(examples[-1].token_ids)] == examples[-1].token_ids:
            flags = examples.pop().learned
        else:
            flags = []
        flags = flags + [False] * (len(prompt) - len(flags)) + [True] * len(turn)
        examples.append(Example(prompt + turn, flags))
    return examples


def _conversation(row: Mapping[str, Any], number: int, config: DataConfig) -> tuple[list[Message], list[int]]:
    """The messages of a row, and the places of those that are learned."""
    where = f"{config.path}, row {number}"
    if config.prompt not in row:
        raise DataError(f"data.prompt={config.prompt}: {where} has no such column; it has {', '.join(map(str, row))}")
    messages = list(messages_of(row[config.prompt], config.system, f"{where}, column {config.prompt}"))
    completion = row.get(config.completion)
    if completion is None:
        learned = [i for i, message in enumerate(messages) if message["role"] == "assistant" and i > 0]
        if not learned:
            raise DataError(
                f"{where} has nothing to learn: neither a column {config.completion!r} (data.completion), nor a turn "
                f"of the assistant in its column {config.prompt!r} (data.prompt); it has {', '.join(map(str, row))}"
            )
        return messages, learned
    if isinstance(completion, list):  # as messages, which TRL's prompt-completion form has
        turns = list(messages_of(completion, None, f"{where}, column {config.completion}"))
        learned = [len(messages) + i for i, message in enumerate(turns) if message["role"] == "assistant"]
        if not learned:
            raise DataError(f"{where}, column {config.completion}: no turn of the assistant to learn")
        return messages + turns, learned
    if not isinstance(completion, str):
        raise DataError(f"{where}, column {config.completion}: expected text, found {completion!r:.120}")
    return [*messages, Message(role="assistant", content=completion)], [len(messages)]
