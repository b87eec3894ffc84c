"""The ledger counts every trajectory: issued = trained + filtered + failed + in flight, by reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum


class Fate(StrEnum):
    """What became of a trajectory that is no longer in flight."""

    TRAINED = "trained"
    ZERO_VARIANCE = "zero_variance"  # filtered: all scores of its group are equal
    TOO_FEW_VALID = "too_few_valid"  # filtered: too many of its group have no verdict
    NO_VERDICT = "no_verdict"  # failed: the reward could not decide
    TIMEOUT = "timeout"  # failed: reward
    CRASHED = "crashed"  # failed: reward
    ENV_FAILED = "env_failed"  # failed: episode


FILTERED = (Fate.ZERO_VARIANCE, Fate.TOO_FEW_VALID)
FAILED = (Fate.NO_VERDICT, Fate.TIMEOUT, Fate.CRASHED, Fate.ENV_FAILED)


class LedgerError(RuntimeError):
    """Trajectories were lost or used twice: a defect of the engine, never of the user's code."""


@dataclass
class Ledger:
    """Counts in trajectories. What is in flight is counted where it lives, and compared here."""

    issued: int = 0
    fates: Counter[Fate] = field(default_factory=Counter)

    def issue(self, trajectories: int) -> None:
        self.issued += trajectories

    def settle(self, fate: Fate, trajectories: int = 1) -> None:
        self.fates[fate] += trajectories

    @property
    def unsettled(self) -> int:
        """Issued and not settled: what must be in flight."""
        return self.issued - sum(self.fates.values())

    def check(self, in_flight: int) -> None:
        """Compare with what is really in flight. Raises LedgerError."""
        settled = sum(self.fates.values())
        if self.issued != settled + in_flight:
            reasons = ", ".join(f"{fate} {count}" for fate, count in sorted(self.fates.items()))
            raise LedgerError(
                f"the ledger does not balance: {self.issued} trajectories issued, but {settled} settled "
                f"({reasons}) and {in_flight} in flight make {settled + in_flight}"
            )

    def metrics(self, in_flight: int) -> dict[str, float]:
        """Counts by reason, as `ledger/...`."""
        counts = {"ledger/issued": self.issued, "ledger/in_flight": in_flight}
        counts["ledger/trained"] = self.fates[Fate.TRAINED]
        counts |= {f"ledger/filtered/{fate}": self.fates[fate] for fate in FILTERED}
        counts |= {f"ledger/failed/{fate}": self.fates[fate] for fate in FAILED}
        return {name: float(count) for name, count in counts.items()}
