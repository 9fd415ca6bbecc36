"""nemo-bt data build, show and stats, and the data that a resumed run finds."""

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.checkpoint.same import check_same_data, check_same_order, write_data_record
from nemo_bt.cli import main as cli
from nemo_bt.errors import UserError
from tests.support.preferences import messages
from tests.support.sources import open_set, write


def run(capsys: Any, dataset: Path, *argv: str) -> tuple[int, str, str]:
    status = cli.run(
        [
            "data",
            *argv,
            f"model.tokenizer.type={dataset / 'tokenizer'}",
            f"model.data.train={dataset / 'random.parquet'}",
            f"+model.data.validation.held_out={dataset / 'random_val.parquet'}",
        ]
    )
    return status, *capsys.readouterr()


def test_build_prints_the_account(dataset: Path, capsys: Any, tmp_path: Path) -> None:
    status, out, _ = run(capsys, dataset, "build", f"model.data.cache_dir={tmp_path}")
    told = "chat template: of the tokenizer; a prompt of plain text becomes a turn of it"
    assert (status, out) == (0, f"{told}\ntrain: 100 of 100 pairs\nheld_out: 37 of 37 pairs\n")
    status, out, _ = run(capsys, dataset, "build", f"model.data.cache_dir={tmp_path}", "model.data.chat_template=none")
    assert out.startswith("no chat template: texts are not rendered\n")
    assert len(list(tmp_path.glob("*/tokens.arrow"))) == 2


def test_show_marks_the_scored_token_between_overrides_and_options(dataset: Path, capsys: Any) -> None:
    status, out, _ = run(capsys, dataset, "show", "model.encoder_seq_length=512", "--pairs", "1")
    assert status == 0
    lines = out.splitlines()[3:]
    assert lines[0].startswith(f"── train · random · {dataset / 'random.parquet'} row 0 · margin 0.")
    assert lines[1].startswith("shared, ")
    assert "tokens: <|bos|>user: " in lines[1]
    assert [line.split(",")[0] for line in lines[2:4]] == ["chosen", "rejected"]
    assert all(line.endswith(".⟦<|end|>⟧") for line in lines[2:4])
    assert lines[4].startswith("── held_out ·")


def test_stats_count_and_draw(dataset: Path, tokenizer: Any, capsys: Any, tmp_path: Path) -> None:
    picture = tmp_path / "lengths.png"
    status, out, _ = run(capsys, dataset, "stats", "--picture", str(picture), "model.global_batch_size=16")
    assert status == 0
    pairs = open_set(str(dataset / "random.parquet"), tokenizer)
    groups = [pairs.groups([i])[0] for i in range(100)]
    prefix, stream = sum(len(g.prefix) for g in groups), sum(g.num_tokens for g in groups)
    assert f"shared prefixes save {prefix / (stream + prefix):.1%} of the tokens" in out
    longest = max(g.num_tokens for g in groups)
    row = next(line for line in out.splitlines() if "pair in a stream" in line)
    assert row.split()[-1] == str(longest)
    assert row.split()[4] == f"{stream / 100:.0f}"
    assert "a step of 16 pairs fills " in out
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size > 10_000
    status, _, err = run(capsys, dataset, "stats", "--picture", str(tmp_path / "no" / "x.png"))
    assert (status, "--picture" in err) == (2, True)


def test_stats_show_what_is_over_a_limit_and_then_refuse_it(dataset: Path, capsys: Any, tmp_path: Path) -> None:
    rows = [{"prompt": "a", "chosen": "b " * n, "rejected": "c"} for n in (1, 2, 3, 900)]
    given = [f"model.tokenizer.type={dataset / 'tokenizer'}", f"model.data.train={write(tmp_path / 'f.jsonl', rows)}"]
    given += [f"model.data.validation={tmp_path / 'f.jsonl'}", "model.encoder_seq_length=256"]
    for action, is_shown in (("stats", True), ("build", False)):
        assert cli.run(["data", action, *given, f"model.data.cache_dir={tmp_path}"]) == 2
        out, err = capsys.readouterr()
        assert ("pair in a stream" in out) == is_shown
        assert "train: 3 of 4 pairs; dropped 1 longer than model.encoder_seq_length=256. Expected at most model" in err
    none = [given[0], f"model.data.train={write(tmp_path / 'long.jsonl', rows[-1:])}", *given[3:]]
    assert cli.run(["data", "stats", *none, f"model.data.cache_dir={tmp_path}"]) == 2
    assert f"The first:\n  {tmp_path / 'long.jsonl'} row 0: 921 tokens" in capsys.readouterr().err
    roomy = [*given, f"model.data.cache_dir={tmp_path}", "model.data.max_drop_fraction=1"]
    assert cli.run(["data", "stats", *roomy]) == 2
    assert "validation f: 3 of 3 pairs have an answer that is also in the training data" in capsys.readouterr().err


def test_mistakes_end_with_status_2(dataset: Path, capsys: Any) -> None:
    status, _, err = run(capsys, dataset, "build", "model.data.chosen_key=good")
    assert (status, err.startswith("error: ")) == (2, True)
    assert "no format fits, found columns chosen (list<element: struct<" in err
    assert cli.run(["data", "build", "model.data.train=x.parquet"]) == 2
    assert "model.tokenizer.type: expected a tokenizer folder, got null" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.run(["data", "build", "a=b", "--picure", "x", "c=d"])
    assert ended.value.code == 2


def test_a_resumed_run_finds_the_same_data(tmp_path: Path, tokenizer: Any) -> None:
    def sets(answer: str) -> dict[str, Any]:
        rows = [{"chosen": messages("q", answer), "rejected": messages("q", "no")}]
        return {"train": open_set(write(tmp_path / "f.jsonl", rows), tokenizer)}

    record = tmp_path / "data.json"
    check_same_data(record, sets("yes"))
    write_data_record(record, sets("yes"))
    assert list(json.loads(record.read_text())["train"]) == ["f"]
    check_same_data(record, sets("yes"))
    with pytest.raises(
        UserError, match=r"model\.data\.train: files of 'f' are not what they were when the run was started"
    ):
        check_same_data(record, sets("maybe"))


def test_a_run_of_a_version_with_another_order_of_pairs_does_not_go_on(tmp_path: Path, tokenizer: Any) -> None:
    """The first version wrote no order."""
    given = write(tmp_path / "f.jsonl", [{"chosen": messages("q", "yes"), "rejected": messages("q", "no")}])
    sets = {"train": open_set(given, tokenizer)}
    record = tmp_path / "data.json"
    write_data_record(record, sets)
    facts = json.loads(record.read_text())
    facts["train"]["f"]["layout"] = 7  # of the cache, which is made again
    record.write_text(json.dumps(facts))
    check_same_data(record, sets)
    check_same_order(record)
    del facts["order of pairs"]
    record.write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"takes pairs in another order: .* Go on with that version, or start a new"):
        check_same_order(record)
    record.write_text("{}")  # told by check_same_data
    check_same_order(record)
    check_same_order(tmp_path / "none.json")
