"""Whether teacher and student mean the same by the same ids."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from rlvr.data import render_prompt
from rlvr.plugins import CommandError
from rlvr.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = (Message(role="user", content="What is 2 + 2?"),)


class TokenizerMismatch(CommandError):
    """Teacher and student read different ids: what one says of them means something else to the other."""


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Equal for tokenizers with the same ids and the same chat template."""
    known = json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer.chat_template], ensure_ascii=False)
    return hashlib.sha256(known.encode()).hexdigest()[:16]


def refuse_mismatch(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, name: str) -> None:
    """Raise TokenizerMismatch with the difference, where the vocabularies or the chat templates differ."""
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours != theirs:
        differing = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
        examples = ", ".join(f"{token!r} is {_id(ours, token)} and {_id(theirs, token)}" for token in differing[:3])
        raise TokenizerMismatch(
            f"teacher {name}: its tokenizer differs from the student's in {len(differing)} tokens (of {len(theirs)} "
            f"and {len(ours)}): to student and teacher {examples}. Compare both on spans of text "
            "with `--signal spans`, or teach by its text: `rlvr distill sample`, then `rlvr distill sft`"
        )
    our_prompt, their_prompt = render_prompt(student, _PROBE), render_prompt(teacher, _PROBE)
    if our_prompt != their_prompt:
        raise TokenizerMismatch(
            f"teacher {name}: its chat template differs from the student's. The student reads "
            f"{student.decode(our_prompt)!r}, the teacher is used to {teacher.decode(their_prompt)!r}: give one the "
            "other's template"
        )


def _id(vocabulary: dict[str, int], token: str) -> str:
    return str(vocabulary[token]) if token in vocabulary else "unknown"
