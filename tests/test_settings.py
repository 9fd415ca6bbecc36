"""Configuration and the checks on it: values, types, unknown keys, impossible combinations."""

from pathlib import Path

import pytest
import yaml

from nemo_bt.checkpoints import check_same_plan
from nemo_bt.checks import check_model_vocabulary, check_settings, vocab_rows
from nemo_bt.config import dump_settings, load_settings
from nemo_bt.errors import UserError
from nemo_bt.settings import Settings

NEEDED = ["exp_manager.explicit_log_dir=run", "model.data.train=a.parquet", "model.tokenizer.type=tok"]
SMALL = ["model=llama_4x256", *NEEDED]


def load(*overrides: str) -> Settings:
    settings = load_settings("train", [*SMALL, *overrides])
    check_settings(settings)
    return settings


def test_nemo_names_reach_the_settings() -> None:
    settings = load("model.optim.lr=3e-6", "trainer.precision=32", "model.data.train=[a.parquet,b.parquet]")
    assert settings.model.optim.lr == 3e-6
    assert settings.trainer.precision == "32"
    assert settings.model.data.train == ["a.parquet", "b.parquet"]
    assert (settings.model.num_layers, settings.model.hidden_size) == (4, 256)


def test_dumped_settings_load_again(tmp_path: Path) -> None:
    settings = load("+model.data.validation.hh=[x.parquet,y.parquet]")
    (tmp_path / "mine.yaml").write_text(dump_settings(settings))
    assert load_settings("mine", [], config_dir=str(tmp_path)) == settings


