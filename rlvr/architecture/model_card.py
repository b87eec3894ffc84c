"""The head of a model's card: what its README says in YAML before its text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


class CardError(ValueError):
    """A card whose head is not YAML."""


def card_head(card: Path) -> Mapping[str, Any]:
    """The YAML between the first two lines of `---`; empty where there is no card, or no head. Raises CardError."""
    if not card.is_file():
        return {}
    parts = card.read_text(encoding="utf-8", errors="replace").split("---", 2)
    if parts[0].strip() or len(parts) < 3:
        return {}
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise CardError(f"{card}: its head is not YAML: {error}") from None
    return head if isinstance(head, dict) else {}
