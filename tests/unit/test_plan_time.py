"""Streams that a plan makes from lengths, and the seconds of a step, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from nemo_bt.batching.packing import PairParts
from nemo_bt.errors import UserError
from nemo_bt.flops import training_flops
from nemo_bt.planning.activations import part_bytes, part_units
from nemo_bt.planning.parameters import rank_parameters
from nemo_bt.planning.rows import StreamRows
from nemo_bt.planning.search import layouts, scaled
from nemo_bt.planning.state import state_bytes
from nemo_bt.planning.streams import Pairs, StreamLoad, drawn_pairs, mean_load, steps_of, streams_of_step
from nemo_bt.planning.time import stage_time, step_time
from nemo_bt.planning.traffic import bytes_sent, group_sizes, step_traffic
from nemo_bt.pretrained.architecture import architecture_of
from nemo_bt.training.checks import run_architecture
from tests.support.architectures import LLAMA3_8B
from tests.support.settings import plan_run_of


def test_drawn_lengths_have_the_quantiles_that_were_given() -> None:
    settings = plan_run_of("model=llama3_8b", "model.global_batch_size=40000")
    lengths = settings.plan.lengths
    parts = drawn_pairs(lengths, settings).parts_of_step(0)
    for quantile, tokens in zip(lengths.quantiles, lengths.response_tokens, strict=True):
        below = (parts.tokens_PK <= round(tokens)).mean()
        assert below == pytest.approx(quantile, abs=0.02)


def test_every_pair_of_a_step_is_in_one_stream_of_one_rank() -> None:
    settings = plan_run_of("model=llama3_8b", "trainer.devices=8", "model.context_parallel_size=2")
    pairs = drawn_pairs(settings.plan.lengths, settings)
    parts = pairs.parts_of_step(3)
    ranks = streams_of_step(settings, pairs, 3, hidden_size=4096)
    loads = [load for streams in ranks for load in streams]
    assert len(ranks) == 4
    assert sum(load.num_tokens for load in loads) == parts.prefix_tokens.sum() + parts.tokens_PK.sum()
    assert sum(load.rows.continuations for load in loads) == 2 * settings.model.global_batch_size
    assert all(load.rows.tokens % 16 == 0 and load.rows.tokens >= load.num_tokens for load in loads)


def test_flops_of_all_ranks_are_those_of_training() -> None:
    """On a machine of one FLOP/s; but for the last layer, of which scored rows alone are computed."""
    settings = plan_run_of(
        "model=llama3_8b",
        "trainer.devices=8",
        "model.tensor_model_parallel_size=2",
        "model.pipeline_model_parallel_size=2",
        "model.sequence_parallel=true",
    )
    cluster = replace(settings.cluster, flops=1.0, matmul_efficiency=1.0, attention_efficiency=1.0)
    architecture = run_architecture(settings, None, num_tokens=1)
    load = StreamLoad(StreamRows(4096, 10, 10), num_tokens=4096, num_attended=1_000_000)
    times = [
        stage_time(
            settings, architecture, cluster, stage, rank_parameters(architecture, settings.model, stage), load, 3
        )
        for stage in (0, 1)
    ]
    all_layers = training_flops(architecture_of(LLAMA3_8B), 3 * 4096, 0)
    outputs = 4096 * 4096 + 3 * 4096 * 14336
    assert 2 * sum(time.matmul for time in times) == pytest.approx(all_layers - 3 * 6 * outputs * (4096 - 10))
    forward = 4 * 4096 * 3 * 1_000_000 * 31
    assert 2 * sum(time.attention for time in times) == pytest.approx(3.5 * forward)


def test_segments_take_a_time_of_their_own() -> None:
    """Ten of each stream in every layer, and one forward pass more where layers are recomputed."""
    full = [f"model.activations_checkpoint_{key}" for key in ("granularity=full", "method=uniform", "num_layers=1")]
    for extra, passes in (([], 3.5), (full, 4.5)):
        settings = plan_run_of("model=llama3_8b", "trainer.devices=1", *extra)
        architecture = run_architecture(settings, None, num_tokens=1)
        load = StreamLoad(StreamRows(512, 10, 10), num_tokens=512, num_attended=1000)
        parameters = rank_parameters(architecture, settings.model, 0)
        seconds = [
            stage_time(
                settings, architecture, replace(settings.cluster, attention_segment_s=each_s), 0, parameters, load, 3
            ).attention
            for each_s in (0.0, 0.01)
        ]
        assert seconds[1] - seconds[0] == pytest.approx(0.01 * 3 * 10 * 32 * passes / 3.5)


def test_what_lies_between_products_may_take_longer_than_its_bytes() -> None:
    """What is kept of a stream is touched four times, the optimizer's state as fast as memory is."""
    settings = plan_run_of("model=llama3_8b", "trainer.devices=1")
    architecture = run_architecture(settings, None, num_tokens=1)
    load = StreamLoad(StreamRows(512, 10, 10), num_tokens=512, num_attended=1000)
    parameters = rank_parameters(architecture, settings.model, 0)

    def memory_s(bytes_per_s: float, elementwise: float | None, num_streams: int) -> float:
        cluster = replace(settings.cluster, memory_bytes_per_s=bytes_per_s, elementwise_bytes_per_s=elementwise)
        return stage_time(settings, architecture, cluster, 0, parameters, load, num_streams).memory

    stream_s = memory_s(1e9, None, 2) - memory_s(1e9, None, 1)
    assert memory_s(1e9, 5e8, 1) - memory_s(1e9, None, 1) == pytest.approx(stream_s)  # twice as long
    assert memory_s(1e9, 1e9, 1) == memory_s(1e9, None, 1)


