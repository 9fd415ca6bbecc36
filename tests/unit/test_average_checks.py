"""Models without a mean are refused by name before anything is written; what does not carry over is told."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from converters.export_files import told_of_model, write_config
from nemo_bt import average
from nemo_bt.checkpoint.manifest import facts_of, files_of, write_manifest
from nemo_bt.cli.main import run
from nemo_bt.errors import UserError
from nemo_bt.pretrained.mean import averaged_from, check_same_tensors
from nemo_bt.pretrained.nemo_metadata import write_facts
from nemo_bt.pretrained.resolve import find_pretrained
from tests.support.averaged import as_nemo, averaged
from tests.support.hf_models import save
from tests.support.tensors import Tensors

VALIDATION = {
    "step": 1.0, "val/a/pairs": 4.0, "val/a/accuracy": 0.5, "val/a/loss": 0.7, "val/a/margin": 0.1, "val/a/ties": 0.0,
    "val/a/reward_chosen": 1.0, "val/a/reward_rejected": 0.5, "val/a/reward_std": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def one(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("qwen3", tmp_path_factory.mktemp("average") / "one", tokenizer=tokenizer)


def refused(*argv: Any) -> str:
    with pytest.raises(UserError) as error:
        averaged(*argv)
    return str(error.value)


@pytest.mark.parametrize(
    ("shape", "changed", "message"),
    [
        ("llama3.1, head size", {}, "model_type: expected qwen3 as in {one}, found llama."),
        ("qwen3", {"num_hidden_layers": 3}, "num_layers: expected 4 as in {one}, found 3."),
        ("qwen3", {"intermediate_size": 128}, "ffn_size: expected 96 as in {one}, found 128."),
        ("qwen3", {"rms_norm_eps": 1e-5}, "norm_epsilon: expected 1e-06 as in {one}, found 1e-05."),
        ("qwen3", {"rope_theta": 5e5}, "rotary_frequencies[1]: expected 0.56234"),
        ("qwen3", {"num_key_value_heads": 4}, "heads: expected HeadShape(num_heads=4, num_groups=2, head_size=32)"),
        (
            "qwen3",
            {"reward_attributes": {"humour": 0.5}},
            "reward_attributes: expected none as in {one}, found humour=0.5.",
        ),
    ],
    ids=["family", "layers", "width", "epsilon", "rotation", "heads", "attributes"],
)
def test_the_first_field_in_which_architectures_differ_is_named(
    shape: str, changed: dict[str, Any], message: str, one: Path, tokenizer: Any, tmp_path: Path
) -> None:
    other = save(shape, tmp_path / "other", tokenizer=tokenizer, **changed)
    assert refused(one, other, "--output", tmp_path / "mean").startswith(f"{other}: {message.format(one=one)}")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_positions_and_what_else_computes_nothing_may_differ(one: Path, tokenizer: Any, tmp_path: Path) -> None:
    other = save("qwen3", tmp_path / "other", tokenizer=tokenizer, max_position_embeddings=1024, initializer_range=0.2)
    averaged(one, other, "--output", tmp_path / "mean")
    assert find_pretrained(str(tmp_path / "mean")).hf_config["max_position_embeddings"] == 512


@pytest.mark.parametrize(
    ("content", "special", "message"),
    [
        ("tea", None, "digest of the tokenizer: expected"),
        (None, {"unk_token": "<other>"}, "unk_token of the tokenizer: expected"),
    ],
    ids=["vocabulary", "special token"],
)
def test_another_tokenizer_is_refused(
    content: str | None, special: dict[str, str] | None, message: str, one: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(one, tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(one)
    if special:
        tokenizer.add_special_tokens(special)
    else:
        tokenizer.add_tokens([f"<{content}>"])
    tokenizer.save_pretrained(other)
    said = refused(one, other, "--output", tmp_path / "mean")
    assert said.startswith(f"{other}: {message}")
    assert f"as in {one}, found" in said
    assert not (tmp_path / "mean").exists()


def test_a_model_without_a_head_or_a_tokenizer_is_refused(one: Path, tokenizer: Any, tmp_path: Path) -> None:
    base = save("qwen3", tmp_path / "base", classifier=False, tokenizer=tokenizer)
    said = refused(one, base, "--output", tmp_path / "mean")
    assert said == (
        f"{base}: expected a reward model, found a base model without a reward head. A new head is random: train it "
        "first."
    )
    bare = save("qwen3", tmp_path / "bare")
    said = refused(one, bare, "--output", tmp_path / "mean")
    assert said.startswith(f"the tokenizer of {bare}: {bare} holds no tokenizer that loads")


def test_another_padding_of_the_embedding_is_refused() -> None:
    sources = {name: Tensors({"x": torch.zeros(rows, 2)}) for name, rows in (("a", 384), ("b", 352))}
    with pytest.raises(UserError, match=r"^b: x: expected shape \[384, 2\] as in a, found \[352, 2\]\.$"):
        check_same_tensors(sources, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "1"], "expected 2 numbers, one a model, found 1: 1."),
        (["--weights", "-0.5", "1.5"], "expected numbers above 0, found -0.5 1.5."),
        (["--weights", "0", "1"], "expected numbers above 0, found 0 1."),
        (["--weights", "nan", "1"], "expected numbers above 0, found nan 1."),
        (["--weights", "inf", "1"], "expected numbers above 0, found inf 1."),
        (["--weights", "0.4", "0.599998"], "expected a sum of 1, found 0.999998 of 0.4 0.599998. In the same ratio: "),
        (["--weights", "2", "6"], "expected a sum of 1, found 8 of 2 6. In the same ratio: 0.25 0.75."),
        (["--last", "2"], "--last: expected a number from 1 and the log directory of one run, found --last 2 and "),
    ],
)
def test_options_that_say_no_mean_are_refused(options: list[str], message: str, one: Path, tmp_path: Path) -> None:
    assert message in refused(one, one, *options, "--output", tmp_path / "mean")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_were_rounded_when_they_were_typed_are_taken(one: Path, tmp_path: Path) -> None:
    averaged(one, one, one, "--weights", *[0.3333333] * 3, "--output", tmp_path / "mean")
    assert averaged_from(find_pretrained(str(tmp_path / "mean")))[0][1] == 0.3333333


def test_a_mistake_is_one_line_and_status_2(one: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["average", str(one), "--weights", "a", "--output", str(tmp_path / "mean")])
    assert ended.value.code == 2
    assert capfd.readouterr().err == "error: argument --weights: invalid float value: 'a'\n"


def test_an_output_that_is_there_stays(one: Path, tmp_path: Path) -> None:
    (tmp_path / "mean").write_text("kept")
    assert "exists. Remove it or choose another name" in refused(one, "--output", tmp_path / "mean")
    assert (tmp_path / "mean").read_text() == "kept"


def test_weights_that_end_half_way_leave_nothing(one: Path, tmp_path: Path) -> None:
    """The end of the weights' file is gone, which shows when the mean has come to it."""
    nemo = as_nemo(one, tmp_path / "a.nemo")
    (file,) = (nemo / "weights").glob("*.distcp")
    file.write_bytes(file.read_bytes()[:-20_000])
    out = tmp_path / "out"
    assert "cannot be read" in refused(one, nemo, "--output", out / "mean")
    assert list(out.iterdir()) == []


