"""LoRA adapters as TRL's RewardTrainer leaves them give what PEFT's own merged model gives."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from nemo_bt.converters.peft_adapter import check_adapters, write_adapters
from nemo_bt.errors import UserError
from nemo_bt.pretrained.adapters import Adapters, WithAdapters, digest, trained_shapes
from nemo_bt.pretrained.convert import AsHf
from nemo_bt.pretrained.names import HF_HEAD
from nemo_bt.pretrained.resolve import find_pretrained, hf_tensors, open_weights
from tests.support.hf_models import save
from tests.support.tensors import Tensors

CASES: dict[str, dict[str, Any]] = {
    "attention": {"target_modules": ["q_proj", "v_proj"]},
    "all layers": {"target_modules": "all-linear"},
    "rslora": {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
    "ranks": {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 2}},
    "embeddings": {"target_modules": ["o_proj"], "modules_to_save": ["score", "embed_tokens"]},
}
WEIGHTS = "adapter_model.safetensors"


def adapt(folder: Path, base: str = "base", **options: Any) -> Path:
    """Adapters with random values on a base model without a head, beside it."""
    if not (folder / "base").exists():
        save("qwen3", folder / "base", classifier=False)
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=1)
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=6, **options))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.peft_config["default"].base_model_name_or_path = base
    adapted.save_pretrained(str(folder / "adapter"))
    return folder / "adapter"


def merged_by_peft(folder: Path) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=1)
    return PeftModel.from_pretrained(model, folder / "adapter").merge_and_unload().eval()


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_weights_are_those_that_peft_merges(case: str, tmp_path: Path) -> None:
    pretrained = find_pretrained(str(adapt(tmp_path, **CASES[case])))
    source = hf_tensors(pretrained)
    expected = merged_by_peft(tmp_path).state_dict()
    assert source.infos.keys() == expected.keys()  # the language model's head is tied
    for name, tensor in expected.items():
        assert torch.allclose(source.read(name), tensor, rtol=0, atol=1e-6)
        part = (slice(1, 3), slice(0, 5))[: tensor.dim()] if name != HF_HEAD else ()
        assert torch.allclose(source.read(name, part), tensor[part or ...], rtol=0, atol=1e-6)
    initial = open_weights(pretrained, 0)
    assert initial.has_head
    assert f"adapter: reward model (qwen3, Hugging Face folder) of adapters on {tmp_path / 'base'}, head kept" in (
        initial.description
    )


@torch.no_grad()
def test_rewards_are_those_of_the_merged_model(tmp_path: Path) -> None:
    source = hf_tensors(find_pretrained(str(adapt(tmp_path, target_modules="all-linear"))))
    merged = merged_by_peft(tmp_path)
    ids = torch.arange(1, 60)[None]
    expected = merged(ids).logits[0, 0]
    merged.load_state_dict({name: source.read(name) for name in source.infos})
    assert merged(ids).logits[0, 0] == pytest.approx(expected, abs=1e-6)


def test_the_wider_dtype_counts_for_all_tensors(tmp_path: Path) -> None:
    save("qwen3", tmp_path / "base", classifier=False, dtype=torch.bfloat16)
    pretrained = find_pretrained(str(adapt(tmp_path, target_modules=["q_proj"])))
    path = tmp_path / "adapter" / WEIGHTS
    save_file({name: tensor.float() for name, tensor in load_file(path).items()}, path)
    assert {info.dtype for info in open_weights(pretrained, 0).source.infos.values()} == {torch.float32}
    assert {info.dtype for info in open_weights(pretrained, 0, torch.bfloat16).source.infos.values()} == {
        torch.bfloat16
    }


def test_the_base_is_found_beside_or_here(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_pretrained(str(copied)).base
    moved = copied.rename(tmp_path / "adapter")
    with pytest.raises(UserError, match=r"adapters belong to base \(adapter_config\.json\), which is not there"):
        find_pretrained(str(moved))
    base = tmp_path / "copy" / "base"
    monkeypatch.chdir(base.parent)
    found = find_pretrained(str(moved))
    assert (found.base and found.base.path, found.tokenizer) == (Path("base"), moved)
    (base / "tokenizer_config.json").write_text("{}")
    assert find_pretrained(str(moved)).tokenizer == Path("base")
    (moved / "tokenizer_config.json").write_text("{}")
    assert find_pretrained(str(moved)).tokenizer == moved


def test_a_language_models_adapters_get_a_new_head(tmp_path: Path) -> None:
    save("qwen3", tmp_path / "base", classifier=False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    get_peft_model(model, config).save_pretrained(str(tmp_path / "adapter"))
    assert not open_weights(find_pretrained(str(tmp_path / "adapter")), 0).has_head


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model and adapters on it."""
    folder = tmp_path_factory.mktemp("peft")
    adapt(folder, target_modules=["q_proj"])
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """Adapters that a test may change, beside their base model."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy" / "adapter"


@pytest.mark.parametrize(
    "changed",
    [
        {"peft_type": "LOHA"},
        {"use_dora": True},
        {"bias": "all"},
        {"fan_in_fan_out": True},
        {"alpha_pattern": {"q_proj": 8}},
        {"init_lora_weights": "pissa"},
        {"a_field_of_the_future": True},
    ],
    ids=str,
)
def test_what_is_not_computed_is_refused_by_name(changed: dict[str, Any], copied: Path) -> None:
    config = json.loads((copied / "adapter_config.json").read_text())
    (copied / "adapter_config.json").write_text(json.dumps(config | changed))
    ((name, value),) = changed.items()
    with pytest.raises(UserError) as raised:
        find_pretrained(str(copied))
    assert f"{name}={value!r} is not computed here. Merge the adapters with PEFT" in str(raised.value)


def test_the_advice_to_merge_holds(made: Path, tmp_path: Path) -> None:
    merged_by_peft(made).save_pretrained(tmp_path / "merged")
    assert open_weights(find_pretrained(str(tmp_path / "merged")), 0).has_head


A, B = (f"base_model.model.model.layers.0.self_attn.q_proj.lora_{part}.weight" for part in "AB")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (A, torch.zeros(4, 60), r"adapters of model\.layers\.0\.self_attn\.q_proj\.weight: expected .* found"),
        (B, torch.zeros(128, 5), r"found \(128, 64\), \(4, 64\) and \(128, 5\)"),
        (B, None, r"found \(128, 64\), \(4, 64\) and None"),
        (A.replace("q_proj", "x_proj"), torch.zeros(4, 64), r"x_proj\.weight: expected .* found None"),
        ("base_model.model.v_head.weight", torch.zeros(1, 64), r"v_head\.weight belongs to nothing in the base model"),
        ("base_model.model.score.weight", None, "a reward model without its head"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(name: str, value: Any, message: str, copied: Path) -> None:
    path = copied / WEIGHTS
    tensors = load_file(path) | {name: value}
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, path)
    with pytest.raises(UserError, match=message):
        open_weights(find_pretrained(str(path.parent)), 0)


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("longer", r"expected adapters of every q_proj \(target_modules\) in the base model longer, found none of "),
        (None, r"adapter_config\.json: base_model_name_or_path: expected a path or a hub id, got none\."),
    ],
)
def test_another_base_than_that_of_the_training_is_refused(base: str | None, told: str, copied: Path) -> None:
    save("qwen3", copied.parent / "longer", classifier=False, num_hidden_layers=6)
    file = copied / "adapter_config.json"
    config = json.loads(file.read_text()) | {"base_model_name_or_path": base}
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"{told}.*Set base_model_name_or_path in adapter_config\.json to the model"):
        open_weights(find_pretrained(str(copied)), 0)
    if base:  # where the settings leave layers out, it may be their model
        file.write_text(json.dumps(config | {"layers_to_transform": [0, 1, 2, 3]}))
        assert open_weights(find_pretrained(str(copied)), 0).has_head


def test_files_that_cannot_be_read_are_refused(copied: Path) -> None:
    (copied / WEIGHTS).rename(copied / "adapter_model.bin")
    with pytest.raises(UserError, match=r"expected adapter_model\.safetensors .*pickles, which can run code"):
        open_weights(find_pretrained(str(copied)), 0)
    config = json.loads((copied / "adapter_config.json").read_text())
    for text in ("{", "[]", json.dumps(config | {"lora_alpha": "x"})):
        (copied / "adapter_config.json").write_text(text)
        with pytest.raises(UserError, match=r"adapter_config\.json: expected peft_type, base_model_name_or_path"):
            find_pretrained(str(copied))
    for base, message in ((".", "expected a Hugging Face folder"), ("adapter", "names itself as its base")):
        (copied / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
        with pytest.raises(UserError, match=message):
            find_pretrained(str(copied))


@pytest.mark.parametrize("shape", ["qwen3", "phi3", "nemotron"])
@torch.no_grad()
def test_adapters_of_a_run_are_peft_s_own_and_come_back(shape: str, tmp_path: Path) -> None:
    """PEFT's merged model has the weights of the merged checkpoint; and so has what is read again."""
    base = save(shape, tmp_path / "base", classifier=False)
    pretrained = find_pretrained(str(base))
    initial = open_weights(pretrained, head_seed=1)
    modules = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")
    draw = torch.Generator().manual_seed(2)
    shapes = trained_shapes(initial.source.infos, modules, 4)
    trained = Tensors({name: torch.randn(size, generator=draw) / 10 for name, size in shapes.items()})
    adapters = Adapters(str(base), modules, 4, 6.0, digest(initial.source))
    merged = AsHf(WithAdapters(initial.source, trained, adapters, "x"), pretrained.architecture)
    expected = dict(merged.tensors())
    (tmp_path / "written").mkdir()
    write_adapters(tmp_path / "written", adapters, trained, pretrained.architecture)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    found = PeftModel.from_pretrained(model, tmp_path / "written").merge_and_unload().state_dict()
    again = hf_tensors(find_pretrained(str(tmp_path / "written")))
    assert found.keys() == expected.keys() == again.infos.keys() - {"lm_head.weight"}
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=0, atol=1e-6), name
        assert torch.allclose(again.read(name), tensor, rtol=0, atol=1e-6), name


def test_only_adapters_on_a_folder_can_be_written_for_peft(made: Path) -> None:
    with pytest.raises(UserError, match=r"--adapters: .*base has no adapters\. Leave it out"):
        check_adapters(find_pretrained(str(made / "base")))
    of_nemo = replace(find_pretrained(str(made / "base")), nemo_file=object())
    adapters = Adapters("base.nemo", ("linear_qkv",), 4, 6.0, "")
    with pytest.raises(UserError, match=r"they belong to base\.nemo, and PEFT needs a Hugging Face folder"):
        check_adapters(replace(find_pretrained(str(made / "base")), adapters=adapters, base=of_nemo))
