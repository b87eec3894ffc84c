"""The Python API: `rlvr.train`, `rlvr.sft` and `rlvr.evaluate`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlvr.config import Config
from rlvr.config_loading import load_config, merge
from rlvr.reward_function import Reward
from rlvr.reward_function import reward as as_reward
from rlvr.run_folder import RunFolder, refuse_used

if TYPE_CHECKING:
    from rlvr.evaluation import EvaluationReport
    from rlvr.learn.own import WeightsOfGroups
    from rlvr.supervised.run import SupervisedResult
    from rlvr.training import RunResult, Teaching

T = TypeVar("T")
RewardLike = str | Reward | Callable[..., Any]
RewardSetting = RewardLike | Sequence[RewardLike] | Mapping[str, Any]
Rows = Iterable[Mapping[str, Any]]


def train(
    model: str | None = None,
    data: str | Rows | Mapping[str, Any] | None = None,
    reward: RewardSetting | None = None,
    *,
    algorithm: str | Mapping[str, Any] | WeightsOfGroups | None = None,
    evaluation_data: str | Rows | Mapping[str, Any] | None = None,
    config: Path | str | None = None,
    resume: bool = False,
    **settings: Any,
) -> RunResult:
    """Train a model by reinforcement learning, and return what the run left.

    `model`: a folder in Hugging Face form, a hub name, or `tiny`. `data`: a path, a hub name, rows in memory
    (dictionaries or a `datasets.Dataset`), or the settings of the section `data`, whose `path` may be rows as well.
    `reward`: a short name, `module:function`, a function, or several of them; the first says what is right when
    held-out answers are counted. `rlvr.reward`, `Reward.bind` and `Reward.weighted` give one its name, arguments and
    weight. Or the settings of the section `reward`, whose `functions` may be functions as well:
    `reward={"functions": [right, "format"], "combine": "gate"}`. `algorithm`: a preset's name, the settings of the
    section `algorithm`, or a function from groups to the weight of each token (docs/losses.md). `settings` are those
    of `rlvr.config.Config`, sections as dictionaries: `train(..., steps=50, rollout={"max_staleness": 0})`. `config`
    is a YAML file below all of these.

    Raises ConfigError, DataError, RewardError or PreparationError before anything is started, and RolloutError for a
    resume with another `rollout.group_size` or other tasks.
    """
    run_dir = Path(settings.pop("run_dir", None) or new_run_dir())
    if not resume:
        refuse_used(RunFolder(run_dir))  # before rows in memory are written into it
    tree = merge(_tree(model, settings) | {"run_dir": str(run_dir)}, _data_tree(data, evaluation_data, run_dir, resume))
    rewards, named = _reward_setting(reward)
    own = algorithm if callable(algorithm) else None
    named |= {"algorithm": None if callable(algorithm) else algorithm}
    checked = load_config([config] if config else [], [], _without_none(merge(tree, named)))
    return run_config(checked, rewards, own, resume=resume)


def sft(
    model: str | None = None,
    data: str | Rows | Mapping[str, Any] | None = None,
    *,
    evaluation_data: str | Rows | Mapping[str, Any] | None = None,
    config: Path | str | None = None,
    resume: bool = False,
    **settings: Any,
) -> SupervisedResult:
    """Fine-tune a model on examples, and return what the run left.

    Rows of `data` have a prompt (text or messages) and a completion, or a prompt that is a whole conversation, of
    which the assistant's turns are learned. The other arguments are those of `train`:
    `rlvr.sft("tiny", rows, sft={"epochs": 2}, learner={"learning_rate": 1e-5})`.

    Raises ConfigError, DataError or PreparationError before anything is started.
    """
    from rlvr.supervised.run import prepare_sft, run_supervised

    run_dir = Path(settings.pop("run_dir", None) or new_run_dir())
    if not resume:
        refuse_used(RunFolder(run_dir))
    tree = merge(_tree(model, settings) | {"run_dir": str(run_dir)}, _data_tree(data, evaluation_data, run_dir, resume))
    checked = load_config([config] if config else [], [], _without_none(tree))
    return run_coroutine(run_supervised(prepare_sft(checked), resume=resume))


def run_config(
    config: Config,
    rewards: Sequence[Reward] | None = None,
    algorithm: WeightsOfGroups | None = None,
    *,
    resume: bool,
    teaching: Teaching | None = None,
) -> RunResult:
    """Train as a checked config says. Rewards and an algorithm given as objects take the place of those it names."""
    from rlvr.cluster import disconnect_ray
    from rlvr.console import Console
    from rlvr.prepare import open_run, prepare, refuse_what_cannot_fit
    from rlvr.training import train as run_training

    config = with_run_dir(config)
    refuse_what_cannot_fit(config)
    job = replace(prepare(config, rewards), algorithm=algorithm)
    folder, checkpoint = open_run(config, resume=resume)
    if checkpoint is not None:
        saved = checkpoint.rollouts()
        saved.refuse_other_group_size(config.rollout.group_size)
        saved.refuse_other_tasks(job.tasks.tasks)
        if teaching is not None:
            checkpoint.teaching()  # or it says that there is nothing to go on from
    with Console(config.steps) as console:
        try:
            return run_coroutine(run_training(job, folder, checkpoint, console, teaching))
        finally:
            if config.cluster.backend == "ray":
                disconnect_ray()


def evaluate(
    model: str,
    data: str | Rows | Mapping[str, Any],
    reward: RewardSetting,
    *,
    config: Path | str | None = None,
    **settings: Any,
) -> EvaluationReport:
    """Answer held-out tasks with a model as it is: pass@1, pass@k, mean length, truncated share.

    The arguments are those of `train`; `evaluation={"samples": 8, "temperature": 1.0}` sets how it is sampled.
    """
    from rlvr.evaluate_alone import evaluate_alone
    from rlvr.prepare import prepare

    folder = Path(settings.pop("run_dir", None) or new_run_dir())
    data_setting = _data_setting(data, folder / "data" / "held_out.jsonl")
    rewards, named = _reward_setting(reward)
    both = {"data": data_setting, "evaluation": {"data": data_setting}} | named
    checked = load_config([config] if config else [], [], merge(_tree(model, settings), both))
    return run_coroutine(evaluate_alone(prepare(checked, rewards)))


def new_run_dir() -> Path:
    """A folder under runs/ that is named by the moment."""
    return Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]


def with_run_dir(config: Config) -> Config:
    """The config with its run's folder settled."""
    return config if config.run_dir else config.model_copy(update={"run_dir": new_run_dir()})


