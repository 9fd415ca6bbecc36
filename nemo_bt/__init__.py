"""Bradley-Terry reward models on NeMo 2 and Megatron-Core.

    import nemo_bt

    settings = nemo_bt.load_settings("train", ["model.restore_from_path=base", "model.data.train=prefs.parquet"])
    outcome = nemo_bt.train(settings)
    scorer = nemo_bt.RewardScorer.from_pretrained("exported")

Importing this package imports nothing else: each name below is imported when it is first used.

Read `api`, `training` and `loss` first. From the ground up, each importing those before it: `errors`, `files`,
`foreign`, `metrics`, `batching`, `cpu`, `config` (its files are in `conf`), `loss`, `losses`, `launching`,
`pretrained`, `flops`, `observability`, `model`, `data`, `checkpoint`, `training`, `phantom`, `planning`, `scoring`,
`evaluation`, `serving`, `reporting`, `cli`, `api`; `converters` beside them. `__main__`, `quickstart` and `gpu_setup`
are programs.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nemo_bt.api import evaluate, label, launch, load_settings, plan, report, score, train, validate
    from nemo_bt.config.loss import LossSettings
    from nemo_bt.config.model import ModelSettings, Settings
    from nemo_bt.config.plan import PlanRun
    from nemo_bt.config.run import ExpManagerSettings, TrainerSettings
    from nemo_bt.config.score import EvaluateRun, LabelRun, ScoreRun
    from nemo_bt.converters.average import average
    from nemo_bt.converters.hf_to_nemo import hf_to_nemo
    from nemo_bt.converters.nemo_to_hf import nemo_to_hf
    from nemo_bt.errors import UserError
    from nemo_bt.loss import LossFn, bradley_terry_loss
    from nemo_bt.losses.comparisons import ComparisonLoss, Comparisons
    from nemo_bt.model.reward_model import RewardModel
    from nemo_bt.scoring.scorer import RewardScorer
    from nemo_bt.training.steps.data_module import PairDataModule

__version__ = "0.1.0"

_MODULES = {
    "nemo_bt.api": (
        "load_settings", "train", "validate", "score", "evaluate", "label", "report", "plan", "launch",
    ),
    "nemo_bt.converters.hf_to_nemo": ("hf_to_nemo",),
    "nemo_bt.converters.nemo_to_hf": ("nemo_to_hf",),
    "nemo_bt.converters.average": ("average",),
    "nemo_bt.config.model": ("Settings", "ModelSettings"),
    "nemo_bt.config.loss": ("LossSettings",),
    "nemo_bt.config.run": ("TrainerSettings", "ExpManagerSettings"),
    "nemo_bt.config.score": ("ScoreRun", "EvaluateRun", "LabelRun"),
    "nemo_bt.config.plan": ("PlanRun",),
    "nemo_bt.errors": ("UserError",),
    "nemo_bt.loss": ("bradley_terry_loss", "LossFn"),
    "nemo_bt.losses.comparisons": ("Comparisons", "ComparisonLoss"),
    "nemo_bt.scoring.scorer": ("RewardScorer",),
    "nemo_bt.model.reward_model": ("RewardModel",),
    "nemo_bt.training.steps.data_module": ("PairDataModule",),
}  # fmt: skip
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
_ELSEWHERE = {
    "fit": "train", "Trainer": "train", "RewardTrainer": "train", "RewardConfig": "load_settings",
    "predict": "score", "test": "evaluate", "eval": "evaluate", "load": "RewardScorer", "pipeline": "RewardScorer",
    "from_pretrained": "RewardScorer", "AutoModel": "RewardScorer", "export": "nemo_to_hf", "convert": "nemo_to_hf",
    "import_ckpt": "hf_to_nemo", "export_ckpt": "nemo_to_hf", "compose": "load_settings", "Config": "load_settings",
    "soup": "average", "merge": "average",
}  # fmt: skip
"""What other libraries call it -> the name here."""
_ON_NEMO = ("RewardModel", "PairDataModule")

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        near = _ELSEWHERE.get(name) or next(iter(get_close_matches(name, _HOMES, n=1)), None)
        hint = f" Did you mean {near}?" if near else ""
        raise AttributeError(f"module 'nemo_bt' has no attribute '{name}'.{hint} It has {', '.join(sorted(_HOMES))}.")
    if name in _ON_NEMO:
        from nemo_bt.training.nemo_import import import_nemo_here

        import_nemo_here()
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
