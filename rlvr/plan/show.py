"""A plan as a person reads it: memory as bars, times as a balance, and every assumption in words."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rlvr.plan.accelerators import Accelerator
from rlvr.plan.activations import RUNS_ALL_EXPERTS
from rlvr.plan.estimate import Estimate, gib
from rlvr.plan.memory import Memory
from rlvr.plan.planner import Plan
from rlvr.plan.speed import (
    BANDWIDTH_SHARE,
    PREFILL_SHARE,
    PUBLISH_BYTES_S,
    learner_share,
)
from rlvr.plan.workload import shares_prompts
from rlvr.readable import duration, number

_BAR = 24  # characters


def show(plan: Plan, console: Console | None = None) -> None:
    """Print the plan."""
    console = console or Console(highlight=False)
    now, where = plan.now, _where(plan.gpus, plan.machine)
    console.print(f"[bold]{escape(plan.model.name)}[/] on {where}: {now.split}")
    console.print(_memory("learner", now.learner, now.learner_room))
    if now.learner.on_host:
        console.print(
            f"and {gib(now.learner.on_host)} of host memory for each of its GPUs: weights, gradients, optimizer"
        )
    console.print(_memory("generator", now.generator.memory, now.generator.room))
    for line in _sequences(plan):
        console.print(line)
    if now.fits:
        console.print("[green]it fits[/]")
    for problem in now.problems:
        console.print(f"[red]does not fit:[/] {problem}")
    for change in plan.changes:
        console.print(f"  would fit: [bold]{change.words}[/]  ({change.leads_to})")
    console.print(_times(plan))
    for line in _suggestion(plan):
        console.print(line)
    console.print(Text("\n".join(["", "Estimated, not measured on GPUs. Assumed:", *_assumptions(plan)]), style="dim"))


def _where(gpus: int, machine: Accelerator) -> str:
    return "this machine's processor" if machine.is_cpu else f"{gpus} x {machine.name} ({gib(machine.memory)} each)"


def _memory(role: str, memory: Memory, room: int) -> Table:
    table = Table(title=f"{role}: {gib(memory.total)} of {gib(room)}", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("part", no_wrap=True)
    table.add_column("memory", justify="right", no_wrap=True)
    table.add_column("", width=_BAR, no_wrap=True)
    table.add_column("how", overflow="fold")
    before = 0
    for part in memory.parts:
        table.add_row(part.name, gib(part.bytes), bar(before, part.bytes, room), part.why)
        before += part.bytes
    return table


def bar(before: int, amount: int, room: int, width: int = _BAR) -> Text:
    """A part's stretch of the whole room, one character at least; red where it reaches beyond its end."""
    start, end = (min(width, round(width * edge / max(room, 1))) for edge in (before, before + amount))
    start = min(start, width - 1)
    return Text(" " * start + "█" * max(end - start, 1), style="red" if before + amount > room else "green")


def _sequences(plan: Plan) -> Iterator[str]:
    generator, wanted = plan.now.generator, plan.now.sequences_wanted
    yield (
        f"a generator holds {generator.mean_sequences:,} sequences of mean length at one time "
        f"({generator.longest_sequences:,} of the longest, {plan.work.longest:,} tokens); the run keeps {wanted:,} in "
        "flight for it"
    )
    if 0 < generator.mean_sequences < wanted:
        yield "the others wait in its queue: more memory for keys and values would make it faster"


