"""A head with a hidden layer: drawn, read under INF-ORM's names, written and loaded again, and what is no such head."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from converters.alike import check_same_architecture
from nemo_bt.config.loss import RewardHeadSettings
from nemo_bt.errors import UserError
from nemo_bt.pretrained.architecture import architecture_of
from nemo_bt.pretrained.attributes import combined, with_head
from nemo_bt.pretrained.head import new_heads
from nemo_bt.pretrained.mean import Mean
from nemo_bt.pretrained.names import HEADS
from nemo_bt.pretrained.resolve import InitialWeights, find_pretrained, open_weights, with_head_row
from nemo_bt.pretrained.two_layer_classifier import TwoLayerHeadForSequenceClassification
from nemo_bt.pretrained.two_layer_head import OWN_CLASS, OWN_FILE
from tests.support.converted import replace_tensors, tensors, to_hf, to_nemo
from tests.support.hf_models import SHAPES, hf_config_of, save
from tests.support.two_layers import INF_ORM, hf_config_with, plain_rewards, random_head, with_two_layers

LLAMA = "llama3.1, head size"
FIELD = "reward_head_hidden_size"
TEXTS = [torch.arange(start, start + length) for start, length in ((1, 30), (50, 17), (200, 44))]


def opened(folder: Path) -> InitialWeights:
    return open_weights(find_pretrained(str(folder)), 0)


def there_and_back(folder: Path) -> Path:
    initial = opened(folder)
    nemo = to_nemo(initial.pretrained, initial, folder.with_suffix(".nemo"))
    return to_hf(opened(nemo), folder.with_name("back"))


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def padded(left: bool) -> torch.Tensor:
    longest = max(map(len, TEXTS))
    return torch.stack([torch.nn.functional.pad(ids, (longest - len(ids), 0)[:: 1 if left else -1]) for ids in TEXTS])


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_every_family_comes_back_and_gives_its_rewards_in_transformers(shape: str, tmp_path: Path) -> None:
    """By the file beside the weights alone, one text at a time and in a batch with its padding on either side."""
    folder = with_two_layers(tmp_path / "hf", shape, size=24, num_rows=2, reward_attributes={"a": 1.0, "b": -0.5})
    back = there_and_back(folder)
    expected, found = tensors(folder), tensors(back)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    config = config_of(back)
    assert (config["architectures"], config[FIELD], config["num_labels"]) == ([OWN_CLASS], 24, 2)
    (back / "config.json").write_text(json.dumps(config | {"pad_token_id": 0}))
    options: Any = {"trust_remote_code": True, "dtype": torch.float32, "attn_implementation": "eager"}
    model = AutoModelForSequenceClassification.from_pretrained(back, **options).eval()
    rewards = plain_rewards(folder, TEXTS)
    assert rewards.std(0).min() > 1e-3
    alone = torch.stack([model(ids[None]).logits[0] for ids in TEXTS])
    torch.testing.assert_close(alone, rewards, rtol=1e-5, atol=1e-5)
    for left in (False, True):
        ids = padded(left)
        given = {"input_ids": ids, "attention_mask": (ids != 0).long()}
        if left:  # as `generate` does; a classifier's positions count the padding
            given["position_ids"] = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
        torch.testing.assert_close(model(**given).logits, rewards, rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / OWN_FILE.name).read_bytes() == OWN_FILE.read_bytes()
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again", trust_remote_code=True)
    assert torch.equal(again.score[0].weight, model.score[0].weight)
    assert opened(tmp_path / "again").has_head


def test_inf_orms_own_folder_is_known_by_its_name(tmp_path: Path) -> None:
    folder = with_two_layers(tmp_path / "hf", LLAMA, architectures=[INF_ORM])
    assert FIELD not in config_of(folder)
    initial = opened(folder)
    assert initial.has_head
    assert initial.description.endswith(", hidden layer of 64")
    back = there_and_back(folder)
    config = config_of(back)
    assert (config["architectures"], config[FIELD]) == ([INF_ORM], 64)
    assert config["auto_map"] == {"AutoModelForSequenceClassification": f"{OWN_FILE.stem}.{OWN_CLASS}"}
    assert all(torch.equal(tensor, tensors(folder)[name]) for name, tensor in tensors(back).items())


@pytest.mark.parametrize(
    ("shape", "size", "num_rows", "expected"),
    [(LLAMA, 64, 1, INF_ORM), (LLAMA, 24, 1, OWN_CLASS), ("qwen2", 64, 1, OWN_CLASS)],
)
def test_inf_orms_name_is_given_where_its_class_computes_the_same(
    shape: str, size: int, num_rows: int, expected: str, tmp_path: Path
) -> None:
    """rewardbench's class of that name is a Llama with a hidden layer as wide as the model."""
    back = there_and_back(with_two_layers(tmp_path / "hf", shape, size, num_rows))
    assert config_of(back)["architectures"] == [expected]


def test_tensors_tell_the_width_where_nothing_else_does(tmp_path: Path) -> None:
    folder = with_two_layers(tmp_path / "hf", "qwen2", size=40)
    assert find_pretrained(str(folder)).architecture.head_hidden_size == 40
    model = TwoLayerHeadForSequenceClassification.from_pretrained(folder, config=hf_config_with(folder, 40))
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    config = config_of(tmp_path / "shards")
    (tmp_path / "shards" / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != FIELD}))
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    assert opened(tmp_path / "shards").pretrained.architecture.head_hidden_size == 40


