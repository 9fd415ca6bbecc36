"""Pairs beyond model.encoder_seq_length. A response is whole or not there: only prompts are ever cut."""

from __future__ import annotations

import numpy as np

from nemo_bt.batching.stream import Ids
from nemo_bt.data.formats.responses import Preference, PromptGroup
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.data.tokenize.chat_template import Renderer


def cut_prompt(
    group: PromptGroup, pair: Preference, sequences: dict[int, Ids], limit_tokens: int, renderer: Renderer
) -> dict[int, Ids] | None:
    """Cut both sequences of a pair at the prompt's start, by as much as makes them fit.

    Both lose the same tokens, so they still share the prompt; a BOS stays in front.

    Args:
        sequences: position in `group.sides` -> ids.
        limit_tokens: longest conversation.

    Returns:
        The two by position; None where the prompt is too short for it, or cannot be told from the response.
    """
    ids = [sequences[side] for side in pair.sides]
    keeps = int(all(side[0] == renderer.tokenizer.bos_token_id for side in ids))
    try:
        prompts = [renderer.prompt_tokens(group.sides[side], sequences[side]) for side in pair.sides]
    except RowError:  # the template renders no prompt without a response
        return None
    cut = max(map(len, ids)) - limit_tokens
    if cut > min(prompts) - keeps:
        return None
    return {side: np.concatenate([one[:keeps], one[keeps + cut :]]) for side, one in zip(pair.sides, ids, strict=True)}
