"""Hugging Face -> .nemo -> Hugging Face returns every tensor and every field; what does not belong is refused."""

import json
import shutil
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from converters import hf_to_nemo, nemo_to_hf
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.architecture import architecture_of, check_length
from nemo_bt.pretrained.fused import PACKED_QKV, QKV, HeadShape
from nemo_bt.pretrained.resolve import find_pretrained, open_weights, with_head_row
from nemo_bt.pretrained.rope_parameters import rope_parameters_of
from nemo_bt.pretrained.safetensors_folder import SafetensorsFolder, write_shards
from nemo_bt.scoring.scorer import RewardScorer
from tests.support.converted import replace_tensors, several_labels, tensors, to_hf, to_nemo
from tests.support.hf_models import SHAPES, save

LLAMA = "llama3.1, head size"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(LLAMA, tmp_path / "hf")


@pytest.mark.parametrize("command", [hf_to_nemo, nemo_to_hf])
def test_an_input_that_is_not_there_is_named_by_its_option(command: ModuleType) -> None:
    args = command.parse(["--input", "/nowhere", "--output", "x"])
    with pytest.raises(UserError, match=r"^--input: /nowhere does not exist, nor is it organisation/model of a hub"):
        command.convert(args, Terminal(StringIO()))
    with pytest.raises(UserError, match=r"^path: /nowhere does not exist"):
        RewardScorer.from_pretrained("/nowhere", accelerator="cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back_is_equal_bit_for_bit(shape: str, dtype: torch.dtype, tmp_path: Path) -> None:
    hf = save(shape, tmp_path / "hf", dtype=dtype)
    pretrained = find_pretrained(str(hf))
    nemo = to_nemo(pretrained, open_weights(pretrained, 0), tmp_path / "x.nemo")
    initial = open_weights(find_pretrained(str(nemo)), 0)
    back = to_hf(initial, tmp_path / "back")
    expected, found = tensors(hf), tensors(back)
    assert initial.has_head
    assert found.keys() == expected.keys()
    assert all(found[name].dtype == dtype and torch.equal(found[name], expected[name]) for name in expected)
    assert len(list(back.glob("*.safetensors"))) > 1
    index = json.loads((back / "model.safetensors.index.json").read_text())["weight_map"]
    assert {name: name in load_file(back / file) for name, file in index.items()} == dict.fromkeys(expected, True)
    before, after = (json.loads((f / "config.json").read_text()) for f in (hf, back))
    assert {name: after[name] for name in before} == before
    assert {name: after[name] for name in after.keys() - before.keys()} == {
        "num_labels": 1,
        "problem_type": "regression",
        "rope_parameters": rope_parameters_of(pretrained.architecture.completed),
    }


def test_a_causal_model_loses_its_head_and_gets_a_reward_head_of_norm_one(tmp_path: Path) -> None:
    hf = save(LLAMA, tmp_path / "hf", classifier=False)
    pretrained = find_pretrained(str(hf))
    initial = open_weights(pretrained, 7)
    nemo = to_nemo(pretrained, initial, tmp_path / "x.nemo")
    back = tensors(to_hf(open_weights(find_pretrained(str(nemo)), 0), tmp_path / "back"))
    assert "lm_head.weight" in tensors(hf)
    assert back.keys() == tensors(hf).keys() - {"lm_head.weight"} | {"score.weight"}
    assert back["score.weight"].norm().item() == pytest.approx(1.0, abs=0.3)
    assert initial.description == (
        f"{hf}: base model (llama, Hugging Face folder), head new, seed 7, norm {back['score.weight'].norm():.4f}"
    )


def test_a_classifier_of_several_labels_is_told_how_one_row_is_taken(tmp_path: Path) -> None:
    hf = several_labels(save(LLAMA, tmp_path / "hf"), 2)
    message = (
        r"a classifier of 2 labels \(LABEL_0, LABEL_1\), not a reward model: .*"
        rf"nemo-bt import --head-row 1 --input {hf} --output reward\.nemo$"
    )
    with pytest.raises(UserError, match=message):
        open_weights(find_pretrained(str(hf)), 0)


@pytest.mark.parametrize(
    ("row", "classifier", "message"),
    [
        (3, True, r"expected a head with row 3, found row 0 to 2\.$"),
        (-1, True, r"expected a head with row -1, found row 0 to 2\.$"),
        (0, False, r"expected a head with row 0, found no score\.weight\.$"),
    ],
)
def test_a_row_that_the_head_does_not_have_is_refused(row: int, classifier: bool, message: str, tmp_path: Path) -> None:
    hf = (
        several_labels(save(LLAMA, tmp_path / "hf"), 3)
        if classifier
        else save(LLAMA, tmp_path / "hf", classifier=False)
    )
    with pytest.raises(UserError, match=message):
        open_weights(with_head_row(find_pretrained(str(hf)), row), 0)


def test_head_of_a_base_model_depends_on_the_seed_alone(tmp_path: Path) -> None:
    pretrained = find_pretrained(str(save(LLAMA, tmp_path / "hf", classifier=False)))
    heads = [open_weights(pretrained, seed).source.read("output_layer.weight") for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_dtype_is_changed_when_asked(folder: Path) -> None:
    initial = open_weights(find_pretrained(str(folder)), 0, torch.bfloat16)
    expected = tensors(folder)["model.norm.weight"].bfloat16()
    assert torch.equal(initial.source.read("decoder.final_layernorm.weight"), expected)


@pytest.mark.parametrize(("heads", "groups", "size"), [(4, 4, 3), (6, 2, 5), (8, 1, 2)])
@pytest.mark.parametrize("trailing", [(7,), ()], ids=["weight", "bias"])
def test_queries_keys_and_values_lie_group_by_group(heads: int, groups: int, size: int, trailing: tuple[int]) -> None:
    shape = HeadShape(heads, groups, size)
    q, k, v = (torch.randn(count * size, *trailing) for count in (heads, groups, groups))
    expected = []
    for group in range(groups):
        per_group = heads // groups
        expected += [q[head * size : (head + 1) * size] for head in range(group * per_group, (group + 1) * per_group)]
        expected += [k[group * size : (group + 1) * size], v[group * size : (group + 1) * size]]
    fused = QKV.join([q, k, v], shape)
    assert torch.equal(fused, torch.cat(expected))
    assert all(torch.equal(a, b) for a, b in zip(QKV.split(fused, shape), (q, k, v), strict=True))
    packed = torch.cat([q, k, v])
    assert torch.equal(PACKED_QKV.join([packed], shape), fused)
    assert torch.equal(PACKED_QKV.split(fused, shape)[0], packed)


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        open_weights(find_pretrained(str(folder)), 0)
    return str(error.value)


def test_missing_extra_and_misshaped_tensors_are_named(folder: Path, tmp_path: Path) -> None:
    name = "model.layers.2.mlp.up_proj.weight"
    for change, message in (
        ({name: None}, f"{name} is missing; expected 39 tensors, found 38"),
        ({"score.weight": None}, "a reward model without its head"),
        ({"model.layers.9.mlp.up_proj.weight": torch.zeros(2, 2)}, "model.layers.9.mlp.up_proj.weight is not known"),
        ({name: torch.zeros(95, 64)}, f"{name}: expected shape [96, 64], found [95, 64]"),
        ({"score.weight": torch.zeros(1, 65)}, "score.weight: expected shape [1, 64], found [1, 65]"),
        ({name: torch.zeros(96, 64, dtype=torch.int8)}, f"{name} has dtype I8"),
        ({name: torch.zeros(96, 64, dtype=torch.bfloat16)}, f"{name} is torch.bfloat16"),
    ):
        copy = shutil.copytree(folder, tmp_path / "changed")
        replace_tensors(copy, change)
        assert message in refused(copy)
        shutil.rmtree(copy)


def test_old_buffers_and_tied_heads_are_not_strangers(folder: Path) -> None:
    replace_tensors(
        folder,
        {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(12), "lm_head.weight": torch.zeros(350, 64)},
    )
    assert open_weights(find_pretrained(str(folder)), 0).has_head


def test_shards_that_are_cut_short_absent_or_pickled_are_refused(folder: Path) -> None:
    shard = max(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    assert f"{shard}: expected a whole safetensors file" in refused(folder)
    shard.unlink()
    assert f"{shard}: expected a whole safetensors file" in refused(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}')
    assert "expected names of files beside it, got ../../etc/passwd" in refused(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "expected an index with weight_map" in refused(folder)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "pytorch_model.bin").touch()
    assert "pickles, which can run code, are not read" in refused(folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_type": "opt"}, "model_type 'opt' is not supported. Supported: llama, mistral, qwen2,"),
        ({"model_type": "gemma3"}, "Of a Gemma 3 with vision, save the text model on its own."),
        ({"attention_bias": True}, "attention_bias=True is not supported; expected False"),
        ({"hidden_size": "wide"}, "hidden_size: expected a whole number from 1, got 'wide'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "transformers refuses it"),
        ({"rope_scaling": {"rope_type": "new"}}, "transformers refuses it: KeyError('new')"),
        ({"rope_scaling": "linear"}, "transformers refuses it"),
        (
            {"rope_scaling": None, "rope_parameters": {"rope_theta": 5e5, "rope_type": "yarn"}},
            "Missing required keys in `rope_scaling` for 'rope_type'='yarn'",
        ),
        ({"quantization_config": {"bits": 4}}, "quantization_config is not supported: use the original weights"),
        ({"rms_norm_eps": None}, "expected a norm epsilon"),
        ({"pad_token_id": 350}, "a pad_token_id below vocab_size=350, got 1e-06 and 350"),
        ({"model_type": ["llama"]}, "is not supported. Supported: llama"),
        ({"hidden_act": None}, "activation 'None' is not supported"),
    ],
)
def test_configurations_that_cannot_be_computed_are_refused(
    folder: Path, changed: dict[str, Any], message: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))
    assert message in refused(folder)


def test_a_folder_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found neither"):
        find_pretrained(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="expected a Hugging Face configuration with model_type"):
        find_pretrained(str(tmp_path))


def test_frequencies_that_depend_on_the_batch_are_refused() -> None:
    config = {"max_position_embeddings": 512, "hidden_size": 64, "num_attention_heads": 4}
    config |= SHAPES["phi3, longrope, partly rotary"]
    architecture = architecture_of(config)
    check_length(architecture, 256)
    with pytest.raises(UserError, match="more than the 256 positions before RoPE scaling 'longrope'"):
        check_length(architecture, 257)


def test_a_shard_holds_at_most_what_was_asked(folder: Path, tmp_path: Path) -> None:
    source = SafetensorsFolder(folder)
    (tmp_path / "out").mkdir()
    stream = ((name, source.read(name)) for name in source.infos)
    write_shards(tmp_path / "out", source.infos, stream, 50_000, lambda _: None)
    for file in (tmp_path / "out").glob("*.safetensors"):
        shard = load_file(file)
        assert sum(tensor.nbytes for tensor in shard.values()) <= 50_000 or len(shard) == 1