def test_a_folder_of_ones_own_builds_on_the_shipped_configurations(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [train, _self_]\ntrainer: {max_steps: 7}\n")
    settings = load_settings("mine", SMALL, config_dir=str(tmp_path))
    assert (settings.trainer.max_steps, settings.model.hidden_size) == (7, 256)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.device=2"], r"unknown key trainer\.device\. Did you mean trainer\.devices\?"),
        (["+model.zzzzzzzz=2"], r"unknown key model\.zzzzzzzz\. nemo_bt/settings\.py lists all keys"),
        (["trainer.devices=two"], r"trainer\.devices: Input should be a valid integer.*got 'two'"),
        (["model.optim.lr=fast"], r"model\.optim\.lr: Input should be a valid number.*got 'fast'"),
        (["model=nothing"], r"Could not find 'model/nothing'"),
        (["trainer.devices=["], r"\["),
        (["model.data.train=5"], r"model\.data\.train: Input should be a valid list"),
        (["model.data.validation=x.parquet"], r"model\.data\.validation: Input should be a valid dictionary"),
        (["+model.data.validation.hh=3"], r"model\.data\.validation\.hh: Input should be a valid list"),
        (["model.data=null"], r"model\.data: expected a section of keys, got None"),
        (["~model.data.train"], r"model\.data\.train: Input should be a valid list"),
    ],
)
def test_a_mistake_in_an_override_is_explained(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_settings("train", [*SMALL, *overrides])


def test_a_value_that_has_to_be_given_is_named() -> None:
    with pytest.raises(UserError, match=r"model\.data\.train: expected a value, got none"):
        load_settings("train", ["exp_manager.explicit_log_dir=x"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.tensor_model_parallel_size=3", "trainer.devices=3"],
            r"num_attention_heads=8 is not a multiple of .*=3",
        ),
        (["model.tensor_model_parallel_size=8", "trainer.devices=8"], r"num_query_groups=4 is not a multiple of .*=8"),
        (["model.pipeline_model_parallel_size=3", "trainer.devices=3"], r"num_layers=4 is not a multiple of .*=3"),
        (["model.num_query_groups=3"], r"num_attention_heads=8 is not a multiple of model\.num_query_groups=3"),
        (
            ["trainer.devices=3", "model.tensor_model_parallel_size=2"],
            r"world size 3 \(trainer\.devices=3 x trainer\.num_nodes=1\) is not a multiple of 2",
        ),
        (["model.sequence_parallel=true"], r"sequence_parallel=true needs .*tensor_model_parallel_size > 1, got 1"),
        (["trainer.devices=2", "model.global_batch_size=1"], r"global_batch_size=1 pairs over 2 data-parallel ranks"),
        (["trainer.accelerator=tpu"], r"trainer\.accelerator: expected one of auto, gpu, cpu, got tpu"),
        (["trainer.devices=0"], r"trainer\.devices: expected more than 0, got 0"),
        (["trainer.max_steps=0"], r"trainer\.max_steps: expected 1 or more, or -1, got 0"),
        (["trainer.val_check_interval=1.5"], r"expected an int, or a fraction of the run, got 1\.5"),
        (["trainer.limit_val_batches=0.5"], r"limit_val_batches: expected an int, 0\.0 or 1\.0, got 0\.5"),
        (["model.optim.lr=nan"], r"model\.optim\.lr: expected more than 0, got nan"),
        (["model.optim.sched.min_lr=1"], r"min_lr: expected 0 to lr=9e-06, got 1\.0"),
        (["trainer.gradient_clip_val=-1"], r"gradient_clip_val: expected 0 or more, got -1"),
        (["model.data.max_drop_fraction=7"], r"max_drop_fraction: expected \[0, 1\], got 7"),
        (["exp_manager.checkpoint_callback_params.save_last_n=-1"], r"save_last_n: expected 0 or more, got -1"),
        (["exp_manager.name=a/b"], r"exp_manager\.name: expected a file name, got 'a/b'"),
        (["model.num_query_groups=0"], r"model\.num_query_groups: expected 1 or more, got 0"),
        (["model.hidden_size=72"], r"hidden_size=72 is not a multiple of model\.num_attention_heads x 2=16"),
        (["model.loss.label_smoothing=0.5"], r"label_smoothing: expected \[0, 0\.5\), got 0\.5"),
        (["model.optim.betas=[0.9]"], r"betas: expected two numbers in \[0, 1\)"),
        (["model.optim.betas=[1.5,2]"], r"betas: expected two numbers in \[0, 1\)"),
        (["model.data.train=[]"], r"model\.data\.train: expected at least one parquet file"),
        (["+model.data.validation.train=x"], r"a set cannot be named 'train'"),
        (["model.tokenizer.type=null"], r"model\.tokenizer\.type: expected a tokenizer folder"),
    ],
)
def test_impossible_combinations_show_the_equation(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(*overrides)


def test_a_missing_checkpoint_is_named() -> None:
    settings = load_settings("train", [*NEEDED, "model.restore_from_path=/nowhere"])
    with pytest.raises(UserError, match=r"expected a \.nemo directory with context/model\.yaml"):
        check_settings(settings)


def test_a_run_needs_a_model() -> None:
    settings = load_settings("train", NEEDED)
    with pytest.raises(UserError, match=r"nothing to train: .*model\.num_layers"):
        check_settings(settings)


RESTORED = {
    "num_layers": 4,
    "hidden_size": 64,
    "ffn_hidden_size": 160,
    "num_attention_heads": 4,
    "num_query_groups": None,
    "kv_channels": 16,
    "vocab_size": 384,
    "layernorm_epsilon": 1e-5,
    "rotary_base": 10000,
    "init_method_std": 0.02,
}


def write_context(folder: Path, config: object, target: str) -> None:
    (folder / "context").mkdir(exist_ok=True)
    (folder / "context" / "model.yaml").write_text(yaml.safe_dump({"_target_": target, "config": config}))


@pytest.mark.parametrize(
    ("config", "target", "message"),
    [
        (None, "nemo_bt.model.reward_model.RewardModel", r"expected a \.nemo directory with context/model\.yaml"),
        (RESTORED, "nemo.collections.llm.LlamaModel", r"expected a reward model, found nemo\.collections\.llm"),
        (RESTORED | {"qk_layernorm": True}, "nemo_bt.model.reward_model.RewardModel", r"has {'qk_layernorm': True}"),
    ],
)
def test_a_checkpoint_that_cannot_be_trained_is_refused(
    tmp_path: Path, config: object, target: str, message: str
) -> None:
    settings = restored(tmp_path)
    write_context(tmp_path, config, target)
    with pytest.raises(UserError, match=message):
        check_settings(settings)


def restored(tmp_path: Path, *overrides: str) -> Settings:
    write_context(tmp_path, RESTORED, "nemo_bt.model.reward_model.RewardModel")
    return load_settings("train", [*NEEDED, f"model.restore_from_path={tmp_path}", *overrides])


def test_a_checkpoints_architecture_is_checked_against_the_layout(tmp_path: Path) -> None:
    settings = restored(tmp_path, "model.tensor_model_parallel_size=8", "trainer.devices=8")
    with pytest.raises(UserError, match=r"num_attention_heads=4 is not a multiple of .*=8"):
        check_settings(settings)


def test_a_checkpoints_architecture_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.num_layers and model\.restore_from_path are both set"):
        check_settings(restored(tmp_path, "model.num_layers=2"))
    with pytest.raises(UserError, match=r"model\.rotary_base and model\.restore_from_path are both set"):
        check_settings(restored(tmp_path, "model.rotary_base=5e5"))


def test_more_tokens_than_embedding_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer has 500 tokens, embedding 384 rows"):
        check_model_vocabulary(restored(tmp_path), 500)
    with pytest.raises(UserError, match=r"tokenizer has 500 tokens, embedding 400 rows"):
        check_model_vocabulary(load("model.vocab_size=400"), 500)


def test_tensor_parallelism_has_to_divide_the_vocabulary() -> None:
    settings = load("model.vocab_size=501", "model.tensor_model_parallel_size=2", "trainer.devices=2")
    with pytest.raises(UserError, match=r"vocab_size=501 is not a multiple of .*=2"):
        check_model_vocabulary(settings, 500)


def test_vocabulary_is_rounded_up_alike_for_every_layout() -> None:
    assert vocab_rows(None, 319) == 384
    assert vocab_rows(None, 384) == 384
    assert vocab_rows(400, 319) == 400


def test_yaml_that_does_not_parse_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("trainer: [")
    with pytest.raises(UserError, match=r"mine\.yaml"):
        load_settings("mine", SMALL, config_dir=str(tmp_path))


def test_a_resumed_run_has_to_visit_the_same_pairs(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump_settings(load()))
    check_same_plan(tmp_path / "config.yaml", load("model.optim.lr=1e-7", "trainer.max_steps=9"))
    check_same_plan(tmp_path / "other.yaml", load("model.global_batch_size=32"))
    with pytest.raises(UserError, match=r"model\.global_batch_size=32, but the run to resume had 64"):
        check_same_plan(tmp_path / "config.yaml", load("model.global_batch_size=32"))
