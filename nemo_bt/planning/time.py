"""Seconds of a training step, from counts and a few constants of a cluster.

Each stream takes, on each stage, the time of its matrix products, of attention, of reading and writing what is kept for
the backward pass, and of its messages; nothing overlaps. A pipeline takes as long as its slowest stage, and longer by
its bubble. Then gradients and weights are exchanged, and the optimizer reads and writes its state.

Source of the counts: nemo_bt.planning.{activations,traffic,state,schedule,work}.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from nemo_bt.config.model import Settings
from nemo_bt.config.plan import ClusterSettings
from nemo_bt.errors import UserError
from nemo_bt.planning.activations import part_units
from nemo_bt.planning.buffers import activation_bytes, buffers, on_gpu
from nemo_bt.planning.parameters import Parameter
from nemo_bt.planning.schedule import bubble
from nemo_bt.planning.state import state_bytes
from nemo_bt.planning.stream_traffic import Sent
from nemo_bt.planning.streams import Step, StreamLoad, mean_load, slowest_rank
from nemo_bt.planning.traffic import bytes_sent, group_sizes, step_traffic
from nemo_bt.planning.work import stage_flops
from nemo_bt.pretrained.architecture import Architecture

TOUCHES_OF_KEPT = 4
"""A kept byte is written once and read once in each pass, and its gradient is written: an assumption."""


@dataclass(frozen=True)
class StepTime:
    """Time of one step, in seconds.

    Args:
        matmul: matrix products of the slowest stage.
        attention: attention of that stage.
        memory: reading and writing activations and the optimizer's state.
        messages: messages of tensor, context, expert and pipeline parallelism.
        gradients: exchange of gradients and weights.
        bubble: waiting for other stages.
    """

    matmul: float
    attention: float
    memory: float
    messages: float
    gradients: float
    bubble: float

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return self.matmul + self.attention + self.memory + self.messages + self.gradients + self.bubble


def step_time(
    settings: Settings,
    architecture: Architecture,
    cluster: ClusterSettings,
    parameters: Mapping[int, Sequence[Sequence[Parameter]]],
    steps: Sequence[Step],
) -> StepTime:
    """Average over steps: each takes as long as its slowest stage on the data-parallel rank that has most to do.

    Args:
        parameters: parameters of the stages to look at, by stage.
    """
    times = []
    for step in steps:
        streams = slowest_rank(step, architecture.hidden_size)
        load = mean_load(streams)
        count = len(streams)
        stages = [
            stage_time(settings, architecture, cluster, stage, own, load, count) for stage, own in parameters.items()
        ]
        times.append(max(stages, key=lambda time: time.total))
    return StepTime(*(sum(parts) / len(times) for parts in zip(*map(astuple, times), strict=True)))


def stage_time(
    settings: Settings,
    architecture: Architecture,
    cluster: ClusterSettings,
    stage: int,
    parameters: Sequence[Sequence[Parameter]],
    load: StreamLoad,
    num_streams: int,
) -> StepTime:
    """Time a step whose slowest stage this is.

    Args:
        parameters: parameters of a rank of the stage.
        load: a stream like all others.
        num_streams: streams of a data-parallel rank.
    """
    model = settings.model
    parts = model.virtual_pipeline_model_parallel_size or 1
    work = stage_flops(settings, architecture, stage, load)
    matmul = work.linear / cluster.flops + (work.linear_fp8 / cluster.fp8_flops if cluster.fp8_flops else 0.0)
    matmul *= num_streams / cluster.matmul_efficiency
    attention = work.attention / (cluster.flops * cluster.attention_efficiency)
    attention = num_streams * (attention + work.attention_segments * cluster.attention_segment_s)
    units = [
        unit
        for part in range(parts)
        for unit in part_units(
            architecture, model, stage, part, load.rows, activation_bytes(settings), on_gpu(settings)
        )
    ]
    kept = num_streams * sum(max(unit.kept, unit.in_backward) for unit in units)
    memory = TOUCHES_OF_KEPT * kept / (cluster.elementwise_bytes_per_s or cluster.memory_bytes_per_s)
    at_the_end = step_traffic(settings, architecture, parameters, stage, [])
    of_a_stream = step_traffic(settings, architecture, parameters, stage, [load.rows]) - at_the_end
    messages = num_streams * _seconds(settings, cluster, of_a_stream)
    wait = bubble(model.pipeline_model_parallel_size, parts, num_streams)
    busy = matmul + attention + memory + messages
    state = state_bytes(settings, parameters)
    written = sum(buffer.weight_bytes * buffer.ends[-1] for buffer in buffers(settings, parameters))
    optimizer_bytes = 2 * state.optimizer + state.gradients + written  # it is read and written, gradients are read
    return StepTime(
        matmul=matmul,
        attention=attention,
        memory=memory + optimizer_bytes / cluster.memory_bytes_per_s,
        messages=messages,
        gradients=_seconds(settings, cluster, at_the_end),
        bubble=busy * wait / (1 - wait),
    )


def _seconds(settings: Settings, cluster: ClusterSettings, traffic: Counter[Sent]) -> float:
    sizes = group_sizes(settings)
    spans = _spans(settings)
    seconds = 0.0
    for sent, count in traffic.items():
        if sent.operation == "receive":  # the message is counted where it is sent
            continue
        speed, latency = _link(settings, cluster, spans[sent.group])
        seconds += count * (latency + bytes_sent(sent, sizes[sent.group]) / speed)
    return seconds


def _link(settings: Settings, cluster: ClusterSettings, span: int) -> tuple[float, float]:
    """Give bytes per second, and seconds of a message, between ranks that lie `span` apart."""
    in_node = span <= settings.trainer.devices and settings.trainer.devices % span == 0
    in_node = in_node or settings.trainer.num_nodes == 1
    name = "node" if in_node else "network"
    speed, latency = (getattr(cluster, f"{name}_{what}") for what in ("bytes_per_s", "latency_s"))
    if speed is None or latency is None:
        raise UserError(
            f"cluster.{name}_bytes_per_s and {name}_latency_s: expected numbers, got {speed} and {latency}: "
            f"{cluster.name} was measured without such a link, and trainer.devices={settings.trainer.devices} x "
            f"trainer.num_nodes={settings.trainer.num_nodes} have it. Measure with both, or give the values."
        )
    return speed, latency


def _spans(settings: Settings) -> dict[str, int]:
    """Count the ranks from the first to the last of each group, itself included, as Megatron numbers them.

    The order is tensor, context, data, pipeline; with use_tp_pp_dp_mapping it is tensor, context, pipeline, data.
    Experts are spread over context- and data-parallel ranks.
    """
    model = settings.model
    sizes = group_sizes(settings)
    inner = sizes["tp"] * sizes["cp"]
    data = sizes["tp"] * sizes["dp_cp"]
    pipeline_first = model.use_tp_pp_dp_mapping
    pipeline = inner * sizes["pp"] if pipeline_first else data * sizes["pp"]
    if pipeline_first and settings.data_parallel_size > 1:
        data *= sizes["pp"]
    everything = settings.world_size
    return {
        "tp": sizes["tp"],
        "cp": inner,
        "tp_cp": inner,
        "ep": sizes["tp_ep"],
        "tp_ep": sizes["tp_ep"],
        "tp_dp_cp": data,
        "pp": pipeline,
        "mp": pipeline,
        "expert_mp": everything,
        "dp_cp": data,
        "expert_dp": data,
        "intra_dp_cp": data // sizes["inter"],
        "intra_expert_dp": data // sizes["inter"],
        "inter": data,
        "instance": everything,
        "world": everything,
    }
