"""One rank of several training runs in a row: a process that imports NeMo costs 11 s, so runs share it.

torchrun --nproc-per-node N -m tests.ranks runs.json

The file has a list of {port, config, overrides, checkpoint}, all of world size N.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import lightning.pytorch as pl

from nemo_bt.checks import check_settings
from nemo_bt.config import load_settings
from nemo_bt.launch import current_rank
from nemo_bt.terminal import Terminal
from nemo_bt.train import train


def put_checkpoint(checkpoint: Path, folder: Path) -> None:
    """Leave one checkpoint of an earlier run in `folder`, as if the run had been killed after it."""
    target = folder / checkpoint.name
    if current_rank() == 0:
        shutil.copytree(checkpoint, folder / "copying")
        (folder / "copying").rename(target)
    deadline_s = time.monotonic() + 60
    while not target.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


class AllocatedBytes(pl.Callback):
    """Writes what Megatron has allocated at the end: state-<rank>.json."""

    def __init__(self, log_dir: Path) -> None:
        self.log_dir = log_dir

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        from megatron.core import parallel_state

        parts = [part.module for part in trainer.strategy.megatron_parallel]
        buffers = [buffer for part in parts for buffer in part.buffers + part.expert_parallel_buffers]
        whole = [buffer.param_data for buffer in buffers if buffer.param_data is not None]
        weights = whole or [p for part in parts for p in part.parameters() if p.requires_grad]
        optimizer = trainer.optimizers[0].mcore_optimizer
        states = [one.optimizer.state for one in getattr(optimizer, "chained_optimizers", [optimizer])]
        moments = [tensor for state in states for of in state.values() for tensor in of.values()]
        config, groups = pl_module.config, parallel_state
        layout = {
            "tensor": groups.get_tensor_model_parallel_world_size(),
            "pipeline": groups.get_pipeline_model_parallel_world_size(),
            "parts": len(parts),
            "context": groups.get_context_parallel_world_size(),
            "experts": groups.get_expert_model_parallel_world_size(),
            "layers": sum(len(part.module.module.decoder.layers) for part in trainer.strategy.megatron_parallel),
            "recompute": [config.recompute_granularity, config.recompute_method, config.recompute_num_layers],
            "instances": parts[0].ddp_config.num_distributed_optimizer_instances,
            "grad_reduce_in_fp32": parts[0].ddp_config.grad_reduce_in_fp32,
            "next_pipeline_rank": groups.get_pipeline_model_parallel_next_rank(),
        }
        sizes = {
            "layout": layout,
            "pipeline_rank": parallel_state.get_pipeline_model_parallel_rank(),
            "data_rank": parallel_state.get_data_parallel_rank(with_context_parallel=True),
            "weights": sum(tensor.nbytes for tensor in weights),
            "gradients": sum(buffer.grad_data.nbytes for buffer in buffers),
            "optimizer": sum(tensor.nbytes for tensor in moments),
        }
        (self.log_dir / f"state-{current_rank()}.json").write_text(json.dumps(sizes))


def main() -> None:
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # torchrun's store serves one rendezvous, not several
    for run in json.loads(Path(sys.argv[1]).read_text()):
        os.environ["MASTER_PORT"] = str(run["port"])
        config = Path(run["config"] or "train.yaml")
        settings = load_settings(config.stem, run["overrides"], str(config.parent) if run["config"] else None)
        checkpoints = Path(settings.exp_manager.explicit_log_dir) / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        if run["checkpoint"]:
            put_checkpoint(Path(run["checkpoint"]), checkpoints)
        print(f"run: {checkpoints.parent}", flush=True)
        terminal = Terminal(sys.stdout if current_rank() == 0 else None)
        rank = current_rank()
        train(settings, check_settings(settings), terminal, rank, [AllocatedBytes(checkpoints.parent)])


if __name__ == "__main__":
    main()
