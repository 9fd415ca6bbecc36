"""Rewards, loss and gradients of the pair stream equal transformers' on padded batches."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from nemo_bt.batching.stream import Comparison, TokenGroup, build_stream
from nemo_bt.config.loss import LossSettings
from nemo_bt.losses.choose import loss_function
from nemo_bt.pretrained.architecture import architecture_of
from tests.support.random_groups import VOCAB, random_groups, sequences
from tests.support.reference import hf_names, llama, padded_rewards
from tests.support.runs import relative_difference

LAYERS, HIDDEN, FFN, HEADS, GROUPS = 3, 64, 160, 8, 2


@pytest.fixture(scope="module")
def model(one_rank: None) -> Any:
    """A RewardGPT of one rank, built by NeMo's configuration."""
    from nemo_bt.model.config import reward_config
    from nemo_bt.model.reward_model import RewardModel

    hf_config = llama(VOCAB, LAYERS, HIDDEN, FFN, HEADS, GROUPS).config.to_dict() | {"initializer_range": 0.1}
    loss = LossSettings()
    reward_model = RewardModel(reward_config(architecture_of(hf_config), seq_length=256), loss)
    reward_model._trainer = None
    reward_model.configure_model()
    return reward_model


@pytest.fixture
def reference(model: Any) -> Any:
    hf = llama(VOCAB, LAYERS, HIDDEN, FFN, HEADS, GROUPS)
    gpt = {name: tensor.detach().clone() for name, tensor in model.module.named_parameters()}
    hf.load_state_dict(hf_names(gpt, hf.config))
    return hf


def rewards(model: Any, groups: list[TokenGroup], multiple_of: int = 1) -> torch.Tensor:
    stream = build_stream(groups, pad_id=0, multiple_of=multiple_of)
    return model.module(stream.tokens_1T, stream.positions_1T, stream.segments_C5)


@pytest.mark.parametrize("shared", [True, False], ids=["prompt shared", "prompt repeated"])
@pytest.mark.parametrize("num_continuations", [1, 2, 4])
def test_rewards_equal_transformers(model: Any, reference: Any, num_continuations: int, shared: bool) -> None:
    groups = random_groups(num_continuations, shared)
    expected = padded_rewards(reference, sequences(groups))
    assert rewards(model, groups).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert expected.std() > 0.1


def test_filling_changes_no_reward(model: Any) -> None:
    groups = random_groups(2, shared=True)
    torch.testing.assert_close(rewards(model, groups, multiple_of=64), rewards(model, groups), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shared", [True, False], ids=["prompt shared", "prompt repeated"])
@pytest.mark.parametrize("num_continuations", [2, 4])
def test_loss_and_every_gradient_equal_transformers(
    model: Any, reference: Any, num_continuations: int, shared: bool
) -> None:
    groups = random_groups(num_continuations, shared)
    stream = build_stream(groups, pad_id=0)
    reduction = model.training_loss_reduction
    reduction.setup(stream)
    loss_sum, num_pairs, _ = reduction(rewards(model, groups))
    model.zero_grad()
    (loss_sum / num_pairs).backward()
    hf = padded_rewards(reference, sequences(groups))
    by_group = hf.view(-1, num_continuations)
    gaps = [
        by_group[i, pair.sides[0]] - by_group[i, pair.sides[1]] for i, g in enumerate(groups) for pair in g.comparisons
    ]
    expected_loss = -torch.nn.functional.logsigmoid(torch.stack(gaps)).mean()
    expected_loss.backward()
    assert (loss_sum / num_pairs).item() == pytest.approx(expected_loss.item(), rel=1e-5)
    gradients = hf_names({name: p.grad for name, p in model.module.named_parameters()}, reference.config)
    expected = {name: p.grad for name, p in reference.named_parameters()}
    assert gradients.keys() == expected.keys()
    differences = {name: relative_difference(gradients[name], expected[name]) for name in expected}
    assert max(differences.values()) < 1e-5, differences


def test_a_stream_without_pairs_has_zero_loss_and_gradient(model: Any) -> None:
    stream = build_stream([], pad_id=0, multiple_of=2)
    reduction = model.training_loss_reduction
    reduction.setup(stream)
    loss_sum, num_pairs, _ = reduction(rewards(model, [], multiple_of=2))
    model.zero_grad()
    loss_sum.backward()
    assert (loss_sum.item(), num_pairs.item()) == (0.0, 0)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_no_language_model_head_is_allocated_and_names_are_transformer_engines(model: Any) -> None:
    names = {name: tuple(p.shape) for name, p in model.module.named_parameters()}
    assert names["output_layer.weight"] == (1, HIDDEN)
    assert names["decoder.layers.0.self_attention.linear_qkv.layer_norm_weight"] == (HIDDEN,)
    assert names["decoder.layers.0.mlp.linear_fc1.layer_norm_weight"] == (HIDDEN,)
    assert sum(shape == (VOCAB, HIDDEN) for shape in names.values()) == 1


def test_adam_without_decoupled_decay_is_refused(model: Any) -> None:
    from nemo_bt.cpu.device import GroupStepAdamW

    with pytest.raises(ValueError, match="expected decoupled weight decay"):
        GroupStepAdamW([torch.zeros(1)], lr=1.0, weight_decay=0.0, betas=(0.9, 0.9), eps=1e-8, adam_w_mode=False)


def test_margins_reach_the_loss_of_their_pair(model: Any) -> None:
    from nemo_bt.model.loss_reduction import PairLossReduction

    groups = random_groups(2, shared=True)
    groups = [replace(group, comparisons=(Comparison((0, 1), margin=0.3 * i),)) for i, group in enumerate(groups)]
    reduction = PairLossReduction(loss_function(LossSettings(margin=True)))
    reduction.setup(build_stream(groups, pad_id=0))
    reward = torch.randn(12)
    expected = sum(
        -torch.nn.functional.logsigmoid(reward[2 * i] - reward[2 * i + 1] - 0.3 * i).item() for i in range(6)
    )
    assert reduction(reward)[0].item() == pytest.approx(expected)


def test_head_starts_with_standard_deviation_of_one_over_root_hidden_plus_one(model: Any) -> None:
    from nemo_bt.model.reward_gpt import RewardHead

    head = RewardHead(4095, 1, config=model.config)
    assert head.weight.std().item() == pytest.approx(1 / 64, rel=0.05)


def test_head_computes_in_fp32_whatever_the_hidden_states_are(model: Any) -> None:
    from nemo_bt.model.reward_gpt import RewardHead

    head = RewardHead(HIDDEN, 1, config=model.config).bfloat16()
    hidden = torch.randn(5, 1, HIDDEN).bfloat16()
    got = head(hidden)
    assert got.dtype == torch.float32
    assert torch.equal(got, hidden[:, 0].float() @ head.weight[0].float())
