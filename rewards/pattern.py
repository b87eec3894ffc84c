"""Whether an answer matches a regular expression."""

from __future__ import annotations

import re

from rlvr.reward_function import reward
from rlvr.rewards.answer_text import answer_text


@reward(name="regex")
def regex(completion: str, pattern: str) -> float:
    r"""1.0 where `pattern` is found in the answer, else 0.0; `\A` and `\Z` ask for all of it.

    `pattern` is in the syntax of Python's `re`, fixed or a column. Some take for ever on some texts, so this runs in
    a process that is killed at the deadline: the outcome is then TIMEOUT. Raises re.error where it is no pattern.
    """
    answer = answer_text(completion)
    return float(answer is not None and re.search(pattern, answer) is not None)
