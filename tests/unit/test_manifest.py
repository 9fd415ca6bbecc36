"""Checkpoints that changed after they were written are not taken for whole."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nemo_bt.checkpoint.find import checkpoint_to_resume, wrong_name
from nemo_bt.checkpoint.manifest import MANIFEST, damage, facts_of, files_of, plain_damage, write_manifest
from nemo_bt.errors import UserError

WEIGHTS, CONTEXT = "weights/__0_0.distcp", "context/hf_config.json"


def written(folder: Path, step: int) -> Path:
    checkpoint = folder / f"reward-step{step}.nemo"
    for name, content in ((WEIGHTS, b"w" * 1000), ("weights/__1_0.distcp", b"v" * 1000), (CONTEXT, b"{}")):
        (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
        (checkpoint / name).write_bytes(content)
    write_manifest(checkpoint, facts_of(checkpoint, files_of(checkpoint)))
    return checkpoint


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str, bool]] = {
    "truncated": (
        lambda c: (c / WEIGHTS).write_bytes(b"w" * 999),
        f"{WEIGHTS} has 999 bytes, 1,000 were written",
        True,
    ),
    "emptied": (lambda c: (c / WEIGHTS).write_bytes(b""), f"{WEIGHTS} has 0 bytes, 1,000 were written", True),
    "missing": (lambda c: (c / CONTEXT).unlink(), f"{CONTEXT} is missing", True),
    "a bit of the weights": (lambda c: flip(c / WEIGHTS), f"{WEIGHTS} has other contents than were written", False),
    "a bit of the context": (lambda c: flip(c / CONTEXT), f"{CONTEXT} has other contents than were written", True),
    "its manifest emptied": (lambda c: (c / MANIFEST).write_bytes(b""), f"{MANIFEST} does not read", True),
    "its manifest another thing": (lambda c: (c / MANIFEST).write_text("[1]"), f"{MANIFEST} does not read", True),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_changed_is_named(name: str, tmp_path: Path) -> None:
    change, reason, is_plain = DAMAGES[name]
    checkpoint = written(tmp_path, 4)
    assert damage(checkpoint) is None
    assert plain_damage(checkpoint) is None
    change(checkpoint)
    assert str(damage(checkpoint)).startswith(reason)
    assert (plain_damage(checkpoint) is not None) == is_plain


def test_ranks_share_the_digests_and_one_of_them_sees_it(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, 4)
    flip(checkpoint / WEIGHTS)
    found = [damage(checkpoint, rank, num_ranks=3) for rank in range(3)]
    assert sorted(map(str, found)) == ["None", "None", f"{WEIGHTS} has other contents than were written"]


def test_the_newest_whole_checkpoint_is_resumed(tmp_path: Path) -> None:
    older, newer = written(tmp_path, 4), written(tmp_path, 20)
    assert checkpoint_to_resume(tmp_path, resume_if_exists=True) == newer
    (newer / WEIGHTS).write_bytes(b"")
    assert checkpoint_to_resume(tmp_path, resume_if_exists=True) == older
    flip(older / CONTEXT)
    with pytest.raises(
        UserError, match=r"no checkpoint .* is whole.*step20.nemo is damaged: .*step4.nemo is damaged: "
    ):
        checkpoint_to_resume(tmp_path, resume_if_exists=True)


def test_of_a_checkpoint_without_a_manifest_the_ends_of_its_files_are_looked_at(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, 4)
    (checkpoint / MANIFEST).unlink()
    for name in (WEIGHTS, "weights/__1_0.distcp", "weights/common.pt"):
        torch.save({"a": torch.ones(3)}, checkpoint / name)
    (checkpoint / "weights" / ".metadata").write_bytes(pickle.dumps({}))
    assert damage(checkpoint) is None
    for name in (WEIGHTS, "weights/common.pt", "weights/.metadata"):
        content = (checkpoint / name).read_bytes()
        for cut in (b"", content[:-1]):
            (checkpoint / name).write_bytes(cut)
            assert damage(checkpoint) == plain_damage(checkpoint) == f"{name} is cut short"
        (checkpoint / name).write_bytes(content)


def test_the_manifest_lists_every_file_but_itself(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, 4)
    listed = json.loads((checkpoint / MANIFEST).read_text())["files"]
    assert sorted(listed) == files_of(checkpoint) == sorted([CONTEXT, WEIGHTS, "weights/__1_0.distcp"])
    assert listed[CONTEXT]["sha256"] == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_facts_of_the_training_that_do_not_read_are_a_damage_for_each_rank(tmp_path: Path) -> None:
    """Their digest is one rank's share; the others look at their step, and must not fail alone."""
    older, newest = written(tmp_path, 2), written(tmp_path, 4)
    for checkpoint in (older, newest):
        (checkpoint / "context" / "training.json").write_text('{"step": 4}')
        write_manifest(checkpoint, facts_of(checkpoint, files_of(checkpoint)))
    assert (wrong_name(older), wrong_name(newest)) == ("it holds step 4", None)
    (newest / "context" / "training.json").write_text('x"step": 4}')
    assert "training.json: expected facts of the training, got JSONDecodeError" in str(wrong_name(newest))
    (older / "context" / "training.json").write_text('{"step": 2}')
    for checkpoint in (older, newest):
        write_manifest(checkpoint, facts_of(checkpoint, files_of(checkpoint)))
    assert checkpoint_to_resume(tmp_path, resume_if_exists=True) == older
