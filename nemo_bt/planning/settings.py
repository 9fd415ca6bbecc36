"""What `nemo-bt plan` is told beside a run's settings: the cluster, the lengths of the data, and what to try."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_bt.config.model import Settings


@dataclass(frozen=True)
class ClusterSettings:
    """A kind of device and how devices are joined. Values live in conf/cluster/*.yaml."""

    name: str
    origin: str
    """Where the values come from: data sheets, or the command that measured them."""
    memory_bytes: float
    """Of one device."""
    reserved_bytes: float
    """Of it, what no tensor of ours gets: the driver's context, NCCL's buffers, gaps between allocations."""
    precision: str
    """That flops is of, as trainer.precision."""
    flops: float
    """Dense FLOP/s, as the data sheet has it."""
    matmul_efficiency: float
    """Share of it that matrix products reach."""
    attention_efficiency: float
    """Share of it that attention reaches."""
    memory_bytes_per_s: float
    """Between a device and its memory."""
    node_bytes_per_s: float | None
    """That a device can send to others of its node, each way; null is not known."""
    node_latency_s: float | None
    """Of one message inside a node."""
    network_bytes_per_s: float | None
    """That a device can send to other nodes, each way."""
    network_latency_s: float | None


@dataclass(frozen=True)
class LengthSettings:
    """Lengths of a data set that is not there: values at quantiles, between which they are drawn evenly."""

    quantiles: list[float]
    """From 0 to 1, rising."""
    prefix_tokens: list[int]
    """Tokens that both sides of a pair share."""
    response_tokens: list[int]
    """Of each side, what is its own."""
    num_pairs: int
    """Of an epoch."""


@dataclass(frozen=True)
class PlanSettings:
    """What is tried, each with each."""

    tensor_model_parallel_size: list[int]
    pipeline_model_parallel_size: list[int]
    virtual_pipeline_model_parallel_size: list[int | None]
    context_parallel_size: list[int]
    expert_model_parallel_size: list[int]
    recompute_layers: list[int]
    """0: keep all activations; n: keep the input of every n layers."""
    num_steps: int
    """Steps whose streams are looked at."""
    lengths: LengthSettings


@dataclass(frozen=True)
class PlanRun(Settings):
    """Settings of a run, and of the search for its layout."""

    cluster: ClusterSettings
    plan: PlanSettings
