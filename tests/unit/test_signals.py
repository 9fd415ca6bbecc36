"""A request to end a run is answered at once, and the run ends after its step."""

import os
import signal
from pathlib import Path

import pytest

from nemo_bt.launching.local import answering
from nemo_bt.launching.signals import StopRequest, answer_of, kept_handlers


def test_the_first_request_is_answered_and_the_second_ends_the_run(tmp_path: Path) -> None:
    with kept_handlers(), (tmp_path / "stderr").open("w+") as stderr:
        request = StopRequest(limit_s=None, ends_on_sigterm=False)
        request.listen(is_training=True, answer_to=answering(stderr, rank=0))
        os.kill(os.getpid(), signal.SIGINT)
        assert request.code() == signal.SIGINT
        expected = "SIGINT: saving after this step, then the run ends; a second SIGINT ends it at once\n"
        assert (tmp_path / "stderr").read_text() == expected
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_one_process_of_a_job_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "stderr").open("w") as stderr:
        assert answering(stderr, rank=0) == stderr.fileno()
        assert answering(stderr, rank=1) is None
        monkeypatch.setenv("NEMO_BT_STARTED_HERE", "1")  # then what started the ranks does
        assert answering(stderr, rank=0) is None
    assert answer_of(signal.SIGTERM, ends_at_second=False) == "SIGTERM: saving after this step, then the run ends"
    assert answer_of(signal.SIGINT, ends_at_second=True, saves=False) == "SIGINT: the command ends"
