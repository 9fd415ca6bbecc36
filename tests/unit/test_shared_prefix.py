"""Prompts tokenised once give the ids of whole texts, whatever the tokenizer."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from nemo_bt.data.tokenize.shared_prefix import cut_strings, encode_sharing

WORDS = ["tea", "milk", "soup", "Would you bring", "don't", "café", "  two", "12,345", "\n\n", "_", "▁", "x"]
TURNS = ["<|user|>", "<|assistant|>", "<|end|>"]
TEMPLATE = "<unk> soup )) <|user|> <|assistant|> <|end|>"
"""A chat template that has all tokens of these tests."""


def trained(kind: str) -> Tokenizer:
    model: Any = {"unigram": models.Unigram, "wordpiece": lambda: models.WordPiece(unk_token="<unk>")}.get(
        kind, lambda: models.BPE(unk_token="<unk>", byte_fallback=kind.startswith("sentencepiece"))
    )()
    tokenizer = Tokenizer(model)
    if kind.startswith("bytelevel"):
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind == "bytelevel with a space")
        tokenizer.decoder = decoders.ByteLevel()
    elif kind == "sentencepiece, prepended":
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        tokenizer.normalizer = normalizers.Sequence(steps)
    elif kind.startswith("metaspace"):
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind.split()[1])
    elif kind == "wordpiece":
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainers_by_kind: Any = {"unigram": trainers.UnigramTrainer, "wordpiece": trainers.WordPieceTrainer}
    trainer = trainers_by_kind.get(kind, trainers.BpeTrainer)
    extra = {"unk_token": "<unk>"} if kind == "unigram" else {}
    tokenizer.train_from_iterator(
        WORDS * 3, trainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False, **extra)
    )
    return tokenizer


KINDS = [
    "bytelevel", "bytelevel with a space", "sentencepiece", "sentencepiece, prepended", "metaspace first",
    "metaspace always", "metaspace never", "unigram", "wordpiece",
]  # fmt: skip
STRIPS: dict[str, dict[str, bool]] = {
    "plain": {}, "rstrip": {"rstrip": True}, "lstrip": {"lstrip": True}, "words": {"single_word": True},
}  # fmt: skip
TOKENIZERS: dict[tuple[str, str], Any] = {}


def tokenizer_of(kind: str, strip: str) -> Any:
    if (kind, strip) not in TOKENIZERS:
        backend = trained(kind)
        backend.add_special_tokens([AddedToken(turn, normalized=False, **STRIPS[strip]) for turn in TURNS])
        backend.add_tokens([AddedToken("soup", normalized=True)])
        TOKENIZERS[kind, strip] = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    return TOKENIZERS[kind, strip]


TEXT = st.lists(st.sampled_from([*WORDS, *TURNS, " "]) | st.text(max_size=4), max_size=8).map("".join)


@pytest.mark.parametrize("strip", STRIPS)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(prompt=TEXT, answers=st.lists(TEXT, min_size=1, max_size=3))
def test_ids_are_those_of_the_whole_texts(kind: str, strip: str, prompt: str, answers: list[str]) -> None:
    tokenizer = tokenizer_of(kind, strip)
    texts = [prompt + answer for answer in answers]
    backend = tokenizer.backend_tokenizer
    (found,) = encode_sharing(backend, [texts], cut_strings(tokenizer, TEMPLATE))
    assert [ids.tolist() for ids in found] == [backend.encode(text, add_special_tokens=False).ids for text in texts]


def test_cuts_are_found_where_they_are_safe_and_only_there() -> None:
    assert set(cut_strings(tokenizer_of("bytelevel", "plain"), TEMPLATE)) == {"<unk>", *TURNS}
    assert cut_strings(tokenizer_of("bytelevel", "plain"), "{{ m }}<|end|>") == ["<|end|>"]  # others are not looked at
    assert cut_strings(tokenizer_of("metaspace first", "plain"), TEMPLATE) == []
    assert set(cut_strings(tokenizer_of("bytelevel", "rstrip"), TEMPLATE)) == {"<unk>"}
    backend = trained("bytelevel")
    backend.add_tokens([AddedToken("))", normalized=False)])
    assert cut_strings(PreTrainedTokenizerFast(tokenizer_object=backend), TEMPLATE) == ["<unk>"]
    (found,) = encode_sharing(backend, [["a))). x", "a))). y"]], ["<unk>"])
    assert found[0].tolist() == backend.encode("a))). x", add_special_tokens=False).ids
    backend = trained("bytelevel")
    backend.add_special_tokens(["<|a|>", "|>b", "<|c|>d", "<|e|>"])
    template = f"{TEMPLATE} <|a|> |>b <|c|>d <|e|>"
    assert cut_strings(PreTrainedTokenizerFast(tokenizer_object=backend), template) == ["<unk>"]


def test_the_prompt_is_tokenised_once(tokenizer: Any) -> None:
    seen: list[str] = []

    class Watched:
        def encode_batch_fast(self, pieces: list[str], add_special_tokens: bool) -> Any:
            seen.extend(pieces)
            return tokenizer.backend_tokenizer.encode_batch_fast(pieces, add_special_tokens=add_special_tokens)

    texts = [f"<|bos|>user: a question<|end|>assistant: {answer}<|end|>" for answer in ("tea", "thyme", "t")]
    (found,) = encode_sharing(Watched(), [texts], cut_strings(tokenizer, TEMPLATE))
    assert seen == ["<|bos|>user: a question<|end|>", *(f"assistant: {a}<|end|>" for a in ("tea", "thyme", "t"))]
    assert all(isinstance(ids, np.ndarray) and ids.dtype == np.int32 for ids in found)
