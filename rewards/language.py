"""How much of an answer is in the language it should be in."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache

from rlvr.reward_function import inline_reward

# Scripts by language, as the first word of their characters' Unicode names says.
_SCRIPTS = {
    **dict.fromkeys(("en", "de", "fr", "es", "it", "pt", "nl"), ("LATIN",)),
    **dict.fromkeys(("ru", "uk", "bg", "sr"), ("CYRILLIC",)),
    **dict.fromkeys(("ar", "fa", "ur"), ("ARABIC",)),
    **dict.fromkeys(("hi", "mr", "ne"), ("DEVANAGARI",)),
    **{"zh": ("CJK",), "ja": ("CJK", "HIRAGANA", "KATAKANA"), "ko": ("HANGUL",), "th": ("THAI",)},
    **{"el": ("GREEK",), "he": ("HEBREW",), "bn": ("BENGALI",), "ta": ("TAMIL",), "te": ("TELUGU",)},
}
_WITHOUT_BLANKS = {"CJK": 2, "HIRAGANA": 2, "KATAKANA": 2, "THAI": 4}  # characters that are worth a word

# Words that hardly any text does without, and that no other language here has: what tells Latin languages apart.
_FREQUENT = {
    "en": (
        "the and of to is that it we are this with which be from have then there so not what by can since as "
        "on do no also come met per"
    ),
    "de": (
        "der die das und ist nicht ein eine wir mit auf für sich auch dass werden wird sind dem den zu von "
        "oder also es des er als"
    ),
    "fr": (
        "le les des est et une dans pour qui sur avec pas nous sont donc cette être plus mais par on du au ou en si"
    ),
    "es": (
        "el los las es y una para con del se lo más pero hay entonces cuando este esta muy sin sobre su al "
        "como en dos si le"
    ),
    "it": ("il gli è una per che non sono della questo con di anche come più quindi nel alla dei perché si ma le qui"),
    "pt": "o os as é uma para com não que em do da dos então mais mas como por se ao na no são isso você",
    "nl": ("het een en van is dat niet zijn op te met voor er maar ook wij deze dus wordt als aan naar bij om die"),
}
_NO_PROSE = re.compile(
    r"```.*?(?:```|\Z)|\$\$.*?\$\$|\$[^$\n]{0,300}\$|\\[A-Za-z]+|https?://\S+|</?\w{1,20}>|`[^`\n]{0,300}`", re.DOTALL
)
_WORD = re.compile(r"[^\W\d_]+")


@inline_reward("language")
def language_reward(completion: str, language: str) -> float:
    """The share of words that are in `language` (a two-letter code), 0.0 to 1.0; 1.0 where there are no words.

    The language consistency reward of DeepSeek-R1 (arXiv 2501.12948, section 2.3.2), over reasoning and answer. A
    word belongs by its script; among words in Latin letters, the most frequent ones of each language say which share
    of them does. Code, formulas, links and single Latin letters are not counted. `language` is fixed or a column.
    Raises ValueError for a language that is not known here.
    """
    if language not in _SCRIPTS:
        raise ValueError(f"language: {language!r} is not known; choose one of {', '.join(sorted(_SCRIPTS))}")
    words, latin = _count(completion)
    total = sum(words.values())
    if not total:
        return 1.0
    share = sum(words[script] for script in _SCRIPTS[language]) / total
    return share * _share_of_latin(latin, language) if language in _FREQUENT else share


def _count(text: str) -> tuple[Counter[str], Counter[str]]:
    """Words by script, and how often each word in Latin letters stands there."""
    words: Counter[str] = Counter()
    latin: Counter[str] = Counter()
    for word in _WORD.findall(_NO_PROSE.sub(" ", unicodedata.normalize("NFKC", text)).lower()):
        scripts = Counter(map(_script, word))
        for script, letters in scripts.items():
            if script in _WITHOUT_BLANKS:
                words[script] += letters / _WITHOUT_BLANKS[script]  # type: ignore[assignment]
        spaced = [script for script in scripts if script not in _WITHOUT_BLANKS]
        if spaced and (scripts[spaced[0]] > 1 or spaced[0] != "LATIN"):
            words[spaced[0]] += 1
        latin[word] += spaced == ["LATIN"]
    return words, latin


def _share_of_latin(latin: Counter[str], language: str) -> float:
    """Of the frequent words that tell languages apart, those of `language`; 1.0 where there are none."""
    mine = sum(latin[word] for word in _telling()[language])
    others = sum(latin[word] for other, words in _telling().items() if other != language for word in words)
    return mine / (mine + others) if mine + others else 1.0


@lru_cache(maxsize=1)
def _telling() -> dict[str, frozenset[str]]:
    """The frequent words of each language that no other one has."""
    count = Counter(word for words in _FREQUENT.values() for word in set(words.split()))
    return {language: frozenset(w for w in words.split() if count[w] == 1) for language, words in _FREQUENT.items()}


@lru_cache(maxsize=20_000)
def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").split(" ", 1)[0]
