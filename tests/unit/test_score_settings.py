"""Settings of the commands that use a trained model: what they need, and what they refuse."""

from typing import Any

import pytest

from nemo_bt.config.load import load_settings_of
from nemo_bt.config.score import EvaluateRun, ScoreRun
from nemo_bt.config.serve import ServeRun
from nemo_bt.errors import UserError


def test_each_value_that_scoring_needs_is_named() -> None:
    with pytest.raises(UserError, match=r"evaluate\.input: expected a value, got none"):
        load_settings_of(EvaluateRun, "evaluate", ["evaluate.output=x"])
    with pytest.raises(UserError, match=r"^score\.input: expected [^\n]*\nscore\.output: expected a value, got none"):
        load_settings_of(ScoreRun, "score")


@pytest.mark.parametrize("typed", ["model.optim.lr=1", "model.peft.peft_scheme=lora", "exp_manager.name=x"])
@pytest.mark.parametrize("kind", [ScoreRun, ServeRun])
def test_a_setting_of_training_is_refused_by_that_name(kind: type[Any], typed: str) -> None:
    given = ["+score={input: a, output: o}"] if kind is ScoreRun else []
    with pytest.raises(UserError, match=rf"^{typed.split('=')[0]} belongs to training; nothing depends on it here"):
        load_settings_of(kind, kind.__name__.removesuffix("Run").lower(), [*given, typed])
