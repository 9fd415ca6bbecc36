"""Conversations as people have them, drawn by hypothesis."""

from typing import Any

from hypothesis import strategies as st

PIECES = [
    *(
        "tea",
        "The capital of France is Paris.",
        "it's",
        "Don't",
        "naïve café",
        "日本語のテキスト",
        "Привет",
        "עברית",
        "हिन्दी",
    ),
    *(" ", "  ", "    ", "\t", "\n", "\n\n", "\n\n\n", "\r\n", "\N{NO-BREAK SPACE}", "\N{ZERO WIDTH JOINER}"),
    *("😀", "👩‍👩‍👧", "e\N{COMBINING ACUTE ACCENT}", "\N{LATIN SMALL LIGATURE FI}", "▁", "�"),
    *("7", "12345678", "3.14", "1,000", "2^10", "def f(x):\n    return x ** 2  # twice\n", "<b>a</b>", "{'a': [1]}"),
    *("<think>", "</think>", "<|im_end|>", "</s>", "[INST]", "<end_of_turn>", "<|eot_id|>", "<|endoftext|>"),
]

contents = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map(" ".join),
    st.text(min_size=1, max_size=30),
)


@st.composite
def dialogs(draw: Any, system: bool) -> list[list[dict[str, str]]]:
    """Two or three conversations that differ in the last answer alone."""
    turns = [{"role": "system", "content": draw(contents)}] if system and draw(st.booleans()) else []
    for place in range(2 * draw(st.integers(0, 2)) + 1):
        turns.append({"role": ("user", "assistant")[place % 2], "content": draw(contents)})
    return [
        [*turns, {"role": "assistant", "content": answer}]
        for answer in draw(st.lists(contents, min_size=2, max_size=3))
    ]
