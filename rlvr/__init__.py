"""Reinforcement learning with verifiable rewards.

    import rlvr

    @rlvr.reward
    def right(completion, answer):
        return float(completion.strip().endswith(answer))

    run = rlvr.train(model="path/or/name", data="tasks.jsonl", reward=right)

Names are loaded when first used, so that `import rlvr` costs nothing in a process that scores answers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlvr.api import evaluate, sft, train
    from rlvr.config import Config
    from rlvr.reward_function import LinearWeight, Reward, inline_reward, reward
    from rlvr.types import Outcome, Score, Task

__version__ = "0.1.0"
__all__ = [
    "Config",
    "LinearWeight",
    "Outcome",
    "Reward",
    "Score",
    "Task",
    "evaluate",
    "inline_reward",
    "reward",
    "sft",
    "train",
]

_HOME = {
    "Config": "rlvr.config",
    "LinearWeight": "rlvr.reward_function",
    "Outcome": "rlvr.types",
    "Reward": "rlvr.reward_function",
    "Score": "rlvr.types",
    "Task": "rlvr.types",
    "evaluate": "rlvr.api",
    "inline_reward": "rlvr.reward_function",
    "reward": "rlvr.reward_function",
    "sft": "rlvr.api",
    "train": "rlvr.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rlvr' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)
