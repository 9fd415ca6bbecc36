"""Who trains on from an export keeps the fields of its config.json: that they are of another model is told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from converters.stale import as_it_is
from nemo_bt.config.data import TextSettings
from nemo_bt.data.tokenize.text_settings import as_trained, described
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.mean import AVERAGED_FROM
from nemo_bt.pretrained.nemo_metadata import write_facts
from nemo_bt.pretrained.resolve import InitialWeights, find_pretrained, open_weights
from nemo_bt.pretrained.trained_head import TRAINED_HEAD, digests_of, was_trained_on
from nemo_bt.scoring.reward_statistics import KEY
from tests.support.converted import to_nemo
from tests.support.hf_models import build


def opened(folder: Path) -> InitialWeights:
    return open_weights(find_pretrained(str(folder)), 0)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose config.json tells of a training, and of the head that it had at its end.

    fp16 rounds one weight of it to fewer bits than bf16 has.
    """
    folder = tmp_path_factory.mktemp("head") / "export"
    model = build("qwen2")
    with torch.no_grad():
        model.score.weight[0, 0] = 1.08e-6
    model.save_pretrained(folder)
    told = {"text_settings": {"join": " "}, TRAINED_HEAD: digests_of(opened(folder))}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | told))
    return folder


def stepped(model: Any) -> Any:
    """One step of AdamW at a small learning rate, as a trainer of someone else takes it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    model(torch.arange(1, 20)[None]).logits.sum().backward()
    optimizer.step()
    return model


def adapted(model: Any) -> Any:
    return get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"]))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda model: model, False),
        (lambda model: model.to(torch.bfloat16), False),
        (lambda model: model.to(torch.bfloat16).float(), False),
        (lambda model: model.to(torch.float16), False),
        (lambda model: model.to(torch.float16).to(torch.bfloat16), False),
        (lambda model: model.to(torch.bfloat16).to(torch.float16).float(), False),
        (stepped, True),
        (adapted, True),
    ],
    ids=[
        "saved again",
        "cast",
        "cast there and back",
        "in fp16",
        "in fp16, then bf16",
        "in bf16, then fp16",
        "a step",
        "adapters",
    ],
)
def test_a_model_that_was_trained_on_is_told_from_one_that_was_saved_again(
    export: Path, tmp_path: Path, change: Callable[[Any], Any], expected: bool
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(export, dtype=torch.float32)
    change(model).save_pretrained(str(tmp_path / "later"))
    later = opened(tmp_path / "later")
    assert later.pretrained.hf_config["text_settings"] == {"join": " "}  # transformers has kept it
    assert was_trained_on(later) == expected
    lines = described(as_trained(TextSettings(), later.pretrained), later.pretrained, True, was_trained_on(later))[1:]
    since = (
        f"{tmp_path / 'later'} was trained on since text_settings of config.json was written, maybe with texts given "
        "otherwise; model.data.join='' and model.data.chat_template=default take it back"
    )
    assert lines == ['as in training (text_settings of config.json): model.data.join=" "', *([since] * expected)]
    own = TextSettings(join="")
    assert described(own, later.pretrained, True, was_trained_on(later))[1:] == []


def test_what_cannot_tell_says_nothing(export: Path, tmp_path: Path) -> None:
    """An export of an old version, which has no digest, and a training of our own, which has its facts."""
    old = shutil.copytree(export, tmp_path / "old")
    config = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != TRAINED_HEAD}))
    assert not was_trained_on(opened(old))
    (old / "config.json").write_text(json.dumps(config | {TRAINED_HEAD: "another"}))
    assert was_trained_on(opened(old))
    nemo = to_nemo(find_pretrained(str(old)), opened(old), tmp_path / "x.nemo")
    assert was_trained_on(opened(nemo))
    write_facts(nemo / "context", config | {TRAINED_HEAD: "another"}, {"step": 1, "validation": {}})
    assert not was_trained_on(opened(nemo))


def test_what_a_model_no_longer_is_is_left_out(export: Path, tmp_path: Path) -> None:
    """Mean and deviation of rewards, and the parts of a mean, are of the head before; how texts were given stays."""
    config = json.loads((export / "config.json").read_text())
    config |= {KEY: {"mean": 1.0}, AVERAGED_FROM: [["a", 1.0]]}
    same = shutil.copytree(export, tmp_path / "same")
    (same / "config.json").write_text(json.dumps(config))
    initial = opened(same)
    assert as_it_is(initial, Terminal(None)) is initial
    stepped(AutoModelForSequenceClassification.from_pretrained(same, dtype=torch.float32)).save_pretrained(
        str(tmp_path / "later")
    )
    later = opened(tmp_path / "later")
    kept = as_it_is(later, Terminal(None)).pretrained.hf_config
    assert later.pretrained.hf_config.keys() - kept.keys() == {KEY, AVERAGED_FROM}
    assert kept[TRAINED_HEAD] == config[TRAINED_HEAD] != digests_of(later)  # so that scoring goes on to warn
