"""An independent implementation: transformers' Llama on padded batches, and a plain PyTorch training loop over it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from nemo_bt.batching.sampling import pairs_of_step
from nemo_bt.data.store.pair_set import PairSet
from tests.support.layouts import (
    checkpoint,
)
from tests.support.runs import full_tensors
from tests.support.sources import conversations

LAYERS = {
    "self_attn.o_proj.weight": "self_attention.linear_proj.weight",
    "mlp.down_proj.weight": "mlp.linear_fc2.weight",
    "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
    "post_attention_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
}


def llama(
    vocab_size: int, layers: int, hidden: int, ffn: int, heads: int, groups: int
) -> LlamaForSequenceClassification:
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        max_position_embeddings=4096,
        num_labels=1,
        pad_token_id=0,
    )
    return LlamaForSequenceClassification(config).float()


def hf_names(gpt: dict[str, Tensor], config: LlamaConfig) -> dict[str, Tensor]:
    """Megatron's tensors (`decoder.layers.0....`) under transformers' names, QKV and gate-up taken apart."""
    heads, groups, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    named = {
        "model.embed_tokens.weight": gpt["embedding.word_embeddings.weight"],
        "model.norm.weight": gpt["decoder.final_layernorm.weight"],
    }
    if "output_layer.hidden.weight" in gpt:
        layers = {"score.0": "output_layer.hidden", "score.2": "output_layer"}
        named |= {f"{hf}.{kind}": gpt[f"{of}.{kind}"] for hf, of in layers.items() for kind in ("weight", "bias")}
    else:
        named["score.weight"] = gpt["output_layer.weight"]
    for i in range(config.num_hidden_layers):
        ours, theirs = f"decoder.layers.{i}.", f"model.layers.{i}."
        named |= {theirs + hf: gpt[ours + megatron] for hf, megatron in LAYERS.items()}
        qkv = gpt[ours + "self_attention.linear_qkv.weight"].view(groups, heads // groups + 2, size, -1)
        parts = {"q": qkv[:, :-2], "k": qkv[:, -2], "v": qkv[:, -1]}
        named |= {f"{theirs}self_attn.{p}_proj.weight": t.reshape(-1, t.shape[-1]) for p, t in parts.items()}
        gate, up = gpt[ours + "mlp.linear_fc1.weight"].chunk(2)
        named |= {theirs + "mlp.gate_proj.weight": gate, theirs + "mlp.up_proj.weight": up}
    return named


def unstacked(checkpoint: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a checkpoint, whose layers are stacked, under their names in the module."""
    named = {}
    for name, tensor in checkpoint.items():
        name = name.removeprefix("module.")
        if name.startswith("decoder.layers."):
            rest = name.removeprefix("decoder.layers.")
            named |= {f"decoder.layers.{i}.{rest}": layer for i, layer in enumerate(tensor)}
        else:
            named[name] = tensor
    return named


def padded_rewards(model: Any, sequences: Sequence[np.ndarray], side: str = "right") -> Tensor:
    """Rewards of whole sequences in one padded batch, as a user of transformers computes them."""
    longest = max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        start = 0 if side == "right" else longest - len(sequence)
        ids[row, start : start + len(sequence)] = torch.from_numpy(sequence.astype(np.int64))
        mask[row, start : start + len(sequence)] = 1
    return model(input_ids=ids, attention_mask=mask).logits[:, 0]


def whole_sequences(pairs: PairSet, numbers: Sequence[int]) -> list[np.ndarray]:
    """Chosen and rejected of each pair in turn, the prefix in front of both."""
    return [side for number in numbers for side in conversations(pairs, number)]


def plain_loop(
    model: LlamaForSequenceClassification, pairs: PairSet, *, steps: int, batch: int, seed: int, lr: float
) -> list[float]:
    """Train on the same pairs a step with torch's AdamW and nothing else; returns each step's loss."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=lr,
        betas=(0.9, 0.98),
        eps=1e-6,
    )
    losses = []
    for step in range(steps):
        rewards = padded_rewards(model, whole_sequences(pairs, pairs_of_step(seed, step, batch, pairs.epoch)))
        loss = -F.logsigmoid(rewards[0::2] - rewards[1::2]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def alone(model: Path, conversations: list[Any], tokenizer: Any) -> list[float]:
    hf = AutoModelForSequenceClassification.from_pretrained(model, torch_dtype=torch.float32).eval()
    texts = [tokenizer.apply_chat_template(one, tokenize=False) for one in conversations]
    return [hf(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits.item() for text in texts]


def hf_model_of(log_dir: Path, step: int) -> LlamaForSequenceClassification:
    """A checkpoint's weights in transformers' model."""
    hf = llama(384, layers=4, hidden=64, ffn=160, heads=4, groups=2)
    hf.load_state_dict(hf_names(unstacked(full_tensors(checkpoint(log_dir, step))), hf.config))
    return hf
