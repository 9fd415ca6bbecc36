"""Training on a GPU: speed beside TRL, FP8 beside bf16, and the share of the GPU's matrix rate that is reached."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks import small_llama
from benchmarks.cluster import matmul_flops
from benchmarks.gpu_machine import Host, spread
from benchmarks.gpu_streams import tokenizer_and_model
from benchmarks.results_file import Figure
from benchmarks.small_llama import Size, hf_config_of
from benchmarks.turns import Trainer
from benchmarks.vs_trl import Case, measure
from nemo_bt.flops import training_flops
from nemo_bt.pretrained.architecture import architecture_of

_TARGETS = {"hh": 3.0, "alpaca_eval": 2.2}
_MEMORY_TARGET = 0.6
_FP8_TARGET = 1.3
_MFU_TARGET = 0.55
_TOKENS_TARGET = 16_000.0
_LAYERS_8B = 32
_MATMUL_ROWS = 8192
_BF16_LOSS_TOLERANCE_NATS = 0.02
_PREFIX_TOKENS = 2048
_RESPONSE_TOKENS = 1024
"""These make a pair of 4,096 tokens."""
_BATCH_PAIRS = 8
_WARM_UP = 2


def measure_vs_trl(host: Host) -> list[Figure]:
    """Measure pairs a second and peak memory, for Llama 3.2 1B's shape."""
    tokenizer_and_model(host)
    sizes = {"hh": (8, 16, 32), "alpaca_eval": (2, 4, 8)}
    figures: list[Figure] = []
    for name, target in _TARGETS.items():
        case = Case(
            data=name,
            size=host.size_1b,
            num_ranks=1,
            batch_pairs=8 if host.is_dry else 64,
            micro_batches=(2, 8) if host.is_dry else sizes[name],
            turns=host.repetitions,
            benchmark="gpu_vs_trl",
            accelerator="cpu" if host.is_dry else "gpu",
            precision="bf16-mixed",
            in_turns=False,
            loss_tolerance_nats=_BF16_LOSS_TOLERANCE_NATS,
            own_targets=(("best", target), ("best/memory", _MEMORY_TARGET)),
        )
        figures += measure(case, argparse.Namespace(data=host.data, folder=host.folder, tokens_per_micro_batch=8192))
    return figures


def measure_8b(host: Host) -> list[Figure]:
    """Measure layers of Llama 3 8B's shape on pairs of 4,096 tokens.

    FP8 and bf16 take turns with half as many layers as fit; with all layers each runs alone. Tokens a second of the
    whole model are extrapolated: 32 times the time that a layer adds between the two sizes, and the rest once.
    """
    kinds = {"bf16": []} | ({"fp8": ["model.fp8=hybrid", "model.fp8_recipe=tensorwise"]} if host.has_fp8 else {})
    half = host.size_8b(0.5)
    whole = host.size_8b()
    in_turns = _seconds(host, half, kinds)
    alone = {kind: _seconds(host, whole, {kind: extra})[kind] for kind, extra in kinds.items()}
    step_tokens = _BATCH_PAIRS * (_PREFIX_TOKENS + 2 * _RESPONSE_TOKENS)
    peak = matmul_flops(256 if host.is_dry else _MATMUL_ROWS, host.device)
    flops = computed_flops(whole, _BATCH_PAIRS)
    start = "gpu_8b"
    figures = [
        spread(f"{start}/matmul", [peak / 1e12], "TFLOP/s"),
        spread(f"{start}/layers", [float(whole.layers)], "layers"),
        spread(f"{start}/bf16/mfu", [flops / s / peak for s in alone["bf16"]], "of matmul", _MFU_TARGET),
    ]
    for kind, seconds in alone.items():
        target = _TOKENS_TARGET if kind == "fp8" else None
        a_layer = [(b - a) / (whole.layers - half.layers) for a, b in zip(in_turns[kind], seconds, strict=True)]
        of_all = [s + layer * (_LAYERS_8B - whole.layers) for s, layer in zip(seconds, a_layer, strict=True)]
        figures.append(spread(f"{start}/{kind}/tokens_per_second", [step_tokens / s for s in seconds], "tokens/s"))
        extrapolated = [step_tokens / s for s in of_all]
        figures.append(spread(f"{start}/{kind}/tokens_per_second_of_32_layers", extrapolated, "tokens/s", target))
    if "fp8" in in_turns:
        ratios = [b / f for b, f in zip(in_turns["bf16"], in_turns["fp8"], strict=True)]
        figures.append(spread(f"{start}/fp8_over_bf16", ratios, "ratio", _FP8_TARGET))
    return figures


