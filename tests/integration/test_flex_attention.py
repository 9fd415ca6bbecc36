"""FlexAttention in a whole model, and as torch.compile makes it: on a CPU it has a kernel without gradients."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from nemo_bt.batching.context_shards import context_shard
from nemo_bt.batching.stream import PairStream, build_stream
from nemo_bt.config.loss import LossSettings
from nemo_bt.model.attention.blocked import blocked_attention
from nemo_bt.model.attention.flex import segment_flex_attention
from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from tests.support.attention import RULES, dense_flex
from tests.support.hf_models import save
from tests.support.random_groups import random_groups


def rewards_and_gradients(folder: Path) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    from nemo_bt.model.config import reward_config
    from nemo_bt.model.reward_model import RewardModel

    pretrained = find_pretrained(str(folder))
    model: Any = RewardModel(reward_config(pretrained.architecture, seq_length=256), LossSettings())
    model.initial_weights, model._trainer = open_weights(pretrained, 0), None
    model.configure_model()
    stream = build_stream(random_groups(3, shared=True, seed=5), pad_id=0, multiple_of=128)
    rewards = model.module(stream.tokens_1T, stream.positions_1T, stream.segments_C5)
    (rewards * torch.linspace(-1, 1, rewards.numel()).view_as(rewards)).sum().backward()
    return rewards.detach(), {name: x.grad for name, x in model.module.named_parameters() if x.grad is not None}


def test_a_gemma_2_has_the_rewards_and_gradients_of_attention_in_blocks(
    one_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nemo_bt.model.attention.module import SegmentAttention

    expected, expected_gradients = rewards_and_gradients(save("gemma2", tmp_path / "gemma2"))
    attended: list[tuple[int, bool]] = []

    def by_flex_attention(self: Any, *_: Any) -> Any:
        attended.append((self.rule.window, self.rule.only_scored))
        return partial(segment_flex_attention, kernel=dense_flex)

    monkeypatch.setattr(SegmentAttention, "_implementation", by_flex_attention)
    found, gradients = rewards_and_gradients(tmp_path / "gemma2")
    assert attended == [(16, False), (0, False), (16, False), (0, True)]
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        other = expected_gradients[name]
        assert (gradient - other).norm() <= 1e-5 * other.norm(), name


def test_streams_of_every_length_and_window_take_three_compilations_and_one_for_each_mode_of_gradients() -> None:
    """A ninth would end a run. Training, a forward pass that is computed again and validation are three modes."""
    counters.clear()
    for num_seeds, multiple_of in ((1, 128), (3, 128), (2, 1), (1, 16), (4, 64)):
        groups = [group for seed in range(num_seeds) for group in random_groups(3, shared=True, seed=seed)]
        with torch.no_grad():
            compare(build_stream(groups, 0, multiple_of))
    assert 1 <= counters["stats"]["unique_graphs"] <= 3
    with torch.inference_mode():
        compare(build_stream(random_groups(2, shared=True), 0))
    assert counters["stats"]["unique_graphs"] <= 4


def compare(stream: PairStream) -> None:
    """The compiled kernel with attention in blocks: each window, the scored rows alone, and half of the rows."""
    num_tokens = stream.tokens_1T.shape[1]
    generator = torch.Generator().manual_seed(0)
    for name in ("softcap", "window and softcap"):
        for only_scored, num_ranks in ((False, 1), (True, 1), (False, 1 if num_tokens % 16 else 2)):
            rule = replace(RULES[name], only_scored=only_scored)
            shard = context_shard(num_tokens, num_ranks)
            query = torch.randn(num_tokens // num_ranks, 4, 16, generator=generator)
            key, value = (torch.randn(num_tokens, 2, 16, generator=generator) for _ in range(2))
            arguments = (query, key, value, stream.segments_C5, rule, shard)
            found, expected = segment_flex_attention(*arguments), blocked_attention(*arguments)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
