"""A run as it goes: a live panel in a terminal, plain lines in a pipe, a notebook or a job's log.

It only reads metrics by their names, and computes none. What is not there is shown as a dash.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlvr.readable import count, duration, number

PLAIN_EVERY_S = 5.0  # seconds between two plain lines; the first and the last step are always told
_WIDE = 100  # columns from which the panel's numbers stand in two rows instead of four


class Console:
    """What a person sees of a run of `total_steps`. Use as a context manager, so that the terminal is left clean."""

    def __init__(
        self, total_steps: int, out: RichConsole | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._out = out or RichConsole(highlight=False)
        self._total = total_steps
        self._clock = clock
        self._step = 0
        self._first: tuple[int, float] | None = None  # a step that ended, and when: the ETA counts from there
        self._told_at = -PLAIN_EVERY_S
        self._stage = ""
        self._metrics: Mapping[str, float] = {}
        self._accuracies: list[float] = []
        is_screen = self._out.is_terminal and not self._out.is_jupyter and not self._out.is_dumb_terminal
        self._live = Live(get_renderable=self._panel, console=self._out, refresh_per_second=4) if is_screen else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    # ---------------------------------------------------------------- what the run tells

    def stage(self, name: str) -> None:
        """The run is now in this stage."""
        self._stage = name.replace("_", " ")

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step ended."""
        now = self._clock()
        self._step, self._metrics = step, metrics
        self._first = self._first or (step, now)
        if self._live is None and (now - self._told_at >= PLAIN_EVERY_S or step == self._total):
            self._told_at = now
            self._print(self._line())

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Held-out tasks were answered after `step`."""
        accuracy = metrics.get("evaluation/pass@1")
        if accuracy is None:
            return
        self._accuracies.append(accuracy)
        if self._live is None:
            prefix = "evaluation/accuracy/"
            of = [f"{n.removeprefix(prefix)} {v:.3f}" for n, v in metrics.items() if n.startswith(prefix)]
            self._print(f"step {step}: held-out accuracy {accuracy:.3f}" + (f" ({', '.join(of)})" if of else ""))

    def note(self, text: str) -> None:
        """Something worth a line of its own; it stays above the panel."""
        self._print(text)

    # ---------------------------------------------------------------- how it looks

    def _print(self, text: str) -> None:
        self._out.print(Text(text), soft_wrap=True)

    def _line(self) -> str:
        return "  ".join([f"step {self._step}/{self._total}", *self._words(), f"left {self._left()}"])

    def _words(self) -> list[str]:
        """What a plain line tells of a step."""
        return [
            f"reward {self._number('reward/mean')}",
            f"staleness {self._number('staleness/mean')}",
            f"{self._number('throughput/answers_per_s')} answers/s",
            f"{self._number('throughput/sampled_tokens_per_s')} tokens/s",
            f"generator {self._share('time/generator_busy_share')} busy",
            f"learner {self._share('time/learner_busy_share')}",
            self._ledger(),
        ]

    def _panel(self) -> RenderableType:
        progress = Table.grid(padding=(0, 2), expand=True)
        progress.add_column(no_wrap=True)
        progress.add_column(ratio=1)
        progress.add_column(no_wrap=True)
        progress.add_row(
            Text(f"step {self._step} of {self._total}", style="bold"),
            ProgressBar(total=self._total, completed=self._step, complete_style="green", finished_style="green"),
            Text(f"{self._left()} left"),
        )
        pairs = self._pairs()
        across = 4 if self._out.width >= _WIDE else 2
        numbers = Table.grid(padding=(0, 3))
        for first in range(0, len(pairs), across):
            numbers.add_row(*pairs[first : first + across])
        rows: list[RenderableType] = [progress, Text(), numbers]
        if books := self._books():
            rows += [Text(), Text(books, style="dim", overflow="ellipsis")]
        return Panel(Group(*rows), title="rlvr", title_align="left", border_style="dim", padding=(0, 1))

    def _pairs(self) -> list[Text]:
        """What the panel tells of a step."""
        return [
            _pair("reward", self._number("reward/mean")),
            _pair("answers/s", self._number("throughput/answers_per_s")),
            _pair("generator busy", self._share("time/generator_busy_share")),
            _pair("staleness", f"{self._number('staleness/mean')}, at most {self._number('staleness/max')}"),
            _pair("held-out", self._accuracy()),
            _pair("tokens/s", self._number("throughput/sampled_tokens_per_s")),
            _pair("learner busy", self._share("time/learner_busy_share")),
            _pair("stage", self._stage or "–"),
        ]

    def _books(self) -> str:
        """The panel's last line, if any."""
        return self._ledger()

    def _number(self, name: str) -> str:
        return number(self._metrics.get(name))

    def _share(self, name: str) -> str:
        share = self._metrics.get(name)
        return "–" if share is None else f"{share:.0%}"

    def _accuracy(self) -> str:
        if not self._accuracies:
            return "–"
        first, last = self._accuracies[0], self._accuracies[-1]
        return f"{first:.2f}" if len(self._accuracies) == 1 else f"{first:.2f} → {last:.2f}"

    def _ledger(self) -> str:
        """Every answer that was asked for, and where it is now."""
        issued = self._metrics.get("ledger/issued")
        if issued is None:
            return "issued –"
        trained, flying = self._metrics.get("ledger/trained", 0.0), self._metrics.get("ledger/in_flight", 0.0)
        filtered, failed = (
            sum(value for name, value in self._metrics.items() if name.startswith(f"ledger/{state}/"))
            for state in ("filtered", "failed")
        )
        return (
            f"issued {count(issued)} = trained {count(trained)} + filtered {count(filtered)} "
            f"+ failed {count(failed)} + in flight {count(flying)}"
        )

    def _left(self) -> str:
        """At the mean pace since the first step that ended here; that one pays for warming up."""
        if self._step >= self._total:
            return "nothing"
        if self._first is None or self._step == self._first[0]:
            return "–"
        step, at = self._first
        return duration((self._clock() - at) / (self._step - step) * (self._total - self._step))


class SupervisedConsole(Console):
    """The same of a run on examples."""

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        if "evaluation/cross_entropy" in metrics:
            self.note(f"step {step}: held-out cross-entropy {metrics['evaluation/cross_entropy']:.4f} nats per token")
        super().evaluation(step, metrics)

    def _words(self) -> list[str]:
        return [
            f"loss {self._number('learner/loss')}",
            f"epoch {self._number('sft/epoch')}",
            f"{self._number('throughput/trained_tokens_per_s')} tokens/s",
        ]

    def _pairs(self) -> list[Text]:
        return [
            _pair("loss", self._number("learner/loss")),
            _pair("epoch", self._number("sft/epoch")),
            _pair("tokens/s", self._number("throughput/trained_tokens_per_s")),
            _pair("gradient norm", self._number("learner/grad_norm")),
            _pair("learning rate", self._number("learner/learning_rate")),
            _pair("held-out", self._accuracy()),
            _pair("stage", self._stage or "–"),
        ]

    def _books(self) -> str:
        return ""


def _pair(name: str, value: str) -> Text:
    return Text.assemble((f"{name} ", "dim"), (value, "bold"))