def test_messages_take_the_time_of_their_link() -> None:
    """Tensor parallelism inside a node, data parallelism across nodes."""
    settings = plan_run_of(
        "model=llama3_8b", "trainer.devices=2", "trainer.num_nodes=2", "model.tensor_model_parallel_size=2"
    )
    links = {"node_bytes_per_s": 10.0, "node_latency_s": 0.0, "network_bytes_per_s": 1.0, "network_latency_s": 5.0}
    architecture = run_architecture(settings, None, num_tokens=1)
    parameters = rank_parameters(architecture, settings.model, 0)
    load = StreamLoad(StreamRows(512, 4, 4), num_tokens=512, num_attended=1000)
    time = stage_time(settings, architecture, replace(settings.cluster, **links), 0, parameters, load, 2)
    sizes = group_sizes(settings)
    sent = step_traffic(settings, architecture, parameters, 0, [load.rows, load.rows])
    inside = sum(count * bytes_sent(one, 2) for one, count in sent.items() if one.group == "tp")
    across = {one: count for one, count in sent.items() if one.group != "tp"}
    assert {one.group for one in across} == {"intra_dp_cp", "dp_cp", "instance", "world"}
    assert time.messages == pytest.approx(inside / 10)
    seconds = sum(count * (5 + bytes_sent(one, sizes[one.group])) for one, count in across.items())
    assert time.gradients == pytest.approx(seconds)


def test_a_step_takes_as_long_as_its_slowest_stage_and_rank() -> None:
    """Steps of other numbers of streams, and ranks of other loads, averaged over steps by hand."""
    settings = plan_run_of(
        "model=llama3_8b",
        "trainer.devices=8",
        "model.pipeline_model_parallel_size=2",
        "model.data.tokens_per_micro_batch=2500",
    )
    architecture = run_architecture(settings, None, num_tokens=1)
    steps = steps_of(settings, drawn_pairs(settings.plan.lengths, settings), 6, architecture.hidden_size)
    assert len({len(step[0]) for step in steps}) > 1
    parameters = {stage: rank_parameters(architecture, settings.model, stage) for stage in (0, 1)}
    seconds = [
        max(
            stage_time(settings, architecture, settings.cluster, stage, own, mean_load(streams), len(streams)).total
            for stage, own in parameters.items()
            for streams in step
        )
        for step in steps
    ]
    found = step_time(settings, architecture, settings.cluster, parameters, steps).total
    assert found == pytest.approx(sum(seconds) / len(seconds))
    assert max(seconds) > 1.1 * min(seconds)


def test_a_kernel_keeps_the_prefix_once_for_each_later_continuation() -> None:
    settings = plan_run_of("model=llama3_8b")
    numbers = np.arange(8).reshape(4, 2)
    parts = PairParts(
        prompt=np.zeros(4, dtype=np.int64),
        prefix_tokens=np.full(4, 300),
        start_PK=numbers,
        tokens_PK=np.full((4, 2), 20),
    )
    ((stream,),) = streams_of_step(settings, Pairs(lambda _: parts, 4), 0, hidden_size=4096)
    assert stream.num_tokens == 300 + 8 * 20
    assert stream.rows.continuations == 8
    assert stream.rows.copied == 7 * 300


