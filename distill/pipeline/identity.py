"""What a stage is made of, as hashes. Two runs of a stage with the same identity would make the same thing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvr.distill.pipeline.recipe import OUT, Stage, filled

_BLOCK = 1 << 20
Identity = dict[str, str]


def hash_of(path: Path) -> str:
    """SHA-256 of a file's bytes, or of a folder's files with their names."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        if file != path:
            digest.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as opened:
            while block := opened.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def identity_of(stage: Stage, hashes: Mapping[str, str]) -> Identity:
    """Each setting of a stage by its path, with the hashes of inputs and outputs in the place of their names."""
    return {"verb": stage.verb, **_named(_tree(stage), hashes)}


def evaluation_identity(asked: Mapping[str, Any], hashes: Mapping[str, str], policy_hash: str) -> Identity:
    """What is asked of which policy."""
    return {"policy": f"sha256:{policy_hash}", **_named(asked, hashes)}


def differences(before: Mapping[str, str], now: Mapping[str, str], stage: Stage) -> list[str]:
    """What is not as it was, one line a setting; `now` is the identity of the stage as it stands."""
    lines = []
    written = dict(_leaves(_tree(stage), ""))
    for key in sorted({*before, *now}):
        old, new = before.get(key, "unset"), now.get(key, "unset")
        if old != new:
            changed = "sha256:" in old and "sha256:" in new
            lines.append(f"{key}: {written[key]} has changed" if changed else f"{key}: was {old}, is {new}")
    return lines


def _tree(stage: Stage) -> Mapping[str, Any]:
    return {"settings": stage.settings, "arguments": stage.arguments, "options": stage.options}


def _named(tree: Mapping[str, Any], hashes: Mapping[str, str]) -> Identity:
    return dict(_leaves(filled(tree, lambda name: "${out}" if name == OUT else f"sha256:{hashes[name]}"), ""))


def _leaves(value: Any, path: str) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list) and value:
        return [leaf for place, inner in enumerate(value) for leaf in _leaves(inner, f"{path}[{place}]")]
    return [(path, json.dumps(value, sort_keys=True, default=str))]
