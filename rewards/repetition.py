"""A penalty on answers that say the same again and again."""

from __future__ import annotations

import re

from rlvr.reward_function import inline_reward

# A word; a character of a script that is written without blanks (Han, kana, Thai); a single other sign.
_UNIT = re.compile(r"[぀-ヿ㐀-鿿豈-﫿฀-๿]|[^\W぀-ヿ㐀-鿿豈-﫿฀-๿]+|[^\w\s]")


@inline_reward("repetition")
def repetition(completion: str, n: int = 3, worst: float = -1.0) -> float:
    """`worst` times the share of n-grams that stood in the answer before; 0.0 where all are new.

    The n-gram penalty of Yeo et al. 2025 (arXiv 2502.03373) as one number for an answer: `worst * (1 - distinct /
    all)`. Words count without regard to case; so do the characters of scripts without blanks. Raises ValueError
    where n is below 1 or `worst` is above 0.
    """
    if n < 1 or worst > 0:
        raise ValueError(f"repetition: expected n of at least 1 and worst of at most 0, got n={n}, worst={worst}")
    units = _UNIT.findall(completion.lower())
    ngrams = [*zip(*(units[i:] for i in range(n)), strict=False)]
    return worst * (1 - len(set(ngrams)) / len(ngrams)) if ngrams else 0.0
