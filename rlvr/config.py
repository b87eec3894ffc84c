"""Every setting once: its type, default, unit, range, and a line of why.

A config is a tree of sections. It is read from YAML, from `key=value` words on the command line and from
keyword arguments in Python, all with the same names; `config_loading` merges them and refuses what cannot be.
"""

from __future__ import annotations

from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rlvr.reward_function import Combine, LinearWeight

# What stands for settings that are unset, and what bounds them on a processor: the planner reckons with the same.
CPU_KV_CACHE_GIB = 0.25
GPU_SHARE_ALONE, GPU_SHARE_BESIDE_LEARNER = 0.85, 0.4  # of its memory, for all generators on it
# Tokens. The memory of larger activations is given back to the system and faulted in again at every operation:
# measured, a tiny model takes up to 1.4 times as long with 8192.
FASTEST_GRID_ON_CPU = 1024
# Orthogonalized in one call: many small matrices, or a few large ones, whose copies then take little memory.
MUON_BATCH_ELEMENTS = 1 << 24


class Section(BaseModel):
    """A group of settings. `shorthand` is the field that a bare value sets: `model=NAME` is `model.name=NAME`."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())
    shorthand: ClassVar[str | None] = None

    @model_validator(mode="before")
    @classmethod
    def _take_shorthand(cls, value: Any) -> Any:
        if cls.shorthand is not None and isinstance(value, (str, list)):
            return {cls.shorthand: value}
        return value


class DType(StrEnum):
    """Number format of weights and activations."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class LoraConfig(Section):
    """Low-rank adapters instead of full parameters."""

    rank: int = Field(0, ge=0, le=512, description="adapter rank; 0 trains all parameters")
    alpha: float = Field(32.0, gt=0, description="adapter scale: the update is alpha / rank * B A")
    targets: Literal["all-linear"] | list[str] = Field("all-linear", description="modules that get an adapter")
    quantize: bool = Field(
        False, description="QLoRA: the frozen base in 4 bits (nf4) by bitsandbytes, on a GPU; experts stay whole"
    )
    publish: Literal["merged", "adapter"] = Field(
        "merged", description="what generators get: merged works for every model, adapter moves fewer bytes"
    )


class ModelConfig(Section):
    """The policy to train."""

    shorthand = "name"
    name: str = Field(description="a folder in Hugging Face form, a hub name, or `tiny`: the model of the demo")
    dtype: DType | None = Field(
        None, description="of the forward pass; unset: float32 on CPU, bfloat16 on GPU (masters stay float32)"
    )
    lora: LoraConfig = LoraConfig()

    @field_validator("name")
    @classmethod
    def _find_tiny(cls, name: str) -> str:
        return str(files("rlvr.demo") / "base") if name == "tiny" else name


class DataConfig(Section):
    """Where tasks come from, and which columns are prompt and target."""

    shorthand = "path"
    path: str = Field(description="a .jsonl or .parquet file, or a hub name of `datasets`")
    subset: str | None = Field(None, description="configuration of a hub dataset")
    split: str = Field("train", description="split of a hub dataset")
    prompt: str = Field("prompt", description="column with the prompt: text, or a list of chat messages")
    target: str = Field("answer", description="column that a verifier checks against")
    completion: str = Field(
        "completion", description="column with the answer to imitate, in `rlvr sft`; else the prompt's assistant turns"
    )
    system: str | None = Field(None, description="system message put before a prompt that is text")
    max_prompt_tokens: int = Field(1024, gt=0, description="tokens; longer prompts are counted and left out, never cut")
    limit: int | None = Field(None, gt=0, description="use the first rows only")


class RewardSpec(Section):
    """One reward function of a run."""

    shorthand = "use"
    use: str = Field(description="a short name, `package.module:function`, or `path/to/file.py:function`")
    weight: float | LinearWeight | None = Field(
        None,
        description="in the score; 0 makes it a metric only; unset: the reward's own, mostly 1; "
        "{start, end, from_step, to_step}: in a straight line over policy versions",
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="fixed arguments, by name")
    where: dict[str, Any] = Field(
        default_factory=dict, description="judge only the rows with these values, by column; empty: all rows"
    )


