"""A transformers model whose weights are replaced while it is in use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rlvr.config import DType
from rlvr.routing import ExpertChoice, routers_of
from rlvr.weights.transport import checksum, published_weights, torch_dtype


class LoadedModel:
    """A causal language model, and the ways of new weights into it."""

    def __init__(self, model: str, dtype: DType, device: torch.device) -> None:
        from transformers import AutoModelForCausalLM

        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch_dtype(dtype), attn_implementation="sdpa")
        self.model: Any = loaded.to(device).eval()
        self.device = device
        self._base: Any = self.model
        self.experts = ExpertChoice([])

    def checksum(self, dtype: DType) -> int:
        return checksum(published_weights(self._base).values(), dtype)

    @torch.no_grad()
    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Weights by checkpoint name. Raises ValueError when their names are not the model's."""
        published = published_weights(self._base)
        if published.keys() != weights.keys():
            odd = sorted(published.keys() ^ weights.keys())
            raise ValueError(f"the new weights are of another model: {len(odd)} names differ, the first is {odd[0]}")
        held = self._base.state_dict()
        if published.keys() <= held.keys():
            for name, tensor in weights.items():
                held[name].copy_(tensor)
        else:
            self._rebuild(weights)

    def _rebuild(self, weights: Mapping[str, torch.Tensor]) -> None:
        """transformers holds some weights of this model fused, and fuses them only when it builds a model."""
        cls, dtype = type(self._base), self._base.dtype
        config = self._base.config
        rebuilt = cls.from_pretrained(None, config=config, state_dict=dict(weights), dtype=dtype)
        self.model = self._base = rebuilt.to(self.device).eval()
        if self.experts.routers:
            self.watch_experts()

    def watch_experts(self) -> None:
        """From now on, `experts` knows what the routers chose in the latest forward pass."""
        self.experts = ExpertChoice(routers_of(self.model))

    # ---------------------------------------------------------------- adapters

    @torch.no_grad()
    def load_adapter(self, folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
        """A LoRA adapter on top of the weights held. The first wraps the model; later ones replace its numbers."""
        import peft

        if self.model is self._base:
            self.model = peft.PeftModel.from_pretrained(self._base, folder).eval()
            return
        result = peft.set_peft_model_state_dict(self.model, dict(weights))
        if result.unexpected_keys:
            raise ValueError(f"the adapter in {folder} does not fit the one before: {result.unexpected_keys[0]}")

    def adapter_checksum(self, dtype: DType) -> int:
        import peft

        return checksum(peft.get_peft_model_state_dict(self.model).values(), dtype)
