"""Every number among the settings has a range, and a message that names it."""

import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, get_origin, get_type_hints

import pytest

from nemo_bt.config.data import SourceSettings
from nemo_bt.config.load import load_settings
from nemo_bt.config.messages import range_of, without_none
from nemo_bt.config.plan import PlanRun
from nemo_bt.config.score import EvaluateRun, LabelRun
from nemo_bt.config.serve import ServeRun
from nemo_bt.errors import UserError

NUMBERS = {
    "more than 0": "layernorm_epsilon rotary_base init_method_std",
    "1 or more": "kv_channels vocab_size activations_checkpoint_num_layers virtual_pipeline_model_parallel_size "
    "num_layers_in_first_pipeline_stage num_layers_in_last_pipeline_stage",
    "0 or more": "num_layers_at_start_in_bf16 num_layers_at_end_in_bf16",
}


@pytest.mark.parametrize(("bound", "name"), [(bound, name) for bound in NUMBERS for name in NUMBERS[bound].split()])
def test_numbers_of_a_model_have_ranges(bound: str, name: str) -> None:
    wrong = -1 if bound == "0 or more" else 0
    with pytest.raises(UserError, match=rf"^model\.{name}: expected {bound}, got {wrong}\.$"):
        load_settings("train", [f"model.{name}={wrong}"])


@pytest.mark.parametrize("kind", [PlanRun, EvaluateRun, LabelRun, ServeRun, SourceSettings])
def test_every_number_has_a_range(kind: type[Any]) -> None:
    """But for weights of scores and a threshold of rewards, which may be any; some have a check of their own."""
    free = {"score_key", "threshold", "max_steps", "scale"}
    assert {name for name, field in numbers_of(kind) if range_of(field) == "a number"} <= free


def numbers_of(kind: type[Any]) -> Iterator[tuple[str, Any]]:
    """Names and types of the fields of sections that take a number."""
    for name, field in get_type_hints(kind, include_extras=True).items():
        section = without_none(field)
        if is_dataclass(section):
            yield from numbers_of(section)
        elif get_origin(section) is not list and re.search(r"\b(int|float)\b", str(field)):
            yield name, field


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.gradient_clip_val=-1", r"gradient_clip_val: expected 0 or more, got -1"),
        ("model.data.max_drop_fraction=7", r"max_drop_fraction: expected \[0, 1\], got 7"),
        ("exp_manager.checkpoint_callback_params.save_last_n=-1", r"save_last_n: expected 0 or more, got -1"),
        ("model.num_query_groups=0", r"model\.num_query_groups: expected 1 or more, got 0"),
        ("model.loss.label_smoothing=0.5", r"label_smoothing: expected \[0, 0\.5\), got 0\.5"),
        ("model.data.num_workers=0", r"num_workers: expected 1 or more, got 0"),
        ("model.optim.sched.decay_ratio=0", r"decay_ratio: expected \(0, 1\], got 0"),
        ("model.data.pairs.max_pairs_per_prompt=0", r"max_pairs_per_prompt: expected 1 or more, got 0"),
        ("trainer.seed=99999999999999999999", r"trainer\.seed: expected \[0, 9223372036854775808\), got 9{20}"),
        ("trainer.peak_flops_per_device=-1", r"trainer\.peak_flops_per_device: expected more than 0, got -1"),
        ("model.data.train=[{path: x, count: 99999999999999}]", r"count: expected \(0, 2147483648\), got 9{14}"),
        ("model.data.train=[{path: x, repeat: 1e300}]", r"repeat: expected \(0, 1e\+06\], got 1e\+300"),
    ],
)
def test_a_number_beyond_its_range_is_named(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_settings("train", [override])
