"""What a real run allocates, keeps for its backward pass, sends, and in which order it computes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.distributed.distributed_c10d import ProcessGroup, get_process_group_ranks
from torch.utils._python_dispatch import TorchDispatchMode

from nemo_bt.phantom.messages import message

RECORDED_STEP = 1


class Messages(TorchDispatchMode):
    """Counts what reaches torch's process groups."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, tuple[int, ...], int]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        if func.namespace == "c10d" and name != "barrier":
            self.counts[message(func, args)] += 1
        return func(*args, **(kwargs or {}))


class SavedBytes:
    """Bytes of the storages that autograd keeps, each once; those of parameters are left out."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.left_out = {parameter.untyped_storage()._cdata for parameter in parameters}
        self.uses: Counter[int] = Counter()
        self.now = self.peak = 0

    def change(self, storage: torch.UntypedStorage, uses: int) -> None:
        """One use more or less."""
        key = storage._cdata
        if key in self.left_out:
            return
        was = self.uses[key]
        self.uses[key] += uses
        if not was or not self.uses[key]:
            self.now += uses * storage.nbytes()
            self.peak = max(self.peak, self.now)

    def counted(self) -> Any:
        """A context in which what autograd keeps is counted."""
        return torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Saved(tensor, self), lambda saved: saved.tensor)


class _Saved:
    def __init__(self, tensor: Tensor, counts: SavedBytes) -> None:
        self.tensor, self.counts = tensor, counts
        counts.change(tensor.untyped_storage(), 1)

    def __del__(self) -> None:
        self.counts.change(self.tensor.untyped_storage(), -1)


class Recorder(pl.Callback):
    """Writes state-<rank>.json: sizes at the end of a run, and what its second step did."""

    def __init__(self, log_dir: Path) -> None:
        self.log_dir = log_dir
        self.first_step: int | None = None
        self.step: dict[str, Any] | None = None
        self.messages: Messages | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.first_step is None:
            self.first_step = trainer.global_step
        if trainer.global_step != self.first_step + RECORDED_STEP:
            return
        parts = [part.module for part in trainer.strategy.megatron_parallel]
        self.saved = SavedBytes([parameter for part in parts for parameter in part.parameters()])
        self.hooks = self.saved.counted()
        self.passes: list[tuple[bool, int]] = []
        gpts = map(_gpt_of, trainer.strategy.megatron_parallel)
        self.handles = [gpt.register_forward_hook(self._noting(number)) for number, gpt in enumerate(gpts)]
        self.messages = Messages()
        self.hooks.__enter__()
        self.messages.__enter__()

    def _noting(self, part: int) -> Any:
        def note(module: torch.nn.Module, args: Any, output: Tensor) -> None:
            self.passes.append((True, part))
            output.register_hook(lambda _: self.passes.append((False, part)))

        return note

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.messages is None or self.step is not None:
            return
        self.messages.__exit__(None, None, None)
        self.hooks.__exit__(None, None, None)
        for handle in self.handles:
            handle.remove()
        streams = trainer.datamodule.data_sampler.last.streams
        self.step = {
            "groups": {name: get_process_group_ranks(group) for name, group in _groups().items()},
            "messages": [[*key, count] for key, count in self.messages.counts.items()],
            "activations": self.saved.peak,
            "kept_after_the_step": self.saved.now,
            "passes": self.passes,
            "streams": [[stream.tokens_1T.shape[1], stream.segments_C5.tolist()] for stream in streams],
        }

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        from megatron.core import parallel_state

        parts = [part.module for part in trainer.strategy.megatron_parallel]
        buffers = [buffer for part in parts for buffer in part.buffers + part.expert_parallel_buffers]
        whole = [buffer.param_data for buffer in buffers if buffer.param_data is not None]
        weights = whole or [p for part in parts for p in part.parameters() if p.requires_grad]
        optimizer = trainer.optimizers[0].mcore_optimizer
        optimizers = getattr(optimizer, "chained_optimizers", [optimizer])
        kept = [tensor for one in optimizers for of in one.optimizer.state.values() for tensor in of.values()]
        for name in ("fp32_from_float16_groups", "shard_fp32_from_float16_groups"):  # main copies of weights in bf16
            kept += [tensor for one in optimizers for group in getattr(one, name, []) for tensor in group]
        config, groups = pl_module.config, parallel_state
        layout = {
            "tensor": groups.get_tensor_model_parallel_world_size(),
            "pipeline": groups.get_pipeline_model_parallel_world_size(),
            "parts": len(parts),
            "context": groups.get_context_parallel_world_size(),
            "experts": groups.get_expert_model_parallel_world_size(),
            "layers": sum(len(_gpt_of(part).decoder.layers) for part in trainer.strategy.megatron_parallel),
            "recompute": [config.recompute_granularity, config.recompute_method, config.recompute_num_layers],
            "instances": parts[0].ddp_config.num_distributed_optimizer_instances,
            "grad_reduce_in_fp32": parts[0].ddp_config.grad_reduce_in_fp32,
            "overlaps": [parts[0].ddp_config.overlap_grad_reduce, parts[0].ddp_config.overlap_param_gather],
            "casts_weights_anew": _casts_weights_anew(trainer.strategy.megatron_parallel),
            "next_pipeline_rank": groups.get_pipeline_model_parallel_next_rank(),
        }
        sizes = {
            "layout": layout,
            "pipeline_rank": parallel_state.get_pipeline_model_parallel_rank(),
            "data_rank": parallel_state.get_data_parallel_rank(with_context_parallel=True),
            "weights": sum(tensor.nbytes for tensor in weights),
            "gradients": sum(buffer.grad_data.nbytes for buffer in buffers),
            "optimizer": sum(tensor.nbytes for tensor in kept if tensor is not None),
            "step": self.step,
        }
        (self.log_dir / f"state-{torch.distributed.get_rank()}.json").write_text(json.dumps(sizes))


def _gpt_of(part: Any) -> torch.nn.Module:
    """The model under what NeMo and Megatron wrap around it."""
    from megatron.core.models.gpt import GPTModel

    while not isinstance(part, GPTModel):
        part = part.module
    return part


def _casts_weights_anew(parts: Any) -> bool:
    """Whether what Megatron's schedule calls at the first stream of a step reaches the modules of every part.

    Those of Transformer Engine keep their weights in FP8 from one stream to the next until they are told.
    """
    reached = []
    for part in [parts] if len(parts) == 1 else parts:
        gpt = _gpt_of(part[0] if part is parts else part)
        gpt.config.fp8, gpt.is_first_microbatch = "hybrid", False
        part.set_is_first_microbatch()
        reached.append(gpt.is_first_microbatch)
        gpt.config.fp8 = None
    return all(reached)


def _groups() -> dict[str, ProcessGroup]:
    """Megatron's groups by the names of nemo_bt.planning.traffic."""
    from megatron.core import parallel_state as ps

    groups = {
        "tp": ps.get_tensor_model_parallel_group(),
        "pp": ps.get_pipeline_model_parallel_group(),
        "cp": ps.get_context_parallel_group(),
        "ep": ps.get_expert_model_parallel_group(),
        "tp_cp": ps.get_tensor_and_context_parallel_group(),
        "tp_ep": ps.get_expert_tensor_and_model_parallel_group(),
        "mp": ps.get_model_parallel_group(),
        "expert_mp": ps.get_expert_tensor_model_pipeline_parallel_group(),
        "dp_cp": ps.get_data_parallel_group(with_context_parallel=True),
        "expert_dp": ps.get_expert_data_parallel_group(),
        "intra_dp_cp": ps.get_data_parallel_group(with_context_parallel=True, partial_data_parallel=True),
        "intra_expert_dp": ps.get_expert_data_parallel_group(partial_expert_data_parallel=True),
        "instance": ps.get_intra_distributed_optimizer_instance_group(),
        "world": torch.distributed.group.WORLD,
    }
    inter = ps.get_inter_distributed_optimizer_instance_group(check_initialized=False)
    return groups | ({"inter": inter} if inter else {})
