"""A run as one HTML page: how it went, where the time went, and what the model wrote and why it scored so.

The page needs no network and no other file. What a model wrote is untrusted: it travels as JSON that cannot leave
its element, the page's script shows it as text only, and a content policy lets no other script run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import yaml

from rlvr.events import Event, EventKind, read_events
from rlvr.files import replacing
from rlvr.metrics import MetricRecord, read_metrics
from rlvr.readable import count, duration, number
from rlvr.report.charts import MOST_POINTS, Chart, draw_charts, running_mean_width, series
from rlvr.report.fates import stretches_of
from rlvr.report.sample import AnswerKey, Sample, Stretch, sample_held_out, sample_training, to_script
from rlvr.run_folder import RunFolder, RunFolderError

_EDGE = 5  # steps whose mean reward stands for the begin and the end of a run without evaluation
_REASONS = {
    "zero_variance": "all scores of the group were equal: no gradient",
    "too_few_valid": "too many of the group have no verdict",
    "no_verdict": "the reward could not decide",
    "timeout": "the reward did not answer in time",
    "crashed": "the reward raised, or its process died",
    "env_failed": "the episode broke, or outlasted its deadline",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the run's folder tells. `settings` is the config as a tree, which may be of another version of rlvr."""

    name: str
    config_text: str
    settings: dict[str, Any]
    records: list[MetricRecord]
    events: list[Event]
    training: Sample
    held_out: Sample
    fates: dict[AnswerKey, list[Stretch]]

    @property
    def last_step(self) -> int:
        return self.records[-1].step

    @property
    def planned_steps(self) -> int | None:
        steps = self.settings.get("steps")
        return steps if isinstance(steps, int) else None


def write_report(run: RunFolder) -> Path:
    """Write the page from what is there, also while the run goes on. Raises RunFolderError when nothing is."""
    page = _page(_gather(run))
    with replacing(run.report) as partial:
        partial.write_bytes(page.encode("utf-8", "replace"))
    return run.report


