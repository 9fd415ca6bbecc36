"""Pairs beyond model.encoder_seq_length. A response is whole or not there: only prompts are ever cut."""

from __future__ import annotations

import numpy as np

from nemo_bt.data.choices import Choices
from nemo_bt.data.construct import Pairs
from nemo_bt.data.render import Renderer
from nemo_bt.stream import Ids


def cut_prompts(
    choices: Choices, pairs: Pairs, sequences: dict[int, Ids], limit_tokens: int, renderer: Renderer
) -> dict[int, Ids]:
    """Sequences of one prompt with as much of its start cut as the longest needs that can be made to fit.

    All lose the same tokens, so the prompt stays shared; a BOS stays in front.

    Args:
        choices: the prompt and its responses.
        pairs: that use them.
        sequences: position in `choices.sides` -> ids.
        limit_tokens: longest conversation.
        renderer: knows where a response starts.

    Returns:
        The shorter sequences; those that cannot be made to fit are still too long.
    """
    used = sorted({side for pair in pairs for side in pair})
    keeps = int(all(sequences[side][0] == renderer.tokenizer.bos_token_id for side in used))
    spare = min(renderer.prompt_tokens(choices.sides[side], sequences[side]) for side in used) - keeps
    needs = [len(sequences[side]) - limit_tokens for side in used]
    cut = max((need for need in needs if 0 < need <= spare), default=0)
    return {side: np.concatenate([ids[:keeps], ids[keeps + cut :]]) for side, ids in sequences.items()}
