"""FLOPs of a stream on a rank of a stage, forward and backward.

Backward passes compute twice what forward passes do: gradients of inputs and of weights. A frozen layer has the first
alone. Attention computes 2.5 times as much, since its probabilities are computed again (Dao et al. 2022, arXiv
2205.14135, section 3). Source of the counts: nemo_bt.flops.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_bt.config.fp8 import layers_in_fp8
from nemo_bt.config.model import ModelSettings, Settings
from nemo_bt.planning.linear import FC1, FC2, PROJECTION, QKV
from nemo_bt.planning.rows import hands_on_all, part_layers, recomputed_layers
from nemo_bt.planning.streams import StreamLoad
from nemo_bt.pretrained.architecture import Architecture


@dataclass(frozen=True)
class Flops:
    """FLOPs of a rank.

    Args:
        linear: of linear layers that are not in FP8, and of adapters.
        linear_fp8: of those in FP8.
        attention: of attention, which never is.
        attention_segments: segments that attention computes in all layers, forward and backward: no FLOPs, but calls.
    """

    linear: float
    linear_fp8: float
    attention: float
    attention_segments: float


def stage_flops(settings: Settings, architecture: Architecture, stage: int, load: StreamLoad) -> Flops:
    """Count a stream's FLOPs on a rank of a stage."""
    model = settings.model
    in_fp8 = layers_in_fp8(model, architecture.num_layers)
    last = architecture.num_layers - 1 if not hands_on_all(architecture, model) else None
    rows = load.rows.held(model), load.rows.handed_on(model)
    linear = linear_fp8 = attention = segments = 0.0
    for part in range(model.virtual_pipeline_model_parallel_size or 1):
        numbers = part_layers(model, architecture.num_layers, stage, part)
        again = recomputed_layers(model, len(numbers))
        for place, number in enumerate(numbers):
            passes = 1 + (place < again)  # forward passes
            held, handed = rows[0], rows[number == last]
            of_layer, of_adapters = _layer_flops(architecture, model, held, handed)
            backward = 1 if model.peft.lora else 2
            linear += (passes + 2) * of_adapters
            if number in in_fp8:
                linear_fp8 += (passes + backward) * of_layer
            else:
                linear += (passes + backward) * of_layer
            attended = 0.0 if number == last else load.num_attended / model.context_parallel_size
            attention += 4 * architecture.query_size * attended * (passes + 2.5)
            segments += load.rows.continuations * (passes + 2.5) / 3.5
    tp = model.tensor_model_parallel_size
    return Flops(linear / tp, linear_fp8 / tp, attention / tp, segments)


def _layer_flops(architecture: Architecture, model: ModelSettings, held: int, handed: int) -> tuple[float, float]:
    """Count a layer's forward pass on all tensor-parallel ranks: of its linear layers, and of adapters beside them."""
    hidden, width = architecture.hidden_size, architecture.ffn_size
    inner = (architecture.num_ffn_matrices - 1) * width
    sides = {
        QKV: (held, hidden, architecture.query_size + 2 * architecture.key_size),
        PROJECTION: (handed, architecture.query_size, hidden),
        FC1: (handed * architecture.topk, hidden, inner),
        FC2: (handed * architecture.topk, width, hidden),
    }
    lora = model.peft.lora
    beside = [sides[name] for name in lora.target_modules] if lora else []
    of_layer = sum(2.0 * rows * columns * outputs for rows, columns, outputs in sides.values())
    dim = lora.adapter_dim if lora else 0
    return of_layer, sum(2.0 * rows * dim * (columns + outputs) for rows, columns, outputs in beside)
