"""Compiled headers, one a language, kept as sealed descriptors: see languages.Header."""

from __future__ import annotations

import os
import threading

from rlvr.sandbox.languages import Language
from rlvr.sandbox.sealed import sealed


class Headers:
    """The first caller who needs one makes it. Those who come meanwhile do without, and all do if it cannot be made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claimed: set[str] = set()
        self._made: dict[str, int] = {}

    def claim(self, language: Language) -> bool:
        """Whether the caller is the one to make it. Who cannot, for no fault of the compiler's, gives that up."""
        with self._lock:
            first = language.name not in self._claimed
            self._claimed.add(language.name)
            return first

    def give_up(self, language: Language) -> None:
        with self._lock:
            self._claimed.discard(language.name)

    def put(self, language: Language, compiled: bytes) -> None:
        descriptor = sealed(compiled)
        with self._lock:
            self._made[language.name] = descriptor

    def get(self, language: Language) -> int | None:
        """A descriptor of its own for the caller to close."""
        with self._lock:
            made = self._made.get(language.name)
            return os.dup(made) if made is not None else None

    def close(self) -> None:
        with self._lock:
            while self._made:
                os.close(self._made.popitem()[1])

    def __del__(self) -> None:
        self.close()
