"""What the tests of one answer came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

_LONGEST = 400  # characters of a message


class Scoring(StrEnum):
    """What the tests that passed are worth."""

    ALL = "all"  # 1 where every test passed, else 0
    FRACTION = "fraction"  # the share that passed
    FIRST_FAILURE = "first_failure"  # the share that passed before the first one that did not


@dataclass(frozen=True, slots=True)
class Test:
    """One test. `message` says what came instead of a pass, `expected` what should have come, where that is data."""

    name: str
    passed: bool
    message: str = ""
    expected: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The tests that ran, of `planned`. `stopped` says why the others did not, if that was not the first failure."""

    tests: Sequence[Test]
    planned: int
    stopped: str = ""

    @property
    def passed(self) -> bool:
        """Whether every test ran and passed."""
        return self.value(Scoring.ALL) == 1.0

    def value(self, scoring: Scoring) -> float:
        """From 0 to 1. A test that did not run did not pass."""
        passed = sum(test.passed for test in self.tests)
        match scoring:
            case Scoring.ALL:
                return float(passed == self.planned)
            case Scoring.FRACTION:
                return passed / self.planned
            case Scoring.FIRST_FAILURE:
                first = next((i for i, test in enumerate(self.tests) if not test.passed), len(self.tests))
                return first / self.planned

    def detail(self) -> str:
        """For a reader of the report: the first failure, with what was expected."""
        return self._words(expected=True)

    def feedback(self) -> str:
        """For the model: the same without what was expected, which would give hidden tests away."""
        return self._words(expected=False)

    def _words(self, expected: bool) -> str:
        passed = sum(test.passed for test in self.tests)
        failed = next((i for i, test in enumerate(self.tests) if not test.passed), None)
        words = [f"{passed} of {self.planned} tests passed"]
        if failed is not None:
            test = self.tests[failed]
            of_data = f"; expected {shown(test.expected)}" if expected and test.expected else ""
            words.append(f"test {failed + 1}: {shown(test.name)}: {test.message}{of_data}")
        if self.stopped:
            words.append(self.stopped)
        return "; ".join(words)


def shown(text: str) -> str:
    """Short enough for a line of a report."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


def in_words(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return f"a value of type {type(value).__name__}, with an integer of thousands of digits"