def run_coroutine(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, also where a loop runs already (a notebook): then on a thread with a loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="rlvr")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _tree(model: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    return merge({"model": model} if model is not None else {}, settings)


def _data_tree(
    data: str | Rows | Mapping[str, Any] | None,
    held_out: str | Rows | Mapping[str, Any] | None,
    run_dir: Path,
    resume: bool,
) -> dict[str, Any]:
    """What the config says of training and held-out data; rows in memory become files of the run."""
    return _without_none(
        {
            "data": _data_setting(data, run_dir / "data" / "train.jsonl", resume=resume),
            "evaluation": {"data": _data_setting(held_out, run_dir / "data" / "held_out.jsonl")},
        }
    )


def _data_setting(data: str | Path | Rows | Mapping[str, Any] | None, file: Path, *, resume: bool = False) -> Any:
    """A setting as it is; rows in memory as a file of the run, which a resume and a reader can open.

    Where the run goes on with them they must be the same. Raises DataError.
    """
    if isinstance(data, Mapping):
        return {**data, "path": _data_setting(data.get("path"), file, resume=resume)}
    if data is None or isinstance(data, (str, Path)):
        return None if data is None else str(data)
    from rlvr.data import refuse_other_rows, write_rows

    if resume and file.exists():
        refuse_other_rows(data, file)
    else:
        write_rows(data, file)
    return str(file)


def _reward_setting(reward: RewardSetting | None) -> tuple[list[Reward] | None, dict[str, Any]]:
    """Rewards given as objects, and what the config says of them."""
    if reward is None:
        return None, {}
    if isinstance(reward, Mapping):
        rewards, named = _reward_setting(reward.get("functions"))
        return rewards, {"reward": {**reward, **named.get("reward", {})}}
    given = [reward] if isinstance(reward, (str, Reward)) or callable(reward) else list(reward)
    if all(isinstance(r, (str, Mapping)) for r in given):
        return None, {"reward": {"functions": given}}
    rewards = [_as_reward(r) for r in given]
    return rewards, {"reward": {"functions": [{"use": _origin(r), "weight": r.weight} for r in rewards]}}


def _as_reward(given: RewardLike | Mapping[str, Any]) -> Reward:
    if isinstance(given, Reward):
        return given
    if isinstance(given, (str, Mapping)):
        from rlvr.config import RewardSpec
        from rlvr.prepare import load_reward

        return load_reward(RewardSpec.model_validate(given))
    return as_reward(given)


def _origin(reward: Reward) -> str:
    return f"{reward.function.__module__}:{reward.name}"


def _without_none(tree: Mapping[str, Any]) -> dict[str, Any]:
    cleaned = {key: _without_none(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    return {key: value for key, value in cleaned.items() if value is not None and value != {}}
