"""What can be configured: one frozen dataclass per section, with NeMo's names. Values live in conf/*.yaml.

A key that is not listed here, or a value of another type, stops the run (`nemo_bt.config.load.load_settings`).
Combinations are checked in `nemo_bt.training.checks`. Imports nothing heavy: it runs before NeMo is imported.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_bt.config.data import DataSettings
from nemo_bt.config.run import ExpManagerSettings, TrainerSettings


@dataclass(frozen=True)
class SchedSettings:
    """Learning rate over steps: linear warm-up, then the named shape."""

    name: str
    """NeMo's names: constant; CosineAnnealing; WarmupAnnealing, which falls linearly; PolynomialDecayAnnealing;
    InverseSquareRootAnnealing, which goes on falling whatever the run's length and knows no min_lr; and
    WarmupHoldAnnealLinear and WarmupHoldAnnealOneMinusSquareRoot, which fall at the end only (WSD)."""
    warmup_steps: int
    warmup_ratio: float | None
    """Warm-up as a fraction of the run, rounded up to whole steps; then warmup_steps has to be 0."""
    min_lr: float
    power: float
    """Of PolynomialDecayAnnealing."""
    decay_ratio: float
    """Of the two that hold: the fraction of the run, at its end, in which the rate falls; rounded up to whole steps."""


@dataclass(frozen=True)
class OptimSettings:
    """AdamW, as Megatron's optimizer applies it: no weight decay on norms and biases."""

    name: str
    """adam, or distributed_fused_adam to shard the optimizer state over data-parallel ranks."""
    lr: float
    weight_decay: float
    betas: list[float]
    eps: float
    grad_reduce_in_fp32: bool
    """Add gradients up over micro-batches and ranks in fp32; false in the dtype of the parameters."""
    overlap_grad_reduce: bool
    """Reduce gradients over data-parallel ranks while those of earlier layers are still computed."""
    overlap_param_gather: bool
    """Gather weights, with distributed_fused_adam, while the layers before them compute already."""
    num_distributed_optimizer_instances: int
    """Groups of data-parallel ranks that each shard the optimizer state; more send less across nodes and hold more."""
    optimizer_cpu_offload: bool
    """Keep optimizer state, and update weights, in the memory of the host (GPU runs only)."""
    optimizer_offload_fraction: float
    """Share of the parameters that this holds for, (0, 1]."""
    use_precision_aware_optimizer: bool
    """Let the three dtypes below be other than fp32: with distributed_fused_adam, on a GPU."""
    main_grads_dtype: str
    """fp32 or bf16."""
    exp_avg_dtype: str
    exp_avg_sq_dtype: str
    """fp32, bf16, fp16 or fp8 (of one byte, scaled)."""
    sched: SchedSettings


@dataclass(frozen=True)
class LossSettings:
    """Terms around -log sigmoid(r_chosen - r_rejected); formulas in nemo_bt.loss."""

    margin: bool
    """Subtract the row's margin from the reward difference."""
    scale: bool
    """Multiply a pair's loss by the row's margin (its strength)."""
    label_smoothing: float
    """Probability in [0, 0.5) that a label is wrong."""
    center_rewards_coefficient: float
    """Weight of (r_chosen + r_rejected)^2."""


@dataclass(frozen=True)
class TokenizerSettings:
    """A Hugging Face tokenizer folder."""

    type: str | None
    """Folder of the tokenizer (NeMo's name for it); null takes the one saved in restore_from_path."""
    pad_token: str | None
    """A token of the vocabulary to pad with, where the tokenizer names none."""


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters beside frozen weights."""

    target_modules: list[str]
    """Of linear_qkv, linear_proj, linear_fc1, linear_fc2."""
    adapter_dim: int
    """Rank."""
    alpha: float
    """The adapter's output is multiplied by alpha / adapter_dim."""
    adapter_dropout: float


@dataclass(frozen=True)
class PeftSettings:
    """What is trained beside the head, which always is."""

    peft_scheme: str | None
    """lora, or null: every weight."""
    lora_tuning: LoraSettings

    @property
    def lora(self) -> LoraSettings | None:
        """The adapters, where there are any."""
        return self.lora_tuning if self.peft_scheme == "lora" else None


@dataclass(frozen=True)
class ModelSettings:
    """The Megatron GPT under the reward head, its layout, optimizer, loss and data."""

    restore_from_path: str | None
    """Hugging Face folder or hub id (org/model@revision), base or reward .nemo, or one file; null: random weights."""
    tokenizer: TokenizerSettings
    num_layers: int | None
    hidden_size: int | None
    ffn_hidden_size: int | None
    num_attention_heads: int | None
    num_query_groups: int | None
    kv_channels: int | None
    """Size of one attention head; null is hidden_size / num_attention_heads."""
    vocab_size: int | None
    """Rows of the embedding; null is the tokenizer's size, rounded up to a multiple of 128."""
    layernorm_epsilon: float | None
    rotary_base: float | None
    init_method_std: float | None
    encoder_seq_length: int
    """Longest prompt + response, in tokens."""
    tensor_model_parallel_size: int
    pipeline_model_parallel_size: int
    virtual_pipeline_model_parallel_size: int | None
    """Parts of the model that each pipeline rank holds, interleaved, for a smaller bubble; null is one."""
    num_layers_in_first_pipeline_stage: int | None
    num_layers_in_last_pipeline_stage: int | None
    """Layers of the first and last pipeline rank, where they differ from the others'; null: an equal share."""
    context_parallel_size: int
    """Ranks that share the tokens of each stream."""
    expert_model_parallel_size: int
    """Ranks that share the experts; they are data- and context-parallel ranks of everything else."""
    moe_aux_loss_coeff: float
    """Factor of the loss that balances experts, formula in nemo_bt.model.balance; 0 is none."""
    use_tp_pp_dp_mapping: bool
    """Number ranks through tensor, then context, then pipeline, then data parallelism, not data before pipeline."""
    sequence_parallel: bool
    activations_checkpoint_granularity: str | None
    """selective: compute attention again in the backward pass; full: whole layers; null: keep all activations."""
    activations_checkpoint_method: str | None
    """Of full: uniform keeps the input of every group of layers, block computes only the first layers again."""
    activations_checkpoint_num_layers: int | None
    """Layers of a group, or how many are computed again, on each pipeline rank."""
    attention_backend: str
    """Of GPUs in bf16: flash (torch's FlashAttention), fused (cuDNN's, through Transformer Engine), local (a call of
    torch's for each segment); where a layer cannot have it, flash or local. auto is flash."""
    fp8: str | None
    """Linear layers in FP8, on GPUs and with trainer.precision=bf16-mixed: hybrid (gradients in E5M2), e4m3 or null."""
    fp8_recipe: str
    """How values are scaled: tensorwise, blockwise, mxfp8 (Blackwell), or delayed, by the largest values of the steps
    before, which a run that goes on begins to collect anew."""
    fp8_amax_history_len: int
    """Steps whose largest values delayed scaling keeps."""
    fp8_amax_compute_algo: str
    """Which of them it takes: most_recent or max."""
    first_last_layers_bf16: bool
    """Leave the first and last layers out of FP8."""
    num_layers_at_start_in_bf16: int
    num_layers_at_end_in_bf16: int
    global_batch_size: int
    """Pairs per optimizer step, over all ranks."""
    peft: PeftSettings
    optim: OptimSettings
    loss: LossSettings
    data: DataSettings


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on; also written to <log dir>/config.yaml."""

    trainer: TrainerSettings
    exp_manager: ExpManagerSettings
    model: ModelSettings

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