def computed_flops(size: Size, num_pairs: int) -> float:
    """Give the FLOPs of a step; the last layer computes only keys and values in every row."""
    head = size.hidden // size.heads
    others = replace(architecture_of(hf_config_of(size).to_dict()), num_layers=size.layers - 1)
    tokens = num_pairs * (_PREFIX_TOKENS + 2 * _RESPONSE_TOKENS)
    attended = num_pairs * (_triangle(_PREFIX_TOKENS + _RESPONSE_TOKENS) * 2 - _triangle(_PREFIX_TOKENS))
    last = 6.0 * tokens * size.hidden * (size.hidden + 2 * size.key_heads * head)
    return training_flops(others, tokens, attended) + last


def _triangle(length: int) -> int:
    return length * (length + 1) // 2


def _seconds(host: Host, size: Size, kinds: dict[str, list[str]]) -> dict[str, list[float]]:
    """Time each step by kind, in turns."""
    turns = host.repetitions
    trainers = {}
    for kind, extra in kinds.items():
        folder = host.folder / f"8b-{size.layers}-{len(kinds)}-{kind}"
        folder.mkdir(parents=True)
        overrides = [*_overrides(host, size, folder / "run", _WARM_UP + turns), *extra]
        trainers[kind] = Trainer("benchmarks.nemo_bt_steps", overrides, 1, folder / "log.txt")
    for trainer in trainers.values():
        trainer.ready()
        for _ in range(_WARM_UP - 1):
            trainer.step()
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(turns):
        for kind, trainer in trainers.items():
            found[kind].append(trainer.step())
    for trainer in trainers.values():
        trainer.stop()  # it would save tens of GB
    return found


def _overrides(host: Host, size: Size, run: Path, num_steps: int) -> list[str]:
    """Give the overrides for a new model of that shape on random pairs."""
    model = tokenizer_and_model(host)
    scale = 32 if host.is_dry else 1
    common = small_llama.training_overrides(model, Path(__file__), run, num_steps)
    return [
        *(override for override in common if not override.startswith(("model.restore", "trainer.accelerator"))),
        *host.overrides,
        f"model.num_layers={size.layers}",
        f"model.hidden_size={size.hidden}",
        f"model.ffn_hidden_size={size.ffn}",
        f"model.num_attention_heads={size.heads}",
        f"model.num_query_groups={size.key_heads}",
        f"model.vocab_size={size.vocab}",
        "model.layernorm_epsilon=1e-5",
        "model.rotary_base=500000",
        "model.init_method_std=0.02",
        f"model.tokenizer.type={model}",
        "model.encoder_seq_length=4096",
        f"model.global_batch_size={_BATCH_PAIRS}",
        "model.data.tokens_per_micro_batch=16384",
        f"model.data.custom_cls.path={Path(__file__).with_name('random_pairs.py')}",
        "model.data.custom_cls.name=RandomPairs",
        f"+model.data.custom_cls.options.num_pairs={_BATCH_PAIRS * num_steps}",
        f"+model.data.custom_cls.options.prefix_tokens={_PREFIX_TOKENS // scale}",
        f"+model.data.custom_cls.options.response_tokens={_RESPONSE_TOKENS // scale}",
    ]
