"""Collectives of one training step on a rank: which, over which ranks, how many and of what size.

Source: megatron-core 0.15.3, pipeline_parallel/schedules.py, distributed/{finalize_model_grads,
param_and_grad_buffer}.py, optimizer/{optimizer,clip_grads}.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nemo_bt.config.fp8 import num_weight_scales
from nemo_bt.config.model import ModelSettings, Settings
from nemo_bt.config.parallelism import overlaps
from nemo_bt.planning.buffers import FP32_BYTES, INDEX_BYTES, buffers, gradient_bytes, on_gpu, together
from nemo_bt.planning.parameters import Parameter
from nemo_bt.planning.rows import StreamRows
from nemo_bt.planning.stream_traffic import Sent, StreamTraffic
from nemo_bt.pretrained.architecture import Architecture
from nemo_bt.pretrained.names import HEADS

_NORMS = ("layernorm.weight", "layernorm.bias", "layer_norm_weight", "layer_norm_bias")


def step_traffic(
    settings: Settings,
    architecture: Architecture,
    parts: Sequence[Sequence[Parameter]],
    pipeline_rank: int,
    streams: Sequence[StreamRows],
) -> Counter[Sent]:
    """Count the messages of a rank in one training step by kind.

    Counts are exact but for all_to_all and what it brings to tensor-parallel ranks, where tokens are taken to spread
    evenly over experts.

    Args:
        parts: parameters of the rank, from `nemo_bt.planning.parameters.rank_parameters`.
        streams: streams of the step on this data-parallel rank.
    """
    total: Counter[Sent] = Counter()
    for rows in streams:
        one = StreamTraffic(settings, architecture, rows)
        for part in range(len(parts)):
            total.update(one.of_part(pipeline_rank, part))
    total.update(_gradients(settings, parts))
    total.update(_numbers(settings))
    sizes = group_sizes(settings)
    return Counter({sent: count for sent, count in total.items() if sizes[sent.group] > 1})


def bytes_sent(sent: Sent, ranks: int) -> float:
    """Count the bytes that leave a rank, as rings and pairwise exchange send them.

    Source: Patarasuk and Yuan 2009 (doi 10.1016/j.jpdc.2008.09.002), section 3.
    """
    others = (ranks - 1) / ranks
    factors = {"all_reduce": 2 * others, "receive": 0.0, "send": 1.0, "broadcast": 1.0}
    return sent.size * factors.get(sent.operation, others)


def _gradients(settings: Settings, parts: Sequence[Sequence[Parameter]]) -> list[Sent]:
    """List gradients over the ranks that share parameters, and new weights where the optimizer is distributed."""
    model = settings.model
    instances = model.optim.num_distributed_optimizer_instances
    # Each optimizer gathers the weights of both, unless layers gather their own when they are called.
    _, gathers = overlaps(settings, on_gpu(settings))
    num_optimizers = 2 if model.expert_model_parallel_size > 1 and not gathers else 1
    sent = []
    for buffer, gradients, weights in together(buffers(settings, parts)):
        name = "expert_dp" if buffer.is_expert else "dp_cp"
        if not buffer.is_shared:
            sent.append(Sent("all_reduce", name, gradients))
            continue
        sent.append(Sent("reduce_scatter", f"intra_{name}", gradients))
        if instances > 1:
            sent.append(Sent("all_reduce", "inter", gradients // buffer.ranks))
        sent += [Sent("all_gather", f"intra_{name}", weights)] * num_optimizers
    sent += _scales(settings, parts)
    if model.tensor_model_parallel_size > 1:
        whole = [
            parameter for part in parts for parameter in part if parameter.is_trained and _is_added_up(parameter, model)
        ]
        if whole:
            sent.append(Sent("all_reduce", "tp", gradient_bytes(settings) * sum(p.num_elements for p in whole)))
    return sent


def _scales(settings: Settings, parts: Sequence[Sequence[Parameter]]) -> list[Sent]:
    """List the largest values of weights that are held in FP8, of which each optimizer finds its own.

    Source: transformer-engine 2.9, pytorch/tensor/utils.py, cast_master_weights_to_fp8.
    """
    sent = []
    for is_expert, name in ((False, "intra_dp_cp"), (True, "intra_expert_dp")):
        shapes = [one.shape for part in parts for one in part if one.is_fp8 and one.is_expert == is_expert]
        count = sum(num_weight_scales(shape, settings.model.fp8_recipe) for shape in shapes)
        if count:
            sent.append(Sent("all_reduce", name, FP32_BYTES * count))
    return sent


def _is_added_up(parameter: Parameter, model: ModelSettings) -> bool:
    """Tell whether a gradient is whole on every tensor-parallel rank, but computed from some rows or heads only."""
    if parameter.name.endswith(("q_layernorm.weight", "k_layernorm.weight")):
        return True
    return model.sequence_parallel and parameter.name.endswith((*_NORMS, "router.weight", *HEADS))


def _numbers(settings: Settings) -> list[Sent]:
    """List the messages of the number of pairs, of the gradient's norm, checksums, and whether the run is to end."""
    norm_groups = ["mp", "expert_mp"] if settings.model.expert_model_parallel_size > 1 else ["mp"]
    if settings.model.optim.name == "distributed_fused_adam":
        norm_groups = ["instance"]
    norms = [Sent("all_reduce", group, FP32_BYTES) for group in norm_groups]
    ends = Sent("all_reduce", "world", INDEX_BYTES)  # nemo_bt.training.callbacks.graceful_stop
    numbers = [Sent("broadcast", "pp", FP32_BYTES), Sent("all_reduce", "dp_cp", FP32_BYTES), *norms, ends]
    if settings.trainer.compare_replicas_every_n_steps:  # nemo_bt.training.callbacks.replicas, of three groups of ranks
        numbers.append(Sent("all_gather", "world", 3 * INDEX_BYTES * settings.world_size))
    return numbers


def group_sizes(settings: Settings) -> dict[str, int]:
    """Count the ranks of each group of `Sent`."""
    model = settings.model
    tp = model.tensor_model_parallel_size
    pp = model.pipeline_model_parallel_size
    cp = model.context_parallel_size
    ep = model.expert_model_parallel_size
    instances = model.optim.num_distributed_optimizer_instances
    sharing = settings.data_parallel_size * cp
    return {
        "tp": tp,
        "pp": pp,
        "cp": cp,
        "ep": ep,
        "tp_cp": tp * cp,
        "tp_ep": tp * ep,
        "tp_dp_cp": tp * sharing,
        "mp": tp * pp,
        "expert_mp": tp * ep * pp,
        "dp_cp": sharing,
        "expert_dp": sharing // ep,
        "intra_dp_cp": sharing // instances,
        "intra_expert_dp": sharing // ep // instances,
        "inter": instances,
        "instance": settings.world_size // instances,
        "world": settings.world_size,
    }
