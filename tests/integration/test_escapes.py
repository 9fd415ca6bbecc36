"""Texts of others that would move the cursor, change colours or turn letters round are written out."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from nemo_bt.errors import UserError, shown
from tests.support.forked import Job, run_forked
from tests.support.runs import nemo_bt, training
from tests.support.screen import on_terminal

EVIL = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31mred\rover"
NAMED = "run\x1b[2J\u202e"
ACTING = {*map(chr, range(32)), *map(chr, range(127, 160)), "\u202e", "\u2066"} - {"\n", "\t"}


def test_what_is_written_out() -> None:
    assert shown("tea\tand\nmilk, Grüße, 茶 🍵") == "tea\tand\nmilk, Grüße, 茶 🍵"
    assert shown(EVIL) == r"\x1b]0;owned\x07\x1b[2J\u202e\x9b31mred\rover"
    assert shown("a\udcffb\u2028") == r"a\udcffb\u2028"
    assert str(UserError(f"{EVIL}: no")) == f"{shown(EVIL)}: no"


@pytest.mark.parametrize("where", ["data", "path", "tokenizer", "key", "name"])
def test_no_command_lets_them_through(where: str, dataset: Path, base: Path, tmp_path: Path) -> None:
    rows = [{"prompt": EVIL * 2, "chosen": f"{EVIL}a{n}", "rejected": f"{EVIL}b"} for n in range(4)]
    file = tmp_path / (f"{EVIL}.jsonl" if where == "path" else "rows.jsonl")
    file.write_text("\n".join(json.dumps(row) for row in rows) + ("" if where == "data" else f'\n{{"{EVIL}'))
    model = shutil.copytree(base, tmp_path / "model")
    argv = ["data", "show", f"model.tokenizer.type={model}"]
    if where == "tokenizer":
        config = json.loads((model / "tokenizer_config.json").read_text())
        (model / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": EVIL}))
    if where == "key":
        argv.append(f"model.{EVIL}=1")
    if where == "name":
        file.rename(tmp_path / "rows.txt")
        (tmp_path / f"{EVIL}.jsonl").symlink_to(tmp_path / "rows.txt")
    given = str(tmp_path / "*.jsonl") if where in ("path", "name") else str(file)
    (ended,) = run_forked([Job(where, [*argv, f"model.data.train={given}"])])
    assert ended.kind in ("read", "refused"), ended.stderr
    assert ACTING & set(ended.stdout + ended.stderr) == set()
    assert r"\x1b[2J" in ended.stdout + ended.stderr


def test_nor_a_training_run_its_bar_its_log_and_its_status(dataset: Path, base: Path, tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": f"{EVIL}{n}", "chosen": EVIL, "rejected": "b" * (n + 1)}) for n in range(20)]
    (tmp_path / f"{EVIL}.jsonl").write_text("\n".join(rows))
    argv = training(dataset, tmp_path / NAMED, base)
    argv[2] = f"model.data.train={tmp_path / '*.jsonl'}"
    code = "import sys; from nemo_bt.cli.main import main; print('\\x1b[31mnoise'); main()"
    status, written = on_terminal([sys.executable, "-c", code, *argv, "trainer.max_steps=1"])
    assert status == 0, written
    for text in (written, (tmp_path / NAMED / "nemo.log").read_text()):
        assert "\x1b]0;" not in text
        assert "\x1b[2J" not in text
        assert "\u202e" not in text
    assert r"run\x1b[2J\u202e/checkpoints" in written
    with (tmp_path / NAMED / "events.jsonl").open("a") as events:
        events.write(json.dumps({"event": "failed", "rank": 0, "error": EVIL}) + "\n")
    told = nemo_bt("status", str(tmp_path / NAMED))
    assert ACTING & set(told.stdout + told.stderr) == set()
    assert "\x1b" not in (tmp_path / NAMED / "events.jsonl").read_text()