def checkpoints(one: Path, run: Path, steps: tuple[int, ...]) -> list[Path]:
    (run / "checkpoints").mkdir(parents=True)
    made = [as_nemo(one, run / "checkpoints" / f"reward-step{step}.nemo") for step in steps]
    for path in made:
        write_manifest(path, facts_of(path, files_of(path)))
    return made


def test_the_last_checkpoints_of_a_run_are_those_that_are_whole(one: Path, tmp_path: Path) -> None:
    *_, damaged = checkpoints(one, tmp_path / "run", (9, 10, 100, 110))
    (damaged / "context" / "hf_config.json").write_text("{}")
    (tmp_path / "run" / "checkpoints" / ".reward-step120.nemo.unfinished").mkdir()
    options = ("--weights", "0.25", "0.75", "--output", tmp_path / "mean")
    said = averaged(tmp_path / "run", "--last", "2", *options)
    assert "mean of 0.25 * reward-step10.nemo + 0.75 * reward-step100.nemo" in said
    assert f"{damaged} is damaged: context/hf_config.json has 2 bytes" in said
    assert "it is passed over" in said
    said = refused(tmp_path / "run", "--last", "4", "--output", tmp_path / "other")
    assert said.startswith(f"{tmp_path / 'run'}: expected 4 whole checkpoints, found 3; {damaged} is damaged: ")
    said = refused(tmp_path / "run", "--output", tmp_path / "other")
    assert said == f"{tmp_path / 'run'} is the log directory of a run: name its checkpoints, or add --last N."


