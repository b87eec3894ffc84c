"""Curves of a run as small inline SVG. Their colours are CSS variables, so one drawing serves light and dark.

No text of the run gets into an SVG: titles and legends are HTML, and the page escapes them.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from numpy.typing import NDArray

from rlvr.metrics import MetricRecord
from rlvr.readable import number

# matplotlib draws in these; the page's stylesheet says what they look like.
_INK, _RULE = "#010101", "#020202"
_SERIES = ("#030301", "#030302", "#030303", "#030304", "#030305", "#030306", "#030307")
_VARIABLES = {_INK: "var(--chart-ink)", _RULE: "var(--rule)"} | {c: f"var(--s{i})" for i, c in enumerate(_SERIES, 1)}

MOST_POINTS = 400  # of a curve; more are averaged in equal spans of steps
_MOST_SHARES = 100  # columns of the stacked chart
_SMOOTH_FROM = 30  # a curve of as many points gets a running mean
_MOST_PARTS = 4  # parts of the reward that are drawn

STAGES = ("wait_rollouts", "make_rows", "ask_teachers", "learn", "publish", "evaluate", "record", "checkpoint")


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a legend. `colour` counts from 1; `last` is the newest value."""

    label: str
    colour: int
    last: float | None


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawn curve, or several. `svg` holds nothing that a run wrote; the other texts must be escaped."""

    title: str
    unit: str
    keys: list[Key]
    svg: str


@dataclass(frozen=True, slots=True)
class _Curve:
    label: str
    metric: str
    marked: bool = False  # few points, each of its own


@dataclass(frozen=True, slots=True)
class _Plan:
    title: str
    unit: str
    curves: list[_Curve]
    to_one: bool = False


def draw_charts(records: Sequence[MetricRecord]) -> list[Chart]:
    """All charts for which the run has numbers."""
    charts = [chart for plan in _plans(records) if (chart := _draw(plan, records)) is not None]
    shares = _draw_shares(records)
    return [*charts, shares] if shares is not None else charts


def series(records: Sequence[MetricRecord], metric: str) -> dict[int, float]:
    """Step to value, in order; of a step that was logged twice, as after a resume, the later line counts."""
    values = {record.step: record.values[metric] for record in records if metric in record.values}
    return dict(sorted(values.items()))


def running_mean_width(points: int) -> int:
    """Over how many neighbouring points the thick line is a mean; 1 when there is no thin line."""
    return max(5, points // 15) | 1 if points >= _SMOOTH_FROM else 1


def _plans(records: Sequence[MetricRecord]) -> list[_Plan]:
    names = {name for record in records for name in record.values}
    tries = sorted(int(n.removeprefix("evaluation/pass@")) for n in names if n.startswith("evaluation/pass@"))
    verifiers = sorted(name for name in names if name.startswith("evaluation/accuracy/"))
    parts = sorted(name for name in names if name.startswith("reward/part/"))
    if len(parts) == 1:  # the whole reward: one line says it
        parts = []
    return [
        _Plan(
            "Held-out accuracy",
            "share of tasks",
            [_Curve(f"pass@{k}", f"evaluation/pass@{k}", marked=True) for k in sorted({*tries[:1], *tries[-1:]})]
            + [_Curve(name.rpartition("/")[2], name, marked=True) for name in verifiers[:_MOST_PARTS]],
            to_one=True,
        ),
        _Plan(
            "Reward",
            "mean score of an answer",
            [_Curve("all", "reward/mean")]
            + [_Curve(part.removeprefix("reward/part/"), part) for part in parts[:_MOST_PARTS]],
        ),
        _Plan(
            "Answer length",
            "tokens",
            [
                _Curve("training", "answer/mean_tokens"),
                _Curve("held-out", "evaluation/mean_tokens", marked=True),
            ],
        ),
        _Plan(
            "Staleness of trained tokens",
            "policy versions",
            [_Curve("mean", "staleness/mean"), _Curve("oldest", "staleness/max")],
        ),
        _Plan(
            "Tokens per second",
            "tokens/s",
            [
                _Curve("sampled", "throughput/sampled_tokens_per_s"),
                _Curve("trained", "throughput/trained_tokens_per_s"),
            ],
        ),
        _Plan(
            "Who is busy",
            "share of the time",
            [
                _Curve("generator", "time/generator_busy_share"),
                _Curve("learner", "time/learner_busy_share"),
            ],
            to_one=True,
        ),
        _Plan(
            "Mismatch of sampler and learner",
            "KL per token, nats",
            [_Curve("KL", "learner/mismatch_kl")],
        ),
        _Plan(
            "Off-policy correction",
            "share",
            [
                _Curve("effective sample size", "learner/effective_sample_size"),
                _Curve("masked tokens", "learner/masked_share"),
            ],
            to_one=True,
        ),
        _Plan(
            "Cross-entropy",
            "nats per token",
            [
                _Curve("training", "learner/cross_entropy"),
                _Curve("held-out", "evaluation/cross_entropy", marked=True),
            ],
        ),
        _Plan("Divergence from the teacher", "nats per token", [_Curve("policy", "learner/divergence")]),
        _Plan("Entropy", "nats per token", [_Curve("policy", "learner/entropy")]),
        _Plan("Gradient norm", "before clipping", [_Curve("norm", "learner/grad_norm")]),
        _Plan(
            "Truncated answers",
            "share of answers",
            [
                _Curve("training", "answer/truncated_share"),
                _Curve("held-out", "evaluation/truncated_share", marked=True),
            ],
        ),
    ]


# ---------------------------------------------------------------- drawing

Points = NDArray[np.float64]


def _draw(plan: _Plan, records: Sequence[MetricRecord]) -> Chart | None:
    keys: list[Key] = []
    figure, axes = _empty_chart()
    for curve in plan.curves:
        values = {step: value for step, value in series(records, curve.metric).items() if math.isfinite(value)}
        if not values:
            continue
        keys.append(Key(curve.label, len(keys) + 1, list(values.values())[-1]))
        steps, heights = averaged(values, MOST_POINTS)
        _add_curve(axes, steps, heights, curve, len(keys))
    if not keys:
        return None
    _scale(axes, plan)
    _show_lone_step(axes)
    return Chart(plan.title, plan.unit, keys, _to_svg(figure, plan.title))


def _add_curve(axes: Axes, steps: Points, heights: Points, curve: _Curve, place: int) -> None:
    """`place` counts from 1; the first curve lies on top."""
    style: dict[str, Any] = {"color": _SERIES[place - 1], "zorder": 10 - place}
    width = running_mean_width(len(steps))
    if curve.marked or len(steps) < 3:
        axes.plot(steps, heights, linewidth=1.7, marker="o", markersize=3.5, **style)
    elif width == 1:
        axes.plot(steps, heights, linewidth=1.7, **style)
    else:
        axes.plot(steps, heights, linewidth=0.7, alpha=0.5, **style)
        axes.plot(steps, _running_mean(heights, width), linewidth=1.9, **style)


def _scale(axes: Axes, plan: _Plan) -> None:
    low, high = axes.get_ylim()
    if plan.to_one:
        axes.set_ylim(min(low, -0.02), max(high, 1.02))
        axes.yaxis.set_major_locator(MultipleLocator(0.25))
    elif low > 0 and low < 0.75 * high:
        axes.set_ylim(bottom=0)


def _show_lone_step(axes: Axes) -> None:
    """Where there is one step, its number alone: matplotlib would put fractions of steps around it."""
    low, high = axes.dataLim.intervalx
    if low == high:
        axes.set_xlim(low - 0.5, low + 0.5)
        axes.set_xticks([low], [f"{low:.0f}"])


def _draw_shares(records: Sequence[MetricRecord]) -> Chart | None:
    """Seconds of each stage over those of the step; `other` is what no stage holds."""
    whole = series(records, "time/step_s")
    steps = [step for step, seconds in whole.items() if seconds > 0]
    if not steps:
        return None
    shares: dict[str, dict[int, float]] = {}
    for stage in STAGES:
        seconds = series(records, f"time/{stage}_s")
        if any(seconds.values()):
            shares[stage] = {step: seconds.get(step, 0.0) / whole[step] for step in steps}
    shares["other"] = {step: max(0.0, 1 - sum(share[step] for share in shares.values())) for step in steps}
    figure, axes = _empty_chart()
    layers = [averaged(share, _MOST_SHARES) for share in shares.values()]
    colours = [_SERIES[i % len(_SERIES)] for i in range(len(layers) - 1)] + [_RULE]
    for (middle, bottom, top), colour in zip(_stacked(layers), colours, strict=True):
        if len(middle) == 1:
            axes.bar(middle, top - bottom, 1.0, bottom, color=colour, linewidth=0)
        else:
            axes.fill_between(middle, bottom, top, color=colour, linewidth=0.3)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_locator(MultipleLocator(0.25))
    axes.margins(x=0)
    if len(steps) == 1:
        axes.set_xticks(steps, [str(step) for step in steps])
    keys = [Key(name.replace("_", " "), i % len(_SERIES) + 1, None) for i, name in enumerate(shares)]
    keys[-1] = Key("other", 0, None)
    title = "Where the time of a step goes"
    return Chart(title, "share of the step", keys, _to_svg(figure, title))


def _stacked(layers: list[tuple[Points, Points]]) -> list[tuple[Points, Points, Points]]:
    bottoms = np.cumsum([np.zeros_like(layers[0][1]), *(heights for _, heights in layers)], axis=0)
    return [(steps, bottoms[i], bottoms[i + 1]) for i, (steps, _) in enumerate(layers)]


def averaged(values: dict[int, float], most: int) -> tuple[Points, Points]:
    """At most `most` points: means of the steps and values of equal runs of neighbours."""
    steps, heights = np.array(list(values), dtype=float), np.array(list(values.values()), dtype=float)
    if len(steps) <= most:
        return steps, heights
    spans = np.array_split(np.arange(len(steps)), most)
    return np.array([steps[s].mean() for s in spans]), np.array([heights[s].mean() for s in spans])


def _running_mean(heights: Points, width: int) -> Points:
    """Over `width` neighbours, fewer at both ends, so that nothing is invented there."""
    kernel = np.ones(width)
    return np.convolve(heights, kernel, "same") / np.convolve(np.ones_like(heights), kernel, "same")


def _empty_chart() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.0, 2.5), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_RULE)
    axes.tick_params(which="both", colors=_INK, labelsize=10, length=0, pad=4)
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.set_xlabel("step", color=_INK, fontsize=10, loc="right", labelpad=-1)
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    return figure, axes


def _to_svg(figure: Figure, name: str) -> str:
    """Without the prologue, the metadata, and ids that nothing refers to: many of these stand on one page."""
    out = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    # `name` salts the ids that are referred to, so that those of two charts differ.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata=nothing)
    root, body = out.getvalue()[out.getvalue().index("<svg") :].split(">", 1)
    for unneeded in (r"<!--.*?-->", r"<metadata>.*?</metadata>", r"<style.*?</style>", r'<g id="[^"]*"/>'):
        body = re.sub(unneeded, "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    body = re.sub(r" font-family: [^;]*;| transform=\"rotate\(-?0 [^)]*\)\"", "", body)  # the page's font
    body = re.sub(r"<[^>]*>", _with_short_coordinates, body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    view = re.search(r'viewBox="[^"]*"', root)
    svg = f'<svg {view[0] if view else ""} role="img">{body}'
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg


def _with_short_coordinates(tag: re.Match[str]) -> str:
    """Hundredths of the 360 units of a chart's width; text between tags, such as a tick's label, is left alone."""
    return re.sub(r"\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", tag[0])
