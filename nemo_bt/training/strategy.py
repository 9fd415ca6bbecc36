"""NeMo's strategy, which loads the newest checkpoint that is whole. Importing this file imports NeMo."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import megatron.core.optimizer as megatron_optimizer
import nemo.lightning as nl
import torch

from nemo_bt.checkpoint.find import name_aside, none_whole, saved_checkpoints, wrong_name
from nemo_bt.checkpoint.manifest import damage
from nemo_bt.config.device import has_transformer_engine
from nemo_bt.errors import UserError
from nemo_bt.model.reward_gpt import replaced
from nemo_bt.observability.terminal import Terminal
from nemo_bt.observability.time_spent import TimeSpent
from nemo_bt.pretrained.plain_checkpoint import check_plain
from nemo_bt.training.fused_adam import in_parts
from nemo_bt.training.plain_loading import plain_loading


class CheckedStrategy(nl.MegatronStrategy):
    """Checks a checkpoint before it is loaded, all ranks together, and falls back to an older one.

    Attributes:
        terminal: where it says so; it is no argument, because NeMo writes those into every checkpoint.
        is_trusted: whether checkpoints may hold more than plain data.
        spent: what knows where the time of this rank goes.
    """

    terminal: Terminal | None = None
    is_trusted: bool = False
    spent: TimeSpent | None = None

    def _configure_launcher(self) -> None:
        """Start nothing where there is one rank: Lightning refuses its launcher in a notebook."""
        if self.num_nodes * self.num_processes > 1:
            super()._configure_launcher()

    def setup_optimizers(self, trainer: Any) -> None:
        """Build Megatron's optimizer, whose FusedAdam steps a parameter group in parts."""
        adam = megatron_optimizer.Adam
        with replaced(megatron_optimizer, "Adam", in_parts(adam) if has_transformer_engine() else adam):
            super().setup_optimizers(trainer)
        gc.collect()  # Megatron builds an offloaded optimizer twice; the first is in a cycle, with copies of weights

    def load_checkpoint(self, checkpoint_path: str | Path, selective_restore: bool = False) -> dict[str, Any]:
        """Load the newest checkpoint in the folder of `checkpoint_path` that is whole.

        Raises:
            UserError: none is whole, or the newest holds more than plain data and is not trusted.
        """
        with self.spent.within("restore") if self.spent else nullcontext():
            whole = self._newest_whole(Path(checkpoint_path).parent)
            loading = nullcontext() if self.is_trusted else plain_loading(whole / "weights", check_plain(whole))
            if self.terminal:
                self.terminal.line(f"resuming from {whole}")
            with loading:
                return super().load_checkpoint(whole, selective_restore)

    def _newest_whole(self, folder: Path) -> Path:
        rank = torch.distributed.get_rank()
        num_ranks = torch.distributed.get_world_size()
        found = []
        seen = [saved_checkpoints(folder)]
        torch.distributed.broadcast_object_list(seen)  # a file server may show other ranks an older list
        for checkpoint in reversed(seen[0]):
            reasons: list[str | None] = [None] * num_ranks
            torch.distributed.all_gather_object(reasons, damage(checkpoint, rank, num_ranks) or wrong_name(checkpoint))
            reason = next((reason for reason in reasons if reason), None)
            if reason is None:
                return checkpoint
            found.append(f"{checkpoint} is damaged: {reason}")
            aside = name_aside(checkpoint)
            if self.terminal:
                self.terminal.line(f"{found[-1]}. It is set aside as {aside.name}")
            torch.distributed.barrier()
            if rank == 0:
                checkpoint.rename(aside)
        raise UserError(none_whole(found))
