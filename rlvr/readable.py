"""Numbers and times as people read them, for the console and the report."""

from __future__ import annotations

import math


def number(value: float | None) -> str:
    """Three digits that count: 0.123, 12.3, 1,234, 56.8k. A dash where there is no number."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    size = abs(value)
    if size >= 1e15:
        return f"{value:.2e}"
    for limit, unit, name in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if size >= limit:
            return f"{value / unit:.3g}{name}" if size / unit < 1000 else f"{value / unit:,.0f}{name}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def count(value: float) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """The two largest units: 45 s, 3 min 12 s, 2 h 5 min, 1 d 4 h."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"
