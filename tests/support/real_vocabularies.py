"""Vocabularies as their authors publish them (tiktoken, tekken, GGUF), as tokenizers of `tokenizers`.

The special tokens of tiktoken files stand in code, not in the file: what they are called is from the packages of their
authors, or from the model cards.
"""

import base64
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

_BEHIND_WORDS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
QWEN_PATTERN = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_BEHIND_WORDS}"
LLAMA3_PATTERN = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_BEHIND_WORDS}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_FRONT = r"[^\r\n\p{L}\p{N}]?"
LLAMA4_PATTERN = (
    rf"{_FRONT}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_FRONT}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _reserved(kind: str, start: int, stop: int) -> list[str]:
    return [f"<|{kind}reserved_special_token_{i}|>" for i in range(start, stop)]


LLAMA3_TOKENS = [
    *("<|begin_of_text|>", "<|end_of_text|>", *_reserved("", 0, 2), "<|finetune_right_pad_id|>"),
    *(*_reserved("", 2, 3), "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
    *_reserved("", 3, 248),
]
LLAMA4_TOKENS = [
    *("<|begin_of_text|>", "<|end_of_text|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|header_start|>", "<|header_end|>", "<|eom|>", "<|eot|>", "<|step|>", *_reserved("text_post_train_", 0, 6)),
    *("<|python_start|>", "<|python_end|>", "<|finetune_right_pad|>", *_reserved("text_post_train_", 8, 69)),
    *("<|image_start|>", "<|image_end|>", *_reserved("vision_", 0, 2), "<|tile_x_separator|>", "<|tile_y_separator|>"),
    *(*_reserved("vision_", 2, 6), "<|image|>", *_reserved("vision_", 6, 7), "<|patch|>"),
    *(*_reserved("vision_", 7, 1048), *_reserved("reasoning_", 0, 8)),
    *("<|reasoning_thinking_start|>", "<|reasoning_thinking_end|>", *_reserved("", 0, 904)),
]
_QWEN_MARKS = ["object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start", "quad_end", "vision_start"]
_QWEN_MARKS += ["vision_end", "vision_pad", "image_pad", "video_pad"]
_QWEN_FILE = ["fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep"]
QWEN25_TOKENS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|{mark}|>" for mark in _QWEN_MARKS)),
    *("<tool_call>", "</tool_call>", *(f"<|{mark}|>" for mark in _QWEN_FILE)),
]
QWEN3_TOKENS = [*QWEN25_TOKENS, "<tool_response>", "</tool_response>", "<think>", "</think>"]
_BAR = "\N{FULLWIDTH VERTICAL LINE}"
DEEPSEEK_BOS, DEEPSEEK_EOS = f"<{_BAR}begin▁of▁sentence{_BAR}>", f"<{_BAR}end▁of▁sentence{_BAR}>"
DEEPSEEK_TOKENS = [
    *(DEEPSEEK_EOS, f"<{_BAR}User{_BAR}>", f"<{_BAR}Assistant{_BAR}>", DEEPSEEK_BOS, "<|EOT|>"),
    *("<think>", "</think>"),
]
_TOOLS = ["[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]"]
TEKKEN_TOKENS = [
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", *_TOOLS, "<pad>", "[PREFIX]", "[MIDDLE]", "[SUFFIX]"),
    *(f"<SPECIAL_{i}>" for i in range(14, 1000)),
]
_NOT_SPECIAL = {"<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"}
_NOT_SPECIAL |= {f"<|{mark}|>" for mark in _QWEN_FILE}


def from_tiktoken(file: Path, special: Sequence[str], pattern: str, normalizer: Any = None) -> Tokenizer:
    """Ranks of byte strings, the special tokens behind them."""
    vocab, merges = _merges_of(file)
    vocab |= {token: len(vocab) + i for i, token in enumerate(special)}
    return _byte_level(vocab, merges, special, pattern, normalizer)


def from_tekken(file: Path, special: Sequence[str]) -> Tokenizer:
    """As `from_tiktoken`, with the special tokens in front and as many of the ranks as the model has."""
    described = json.loads(file.read_text())
    num_ranks = described["config"]["default_vocab_size"] - len(special)
    with tempfile.NamedTemporaryFile("w", suffix=".tiktoken") as ranks:
        ranks.writelines(f"{one['token_bytes']} {one['rank']}\n" for one in described["vocab"][:num_ranks])
        ranks.flush()
        vocab, merges = _merges_of(Path(ranks.name))
    vocab = {token: i for i, token in enumerate(special)} | {token: len(special) + i for token, i in vocab.items()}
    return _byte_level(vocab, merges, special, described["config"]["pattern"])


def _merges_of(file: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    from transformers.convert_slow_tokenizer import TikTokenConverter

    return TikTokenConverter(str(file)).extract_vocab_merges_from_model(str(file))


def _byte_level(vocab: Any, merges: Any, special: Sequence[str], pattern: str, normalizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(one, normalized=False, special=one not in _NOT_SPECIAL) for one in special])
    return tokenizer


def from_sentencepiece(file: Path, legacy: bool) -> Tokenizer:
    """What transformers makes of a tokenizer.model of Llama's kind: `legacy` puts a space before each piece of text."""
    from transformers import LlamaTokenizer
    from transformers.convert_slow_tokenizer import convert_slow_tokenizer

    return convert_slow_tokenizer(LlamaTokenizer(str(file), legacy=legacy))


def from_gguf(file: Path) -> Tokenizer:
    """GPT-2's kind of vocabulary with SmolLM2's digits, or Gemma's of sentencepiece."""
    from gguf import GGUFReader, TokenType

    fields = GGUFReader(file).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    if fields["tokenizer.ggml.model"].contents() == "gpt2":
        merges = [tuple(one.split(" ")) for one in fields["tokenizer.ggml.merges"].contents()]
        tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        added = [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    else:
        # Runs of spaces stand there as spaces; in sentencepiece's own file they are marks.
        tokens = [one.replace(" ", "▁") for one in tokens]
        tokenizer = _gemma(tokens, fields["tokenizer.ggml.scores"].contents())
        own = {TokenType.CONTROL, TokenType.USER_DEFINED}
        added = [token for token, kind in zip(tokens, kinds, strict=True) if kind in own]
    special = {token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL}
    special = {token for token in special if not token.startswith("<unused")}
    tokenizer.add_tokens([AddedToken(one, normalized=False, special=one in special) for one in added])
    return tokenizer


def _gemma(tokens: list[str], scores: list[float]) -> Tokenizer:
    from transformers.convert_slow_tokenizer import generate_merges

    vocab = {token: i for i, token in enumerate(tokens)}
    merges = generate_merges(vocab, list(zip(tokens, scores, strict=True)))
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def puts_in_front(tokenizer: Tokenizer, bos: str) -> None:
    """Let it put a BOS before plain text."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos}:0 $A:0", pair=f"{bos}:0 $A:0 {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )


def own_ids(file: Path, text: str, pattern: str) -> list[int]:
    """What the authors' own library makes of a text: tiktoken over a file of ranks, or sentencepiece."""
    import sentencepiece
    import tiktoken

    if pattern == "":
        return sentencepiece.SentencePieceProcessor(model_file=str(file)).encode(text)
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(str.split, file.read_text().splitlines())}
    return tiktoken.Encoding("own", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}).encode_ordinary(text)
