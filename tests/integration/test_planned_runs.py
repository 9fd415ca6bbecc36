"""What the planner counts of a layout, against what real runs at it allocate, keep, send and wait for."""

import pytest

from nemo_bt.planning.schedule import bubble
from tests.support.launches import Logs
from tests.support.layouts import BF16, FOLDERS, LAYOUTS, runs_of_all_layouts
from tests.support.recorded import (
    OneRank,
    activations_difference,
    bubble_of,
    by_operation_and_ranks,
    found_and_planned,
    settings_of,
)

planned_runs = runs_of_all_layouts
NAMES = [name for named in (*LAYOUTS.values(), *FOLDERS.values(), *BF16.values()) for name in named]
EVEN = [name for name in NAMES if "EP" not in name]
UNEVEN = [name for name in NAMES if "EP" in name]
"""Their experts lie on several ranks: what a rank holds and sends depends on where tokens go."""


@pytest.mark.parametrize("name", NAMES)
def test_weights_gradients_and_optimizer_have_the_bytes_that_megatron_allocates(logs: Logs, name: str) -> None:
    for found, planned in found_and_planned(logs / name):
        assert found.state == planned.state


@pytest.mark.parametrize("name", EVEN)
def test_every_message_of_a_step_is_foreseen(logs: Logs, name: str) -> None:
    for found, planned in found_and_planned(logs / name):
        assert found.messages == planned.messages


@pytest.mark.parametrize("name", UNEVEN)
def test_messages_are_as_many_as_foreseen_wherever_tokens_go(logs: Logs, name: str) -> None:
    ranks = found_and_planned(logs / name)
    for found, planned in ranks:
        assert by_operation_and_ranks(found) == by_operation_and_ranks(planned)
    found_bytes, planned_bytes = (sum(map(_bytes_to_experts, side)) for side in zip(*ranks, strict=True))
    assert found_bytes == planned_bytes


@pytest.mark.parametrize("name", NAMES)
def test_activations_are_foreseen(logs: Logs, name: str) -> None:
    """Where experts lie on several ranks, on the average of the ranks."""
    ranks = found_and_planned(logs / name)
    assert activations_difference(ranks, on_average=name in UNEVEN) < 0.02


@pytest.mark.parametrize("name", NAMES)
def test_ranks_compute_in_the_order_and_wait_as_long_as_foreseen(logs: Logs, name: str) -> None:
    ranks = found_and_planned(logs / name)
    assert [found.passes for found, _ in ranks] == [planned.passes for _, planned in ranks]
    model = settings_of(logs / name).model
    stages, parts = model.pipeline_model_parallel_size, model.virtual_pipeline_model_parallel_size or 1
    for pipeline in {found.pipeline for found, _ in ranks}:
        passes = [ranks[rank][0].passes for rank in pipeline]
        num_streams = len(passes[0]) // (2 * parts)
        assert bubble_of(passes) == pytest.approx(bubble(stages, parts, num_streams), abs=1e-12)


def _bytes_to_experts(one: OneRank) -> int:
    return sum(size * count for (operation, _, size), count in one.messages.items() if operation == "all_to_all")
