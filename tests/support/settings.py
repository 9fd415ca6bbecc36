"""Settings of runs that are planned or checked, and never started."""

from nemo_bt.config.load import load_settings, load_settings_of
from nemo_bt.config.model import Settings
from nemo_bt.config.plan import PlanRun

NEEDED = ["exp_manager.explicit_log_dir=run", "model.data.train=a.parquet", "model.tokenizer.type=tok"]


def settings_of(*overrides: str) -> Settings:
    return load_settings("train", ["model=llama_4x256", *NEEDED, *overrides])


def plan_run_of(*overrides: str) -> PlanRun:
    return load_settings_of(PlanRun, "plan", overrides)
