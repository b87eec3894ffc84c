"""From YAML files, `key=value` words and keyword arguments to one checked `Config`.

What cannot be is refused with the path of the key, what is allowed there, and the nearest name.
"""

from __future__ import annotations

import difflib
import itertools
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rlvr.config import Config, Section
from rlvr.files import replacing


class ConfigError(ValueError):
    """A config that cannot be run. The message names each key at fault and what to do."""


def load_config(
    files: Iterable[Path | str] = (),
    overrides: Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Config:
    """Merge YAML files, `key=value` words and a tree of settings, the later over the earlier, and check the whole.

    Raises ConfigError.
    """
    return check(merge(read_tree(files, overrides), dict(settings or {})))


def read_tree(files: Iterable[Path | str], overrides: Iterable[str]) -> dict[str, Any]:
    """What YAML files and `key=value` words say together, not checked yet. Raises ConfigError for what is no YAML."""
    tree: dict[str, Any] = {}
    for file in files:
        tree = merge(tree, _read_yaml(Path(file)))
    for word in overrides:
        tree = merge(tree, _parse_override(word))
    return tree


def check(tree: Mapping[str, Any]) -> Config:
    """Validate a tree of settings. Raises ConfigError."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(detail) for detail in error.errors()]
        raise ConfigError("the config cannot be used:\n" + "\n".join(f"  - {line}" for line in lines)) from None


def to_yaml(config: Config) -> str:
    """The resolved config, every setting written out; reading it back gives an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def write_yaml(config: Config, path: Path) -> None:
    """As `to_yaml`, to a file that is whole whenever it can be seen."""
    with replacing(path) as partial:
        partial.write_text(to_yaml(config), encoding="utf-8")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, section by section; a bare value stands for its section's main field."""
    return _merge(dict(base), over, Config)


def _merge(base: dict[str, Any], over: Mapping[str, Any], section: type[Section] | None) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        inner = _section_at(section, key)
        old, new = _expand(merged.get(key), inner), _expand(value, inner)
        if isinstance(old, dict) and isinstance(new, Mapping):
            merged[key] = _merge(old, new, inner)
        else:
            merged[key] = new
    return merged


def _expand(value: Any, section: type[Section] | None) -> Any:
    if section is not None and section.shorthand is not None and isinstance(value, (str, list)):
        return {section.shorthand: value}
    return value


def _section_at(section: type[Section] | None, key: str) -> type[Section] | None:
    if section is None or key not in section.model_fields:
        return None
    annotation = section.model_fields[key].annotation
    choices = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((c for c in choices if isinstance(c, type) and issubclass(c, Section)), None)


def _item_section(section: type[Section] | None, key: str) -> type[Section] | None:
    """The section that a list of sections holds."""
    if section is None or key not in section.model_fields:
        return None
    arguments = typing.get_args(section.model_fields[key].annotation)
    return next((a for a in arguments if isinstance(a, type) and issubclass(a, Section)), None)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"no config file at {path} (looked from {Path.cwd()})")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected settings as `key: value`, found a {type(tree).__name__}")
    return tree


def _parse_override(word: str) -> dict[str, Any]:
    key, separator, text = word.partition("=")
    if not separator or not key:
        raise ConfigError(f"{word!r} is not of the form key=value, for example learner.learning_rate=1e-5")
    tree: Any = _parse_value(text)
    for name in reversed(key.split(".")):
        tree = {name: tree}
    return tree


def _parse_value(text: str) -> Any:
    """YAML, except that 1e-5 is a number (YAML 1.1 wants 1.0e-5) and an empty value is empty text."""
    if text == "":
        return ""
    try:
        return float(text) if "e" in text.lower() and not text.lower().startswith("0x") else yaml.safe_load(text)
    except ValueError:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot read the value {text!r}: {error}") from None


def _explain(detail: ErrorDetails) -> str:
    path = ".".join(str(part) for part in detail["loc"])
    parent, name = _find_section(detail["loc"])
    if detail["type"] == "extra_forbidden" and parent is not None:
        known = list(parent.model_fields)
        hint = f"did you mean {nearest}? " if (nearest := _nearest(path, name, known)) else ""
        return f"{path}: no such setting; {hint}known here: {', '.join(known)}"
    if detail["type"] == "missing":
        about = parent.model_fields[name].description if parent is not None and name in parent.model_fields else None
        return f"{path}: must be set" + (f" ({about})" if about else "")
    if detail["type"] == "value_error":
        reason = detail["msg"].removeprefix("Value error, ")
        return f"{path}: {reason}" if path else reason
    section = parent if detail["loc"] and isinstance(detail["loc"][-1], int) else _section_at(parent, name)
    if detail["type"] == "model_type" and section is not None:
        got = "nothing; leave it out" if detail["input"] is None else f"{detail['input']!r:.80}"
        return f"{path}: a section of settings, got {got}; known in it: {', '.join(section.model_fields)}"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    got = repr(detail["input"])
    near = difflib.get_close_matches(str(detail["input"]), _quoted(detail["msg"]), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{path}: {message}, got {got if len(got) < 80 else got[:77] + '...'}{hint}"


def _nearest(path: str, name: str, known: list[str]) -> str | None:
    """The setting that was meant: the same name in another section, initials (lr), or a near spelling."""
    siblings = [_sibling(path, k) for k in known]
    by_name = [p for p in _all_paths(Config) if p.split(".")[-1] == name]
    by_initials = [p for p in siblings if "".join(w[0] for w in p.split(".")[-1].split("_")) == name]
    by_spelling = [_sibling(path, k) for k in difflib.get_close_matches(name, known, n=1)]
    return next(iter(by_name + by_initials + by_spelling), None)


def _quoted(message: str) -> list[str]:
    return message.split("'")[1::2]


def _sibling(path: str, name: str) -> str:
    return ".".join([*path.split(".")[:-1], name])


def _find_section(location: tuple[int | str, ...]) -> tuple[type[Section] | None, str]:
    section: type[Section] | None = Config
    for part, after in itertools.pairwise(location):
        if isinstance(part, str):
            section = _item_section(section, part) if isinstance(after, int) else _section_at(section, part)
    return section, str(location[-1]) if location else ""


def _all_paths(section: type[Section], prefix: str = "") -> list[str]:
    paths = []
    for name in section.model_fields:
        inner = _section_at(section, name)
        paths += _all_paths(inner, f"{prefix}{name}.") if inner is not None else [f"{prefix}{name}"]
    return paths