def test_a_new_head_keeps_the_mean_square_of_what_the_model_gives() -> None:
    """He et al. keep the mean square through a ReLU; the last layer is drawn as a linear head, and first."""
    generators = [torch.Generator().manual_seed(5) for _ in range(3)]
    linear, head, again = (new_heads(512, size, 200, g) for size, g in zip((None, 512, 512), generators, strict=True))
    assert list(linear) == ["output_layer.weight"]
    assert torch.equal(linear["output_layer.weight"], head["output_layer.weight"])
    assert all(torch.equal(head[name], again[name]) for name in HEADS)
    assert not head["output_layer.bias"].any()
    assert not head["output_layer.hidden.bias"].any()
    assert head["output_layer.hidden.weight"].std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.01)
    hidden = torch.randn(100, 512, generator=torch.Generator().manual_seed(6))
    inner = (hidden @ head["output_layer.hidden.weight"].T).clamp(min=0)
    assert inner.square().mean().item() == pytest.approx(hidden.square().mean().item(), rel=0.03)


def test_a_base_model_gets_the_head_that_is_asked_for(tmp_path: Path) -> None:
    base = find_pretrained(str(save(LLAMA, tmp_path / "hf", classifier=False)))
    asked = with_head(base, RewardHeadSettings(hidden_size=24, attributes=["a", "b"]))
    heads = [open_weights(asked, seed).source for seed in (1, 1, 2)]
    shapes = {name: heads[0].infos[name].shape for name in HEADS}
    assert list(shapes.values()) == [(2, 24), (2,), (24, 64), (24,)]
    assert all(torch.equal(heads[0].read(name), heads[1].read(name)) for name in HEADS)
    assert not torch.equal(heads[0].read(HEADS[2]), heads[2].read(HEADS[2]))
    assert with_head(asked, RewardHeadSettings(hidden_size=24)).architecture.head_hidden_size == 24


def test_a_reward_model_keeps_its_head(tmp_path: Path) -> None:
    two = find_pretrained(str(with_two_layers(tmp_path / "two", LLAMA, architectures=[INF_ORM])))
    assert with_head(two, RewardHeadSettings()).architecture.head_hidden_size == 64
    with pytest.raises(UserError, match=r"hidden_size=24: .*two is a reward model whose head has a hidden layer of 64"):
        with_head(two, RewardHeadSettings(hidden_size=24))
    one = find_pretrained(str(save(LLAMA, tmp_path / "one")))
    message = r"hidden_size=24: .*one is a reward model whose head has no hidden layer\. Leave the setting out to keep"
    with pytest.raises(UserError, match=message):
        with_head(one, RewardHeadSettings(hidden_size=24))


@torch.no_grad()
def test_one_reward_of_attributes_is_their_sum_exactly(tmp_path: Path) -> None:
    """The last layer is linear, its bias with it."""
    weights = {"a": 0.75, "b": -2.0}
    folder = with_two_layers(tmp_path / "hf", "qwen2", 24, 2, reward_attributes=weights)
    one = to_hf(combined(opened(folder), weights), tmp_path / "one")
    assert (config_of(one)["num_labels"], config_of(one)[FIELD]) == (1, 24)
    expected = plain_rewards(folder, TEXTS) @ torch.tensor(list(weights.values()))
    torch.testing.assert_close(plain_rewards(one, TEXTS)[:, 0], expected, rtol=1e-6, atol=1e-6)


def test_a_row_of_a_classifier_is_taken_with_its_bias(tmp_path: Path) -> None:
    folder = with_two_layers(tmp_path / "hf", "qwen2", 24, 3)
    with pytest.raises(UserError, match="a classifier of 3 labels, not a reward model"):
        opened(folder)
    back = tensors(to_hf(open_weights(with_head_row(find_pretrained(str(folder)), 1), 0), tmp_path / "row"))
    before = tensors(folder)
    assert torch.equal(back["score.2.weight"], before["score.2.weight"][1:2])
    assert torch.equal(back["score.2.bias"], before["score.2.bias"][1:2])
    assert torch.equal(back["score.0.weight"], before["score.0.weight"])


def test_a_mean_is_taken_of_every_tensor_of_the_head(tmp_path: Path) -> None:
    one = with_two_layers(tmp_path / "one", "qwen2", 24)
    other = shutil.copytree(one, tmp_path / "other")
    replace_tensors(other, {name: 3 * tensor for name, tensor in tensors(one).items()})
    mean = Mean([opened(one).source, opened(other).source])
    for name in HEADS:
        torch.testing.assert_close(mean.read(name), 2 * opened(one).source.read(name))


def test_models_with_other_heads_have_no_mean(tmp_path: Path) -> None:
    folders = (with_two_layers(tmp_path / "two", "qwen2", 24), save("qwen2", tmp_path / "one"))
    with pytest.raises(UserError, match=rf"one: {FIELD}: expected 24 as in .*two, found none\."):
        check_same_architecture([find_pretrained(str(folder)) for folder in folders])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"score.0.bias": None}, r"score\.0\.bias is missing; expected"),
        ({"score.2.weight": torch.zeros(1, 9)}, r"score\.2\.weight: expected shape \[1, 24\], found \[1, 9\]"),
        ({"score.weight": torch.zeros(1, 64)}, r"expected the head score\.0\.bias, .*, found score\.weight is there"),
        (dict.fromkeys(random_head(1, 1, 1)), "a reward model without its head"),
    ],
)
def test_a_head_that_is_not_whole_is_refused(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = with_two_layers(tmp_path / "hf", "qwen2", 24, **{FIELD: 24})
    replace_tensors(folder, changed)
    with pytest.raises(UserError, match=message):
        opened(folder)


@pytest.mark.parametrize("size", [0, -1, "wide", 1.5, True])
def test_a_width_that_is_none_is_refused(size: Any) -> None:
    config = architecture_of(hf_config_of(LLAMA) | {FIELD: size})
    with pytest.raises(UserError, match=rf"config\.json: {FIELD}: expected a whole number from 1, got {size!r}"):
        _ = config.head_hidden_size
