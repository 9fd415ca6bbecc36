"""A .nemo or a folder that someone else made cannot run code, leave its place, or pass for whole."""

import io
import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader

from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from nemo_bt.errors import UserError
from nemo_bt.pretrained.check import check_megatron_tensors
from nemo_bt.pretrained.names import EMBEDDING, HEAD
from nemo_bt.pretrained.nemo_file import NemoFile
from nemo_bt.pretrained.plain_checkpoint import check_plain
from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from nemo_bt.pretrained.source import TensorInfo
from nemo_bt.pretrained.torch_dist import FORMAT, TorchDist
from tests.support.converted import to_hf, to_nemo
from tests.support.hf_models import save


class Touch:
    """Unpickling one makes the file: proof that code ran."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.proof),)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    pretrained = find_pretrained(str(save("qwen2", folder / "hf")))
    return to_nemo(pretrained, open_weights(pretrained, 0), folder / "x.nemo")


@pytest.fixture
def nemo(clean: Path, tmp_path: Path) -> Path:
    return shutil.copytree(clean, tmp_path / "x.nemo")


def read_everything(nemo: Path, out: Path) -> None:
    to_hf(open_weights(find_pretrained(str(nemo)), 0), out)


def refused(nemo: Path, out: Path) -> str:
    with pytest.raises(UserError) as error:
        read_everything(nemo, out)
    return str(error.value)


def test_the_proof_of_these_tests_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Touch(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_metadata_that_would_run_code_is_refused(nemo: Path, tmp_path: Path) -> None:
    metadata = nemo / "weights" / ".metadata"
    for hostile in (
        pickle.dumps(Touch(tmp_path / "ran")),
        pickle.dumps({"state_dict_metadata": {}, "x": Touch(tmp_path / "ran")}),
        metadata.read_bytes()[:-1] + pickle.dumps(Touch(tmp_path / "ran"))[2:],
    ):
        metadata.write_bytes(hostile)
        assert "it names posix.mkdir" in refused(nemo, tmp_path / "out")
    for broken in (b"", b"no pickle", pickle.dumps([1]), pickle.dumps("text")):
        metadata.write_bytes(broken)
        assert "weights/.metadata" in refused(nemo, tmp_path / "out")
    metadata.unlink()
    assert "expected weights/.metadata" in refused(nemo, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_a_tensor_that_would_run_code_is_refused(nemo: Path, tmp_path: Path) -> None:
    data = io.BytesIO()
    torch.save(Touch(tmp_path / "ran"), data)
    file = nemo / "weights" / "__0_0.distcp"
    file.write_bytes(data.getvalue() + file.read_bytes()[len(data.getvalue()) :])
    assert f"{EMBEDDING} cannot be read" in refused(nemo, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_to_resume_from_is_searched_for_more_than_data(nemo: Path, tmp_path: Path) -> None:
    check_plain(nemo)
    torch.save({"state_dict": {}, "callbacks": Touch(tmp_path / "ran")}, nemo / "weights" / "common.pt")
    with pytest.raises(UserError, match=r"common\.pt cannot be read: .* set exp_manager\.trust_checkpoint=true"):
        check_plain(nemo)
    (nemo / "weights" / "common.pt").unlink()
    with pytest.raises(UserError, match=r"common\.pt cannot be read"):
        check_plain(nemo)
    assert not (tmp_path / "ran").exists()


def test_what_other_libraries_would_unpickle_is_refused(nemo: Path, tmp_path: Path) -> None:
    """modelopt unpickles weights/modelopt_state/common.pt when a checkpoint is resumed from."""
    (nemo / "weights" / "modelopt_state").mkdir()
    torch.save(Touch(tmp_path / "ran"), nemo / "weights" / "modelopt_state" / "common.pt")
    with pytest.raises(UserError, match="weights/ has modelopt_state, which no checkpoint of nemo_bt has"):
        check_plain(nemo)
    shutil.rmtree(nemo / "weights" / "modelopt_state")
    (nemo / "weights" / "metadata.json").write_text('{"sharded_backend": "zarr"}')
    with pytest.raises(UserError, match=r"weights/metadata\.json: expected"):
        check_plain(nemo)


def test_objects_of_a_checkpoint_are_searched_too(tmp_path: Path) -> None:
    for name, state in (("plain", {"x": 1}), ("hostile", Touch(tmp_path / "ran"))):
        dcp.save({"module.layer._extra_state": state}, checkpoint_id=tmp_path / name / "weights", no_dist=True)
        torch.save({}, tmp_path / name / "weights" / "common.pt")
        (tmp_path / name / "weights" / "metadata.json").write_text(FORMAT)
    check_plain(tmp_path / "plain")
    with pytest.raises(UserError, match=r"_extra_state cannot be read"):
        check_plain(tmp_path / "hostile")
    assert not (tmp_path / "ran").exists()


def test_parts_that_nobody_needs_are_never_opened(nemo: Path, tmp_path: Path) -> None:
    hostile = pickle.dumps(Touch(tmp_path / "ran"))
    (nemo / "weights" / "common.pt").write_bytes(hostile)
    torch.save(Touch(tmp_path / "ran"), nemo / "weights" / "common.pt")
    call = {"_target_": "os.mkdir", "_args_": [str(tmp_path / "ran")]}
    (nemo / "context" / "io.json").write_text(json.dumps(call))
    (nemo / "context" / "5f2c").write_bytes(hostile)
    (nemo / "context" / "model.yaml").write_text(f"!!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']")
    read_everything(nemo, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_a_model_yaml_that_would_run_code_is_refused(nemo: Path, tmp_path: Path) -> None:
    (nemo / "context" / "hf_config.json").unlink()
    (nemo / "context" / "model.yaml").write_text(f"!!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']")
    assert "expected a language model as NeMo's importers describe it" in refused(nemo, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_cut_short_or_point_elsewhere_are_refused(nemo: Path, tmp_path: Path) -> None:
    file = nemo / "weights" / "__0_0.distcp"
    whole = file.read_bytes()
    file.write_bytes(whole[:-2000])
    assert "cannot be read" in refused(nemo, tmp_path / "out")
    file.unlink()
    assert "cannot be read" in refused(nemo, tmp_path / "out")
    (tmp_path / "elsewhere").write_bytes(whole)
    metadata = nemo / "weights" / ".metadata"
    short, elsewhere = b"__0_0.distcp", b"../elsewhere"
    assert len(short) == len(elsewhere)
    metadata.write_bytes(metadata.read_bytes().replace(short, elsewhere))
    assert "'../elsewhere' is not a file of weights/" in refused(nemo, tmp_path / "out")


def test_a_misshaped_head_is_not_taken_for_a_language_models(nemo: Path) -> None:
    source = TorchDist(NemoFile(nemo).open_weights, "x")
    architecture = find_pretrained(str(nemo)).architecture
    assert check_megatron_tensors(source.infos | {HEAD: TensorInfo((1, 64), torch.float32)}, architecture, "x")
    assert not check_megatron_tensors(source.infos | {HEAD: TensorInfo((384, 64), torch.float32)}, architecture, "x")
    with pytest.raises(UserError, match=r"output_layer\.weight: expected shape \[1, 64\], found \[2, 64\]"):
        check_megatron_tensors(source.infos | {HEAD: TensorInfo((2, 64), torch.float32)}, architecture, "x")


def test_a_tokenizer_with_code_of_its_own_is_refused(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would ask on the terminal whether to run it."""
    monkeypatch.setattr("builtins.input", lambda _: "y")
    folder = shutil.copytree(dataset / "tokenizer", tmp_path / "tokenizer")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"import os\nos.mkdir('{tmp_path / 'ran'}')\nclass Mine: ...\n")
    with pytest.raises(UserError, match="holds no tokenizer that loads"):
        load_tokenizer(str(folder), None)
    assert not (tmp_path / "ran").exists()


