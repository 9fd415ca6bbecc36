"""Changes of a text that should not matter to whoever judges it. Each is a pure function: a text in, a text out.

A text with a block of code stays as it is, but for its box: there, marks and spaces mean something.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

_PREFIX = "Please answer the following.\n\n"
_ITEM = re.compile(r"^(\s*)([-*+]|\d+[.)])(\s+)(.*)$")
_HEADING = re.compile(r"^(#{1,6}\s+)(.*)$", re.MULTILINE)
_EMPHASIS = re.compile(r"(?<![\w*`])(\*\*|`)(?=\S)([^*`\n]+)(?<=\S)\1(?![\w*`])")
_BOXED = re.compile(r"\\boxed\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")
_OPENING = re.compile(r"(^|[\s(\[])\"")


def _has_code(text: str) -> bool:
    return "```" in text or "~~~" in text


def more_space(text: str) -> str:
    """Put an empty line between lines, and a space at the end."""
    if _has_code(text):
        return text
    return re.sub(r"\n+", lambda lines: "\n" * max(2, len(lines[0])), text) + " "


def less_space(text: str) -> str:
    """Take empty lines, and spaces behind lines, away."""
    if _has_code(text):
        return text
    return "\n".join(line.rstrip() for line in text.strip().splitlines() if line.strip())


def loud_headings(text: str) -> str:
    """Write Markdown's headings in capitals: `# Tea` becomes `# TEA`."""
    return text if _has_code(text) else _HEADING.sub(lambda heading: heading[1] + heading[2].upper(), text)


def without_markdown(text: str) -> str:
    """Take the marks of Markdown off: `# *Tea*`, `**hot**` and `- milk` become plain lines."""
    if _has_code(text):
        return text
    lines = [_ITEM.sub(r"\1\4", line) for line in _HEADING.sub(r"\2", text).splitlines()]
    return _EMPHASIS.sub(r"\2", "\n".join(lines))


def curly_quotes(text: str) -> str:
    """Make straight quotation marks round ones: `"tea"` becomes `\u201ctea\u201d`."""
    return text if _has_code(text) else _OPENING.sub("\\1\u201c", text).replace('"', "\u201d")


def plain_box(text: str) -> str:
    r"""Take LaTeX's box off an answer: `\boxed{4}` becomes `4`."""
    return _BOXED.sub(r"\1", text)


def reversed_items(text: str) -> str:
    """Turn the order of list items round that follow each other without numbers, and have no lines of their own."""
    if _has_code(text):
        return text
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        end = at
        while end < len(lines) and _is_bullet(lines[end]) and _depth(lines[end]) == _depth(lines[at]):
            end += 1
        if end == len(lines) or not lines[end].strip() or _depth(lines[end]) <= _depth(lines[at]):
            lines[at:end] = reversed(lines[at:end])
        at = max(end, at + 1)
    return "\n".join(lines)


def _is_bullet(line: str) -> bool:
    found = _ITEM.match(line)
    return found is not None and not found[2][0].isdecimal()


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def polite(prompt: str) -> str:
    """Put a sentence before the prompt that asks for what it asks anyway."""
    return _PREFIX + prompt


OF_RESPONSE: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "more space between lines": more_space,
        "less space between lines": less_space,
        "headings in capitals": loud_headings,
        "Markdown taken off": without_markdown,
        "round quotation marks": curly_quotes,
        "list items the other way round": reversed_items,
        "\\boxed taken off": plain_box,
    }
)
"""What is done to both responses of a pair, by the name that the report gives it."""
OF_PROMPT: Mapping[str, Callable[[str], str]] = MappingProxyType({"a polite sentence before the prompt": polite})
"""What is done to the last turn before the response."""
