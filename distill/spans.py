"""The same text in two tokenizers' tokens: spans, the shortest pieces of it that begin and end at tokens of both.

The log-probability of a span is the sum of its tokens', in either tokenizer, so two models that do not know each
other's tokens can be compared on it. Tokens are compared as bytes: one of them may end within a character.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel

from rlvr.plugins import CommandError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_NO_TEXT = b"\xff"  # stands in no UTF-8
# What a tokenizer is tried on: spaces, digits, marks, letters of two to four bytes, line breaks.
_PROBE = "So 12 + 9 = 21,\nnaïve “café” → 你好 🙂\n\tend."


class UnreadableTokenizer(CommandError):
    """A tokenizer whose tokens are no pieces of text: what it says cannot be held against another's."""


@dataclass(frozen=True, slots=True)
class TokensOfText:
    """A text's tokens, and the bytes of it that each stands for."""

    ids: list[int]
    pieces: list[bytes]


class TokenBytes:
    """The bytes of text that each of a tokenizer's tokens stands for."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        """Raises UnreadableTokenizer where tokens do not add up to the text that was encoded."""
        self._tokenizer = tokenizer
        self._added = {id_: token.content for id_, token in tokenizer.added_tokens_decoder.items()}
        decoder = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"] if tokenizer.is_fast else None
        self._byte_of = _bytes_of_letters() if "ByteLevel" in json.dumps(decoder) else None
        self._known: dict[int, bytes] = {}
        if self.of_text(_PROBE.encode()) is None:
            raise UnreadableTokenizer(
                f"{name}: encoding and decoding does not give {_PROBE!r} back, token by token; the signal `spans` "
                "needs a tokenizer that loses nothing"
            )

    def of(self, ids: Sequence[int]) -> list[bytes]:
        """Of each token."""
        return [self._known[id_] if id_ in self._known else self._learn(id_) for id_ in ids]

    def of_text(self, text: bytes) -> TokensOfText | None:
        """Text in UTF-8, encoded; None where its tokens do not add up to it."""
        ids = self._tokenizer.encode(text.decode(), add_special_tokens=False)
        pieces = self.of(ids)
        if b"".join(pieces) == b" " + text:  # a tokenizer whose words begin with a space puts one before the first
            pieces[0] = pieces[0][1:]
        return TokensOfText(ids, pieces) if b"".join(pieces) == text else None

    def _learn(self, id_: int) -> bytes:
        token: str | None = self._tokenizer.convert_ids_to_tokens(id_)
        if token is None:  # models have more ids than their tokenizers
            self._known[id_] = _NO_TEXT
        else:
            self._known[id_] = self._added[id_].encode() if id_ in self._added else self._bytes_of(token)
        return self._known[id_]

    def _bytes_of(self, token: str) -> bytes:
        """Of a byte-level vocabulary each letter is a byte; of any other a token is text, or one byte by its number."""
        if self._byte_of is not None and self._byte_of.keys() >= set(token):
            return bytes(self._byte_of[letter] for letter in token)
        byte = _BYTE_TOKEN.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()


def _bytes_of_letters() -> dict[str, int]:
    """The alphabet of byte-level BPE: bytes that print are themselves, the others are U+0100 and on, in their order."""
    alphabet = set(ByteLevel.alphabet())
    plain = [byte for byte in range(256) if chr(byte) in alphabet]
    others = [byte for byte in range(256) if chr(byte) not in alphabet]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


# A character has four bytes at most, and as many tokens may hold the part of it that an answer ends with.
_LONGEST_CHARACTER = 4


def whole_characters(pieces: Sequence[bytes]) -> list[bytes] | None:
    """The tokens without those of a character that was cut off at the end; None where they are no text at all."""
    for left_out in range(min(_LONGEST_CHARACTER, len(pieces) + 1)):
        kept = list(pieces[: len(pieces) - left_out])
        try:
            b"".join(kept).decode()
        except UnicodeDecodeError:
            continue
        return kept
    return None


@dataclass(frozen=True, slots=True)
class Spans:
    """Of two rows of tokens of the same bytes: where each of S spans ends, counted in tokens of either; [S] each."""

    ours: NDArray[np.int64]
    theirs: NDArray[np.int64]


def spans(ours: Sequence[int], theirs: Sequence[int]) -> Spans:
    """From how many bytes each token has. Both add up to the same number, and so the last span ends both rows."""
    our_ends, their_ends = (np.array([*accumulate(lengths)], np.int64) for lengths in (ours, theirs))
    common = np.intersect1d(our_ends, their_ends)
    # A token of no bytes belongs to the span before it.
    return Spans(our_ends.searchsorted(common, "right"), their_ends.searchsorted(common, "right"))


def span_sums(values: NDArray[np.floating[Any]], ends: NDArray[np.int64]) -> NDArray[np.float64]:
    """The sum over each span's tokens, [S]."""
    return np.add.reduceat(values.astype(np.float64), np.concatenate([[0], ends[:-1]]))
