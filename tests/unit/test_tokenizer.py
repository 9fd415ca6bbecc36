"""Tokenizers and what they make of conversations; the preference set that the project writes itself."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import AutoTokenizer

from nemo_bt.data.synthetic import THINGS, make_pairs
from nemo_bt.data.tokenize.tokenizer import keep_tokenizer, load_tokenizer
from nemo_bt.errors import UserError


def saved(tokenizer: Any, folder: Path, **changes: Any) -> str:
    changed = copy.deepcopy(tokenizer)
    for name, value in changes.items():
        setattr(changed, name, value)
    changed.save_pretrained(folder)
    return str(folder)


def test_a_tokenizer_without_pad_is_refused_unless_one_is_named(tmp_path: Path, tokenizer: Any) -> None:
    folder = saved(tokenizer, tmp_path, pad_token=None)
    with pytest.raises(UserError, match=r"found no pad token\. .*special tokens: <\|pad\|>") as refused:
        load_tokenizer(folder, None)
    assert "Type 'model.tokenizer.pad_token=<|pad|>', or model.tokenizer.pad_token=auto" in str(refused.value)
    assert load_tokenizer(folder, "<|pad|>").pad_token == load_tokenizer(folder, "auto").pad_token == "<|pad|>"
    with pytest.raises(UserError, match=r"Type --pad-token '<\|pad\|>', or --pad-token=auto"):
        load_tokenizer(folder, None, ("--tokenizer", "--pad-token"))


def test_auto_takes_a_special_token_that_nothing_uses(tmp_path: Path, tokenizer: Any) -> None:
    def choice(*names: str) -> str:
        own = copy.deepcopy(tokenizer)
        own.add_special_tokens({"additional_special_tokens": list(names)})
        own.chat_template = "<|turn|>" + own.chat_template
        folder = saved(own, tmp_path / "-".join(names).replace("|", ""), pad_token=own.eos_token)
        return load_tokenizer(folder, "auto").pad_token

    assert load_tokenizer(saved(tokenizer, tmp_path / "own"), "auto").pad_token == "<|pad|>"
    assert choice("<|turn|>", "<|repo|>", "<|reserved_0|>", "<|finetune_right_pad_id|>") == "<|pad|>"
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "<|pad|>" + tokenizer.chat_template  # it is a mark of a turn now
    assert choice("<|turn|>", "<|repo|>", "<|reserved_0|>", "<|finetune_right_pad_id|>") == "<|finetune_right_pad_id|>"
    assert choice("<|turn|>", "<|repo|>", "<|reserved_0|>") == "<|reserved_0|>"
    assert choice("<|turn|>", "<|repo|>") == "<|repo|>"
    with pytest.raises(UserError, match="has no special token that nothing uses"):
        choice("<|turn|>")


def test_tokenizers_of_transformers_5_load(tmp_path: Path, tokenizer: Any) -> None:
    folder = Path(saved(tokenizer, tmp_path))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    for changed in (
        {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers", "is_local": True},
        {"extra_special_tokens": ["<|bos|>", "<|end|>"]},
    ):
        (folder / "tokenizer_config.json").write_text(json.dumps(config | changed))
        found = load_tokenizer(str(folder), None)
        assert found("a b")["input_ids"] == tokenizer("a b")["input_ids"]
        assert found.chat_template == tokenizer.chat_template
        keep_tokenizer(found, folder, tmp_path / "kept")  # NeMo opens what a run and a converter keep
        kept = AutoTokenizer.from_pretrained(tmp_path / "kept")
        assert (kept("a b")["input_ids"], kept.all_special_tokens) == (
            found("a b")["input_ids"],
            found.all_special_tokens,
        )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("NoSuchTokenizer", "got NoSuchTokenizer. Set it to PreTrainedTokenizerFast"),
        (
            "MistralCommonBackend",
            "got MistralCommonBackend, which transformers 5 has. Set it to PreTrainedTokenizerFast",
        ),
    ],
)
def test_a_class_that_this_transformers_has_not_is_named(tmp_path: Path, tokenizer: Any, name: str, told: str) -> None:
    folder = Path(saved(tokenizer, tmp_path))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": name}))
    expected = f"tokenizer_config.json: tokenizer_class: expected a class of transformers {transformers.__version__}, "
    with pytest.raises(UserError, match=re.escape(expected + told)):
        load_tokenizer(str(folder), None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # as the message says
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(str(folder), None)("a b")["input_ids"] == tokenizer("a b")["input_ids"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": name}))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"Save the tokenizer with tokenizer\.json beside it"):
        load_tokenizer(str(folder), None)


def test_a_pad_token_that_is_eos_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"expected a pad token of its own, found pad = eos = '<\|end\|>'"):
        load_tokenizer(saved(tokenizer, tmp_path, pad_token="<|end|>"), None)


def test_a_pad_token_outside_the_vocabulary_is_refused(dataset: Path) -> None:
    with pytest.raises(UserError, match=r"pad_token: '<nope>' is not in the vocabulary"):
        load_tokenizer(str(dataset / "tokenizer"), "<nope>")


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no tokenizer that loads"):
        load_tokenizer(str(tmp_path), None)
    with pytest.raises(UserError, match=r"/nowhere is not a folder"):
        load_tokenizer("/nowhere", None)


def test_synthetic_answers_cannot_be_told_without_the_prompt() -> None:
    train, validation = make_pairs(seed=0)
    for pairs in (train, validation):
        counts = {side: [pair[side][1]["content"] for pair in pairs] for side in ("chosen", "rejected")}
        for thing in THINGS:
            chosen, rejected = (sum(thing in answer for answer in counts[side]) for side in ("chosen", "rejected"))
            assert chosen == rejected > 0
        assert {len(answer.split()) for side in counts.values() for answer in side} == {3}
    prompts = [{pair["chosen"][0]["content"] for pair in pairs} for pairs in (train, validation)]
    assert [len(found) for found in prompts] == [108, 36]
    assert [len(train), len(validation)] == [1188, 396]
    assert not prompts[0] & prompts[1]
