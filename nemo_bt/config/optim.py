"""The optimizer and its learning rate: `model.optim`, with NeMo's names."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from nemo_bt.config.fields import STRICT, Above0, AtLeast0, AtLeast1, Betas, FromZero
from nemo_bt.config.job import PositiveInt

Schedule = Literal[
    "constant",
    "CosineAnnealing",
    "WarmupAnnealing",
    "InverseSquareRootAnnealing",
    "PolynomialDecayAnnealing",
    "WarmupHoldAnnealLinear",
    "WarmupHoldAnnealOneMinusSquareRoot",
]
StateDtype = Literal["fp32", "bf16", "fp16", "fp8"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SchedSettings:
    """Learning rate over steps: linear warm-up, then the named shape."""

    name: Schedule = "CosineAnnealing"
    """NeMo's names. WarmupAnnealing falls linearly; InverseSquareRootAnnealing goes on falling whatever the run's
    length and knows no min_lr; WarmupHoldAnnealLinear and WarmupHoldAnnealOneMinusSquareRoot fall at the end only
    (WSD)."""
    warmup_steps: AtLeast0 | None = None
    """Optimizer steps in which the rate rises from 0; null is 10, or what warmup_ratio says."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Warm-up as a fraction of the run, rounded up to whole steps."""
    min_lr: FromZero = 0.0
    """Rate at the end, at most lr."""
    power: Above0 = 1.0
    """Exponent of PolynomialDecayAnnealing."""
    decay_ratio: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Fraction of the run, at its end, in which the rate falls in the two schedules that hold; rounded up to steps."""

    def num_warmup_steps(self, num_steps: int) -> int:
        """Give the steps of the warm-up in a run of `num_steps`."""
        if self.warmup_ratio is not None and not self.warmup_steps:
            return math.ceil(self.warmup_ratio * num_steps)
        return 10 if self.warmup_steps is None else self.warmup_steps


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimSettings:
    """AdamW, as Megatron's optimizer applies it: no weight decay on norms and biases."""

    name: Literal["adam", "distributed_fused_adam"] = "adam"
    """distributed_fused_adam shards the optimizer state over data-parallel ranks."""
    lr: Above0 = 9e-6
    """Largest learning rate."""
    weight_decay: FromZero = 0.1
    """Weight decay, decoupled from the gradient as in AdamW."""
    betas: Betas = field(default_factory=lambda: [0.9, 0.98])
    """Decay of the two moments, each in [0, 1)."""
    eps: Above0 = 1e-8
    """Number added to the root of the second moment."""
    grad_reduce_in_fp32: bool = True
    """Add gradients up over micro-batches and ranks in fp32; false in the dtype of the parameters."""
    overlap_grad_reduce: bool | None = None
    """Reduce gradients over data-parallel ranks while those of earlier layers are still computed; null: on GPUs, with
    distributed_fused_adam."""
    overlap_param_gather: bool | None = None
    """Gather weights, with distributed_fused_adam, while the layers before them compute already; null: where gradients
    overlap too."""
    bucket_size: AtLeast1 | None = None
    """Parameters, roughly, whose gradients are reduced together where that overlaps; null is Megatron's 40 million, or
    a million for each data-parallel rank where that is more."""
    num_distributed_optimizer_instances: PositiveInt = 1
    """Groups of data-parallel ranks that each shard the optimizer state; more send less across nodes and hold more."""
    optimizer_cpu_offload: bool = False
    """Keep optimizer state, and update weights, in the memory of the host (GPU runs only)."""
    optimizer_offload_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the parameters that optimizer_cpu_offload moves."""
    use_precision_aware_optimizer: bool = False
    """Let the three dtypes below be other than fp32: with distributed_fused_adam, on a GPU."""
    main_grads_dtype: Literal["fp32", "bf16"] = "fp32"
    """Gradients as the optimizer reads them."""
    exp_avg_dtype: StateDtype = "fp32"
    """First moment; fp8 has one byte, scaled."""
    exp_avg_sq_dtype: StateDtype = "fp32"
    """Second moment; fp8 has one byte, scaled."""
    sched: SchedSettings = field(default_factory=SchedSettings)
