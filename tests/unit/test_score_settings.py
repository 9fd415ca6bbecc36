"""Settings of the commands that use a trained model: what they need, and what they refuse."""

from typing import Any

import pytest

from nemo_bt.config.load import load_settings_of
from nemo_bt.config.score import RUNS, EvaluateRun, ScoreRun
from nemo_bt.config.serve import ServeRun
from nemo_bt.errors import UserError


def test_each_value_that_scoring_needs_is_named() -> None:
    with pytest.raises(UserError, match=r"evaluate\.input: expected a value, got none"):
        load_settings_of(EvaluateRun, "evaluate", ["evaluate.output=x"])
    with pytest.raises(UserError, match=r"^score\.input: expected [^\n]*\nscore\.output: expected a value, got none"):
        load_settings_of(ScoreRun, "score")
    told = (
        "evaluate.input: expected a value, got none. Give evaluate.input=...\nunknown key evaluate.inputs. Did you mean"
    )
    with pytest.raises(UserError, match=f"^{told} evaluate.input"):
        load_settings_of(EvaluateRun, "evaluate", ["evaluate.inputs=x", "evaluate.output=y"])
    with pytest.raises(UserError, match=r"^evaluate\.input: expected a value, got none\. Give evaluate\.input=\.\.\.$"):
        load_settings_of(EvaluateRun, "evaluate", ["score.input=x", "evaluate.output=y"])


@pytest.mark.parametrize("typed", ["model.optim.lr=1", "model.peft.peft_scheme=lora", "exp_manager.name=x"])
@pytest.mark.parametrize("kind", [ScoreRun, ServeRun])
def test_a_setting_of_training_is_refused_by_that_name(kind: type[Any], typed: str) -> None:
    given = ["+score={input: a, output: o}"] if kind is ScoreRun else []
    with pytest.raises(UserError, match=rf"^{typed.split('=')[0]} belongs to training; nothing depends on it here"):
        load_settings_of(kind, kind.__name__.removesuffix("Run").lower(), [*given, typed])


@pytest.mark.parametrize("command", RUNS)
def test_an_input_is_one_path_or_several(command: str) -> None:
    def load(given: str) -> Any:
        return load_settings_of(RUNS[command], command, [f"{command}.input={given}", f"{command}.output=o"])

    assert load("a").source.path == ["a"]
    assert load("[a,b]").source.path == ["a", "b"]
    with pytest.raises(UserError, match=r"score\.input: expected at least one value, got \[\]"):
        load("[]")


@pytest.mark.parametrize("command", ["evaluate", "label"])
def test_what_is_evaluated_or_labelled_is_what_is_scored(command: str) -> None:
    given = [f"{command}.input=a", f"{command}.output=o"]
    with pytest.raises(UserError, match=rf"^{command}: expected score\.input=\['b'\], got input=\['a'\]\. Leave score"):
        load_settings_of(RUNS[command], command, [*given, "score.input=b"])
    with pytest.raises(ValueError, match=r"expected score\.input"):
        RUNS[command](score={"input": "b", "output": "o"}, **{command: {"input": "a", "output": "o"}})
