"""Which experts the routers of a network choose: read, and made to be the ones that were chosen before.

A router scores all experts, takes the best by `torch.topk`, and weighs them by their scores. Under control its
last step can be given another answer: the experts of a record, with the scores that the router has for them now.
So the weights stay differentiable, and the router goes on learning. This holds for every family of transformers
whose router is built so; `rlvr.learn.selfcheck` tries it on the very model before it is trained.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.output_capturing import OutputRecorder

# In a record: nobody wrote down what was chosen here, and the router chooses by itself.
UNRECORDED = -1

# What configurations call the number of experts in a layer.
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")


class UnknownRouter(ValueError):
    """The network has experts, and its routers are not of the form that can be controlled."""


@dataclass(frozen=True, slots=True)
class Router:
    """One layer's router: which of `experts` experts, `top_k` of them, work on a token.

    `logits` is the place of its scores [tokens, experts], before any squashing, in what its forward pass returns.
    """

    name: str
    module: nn.Module
    experts: int
    top_k: int
    logits: int


def has_experts(model: str) -> bool:
    """Whether the model, a folder or hub name, is a mixture of experts. Reads its configuration alone."""
    settings = AutoConfig.from_pretrained(model).get_text_config().to_dict()
    return any((settings.get(count) or 0) > 1 for count in _EXPERT_COUNTS)


def expert_layers(model: str) -> list[int]:
    """The numbers of the layers that have experts, of a folder or hub name. No weights are loaded."""
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    return [int(next(part for part in router.name.split(".") if part.isdigit())) for router in routers_of(network)]


def routers_of(network: nn.Module) -> list[Router]:
    """All routers, in order of their layers; transformers names their class. Raises UnknownRouter."""
    places: dict[type[nn.Module], int] = {}
    for part in network.modules():
        recorders: Mapping[str, object] = (part._can_record_outputs or {}) if isinstance(part, PreTrainedModel) else {}
        recorder = recorders.get("router_logits")
        if isinstance(recorder, OutputRecorder):
            places[recorder.target_class] = recorder.index
    return [
        _router(name, module, place)
        for name, module in network.named_modules()
        for target, place in places.items()
        if isinstance(module, target)
    ]


def _router(name: str, module: nn.Module, logits: int) -> Router:
    try:
        experts, top_k = len(module.get_parameter("weight")), int(module.top_k)  # type: ignore[arg-type]
    except AttributeError as error:
        raise UnknownRouter(
            f"{type(module).__name__} ({name}) is a router of a form not known ({error}): set "
            "learner.router.replay=false"
        ) from None
    return Router(name, module, experts, top_k, logits)


class ExpertChoice:
    """Routers of one network under control; without any it does nothing.

    After a forward pass over T tokens, `chosen` is what each layer's router chose, [T, layers, top_k], and `logits`
    each layer's scores, [T, experts], with their gradient. While `replayed` is set, of the shape of `chosen`, the
    routers choose what it says, and by themselves where it is UNRECORDED.

    `replayed` must stay in place until the backward pass is done: recomputed layers read it again.
    """

    def __init__(self, routers: Sequence[Router], *, keep_logits: bool = False) -> None:
        """`keep_logits`: `logits` are kept, for a loss on them; without, they stay empty and take no memory."""
        self.routers = routers
        self._keep_logits = keep_logits
        self.replayed: Tensor | None = None
        self.logits: list[Tensor] = [torch.empty(0)] * len(self.routers)
        self._choices: list[Tensor] = [torch.empty(0)] * len(self.routers)
        self._agreements: list[Tensor] = [torch.empty(0, dtype=torch.bool)] * len(self.routers)
        for layer, router in enumerate(routers):
            router.module.forward = functools.partial(self._route, layer, router.module.forward)

    @property
    def shape(self) -> tuple[int, int]:
        """Layers with experts, and experts of a token in each; (0, 0) without routers."""
        return len(self.routers), self.routers[0].top_k if self.routers else 0

    @property
    def experts(self) -> int:
        """Experts of a layer."""
        return self.routers[0].experts if self.routers else 0

    @property
    def chosen(self) -> Tensor:
        """Of the latest forward pass, int64 [T, layers, top_k]."""
        return torch.stack(self._choices, dim=1).long()

    def agreement(self) -> tuple[int, int]:
        """In the latest forward pass: recorded choices that the routers would have made, and recorded choices."""
        agreed = torch.cat([layer.flatten() for layer in self._agreements] or [torch.empty(0, dtype=torch.bool)])
        return int(agreed.sum()), len(agreed)

    def _route(self, layer: int, forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
        router = self.routers[layer]
        with _Choosing(router, None if self.replayed is None else self.replayed[:, layer]) as choosing:
            output = forward(*inputs, **named)
        if choosing.choice is None:
            raise UnknownRouter(
                f"{type(router.module).__name__} ({router.name}) does not choose its experts by topk over scores: set "
                "learner.router.replay=false"
            )
        self._choices[layer], self._agreements[layer] = choosing.choice.short(), choosing.agreed
        if self._keep_logits:
            self.logits[layer] = output[router.logits].flatten(0, -2)
        return output


class _Choosing(TorchFunctionMode):
    """Within one router's forward pass: sees the topk that chooses among all experts, and may answer it otherwise.

    A choice among groups of experts has another width, and goes its way.
    """

    def __init__(self, router: Router, recorded: Tensor | None) -> None:
        super().__init__()
        self._router = router
        self._recorded = recorded  # [T, top_k]
        self.choice: Tensor | None = None
        self.agreed = torch.empty(0, dtype=torch.bool)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in (torch.topk, Tensor.topk):
            return result
        scores = args[0]
        if scores.shape[-1] != self._router.experts or result.indices.shape[-1] != self._router.top_k:
            return result
        own = result.indices
        if self._recorded is None:
            self.choice = own.flatten(0, -2)
            return result
        recorded = self._recorded.view_as(own).to(own)
        known = recorded != UNRECORDED
        choice = torch.where(known, recorded, own)
        self.agreed = (recorded.unsqueeze(-1) == own.unsqueeze(-2)).any(-1)[known]
        self.choice = choice.flatten(0, -2)
        return torch.return_types.topk((scores.gather(-1, choice), choice))