def test_metadata_cannot_change_the_classes_that_it_is_read_with(nemo: Path, tmp_path: Path) -> None:
    """BUILD with slots sets attributes of whatever is on the stack, a class too."""
    name = b"\x8c\x26torch.distributed.checkpoint.metadata\x8c\x0dMetadataIndex\x93"
    assert len("torch.distributed.checkpoint.metadata") == 0x25
    name = name.replace(b"\x8c\x26", b"\x8c\x25")
    hostile = b"\x80\x04" + name + b"N}\x8c\x08poisonedK\x01s\x86b."
    (nemo / "weights" / ".metadata").write_bytes(hostile)
    assert "it sets poisoned of" in refused(nemo, tmp_path / "out")


def test_metadata_that_contradicts_itself_is_refused(nemo: Path, tmp_path: Path) -> None:
    metadata = nemo / "weights" / ".metadata"
    real = FileSystemReader(nemo / "weights").read_metadata()
    entry = next(iter(real.state_dict_metadata.values()))
    for change in (
        {"storage_data": None},
        {"storage_data": {}},
        {"state_dict_metadata": []},
        {"state_dict_metadata": {f"module.{EMBEDDING}": replace(entry, size=torch.Size([7]))}},
        {"state_dict_metadata": {f"module.{EMBEDDING}": replace(entry, chunks=None)}},
    ):
        metadata.write_bytes(pickle.dumps(replace(real, **change)))
        assert str(nemo) in refused(nemo, tmp_path / "out")
