"""One rank of several runs in a row, in some of which a bit of one rank changes by itself.

torchrun --nproc-per-node N -m tests.support.flipping_ranks runs.json

The file has a list of {port, overrides, flip}; a flip is {rank, what, name, from_step, to_step}, or null: a bit of the
weight, the gradient or a moment of a parameter is the other one when the steps begin. What a run ends with is appended
to outcomes.jsonl, beside the file, by rank 0.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from nemo_bt.config.load import load_settings
from nemo_bt.errors import UserError
from nemo_bt.launching.local import current_rank
from nemo_bt.observability.events import telling_failure
from nemo_bt.observability.terminal import Terminal
from nemo_bt.training.checks import check_settings
from nemo_bt.training.fit import _leave
from nemo_bt.training.train import train


class Flip(pl.Callback):
    """Changes a bit in the middle of a tensor, behind the backward passes of some steps."""

    def __init__(self, what: str, name: str, from_step: int, to_step: int) -> None:
        self.what, self.name, self.steps = what, name, range(from_step, to_step + 1)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Comes last of all callbacks, so it is the outermost around the optimizer's step."""
        optimizer = trainer.optimizers[0].mcore_optimizer
        step = optimizer.step_with_ready_grads
        (parameter,) = (
            parameter
            for part in trainer.strategy.megatron_parallel
            for name, parameter in part.module.named_parameters()
            if name.endswith(self.name)
        )

        def flipping() -> bool:
            if trainer.global_step in self.steps:
                flip(self._tensor(optimizer, parameter))
            return step()

        optimizer.step_with_ready_grads = flipping

    def _tensor(self, optimizer: Any, parameter: Any) -> torch.Tensor:
        if self.what == "weight":
            return parameter.data
        if self.what == "gradient":
            return parameter.main_grad
        chained = getattr(optimizer, "chained_optimizers", [optimizer])
        main = getattr(parameter, "main_param", None)
        key = parameter if main is None else main
        return next(one.optimizer.state[key][self.what] for one in chained if key in one.optimizer.state)


def flip(tensor: torch.Tensor) -> None:
    """Change a high bit of the mantissa of its middle element."""
    words = tensor.view(-1).view({4: torch.int32, 2: torch.int16}[tensor.element_size()])
    words[len(words) // 2] ^= 1 << 6


def main() -> None:
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # torchrun's store serves one rendezvous, not several
    spec = Path(sys.argv[1])
    for run in json.loads(spec.read_text()):
        os.environ["MASTER_PORT"] = str(run["port"])
        settings = load_settings("train", run["overrides"])
        log_dir, rank = settings.exp_manager.log_dir, current_rank()
        (log_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        one = run["flip"]
        flips = (
            [Flip(one["what"], one["name"], one["from_step"], one["to_step"])] if one and one["rank"] == rank else []
        )
        error = None
        try:
            with telling_failure(log_dir, rank):
                train(settings, check_settings(settings), Terminal(None), rank, flips)
        except UserError as found:
            error = str(found)
            _leave()
        if rank == 0:
            with (spec.parent / "outcomes.jsonl").open("a") as file:
                file.write(json.dumps([log_dir.name, error]) + "\n")


if __name__ == "__main__":
    main()
