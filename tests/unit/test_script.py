"""A rank that runs a script again makes no call that the process which started it has made."""

import pickle
from pathlib import Path

import pytest

from nemo_bt.cli.worker import make_log
from nemo_bt.errors import UserError
from nemo_bt.launching import script
from nemo_bt.launching.local import RanksEnded


@script.made_once
def double(number: int) -> int:
    if number < 0:
        raise UserError(f"expected 0 or more, got {number}.")
    return 2 * number


@script.made_once
def fail(kind: type[Exception], *facts: object) -> None:
    assert double(4) == 8  # a call of a callback
    raise kind(*facts)


class OddError(Exception):
    """Pickle makes it with one argument."""

    def __init__(self, left: object, right: object) -> None:
        super().__init__(f"{left} and {right}")


def calls() -> list[object]:
    """Calls of a script, of which some find a mistake that the script goes on from."""
    found: list[object] = [double(1)]
    try:
        double(-1)
    except UserError as error:
        found.append(str(error))
    for kind, facts in ((ZeroDivisionError, ["by 0"]), (OddError, [1, 2])):
        try:
            fail(kind, *facts)
        except (ZeroDivisionError, OddError, RuntimeError) as error:
            found.append(str(error))
    return [*found, double(3)]


def test_a_rank_gets_what_earlier_calls_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "_results", [])
    assert calls() == [2, "expected 0 or more, got -1.", "by 0", "1 and 2", 6]
    of_calls = script._results
    assert all(error.__traceback__ is None for error in of_calls[1:4])
    assert list(map(repr, of_calls[2:])) == ["ZeroDivisionError('by 0')", "RuntimeError('OddError: 1 and 2')", "6"]
    earlier = [20, UserError("as it was there"), *of_calls[2:4]]
    (tmp_path / "earlier").write_bytes(pickle.dumps(earlier))
    monkeypatch.setattr(script, "_results", [])
    monkeypatch.setenv("NEMO_BT_SCRIPT_FOLDER", str(tmp_path))
    assert not script.is_rank_of_a_script()  # nobody started this process
    monkeypatch.setenv("NEMO_BT_STARTED_HERE", "1")
    assert calls() == [20, "as it was there", "by 0", "OddError: 1 and 2", 6]
    script.leave_result({"step": 3})
    assert pickle.loads((tmp_path / "result").read_bytes()) == {"step": 3}


def test_ranks_get_the_calls_that_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(command: object, num_ranks: int, variables: dict[str, str]) -> RanksEnded:
        folder = Path(variables["NEMO_BT_SCRIPT_FOLDER"])
        (folder / "result").write_bytes((folder / "earlier").read_bytes())
        return RanksEnded(0)

    monkeypatch.setattr(script, "_results", [])
    monkeypatch.setattr(script, "start_ranks", start)
    double(1)
    assert script.made_once(script.start_and_wait)(["x.py"], 2, tmp_path) == [2]


def test_a_folder_that_cannot_be_made_is_a_user_s_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"log_dir: expected a folder to write to, got .*file/run"):
        make_log(tmp_path / "file" / "run", "log_dir")
    assert make_log(tmp_path / "run", "log_dir", "checkpoints") == tmp_path / "run" / "nemo.log"
    assert (tmp_path / "run" / "checkpoints").is_dir()