def test_text_settings_stay_where_all_have_them_and_statistics_do_not(one: Path, tmp_path: Path) -> None:
    first, second = (
        as_nemo(one, tmp_path / f"{name}.nemo", "model.data.join=' '", *more, validation=VALIDATION)
        for name, more in (("a", []), ("b", ["model.data.chat_template_date=2024-07-26"]))
    )
    said = averaged(first, second, "--output", tmp_path / "mean")
    assert f'model.data.chat_template_date is null in {first}, "2024-07-26" in {second}: the mean keeps none' in said
    assert "reward_statistics (mean and deviation of rewards on validation) do not carry over" in said
    of_mean = [{"model": name, "weight": 0.5} for name in ("a.nemo", "b.nemo")]
    assert told_of_model(find_pretrained(str(first))).keys() == {"reward_statistics", "text_settings"}
    assert told_of_model(find_pretrained(str(tmp_path / "mean"))) == {
        "averaged_from": of_mean,
        "text_settings": {"join": " "},
    }
    card = (tmp_path / "mean" / "README.md").read_text()
    assert "| model | weight |\n|---|---|\n| `a.nemo` | 0.5 |\n| `b.nemo` | 0.5 |\n" in card
    assert "## Training" not in card
    again = averaged(tmp_path / "mean", tmp_path / "mean", "--output", tmp_path / "again")
    assert "do not carry over" not in again
    assert averaged_from(find_pretrained(str(tmp_path / "again"))) == [(str(tmp_path / "mean"), 0.5)] * 2


def test_what_folders_say_of_one_model_is_not_said_of_the_mean(one: Path, tmp_path: Path) -> None:
    statistics = {"mean": 1.0, "std": 1.0, "responses": 2, "step": 1}
    for name, join in (("a", " "), ("b", "-")):
        config = json.loads((shutil.copytree(one, tmp_path / name) / "config.json").read_text())
        config |= {"reward_statistics": statistics, "text_settings": {"join": join}, "averaged_from": []}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    said = averaged(tmp_path / "a", tmp_path / "b", "--output", tmp_path / "mean")
    assert "do not carry over" in said
    assert told_of_model(find_pretrained(str(tmp_path / "mean"))).keys() == {"averaged_from"}


def test_another_chat_template_is_told(one: Path, tmp_path: Path) -> None:
    other = shutil.copytree(one, tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(one)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(other)
    said = averaged(one, other, "--output", tmp_path / "mean")
    assert f"the chat template of {other} is another one: the mean has that of {one}" in said
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "mean").chat_template
        == AutoTokenizer.from_pretrained(one).chat_template
    )


def test_a_model_that_was_trained_from_a_mean_is_none(one: Path, tmp_path: Path) -> None:
    averaged(one, "--output", tmp_path / "mean")
    nemo = as_nemo(tmp_path / "mean", tmp_path / "x.nemo")
    assert averaged_from(find_pretrained(str(nemo))) == [("one", 1.0)]
    config = json.loads((tmp_path / "mean" / "config.json").read_text())
    write_facts(nemo / "context", config, {"step": 1})
    assert averaged_from(find_pretrained(str(nemo))) == []
    write_config(tmp_path, config, 0, torch.float32)
    assert "averaged_from" not in json.loads((tmp_path / "config.json").read_text())
    write_facts(nemo / "context", config | {"averaged_from": [{"model": "a"}]}, {})
    with pytest.raises(UserError, match=r"averaged_from of its config\.json, .* not as nemo_bt writes it \(KeyError"):
        averaged_from(find_pretrained(str(nemo)))


def test_a_program_averages(one: Path, tmp_path: Path) -> None:
    assert average([one, one], tmp_path / "mean", "--dtype=bf16", weights=[0.5, 0.5]) == tmp_path / "mean"
    with pytest.raises(UserError, match=r"--last: expected a number from 1"):
        average([one], tmp_path / "other", last=0)
