"""A foreign config.json or tokenizer_config.json makes transformers neither fetch nor import nor unpickle anything."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from nemo_bt.errors import UserError
from nemo_bt.pretrained.architecture import architecture_of
from nemo_bt.pretrained.check import expected_tensors
from nemo_bt.pretrained.hf_config import complete
from nemo_bt.pretrained.resolve import find_pretrained
from tests.support.hf_models import SHAPES, save

HARMLESS: dict[str, Any] = {
    "attn_implementation": "flash_attention_2",
    "_attn_implementation": "sdpa",
    "_attn_implementation_autoset": True,
    "experts_implementation": "grouped_mm",
    "auto_map": {"AutoModelForSequenceClassification": "mine.Mine", "AutoConfig": "other/repository--mine.Mine"},
    "use_kernels": True,
    "dtype": "hub",
    "torchscript": True,
    "tokenizer_class": "Mine",
    "custom_pipelines": {"x": {"impl": "mine.Mine"}},
    "_name_or_path": "org/name",
    "name_or_path": "org/name",
    "_commit_hash": "0" * 40,
    "trust_remote_code": True,
}
"""Fields of exports that transformers would act on, or that another program would."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("qwen3", tmp_path_factory.mktemp("folder") / "hf")


@pytest.mark.parametrize("shape", SHAPES)
def test_only_what_describes_the_architecture_reaches_transformers(shape: str, tmp_path: Path) -> None:
    """The object is the same with them as without, and so are the tensors that it asks for."""
    config = find_pretrained(str(save(shape, tmp_path / "hf"))).hf_config
    modules = set(sys.modules)
    plain, other = (architecture_of(config), architecture_of(config | HARMLESS))
    assert vars(other.completed) == vars(plain.completed)
    assert expected_tensors(other) == expected_tensors(plain)
    assert not {"kernels", "torch.hub", "mine"} & (set(sys.modules) - modules)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_configuration_is_what_transformers_makes_of_the_file(shape: str, tmp_path: Path) -> None:
    """In all fields but the dtype, which names an attribute of torch, and the name of the folder."""
    file = save(shape, tmp_path / "hf") / "config.json"
    tokens = {"pad_token_id": 3, "bos_token_id": 1, "eos_token_id": [2, 4], "sep_token_id": 5}
    labels = {"id2label": {"0": "good"}, "label2id": {"good": 0}, "problem_type": "regression"}
    file.write_text(json.dumps(json.loads(file.read_text()) | tokens | labels | {"tie_word_embeddings": True}))
    theirs = AutoConfig.from_pretrained(file.parent).to_dict()
    found = complete(find_pretrained(str(file.parent)).hf_config).to_dict()
    assert theirs.keys() - found.keys() == set()
    unlike = {name for name, value in found.items() if value != theirs.get(name)}
    assert unlike <= {"dtype", "_name_or_path", "transformers_version"}
    assert [found[name] for name in tokens] == [*tokens.values()]


def test_layers_and_experts_together_are_no_more_than_models_have(folder: Path) -> None:
    config = find_pretrained(str(folder)).hf_config
    with pytest.raises(UserError, match="num_experts: expected at most 131,072 experts in all layers, got 4096 layers"):
        architecture_of(config | {"model_type": "qwen3_moe", "num_hidden_layers": 4096, "num_experts": 1024})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attn_implementation", "kernels-community/flash-attn"),
        ("attn_implementation", {"": "sdpa", "text_config": "org/kernel@main:function"}),
        ("_attn_implementation", "paged|org/kernel"),
        ("kernel_config", {"RMSNorm": "org/kernel:Norm"}),
        ("experts_implementation", "org/kernel"),
    ],
)
def test_a_field_that_names_code_of_a_hub_is_refused_by_name(folder: Path, name: str, value: Any) -> None:
    config = find_pretrained(str(folder)).hf_config
    with pytest.raises(UserError, match=f"config.json: {name}=.* names code of a hub, which is not fetched"):
        architecture_of(config | {name: value})


def test_quantised_weights_are_refused_by_name(folder: Path) -> None:
    config = find_pretrained(str(folder)).hf_config
    with pytest.raises(UserError, match="quantization_config is not supported"):
        architecture_of(config | {"quantization_config": {"quant_method": "org/kernel"}})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"vocab_file": "/etc/passwd"}, "vocab_file='/etc/passwd': expected a tokenizer of the files beside it"),
        ({"tokenizer_object": "x"}, "Take tokenizer_object out"),
        ({"gguf_file": "x.gguf"}, "Take gguf_file out"),
        ({"tokenizer_class": "TransfoXLTokenizer"}, "its files are pickles"),
    ],
)
def test_a_tokenizer_is_made_of_the_files_beside_it(
    dataset: Path, tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    folder = shutil.copytree(dataset / "tokenizer", tmp_path / "tokenizer")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=why):
        load_tokenizer(str(folder), None)


def test_a_tokenizer_whose_family_keeps_pickles_is_refused(dataset: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(dataset / "tokenizer", tmp_path / "tokenizer")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["tokenizer_class"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "transfo-xl"}))
    with pytest.raises(UserError, match="its files are pickles"):
        load_tokenizer(str(folder), None)
