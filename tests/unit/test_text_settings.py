"""How a model was given texts in its training stays with it, and scoring does the same unless it is told otherwise."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_bt.config.load import load_settings, load_settings_of
from nemo_bt.config.score import ScoreRun
from nemo_bt.converters.export_files import told_of_model, write_config
from nemo_bt.data.formats.responses import Text
from nemo_bt.data.tokenize.text_settings import described, text_settings_of, unlike
from nemo_bt.errors import UserError
from nemo_bt.pretrained.nemo_metadata import write_facts
from nemo_bt.pretrained.resolve import find_pretrained
from nemo_bt.scoring.checks import check_score
from nemo_bt.scoring.rows import row_reader
from tests.support.hf_models import save

ROW = {"prompt": "Tea?", "chosen": "Yes.", "rejected": "No."}
TWO_SOURCES = "model.data.train=[{path: a.jsonl, join: ' '}, {path: b.jsonl, join: ''}]"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = save("qwen2", tmp_path_factory.mktemp("texts") / "model")
    return dict(json.loads((folder / "config.json").read_text()))


def trained(folder: Path, config: dict[str, Any], *overrides: str) -> Path:
    """What a .nemo has beside weights after a training with these settings."""
    (folder / "context").mkdir(parents=True)
    settings = load_settings("train", ["model=llama_4x256", "model.data.train=a.jsonl", *overrides])
    write_facts(folder / "context", config, {"step": 1, "validation": {}, "settings": asdict(settings)})
    return folder


def scored(model: Path, *overrides: str) -> ScoreRun:
    needed = [f"model.restore_from_path={model}", "score.input=x.jsonl", f"score.output={model.parent / 'y.jsonl'}"]
    return check_score(load_settings_of(ScoreRun, "score", [*needed, *overrides]))[0]


@pytest.mark.parametrize(
    ("training", "scoring", "expected"),
    [
        ([], [], {}),
        (["model.data.join=' '"], [], {"join": " "}),
        (["model.data.join=' '"], ["model.data.join=' - '"], {"join": " - "}),
        (["model.data.join=''"], [], {"join": ""}),
        ([TWO_SOURCES], [], {"join": None}),
        (["model.data.input_template='Q: {} A: '"], [], {"input_template": "Q: {} A: "}),
        (["model.data.input_template='Q: {} A: '"], ["model.data.join=' '"], {"input_template": None, "join": " "}),
        (["model.data.chat_template=none"], [], {"chat_template": "none"}),
        (["model.data.chat_template=chatml"], [], {"chat_template": None}),  # the tokenizer has it
        (["model.data.chat_template_kwargs={deep: false}"], [], {"chat_template_kwargs": {"deep": False}}),
        (["model.data.chat_template_date=2024-07-26"], [], {"chat_template_date": "2024-07-26"}),
        (
            ["model.data.chat_template=none", "model.data.chat_template_date=2024-07-26"],
            ["model.data.chat_template=default"],
            {"chat_template": "default", "chat_template_date": None},
        ),
    ],
)
def test_scoring_gives_texts_as_the_training_did(
    tmp_path: Path, config: dict[str, Any], training: list[str], scoring: list[str], expected: dict[str, Any]
) -> None:
    model = trained(tmp_path / "model.nemo", config, *training)
    exported = tmp_path / "exported"
    exported.mkdir()
    earlier = {"text_settings": {"join": "of the model that this one was trained from"}}
    write_config(exported, config | earlier, 0, torch.float32, told_of_model(find_pretrained(str(model))))
    for one in (model, exported):
        data = scored(one, *scoring).model.data
        assert {name: getattr(data, name) for name in expected} == expected


def test_a_row_that_needs_it_is_read(tmp_path: Path, config: dict[str, Any]) -> None:
    model = trained(tmp_path / "model.nemo", config, "model.data.join=' '")
    run = scored(model)
    (chosen,), (rejected,) = row_reader("x", [ROW], run.source, False, "reward").sides(ROW)
    assert (chosen, rejected) == (Text("Tea? ", "Yes."), Text("Tea? ", "No."))
    assert described(run.model.data, find_pretrained(str(model)), True) == [
        "chat template: of the tokenizer; a prompt of plain text becomes a turn of it",
        'as in training: model.data.join=" "',
    ]
    own = scored(model, "model.data.join=' - '")
    assert described(own.model.data, find_pretrained(str(model)), False) == ["no chat template: texts are not rendered"]


def test_what_the_sources_had_in_several_ways_is_told(tmp_path: Path, config: dict[str, Any]) -> None:
    model = find_pretrained(str(trained(tmp_path / "model.nemo", config, TWO_SOURCES)))
    data = scored(model.path).model.data
    assert described(data, model, False)[1:] == [
        "the sources of the training differ in model.data.join; nothing is set here"
    ]


def test_a_run_that_starts_from_it_is_told_what_it_has_not(tmp_path: Path, config: dict[str, Any]) -> None:
    model = find_pretrained(str(trained(tmp_path / "model.nemo", config, "model.data.join=' '")))
    for given, is_told in (([], True), (["model.data.join=' '"], False)):
        data = load_settings("train", ["model=llama_4x256", "model.data.train=b.jsonl", *given]).model.data
        line = f'{model.given} was trained with model.data.join=" ", this run is not'
        assert unlike(data, data.train, model) == ([line] if is_told else [])


def test_facts_of_a_very_old_version_say_nothing(tmp_path: Path, config: dict[str, Any]) -> None:
    old: list[dict[str, Any]] = [{"step": 1}, {"settings": {"model": {"data": {"train": ["a.jsonl"]}}}}]
    for facts in old:
        (tmp_path / "context").mkdir(exist_ok=True)
        write_facts(tmp_path / "context", config, facts)
        assert text_settings_of(find_pretrained(str(tmp_path))) == {}


@pytest.mark.parametrize(
    "found", [{"join": 3}, {"chat_template": "/etc/x"}, {"joined": " "}, "text", [1], {"chat_template_kwargs": "x"}]
)
def test_what_nobody_has_written_so_is_refused_by_name(tmp_path: Path, config: dict[str, Any], found: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config | {"text_settings": found}))
    with pytest.raises(UserError, match=r"text_settings of config\.json is not as nemo_bt writes it .* Mend it there"):
        text_settings_of(find_pretrained(str(tmp_path)))