class RewardConfig(Section):
    """What decides whether an answer is right."""

    shorthand = "functions"
    functions: list[RewardSpec] = Field(
        default_factory=list, description="functions that make the score, the first says what is right"
    )
    combine: Combine = Field(
        Combine.SUM,
        description="sum: weighted; product: to the power of the weight; gate: each counts where those before it "
        "say right (1); gdpo: each is normalised within its group, then summed: no reward drowns another",
    )
    deadline_s: float = Field(10.0, gt=0, description="seconds, from dispatch; then the process is killed")
    retries: int = Field(1, ge=0, le=5, description="tries more after a timeout or crash, before it counts as one")
    workers: int = Field(1, ge=1, le=256, description="processes for synchronous reward functions")

    @field_validator("functions", mode="before")
    @classmethod
    def _take_one(cls, value: Any) -> Any:
        return [value] if isinstance(value, (str, dict)) else value


class EnvConfig(Section):
    """What drives an episode."""

    shorthand = "use"
    use: str = Field("single_turn", description="a short name, `package.module:Class`, or `path/to/file.py:Class`")
    arguments: dict[str, Any] = Field(default_factory=dict, description="arguments of the class, by name")


class SamplingConfig(Section):
    """How the policy samples in rollouts."""

    max_new_tokens: int = Field(512, gt=0, description="tokens; an answer that reaches it is truncated")
    temperature: float = Field(1.0, gt=0, le=2, description="1 samples the policy that is trained")
    stop: list[str] = Field(default_factory=list, description="single-token strings that end a turn, besides EOS")

    @model_validator(mode="before")
    @classmethod
    def _refuse_truncated_sampling(cls, value: Any) -> Any:
        if isinstance(value, dict) and {"top_p", "top_k"} & set(value):
            raise ValueError(
                "sampling.top_p and sampling.top_k do not exist: rollouts sample from the whole distribution, because "
                "the learner cannot reproduce a truncated one"
            )
        return value


class RolloutConfig(Section):
    """How many answers are in flight, and which are worth training."""

    group_size: int = Field(
        8, ge=1, description="answers per task; the baseline is their mean, so one is for teachers alone"
    )
    groups_per_step: int = Field(16, ge=1, description="groups in one optimizer step")
    max_staleness: int = Field(
        2, ge=0, le=64, description="policy versions; 0 synchronous, 1 one step off, more asynchronous"
    )
    drop_zero_variance: bool = Field(True, description="a group with equal scores has no gradient: sample another")
    max_refill: float = Field(
        4.0, ge=1, description="groups sampled per group trained, at most; then the step takes fewer"
    )
    min_valid: float = Field(0.5, gt=0, le=1, description="share of a group that needs a verdict to be trained")
    deadline_s: float = Field(1800.0, gt=0, description="seconds for one episode; then it counts as failed")


class Preset(StrEnum):
    """Published algorithms; `rlvr.learn.presets` has what each is made of, and its paper."""

    DIS = "dis"
    GRPO = "grpo"
    DR_GRPO = "dr_grpo"
    DAPO = "dapo"
    PPO_DUAL = "ppo_dual"
    REINFORCE_PP = "reinforce_pp"
    RLOO = "rloo"
    OPO = "opo"
    MAXRL = "maxrl"
    GSPO = "gspo"
    LUSPO = "luspo"
    GMPO = "gmpo"
    VESPO = "vespo"
    KIMI_K2 = "kimi_k2"
    KIMI_K2_5 = "kimi_k2_5"
    CISPO = "cispo"
    SCALERL = "scalerl"
    SAPO = "sapo"
    PRIME_RL = "prime_rl"
    TIS = "tis"
    ICEPOP = "icepop"
    SEQUENCE_MIS = "sequence_mis"
    DECOUPLED_PPO = "decoupled_ppo"
    GEO_RS_TIS = "geo_rs_tis"
    K3_RS = "k3_rs"
    M2PO = "m2po"
    DEEPSEEK_V3_2 = "deepseek_v3_2"
    HIGH_ENTROPY = "high_entropy"
    CLIP_COV = "clip_cov"


