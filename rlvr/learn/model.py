"""The policy's network as the learner holds it: float32 parameters, the layout its attention allows, and its head.

Parameters are always kept in float32, which are the optimizer's master weights; with `model.dtype=bfloat16` the
layers compute in bfloat16 under autocast, and the head in float32. It costs 4 bytes a parameter more than bfloat16
weights, for frozen ones too, and makes what is published the rounding of what is trained.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import peft
import torch
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import is_flash_attn_2_available

from rlvr.config import FASTEST_GRID_ON_CPU, Config, DType, LoraConfig
from rlvr.learn.attention import install_learner_attention
from rlvr.learn.head import HeadOutput, token_logprobs
from rlvr.learn.max_logit import LogitWatch
from rlvr.learn.packing import Layout, MicroBatch, PackingPlan
from rlvr.learn.quantized import in_4_bits, why_no_4_bits, widened
from rlvr.routing import ExpertChoice, routers_of
from rlvr.weights.transport import torch_dtype

ADAPTER = "default"
FLASH = "flash_attention_2"

T = TypeVar("T")


class ForwardPass(nn.Module):
    """The network as a module whose forward pass is whatever is computed with it.

    Where parameters are sharded over ranks, this is what FSDP wraps: all that is not in a layer (the embedding, the
    last norm, the head, which are called one by one) is whole while `forward` runs.
    """

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, compute: Callable[[], T]) -> T:
        """`compute` returns tensors, or tuples of them: FSDP looks there for what the backward pass begins with."""
        return compute()


class PolicyModel:
    """A causal language model that gives the log-probabilities of a micro-batch's trained tokens.

    It runs in evaluation mode, also while it is trained: dropout would make the learner's policy another one than
    the sampler's. Runs on CPU; the CUDA path is written and has not been measured.
    """

    def __init__(self, config: Config, network: PreTrainedModel | None = None) -> None:
        """`network` stands in for the one that would be loaded onto the device."""
        self.device = device_of(config.learner.device)
        self.dtype = _compute_dtype(config.model.dtype, self.device)
        install_learner_attention()
        self.network = network or load_network(config).to(self.device)
        # The widest format that the layers can compute in: what is compared is compared there.
        narrow = self.attention == FLASH or config.model.lora.quantize
        self.widest_dtype = self.dtype if narrow else DType.FLOAT32
        self.temperature = config.sampling.temperature
        self.head_chunk = config.learner.head_chunk_tokens
        _freeze_indexers(self.network)
        if config.learner.router.frozen:
            for router in routers_of(self.network):
                router.module.requires_grad_(False)
        self.adapter = _add_adapter(self.network, config.model.lora) if config.model.lora.rank > 0 else None
        routers = routers_of(self.network) if config.learner.router.replay else []
        self.experts = ExpertChoice(routers, keep_logits=config.learner.router.balance_loss > 0)
        self.decoder = _decoder(self.network)
        self.head = _plain_head(self.network)
        self.forward_pass = ForwardPass(self.network)
        self.micro_batches = 0  # begun so far
        if config.learner.gradient_checkpointing:
            _checkpoint_activations(self.network)
        budget = config.learner.token_budget
        best = layout_for(self.network)
        # Where a layer sees less than all before it, its own mask says what. Spans know nothing of it.
        self.spans_say_all = best is Layout.SHARED
        self.plan = PackingPlan(
            layout=best if config.learner.layout == "auto" else Layout(config.learner.layout),
            token_budget=budget,
            grid_tokens=budget if self.device.type == "cuda" else min(budget, FASTEST_GRID_ON_CPU),
            long_lines=self.attention == FLASH,
            hidden_size=self.network.config.get_text_config().hidden_size,
        )

    @property
    def attention(self) -> str:
        """The attention implementation's name in transformers."""
        return str(self.network.config._attn_implementation)

    @property
    def vocabulary(self) -> int:
        """Rows of the head, which may be more than the tokenizer has tokens."""
        return self.head.weight.shape[0]

    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters that get a gradient, by name. Tied ones are here once."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    def logprobs(
        self,
        batch: MicroBatch,
        ids: Tensor | None = None,
        dtype: DType | None = None,
        watch: LogitWatch | None = None,
    ) -> HeadOutput:
        """Of each trained token, and of `ids` [N, K] in its place; all but the entropy are differentiable.

        `dtype` is what the layers compute in, if it is not that of training. `watch` sees the attention's logits.
        Tokens go to the experts that the batch names, also when a backward pass computes layers again; so it must come
        before the next call.
        """
        self.micro_batches += 1
        self.experts.replayed = self._experts_of(batch)
        output = self.forward_pass(lambda: self._logprobs(batch, ids, dtype or self.dtype, watch))
        if not torch.is_grad_enabled():
            self.experts.replayed = None  # nothing will be computed again
        return output

    def _logprobs(self, batch: MicroBatch, ids: Tensor | None, dtype: DType, watch: LogitWatch | None) -> HeadOutput:
        for_attention: dict[str, Any] = {}
        if batch.spans is not None and self.spans_say_all:
            for_attention["spans"] = batch.spans
        if watch is not None:
            watch.line_lengths = batch.lengths
            for_attention["logit_watch"] = watch
        with self.autocast(dtype):
            hidden = self.decoder(
                input_ids=batch.token_ids,
                position_ids=batch.position_ids,
                attention_mask=batch.mask,
                use_cache=False,  # with a cache transformers does not look at position ids, and mixes packed rows
                **for_attention,
            ).last_hidden_state.flatten(0, 1)[batch.read]
        if ids is None:
            logprobs, entropy = self._head(hidden, batch.targets)
            return HeadOutput(logprobs, entropy, logprobs.new_empty(len(logprobs), 0))
        logprobs, entropy = self._head(hidden, torch.cat([batch.targets[:, None], ids], dim=1))
        return HeadOutput(logprobs[:, 0], entropy, logprobs[:, 1:])

    def _head(self, hidden: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return token_logprobs(hidden, self.head.weight, ids, self.temperature, self.head_chunk)

    def _experts_of(self, batch: MicroBatch) -> Tensor | None:
        """Raises ValueError for those of another model."""
        if batch.experts is not None and batch.experts.shape[1:] != self.experts.shape:
            raise ValueError(
                f"rows name experts of {batch.experts.shape[1]} layers, {batch.experts.shape[2]} a token; this model "
                f"is replayed on {self.experts.shape[0]} layers, {self.experts.shape[1]} a token"
            )
        return batch.experts

    def without_adapter(self) -> contextlib.AbstractContextManager[None]:
        """The weights the run began with, while this is entered, where only adapters are trained."""
        return contextlib.nullcontext() if self.adapter is None else self.adapter.disable_adapter()

    def own_logits(self, token_ids: Tensor, dtype: DType) -> Tensor:
        """The logits of one sequence [T] by the model's own forward pass, [T, V]: what the self-check compares with."""
        self.experts.replayed = None
        with self.autocast(dtype):
            logits: Tensor = self.forward_pass(lambda: self.network(input_ids=token_ids[None], use_cache=False).logits)
        return logits[0].float()

    def autocast(self, dtype: DType) -> torch.autocast:
        """In which the layers compute in `dtype`."""
        return torch.autocast(self.device.type, torch_dtype(dtype), enabled=dtype is not DType.FLOAT32)

    @torch.no_grad()
    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """All weights by the names they have in the network without adapters, which are merged. Tied ones once.

        Not by merging in place and back: in floating point that would leave the base another one than before. Where
        they are sharded each is gathered in its turn, so all ranks go through all.
        """
        adapted = _adapted(self.network)
        held = dict(self.network.named_parameters()) | dict(self.network.named_buffers())
        for name in self.network.state_dict(keep_vars=True):
            if name not in held:  # tied, or what bitsandbytes keeps beside a weight
                continue
            tensor = held[name]
            parts = [part for part in name.split(".") if part != "base_layer"]
            if not any(part.startswith("lora_") for part in parts):
                layer, base = adapted.get(tensor), widened(whole(tensor))
                yield ".".join(parts), base if layer is None else base + _added(layer)

    @torch.no_grad()
    def adapter_weights(self) -> tuple[dict[str, object], dict[str, Tensor]]:
        """The adapter as peft saves it: its config and its tensors."""
        if self.adapter is None:
            raise ValueError("there is no adapter to publish: set model.lora.rank above 0")
        config = self.adapter.peft_config[ADAPTER].to_dict()
        # peft keeps names of modules in sets, which JSON does not know.
        plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
        return plain, {name: whole(tensor) for name, tensor in peft.get_peft_model_state_dict(self.adapter).items()}

    @torch.no_grad()
    def export(self, folder: Path, name: str, weights: Mapping[str, Tensor], dtype: DType) -> None:
        """A folder in Hugging Face form with `weights`, which are in `dtype`, and the tokenizer of the model `name`."""
        config = copy.deepcopy(self.network.config)
        config.dtype = torch_dtype(dtype)  # of the tensors in the folder; ours are float32
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # the tensors in the folder are not in 4 bits
        with torch.device("meta"):  # the network as it is without adapters: it knows the names in a checkpoint
            plain = AutoModelForCausalLM.from_config(config)
        plain.save_pretrained(folder, state_dict=dict(weights))
        config.save_pretrained(folder)
        AutoTokenizer.from_pretrained(name).save_pretrained(folder)


def layout_for(network: PreTrainedModel) -> Layout:
    """The layout that halves the work most while this model's rows stay apart."""
    settings = network.config.get_text_config().to_dict()
    layer_types = set(settings.get("layer_types") or ["full_attention"])
    if not all(layer_type.endswith("_attention") and layer_type != "linear_attention" for layer_type in layer_types):
        return Layout.ALONE  # a state runs along the line, past the end of a row
    if "chunked_attention" in layer_types:
        return Layout.ALONE  # transformers counts chunks from the start of the line, not of the row
    windowed = settings.get("sliding_window") is not None
    # An explicit mask would stand in for the window's own, and flash attention takes none.
    if layer_types != {"full_attention"} or windowed or network.config._attn_implementation != "sdpa":
        return Layout.PACKED
    return Layout.SHARED


def device_of(setting: str) -> torch.device:
    if setting == "cuda" and not torch.cuda.is_available():
        raise ValueError("learner.device=cuda, but torch finds no CUDA device; set learner.device=cpu or auto")
    return torch.device("cuda" if setting != "cpu" and torch.cuda.is_available() else "cpu")


def _compute_dtype(dtype: DType | None, device: torch.device) -> DType:
    if dtype is DType.FLOAT16:
        raise ValueError(
            "model.dtype=float16 needs loss scaling, which the learner does not do; use bfloat16 or float32"
        )
    if dtype is None:
        return DType.BFLOAT16 if device.type == "cuda" else DType.FLOAT32
    return dtype


def load_network(config: Config) -> PreTrainedModel:
    """The config's model in host memory, float32; in 4 bits it is on the learner's device.

    Raises ValueError when its folder lacks weights.
    """
    network, loaded = AutoModelForCausalLM.from_pretrained(
        config.model.name,
        dtype=torch.float32,
        attn_implementation=_attention(config),
        output_loading_info=True,
        **(_quantization(config) if config.model.lora.quantize else {}),
    )
    if loaded["missing_keys"]:
        missing = ", ".join(sorted(loaded["missing_keys"])[:3])
        raise ValueError(
            f"model.name={config.model.name}: the checkpoint lacks weights ({missing} ...); they would start random"
        )
    return network.eval()


def empty_network(config: Config) -> PreTrainedModel:
    """The same without its weights, in memory that takes no room before somebody writes to it."""
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(config.model.name), dtype=torch.float32, attn_implementation=_attention(config)
        )
    network.to_empty(device="cpu").tie_weights()
    return network.eval()


