"""Whatever a tokenizer and its template are like: the ids are transformers', and no good pair is lost."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_bt.data.formats.responses import Chat
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.data.tokenize.chat_template import Renderer
from nemo_bt.data.tokenize.tokenizer import digest_of_tokenizer, keep_tokenizer, load_tokenizer
from tests.support.dialogs import dialogs
from tests.support.preferences import messages
from tests.support.sources import conversations, dropped, open_set, write
from tests.support.token_truth import DAY, check_ids, renderer_of, true_ids
from tests.support.traits import TRAITS, make

every_trait = pytest.mark.parametrize("trait", TRAITS)
ROWS = [
    {
        "chosen": messages(f"Ann would like {n} teas.", f"I bring {n}."),
        "rejected": messages(f"Ann would like {n} teas.", "No"),
    }
    for n in range(4)
]


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("traits")

    @cache
    def made(trait: str) -> Renderer:
        path = make(TRAITS[trait], folder / str(list(TRAITS).index(trait)))
        return renderer_of(str(path), TRAITS[trait].own_pad)

    return made


@every_trait
@settings(max_examples=40)
@given(data=st.data())
def test_ids_are_transformers(renderer: Any, trait: str, data: Any) -> None:
    check_ids(renderer(trait), data.draw(dialogs(system=TRAITS[trait].system)), TRAITS[trait].adds_bos)


@every_trait
def test_every_good_pair_is_kept_and_scored_at_the_last_token(renderer: Any, trait: str, tmp_path: Path) -> None:
    tokenizer = renderer(trait).tokenizer
    pairs = open_set(write(tmp_path / "rows.jsonl", ROWS), tokenizer, f"model.data.chat_template_date={DAY}")
    assert (dropped(pairs), sum(map(len, pairs.sources))) == ({}, 4)
    for number, row in enumerate(ROWS):
        for ids, side in zip(conversations(pairs, number), ("chosen", "rejected"), strict=True):
            assert ids.tolist() == true_ids(tokenizer, row[side], TRAITS[trait].adds_bos)
            scored = tokenizer.convert_ids_to_tokens(int(ids[-1]))
            assert scored == (TRAITS[trait].scored or {"chosen": ".", "rejected": "o"}[side])


@every_trait
def test_a_system_message_is_taken_or_refused_as_the_template_does(renderer: Any, trait: str) -> None:
    (text,) = renderer(trait).texts([Chat([{"role": "system", "content": "Be kind."}, *messages("a", "b")])])
    assert isinstance(text, RowError) != TRAITS[trait].system
    assert TRAITS[trait].system or "System role not supported" in str(text)


@every_trait
def test_what_was_saved_of_it_has_its_digest(trait: str, tmp_path: Path) -> None:
    """A checkpoint holds a copy with the pad token written in, and a run that resumes reads that."""
    folder = make(TRAITS[trait], tmp_path / "made")
    other = {"<|second|>"} if TRAITS[trait].kind == "PreTrainedTokenizerFast" else set()
    digests = set()
    for pad in {TRAITS[trait].own_pad or TRAITS[trait].pad} | other:
        named = load_tokenizer(str(folder), TRAITS[trait].own_pad)
        named.add_special_tokens({"pad_token": pad})
        kept = tmp_path / f"kept{len(digests)}"
        keep_tokenizer(named, folder, kept)
        digests.add(digest_of_tokenizer(named))
        assert digest_of_tokenizer(load_tokenizer(str(kept), pad)) in digests
        assert digest_of_tokenizer(load_tokenizer(str(kept), None)) in digests
    assert len(digests) == 1 + len(other)


def test_the_traits_are_there(renderer: Any) -> None:
    """What their names say."""

    def tokenizer(name: str) -> Any:
        return renderer(name).tokenizer

    assert not tokenizer("slow only").is_fast
    assert tokenizer("tokenizer.model alone").is_fast
    assert not list(Path(tokenizer("tokenizer.model alone").name_or_path).glob("tokenizer.json"))
    beyond = tokenizer("tokens beyond the vocabulary")
    assert beyond.convert_tokens_to_ids("<|done|>") >= beyond.vocab_size
    flags = tokenizer("flags for bos and eos")
    ids = flags("a")["input_ids"]
    assert (ids[0], ids[-1]) == (flags.bos_token_id, flags.eos_token_id)