# Which policy a preset's KL holds near, where it has one.
_KL_TO_REFERENCE = frozenset({Preset.GRPO, Preset.REINFORCE_PP, Preset.DEEPSEEK_V3_2})
_KL_TO_SAMPLER = frozenset({Preset.KIMI_K2_5, Preset.PRIME_RL})


class AlgorithmConfig(Section):
    """From groups to per-token weights. Unset fields have the preset's value."""

    shorthand = "preset"
    preset: Preset = Field(
        Preset.DIS, description="dis is made for stale tokens: both sides masked, anchored at the sampler"
    )
    advantage: Literal["group_mean", "group_std", "batch_std", "rloo", "opo", "maxrl", "whiten"] | None = Field(
        None, description="the baseline"
    )
    beta: float | None = Field(
        None, ge=0, description="strength of the KL that holds the policy; 0 is none, and saves the reference model"
    )
    clip_low: float | None = Field(None, ge=0, description="lower bound of the ratio, as its kernel defines it")
    clip_high: float | None = Field(None, gt=0, description="upper bound of the ratio, as its kernel defines it")
    aggregation: (
        Literal["token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "prompt_mean", "constant"] | None
    ) = Field(None, description="how tokens are weighted against each other")
    drop_truncated: bool | None = Field(None, description="leave truncated answers out of the loss")

    @property
    def needs_reference(self) -> bool:
        """Whether the model as the run began with it is scored too."""
        if self.beta is None:
            return self.preset in _KL_TO_REFERENCE
        return self.beta > 0 and self.preset not in _KL_TO_SAMPLER


class OptimizerName(StrEnum):
    """What turns a gradient into an update."""

    ADAMW = "adamw"
    MUON = "muon"
    MUONCLIP = "muonclip"
    ADAMW_8BIT = "adamw_8bit"

    @property
    def is_muon(self) -> bool:
        """Whether whole matrices are updated, which an adapter's factors are not."""
        return self in (OptimizerName.MUON, OptimizerName.MUONCLIP)


class RouterConfig(Section):
    """The routers of a mixture of experts. Dense models have none, and nothing here touches them."""

    replay: bool = Field(
        True, description="train each token through the experts that it was sampled with; their weights stay trained"
    )
    balance_loss: float = Field(
        0.0, ge=0, description="strength of the loss that spreads tokens evenly over experts; needs replay"
    )
    frozen: bool = Field(False, description="leave the routers' weights as they are")


class LearnerConfig(Section):
    """The optimizer and how a batch is cut."""

    optimizer: OptimizerName = Field(
        OptimizerName.ADAMW,
        description="muon: orthogonal updates of matrices, AdamW for the rest, at the rates of adamw; muonclip: with "
        "attention logits held under max_attention_logit; adamw_8bit: moments of a byte, by bitsandbytes, on a GPU",
    )
    max_attention_logit: float = Field(
        100.0, gt=0, description="of muonclip: queries and keys of a head that exceeds it are scaled down (Kimi K2)"
    )
    learning_rate: float = Field(1e-6, gt=0, lt=1, description="peak, after warm-up")
    warmup_steps: int = Field(5, ge=0, description="optimizer steps of linear warm-up")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="after warm-up")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.95), description="of AdamW; 0.95 forgets faster, as RL gradients move"
    )
    weight_decay: float = Field(0.0, ge=0, description="on matrices only")
    max_grad_norm: float = Field(1.0, gt=0, description="the gradient is scaled down to this norm")
    updates_per_step: int = Field(
        1, ge=1, le=64, description="optimizer updates per batch, each on a share of its groups"
    )
    token_budget: int = Field(8192, gt=0, description="tokens in one micro-batch, padding included")
    head_chunk_tokens: int = Field(
        512, gt=0, description="tokens whose logits exist at one time; bounds memory by chunk x vocabulary"
    )
    layout: Literal["auto", "shared", "packed", "alone"] = Field(
        "auto",
        description="rows in a line: with one copy of their common prompt, behind one another, or alone",
    )
    ranks: int = Field(1, ge=1, le=1024, description="processes that share the learner by FSDP, on GPUs one each")
    offload: bool = Field(
        False, description="parameters, gradients and optimizer in host memory between uses: less GPU memory, slower"
    )
    router: RouterConfig = RouterConfig()
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, a third more time")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one")

    @property
    def is_sharded(self) -> bool:
        """Whether parameters are FSDP's, which also moves them to host memory and back for one rank."""
        return self.ranks > 1 or self.offload


