"""Finds a model's facts: in a folder, among those that come with rlvr, or in the Hugging Face hub."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from rlvr.architecture.facts import Architecture, UnknownArchitecture
from rlvr.architecture.families import read_architecture
from rlvr.architecture.model_card import CardError, card_head


class ModelNotFound(ValueError):
    """No config under this name. The message says where was looked and which names are known."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model by name. `licence` is None where nothing says it."""

    name: str
    architecture: Architecture
    licence: str | None


def find_model(name: str, *, ask_hub: bool = True) -> Model:
    """The facts of a folder with a config.json, of a shipped short name or hub name, or of another hub name.

    Raises ModelNotFound, and UnknownArchitecture where the config is there and cannot be counted. The network is
    asked only for a hub name that is neither shipped nor in the hub's local cache, and only with `ask_hub`.
    """
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelNotFound(f"{name}: the folder has no config.json; is it a Hugging Face folder?")
        return _from_files(name, folder / "config.json", folder / "README.md")
    if folder.is_file():
        raise ModelNotFound(f"{name} is a file: name the folder that it is in")
    shipped = _shipped()
    key = name.lower()
    if key in shipped:
        return shipped[key]
    if "/" in name and not name.startswith((".", "/", "~")):
        return _from_hub(name, ask_hub)
    near = difflib.get_close_matches(key, shipped_names(), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ModelNotFound(
        f"{name}: neither a folder (looked from {Path.cwd()}), nor a hub name (owner/name), nor a model whose facts "
        f"are shipped; {hint}shipped: {', '.join(shipped_names())}"
    )


@cache
def shipped_names() -> tuple[str, ...]:
    """The short names of the models whose facts come with rlvr."""
    return tuple(sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml")))


def shipped_config(name: str) -> dict[str, Any]:
    """The facts of a shipped model as they are in its file, keys as in a config.json."""
    config: dict[str, Any] = _read(name)["config"]
    return config


@cache
def _shipped() -> Mapping[str, Model]:
    """By short name and by hub name, in lower case."""
    found: dict[str, Model] = {}
    for short in shipped_names():
        facts = _read(short)
        architecture = read_architecture(facts["config"], short)
        left_out = (*architecture.left_out, *facts.get("left_out", []))
        model = Model(facts["name"], replace(architecture, left_out=left_out), facts["licence"])
        found |= {name.lower(): model for name in (short, *facts["hub"])}
    return found


def _read(short: str) -> dict[str, Any]:
    facts: dict[str, Any] = yaml.safe_load((_folder() / f"{short}.yaml").read_text(encoding="utf-8"))
    return facts


def _folder() -> Any:
    return files("rlvr.architecture") / "models"


def _from_files(name: str, config: Path, card: Path) -> Model:
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnknownArchitecture(f"{config} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise UnknownArchitecture(f"{config} holds no settings: expected an object, found a {type(values).__name__}")
    return Model(name, read_architecture(values, str(config)), _licence_of(card))


def _licence_of(card: Path) -> str | None:
    try:
        said = card_head(card).get("license")
    except CardError:
        return None  # whoever trains on this model's outputs is told; here it is a word in a table
    return str(said) if said is not None else None


def _from_hub(name: str, ask: bool) -> Model:
    config = _hub_file(name, "config.json", ask=False) or (_hub_file(name, "config.json", ask=True) if ask else None)
    if config is None:
        raise ModelNotFound(
            f"{name}: no such folder (looked from {Path.cwd()}), and as a hub name its config.json is not in the hub's "
            "local cache, and the hub has none or does not answer; without a network, name a folder or one of "
            f"{', '.join(shipped_names())}"
        )
    card = _hub_file(name, "README.md", ask=ask)
    return _from_files(name, config, card or config.with_name("README.md"))


def _hub_file(name: str, file: str, *, ask: bool) -> Path | None:
    """A file of a hub's repository, or None where it cannot be had."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(name, file, local_files_only=not ask))
    except (OSError, ValueError):
        return None
