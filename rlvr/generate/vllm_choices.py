"""Which experts vLLM's routers chose in a step, by request. On CPU: its own `enable_return_routed_experts` needs a GPU.

vLLM calls a function of ours with each router's choice. After the step the rows of these tensors belong, in order, to
the requests of the batch.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from vllm.model_executor.layers.fused_moe.layer import MoERunner
from vllm.model_executor.layers.fused_moe.router.base_router import BaseRouter

from rlvr.generate.expert_record import narrow

if TYPE_CHECKING:
    from rlvr.types import Experts

# A request's id, to the place of the first token computed in the step and the choices from there on.
StepChoices = dict[str, tuple[int, "Experts"]]


class ChoiceReader:
    """Reads the choices of one worker's model, step after step."""

    def __init__(self, model_runner: Any) -> None:
        self._runner = model_runner
        layers = [module for module in model_runner.model.modules() if isinstance(module, MoERunner)]
        self._experts = model_runner.model_config.get_num_experts()
        self._chosen: list[torch.Tensor | None] = [None] * len(layers)
        for number, layer in enumerate(layers):
            if not isinstance(layer.router, BaseRouter):
                raise RuntimeError(
                    f"vLLM does not tell what its {type(layer.router).__name__} chooses: set "
                    "learner.router.replay=false"
                )
            layer.router.set_capture_fn(functools.partial(self._take, number))

    def _take(self, layer: int, chosen: torch.Tensor) -> None:
        self._chosen[layer] = chosen

    def of_step(self) -> StepChoices:
        """Of the step that was run last; nothing if that was read already."""
        layers = [chosen for chosen in self._chosen if chosen is not None]
        if not layers:
            return {}
        self._chosen = [None] * len(self._chosen)
        choices = narrow(torch.stack(layers, dim=1).numpy(), self._experts)
        batch = self._runner.input_batch
        ends = self._runner.query_start_loc.np[1 : batch.num_reqs + 1].tolist()
        places = batch.num_computed_tokens_cpu[: batch.num_reqs].tolist()
        begins = [0, *ends[:-1]]
        return {
            request: (place, choices[begin:end])
            for request, place, begin, end in zip(batch.req_ids, places, begins, ends, strict=True)
        }
