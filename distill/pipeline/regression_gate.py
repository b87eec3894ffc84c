"""A stage's gate: figures that its policy must not lose against those of other stages, or the recipe stops there."""

from __future__ import annotations

from collections.abc import Mapping

from rlvr.distill.pipeline.ledger import Evaluation
from rlvr.distill.pipeline.recipe import Bound, RecipeError

_PREFIX = "evaluation/"


def hold(
    stage: str, gate: Mapping[str, Bound], evaluation: Evaluation, others: Mapping[str, Evaluation | None]
) -> list[str]:
    """One line a figure that is held. Raises RecipeError with all that are not."""
    held: list[str] = []
    lost: list[str] = []
    for figure, bound in gate.items():
        value, least = _value(stage, figure, evaluation), _value(bound.of, figure, others[bound.of]) - bound.within
        line = f"{figure} {value:.3f}, and {bound.of} less {bound.within:g} is {least:.3f}"
        (held if value >= least else lost).append(line)
    if lost:
        raise RecipeError(
            f"stage {stage} does not hold its gate, and nothing after it is run:\n"
            + "\n".join(f"  - {line}" for line in lost)
            + f"\ntrain it otherwise (--from {stage}), or say `within` how much may be lost: that runs nothing anew"
        )
    return [f"gate held: {line}" for line in held]


def _value(stage: str, figure: str, evaluation: Evaluation | None) -> float:
    metrics = evaluation.metrics if evaluation is not None else {}
    if f"{_PREFIX}{figure}" not in metrics:
        known = ", ".join(sorted(key.removeprefix(_PREFIX) for key in metrics))
        raise RecipeError(f"gate: the evaluation of {stage} has no {figure!r}; it has {known}")
    return metrics[f"{_PREFIX}{figure}"]