def _quantization(config: Config) -> dict[str, Any]:
    device = device_of(config.learner.device)
    reason = why_no_4_bits(device)
    if reason is not None:
        raise ValueError(reason)
    compute = torch_dtype(_compute_dtype(config.model.dtype, device))
    return {"quantization_config": in_4_bits(compute), "device_map": {"": device}}


def _attention(config: Config) -> str:
    device = device_of(config.learner.device)
    dtype = _compute_dtype(config.model.dtype, device)
    use_flash = device.type == "cuda" and dtype is DType.BFLOAT16 and is_flash_attn_2_available()
    return FLASH if use_flash else "sdpa"


def _freeze_indexers(network: PreTrainedModel) -> None:
    """Sparse attention picks keys by an indexer that transformers runs without gradients: it is not trained, and no
    optimizer's weight decay may move it."""
    for name, module in network.named_modules():
        if name.endswith(".indexer"):
            module.requires_grad_(False)


def _add_adapter(network: PreTrainedModel, config: LoraConfig) -> peft.PeftModel:
    """Freeze the network and put adapters into it, in place."""
    lora = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=config.targets,
        exclude_modules=_never_adapted(network),
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(network, lora, adapter_name=ADAPTER).eval()


def _never_adapted(network: PreTrainedModel) -> list[str] | None:
    """An indexer, which gets no gradient, and a router that is a linear layer (Llama 4's): its forward pass returns
    more than the one tensor that peft adds to. None where there is neither; an empty list peft would warn of."""
    linear = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    return [n for n, module in linear.items() if ".indexer." in n or "Router" in type(module).__name__] or None


