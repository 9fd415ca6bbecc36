"""Runs that are traced on a GPU of shapes alone: name -> rank and overrides."""

import json
from dataclasses import dataclass

from tests.support.hf_models import hf_config_of
from tests.support.layouts import CP2, EP2, PP2, SELECTIVE, SP, TP2, VPP2, ZERO, full


@dataclass(frozen=True)
class Traced:
    """A run that is traced as one of its ranks.

    Args:
        config: the configuration that `overrides` change.
    """

    overrides: list[str]
    num_ranks: int = 1
    rank: int = 0
    config: str = "train"


def family(shape: str, **sizes: object) -> list[str]:
    """A new model like one of `tests.support.hf_models`, in other sizes."""
    fields = hf_config_of(shape) | {"initializer_range": 0.02, "max_position_embeddings": 8192} | sizes
    return ["model.hf_config=" + json.dumps(fields, separators=(",", ":")).replace('"', "")]


LLAMA_8B = ["model=llama3_8b", "model.num_layers=4"]
MIXTRAL = ["model=mixtral_8x7b", "model.hf_config.num_hidden_layers=2"]
GEMMA2 = ["model=gemma2_27b", "model.hf_config.num_hidden_layers=4"]
FP8 = ["model.fp8=hybrid", "model.fp8_recipe=tensorwise"]
RECOMPUTE = full("uniform", 1)
LORA = ["model.peft.peft_scheme=lora"]
GATHER = ["model.fp8_param_gather=true"]
OFFLOAD = ["model.optim.optimizer_cpu_offload=true"]

