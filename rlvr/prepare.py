"""Everything of a run that can be known before an engine is started: if it is wrong, it is said now."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rlvr import plugins
from rlvr.architecture.catalog import ModelNotFound, find_model
from rlvr.architecture.facts import UnknownArchitecture
from rlvr.checkpoint import Checkpoint, latest_checkpoint
from rlvr.config import Config, Engine, EnvConfig, OptimizerName, RewardSpec
from rlvr.data import TaskSet, load_tasks
from rlvr.env import Env
from rlvr.learn.own import WeightsOfGroups
from rlvr.plan.accelerators import machine_memory, swap_space
from rlvr.plan.startup import Machine, shortfall
from rlvr.reward_function import Reward, judges_of, reward, verifier_of
from rlvr.rollout.composition import check_rewards
from rlvr.rollout.episode import EpisodeRunner, Generates
from rlvr.rollout.scoring import Scorer, check_arguments
from rlvr.run_folder import RunFolder, refuse_used
from rlvr.types import Sampling, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PreparationError(ValueError):
    """A run that cannot start. The message says what was wrong, where, and what to do."""


@dataclass(frozen=True)
class Job:
    """A checked run: what training and evaluation need besides running engines."""

    config: Config
    tokenizer: PreTrainedTokenizerBase
    tasks: TaskSet
    held_out: TaskSet | None
    rewards: list[Reward]
    make_env: Callable[[], Env]
    algorithm: WeightsOfGroups | None = None  # one's own, in the place of the preset's advantage

    def sampling(self) -> Sampling:
        """Of rollouts."""
        c = self.config.sampling
        stops = stop_token_ids(self.tokenizer, c.stop, self.config.model.name)
        return Sampling(c.max_new_tokens, c.temperature, stop_token_ids=stops)

    def evaluation_sampling(self) -> Sampling:
        """Of evaluations: as in rollouts, at a temperature of their own."""
        return replace(self.sampling(), temperature=self.config.evaluation.temperature)

    def verifier(self, task: Task) -> str:
        """The name of the reward that says whether an answer to the task is right."""
        found = verifier_of(judges_of(self.rewards, task.columns))
        assert found is not None, "check_rows has seen to it"
        return found.name

    def notices(self) -> list[str]:
        """What a user should know of the data: prompts that are left out."""
        sets = [("data", self.config.data, self.tasks), ("evaluation.data", self.config.evaluation.data, self.held_out)]
        return [
            f"{found.too_long} prompts of {section} are longer than its max_prompt_tokens="
            f"{config.max_prompt_tokens} and left out; {len(found.tasks)} remain"
            for section, config, found in sets
            if config is not None and found is not None and found.too_long
        ]

    def scorer(self) -> Scorer:
        """The reward functions with their deadline; to be closed."""
        c = self.config.reward
        return Scorer(self.rewards, deadline_s=c.deadline_s, retries=c.retries, workers=c.workers, rule=c.combine)

    def runner(
        self, generator: Generates, scorer: Scorer, sampling: Sampling, answers: int, name: str
    ) -> EpisodeRunner:
        """Episodes of `answers` trajectories each. `name` begins the ids of their requests."""
        return EpisodeRunner(
            generator,
            self.tokenizer,
            self.make_env,
            scorer,
            sampling,
            group_size=answers,
            deadline_s=self.config.rollout.deadline_s,
            name=name,
        )


def prepare(config: Config, rewards: Sequence[Reward] | None = None) -> Job:
    """Load tokenizer, tasks, rewards and env, and check that they fit each other.

    `rewards` given as objects take the place of those named in the config. Raises PreparationError, and the
    errors of the parts, which say more.
    """
    _check_engine(config)
    check_learner(config)
    tokenizer = load_tokenizer(config.model.name)
    tasks = load_tasks(config.data, tokenizer)
    held_out = load_tasks(config.evaluation.data, tokenizer) if config.evaluation.data else None
    rewards = list(rewards) if rewards is not None else [load_reward(spec) for spec in config.reward.functions]
    if not rewards:
        names = ", ".join(plugins.short_names("rlvr.rewards"))
        raise PreparationError(f"reward: must be set; short names here are {names}, or package.module:function")
    check_rewards(rewards, config.reward.combine)
    _refuse_idle(rewards, tasks)
    check_rows(rewards, tasks, "data")
    if held_out is not None:
        check_rows(rewards, held_out, "evaluation.data")
        check_room(held_out, config)
    job = Job(config, tokenizer, tasks, held_out, rewards, load_env(config.env))
    job.sampling()  # refuses a stop that is not one token
    return job


def check_rows(rewards: Sequence[Reward], tasks: TaskSet, setting: str) -> None:
    """Each row has a verifier, and each reward finds its arguments in the first row that it judges.

    Raises PreparationError and RewardError.
    """
    for function in rewards:
        first = next((task for task in tasks.tasks if function.judges(task.columns)), None)
        if first is not None:
            check_arguments(function, [*first.columns], verifier_of(judges_of(rewards, first.columns)))
    for task in tasks.tasks:
        if verifier_of(judges_of(rewards, task.columns)) is None:
            raise PreparationError(
                f"{setting}: no reward with a weight judges the row with the prompt "
                f"{task.prompt[-1]['content']!r:.80}: give one a `where` that fits it, or leave the row out"
            )


def check_room(held_out: TaskSet, config: Config) -> None:
    """Raise PreparationError for a held-out prompt that the generators of `config` have no room for."""
    longest, room = max(len(task.prompt_ids) for task in held_out.tasks), config.data.max_prompt_tokens
    if longest > room:
        raise PreparationError(
            f"evaluation.data: its longest prompt has {longest} tokens, and generators have room for "
            f"data.max_prompt_tokens={room}: raise that to {longest}, or set evaluation.data.max_prompt_tokens={room}, "
            "which leaves longer ones out"
        )


def _refuse_idle(rewards: Sequence[Reward], tasks: TaskSet) -> None:
    for function in rewards:
        if not any(function.judges(task.columns) for task in tasks.tasks):
            where = ", ".join(f"{column}={value!r}" for column, value in function.where.items())
            raise PreparationError(
                f"reward {function.name!r} judges the rows where {where}, but the data has none; "
                f"its columns are {', '.join(tasks.columns)}"
            )


def refuse_what_cannot_fit(config: Config) -> None:
    """Raise PreparationError where this machine can never hold the model and its optimizer.

    Nothing is refused that might work: not on a cluster that is joined, whose machines are not known here, and not
    for a model whose config is elsewhere or cannot be counted.
    """
    if not _runs_here(config):
        return
    try:
        model = find_model(config.model.name, ask_hub=False)
    except (ModelNotFound, UnknownArchitecture):
        return
    reason = shortfall(config, model.architecture, this_machine())
    if reason is not None:
        raise PreparationError(reason)


def _runs_here(config: Config) -> bool:
    """Whether all roles run on this machine. Of a cluster that is joined, nothing is known here."""
    return config.cluster.backend == "local" or config.cluster.address == "local"


def this_machine() -> Machine:
    """Its memory, and that of each of its GPUs."""
    import torch

    devices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    gpus = tuple(torch.cuda.get_device_properties(device).total_memory for device in devices)
    return Machine(machine_memory() + swap_space(), gpus)


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """Raises PreparationError when `model` is neither a folder in Hugging Face form nor a hub name in reach."""
    import transformers

    if Path(model).is_dir() and not (Path(model) / "config.json").is_file():
        raise PreparationError(f"model.name={model}: the folder has no config.json; is it a Hugging Face folder?")
    try:
        return transformers.AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise PreparationError(
            f"model.name={model}: neither a folder (looked from {Path.cwd()}) nor a hub name that can be loaded: "
            f"{str(error).splitlines()[0]}"
        ) from None


def load_reward(spec: RewardSpec) -> Reward:
    """The reward that a config names, with its weight and fixed arguments."""
    found = plugins.load("rlvr.rewards", spec.use)
    if not isinstance(found, Reward):
        if not callable(found):
            raise PreparationError(f"reward {spec.use}: expected a function, found a {type(found).__name__}")
        found = reward(found)
    return bind(found, spec)


def load_reward_with(name: str, words: Sequence[str]) -> Reward:
    """The reward of a name with arguments fixed by `key=value` words, the values as in YAML.

    Raises PreparationError and what the name raises.
    """
    fixed: dict[str, Any] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not key or not separator:
            raise PreparationError(f"--set {word}: expected key=value")
        try:
            fixed[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise PreparationError(f"--set {word}: the value is not YAML: {error}") from None
    return load_reward(RewardSpec(use=name, arguments=fixed))


def load_env(config: EnvConfig) -> Callable[[], Env]:
    """What makes an env for each episode. Raises PreparationError for arguments that its class does not take."""
    env_class = plugins.load("rlvr.envs", config.use)
    if not callable(env_class):
        raise PreparationError(f"env.use={config.use}: expected a class, found a {type(env_class).__name__}")
    try:
        inspect.signature(env_class).bind(**config.arguments)
    except TypeError as error:
        raise PreparationError(
            f"env.arguments: {config.use} cannot be made with them ({error}); it takes {inspect.signature(env_class)}"
        ) from None
    return functools.partial(env_class, **config.arguments)


def bind(found: Reward, spec: RewardSpec) -> Reward:
    """The reward with the weight, the fixed arguments and the rows of a config. Raises PreparationError."""
    try:
        bound = found.bind(**spec.arguments) if spec.arguments else found
    except TypeError as error:
        raise PreparationError(f"reward {spec.use}: {error}") from None
    if spec.where:
        bound = bound.for_rows(**spec.where)
    return bound if spec.weight is None else bound.weighted(spec.weight)


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], model: str) -> tuple[int, ...]:
    """The tokens that end a turn: the tokenizer's EOS, the model's own list, and the user's."""
    ids = {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    defaults = Path(model) / "generation_config.json"
    if defaults.is_file():
        eos = json.loads(defaults.read_text()).get("eos_token_id") or []
        ids |= set(eos if isinstance(eos, list) else [eos])
    for text in stop:
        encoded = tokenizer.encode(text, add_special_tokens=False)
        if len(encoded) != 1:
            raise PreparationError(
                f"sampling.stop: {text!r} is {len(encoded)} tokens of this tokenizer; a stop must be exactly one"
            )
        ids.add(encoded[0])
    if not ids:
        raise PreparationError(f"model.name={model}: its tokenizer has no end-of-turn token; name one in sampling.stop")
    return tuple(sorted(ids))


def open_run(config: Config, *, resume: bool) -> tuple[RunFolder, Checkpoint | None]:
    """The run's folder, and the checkpoint to go on from. Raises RunFolderError rather than mix two runs."""
    if config.run_dir is None:
        raise PreparationError("run_dir: must be set to open a run")
    folder = RunFolder(config.run_dir)
    if resume:
        checkpoint = latest_checkpoint(folder.checkpoints)
        if checkpoint is None:
            raise PreparationError(
                f"--resume: {config.run_dir} holds no checkpoint yet; start anew in another run_dir, or remove this one"
            )
        return folder, checkpoint
    refuse_used(folder)
    folder.path.mkdir(parents=True, exist_ok=True)
    return folder, None


def check_learner(config: Config) -> None:
    """Raise PreparationError for settings of the learner that its model, or this machine, has no means for."""
    _check_bitsandbytes(config)
    _check_router(config)


def _check_bitsandbytes(config: Config) -> None:
    """It has the optimizer of a byte a moment, and weights of 4 bits."""
    wants_optimizer = config.learner.optimizer is OptimizerName.ADAMW_8BIT
    if not (wants_optimizer or config.model.lora.quantize) or not _runs_here(config):
        return
    import torch

    from rlvr.learn.optimizer import why_no_adamw_8bit
    from rlvr.learn.quantized import why_no_4_bits

    has_gpu = config.learner.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if has_gpu else "cpu")
    reason = (why_no_adamw_8bit(device) if wants_optimizer else None) or (
        why_no_4_bits(device) if config.model.lora.quantize else None
    )
    if reason is not None:
        raise PreparationError(reason)


def _check_router(config: Config) -> None:
    from rlvr.routing import has_experts

    router = config.learner.router
    for setting, wanted in (("balance_loss", router.balance_loss > 0), ("frozen", router.frozen)):
        if wanted and not has_experts(config.model.name):
            raise PreparationError(
                f"learner.router.{setting} is for a mixture of experts, and model.name={config.model.name} is dense"
            )


def _check_engine(config: Config) -> None:
    if config.generator.engine is Engine.VLLM and importlib.util.find_spec("vllm") is None:
        raise PreparationError(
            "generator.engine=vllm: vLLM is not installed; on a machine without GPU run "
            "`python -m rlvr.install_cpu_engine`, on a GPU machine `pip install 'rlvr[gpu]'`, "
            "or set generator.engine=transformers"
        )
