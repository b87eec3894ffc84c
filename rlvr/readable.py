"""Numbers and times as people read them, for the console and the report."""

from __future__ import annotations

import math


def number(value: float | None) -> str:
    """Three digits that count: 0.123, 12.3, 1,234, 56.8k, 2.50e-05. A dash where there is no number."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    rounded = float(f"{value:.3g}")
    size = abs(rounded)
    if size >= 1e12 or 0 < size < 1e-4:
        return f"{value:.2e}"
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= max(unit, 1e4):
            return f"{rounded / unit:.3g}{name}"
    return f"{value:,.0f}" if size >= 1000 else f"{rounded:.3g}"


def count(value: float) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """The two largest units: 45 s, 3 min 12 s, 2 h 5 min, 1 d 4 h."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"
