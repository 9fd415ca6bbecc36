"""What every job of ranks has: devices, and a layout of the model over them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from nemo_bt.config.fields import STRICT, Above0, AsText, AtLeast1

PositiveInt = Annotated[int, Field(gt=0)]
Precision = Annotated[Literal["32", "bf16-mixed"], AsText]
Accelerator = Literal["auto", "gpu", "cpu"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DeviceSettings:
    """What a job runs on. Names and meaning are Lightning's."""

    devices: PositiveInt = 1
    """Processes per node: one for each GPU, or that many CPU ranks."""
    num_nodes: PositiveInt = 1
    """Nodes of the job."""
    accelerator: Accelerator = "auto"
    """auto takes GPUs where there are any."""
    precision: Precision = "32"
    """Weights and activations. The reward head and the loss are fp32 in both."""
    start_timeout_s: Above0 = 600.0
    """Seconds that ranks wait for each other at the start; then those that did not come are named, and the job ends."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ParallelSettings:
    """How ranks share a model. World size / (TP x PP x CP) is the number of its replicas (DP)."""

    tensor_model_parallel_size: PositiveInt = 1
    """TP: ranks that share each matrix."""
    pipeline_model_parallel_size: PositiveInt = 1
    """PP: ranks that share the layers."""
    virtual_pipeline_model_parallel_size: AtLeast1 | None = None
    """VPP: parts of the model that each pipeline rank holds, interleaved, for a smaller bubble; null is one."""
    num_layers_in_first_pipeline_stage: AtLeast1 | None = None
    """Layers of the first pipeline rank, where they differ from the others'; null is an equal share."""
    num_layers_in_last_pipeline_stage: AtLeast1 | None = None
    """Layers of the last pipeline rank, likewise."""
    context_parallel_size: PositiveInt = 1
    """CP: ranks that share the tokens of each stream."""
    expert_model_parallel_size: PositiveInt = 1
    """EP: ranks that share the experts; they are data- and context-parallel ranks of everything else."""
    use_tp_pp_dp_mapping: bool = False
    """Number ranks through tensor, then context, then pipeline, then data parallelism, not data before pipeline."""
    sequence_parallel: bool = False
    """SP: tensor-parallel ranks share the tokens between their matrices; needs TP > 1."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TokenizerSettings:
    """A Hugging Face tokenizer folder."""

    type: str | None = None
    """Folder of the tokenizer (NeMo's name for it); null takes the one saved in restore_from_path."""
    pad_token: str | None = None
    """A token of the vocabulary to pad with, where the tokenizer names none; auto takes the first special token that
    neither the tokenizer nor its template uses: one with pad in its name, else a reserved one, else any."""


EncoderSeqLength = AtLeast1
"""Tokens of the longest prompt and response together."""