QUICK = {
    "bf16": Traced(LLAMA_8B),
    "FP8 tensorwise recompute": Traced([*LLAMA_8B, *FP8, *RECOMPUTE]),
    "TP2 SP PP2": Traced([*LLAMA_8B, *TP2, *SP, *PP2], 4, rank=3),
    "CP2": Traced([*LLAMA_8B, *CP2], 2, rank=1),
    "experts EP2": Traced([*MIXTRAL, *EP2], 2, rank=1),
    "distributed optimizer overlapping": Traced([*LLAMA_8B, *ZERO], 2, rank=1),
}
MORE = {
    "recompute": Traced([*LLAMA_8B, *RECOMPUTE]),
    "recompute attention": Traced([*LLAMA_8B, *SELECTIVE]),
    "TP2": Traced([*LLAMA_8B, *TP2], 2),
    "TP2 SP PP2 first stage": Traced([*LLAMA_8B, *TP2, *SP, *PP2], 4, rank=0),
    "PP2 VPP2": Traced([*LLAMA_8B, *VPP2], 2, rank=0),
    "PP2 VPP2 last stage": Traced([*LLAMA_8B, *VPP2], 2, rank=1),
    "fp32": Traced([*LLAMA_8B, "trainer.precision=32"]),
    "fused attention": Traced([*LLAMA_8B, "model.attention_backend=fused"]),
    "local attention": Traced([*LLAMA_8B, "model.attention_backend=local"]),
    "FP8 tensorwise": Traced([*LLAMA_8B, *FP8]),
    "FP8 delayed": Traced([*LLAMA_8B, "model.fp8=hybrid", "model.fp8_recipe=delayed"], 2),
    "FP8 delayed recompute": Traced([*LLAMA_8B, "model.fp8=hybrid", "model.fp8_recipe=delayed", *RECOMPUTE], 2),
    "FP8 blockwise": Traced([*LLAMA_8B, "model.fp8=hybrid", "model.fp8_recipe=blockwise"]),
    "FP8 blockwise recompute": Traced([*LLAMA_8B, "model.fp8=hybrid", "model.fp8_recipe=blockwise", *RECOMPUTE]),
    "FP8 TP2 SP": Traced([*LLAMA_8B, *FP8, *TP2, *SP], 2, rank=1),
    "FP8 delayed TP2 SP": Traced([*LLAMA_8B, *FP8, "model.fp8_recipe=delayed", *TP2, *SP], 2, rank=1),
    "FP8 blockwise TP2 SP": Traced([*LLAMA_8B, *FP8, "model.fp8_recipe=blockwise", *TP2, *SP], 2, rank=1),
    "FP8 but for the ends PP2": Traced([*LLAMA_8B, *FP8, "model.first_last_layers_bf16=true", *PP2], 2),
    "FP8 gathered": Traced([*LLAMA_8B, *FP8, *ZERO, *GATHER], 2, rank=1),
    "FP8 gathered, one rank": Traced([*LLAMA_8B, *FP8, *ZERO, *GATHER]),
    "FP8 gathered recompute": Traced([*LLAMA_8B, *FP8, *ZERO, *GATHER, *RECOMPUTE], 2, rank=1),
    "FP8 gathered TP2 SP": Traced([*LLAMA_8B, *FP8, *ZERO, *GATHER, *TP2, *SP], 4, rank=1),
    "FP8 gathered PP2": Traced([*LLAMA_8B, *FP8, *ZERO, *GATHER, *PP2], 4, rank=3),
    "FP8 gathered but for the ends": Traced(
        [*LLAMA_8B, *FP8, *ZERO, *GATHER, "model.first_last_layers_bf16=true"], 2, rank=1
    ),
    "FP8 gathered, moments in bf16": Traced(
        [
            *LLAMA_8B,
            *FP8,
            *ZERO,
            *GATHER,
            "model.optim.use_precision_aware_optimizer=true",
            "model.optim.exp_avg_dtype=bf16",
            "model.optim.exp_avg_sq_dtype=bf16",
        ],
        2,
    ),
    "FP8 gathered delayed": Traced([*LLAMA_8B, *FP8, "model.fp8_recipe=delayed", *ZERO, *GATHER], 2),
    "FP8 gathered blockwise": Traced([*LLAMA_8B, *FP8, "model.fp8_recipe=blockwise", *ZERO, *GATHER], 2, rank=1),
    "offload": Traced([*LLAMA_8B, *ZERO, *OFFLOAD]),
    "offload half": Traced([*LLAMA_8B, *ZERO, *OFFLOAD, "model.optim.optimizer_offload_fraction=0.5"], 2, rank=1),
    "offload precision-aware": Traced(
        [*LLAMA_8B, *ZERO, *OFFLOAD, "model.optim.use_precision_aware_optimizer=true"]
    ),
    "offload half precision-aware": Traced(
        [
            *LLAMA_8B,
            *ZERO,
            *OFFLOAD,
            "model.optim.optimizer_offload_fraction=0.5",
            "model.optim.use_precision_aware_optimizer=true",
        ]
    ),
    "moments in bf16": Traced(
        [
            *LLAMA_8B,
            *ZERO,
            "model.optim.use_precision_aware_optimizer=true",
            "model.optim.exp_avg_dtype=bf16",
            "model.optim.exp_avg_sq_dtype=bf16",
        ]
    ),
    "LoRA": Traced([*LLAMA_8B, *LORA, "model.peft.lora_tuning.target_modules=[linear_qkv,linear_proj]"]),
    "LoRA recompute": Traced([*LLAMA_8B, *LORA, *RECOMPUTE]),
    "LoRA dropout": Traced([*LLAMA_8B, *LORA, "model.peft.lora_tuning.adapter_dropout=0.1"]),
    "LoRA TP2": Traced([*LLAMA_8B, *LORA, *TP2], 2),
    "LoRA TP2 SP": Traced([*LLAMA_8B, *LORA, *TP2, *SP], 4, rank=1),
    "LoRA FP8": Traced([*LLAMA_8B, *LORA, *FP8]),
    "LoRA FP8 TP2 SP": Traced([*LLAMA_8B, *LORA, *FP8, *TP2, *SP], 2),
    "experts": Traced(MIXTRAL),
    "experts balanced": Traced([*MIXTRAL, "model.moe_aux_loss_coeff=0.01"]),
    "experts FP8 EP2": Traced([*MIXTRAL, *FP8, *EP2], 2),
    "experts EP2 sharded": Traced([*MIXTRAL, *EP2, *ZERO], 4, rank=1),
    "experts FP8 EP2 gathered": Traced([*MIXTRAL, *FP8, *EP2, *ZERO, *GATHER], 4, rank=1),
    "experts EP2 TP2 SP": Traced([*MIXTRAL, *EP2, *TP2, *SP], 4, rank=2),
    "gemma2": Traced(GEMMA2),
    "gemma2 CP2": Traced([*GEMMA2, *CP2], 2, rank=1),
    "llama 3.1": Traced(["model=llama3_1_8b", "model.hf_config.num_hidden_layers=4"]),
    "mistral": Traced(["model=mistral_7b", "model.hf_config.num_hidden_layers=4"]),
    "qwen2.5": Traced(["model=qwen2_5_7b", "model.hf_config.num_hidden_layers=4"]),
    "qwen3": Traced(["model=qwen3_8b", "model.hf_config.num_hidden_layers=4"]),
    "qwen3 moe": Traced(["model=qwen3_30b_a3b", "model.hf_config.num_hidden_layers=2"]),
    "gemma": Traced(
        family("gemma", hidden_size=3072, intermediate_size=24576, num_attention_heads=16, num_key_value_heads=16,
               head_dim=256, vocab_size=256000)
    ),
    "gemma3": Traced(
        family("gemma3", hidden_size=2560, intermediate_size=10240, num_attention_heads=8, num_key_value_heads=4,
               head_dim=256, vocab_size=262208, sliding_window=1024, query_pre_attn_scalar=256)
    ),
    "phi3": Traced(
        family("phi3", hidden_size=5120, intermediate_size=17920, num_attention_heads=40, num_key_value_heads=10,
               vocab_size=32064, sliding_window=2047)
    ),
    "nemotron": Traced(
        family("nemotron", hidden_size=4096, intermediate_size=16384, num_attention_heads=32, num_key_value_heads=8,
               head_dim=128, vocab_size=256000)
    ),
}  # fmt: skip


