"""What `nemo-bt plan` is told beside a run's settings: the cluster, the lengths of the data, and what to try."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

import yaml
from pydantic import Field
from pydantic.dataclasses import dataclass

from nemo_bt.config.fields import STRICT, Above0, AtLeast0, AtLeast1, FromZero
from nemo_bt.config.job import Precision
from nemo_bt.config.model import Settings
from nemo_bt.config.shipped import SHIPPED

Efficiency = Annotated[float, Field(gt=0, le=1)]
Sizes = Annotated[list[AtLeast1], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClusterSettings:
    """A kind of device and how devices are joined. Values live in conf/cluster/*.yaml."""

    name: str
    """Name in tables."""
    origin: str
    """Where the values come from: data sheets, or the command that measured them."""
    compute_capability: tuple[AtLeast1, AtLeast0] | None = None
    """Of the GPUs, as [9, 0] for Hopper; null is none, or not known."""
    memory_bytes: Above0
    """Memory of one device."""
    reserved_bytes: FromZero
    """Memory that no tensor of ours gets: the driver's context, NCCL's buffers, gaps between allocations."""
    precision: Precision
    """Precision that flops is measured in, as trainer.precision."""
    flops: Above0
    """Dense FLOP/s, as the data sheet has it."""
    fp8_flops: Above0 | None = None
    """The same in FP8, for linear layers with model.fp8; null is none, or not known."""
    matmul_efficiency: Efficiency
    """Share of flops, and of fp8_flops, that matrix products reach."""
    attention_efficiency: Efficiency
    """Share of flops that attention reaches."""
    attention_segment_s: FromZero = 0.0
    """Time that a segment of a stream takes in a layer beside its products, forward and backward; 0 where one kernel
    computes a whole stream."""
    memory_bytes_per_s: Above0
    """Rate between a device and its memory."""
    elementwise_bytes_per_s: Above0 | None = None
    """Rate at which norms and activations read and write, where they compute longer than their bytes take; null is
    memory_bytes_per_s."""
    node_bytes_per_s: Above0 | None
    """Rate at which a device can send to others of its node, each way; null is not known."""
    node_latency_s: FromZero | None
    """Time that one message takes inside a node."""
    network_bytes_per_s: Above0 | None
    """Rate at which a device can send to other nodes, each way."""
    network_latency_s: FromZero | None
    """Time that one message takes between nodes."""


def _h100() -> ClusterSettings:
    """Read what conf/plan.yaml has too, for the configurations that name no cluster."""
    return ClusterSettings(**yaml.safe_load((SHIPPED / "cluster" / "h100.yaml").read_text()))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LengthSettings:
    """Lengths of a data set that is not there: values at quantiles, between which they are drawn evenly.

    The defaults are those of 1,992 pairs of Anthropic's HH-RLHF under a tokenizer of 8,000 tokens.
    """

    quantiles: list[float] = field(default_factory=lambda: [0.0, 0.5, 0.9, 0.99, 1.0])
    """Quantiles from 0 to 1, rising."""
    prefix_tokens: list[int] = field(default_factory=lambda: [11, 102, 298, 573, 937])
    """Tokens that both sides of a pair share."""
    response_tokens: list[int] = field(default_factory=lambda: [1, 34, 111, 248, 625])
    """Tokens that each side has of its own."""
    num_pairs: AtLeast1 = 100_000
    """Pairs of an epoch."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FailureSettings:
    """How often devices fail, and what that costs.

    The three costs of nemo_bt are those of two ranks on CPUs and a small model (`python -m benchmarks.goodput`). They
    leave out a large model's weights, a shared file system, NCCL and kernels that are compiled: name a run of your own.
    """

    mean_time_to_failure_hours: Above0 | None = None
    """Of the whole job; null takes device_hours_to_failure over its devices."""
    device_hours_to_failure: Above0 = 8090.0
    """Hours of one device between two failures that end the job: 7.9 h at 1,024 GPUs (arXiv 2410.21680)."""
    notice_s: FromZero = 30.0
    """Seconds from a failure until all ranks have ended: an assumption. A hang costs trainer.hang_timeout_s."""
    queue_s: FromZero = 120.0
    """Seconds from there to the next start: Slurm's delay of a job that is requeued."""
    start_s: FromZero = 27.0
    """Seconds from the start of the command to the first step, with a restore."""
    save_blocks_s: FromZero = 0.25
    """Seconds that a save keeps training from going on."""
    save_s: FromZero = 0.6
    """Seconds from the begin of a save until it is whole."""
    measured_in: str | None = None
    """Log directory of a run whose events give the three seconds above; null takes those here."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PlanSettings:
    """Values that are tried, each with each."""

    tensor_model_parallel_size: Sizes = field(default_factory=lambda: [1, 2, 4, 8])
    """TP."""
    pipeline_model_parallel_size: Sizes = field(default_factory=lambda: [1, 2, 4, 8, 16])
    """PP."""
    virtual_pipeline_model_parallel_size: Annotated[list[AtLeast1 | None], Field(min_length=1)] = field(
        default_factory=lambda: [None, 2, 4, 5, 10]
    )
    """VPP; null is none."""
    context_parallel_size: Sizes = field(default_factory=lambda: [1, 2, 4, 8])
    """CP."""
    expert_model_parallel_size: Sizes = field(default_factory=lambda: [1, 2, 4, 8])
    """EP."""
    recompute_layers: Annotated[list[AtLeast0], Field(min_length=1)] = field(default_factory=lambda: [0, 1, 4])
    """0: keep all activations; n: keep the input of every n layers."""
    num_steps: AtLeast1 = 4
    """Steps whose streams are looked at."""
    lengths: LengthSettings = field(default_factory=LengthSettings)
    failures: FailureSettings = field(default_factory=FailureSettings)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PlanRun(Settings):
    """Settings of a run, and of the search for its layout."""

    cluster: ClusterSettings = field(default_factory=_h100)
    plan: PlanSettings = field(default_factory=PlanSettings)