class SFTConfig(Section):
    """Training on given examples: `rlvr sft`, `rlvr distill sft` and `logits`; rollouts and algorithms have no part."""

    rows_per_step: int = Field(32, ge=1, description="examples in one batch")
    epochs: float | None = Field(None, gt=0, description="passes over the data; unset: as many as `steps` make")


class Engine(StrEnum):
    """What generates."""

    AUTO = "auto"
    VLLM = "vllm"
    TRANSFORMERS = "transformers"


class GeneratorConfig(Section):
    """The inference engines."""

    engine: Engine = Field(Engine.AUTO, description="auto: vllm where it is installed")
    count: int = Field(1, ge=1, description="generators, each with a full copy of the policy")
    dtype: DType | None = Field(None, description="unset: as the model's")
    max_sequences: int = Field(128, ge=1, description="sequences in one engine step; more wait in its queue")
    kv_cache_gib: float | None = Field(
        None,
        gt=0,
        description=f"GiB for keys and values; unset: {CPU_KV_CACHE_GIB:g} on CPU, vLLM's own choice on GPU",
    )
    gpu_memory_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description=(
            f"of a GPU's memory, weights included; unset: {GPU_SHARE_ALONE:g}, shared with the learner "
            f"{GPU_SHARE_BESIDE_LEARNER:g}, divided by the generators on it"
        ),
    )
    tensor_parallel: int = Field(1, ge=1, description="GPUs that share one generator")
    kv_after_update: Literal["recompute", "keep"] = Field(
        "recompute",
        description="recompute is exact under the new weights; keep is faster and samples from a blend",
    )

    def share_of_gpu(self, generators: int = 1, *, beside_learner: bool = False) -> float:
        """What each generator takes of a GPU's memory that so many have, alone or beside the learner."""
        for_all = GPU_SHARE_BESIDE_LEARNER if beside_learner else GPU_SHARE_ALONE
        return self.gpu_memory_share or for_all / generators


class Transport(StrEnum):
    """The way of a new version from learner to generators."""

    AUTO = "auto"
    SHARED_MEMORY = "shared_memory"
    OBJECT_STORE = "object_store"


class ClusterConfig(Section):
    """Where the actors run."""

    backend: Literal["ray", "local"] = Field("ray", description="local: one process, for debugging")
    address: str = Field("local", description="a Ray cluster to join; local starts one; auto finds one")
    transport: Transport = Field(Transport.AUTO, description="auto: shared memory on one node, else object store")
    watchdog_s: float = Field(
        600.0,
        gt=0,
        description="seconds without any progress while work remains; then the run stops and says why",
    )


class EvaluationConfig(Section):
    """Held-out tasks, on the same generators, at a named version."""

    data: DataConfig | None = Field(None, description="held-out tasks; unset: no evaluation")
    every_steps: int = Field(0, ge=0, description="steps between evaluations; 0: before the first step and at the end")
    samples: int = Field(1, ge=1, description="answers per task; pass@k is reported for k up to it")
    temperature: float = Field(0.0, ge=0, le=2, description="0 is greedy")


