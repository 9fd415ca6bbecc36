"""Token ids of conversations with the same prompt, the prompt tokenised once, and exactly the ids of each whole text.

The `tokenizers` library first cuts a text at its added tokens, and normalises and splits each piece for itself. So the
ids behind an added token do not depend on what is in front of it, unless the tokenizer looks beyond it: `cut_strings`
leaves those out. Source: tokenizers/src/tokenizer/added_vocabulary.rs, extract_and_normalize.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from nemo_bt.batching.stream import Ids

Texts: TypeAlias = Sequence[str]


def cut_strings(tokenizer: Any, template: str | None) -> list[str]:
    """Find added tokens of a transformers tokenizer behind which a text can be cut without changing an id.

    Only those that conversations have are looked at: the template's, bos and eos. Gemma has 6,414 others.
    """
    if not tokenizer.is_fast or tokenizer.backend_tokenizer.encode_special_tokens:
        return []
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    if '"prepend_scheme": "first"' in json.dumps(described["pre_tokenizer"]):
        return []  # what a piece begins with depends on whether it is the first
    tokens = described["added_tokens"]
    contents = [token["content"] for token in tokens]
    used = {tokenizer.bos_token, tokenizer.eos_token}
    return [
        token["content"]
        for token in tokens
        if (token["content"] in used or token["content"] in (template or ""))
        and not (token["normalized"] or token["rstrip"] or token["single_word"])
        and not (token["content"][-1].isalnum() or token["content"][-1] == "_")
        and not _repeats(token["content"])
        and not any(_overlap(token["content"], other) for other in contents if other != token["content"])
    ]


def _repeats(a: str) -> bool:
    """Tell whether a text can hold it twice with a character in common, as `))` in `)))`."""
    return any(a[-n:] == a[:n] for n in range(1, len(a)))


def _overlap(a: str, b: str) -> bool:
    """Tell whether a text can hold both with a character in common."""
    if a in b or b in a:
        return True
    return any(a[-n:] == b[:n] or b[-n:] == a[:n] for n in range(1, min(len(a), len(b))))


def encode_sharing(backend: Any, groups: Sequence[Texts], cuts: Sequence[str]) -> list[list[Ids]]:
    """Tokenise each text of each group, without special tokens of the tokenizer's own: ids, int32.

    Args:
        backend: a tokenizer of `tokenizers`.
        groups: texts that begin alike.
        cuts: what `cut_strings` gives.
    """
    pieces: list[str] = []
    shared: list[bool] = []
    for texts in groups:
        cut = _last_cut(texts, cuts) if len(texts) > 1 else 0
        shared.append(cut > 0)
        pieces += [texts[0][:cut], *(text[cut:] for text in texts)] if cut else texts
    encodings = backend.encode_batch_fast(pieces, add_special_tokens=False)
    found = iter([np.array(encoding.ids, dtype=np.int32) for encoding in encodings])
    ids = []
    for texts, is_shared in zip(groups, shared, strict=True):
        start = [next(found)] if is_shared else []
        ids.append([np.concatenate([*start, next(found)]) if start else next(found) for _ in texts])
    return ids


def _last_cut(texts: Texts, cuts: Sequence[str]) -> int:
    """Find where the last cut ends that lies in what all texts begin with, in characters; 0 if there is none."""
    first = texts[0]
    common = min(_common_start(first, other) for other in texts[1:])
    ends = [place + len(cut) for cut in cuts if (place := first.rfind(cut, 0, common)) >= 0]
    return max(ends, default=0)


def _common_start(a: str, b: str) -> int:
    """Count the characters that two texts begin with alike; by halves: comparing slices is fast, a loop is not."""
    low = 0
    high = min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
