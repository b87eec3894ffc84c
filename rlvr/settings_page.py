"""All settings as a page: `rlvr settings > docs/settings.md`."""

from __future__ import annotations

import types
import typing
from enum import Enum
from typing import Any

from pydantic.fields import FieldInfo

from rlvr.config import Config, DataConfig, Section

_INTRODUCTION = """# Settings

Every setting of a run, as `rlvr settings` prints them. The names are the same in YAML, as `key=value` on the command
line and as keyword arguments in Python. A section with a main field can be given as a bare value: `model=tiny` is
`model.name=tiny`.
"""


def settings_page() -> str:
    """Markdown: one table for each section, with name, type, default, range and why."""
    top = [(name, field) for name, field in Config.model_fields.items() if _section(field) is None]
    parts = [_INTRODUCTION, "## The run\n\n" + _table("", top)]
    parts += [
        _section_part(name, section)
        for name, field in Config.model_fields.items()
        if (section := _section(field)) is not None
    ]
    return "\n".join(parts)


def _section_part(path: str, section: type[Section]) -> str:
    fields = [(name, field) for name, field in section.model_fields.items() if _section(field) is None]
    about = (section.__doc__ or "").strip().splitlines()[0]
    main = f" Its main field is `{path}.{section.shorthand}`." if section.shorthand else ""
    text = f"## {path}\n\n{about}{main}\n\n" + _table(path + ".", fields)
    for name, field in section.model_fields.items():
        inner = _section(field)
        if inner is DataConfig:  # described once, under `data`
            text += f"\n`{path}.{name}` has the settings of `data`.\n"
        elif inner is not None:
            text += "\n" + _section_part(f"{path}.{name}", inner)
    return text


def _table(prefix: str, fields: list[tuple[str, FieldInfo]]) -> str:
    lines = ["| setting | type | default | range | why |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{prefix}{name}` | {_type(field.annotation)} | {_default(field)} | {_range(field)} | {field.description} |"
        for name, field in fields
    ]
    return "\n".join(lines) + "\n"


def _section(field: FieldInfo) -> type[Section] | None:
    choices = (field.annotation, *typing.get_args(field.annotation))
    if typing.get_origin(field.annotation) is list:
        return None
    return next((c for c in choices if isinstance(c, type) and issubclass(c, Section)), None)


def _type(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Annotated:
        return _type(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is typing.Literal:
        return " \\| ".join(f"`{value}`" for value in typing.get_args(annotation))
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return " \\| ".join(_type(a) for a in typing.get_args(annotation) if a is not type(None))
    if typing.get_origin(annotation) is not None:
        inner = ", ".join(_type(a) for a in typing.get_args(annotation))
        return f"{typing.get_origin(annotation).__name__} of {inner}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " \\| ".join(f"`{member.value}`" for member in annotation)
    return str(getattr(annotation, "__name__", annotation)).lower()


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be set"
    value = field.get_default(call_default_factory=True)
    return "unset" if value is None else f"`{value.value if isinstance(value, Enum) else value}`"


def _range(field: FieldInfo) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    bounds = [
        f"{sign} {getattr(bound, name):g}"
        for bound in field.metadata
        for name, sign in signs.items()
        if hasattr(bound, name)
    ]
    return ", ".join(bounds)
