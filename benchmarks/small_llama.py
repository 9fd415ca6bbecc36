"""The start of every benchmark of training: a Llama from random weights, a tokenizer, and pairs in a fixed order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from nemo_bt.batching.sampling import pairs_of_step
from nemo_bt.config.load import load_settings
from nemo_bt.data.store.load import load_sets
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from nemo_bt.data.train_tokenizer import texts_of, train_tokenizer
from nemo_bt.observability.terminal import Terminal

LR = 1e-4
WEIGHT_DECAY = 0.01
BETA2 = 0.98
MAX_LENGTH_TOKENS = 2048


@dataclass(frozen=True)
class Size:
    """Size of a model."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    key_heads: int
    vocab: int = 8192

    @property
    def name(self) -> str:
        """Layers and width, such as 4x256."""
        return f"{self.layers}x{self.hidden}"


SMALL = Size(4, 256, 688, 8, 4)
LARGE = Size(8, 512, 1376, 8, 4)


def make_tokenizer(data: Path, folder: Path) -> None:
    """Learn a byte-level BPE of 8,192 tokens from the larger file."""
    train_tokenizer(texts_of([str(data / "alpaca_eval_train.parquet")]), 8192, folder)


def make_model(size: Size, tokenizer: Path, folder: Path, seed: int) -> None:
    """Write a Hugging Face folder with model, head and tokenizer."""
    torch.manual_seed(seed)
    loaded = load_tokenizer(str(tokenizer), None)
    config = hf_config_of(size)
    config.pad_token_id = loaded.pad_token_id
    LlamaForSequenceClassification(config).save_pretrained(folder)
    loaded.save_pretrained(folder)


def hf_config_of(size: Size) -> LlamaConfig:
    """Give the configuration in Hugging Face's terms."""
    return LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.hidden,
        intermediate_size=size.ffn,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_heads,
        max_position_embeddings=MAX_LENGTH_TOKENS,
        num_labels=1,
    )


def training_overrides(
    model: Path, pairs: Path, run: Path, num_steps: int, seed: int = 1, accelerator: str = "cpu"
) -> list[str]:
    """Give overrides for nemo-bt train: 64 pairs a step, AdamW at a constant rate, every step logged, no validation."""
    return [
        f"model.restore_from_path={model}",
        f"exp_manager.explicit_log_dir={run}",
        f"model.data.train={pairs}",
        f"model.encoder_seq_length={MAX_LENGTH_TOKENS}",
        "model.data.max_drop_fraction=1",
        "model.global_batch_size=64",
        f"model.optim.lr={LR}",
        "model.optim.sched.name=constant",
        "model.optim.sched.warmup_steps=0",
        f"model.optim.weight_decay={WEIGHT_DECAY}",
        f"model.optim.betas=[0.9,{BETA2}]",
        f"trainer.accelerator={accelerator}",
        "trainer.log_every_n_steps=1",
        "trainer.limit_val_batches=0",
        f"trainer.max_steps={num_steps}",
        f"trainer.seed={seed}",
    ]


def open_pairs(overrides: list[str], model: Path) -> PairSet:
    """Open the training pairs of these settings."""
    tokenizer = load_tokenizer(str(model), None)
    return load_sets(load_settings("train", overrides), tokenizer, False, Terminal(None))["train"]


def write_token_pairs(pairs: PairSet, batch_pairs: int, num_steps: int, seed: int, file: Path) -> list[int]:
    """Write the pairs of the first steps, in order, as token ids of both sides, which TRL reads.

    Returns:
        Tokens in the streams of each step: a prompt that its pair's sides share counts once.
    """
    sides = []
    tokens = []
    for step in range(num_steps):
        tokens.append(0)
        for group in pairs.groups(pairs_of_step(seed, step, batch_pairs, pairs.epoch)):
            tokens[-1] += group.num_tokens
            for pair in group.comparisons:
                chosen, rejected = (group.prefix.tolist() + group.continuations[i].tolist() for i in pair.sides)
                sides.append({"chosen_ids": chosen, "rejected_ids": rejected})
    pq.write_table(pa.Table.from_pylist(sides), file)
    return tokens
