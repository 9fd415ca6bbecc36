"""Traces that end without a record, or at a mistake of the user's."""

import os
from pathlib import Path

import pytest

from nemo_bt.errors import UserError
from nemo_bt.phantom.build import library
from nemo_bt.phantom.start import trace
from tests.support.phantom import CACHE, settings_of, traced
from tests.support.traced_runs import LLAMA_8B, Traced

RUN = Traced(LLAMA_8B)


def test_a_process_that_dies_shows_the_end_of_its_log(dataset: Path, tmp_path: Path) -> None:
    broken = tmp_path / library(CACHE).relative_to(CACHE)
    broken.parent.mkdir()
    broken.touch()
    (tmp_path / "transformer_engine-2.9.0").mkdir()
    with pytest.raises(
        RuntimeError, match=r"with status 1 and without a record; its log ends with[\s\S]*libphantom.so: file too short"
    ):
        trace(settings_of(RUN, dataset, tmp_path), 0, 1, tmp_path / "trace", tmp_path)


@pytest.mark.skipif(not os.environ.get("NEMO_BT_TEST_PHANTOM"), reason="make test-phantom")
def test_what_the_user_can_mend_is_told_as_such(dataset: Path, tmp_path: Path) -> None:
    too_short = Traced([*LLAMA_8B, "model.data.tokens_per_micro_batch=512"])
    with pytest.raises(UserError, match="tokens_per_micro_batch"):
        traced(too_short, dataset, tmp_path)
