"""Who may import whom, read from the source of all five folders; and that the nouns are cheap to import."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEIGHBOURS = ("rlvr.rewards", "rlvr.envs", "rlvr.distill", "rlvr.sandbox")
BOTTOM = {
    "types",
    "busy_server",
    "config",
    "reward_function",
    "env",
    "workers",
    "weights",
}
PLACES = {"cluster", "actors", "learner_handle", "placement"}
TRAINS = PLACES | {"training", "supervised", "api", "cli", "submit", "prepare", "evaluate_alone", "errors", "export"}


@dataclass(frozen=True)
class Import:
    """One imported name, as seen by Python: `from rlvr import types` is `rlvr.types`."""

    file: str
    name: str
    at_top: bool  # of the module, and not only for the type checker


@functools.cache
def imports_of(path: Path) -> list[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    later: set[ast.AST] = set()
    for node in ast.walk(tree):
        is_typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if is_typing or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            later |= {inner for inner in ast.walk(node) if inner is not node}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who is imported"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [Import(str(path.relative_to(ROOT)), name, node not in later) for name in names]
    return found


def files_of(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def ours(folder: str) -> list[Import]:
    return [i for path in files_of(folder) for i in imports_of(path) if i.name.split(".")[0] == "rlvr"]


def is_within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def offenders(imports: list[Import], *allowed: str) -> list[str]:
    return [f"{i.file} imports {i.name}" for i in imports if not is_within(i.name, *allowed)]


def engine_imports(room: str) -> list[Import]:
    """Imports of one room of the engine: a folder, or a module beside the folders."""
    path = ROOT / "rlvr" / room
    paths = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    return [i for p in paths if p.exists() for i in imports_of(p) if i.name.split(".")[0] == "rlvr"]


def test_the_reader_of_imports_sees_all_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / "a.py"
    file.write_text(
        "import os.path\nfrom rlvr import types\nif TYPE_CHECKING:\n    import torch\ndef f():\n    import ray\n"
    )
    assert imports_of(file) == [
        Import("a.py", "os.path", True),
        Import("a.py", "rlvr.types", True),
        Import("a.py", "torch", False),
        Import("a.py", "ray", False),
    ]


def test_the_sandbox_knows_nothing_of_ours() -> None:
    assert offenders(ours("sandbox"), "rlvr.sandbox") == []


def test_the_engine_imports_none_of_its_neighbours() -> None:
    guests = files_of("rlvr/demo")  # the demo is a run of its own, with a reward and an env
    imports = [i for path in files_of("rlvr") if path not in guests for i in imports_of(path)]
    assert [f"{i.file} imports {i.name}" for i in imports if is_within(i.name, *NEIGHBOURS)] == []


def test_rewards_know_the_bottom_of_the_engine_and_the_sandbox() -> None:
    allowed = ("rlvr.types", "rlvr.busy_server", "rlvr.reward_function", "rlvr.workers", "rlvr.sandbox", "rlvr.rewards")
    assert offenders(ours("rewards"), *allowed) == []


def test_envs_know_engine_types_rewards_and_the_sandbox() -> None:
    allowed = (
        "rlvr.types",
        "rlvr.env",
        "rlvr.reward_function",
        "rlvr.workers",
        "rlvr.rewards",
        "rlvr.sandbox",
        "rlvr.envs",
    )
    assert offenders(ours("envs"), *allowed) == []


def test_distill_knows_the_engine_and_rewards() -> None:
    imports = ours("distill")
    assert [f"{i.file} imports {i.name}" for i in imports if is_within(i.name, "rlvr.envs", "rlvr.sandbox")] == []


def test_the_bottom_of_the_engine_imports_nothing_above_it() -> None:
    allowed = tuple(f"rlvr.{module}" for module in sorted(BOTTOM))
    imports = [i for module in sorted(BOTTOM) for i in engine_imports(module)]
    assert offenders(imports, *allowed) == []


@pytest.mark.parametrize("room", ["generate", "rollout", "learn"])
def test_generate_rollout_and_learn_do_not_know_each_other(room: str) -> None:
    others = [f"rlvr.{other}" for other in ("generate", "rollout", "learn") if other != room]
    above = [f"rlvr.{module}" for module in sorted(TRAINS)]
    imports = engine_imports(room)
    assert imports, f"rlvr/{room} was not found"
    assert [f"{i.file} imports {i.name}" for i in imports if is_within(i.name, *others, *above)] == []


def test_architecture_stands_alone_and_plan_knows_it_and_the_config() -> None:
    """Both are read before anything is started: they neither start nor load what is large."""
    assert offenders(engine_imports("architecture"), "rlvr.architecture") == []
    allowed = ("rlvr.architecture", "rlvr.plan", "rlvr.config", "rlvr.readable")
    assert offenders(engine_imports("plan"), *allowed) == []
    names = {i.name for room in ("architecture", "plan") for p in files_of(f"rlvr/{room}") for i in imports_of(p)}
    assert [name for name in names if is_within(name, "torch", "transformers", "ray", "vllm")] == []


def test_only_those_who_place_roles_and_move_weights_know_ray() -> None:
    allowed = {"rlvr/cluster.py", "rlvr/actors.py", "rlvr/submit.py", "rlvr/weights.py", "rlvr/weights/transport.py"}
    imports = [i for path in files_of("rlvr", "rewards", "envs", "distill", "sandbox") for i in imports_of(path)]
    assert {i.file for i in imports if is_within(i.name, "ray")} <= allowed
    assert [i.file for i in imports if is_within(i.name, "ray") and i.at_top] == [], "imported when used, not before"


def test_only_the_vllm_engines_know_vllm() -> None:
    imports = [i for path in files_of("rlvr", "rewards", "envs", "distill", "sandbox") for i in imports_of(path)]
    knowing = {i.file for i in imports if is_within(i.name, "vllm")}
    assert [file for file in knowing if not file.startswith("rlvr/generate/vllm")] == []


def test_the_nouns_are_cheap_to_import() -> None:
    program = (
        "import sys, rlvr, rlvr.types, rlvr.reward_function, rlvr.env, rlvr.workers.pool\n"
        "print(*sorted({'torch', 'ray', 'transformers', 'vllm', 'datasets', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []


def test_no_module_takes_the_name_of_a_function_of_the_package() -> None:
    """Importing `rlvr.train` as a module would put it in the place of the function `rlvr.train`."""
    import rlvr

    modules = {path.stem for path in Path(rlvr.__file__).parent.iterdir()}
    assert not modules & set(rlvr.__all__)