def _gather(run: RunFolder) -> Facts:
    if not run.path.is_dir():
        raise RunFolderError(f"{run.path} does not exist: name the folder of a run")
    if not run.metrics.exists():
        raise RunFolderError(f"{run.path} holds no run (no {run.metrics.name}), or its first step is not finished yet")
    records = read_metrics(run.metrics)
    if not records:
        raise RunFolderError(f"{run.metrics} is empty: the run's first step is not finished yet")
    config_text = run.config.read_text(encoding="utf-8") if run.config.exists() else ""
    last_step = records[-1].step
    settings = _parse(config_text, run.config)
    training = sample_training(run, last_step)
    return Facts(
        name=run.path.resolve().name,
        config_text=config_text,
        settings=settings,
        records=records,
        events=read_events(run),
        training=training,
        held_out=sample_held_out(run, last_step),
        fates=stretches_of(run, _at(settings, "model", "name"), training),
    )


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise RunFolderError(f"{path} is not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise RunFolderError(f"{path} holds no settings")
    return tree


def _page(facts: Facts) -> str:
    style, script = _resource("page.css"), _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(_resource("page.html")).substitute(
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'",
        style=style,
        script=script,
        name=_text(facts.name),
        story=_story(facts),
        plain_story=_text(_plain_story(facts)),
        progress=_progress(facts),
        facts=_settings(facts),
        events=_events(facts.events),
        charts="\n".join(map(_chart, draw_charts(facts.records))),
        chart_note=_chart_note(facts.records),
        ledger=_ledger(facts.records),
        sample_note=_sample_note(facts.training, facts.held_out),
        data=to_script(facts.training, facts.held_out, facts.fates),
        metrics=_metrics_table(facts.records),
        config=_text(facts.config_text or "The run left no config.yaml."),
    )


def _resource(name: str) -> str:
    return (files("rlvr.report") / name).read_text(encoding="utf-8")


def _text(value: object) -> str:
    return html.escape(str(value))


# ---------------------------------------------------------------- header


@dataclass(frozen=True, slots=True)
class _Change:
    """What is compared, and its two values; `after` is None where it was measured once."""

    what: str
    before: float
    after: float | None


def _before_and_after(facts: Facts) -> _Change | None:
    """Of the held-out data, else the means of the first and last steps."""
    held_out = (("Held-out accuracy", "evaluation/pass@1"), ("Held-out cross-entropy", "evaluation/cross_entropy"))
    for what, metric in held_out:
        if values := _finite(series(facts.records, metric).values()):
            return _Change(what, values[0], values[-1] if len(values) > 1 else None)
    for what, metric in (("Mean reward", "reward/mean"), ("Cross-entropy", "learner/cross_entropy")):
        if values := _finite(series(facts.records, metric).values()):
            first, last = values[:_EDGE], values[-_EDGE:]
            return _Change(what, sum(first) / len(first), sum(last) / len(last) if len(values) > 1 else None)
    return None


def _story(facts: Facts) -> str:
    found = _before_and_after(facts)
    if found is None:
        return "No score yet"
    if found.after is None:
        return f"{found.what} <b>{found.before:.2f}</b>"
    return f"{found.what} <span class=pair><b>{found.before:.2f}</b> <i>→</i> <b class=now>{found.after:.2f}</b></span>"


def _plain_story(facts: Facts) -> str:
    found = _before_and_after(facts)
    if found is None:
        return "no score yet"
    return f"{found.what} {found.before:.2f}" + (f" → {found.after:.2f}" if found.after is not None else "")


def _progress(facts: Facts) -> str:
    done, planned = facts.last_step, facts.planned_steps
    took = duration(facts.records[-1].wall_s)
    if planned is None or done >= planned:
        return f"{count(done)} steps in {took}"
    return f"<strong class=badge>unfinished</strong> {count(done)} of {count(planned)} steps, {took} so far"


def _settings(facts: Facts) -> str:
    tree = facts.settings
    rewards = _at(tree, "reward", "functions") or []
    named = [str(_at(reward, "use")) for reward in rewards if isinstance(reward, dict)]
    of_rollouts = {
        "Reward": ", ".join(named) or None,
        "Algorithm": _at(tree, "algorithm", "preset"),
        "Max staleness": _with_unit(_at(tree, "rollout", "max_staleness"), "version"),
        "Batch": _batch(_at(tree, "rollout", "groups_per_step"), _at(tree, "rollout", "group_size")),
    }
    of_examples = {"Batch": _with_unit(_at(tree, "sft", "rows_per_step"), "example")}
    pairs = {
        "Model": _at(tree, "model", "name"),
        "Data": _at(tree, "data", "path"),
        **(of_examples if _is_supervised(facts.records) else of_rollouts),
        "Learning rate": _at(tree, "learner", "learning_rate"),
    }
    return "".join(
        f"<div><dt>{name}</dt><dd>{_text(value)}</dd></div>" for name, value in pairs.items() if value is not None
    )


def _is_supervised(records: Sequence[MetricRecord]) -> bool:
    return any("sft/epoch" in record.values for record in records)


def _at(tree: Any, *path: str) -> Any:
    for key in path:
        if not isinstance(tree, dict) or key not in tree:
            return None
        tree = tree[key]
    return tree


def _with_unit(value: Any, unit: str) -> str | None:
    if value is None:
        return None
    return f"{value} {unit}" if value == 1 else f"{value} {unit}s"


def _batch(groups: Any, size: Any) -> str | None:
    return None if groups is None or size is None else f"{groups} tasks × {size} answers"


def _events(events: Sequence[Event]) -> str:
    if not events:
        return ""
    told = {EventKind.NOTE: "note", EventKind.WARNING: "warning", EventKind.FAILURE: "failure"}
    items = "".join(
        f'<li class="{told[event.kind]}"><b>{told[event.kind]}</b> <span>step {count(event.step)}</span> '
        f"<p>{_text(event.text)}</p> <time>{_text(event.at)}</time></li>"
        for event in events
    )
    return f'<section class="events"><h2>What to know first</h2><ul>{items}</ul></section>'


# ---------------------------------------------------------------- curves and tables


def _chart(chart: Chart) -> str:
    keys = "".join(
        f'<li><i style="background:var(--s{key.colour})"></i>{_text(key.label)}'
        + (f" <b>{number(key.last)}</b>" if key.last is not None else "")
        + "</li>"
        for key in chart.keys
    )
    return (
        f"<figure><figcaption><h3>{_text(chart.title)}</h3><span>{_text(chart.unit)}</span></figcaption>"
        f"{chart.svg}<ul>{keys}</ul></figure>"
    )


def _chart_note(records: Sequence[MetricRecord]) -> str:
    steps = len(series(records, "reward/mean"))
    points = min(steps, MOST_POINTS)
    width, note = running_mean_width(points), "Numbers are the newest."
    if width == 1:
        return note
    thin = "steps" if steps == points else f"means of up to {math.ceil(steps / points)} steps"
    return f"Thin lines are {thin}, thick ones the mean of {width} neighbours. {note}"


def _ledger(records: Sequence[MetricRecord]) -> str:
    """Where every answer that was ever asked for is now; the sum is shown, so that a reader can check it."""
    newest = next((record.values for record in reversed(records) if "ledger/issued" in record.values), None)
    if newest is None:
        none = "A supervised run samples none." if _is_supervised(records) else "No step is finished yet."
        return f"<p>{none}</p>"
    issued = newest["ledger/issued"]
    rows = [("trained", "trained", "", newest.get("ledger/trained", 0.0))]
    for state in ("filtered", "failed"):
        reasons = sorted(name for name in newest if name.startswith(f"ledger/{state}/"))
        rows += [(state, state, name.rpartition("/")[2], newest[name]) for name in reasons]
    rows.append(("flight", "in flight", "", newest.get("ledger/in_flight", 0.0)))
    shown = [row for row in rows if row[3] > 0]
    bar = "".join(
        f'<i class="{kind}" style="flex-grow:{value:.0f}" title="{_text(f"{state} {reason}".strip())}"></i>'
        for kind, state, reason, value in shown
    )
    body = "".join(
        f'<tr><th><i class="{kind}"></i>{state}</th><td>{_text(_REASONS.get(reason, reason))}</td>'
        f"<td class=n>{count(value)}</td><td class=n>{value / issued:.1%}</td></tr>"
        for kind, state, reason, value in shown
    )
    total = sum(value for *_, value in rows)
    verdict = "balances" if total == issued else f"does not balance: {count(issued)} were issued"
    foot = f"<tr><th>issued</th><td>{verdict}</td><td class=n>{count(total)}</td><td></td></tr>"
    return f'<div class="bar">{bar}</div><table>{body}<tfoot>{foot}</tfoot></table>'


def _sample_note(training: Sample, held_out: Sample) -> str:
    if not training.answers and not held_out.answers:
        return "The run has not written down any answer yet."
    parts = [
        _part(training, "training answers", "step", "rollouts/"),
        _part(held_out, "held-out answers", "evaluation after step", "evaluations/"),
    ]
    return " ".join(part for part in parts if part)


def _part(sample: Sample, what: str, when: str, folder: str) -> str:
    if not sample.answers:
        return ""
    steps = ", ".join(map(str, sample.steps))
    if sample.answers == sample.answers_on_disk:
        return f"All {count(sample.answers)} {what}."
    return (
        f"{count(sample.answers)} of {count(sample.answers_on_disk)} {what}: whole groups of the first, the last and "
        f"evenly spaced steps ({when} {steps}); all are in <code>{folder}</code>."
    )


def _metrics_table(records: Sequence[MetricRecord]) -> str:
    names = sorted({name for record in records for name in record.values})
    rows = []
    for name in names:
        values = list(series(records, name).values())
        finite = _finite(values) or [math.nan]
        cells = (values[0], values[-1], min(finite), max(finite))
        rows.append(f"<tr><th>{_text(name)}</th>{''.join(f'<td class=n>{number(v)}</td>' for v in cells)}</tr>")
    head = "<tr><th>metric</th><th>first</th><th>last</th><th>least</th><th>most</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]
