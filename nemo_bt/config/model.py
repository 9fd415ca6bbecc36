"""What can be configured: one frozen dataclass per section, with NeMo's names, defaults, ranges and units.

YAML only says what differs. A key that is not listed here, or a value outside of its type or range, stops the run
(`nemo_bt.config.load`). Equations between fields are in `nemo_bt.config.equations`, `parallelism` and `fp8`.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from nemo_bt.config.data import DataSettings
from nemo_bt.config.fields import STRICT, Above0, AtLeast0, AtLeast1, FromZero
from nemo_bt.config.job import DeviceSettings, EncoderSeqLength, ParallelSettings, PositiveInt, TokenizerSettings
from nemo_bt.config.loss import CustomFunction as CustomFunction  # checkpoints of earlier versions name it here
from nemo_bt.config.loss import LossSettings, RewardHeadSettings
from nemo_bt.config.optim import OptimSettings
from nemo_bt.config.run import ExpManagerSettings, TrainerSettings

Fp8Recipe = Literal["delayed", "tensorwise", "blockwise", "mxfp8"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoraSettings:
    """Low-rank adapters beside frozen weights."""

    target_modules: list[str] = field(default_factory=lambda: ["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"])
    """Some of the four that the default names."""
    adapter_dim: AtLeast1 = 32
    """Rank."""
    alpha: Above0 = 32.0
    """The adapter's output is multiplied by alpha / adapter_dim."""
    adapter_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that an input of an adapter is dropped."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PeftSettings:
    """What is trained beside the head, which always is."""

    peft_scheme: Literal["lora"] | None = None
    """lora, or null: every weight."""
    lora_tuning: LoraSettings = field(default_factory=LoraSettings)

    @property
    def lora(self) -> LoraSettings | None:
        """The adapters, where there are any."""
        return self.lora_tuning if self.peft_scheme == "lora" else None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelSettings(ParallelSettings):
    """The Megatron GPT under the reward head, its layout, optimizer, loss and data."""

    restore_from_path: str | None = None
    """Hugging Face folder or hub id (org/model@revision), base or reward .nemo, or one file; null: random weights."""
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    hf_config: dict[str, Any] | None = None
    """A Hugging Face config.json as a section: a new model of that architecture, of any supported family, in the place
    of the sizes below."""
    num_layers: AtLeast1 | None = None
    """Layers. This and all down to init_method_std make a Llama from random weights."""
    hidden_size: AtLeast1 | None = None
    """Width of the residual stream."""
    ffn_hidden_size: AtLeast1 | None = None
    """Width of the MLP."""
    num_attention_heads: AtLeast1 | None = None
    """Query heads."""
    num_query_groups: AtLeast1 | None = None
    """Key and value heads."""
    kv_channels: AtLeast1 | None = None
    """Size of one attention head; null is hidden_size / num_attention_heads."""
    vocab_size: AtLeast1 | None = None
    """Rows of the embedding; null is the tokenizer's size, rounded up to a multiple of 128."""
    layernorm_epsilon: Above0 | None = None
    """Number added to the mean square in RMSNorm."""
    rotary_base: Above0 | None = None
    """Base of the rotary frequencies (rope_theta)."""
    init_method_std: Above0 | None = None
    """Deviation of random weights."""
    encoder_seq_length: EncoderSeqLength = 4096
    """Longest prompt + response, in tokens."""
    max_position_embeddings: AtLeast1 | None = None
    """Positions that the model may use, whatever encoder_seq_length is; null is what its config.json names. An export
    has it in its config.json."""
    moe_aux_loss_coeff: FromZero = 0.0
    """Factor of the loss that balances experts, formula in nemo_bt.model.balance; 0 is none."""
    activations_checkpoint_granularity: Literal["selective", "full"] | None = None
    """selective: compute attention again in the backward pass; full: whole layers, each by
    itself where method and num_layers are not set; null: keep all activations."""
    activations_checkpoint_method: Literal["uniform", "block"] | None = None
    """With full: uniform keeps the input of every group of layers, block computes only the first layers again."""
    activations_checkpoint_num_layers: AtLeast1 | None = None
    """Layers of a group, or how many are computed again, on each pipeline rank."""
    attention_backend: Literal["auto", "fused", "flash", "local"] = "auto"
    """On GPUs in bf16: flash (FlashAttention), fused (cuDNN's, through Transformer Engine), local (a call for each
    segment); where a layer cannot have it, flash or local. auto is flash. Soft caps are FlexAttention's, or local's."""
    fp8: Literal["hybrid", "e4m3"] | None = None
    """Linear layers in FP8, on GPUs and with trainer.precision=bf16-mixed; hybrid has gradients in E5M2."""
    fp8_recipe: Fp8Recipe = "tensorwise"
    """How values are scaled: tensorwise, blockwise, mxfp8 (Blackwell), or delayed, by the largest values of the steps
    before, which a run that goes on begins to collect anew."""
    fp8_amax_history_len: PositiveInt = 1024
    """Steps whose largest values delayed scaling keeps."""
    fp8_amax_compute_algo: Literal["most_recent", "max"] = "max"
    """Which of the kept values delayed scaling takes."""
    fp8_param_gather: bool = False
    """Keep the weights of these layers in FP8 alone, and gather them so: with distributed_fused_adam."""
    first_last_layers_bf16: bool = False
    """Leave the first and last layers out of FP8."""
    num_layers_at_start_in_bf16: AtLeast0 = 1
    """First layers that stay in bf16 then."""
    num_layers_at_end_in_bf16: AtLeast0 = 1
    """Last layers that stay in bf16 then."""
    global_batch_size: PositiveInt = 64
    """Pairs per optimizer step, over all ranks; lists, or prompts, where the loss takes these."""
    peft: PeftSettings = field(default_factory=PeftSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    reward_head: RewardHeadSettings = field(default_factory=RewardHeadSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    data: DataSettings = field(default_factory=DataSettings)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class JobSettings:
    """Devices, and a model's layout over them."""

    trainer: DeviceSettings = field(default_factory=DeviceSettings)
    model: ParallelSettings = field(default_factory=ParallelSettings)

    @property
    def world_size(self) -> int:
        """Processes in the whole job."""
        return self.trainer.devices * self.trainer.num_nodes

    @property
    def data_parallel_size(self) -> int:
        """Model replicas: world size over TP x PP x CP."""
        model = self.model
        shared = model.tensor_model_parallel_size * model.pipeline_model_parallel_size * model.context_parallel_size
        return self.world_size // shared


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings(JobSettings):
    """Everything a run depends on; also written to <log dir>/config.yaml."""

    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    exp_manager: ExpManagerSettings = field(default_factory=ExpManagerSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
