"""Objects named in a config: a short name, `package.module:name`, or `path/to/file.py:name`.

Short names are entry points, so the engine need not know its neighbours, and other packages can add theirs.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

import cloudpickle


class PluginError(ValueError):
    """A name in the config leads nowhere."""


class CommandError(ValueError):
    """Base of what the engine's neighbours raise for a user to mend: the message is enough."""


def load(group: Literal["rlvr.rewards", "rlvr.envs"], use: str) -> Any:
    """The object that `use` names. Raises PluginError with what is known and where it looked."""
    where, separator, attribute = use.rpartition(":")
    if not separator:
        return _entry_point(group, use)
    if not where or not attribute:
        raise PluginError(f"{use!r}: expected package.module:name or path/to/file.py:name")
    module = _from_file(Path(where)) if where.endswith(".py") else _from_name(where, use)
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        near = difflib.get_close_matches(attribute, public, n=1)
        raise PluginError(f"{use}: {where} has no {attribute!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return getattr(module, attribute)


def commands() -> list[EntryPoint]:
    """What the engine's neighbours, and other packages, add to the command line: each loads as a `typer.Typer`."""
    return sorted(entry_points(group="rlvr.commands"), key=lambda point: point.name)


def short_names(group: str) -> list[str]:
    """Names that may be used without a module."""
    return sorted({point.name for point in entry_points(group=group)})


def _entry_point(group: str, name: str) -> Any:
    found = [point for point in entry_points(group=group) if point.name == name]
    if not found:
        known = short_names(group)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise PluginError(
            f"no {group.removeprefix('rlvr.').rstrip('s')} named {name!r}.{hint} Known names: {', '.join(known)}; "
            f"your own is named as package.module:name or path/to/file.py:name"
        )
    try:
        return found[0].load()
    except (ImportError, AttributeError) as error:
        raise PluginError(f"{name} is {found[0].value}, which cannot be loaded: {error}") from error


def _from_name(name: str, use: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise PluginError(f"{use}: cannot import {name!r} ({error}); is it installed, or on PYTHONPATH?") from None


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise PluginError(f"no file at {path} (looked from {Path.cwd()})")
    name = f"rlvr_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} cannot be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    # Worker processes cannot import it by this name: what it defines travels to them whole.
    cloudpickle.register_pickle_by_value(module)
    return module
