"""Checks mathematical answers, in processes that can be killed.

How an answer is judged, and where to read it:

1. `answer` is the reward, `verifier` the way through all that follows; it remembers verdicts.
2. `extract` finds the final answer in a completion, and in a reference.
3. `latex` gives both one spelling.
4. `structure` compares them part by part: `notations` (choices, ratios, congruences, bases), `compounds` (lists, sets,
   tuples, matrices), `claims` (`x = 5`) and `intervals` (`x > 2`) take them apart.
5. `values` compares two parts: `words`, then `quantity` (with `numbers` and `units`), then formulas, which `formula`
   reads and `evaluate` computes with bounds on the error. Nothing that a model wrote is run, and all costs are bounded.
6. What is still open goes past `guard`, which refuses what would cost too much, to a worker: `symbolic` asks computer
   algebra there, about each part or about the whole. `warm` loads it before workers are forked.

At each step a verdict is True, False, or None: not known here, ask the next.
"""

from rlvr.rewards.math.answer import math_answer, shared_verifier
from rlvr.rewards.math.verifier import MathVerifier

__all__ = ["MathVerifier", "math_answer", "shared_verifier"]
