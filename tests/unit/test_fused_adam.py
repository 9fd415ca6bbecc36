"""An optimizer that steps some parameters at a time does what it does with all at once."""

from copy import deepcopy

import pytest
import torch

from nemo_bt.cpu.adam import GroupStepAdamW
from nemo_bt.training.fused_adam import bounds, in_parts

OPTIONS = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.95), "eps": 1e-8}
SIZES = (2, 3, 4, 9, 1)


def test_parts_hold_at_most_so_many_elements_or_one_parameter() -> None:
    assert bounds(SIZES, 5) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert bounds((), 5) == []


class Counted(GroupStepAdamW):
    """Keeps the sizes of what it is given in each step."""

    seen: list[list[int]]

    def step(self, closure: None = None) -> None:
        self.seen = [*getattr(self, "seen", []), [p.numel() for group in self.param_groups for p in group["params"]]]
        super().step()


@pytest.mark.parametrize("without_gradient", [(), (3,), (0, 1, 2, 3, 4)])
def test_three_steps_give_the_same_bits(without_gradient: tuple[int, ...]) -> None:
    whole = [torch.nn.Parameter(torch.randn(size)) for size in SIZES]
    cut = deepcopy(whole)
    expected = GroupStepAdamW([{"params": whole[:4]}, {"params": whole[4:], "lr": 1e-3}], **OPTIONS)
    found = in_parts(Counted, most=5)([{"params": cut[:4]}, {"params": cut[4:], "lr": 1e-3}], **OPTIONS)
    for _ in range(3):
        for number, (one, other) in enumerate(zip(whole, cut, strict=True)):
            if number not in without_gradient:
                one.grad = torch.randn_like(one)
                other.grad = one.grad.clone()
        expected.step()
        found.step()
    assert found.seen == [[2, 3], [4], [9], [1]] * 3
    assert all(torch.equal(one, other) for one, other in zip(whole, cut, strict=True))
    assert [len(group["params"]) for group in found.param_groups] == [4, 1]
    assert [group.get("step") for group in found.param_groups] == [group.get("step") for group in expected.param_groups]
    assert found.param_groups[0].get("step") == (None if len(without_gradient) == 5 else 3)