class CheckpointConfig(Section):
    """What a resume starts from."""

    every_steps: int = Field(50, ge=0, description="steps between checkpoints; 0: at the end only")
    keep: int = Field(2, ge=1, description="newest checkpoints that are kept")


class Config(Section):
    """A whole run."""

    model: ModelConfig
    data: DataConfig
    reward: RewardConfig = RewardConfig()
    env: EnvConfig = EnvConfig()
    sampling: SamplingConfig = SamplingConfig()
    rollout: RolloutConfig = RolloutConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    learner: LearnerConfig = LearnerConfig()
    sft: SFTConfig = SFTConfig()
    generator: GeneratorConfig = GeneratorConfig()
    cluster: ClusterConfig = ClusterConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    steps: int = Field(100, ge=1, description="optimizer steps (batches) of the run")
    seed: int = Field(0, ge=0, description="of data order, sampling and initialisation")
    run_dir: Path | None = Field(
        None, description="folder for all that a resume or a report needs; unset: a new one under runs/"
    )
    tensorboard: bool = Field(True, description="write TensorBoard files beside the metrics")

    @model_validator(mode="after")
    def _refuse_the_impossible(self) -> Self:
        if self.reward.combine is Combine.GDPO and self.algorithm.advantage not in (None, "group_std"):
            raise ValueError(
                f"reward.combine=gdpo divides each reward by its own spread within the group, which "
                f"algorithm.advantage={self.algorithm.advantage} does not: leave algorithm.advantage unset"
            )
        if self.rollout.group_size == 1 and self.rollout.drop_zero_variance:
            raise ValueError(
                "rollout.group_size=1: the baseline is the mean of a task's answers, so one answer alone is never "
                "better or worse; set 2 or more, or let a teacher judge it (`rlvr distill opd`)"
            )
        if self.model.lora.quantize and (self.model.lora.rank == 0 or self.model.lora.publish == "adapter"):
            raise ValueError(
                "model.lora.quantize needs adapters to train (model.lora.rank above 0), and generators that get the "
                "policy merged, as it is trained on the quantized base: leave model.lora.publish=merged"
            )
        if self.model.lora.quantize and self.learner.is_sharded:
            raise ValueError(
                "model.lora.quantize: weights of 4 bits are not sharded; leave learner.ranks=1 and "
                "learner.offload=false, or set model.lora.quantize=false"
            )
        if self.model.lora.publish == "adapter" and self.model.lora.rank == 0:
            raise ValueError("model.lora.publish=adapter needs an adapter: set model.lora.rank above 0")
        if self.model.lora.rank > 0 and self.learner.optimizer.is_muon:
            raise ValueError(
                f"learner.optimizer={self.learner.optimizer} updates whole matrices, and model.lora.rank="
                f"{self.model.lora.rank} trains two factors in place of each: set learner.optimizer=adamw"
            )
        if self.learner.updates_per_step > self.rollout.groups_per_step:
            raise ValueError(
                f"learner.updates_per_step={self.learner.updates_per_step} is more than "
                f"rollout.groups_per_step={self.rollout.groups_per_step}: each update needs a group"
            )
        if self.cluster.backend == "local" and self.generator.count > 1:
            raise ValueError("cluster.backend=local runs one generator: set generator.count=1 or cluster.backend=ray")
        if self.cluster.backend == "local" and self.learner.is_sharded:
            raise ValueError(
                "cluster.backend=local runs the learner in this process: leave learner.ranks=1 and "
                "learner.offload=false, or set cluster.backend=ray"
            )
        if self.learner.router.balance_loss and not self.learner.router.replay:
            raise ValueError(
                "learner.router.balance_loss needs the experts that tokens were sampled with: set "
                "learner.router.replay=true"
            )
        longest = self.data.max_prompt_tokens + self.sampling.max_new_tokens
        if longest > self.learner.token_budget:
            raise ValueError(
                f"learner.token_budget={self.learner.token_budget} does not hold one sequence of "
                f"data.max_prompt_tokens + sampling.max_new_tokens = {longest} tokens; raise it to {longest} or more"
            )
        return self
