"""Reads typed values from a config in Hugging Face form, and says what is missing instead of guessing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlvr.architecture.facts import UnknownArchitecture


@dataclass(frozen=True, slots=True)
class Settings:
    """The keys of a config. `where` is told in errors. A key that is null counts as absent where that is allowed."""

    values: Mapping[str, object]
    where: str

    def text(self, key: str) -> str:
        value = self._required(key)
        if not isinstance(value, str):
            raise self._wrong(key, "text")
        return value

    def integer(self, key: str, least: int = 1) -> int:
        value = self._required(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self._wrong(key, f"a whole number of at least {least}")
        return value

    def integer_or(self, key: str, default: int, least: int = 1) -> int:
        """`default` where the key is absent or null."""
        return default if self.values.get(key) is None else self.integer(key, least)

    def integer_or_null(self, key: str, absent: int | None = None) -> int | None:
        """None where the key is null, `absent` where it is not there: for some keys these differ."""
        if key not in self.values:
            return absent
        return None if self.values[key] is None else self.integer(key)

    def present(self, key: str) -> Settings:
        """These settings, in which the key is there, if only as null."""
        if key not in self.values:
            raise UnknownArchitecture(f"{self.where}: {key} is missing, and is not guessed")
        return self

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def names(self, key: str) -> list[str] | None:
        """A list of words, one for each layer; None where it is absent."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self._wrong(key, "a list of names")
        return [str(name) for name in value]

    def integers(self, key: str) -> list[int] | None:
        """A list of whole numbers; None where it is absent."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(number, int) for number in value):
            raise self._wrong(key, "a list of whole numbers")
        return list(value)

    def inner(self, key: str) -> Settings:
        value = self._required(key)
        if not isinstance(value, dict):
            raise self._wrong(key, "a section")
        return Settings(value, f"{self.where}: {key}")

    def refuse_unless(self, key: str, expected: object) -> None:
        """Raise where a key that is not counted asks for more than its usual value."""
        if self.values.get(key, expected) not in (expected, None):
            raise UnknownArchitecture(
                f"{self.where}: {key}={self.values[key]!r} is not known here (only {expected!r} is), "
                "so its size cannot be counted"
            )

    def _required(self, key: str) -> object:
        value = self.values.get(key)
        if value is None:
            raise UnknownArchitecture(f"{self.where}: {key} is missing, and is not guessed")
        return value

    def _wrong(self, key: str, expected: str) -> UnknownArchitecture:
        return UnknownArchitecture(f"{self.where}: {key} should be {expected}, found {self.values[key]!r}")
