"""What says where a checkpoint's tensors lie is read without pickle, and takes no more memory than its bytes."""

import io
import os
import pickle
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING

from nemo_bt.errors import UserError
from nemo_bt.pretrained.names import EMBEDDING
from nemo_bt.pretrained.nemo_file import NemoFile
from nemo_bt.pretrained.plain_checkpoint import check_plain
from nemo_bt.pretrained.plain_pickle import Record
from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from nemo_bt.pretrained.torch_dist import TorchDist
from nemo_bt.pretrained.torch_dist_records import read_records
from tests.support.attacks import Taken, poison
from tests.support.converted import to_nemo
from tests.support.hf_models import save


@pytest.fixture
def nemo(tmp_path: Path) -> Path:
    pretrained = find_pretrained(str(save("qwen2", tmp_path / "hf")))
    return to_nemo(pretrained, open_weights(pretrained, 0), tmp_path / "x.nemo")


def refused(nemo: Path) -> str:
    with pytest.raises(UserError) as error:
        TorchDist(NemoFile(nemo).open_weights, str(nemo))
    return str(error.value)


def test_members_of_enumerations_are_read_as_any_python_writes_them(nemo: Path) -> None:
    """Python 3.11.2 pickles one as getattr(class, name); no attribute of anything is ever taken."""
    metadata = nemo / "weights" / ".metadata"
    real = FileSystemReader(nemo / "weights").read_metadata()
    member = Taken(_MEM_FORMAT_ENCODING, "TORCH_CONTIGUOUS_FORMAT")
    metadata.write_bytes(pickle.dumps(replace(real, planner_data=member)))
    assert TorchDist(NemoFile(nemo).open_weights, "x").infos
    for other in (Taken(_MEM_FORMAT_ENCODING, "__class__"), Taken(type(real), "replace"), Taken({}, "get")):
        metadata.write_bytes(pickle.dumps(replace(real, planner_data=other)))
        assert "names builtins.getattr, for something else than a member" in refused(nemo)


def test_a_command_in_what_only_pickle_itself_would_run_is_refused(nemo: Path, tmp_path: Path) -> None:
    """It names getattr and PosixPath alone, which stand-ins without code were once read for."""
    poison(nemo, f"touch {tmp_path / 'ran'}")
    child = os.fork()  # what it does to this process stays there
    if child == 0:
        try:
            FileSystemReader(nemo / "weights").read_metadata()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / "ran").exists()
    (tmp_path / "ran").unlink()
    assert "names builtins.getattr, for something else than a member" in refused(nemo)
    with pytest.raises(UserError, match=r"names builtins\.getattr"):
        check_plain(nemo)
    assert not (tmp_path / "ran").exists()


NESTED = b"N" + b"".join(b"\x94h" + bytes([i]) + b"\x86" for i in range(60))
"""Tuples of the same tuple twice, 60 deep: whoever asks for the hash or the text of it waits for ever."""


NAME = b"ctorch.distributed.checkpoint.metadata\nStorageMeta\n"


@pytest.mark.parametrize(
    ("hostile", "why"),
    [
        (b"}r\xff\xff\xff\x7f.", "expected Metadata"),  # pickle makes room for 2^31 objects
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "KeyError"),
        (b"}" + NESTED + b"Ns.", "by something else than names"),
        (NESTED + b".", "expected Metadata"),
        (NAME + b"}" + NAME + NESTED + b"RNsb.", "it sets Record of torch.distributed.checkpoint.metadata.StorageMeta"),
    ],
)
def test_metadata_that_would_take_all_memory_or_time_is_refused(nemo: Path, hostile: bytes, why: str) -> None:
    (nemo / "weights" / ".metadata").write_bytes(b"\x80\x04" + hostile)
    assert why in refused(nemo)