def _decoder(network: PreTrainedModel) -> nn.Module:
    """All layers before the head. Llama 4 for text alone names itself as its decoder."""
    decoder: nn.Module = network.get_decoder()
    return network.get_submodule("model") if decoder is network else decoder


def _plain_head(network: PreTrainedModel) -> nn.Linear:
    head = network.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        raise ValueError(
            f"the learner computes a head of its own, and cannot stand in for this model's {type(head).__name__}"
            " (it has a bias, or an adapter: leave it out of model.lora.targets)"
        )
    return head


def _checkpoint_activations(network: PreTrainedModel) -> None:
    """Recompute each layer in the backward pass."""
    network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for module in network.modules():
        if isinstance(module, GradientCheckpointingLayer):
            # The layer asks this of itself alone. What is in it stays in evaluation mode.
            module.training = True


def whole(tensor: Tensor) -> Tensor:
    """The tensor that all ranks hold shards of; any other as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    on_device = cast(DTensor, tensor.to(tensor.device_mesh.device_type))
    return on_device.full_tensor()


def own_shard(tensor: Tensor, like: DTensor) -> Tensor:
    """Of a tensor that every rank has whole, the part that this rank holds of `like`, on the device of that."""
    shard = distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None).to_local()
    return shard.to(like.to_local().device)


def _adapted(network: PreTrainedModel) -> dict[Tensor, LoraLayer]:
    """The adapter of each weight that has one."""
    adapted: dict[Tensor, LoraLayer] = {}
    for module in network.modules():
        if isinstance(module, ParamWrapper):  # of the experts of a layer, which are one tensor
            adapted[module.get_param()] = module
        elif isinstance(module, LoraLayer):
            adapted[module.get_base_layer().weight] = module
    return adapted


def _added(layer: LoraLayer) -> Tensor:
    """What an adapter adds to its weight, from factors that are whole while peft multiplies them."""
    factors = [factor for half in (layer.lora_A, layer.lora_B) for factor in half.values()]
    held = [factor.weight for factor in factors]
    try:
        for factor, weight in zip(factors, held, strict=True):
            factor.weight = nn.Parameter(whole(weight), requires_grad=False)
        added: Tensor = layer.get_delta_weight(ADAPTER)
        return added
    finally:
        for factor, weight in zip(factors, held, strict=True):
            factor.weight = weight
