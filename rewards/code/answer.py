"""The program in what a model wrote. Only looks at lines: nothing of it is parsed or run here."""

from __future__ import annotations

import re

from rlvr.rewards.answer_text import answer_text

# The words after a fence that name a language; the first is the sandbox's own.
ALIASES = {
    "python": ("python", "py", "python3", "py3"),
    "cpp": ("cpp", "c++", "cc", "cxx"),
    "c": ("c",),
    "javascript": ("javascript", "js", "node", "nodejs"),
    "bash": ("bash", "sh", "shell"),
    "rust": ("rust", "rs"),
    "go": ("go", "golang"),
    "java": ("java",),
}
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})[ \t]*([^\s`]*)")
# How a Python program begins, and prose does not.
_FIRST_LINE = re.compile(
    r"(async )?def \w+\(|class \w+[(:]|@\w|import [\w.]+( as \w+)?(, ?[\w.]+( as \w+)?)*$|from [\w.]+ import [\w*(]"
    r"|#!|print\(|[A-Za-z_]\w*(, ?[A-Za-z_]\w*)* = \S"
)


def language_name(name: str) -> str:
    """The sandbox's name of a language."""
    word = name.strip().lower()
    return next((language for language, words in ALIASES.items() if word in words), word)


def code_of(completion: str, language: str = "python", can_continue: bool = False) -> str | None:
    """The last fenced block in `language`, after the reasoning; else the last one that names no language.

    An answer without any fence is code where its first line can be nothing but Python, or is indented and the answer
    may be the lines that continue a given beginning. None where there is no code.
    """
    text = _after_reasoning(completion)
    if text is None:
        return None
    blocks = fenced_blocks(text)
    chosen = [body for word, body in blocks if language_name(word) == language] or [b for word, b in blocks if not word]
    if chosen:
        return chosen[-1]
    if blocks or language != "python":
        return None
    return text if _FIRST_LINE.match(text.lstrip("\n")) or (can_continue and is_indented(text)) else None


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """Each block's language word and content, in order. The end of the text ends a block that nothing else ended."""
    blocks: list[tuple[str, str]] = []
    opening: re.Match[str] | None = None
    body: list[str] = []
    for line in text.splitlines(keepends=True):
        mark = _FENCE.match(line)
        if opening is None:
            opening, body = mark, []
        elif mark and mark[1].startswith(opening[1]) and not line[mark.end() :].strip() and not mark[2]:
            blocks.append((opening[2], "".join(body)))
            opening = None
        else:
            body.append(line)
    if opening is not None:
        blocks.append((opening[2], "".join(body)))
    return blocks


def is_indented(code: str) -> bool:
    """Whether its first line is: then it can only be the continuation of something."""
    return code.lstrip("\n")[:1] in (" ", "\t")


def _after_reasoning(completion: str) -> str | None:
    """With the blanks at the head of the first line, which mean something in Python."""
    answer = answer_text(completion)
    if not answer:
        return None
    start = completion.rfind(answer)
    line = completion.rfind("\n", 0, start) + 1
    return completion[line : start + len(answer)] if not completion[line:start].strip() else answer
