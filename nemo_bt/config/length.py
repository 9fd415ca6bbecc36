"""The longest conversation of a run: what is asked for, or what the model has positions for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LengthLimit:
    """Tokens of the longest conversation, and what sets the limit, in words that follow "longer than"."""

    tokens: int
    words: str


def length_limit(encoder_seq_length: int, num_positions: int | None) -> LengthLimit:
    """Give the smaller of the two; `num_positions` is what the model may use, None where nobody knows.

    `length_limit(4096, 512)` has 512 tokens.
    """
    if num_positions is None or encoder_seq_length <= num_positions:
        return LengthLimit(encoder_seq_length, f"model.encoder_seq_length={encoder_seq_length}")
    words = (
        f"the {num_positions} positions of the model (model.encoder_seq_length={encoder_seq_length}; set "
        "model.max_position_embeddings if it takes more)"
    )
    return LengthLimit(num_positions, words)
