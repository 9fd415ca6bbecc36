"""What the token ids of conversations have to be: transformers' own, with one BOS where the tokenizer puts one."""

import copy
import datetime
from typing import Any

from nemo_bt.config.data import TextSettings
from nemo_bt.data.formats.responses import Chat
from nemo_bt.data.tokenize.chat_template import Renderer, load_renderer
from nemo_bt.data.tokenize.tokenizer import load_tokenizer

DAY = "2024-07-26"


def renderer_of(folder: str, pad_token: str | None) -> Renderer:
    return load_renderer(load_tokenizer(folder, pad_token), TextSettings(chat_template_date=DAY))


def true_ids(tokenizer: Any, messages: list[dict[str, str]], adds_bos: bool) -> list[int]:
    """Ids of `apply_chat_template`, with a BOS in front where the tokenizer puts one and the template does not."""
    ids: list[int] = tokenizer.apply_chat_template(
        messages, tokenize=True, strftime_now=datetime.date.fromisoformat(DAY).strftime
    )
    return [tokenizer.bos_token_id, *ids] if adds_bos and ids[:1] != [tokenizer.bos_token_id] else ids


def check_ids(renderer: Renderer, dialogs: list[list[dict[str, str]]], adds_bos: bool) -> None:
    """Compare the ids of conversations that begin alike with the true ones; no guard finds their start wrong."""
    texts = renderer.texts([Chat(messages) for messages in dialogs])
    assert all(isinstance(text, str) for text in texts), texts
    (found,) = renderer.ids([texts], [True])
    bos = renderer.tokenizer.bos_token_id
    for ids, messages in zip(found, dialogs, strict=True):
        assert ids.tolist() == true_ids(renderer.tokenizer, messages, adds_bos), messages
        assert bos is None or ids[:2].tolist() != [bos, bos]
        assert not renderer.wrong_bos(ids)


def with_tokens(tokenizer: Any, *tokens: str) -> Any:
    """A copy of the tokenizer that has these special tokens too."""
    own = copy.deepcopy(tokenizer)
    own.add_special_tokens({"additional_special_tokens": list(tokens)})
    return own


LLAMA3_MARKS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
