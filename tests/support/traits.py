"""Small tokenizers with what real ones are known to have, one trait each; nothing is downloaded."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from nemo_bt.data.synthetic import NAMES, THINGS

_CORPUS = [
    f"{name} would like some {thing}. What do you bring? I bring {thing}.\n" for name in NAMES for thing in THINGS
]


def turns(before: str, behind: str, *, start: str = "", content: str = "m['content']", end: str = "") -> str:
    """A template that writes each message between two texts, with `role` for the message's."""
    opened = before.replace("role", "{{ m['role'] }}")
    return f"{start}{{% for m in messages %}}{opened}{{{{ {content} }}}}{behind}{{% endfor %}}{end}"


CHATML = turns("<|im_start|>role\n", "<|im_end|>\n")
_BOS, _EOS = "{{ bos_token }}", "{{ eos_token }}"
_REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
_DROPS = "(m['content'].split('</think>')[-1] if m['role'] == 'assistant' and not loop.last else m['content'])"
_MARKS = ("<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class Trait:
    """A tokenizer to make.

    Args:
        scored: the last token of a conversation; None where it is the answer's own.
        pad: what the folder says; `own_pad` is named by the user.
        adds_bos: whether plain text gets a BOS.
        kind: class of transformers; ByT5 and tokenizer.model are files of another kind.
        beyond: whether tokens are added behind the vocabulary.
    """

    template: str
    scored: str | None
    bos: str | None = None
    eos: str = "<|im_end|>"
    pad: str | None = "<|pad|>"
    own_pad: str | None = None
    special: tuple[str, ...] = _MARKS
    adds_bos: bool = False
    system: bool = True
    kind: str = "PreTrainedTokenizerFast"
    beyond: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


_BEGIN: dict[str, Any] = {"bos": "<s>", "eos": "</s>", "special": ("<s>", "</s>")}
_LLAMA3 = turns("<|start|>role<|stop|>\n\n", "<|eot|>", start=_BOS, content="m['content'] | trim")

TRAITS = {
    "bos begins every turn, a newline behind the end": Trait(CHATML, "Ċ", bos="<|im_start|>"),
    "bos is eos is pad": Trait(
        turns("<|role|>\n", "\n", start=_BOS, end=_EOS),
        "<|endoftext|>",
        bos="<|endoftext|>",
        eos="<|endoftext|>",
        pad="<|endoftext|>",
        own_pad="<|pad|>",
        special=("<|endoftext|>",),
    ),
    "no bos": Trait(CHATML, "Ċ"),
    "bos from both": Trait(turns("[role]", _EOS, start=_BOS), "</s>", adds_bos=True, **_BEGIN),
    "bos from the tokenizer alone": Trait(turns("[role]", _EOS), "</s>", adds_bos=True, **_BEGIN),
    "bos from the template alone": Trait(turns("[role]", _EOS, start=_BOS), "</s>", **_BEGIN),
    "an eos that the template never writes": Trait(
        turns("<|role|>\n", "<|end|>\n"), "Ċ", eos="<|endoftext|>", special=("<|endoftext|>", "<|end|>")
    ),
    "contents are trimmed, eos ends no turn": Trait(
        _LLAMA3,
        "<|eot|>",
        bos="<|begin|>",
        eos="<|endoftext|>",
        special=("<|begin|>", "<|endoftext|>", "<|start|>", "<|stop|>", "<|eot|>"),
        adds_bos=True,
    ),
    "no system": Trait(_REFUSES + CHATML, "Ċ", system=False),
    "a date": Trait(turns("[role]", _EOS, start=_BOS + "{{ strftime_now('%d %b %Y') }} "), "</s>", **_BEGIN),
    "earlier reasoning goes": Trait(turns("<|im_start|>role\n", "<|im_end|>", content=_DROPS), "<|im_end|>"),
    "no end": Trait(turns("\n\nrole: ", ""), None, special=(), eos="<|endoftext|>"),
    "a space behind eos": Trait(turns("[role]", _EOS + " ", start=_BOS), "Ġ", adds_bos=True, **_BEGIN),
    "tokens beyond the vocabulary": Trait(
        turns("<|turn|>role\n", "<|done|>"), "<|done|>", special=(), eos="<|done|>", beyond=("<|turn|>", "<|done|>")
    ),
    "flags for bos and eos": Trait(
        turns("[role]", ""),
        None,
        adds_bos=True,
        kind="LlamaTokenizerFast",
        options={"add_bos_token": True, "add_eos_token": True, "unk_token": "</s>"},
        **_BEGIN,
    ),
    "slow only": Trait(
        turns("<extra_id_0>role\n", _EOS), "</s>", eos="</s>", pad="<pad>", special=(), kind="ByT5Tokenizer"
    ),
    "tokenizer.model alone": Trait(
        turns("[role] ", _EOS, start=_BOS), "</s>", pad=None, own_pad="<pad>", adds_bos=True, kind="model", **_BEGIN
    ),
}


def make(trait: Trait, folder: Path) -> Path:
    """Save the tokenizer of a trait."""
    import transformers

    if trait.kind == "model":
        tokenizer = _of_sentencepiece(folder)
    elif trait.kind == "ByT5Tokenizer":
        tokenizer = transformers.ByT5Tokenizer()
    else:
        named = {"bos_token": trait.bos, "eos_token": trait.eos, "pad_token": trait.pad}
        backend = _byte_level(trait)
        kind = getattr(transformers, trait.kind)
        tokenizer = kind(tokenizer_object=backend, **{k: v for k, v in named.items() if v}, **trait.options)
    tokenizer.chat_template = trait.template
    tokenizer.save_pretrained(folder)
    return folder


def _byte_level(trait: Trait) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    named = dict.fromkeys((*trait.special, "<|pad|>", *(() if trait.eos in trait.beyond else (trait.eos,))))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(named), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(one, normalized=False) for one in trait.beyond])
    if trait.adds_bos and trait.bos:
        bos = (trait.bos, tokenizer.token_to_id(trait.bos))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    return tokenizer


def _of_sentencepiece(folder: Path) -> Any:
    """A slow tokenizer of Llama's kind; its folder gets no tokenizer.json."""
    import sentencepiece
    from transformers import LlamaTokenizer

    folder.mkdir(exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_CORPUS),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["<pad>"],
        minloglevel=2,
    )
    return LlamaTokenizer(str(folder / "tokenizer.model"), legacy=False)