def recipe(name: str, model: str, num_pairs: int, nodes: int = 1, devices: int = 1, rank: int = 0) -> Traced:
    """A recipe on an architecture alone, with `num_pairs` pairs a step."""
    own = [f"model={model}", "model.restore_from_path=null", "model.tokenizer.pad_token=null", "model.loss.scale=false"]
    sizes = [f"model.global_batch_size={num_pairs}", f"++model.data.custom_cls.options.num_pairs={4 * num_pairs}"]
    return Traced(
        [*own, *sizes, f"trainer.devices={devices}", f"trainer.num_nodes={nodes}"],
        devices * nodes,
        rank,
        f"recipe/{name}",
    )


RECIPES = {
    "llama3_70b, 64 ranks": recipe("llama3_70b", "llama3_1_70b", 64, nodes=8, devices=8, rank=5),
    "llama3_70b, 1,024 ranks": recipe("llama3_70b", "llama3_1_70b", 512, nodes=128, devices=8, rank=517),
    "mixtral_8x7b": recipe("mixtral_8x7b", "mixtral_8x7b", 64, nodes=4, devices=8, rank=9),
    "rlhflow_llama3_8b": recipe("rlhflow_llama3_8b", "llama3_8b", 64, devices=8, rank=3),
    "one_h200_llama3_1_8b": recipe("one_h200_llama3_1_8b", "llama3_1_8b", 36),
    "one_h100_llama3_1_8b_lora": recipe("one_h100_llama3_1_8b_lora", "llama3_1_8b", 36),
    "one_gpu_llama3_2_1b": recipe("one_gpu_llama3_2_1b", "llama3_2_1b", 36),
}
"""Whole runs of conf/recipe."""
