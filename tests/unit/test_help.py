"""What the command line tells of itself: help, settings, configurations, and what can be typed next."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from nemo_bt.cli.arguments import command_line, parse
from nemo_bt.cli.examples import EXAMPLES
from nemo_bt.cli.kinds import kind_of
from nemo_bt.cli.main import run
from nemo_bt.config.load import load_settings, load_settings_of
from nemo_bt.config.messages import all_keys
from nemo_bt.errors import UserError

RUN = [
    "model=llama_4x256",
    "model.data.train=a.parquet",
    "model.tokenizer.type=tok",
    "exp_manager.explicit_log_dir=run",
]


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert run(argv) == 0
    return capsys.readouterr().out


def test_help_settings_has_every_key_with_default_values_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "help", "settings")
    keys = {line.split(" = ")[0] for line in text.splitlines() if not line.startswith(" ")}
    for command in ("train", "plan", "score", "evaluate", "label", "serve"):
        assert {".".join(path) for path in all_keys(kind_of(command))} <= keys
    assert "model.data.train=[{path: ..., fraction: ...}]" in keys
    assert "model.optim.lr = 9e-06  [number, more than 0]\n    Largest learning rate.\n" in text
    assert "serve.port = 8000  [integer, [0, 65535]]  (serve)\n" in text


def test_help_settings_finds_by_words_and_by_the_names_of_other_trainers(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "help", "settings", "largest", "RATE").startswith("model.optim.lr = 9e-06")
    text = shown(capsys, "help", "settings", "per_device_train_batch_size")
    assert text.startswith("per_device_train_batch_size, of another trainer, is here model.global_batch_size=..., ")
    assert "Pairs per optimizer step" in text
    assert run(["help", "settings", "no such thing"]) == 2
    assert "no setting has no such thing in its key or meaning" in capsys.readouterr().err


def test_help_configs_lists_configurations_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "help", "configs")
    for line in (
        "    recipe/rlhflow_llama3_8b  RLHFlow's FsfairX-LLaMA3-RM-v0.1",
        "Choices of cluster, as cluster=a100:",
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize("command", EXAMPLES)
def test_each_command_has_a_help_with_examples_that_it_takes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["help", command])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for example in EXAMPLES[command]:
        assert f"  {example}\n" in text
        args = parse(example.split()[example.split().index("nemo-bt") + 1 :])
        assert args.command == command
        if hasattr(args, "cfg"):
            load_settings_of(kind_of(getattr(args, "kind", command)), args.config_name, args.overrides, args.config_dir)


def test_every_command_has_examples() -> None:
    (commands,) = (action.choices for action in command_line()._actions if isinstance(action.choices, dict))
    assert commands.keys() == EXAMPLES.keys()


def test_cfg_prints_a_configuration_that_is_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "train", *RUN, "model.optim.lr=3e-5", "--cfg")
    (tmp_path / "mine.yaml").write_text(text)
    assert load_settings("mine", config_dir=str(tmp_path)) == load_settings("train", [*RUN, "model.optim.lr=3e-5"])
    assert yaml.safe_load(shown(capsys, "plan", "cluster=h200", "--cfg"))["cluster"]["name"] == "h200"
    assert not Path("run").exists()


def test_version_names_what_it_builds_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--version"])
    text = capsys.readouterr().out
    assert text.startswith("nemo_bt 0.")
    assert all(name in text for name in ("nemo_toolkit 2.", "megatron-core 0.", "torch 2.", "Python 3."))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--learning_rate", "1e-5"],
            "unknown option --learning_rate: settings have no dashes, type model.optim.lr=1e-5",
        ),
        (["--learning-rate=1e-5"], "type model.optim.lr=1e-5"),
        (["--micro_batch_size", "4"], "settings have no dashes, type model.data.tokens_per_micro_batch=...\n"),
        (["--report_to", "wandb"], "type exp_manager.create_wandb_logger=...\n"),
        (["--bf16"], "settings have no dashes, type trainer.precision=bf16-mixed"),
        (["--packing", "true"], "unknown option --packing: leave it out, pairs are always packed, exactly"),
        (["--model.optim.lr", "1"], "settings have no dashes, type model.optim.lr=1"),
        (["--nonsense"], "unknown option --nonsense\n"),
        (["--seed", "1"], "unknown option --seed: settings have no dashes, type trainer.seed=1\n"),
        (["--max-steps", "4", "--bf16"], "type trainer.max_steps=4\nunknown option --bf16: settings have no dashes"),
        (["prefs/a.jsonl"], "expected key=value, got prefs/a.jsonl: type model.data.train=prefs/a.jsonl\n"),
    ],
)
def test_options_of_other_trainers_are_translated(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["train", *words])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        (
            "halos_llama3_8b",
            [],
            r"no configuration halos_llama3_8b\. Did you mean recipe/halos_llama3_8b\?\nThere are ",
        ),
        ("quikstart", [], r"Did you mean quickstart\?"),
        (
            "train",
            ["recipe=rlhflow_llama3_8b"],
            r"a recipe is a whole configuration\. Type --config-name recipe/rlhflow_ll",
        ),
        ("train", ["model=Qwen/Qwen3-8B"], r"expected one of gemma2_27b, .*model\.restore_from_path=Qwen/Qwen3-8B"),
        ("train", ["data=my.jsonl"], r"expected one of helpsteer2, .*model\.data\.train=my\.jsonl"),
        ("plan", ["cluster=v100"], r"cluster=v100: expected one of a100, b200, h100, h200\."),
    ],
)
def test_what_there_is_is_listed_where_something_else_is_asked_for(
    config: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_settings_of(kind_of(config), config, overrides)


def test_choices_need_no_plus() -> None:
    for typed in ("data=helpsteer3", "+data=helpsteer3"):
        (source,) = load_settings("train", [*RUN[:1], *RUN[2:], typed]).model.data.train
        assert source.path == ["nvidia/HelpSteer3"]
    assert load_settings("train", [*RUN, "+trainer.max_steps=3"]).trainer.max_steps == 3


def test_the_file_of_a_users_own_configuration_is_named_rightly(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("defaults: [train, _self_]\n")
    with pytest.raises(UserError, match=r"A file of your own: --config-dir \. --config-name mine"):
        load_settings("./mine.yaml")
    with pytest.raises(UserError, match="--config-dir: there is no folder nowhere"):
        load_settings("mine", config_dir="nowhere")
