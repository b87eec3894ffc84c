"""The reward `math_answer`: 1.0 where a completion's final answer equals the reference, else 0.0."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache

from rlvr.reward_function import reward
from rlvr.rewards.math.verifier import MathVerifier, Reference
from rlvr.types import Score


def shared_verifier() -> MathVerifier:
    """The verifier that `math_answer` uses in this process. It starts nothing before it must.

    `shared_verifier().warm_up()` starts its processes early, `shared_verifier().close()` ends them.
    """
    return _verifier_of(os.getpid())


@cache
def _verifier_of(process_id: int) -> MathVerifier:
    # By process: after a fork, the parent's worker processes are not the child's to speak with.
    return MathVerifier()


def _math_answer_now(completion: str, answer: Reference | Sequence[Reference], tolerance: float = 0.0) -> Score:
    return shared_verifier().score_blocking(completion, answer, tolerance)


@reward(name="math_answer", blocking=_math_answer_now)
async def math_answer(completion: str, answer: Reference | Sequence[Reference], tolerance: float = 0.0) -> Score:
    r"""Whether the completion's final answer is the reference's.

        math_answer(completion=r"So it is \boxed{1/2}.", answer="0.5").value    # 1.0

    `answer` is a final answer as text, LaTeX or a number, a worked solution that ends in `#### 18`, `A: 18` or
    a box, or a list of answers of which any is right. `tolerance` is relative to the reference, for numbers: 0.01
    takes 3.16 for 3.14.

    See `rlvr.rewards.math.extract` for where the final answer of a completion is looked for, and
    `rlvr.rewards.math.verifier` for what each outcome means.
    """
    return await shared_verifier().score(completion, answer, tolerance)
