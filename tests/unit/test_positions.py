"""No conversation is trained on or scored beyond the positions of its model, unless that is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_bt.config.length import length_limit
from nemo_bt.config.load import load_settings, load_settings_of
from nemo_bt.config.score import ScoreRun
from nemo_bt.converters.export_files import write_config
from nemo_bt.data.formats.responses import Text
from nemo_bt.data.tokenize.chat_template import load_renderer
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.hf_config import positions_of
from nemo_bt.pretrained.resolve import find_pretrained, with_positions
from nemo_bt.scoring.batch import tokenise
from nemo_bt.scoring.checks import check_score
from nemo_bt.training.checks import check_settings
from nemo_bt.training.prepare import Prepared, prepare
from tests.support.hf_models import save
from tests.support.sources import write

MORE = "model.max_position_embeddings=4096"
BEYOND = (
    r"longer than the 512 positions of the model \(model\.encoder_seq_length=4096; set model\.max_position_embeddings "
    r"if it takes more\)"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    return save("qwen2", tmp_path_factory.mktemp("positions") / "model", tokenizer=tokenizer)


def prepared(model: Path, folder: Path, *overrides: str) -> Prepared:
    """A run on four pairs that fit, and one that does not."""
    rows = [{"prompt": "tea " * n, "chosen": "yes", "rejected": "no"} for n in (1, 2, 3, 4, 600)]
    needed = [f"model.data.train={write(folder / 'rows.jsonl', rows)}", f"model.data.cache_dir={folder / 'cache'}"]
    needed += [f"model.restore_from_path={model}", f"exp_manager.explicit_log_dir={folder / 'run'}"]
    settings = load_settings("train", [*needed, "model.global_batch_size=2", *overrides])
    return prepare(settings, check_settings(settings), Terminal(None))


def test_the_smaller_of_both_counts() -> None:
    assert [length_limit(4096, n).tokens for n in (None, 512, 4096, 8192)] == [4096, 512, 4096, 4096]
    assert length_limit(300, 512).words == "model.encoder_seq_length=300"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"max_position_embeddings": 512, "rope_scaling": None}, 512),
        ({"max_position_embeddings": 512, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 512),
        ({"max_position_embeddings": 512, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 2048),
        (
            {
                "max_position_embeddings": 40960,
                "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
    ],
)
def test_positions_are_those_of_the_configuration(config: dict[str, Any], expected: int | None) -> None:
    assert positions_of(config) == expected


def test_training_drops_what_is_beyond_them(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"rows\.jsonl row 4: 623 tokens \({BEYOND}\)"):
        prepared(model, tmp_path)
    found = prepared(model, tmp_path, "model.data.max_drop_fraction=0.5").sets["train"].accounts[0]
    assert (found.num_kept, dict(found.dropped)) == (4, {"long": 1})
    with pytest.raises(UserError, match=r"expected at most the 512 positions of the model \(.*Raise it, or set"):
        prepared(model, tmp_path, "model.data.length_policy=error")


def test_a_shorter_limit_is_named_alone(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokens \(longer than model\.encoder_seq_length=500\)"):
        prepared(model, tmp_path, "model.encoder_seq_length=500")


def test_what_is_meant_is_trained_and_exported(model: Path, tmp_path: Path) -> None:
    found = prepared(model, tmp_path, MORE, "model.data.tokens_per_micro_batch=8192")
    assert (len(found.sets["train"].epoch), found.architecture.hf_config["max_position_embeddings"]) == (5, 4096)
    write_config(tmp_path, found.architecture.hf_config, 0, torch.float32)
    assert json.loads((tmp_path / "config.json").read_text())["max_position_embeddings"] == 4096


@pytest.mark.parametrize(("overrides", "limit"), [([], 512), ([MORE], 4096), (["model.encoder_seq_length=99"], 99)])
def test_scoring_gives_no_reward_beyond_them(
    model: Path, tmp_path: Path, tokenizer: Any, overrides: list[str], limit: int
) -> None:
    needed = [f"model.restore_from_path={model}", "score.input=x.jsonl", f"score.output={tmp_path / 'y.jsonl'}"]
    run = load_settings_of(ScoreRun, "score", [*needed, *overrides])
    _, pretrained, _ = check_score(run)
    allowed = length_limit(run.model.encoder_seq_length, positions_of(pretrained.hf_config))
    assert allowed.tokens == limit
    texts = [[Text("tea " * n, "a")] for n in (1, 600)]
    refused = tokenise(texts, load_renderer(tokenizer, run.model.data), allowed).refused
    assert {at: error.reason for at, error in refused.items()} == ({} if limit == 4096 else {1: "long"})


def test_frequencies_never_change_with_them(tmp_path: Path) -> None:
    """The advice holds: with the original positions named, the same scaling takes any number."""
    pretrained = find_pretrained(str(save("qwen2.5, yarn", tmp_path / "hf")))
    with pytest.raises(UserError, match=r"frequencies of RoPE scaling 'yarn' depend on it.*change what rope_scaling"):
        with_positions(pretrained, 4096)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    config["rope_scaling"]["original_max_position_embeddings"] = 512
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    assert positions_of(with_positions(find_pretrained(str(tmp_path / "hf")), 4096).hf_config) == 4096
