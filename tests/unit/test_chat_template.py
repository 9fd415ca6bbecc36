"""Chat templates: which one, rendered how, one BOS, and no date."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors

from nemo_bt.data.tokenize.chat_template import load_renderer
from nemo_bt.data.tokenize.tokenizer import keep_tokenizer, load_tokenizer
from nemo_bt.errors import UserError
from tests.support.preferences import GOOD, messages
from tests.support.sources import dropped, open_set, settings_with, texts, write
from tests.support.token_truth import LLAMA3_MARKS, with_tokens

DATED = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "Today is {{ date_string }}.{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return write(tmp_path / "rows.jsonl", [GOOD])


def test_templates_by_file_by_shipped_name_and_by_the_tokenizers_name(
    tmp_path: Path, tokenizer: Any, file: str, monkeypatch: Any
) -> None:
    (tmp_path / "own.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}[{{ m['content'] }}]{% endfor %}{{ eos_token }}"
    )
    (pair,) = texts(open_set(file, tokenizer, f"model.data.chat_template={tmp_path / 'own.jinja'}"), tokenizer)
    assert pair[0] == "<|bos|>[some tea][I bring tea.]<|end|>"
    with pytest.raises(
        UserError, match=r"chat_template=llama3: it writes <\|end_header_id\|>, <\|eot_id\|>, <\|start_h"
    ):
        open_set(file, tokenizer, "model.data.chat_template=llama3")
    of_llama = with_tokens(tokenizer, *LLAMA3_MARKS)
    (pair,) = texts(open_set(file, of_llama, "model.data.chat_template=llama3"), of_llama)
    assert pair[1] == (
        "<|bos|><|start_header_id|>user<|end_header_id|>\n\nsome tea<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nI bring milk.<|eot_id|>"
    )
    monkeypatch.setattr(
        tokenizer,
        "chat_template",
        {"default": "no", "short": "{{ bos_token }}{{ messages|map(attribute='content')|join(': ') }}."},
    )
    (pair,) = texts(
        open_set(file, tokenizer, "model.data.chat_template=short", "model.data.max_bad_fraction=1"), tokenizer
    )
    assert pair[0] == "<|bos|>some tea: I bring tea.."
    with pytest.raises(
        UserError, match=r"chat_template: other is no file, no template of .*default, short.*none of llama3"
    ):
        open_set(file, tokenizer, "model.data.chat_template=other")


def test_llama_3s_date_free_template_is_that_of_the_model(tokenizer: Any) -> None:
    """Turns as published with Llama 3: github.com/meta-llama/llama3, llama/tokenizer.py, ChatFormat."""

    def published(dialog: list[dict[str, str]]) -> str:
        header = "<|start_header_id|>{role}<|end_header_id|>\n\n"
        turns = [header.format(**m) + m["content"].strip() + "<|eot_id|>" for m in dialog]
        return "<|bos|>" + "".join(turns) + header.format(role="assistant")

    template = Path("conf/chat_template/llama3.jinja").read_text()
    dialog = [{"role": "system", "content": " be kind\n"}, *messages("a", "b"), {"role": "user", "content": "c"}]
    rendered = tokenizer.apply_chat_template(dialog, chat_template=template, tokenize=False, add_generation_prompt=True)
    assert rendered == published(dialog)


def test_a_template_with_todays_date_is_refused_unless_a_day_is_named(
    tmp_path: Path, tokenizer: Any, file: str
) -> None:
    (tmp_path / "dated.jinja").write_text(DATED)
    dated = f"model.data.chat_template={tmp_path / 'dated.jinja'}"
    with pytest.raises(UserError, match=r"the chat template asks for today's date \(%d %b %Y\).*llama3 is provided"):
        open_set(file, tokenizer, dated)
    (pair,) = texts(open_set(file, tokenizer, dated, "model.data.chat_template_date=2024-07-26"), tokenizer)
    assert pair[0].startswith("<|bos|>Today is 26 Jul 2024.user: some tea<|end|>")
    (pair,) = texts(open_set(file, tokenizer, dated, "+model.data.chat_template_kwargs.date_string=noon"), tokenizer)
    assert pair[0].startswith("<|bos|>Today is noon.")
    with pytest.raises(UserError, match=r"chat_template_date: expected a day as 2024-07-26 .*'soon'"):
        open_set(file, tokenizer, "model.data.chat_template_date=soon")


def test_messages_need_a_template(tokenizer: Any, file: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no chat template, which message lists need\. Set model\.data\.chat_template"):
        open_set(file, tokenizer, "model.data.chat_template=none")


def test_conversations_that_the_template_refuses_are_counted(tmp_path: Path, tokenizer: Any) -> None:
    picky = "{% if messages|length > 2 %}{{ raise_exception('two at most') }}{% endif %}" + tokenizer.chat_template
    (tmp_path / "picky.jinja").write_text(picky)
    long = {side: [*messages("a", "b"), *messages("c", side)] for side in ("chosen", "rejected")}
    file = write(tmp_path / "rows.jsonl", [GOOD, long, GOOD, long])
    template = f"model.data.chat_template={tmp_path / 'picky.jinja'}"
    pairs = open_set(file, tokenizer, template, "model.data.max_bad_fraction=1")
    assert dropped(pairs) == {"template": 2}
    assert pairs.column("row", [0, 1]).tolist() == [0, 2]
    with pytest.raises(UserError, match=r"row 1: two at most \(that the chat template refuses\)"):
        open_set(file, tokenizer, template)


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("in_template", [True, False])
def test_there_is_one_bos_whoever_puts_it(
    tmp_path: Path, dataset: Path, file: str, adds: bool, in_template: bool
) -> None:
    tokenizer = load_tokenizer(str(dataset / "tokenizer"), None)
    if not adds:
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
    if not in_template:
        tokenizer.chat_template = tokenizer.chat_template.replace("{{ bos_token }}", "")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    tokenizer = load_tokenizer(str(tmp_path / "tokenizer"), None)
    (pair,) = texts(open_set(file, tokenizer), tokenizer)
    bos = "<|bos|>" if adds or in_template else ""
    assert pair[0] == f"{bos}user: some tea<|end|>assistant: I bring tea.<|end|>"


def test_texts_with_their_own_bos_and_eos_get_no_second_ones(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"chosen": "<|bos|>a b<|end|>", "rejected": "<|bos|>c<|end|>"}, {"chosen": "a", "rejected": "b"}]
    found = texts(open_set(write(tmp_path / "rows.jsonl", rows), tokenizer), tokenizer)
    assert found == [("<|bos|>a b<|end|>", "<|bos|>c<|end|>"), ("<|bos|>a<|end|>", "<|bos|>b<|end|>")]


def test_a_slow_tokenizer_gives_the_same_ids(tmp_path: Path, tokenizer: Any, monkeypatch: Any, file: str) -> None:
    fast = texts(open_set(file, tokenizer), tokenizer)
    monkeypatch.setenv("NEMO_BT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    assert texts(open_set(file, tokenizer), tokenizer) == fast


def test_a_template_that_was_chosen_goes_with_the_tokenizer(tmp_path: Path, dataset: Path) -> None:
    folder = dataset / "tokenizer"
    tokenizer = with_tokens(load_tokenizer(str(folder), None), *LLAMA3_MARKS)
    load_renderer(tokenizer, settings_with("model.data.chat_template=llama3").model.data)
    keep_tokenizer(tokenizer, folder, tmp_path / "kept", new_template=True)
    again = load_tokenizer(str(tmp_path / "kept"), None)
    assert "<|eot_id|>" in again.apply_chat_template(messages("a", "b"), tokenize=False)
    plain = load_tokenizer(str(folder), None)
    load_renderer(plain, settings_with("model.data.chat_template=none").model.data)
    keep_tokenizer(plain, folder, tmp_path / "same")
    for kept in (tmp_path / "same").iterdir():
        assert kept.read_bytes() == (folder / kept.name).read_bytes()
    assert json.loads((tmp_path / "kept" / "tokenizer_config.json").read_text())