def of_megatron(key: bytes) -> bytes:
    """A whole `.metadata` without tensors, whose mcore_data has one entry."""
    found = b"\x80\x04cmegatron.core.dist_checkpointing.strategies.torch\nMCoreMetadata\n)\x81}"
    for name, value in ((b"storage_data", b"}"), (b"state_dict_metadata", b"}"), (b"mcore_data", b"}" + key + b"}s")):
        found += b"\x8c" + bytes([len(name)]) + name + value + b"s"
    return found + b"b."


def test_an_entry_of_megatron_is_named_by_a_text(nemo: Path) -> None:
    """The text of an object that shares a tuple with itself doubles with every five bytes of the file."""
    assert read_records(io.BytesIO(of_megatron(b"\x8c\x01x"))).unflattened == {"x": None}
    shared = b"N" + b"".join(b"\x94h" + bytes([i]) + b"\x86" for i in range(12))
    index = b"ctorch.distributed.checkpoint.metadata\nMetadataIndex\n" + shared + b"\x85\x81"
    (nemo / "weights" / ".metadata").write_bytes(of_megatron(index))
    assert "mcore_data: a tensor has no name" in refused(nemo)
    deep: tuple[object, ...] = ()
    for _ in range(60):
        deep = (deep, deep)
    assert len(repr(Record("x", deep, {"x": deep}))) < 200


def test_a_file_of_weights_that_unpacks_to_more_is_refused(nemo: Path) -> None:
    """torch.load would inflate it; a tar, which it knows too, is none of ours."""
    common = nemo / "weights" / "common.pt"
    with zipfile.ZipFile(common) as packed:
        entries = {name: packed.read(name) for name in packed.namelist()}
    with zipfile.ZipFile(common, "w", zipfile.ZIP_DEFLATED) as deflated:
        for name, data in entries.items():
            deflated.writestr(name, data)
    with pytest.raises(UserError, match=r"common\.pt cannot be read: an entry of it is compressed"):
        check_plain(nemo)
    with tarfile.open(common, "w") as tar:
        tar.add(nemo / "weights" / "metadata.json", "storages")
    with pytest.raises(UserError, match=r"common\.pt cannot be read: File is not a zip file"):
        check_plain(nemo)


def test_weights_beside_the_tensors_are_refused(nemo: Path) -> None:
    """Transformer Engine unpickles the bytes of an _extra_state, and Megatron merges common.pt with the tensors."""
    state = {"module.decoder.layers.0.mlp.linear_fc1._extra_state": torch.zeros(4, dtype=torch.uint8)}
    torch.save({"state_dict": state}, nemo / "weights" / "common.pt")
    with pytest.raises(UserError, match=r"common\.pt: expected a dict whose state_dict has no entries"):
        check_plain(nemo)


def test_tensors_that_are_more_than_their_bytes_are_refused(nemo: Path) -> None:
    """A tensor without strides has any size; one of another device or kind is no tensor of a checkpoint."""
    metadata = FileSystemReader(nemo / "weights").read_metadata()
    [place] = [at for index, at in metadata.storage_data.items() if index.fqn == f"module.{EMBEDDING}"]
    file = nemo / "weights" / "__0_0.distcp"
    whole = file.read_bytes()
    size = metadata.state_dict_metadata[f"module.{EMBEDDING}"].size
    for tensor in (torch.zeros(1).expand(size), torch.zeros(size, device="meta"), torch.zeros(0, 0).to_sparse()):
        file.write_bytes(whole[: place.offset] + saved(tensor, place.length) + whole[place.offset + place.length :])
        source = TorchDist(NemoFile(nemo).open_weights, "x")
        with pytest.raises(
            UserError, match=r"x: embedding\.word_embeddings\.weight: expected TensorInfo.*; got another"
        ):
            source.read(EMBEDDING)


def saved(tensor: torch.Tensor, length: int) -> bytes:
    """Bytes of torch.save, made as long as others were."""
    padding = 0
    while True:
        data = io.BytesIO()
        torch.save(tensor, data)
        with zipfile.ZipFile(data, "a") as packed:
            packed.writestr("archive/padding", bytes(padding))
        if len(data.getvalue()) == length:
            return data.getvalue()
        padding += length - len(data.getvalue())
