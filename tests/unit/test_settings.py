"""Configuration and the checks on it: values, types, unknown keys, impossible combinations."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.config.data import DataSettings
from nemo_bt.config.load import dump_settings, load_settings
from nemo_bt.config.model import Settings
from nemo_bt.errors import UserError
from nemo_bt.pretrained.architecture import padded_vocab
from nemo_bt.training.checks import check_settings, check_vocabulary, run_architecture

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
    assert [source.path for source in settings.model.data.train] == [["a.parquet"], ["b.parquet"]]
    assert (settings.model.num_layers, settings.model.hidden_size) == (4, 256)


def test_dumped_settings_load_again(tmp_path: Path) -> None:
    settings = load("+model.data.validation.hh=[x.parquet,y.parquet]")
    (tmp_path / "mine.yaml").write_text(dump_settings(settings))
    assert load_settings("mine", [], config_dir=str(tmp_path)) == settings


def test_new_names_need_no_plus() -> None:
    key = "model.data.validation"
    for override in (f"{key}.hh=x", f"{key}={{hh: x}}", f"+{key}.hh=x"):
        assert load(override).model.data.validation["hh"][0].path == ["x"]


def test_a_source_has_the_keys_that_stand_beside_it_and_its_own() -> None:
    own = {"path": "y", "prompt_key": "p", "pairs": {"seed": 4}}
    data = DataSettings(prompt_key="q", pairs={"mode": "all_pairs", "seed": 3}, train=["x", own])
    first, second = data.train
    assert (first.prompt_key, first.pairs.mode, first.pairs.seed) == ("q", "all_pairs", 3)
    assert (second.prompt_key, second.pairs.mode, second.pairs.seed) == ("p", "all_pairs", 4)
    assert replace(data, prompt_key="z").train == data.train


def test_every_setting_has_a_default_and_a_meaning() -> None:
    assert Settings() == load_settings("train")
    assert Settings().model.optim.lr == 9e-6


def test_a_folder_of_ones_own_builds_on_the_shipped_configurations(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [train, _self_]\ntrainer: {max_steps: 7}\n")
    settings = load_settings("mine", SMALL, config_dir=str(tmp_path))
    assert (settings.trainer.max_steps, settings.model.hidden_size) == (7, 256)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.device=2"], r"unknown key trainer\.device\. Did you mean trainer\.devices\?"),
        (["devices=1"], r"^unknown key devices\. Did you mean trainer\.devices\?"),
        (["lr=1"], r"^unknown key lr\. Did you mean model\.optim\.lr\?"),
        (["exp_manager.lr=1"], r"^unknown key exp_manager\.lr\. Did you mean model\.optim\.lr\?"),
        (["trainr.devices=1"], r"^unknown key trainr\.devices\. Did you mean trainer\.devices\?"),
        (["data.train=x"], r"^unknown key data\.train\. Did you mean model\.data\.train\?"),
        (["zzz={a: 1}"], r"^unknown key zzz\.a\. The top has trainer, model, exp_manager\.$"),
        (["trainer=5"], r"^trainer: expected a section of keys, got 5\.$"),
        (["trainer=null"], r"^trainer: expected a section of keys, got null\.$"),
        (["+model.zzzzzzzzzzzzzzzz=2"], r"unknown key model\.zzzzzzzzzzzzzzzz\. model has .*global_batch_size"),
        (["trainer.devices=two"], r"trainer\.devices: Input should be a valid integer.*got 'two'"),
        (["model.optim.lr=fast"], r"model\.optim\.lr: Input should be a valid number.*got 'fast'"),
        (["model=nothing"], r"^model=nothing: expected one of gemma2_27b, .*llama_quickstart"),
        (["trainer.devices=["], r"\["),
        (["model.data.train=5"], r"model\.data\.train: Input should be a valid list"),
        (["model=null"], r"^model=null: expected one of gemma2_27b"),
        (["model.data.train=[{pth: x}]"], r"unknown key model\.data\.train\[0\]\.pth\. Did you mean .*\[0\]\.path\?"),
        (
            ["model.data.train=[{fraction: 0.5}]"],
            r"^model\.data\.train\[0\]\.path: expected a value, got none\. Type model\.data\.train={",
        ),
        (["model.data.train=[{path: []}]"], r"train\[0\]\.path: expected at least one value, got \[\]"),
        (["model.data.pairs.seed=-1"], r"^model\.data\.pairs\.seed: expected [^\n]*$"),
        (["model.data.score_key=a,b"], r"Ambiguous value for argument 'model\.data\.score_key=a,b'"),
        (["model.data.train=[{path: x, pairs: {most: 2}}]"], r"unknown key .*pairs\.most\. .*pairs has mode, max_"),
        (["model.data.train=[{path: x, fraction: big}]"], r"train\[0\]\.fraction: Input should be a valid number"),
        (["model.data.train=[a/x.parquet, b/x.parquet]"], r"several sources are called 'x'\. Give them names"),
        (["model.data.validation=5"], r"model\.data\.validation: expected a section of keys, got 5\."),
        (["model.data.validation=[a/hh.jsonl,b/hh.jsonl]"], r"two validation sets are called 'hh'\. Give names: "),
        (["+model.data.validation.hh=3"], r"model\.data\.validation\.hh: Input should be a valid list"),
        (["model.data=null"], r"model\.data: expected a section of keys, got None"),
        (["~model.data.trained"], r"Could not delete"),
        (["model.data.train=null"], r"model\.data\.train: Input should be a valid list"),
        (["trainer.devices=x", "trainer.nodes=2"], r"trainer\.devices: Input[^\n]*\nunknown key trainer\.nodes\."),
    ],
)
def test_a_mistake_in_an_override_is_explained(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_settings("train", [*SMALL, *overrides])


def test_a_value_that_has_to_be_given_is_named() -> None:
    with pytest.raises(UserError, match=r"model\.data\.train: expected at least one source of pairs, got none"):
        check_settings(load_settings("train", ["exp_manager.explicit_log_dir=x"]))
    with pytest.raises(UserError, match=r"exp_manager\.explicit_log_dir: expected a folder to write to, got none"):
        check_settings(load_settings("train", ["model.data.train=x", "model.tokenizer.type=t"]))


@pytest.mark.parametrize("overrides", ["trainer.devices=1", [1]])
def test_overrides_are_a_list_of_texts(overrides: Any) -> None:
    with pytest.raises(UserError, match=r"overrides: expected a list of texts, key=value, got"):
        load_settings("train", overrides)


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
        (["exp_manager.max_time_per_run=4:00"], r"max_time_per_run: expected days:hours:minutes:seconds, got '4:00'"),
        (["exp_manager.checkpoint_callback_params.mode=least"], r"params\.mode: expected one of min, max, got least"),
        (
            ["exp_manager.checkpoint_callback_params.save_top_k=1"],
            r"params\.monitor: expected a metric of a validation set, of which this run has none, got None",
        ),
        (
            [
                "exp_manager.create_early_stopping_callback=true",
                "exp_manager.early_stopping_callback_params.monitor=val/hh/los",
                "+model.data.validation.hh=hh.parquet",
            ],
            r"params\.monitor: expected a metric of a validation set, val/hh/loss, got val/hh/los",
        ),
        (["model.optim.sched.min_lr=1"], r"min_lr: expected 0 to lr=9e-06, got 1\.0"),
        (["exp_manager.name=a/b"], r"exp_manager\.name: expected a file name, got 'a/b'"),
        (["model.hidden_size=72"], r"hidden_size=72 is not a multiple of model\.num_attention_heads x 2=16"),
        (["model.optim.betas=[0.9]"], r"betas: expected two numbers in \[0, 1\)"),
        (["model.optim.betas=[1.5,2]"], r"betas: expected two numbers in \[0, 1\)"),
        (["model.data.train=[]"], r"model\.data\.train: expected at least one source of pairs"),
        (["+model.data.validation.train=x"], r"a set cannot be named 'train'"),
        (["+model.data.validation.x=[]"], r"validation\.x: expected at least one source of pairs"),
        (["model.data.train=[{path: x, fraction: 1, count: 2}]"], r"train\[0\]: fraction and count are both set"),
        (["model.data.train=[{path: x, fraction: 1.5}]"], r"train\[0\]\.fraction: expected \(0, 1\], got 1\.5"),
        (["model.data.train=[{path: x, count: 0}]"], r"train\[0\]\.count: expected \(0, 2147483648\), got 0"),
        (["model.data.train=[{path: x, weight: -1}]"], r"train\[0\]\.weight: expected 0 or more, got -1"),
        (["model.data.pairs.mode=some"], r"pairs\.mode: expected one of best_vs_worst, .*, got some"),
        (["model.data.length_policy=cut"], r"length_policy: expected one of drop, truncate_prompt_left, error"),
        (["model.tokenizer.type=null"], r"model\.tokenizer\.type: expected a tokenizer folder"),
    ],
)
def test_impossible_combinations_show_the_equation(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(*overrides)


def test_an_origin_that_is_not_there_is_named() -> None:
    settings = load_settings("train", [*NEEDED, "model.restore_from_path=/nowhere"])
    with pytest.raises(UserError, match=r"^model\.restore_from_path: /nowhere does not exist, nor is it organisation"):
        check_settings(settings)


def test_a_run_needs_a_model() -> None:
    settings = load_settings("train", NEEDED)
    with pytest.raises(UserError, match=r"nothing to train: .*model\.num_layers"):
        check_settings(settings)


RESTORED = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "vocab_size": 384,
}


def restored(tmp_path: Path, *overrides: str) -> Settings:
    (tmp_path / "config.json").write_text(json.dumps(RESTORED))
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
    for settings, rows in ((restored(tmp_path), 384), (load("model.vocab_size=400"), 400)):
        architecture = run_architecture(settings, check_settings(settings), 500)
        check_vocabulary(architecture, rows - 1, "pad token 'p'")
        with pytest.raises(UserError, match=rf"pad token 'p' has id {rows}, the embedding {rows} rows"):
            check_vocabulary(architecture, rows, "pad token 'p'")


def test_an_embedding_has_a_row_for_every_token_and_divides_over_tensor_parallelism() -> None:
    assert run_architecture(load(), None, 319).vocab_size == 384
    assert [padded_vocab(size) for size in (1, 384, 32001)] == [128, 384, 32128]


def test_experts_under_tensor_parallelism_need_sequence_parallelism(tmp_path: Path) -> None:
    overrides = ("model.tensor_model_parallel_size=2", "trainer.devices=2")
    settings = restored(tmp_path, *overrides)
    (tmp_path / "config.json").write_text(json.dumps(RESTORED | {"model_type": "mixtral", "num_key_value_heads": 4}))
    with pytest.raises(UserError, match=r"8 experts with .*=2 needs model\.sequence_parallel=true"):
        check_settings(settings)


def test_yaml_that_does_not_parse_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("trainer: [")
    with pytest.raises(UserError, match=r"mine\.yaml"):
        load_settings("mine", SMALL, config_dir=str(tmp_path))