def test_a_longer_stream_of_the_same_kind_has_more_of_everything() -> None:
    run = plan_run_of("model=llama3_8b", "trainer.accelerator=cpu")
    run = replace(run, model=replace(run.model, context_parallel_size=2))
    loads = [StreamLoad(StreamRows(100, 6, 3, 100), 100, 1), StreamLoad(StreamRows(100, 2, 1, 190), 100, 1)]
    assert scaled(loads, 1000, run) == StreamRows(1008, 60, 30, 1900)


def test_a_pipelines_step_by_hand() -> None:
    """One FLOP, byte or message a second: every part of a stage's time is a count."""
    settings = plan_run_of("model=llama3_8b", "trainer.devices=6", "model.pipeline_model_parallel_size=2")
    ones = {"flops": 1.0, "memory_bytes_per_s": 1.0, "node_bytes_per_s": 1.0, "node_latency_s": 1.0}
    cluster = replace(settings.cluster, **ones, network_bytes_per_s=None, network_latency_s=None)
    architecture = run_architecture(settings, None, num_tokens=1)
    parameters = rank_parameters(architecture, settings.model, 0)
    load = StreamLoad(StreamRows(512, 4, 4, 512), num_tokens=512, num_attended=1000)
    time = stage_time(settings, architecture, cluster, 0, parameters, load, 5)
    assert time.messages == 5 * (512 * 4096 * 2 + 1)  # to the next stage; what comes back is counted where it is sent
    kept, _ = part_bytes(part_units(architecture, settings.model, 0, 0, load.rows, 2, on_gpu=True))
    state = state_bytes(settings, parameters)
    assert time.memory == 5 * 4 * kept + 2 * state.optimizer + state.gradients + state.weights
    busy = time.matmul + time.attention + time.messages + 5 * 4 * kept
    assert time.bubble == pytest.approx(busy / 5)


def test_on_one_node_nothing_crosses_the_network() -> None:
    """Four ranks of six lie in a node as well, though they do not divide it; on two nodes they may not."""
    for num_nodes in (1, 2):
        settings = plan_run_of(
            "model=llama3_8b",
            "trainer.devices=6",
            f"trainer.num_nodes={num_nodes}",
            "model.tensor_model_parallel_size=4",
        )
        cluster = replace(settings.cluster, network_bytes_per_s=None)
        architecture = run_architecture(settings, None, num_tokens=1)
        parameters = rank_parameters(architecture, settings.model, 0)
        load = StreamLoad(StreamRows(512, 4, 4), num_tokens=512, num_attended=1000)
        if num_nodes == 1:
            assert stage_time(settings, architecture, cluster, 0, parameters, load, 1).messages > 0
        else:
            with pytest.raises(UserError, match="measured without such a link"):
                stage_time(settings, architecture, cluster, 0, parameters, load, 1)


def test_what_a_layer_keeps_on_a_gpu_by_hand() -> None:
    """Two layers of an 8 B model, of which the last keeps one row of its MLP; 512 tokens, 300 copied keys."""
    model = plan_run_of("model=llama3_8b", "model.num_layers=2").model
    architecture = run_architecture(plan_run_of("model=llama3_8b", "model.num_layers=2"), None, num_tokens=1)
    first, layer, _, _ = part_units(architecture, model, 0, 0, StreamRows(512, 1, 1, 300), dtype_bytes=2, on_gpu=True)
    width, keys, ffn, heads = 4096, 1024, 14336, 32
    norms_and_inputs = 512 * (4 * width * 2 + 2 * 4)
    attention = 512 * 2 * width * 2 + 512 * 2 * keys * 2 + 300 * 2 * keys * 2 + 512 * heads * 4
    assert layer.kept == norms_and_inputs + attention + 512 * width * 2 + 512 * 3 * ffn * 2
    assert first.kept == 512 * 8 + 512 * 128 * 4  # ids, and angles of a fused rotation


def test_what_is_tried() -> None:
    """No interleaving without a pipeline, no shared experts without any; sequence parallelism with tensor's."""
    run = plan_run_of(
        "model=llama3_8b",
        "plan.tensor_model_parallel_size=[1,2]",
        "plan.pipeline_model_parallel_size=[1,2]",
        "plan.virtual_pipeline_model_parallel_size=[null,2]",
        "plan.context_parallel_size=[1]",
        "plan.recompute_layers=[0]",
    )
    tried = list(layouts(run, has_experts=False))
    assert len(tried) == 2 * (1 + 2)
    assert len(list(layouts(run, has_experts=True))) == 4 * len(tried)
    assert all(model.sequence_parallel == (model.tensor_model_parallel_size > 1) for model in tried)
