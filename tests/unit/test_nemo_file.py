"""A .nemo in one file: the same tensors, read in place; nothing in it leads out of it."""

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nemo_bt.errors import UserError
from nemo_bt.pretrained.nemo_file import NemoFile, pack
from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from tests.support.converted import tensors, to_hf, to_nemo
from tests.support.hf_models import save


def test_one_file_holds_the_same_tensors(tmp_path: Path) -> None:
    pretrained = find_pretrained(str(save("qwen2", tmp_path / "hf")))
    nemo = to_nemo(pretrained, open_weights(pretrained, 0), tmp_path / "x.nemo")
    (nemo / "context" / "tokenizer").mkdir()
    (nemo / "context" / "tokenizer" / "tokenizer.json").write_text("{}")
    pack(nemo, tmp_path / "one.nemo")
    shutil.rmtree(nemo)
    initial = open_weights(find_pretrained(str(tmp_path / "one.nemo")), 0)
    back = to_hf(initial, tmp_path / "out")
    assert (initial.pretrained.tokenizer / "tokenizer.json").read_text() == "{}"
    assert all(torch.equal(tensor, tensors(tmp_path / "hf")[name]) for name, tensor in tensors(back).items())


def with_member(change: Callable[[tarfile.TarInfo], None]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        member = tarfile.TarInfo("context/model.yaml")
        change(member)
        with tarfile.open(path, "w") as tar:
            tar.addfile(member, io.BytesIO(b"\0" * member.size) if member.isreg() else None)

    return write


def twice(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for name in ("context/a", "./context/a"):
            tar.addfile(tarfile.TarInfo(name))


def file_as_folder(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for name in ("context/a", "context/a/b"):
            tar.addfile(tarfile.TarInfo(name))


def compressed(path: Path) -> None:
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("context/a"))


def cut_short(path: Path) -> None:
    with_member(lambda member: setattr(member, "size", 100_000))(path)
    path.write_bytes(path.read_bytes()[:20_000])


def too_large(path: Path) -> None:
    """Declares 2 GB of context in a sparse file."""
    member = tarfile.TarInfo("context/model.yaml")
    member.size = 2 * 2**30
    with path.open("wb") as file:
        file.write(member.tobuf())
        file.truncate(512 + member.size + 1024)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (with_member(lambda m: setattr(m, "name", "/tmp/x")), "'/tmp/x' points outside of the .nemo"),
        (with_member(lambda m: setattr(m, "name", "context/../../x")), "'context/../../x' points outside"),
        (with_member(lambda m: m.__setattr__("type", tarfile.SYMTYPE)), "is a link or a device"),
        (with_member(lambda m: m.__setattr__("type", tarfile.LNKTYPE)), "is a link or a device"),
        (with_member(lambda m: m.__setattr__("type", tarfile.CHRTYPE)), "is a link or a device"),
        (with_member(lambda m: m.__setattr__("type", tarfile.FIFOTYPE)), "is a link or a device"),
        (twice, "is there twice"),
        (file_as_folder, "expected a .nemo"),
        (compressed, "expected a .nemo, a directory or an uncompressed tar"),
        (cut_short, "unexpected end of data"),
        (too_large, "context/ has 2,147,483,648 bytes; expected at most 1,073,741,824"),
        (lambda path: path.write_bytes(b"no tar"), "expected a .nemo, a directory or an uncompressed tar"),
    ],
    ids=[
        *("absolute", "parent", "symlink", "hardlink", "device", "fifo"),
        *("twice", "file as folder", "gzip", "cut", "large", "no tar"),
    ],
)
def test_tars_that_reach_out_or_are_not_whole_are_refused(
    write: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "x.nemo")
    with pytest.raises(UserError) as error:
        NemoFile(tmp_path / "x.nemo")
    assert message in str(error.value)


@pytest.mark.parametrize("is_packed", [True, False])
def test_a_file_of_nemo_1_is_told_by_name_with_what_to_do(tmp_path: Path, is_packed: bool) -> None:
    folder = tmp_path / "aligner"
    (folder / "model_weights").mkdir(parents=True)
    (folder / "model_config.yaml").write_text("reward_model_type: binary_ranking\n")
    path = folder
    if is_packed:
        path = tmp_path / "aligner.nemo"
        with tarfile.open(path, "w") as tar:
            tar.add(folder, ".")
    with pytest.raises(UserError, match=r"a \.nemo of NeMo 1 \(it has model_config\.yaml\).*checkpoint_converters"):
        find_pretrained(str(path))
