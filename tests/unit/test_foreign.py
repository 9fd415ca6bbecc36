"""What others wrote: kinds, sizes and types of files, and work that has limits."""

import io
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_bt.config.load import load_settings
from nemo_bt.data.read.unpacked import Unpacked
from nemo_bt.errors import UserError
from nemo_bt.foreign.fields import FLAG, check_fields, real, whole
from nemo_bt.foreign.files import check_file, check_folder, check_yaml, read_json, read_yaml, reading
from nemo_bt.foreign.limited import EXTRA_BYTES, ends_within_limits


class Panic(BaseException):
    """As pyo3 raises one."""


@pytest.mark.parametrize("error", [ValueError("no\nsecond"), Panic("no"), MemoryError(), RecursionError("deep")])
def test_whatever_is_raised_becomes_one_line(error: BaseException) -> None:
    with pytest.raises(UserError) as told, reading("a.json: expected b, got ", "Mend it."):
        raise error
    assert str(told.value).startswith(f"a.json: expected b, got {type(error).__name__}(")
    assert str(told.value).endswith("). Mend it.")
    assert told.value.__cause__ is error


@pytest.mark.parametrize("error", [UserError("mine"), KeyboardInterrupt(), SystemExit(75)])
def test_the_users_own_end_is_left_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as told, reading("a: ", "b"):
        raise error
    assert told.value is error


def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "none").symlink_to("nowhere")
    found = {"pipe": "a pipe", "folder": "a folder", "zero": "a device", "none": "No such file"}
    for name, kind in found.items():
        with pytest.raises(UserError, match=kind):
            check_file(tmp_path / name)
    with pytest.raises(UserError, match=r"none: expected a file, got .*Take it out of"):
        check_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 100_000, "RecursionError"),
        ('{"a": 1', "JSONDecodeError"),
        ("[1]", "found a list"),
        ('{"a": 1' + "0" * 5000 + "}", "Exceeds the limit"),
    ],
)
def test_json_that_is_no_object(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=told):
        read_json(tmp_path / "a.json", "settings")


def test_yaml_is_counted_with_what_its_aliases_stand_for(tmp_path: Path) -> None:
    check_yaml("a: &a [1, 2]\nb: *a\nc: {<<: {d: *a}}\n")
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (tmp_path / "mine.yaml").write_text("defaults: [train, _self_]\n" + "\n".join(lines))
    with pytest.raises(UserError, match=r"mine\.yaml: expected settings, got .*more than 200,000 values"):
        load_settings("mine", [], str(tmp_path))
    for text, told in (
        ("\n".join(lines), "more than 200,000 values"),
        ("a: &a [*a]", "inside of what it names"),
        ("[" * 500 + "]" * 500, "nested more than 100 deep"),
        ("a: !!python/object/apply:os.mkdir [b]", "could not determine a constructor"),
        ("- a", "found a list"),
    ):
        (tmp_path / "a.yaml").write_text(text)
        started_s = time.monotonic()
        with pytest.raises(UserError, match=told):
            read_yaml(tmp_path / "a.yaml", "settings")
        assert time.monotonic() - started_s < 5


@pytest.mark.parametrize("value", ["3", True, 3.0, -1, [3], {"a": 1}, float("nan")])
def test_a_whole_number_is_one(value: object) -> None:
    with pytest.raises(UserError, match=r"^c: n: expected a whole number from 0, got .*\. Mend it\.$"):
        check_fields({"n": value}, {"n": whole(0, 9, "too deep")}, "c", "Mend it.")


def test_ranges_say_why() -> None:
    check_fields(
        {"n": 9, "x": 0.5, "f": False, "other": "?"}, {"n": whole(0, 9, ""), "x": real(0.0), "f": FLAG}, "", ""
    )
    check_fields({"n": None}, {"n": whole(0, 9, "")}, "", "")
    with pytest.raises(UserError, match=r"n: expected at most 9: too deep; got 10\. "):
        check_fields({"n": 10}, {"n": whole(0, 9, "too deep")}, "c", "Mend it.")
    for value in (0.0, float("inf"), float("nan"), "1", True):
        with pytest.raises(UserError, match="x: expected a finite number above 0, got "):
            check_fields({"x": value}, {"x": real(0.0)}, "c", "Mend it.")


def test_bytes_that_unpack_without_end_are_not_read_to_their_end() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def read(self, size: int = -1) -> bytes:
            self.given += size
            return bytes(size)

    endless, stored = Endless(), io.BytesIO(b"x" * 10)
    with pytest.raises(UserError, match=r"^f: 0 stored bytes unpack to .* expected at most 100 for each"):
        io.BufferedReader(Unpacked("f", endless, stored)).readline()
    assert endless.given < 80 << 20


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (lambda: sum(iter(int, 1)), "does not end within 1 s"),
        (lambda: bytearray(EXTRA_BYTES * 2), "takes more than 1,024 MiB"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "ended its process by SIGTERM"),
    ],
)
def test_work_has_limits(work: Callable[[], object], told: str) -> None:
    with pytest.raises(UserError, match=rf"^it {told}.* Mend it\.$"):
        ends_within_limits(work, "it", "Mend it.", cpu_s=1)


def test_work_within_its_limits_is_let_be(tmp_path: Path) -> None:
    def work() -> None:
        (tmp_path / "done").write_text(json.dumps(1))
        raise ValueError("seen where the result is wanted")

    ends_within_limits(work, "it", "Mend it.")
    assert (tmp_path / "done").exists()


def test_work_is_waited_for_in_a_process_with_many_files() -> None:
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(most, 4096)), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        ends_within_limits(lambda: None, "it", "Mend it.")
    finally:
        for number in held:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
