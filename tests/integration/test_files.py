"""What is written is whole under its name, or not there, whatever ends the writer."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_bt import files
from nemo_bt.files import beside, new_folder, remove_folder, unfinished_folder, unfinished_folders, write_atomically

KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from nemo_bt.files import beside, new_folder
path = Path(sys.argv[1])
with new_folder(path) if path.suffix == "" else beside(path) as unfinished:
    (unfinished / "part" if unfinished.is_dir() else unfinished).write_text("new")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_writing(path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(path)], timeout=60)
    assert result.returncode == -signal.SIGKILL


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("content", ["words\n", b"\x00\xff"])
def test_a_file_takes_the_place_of_another(content: str | bytes, tmp_path: Path) -> None:
    for _ in range(2):
        write_atomically(tmp_path / "a.json", content)
        written = (tmp_path / "a.json").read_bytes()
        assert written == (content.encode() if isinstance(content, str) else content)
    assert names_in(tmp_path) == {"a.json"}


def test_a_kill_before_the_rename_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")
    killed_while_writing(file)
    assert file.read_text() == "old"
    assert names_in(tmp_path) == {"a.json", "a.json.unfinished"}
    write_atomically(file, "newer")
    assert (file.read_text(), names_in(tmp_path)) == ("newer", {"a.json"})


def test_an_error_leaves_the_old_file_alone(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")

    def write() -> None:
        with beside(tmp_path / "a.json") as unfinished:
            unfinished.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    with pytest.raises(FileNotFoundError, match=r"no/a\.json\.unfinished"):
        write_atomically(tmp_path / "no" / "a.json", "")
    assert ((tmp_path / "a.json").read_text(), names_in(tmp_path)) == ("old", {"a.json"})


def test_bytes_are_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    monkeypatch.setattr(files.os, "fsync", lambda _: order.append((tmp_path / "a").read_text()))
    (tmp_path / "a").write_text("old")
    write_atomically(tmp_path / "a", "new")
    assert (order, (tmp_path / "a").read_text()) == (["old"], "new")


def test_rivals_write_under_names_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with beside(file, has_rivals=True) as one, beside(file, has_rivals=True) as other:
        one.write_text("one")
        other.write_text("other")
        assert names_in(tmp_path) == {one.name, other.name}
    assert file.read_text() == "one"  # it ends last


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "")
        with new_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("file", "folder")] == [0o640, 0o750]


def test_a_folder_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder"
    with new_folder(target) as folder:
        (folder / "part").write_text("1")
        assert folder == unfinished_folder(target)
        assert list(unfinished_folders(target.parent)) == [folder]
        assert not target.exists()
    assert names_in(target) == {"part"}
    with new_folder(tmp_path / "part", inside="a") as folder:
        (folder / "a").write_text("2")
        (folder / "b").write_text("3")
    assert ((tmp_path / "part").read_text(), names_in(tmp_path)) == ("2", {"deep", "part"})
    with new_folder(tmp_path / "other", owner="host.7") as folder:
        assert folder.name == ".other.host.7.unfinished"


def test_an_error_leaves_no_folder(tmp_path: Path) -> None:
    def write() -> None:
        with new_folder(tmp_path / "folder") as folder:
            (folder / "part").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert names_in(tmp_path) == set()


def test_a_kill_leaves_a_folder_that_does_not_look_whole(tmp_path: Path) -> None:
    killed_while_writing(tmp_path / "folder")
    assert names_in(tmp_path) == {".folder.unfinished"}
    with new_folder(tmp_path / "folder") as folder:
        assert names_in(folder) == set()
    assert names_in(tmp_path) == {"folder"}


def test_a_folder_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with pytest.raises(OSError, match="not empty"), new_folder(tmp_path / "folder"):
        pass
    assert (names_in(tmp_path), names_in(tmp_path / "folder")) == ({"folder"}, {"old"})


def test_a_folder_that_goes_is_never_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed = []
    monkeypatch.setattr(files.shutil, "rmtree", removed.append)
    (tmp_path / "folder").mkdir()
    remove_folder(tmp_path / "folder")
    assert removed == [tmp_path / ".folder.unfinished"]
    assert names_in(tmp_path) == {".folder.unfinished"}
