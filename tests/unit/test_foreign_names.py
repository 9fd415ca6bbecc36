"""The names of other trainers lead to settings that exist, and all mistakes are told at once."""

import re

import pytest

from nemo_bt.config.equations import check_equations
from nemo_bt.config.foreign_names import RENAMED, SAME_VALUE, renamed
from nemo_bt.config.load import load_settings, load_settings_of
from nemo_bt.config.messages import all_keys
from nemo_bt.config.model import Settings
from nemo_bt.config.score import EvaluateRun, ScoreRun
from nemo_bt.errors import UserError

KEYS = {".".join(path) for path in all_keys(Settings)}
SECTIONS = {key.rsplit(".", 1)[0] for key in KEYS}


@pytest.mark.parametrize("name", RENAMED)
def test_a_foreign_name_is_none_of_ours_and_leads_to_one(name: str) -> None:
    assert name not in KEYS
    here = RENAMED[name]
    if here.startswith("nothing: "):
        assert len(here) > len("nothing: ") + 10
        return
    key, _, value = here.partition("=")
    assert key in KEYS | SECTIONS
    if value and "..." not in value:
        last = key.rpartition(".")[2]
        needs = ["model.restore_from_path=a", "exp_manager.explicit_log_dir=a"]
        assert f"{last}={value}" in here
        load_settings("train", [*needs, here])


def test_a_value_is_carried_over_only_where_it_means_the_same() -> None:
    assert {name.rsplit(".", 1)[-1] for name in RENAMED} >= SAME_VALUE
    for name in ("micro_batch_size", "gradient_accumulation_steps", "bf16", "report_to", "adam_beta1", "eval_strategy"):
        assert name not in SAME_VALUE


def test_names_are_found_behind_any_section_and_with_dashes() -> None:
    assert renamed("learning_rate") == renamed("learning-rate") == renamed("args.learning_rate") == "model.optim.lr"
    assert renamed("trainer.rm.max_steps") == "trainer.max_steps"
    assert renamed("max_steps") is None
    assert renamed("exp_manager.ema.enable") == renamed("exp_manager.ema")
    assert renamed("model.regression.attribute_weights") == "model.reward_head.weights"


def test_all_mistakes_are_told_at_once() -> None:
    typed = [
        "learning_rate=1",
        "trainer.rm.max_epochs=1",
        "model.mcore_gpt=true",
        "model.optim.lr=-1",
        "trainer=5",
        "cluster=h100",
        "model.data.trian=a",
        "model=nothing",
    ]
    with pytest.raises(UserError) as refused:
        load_settings("train", typed)
    told = str(refused.value)
    for line in (
        "unknown key learning_rate. Type model.optim.lr",
        "unknown key trainer.rm.max_epochs. Type trainer.max_epochs",
        "unknown key model.mcore_gpt. Leave it out: the model is always Megatron-Core's.",
        "model.optim.lr: expected more than 0, got -1.",
        "trainer: expected a section of keys, got 5.",
        "cluster=h100 belongs to nemo-bt plan; nothing depends on it here. Leave it out.",
        "unknown key model.data.trian. Did you mean model.data.train?",
    ):
        assert line in told.splitlines()
    assert re.search(r"^model=nothing: expected one of gemma2_27b", told, re.MULTILINE)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("model.optim.sched.name=cosine", "got cosine. Type CosineAnnealing"),
        ("trainer.precision=bf16", "got bf16. Type bf16-mixed"),
        ("model.optim.name=adamw_torch", "got adamw_torch. Type adam"),
        ("model.optim.sched.name=quick", "got quick."),
    ],
)
def test_values_of_other_trainers_lead_to_ours(typed: str, told: str) -> None:
    with pytest.raises(UserError) as refused:
        load_settings("train", ["model.restore_from_path=a", "exp_manager.explicit_log_dir=a", typed])
    assert str(refused.value).endswith(told)


def test_of_two_keys_of_one_name_the_documented_one_is_told() -> None:
    needs = ["evaluate.input=a", "evaluate.output=b"]
    with pytest.raises(UserError, match=r"unknown key split\. Did you mean evaluate\.split\?"):
        load_settings_of(EvaluateRun, "evaluate", [*needs, "split=test"])
    with pytest.raises(UserError, match=r"model=x belongs to training; .* The model is model\.restore_from_path=x"):
        load_settings_of(EvaluateRun, "evaluate", [*needs, "model=x"])


def test_equations_between_settings_are_told_at_once() -> None:
    needs = ["model=llama_4x256", "exp_manager.explicit_log_dir=a", "model.data.train=a"]
    typed = [
        "model.optim.sched.min_lr=1",
        "exp_manager.create_early_stopping_callback=true",
        "model.peft.lora_tuning.adapter_dim=4",
    ]
    with pytest.raises(UserError) as refused:
        check_equations(load_settings("train", [*needs, *typed]))
    assert [line.split(":")[0] for line in str(refused.value).splitlines()] == [
        "model.optim.sched.min_lr",
        "model.peft.lora_tuning",
        "exp_manager.early_stopping_callback_params.monitor",
    ]


def test_where_a_setting_of_training_does_nothing_its_foreign_name_says_so() -> None:
    with pytest.raises(UserError) as refused:
        load_settings_of(
            ScoreRun, "score", ["score.input=a", "score.output=b.jsonl", "learning_rate=1", "max_length=8"]
        )
    assert str(refused.value).splitlines() == [
        "unknown key learning_rate. It is model.optim.lr of training, and nothing depends on it here. Leave it out.",
        "unknown key max_length. Type model.encoder_seq_length",
    ]


def test_a_name_that_is_like_none_is_not_guessed() -> None:
    with pytest.raises(UserError, match=r"unknown key model\.foo\. model has ") as refused:
        load_settings("train", ["model.foo=2"])
    assert "Did you mean" not in str(refused.value)