def _times(plan: Plan) -> Table:
    now = plan.now
    table = Table(title="one optimizer step", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("stage", "time", "", "rate"):
        table.add_column(name, no_wrap=name != "rate")
    longest = max(now.sample_s, now.train_s, now.publish_s)
    made = now.generation
    sampled = plan.work.sampled_per_step
    rates = {
        "sampling": (
            now.sample_s,
            f"{number(made.tokens_s * now.split.generators)} tokens/s, {made.sequences} sequences at a time, "
            f"limited by {made.bound}",
        ),
        "training": (now.train_s, f"{number(sampled / now.train_s)} sampled tokens/s"),
        "publishing": (now.publish_s, "weights to the generators"),
    }
    for stage, (seconds, rate) in rates.items():
        table.add_row(stage, duration(seconds), Text("█" * max(1, round(12 * seconds / longest)), style="cyan"), rate)
    table.add_section()
    table.add_row(
        "step", duration(now.step_s), "", f"{number(sampled / now.step_s)} sampled tokens/s; {_balance(plan)}"
    )
    table.add_row("run", duration(plan.run_s), "", f"{plan.config.steps:,} steps, without start and evaluations")
    return table


def _balance(plan: Plan) -> str:
    now, learning = plan.now, plan.now.train_s + plan.now.publish_s
    if plan.config.rollout.max_staleness == 0:
        return "sampling and learning take turns (rollout.max_staleness=0)"
    if learning > now.sample_s:
        return f"the learner is the bottleneck, generators busy {now.sample_s / learning:.0%}"
    return f"generators are the bottleneck, the learner busy {learning / now.sample_s:.0%}"


def _suggestion(plan: Plan) -> Iterator[str]:
    if plan.gpus < 2:
        return
    if plan.best is None:
        yield f"no split of {plan.gpus} GPUs fits this config"
        return
    yield f"best split of {plan.gpus} GPUs: {_split(plan, plan.best)}"


def _split(plan: Plan, best: Estimate) -> str:
    split, now = best.split, plan.now.split
    idle = f"; {plan.gpus - split.used} GPUs idle" if split.used < plan.gpus else ""
    if split == now:
        return f"as configured{idle}"
    settings = [
        f"{setting}={value}"
        for setting, value, before in (
            ("learner.ranks", split.learner_gpus, now.learner_gpus),
            ("generator.count", split.generators, now.generators),
            ("generator.tensor_parallel", split.tensor_parallel, now.tensor_parallel),
        )
        if value != before
    ]
    told = f" ({' '.join(settings)})" if settings else ""
    gain = f", {plan.now.step_s / best.step_s:.1f} times as fast" if plan.now.fits else ""
    return f"[bold]{split}[/]{told}: a step in {duration(best.step_s)}{gain}{idle}"


def _assumptions(plan: Plan) -> list[str]:
    work, machine, architecture = plan.work, plan.machine, plan.model.architecture
    notes = [
        f"prompts of {work.prompt:,}, answers of {work.answer:,} tokens on average (--prompt-tokens, --answer-tokens)",
        "no group is filtered; a group's prompt is read once by a generator"
        + (", and computed once by the learner" if shares_prompts(plan.config, architecture) else ""),
        f"generators reach {BANDWIDTH_SHARE:.0%} of memory bandwidth and {PREFILL_SHARE:.0%} of peak operations, and "
        f"{machine.engine_step_s * 1000:.0f} ms a step besides",
        f"the learner reaches {learner_share(machine):.0%} of peak operations (published learners on GPUs: 3 to 36 %)",
        f"a version travels at {PUBLISH_BYTES_S / 1e9:.0f} GB/s through host memory",
        ("attention over spans" if shares_prompts(plan.config, architecture) else "attention with an explicit mask")
        + f"; peaks of {machine.name}: {machine.source}",
    ]
    if architecture.moe_layers and architecture.family in RUNS_ALL_EXPERTS:
        notes.append("every expert computes every token, as in transformers' code")
    elif architecture.moe_layers:
        notes.append("experts compute in float32, as torch's grouped products do under autocast")
    if plan.config.model.lora.rank and plan.config.model.lora.targets != "all-linear":
        notes.append("adapters are counted on all linear layers: those of model.lora.targets alone take less")
    if architecture.left_out:
        notes.append(f"not counted: {', '.join(architecture.left_out)}")
    return [f"- {note}" for note in notes]
