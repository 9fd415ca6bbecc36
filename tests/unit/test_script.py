"""A rank that runs a script again makes no call that the process which started it has made."""

import pickle
from pathlib import Path

import pytest

from nemo_bt.cli.worker import make_log
from nemo_bt.errors import UserError
from nemo_bt.launching import script


@script.made_once
def double(number: int) -> int:
    if number < 0:
        raise UserError(f"expected 0 or more, got {number}.")
    return 2 * number


def calls() -> list[object]:
    """Three calls of a script, of which one finds a mistake that the script goes on from."""
    found: list[object] = [double(1)]
    try:
        double(-1)
    except UserError as error:
        found.append(str(error))
    return [*found, double(3)]


def test_a_rank_gets_what_earlier_calls_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "_results", [])
    assert calls() == [2, "expected 0 or more, got -1.", 6]
    earlier = [20, UserError("as it was there")]
    (tmp_path / "earlier").write_bytes(pickle.dumps(earlier))
    monkeypatch.setattr(script, "_results", [])
    monkeypatch.setenv("NEMO_BT_SCRIPT_FOLDER", str(tmp_path))
    assert not script.is_rank_of_a_script()  # nobody started this process
    monkeypatch.setenv("NEMO_BT_STARTED_HERE", "1")
    assert calls() == [20, "as it was there", 6]
    script.leave_result({"step": 3})
    assert pickle.loads((tmp_path / "result").read_bytes()) == {"step": 3}


def test_a_folder_that_cannot_be_made_is_a_user_s_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"log_dir: expected a folder to write to, got .*file/run"):
        make_log(tmp_path / "file" / "run", "log_dir")
    assert make_log(tmp_path / "run", "log_dir", "checkpoints") == tmp_path / "run" / "nemo.log"
    assert (tmp_path / "run" / "checkpoints").is_dir()
