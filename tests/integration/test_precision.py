"""FP8: what is refused, what Megatron is told, and rows that are filled up without changing a reward or a gradient."""

import inspect
from dataclasses import fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_bt.batching.stream import build_stream
from nemo_bt.config.device import check_device
from nemo_bt.config.fp8 import check_gpu, fp8_options, row_multiple
from nemo_bt.config.loss import LossSettings
from nemo_bt.errors import UserError
from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from nemo_bt.training.checks import check_settings
from nemo_bt.training.steps.plan import layout_rules, step_rules
from tests.support.hf_models import build
from tests.support.random_groups import random_groups
from tests.support.runs import relative_difference
from tests.support.settings import settings_of

FP8 = ["model.fp8=hybrid", "trainer.precision=bf16-mixed"]
TP2 = ["trainer.devices=2", "model.tensor_model_parallel_size=2", "model.sequence_parallel=true"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.fp8=e5m2"], r"model\.fp8: expected hybrid, e4m3 or null, got e5m2"),
        (
            ["model.fp8_recipe=row"],
            r"model\.fp8_recipe: expected one of delayed, tensorwise, blockwise, mxfp8, got row",
        ),
        (["model.fp8_amax_compute_algo=mean"], r"expected one of most_recent, max, got mean"),
        (["model.attention_backend=unfused"], r"attention_backend: expected one of auto, fused, flash, local"),
        (["model.fp8_amax_history_len=0"], r"fp8_amax_history_len: expected more than 0, got 0"),
        (["model.fp8=e4m3"], r"model\.fp8=e4m3 needs trainer\.precision=bf16-mixed, got 32"),
        ([*FP8, "model.hidden_size=264", "model.kv_channels=32"], r"needs a multiple of 16: hidden_size=264 is none"),
        (
            [*FP8, *TP2, "model.hidden_size=320", "model.kv_channels=32", "model.fp8_recipe=blockwise"],
            r"needs a multiple of 128: hidden_size=320 is none",
        ),
        (
            [*FP8, "model.ffn_hidden_size=688", "model.fp8_recipe=mxfp8"],
            r"multiples of 32: ffn_hidden_size=688 is none",
        ),
        ([*FP8, "model.ffn_hidden_size=680"], r"multiples of 16: ffn_hidden_size=680 is none"),
        ([*FP8, *TP2, "model.ffn_hidden_size=688"], r"ffn_hidden_size=344 on each tensor-parallel rank is none"),
        ([*FP8, "model.kv_channels=20", "model.num_query_groups=2"], r"num_query_groups x kv_channels=40 is none"),
        (
            [*FP8, "model.first_last_layers_bf16=true", "model.fp8_recipe=delayed"],
            r"first_last_layers_bf16=true with model\.fp8_recipe=delayed",
        ),
        (
            [*FP8, "model.first_last_layers_bf16=true", "model.num_layers_at_end_in_bf16=4"],
            r"at_start_in_bf16=1 and .*=4: expected 0 or more, together at most num_layers=4",
        ),
    ],
)
def test_what_fp8_cannot_do_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_settings(settings_of(*overrides))


def test_ends_in_bf16_and_every_recipe_are_possible() -> None:
    ends = ["model.first_last_layers_bf16=true", "model.ffn_hidden_size=704"]
    for recipe in ("tensorwise", "blockwise", "mxfp8"):
        check_settings(settings_of(*FP8, *ends, f"model.fp8_recipe={recipe}"))
    check_settings(settings_of(*FP8, "model.fp8_recipe=delayed"))


def test_devices_that_have_no_fp8_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def recipe(name: str) -> Any:
        return settings_of(*FP8, f"model.fp8_recipe={name}")

    with pytest.raises(UserError, match=r"model\.fp8=hybrid needs a GPU, and this run is on the CPU"):
        check_device(recipe("tensorwise"), on_gpu=False)
    with pytest.raises(UserError, match=r"compute capability 8\.9, this one has 8\.0\. Set model\.fp8=null"):
        check_gpu(recipe("delayed"), (8, 0), "13.0")
    with pytest.raises(UserError, match=r"10\.0, this one has 9\.0\. Set .* to delayed or tensorwise or blockwise"):
        check_gpu(recipe("mxfp8"), (9, 0), "13.0")
    with pytest.raises(UserError, match=r"10\.0, this one has 9\.0\. Set model\.fp8_recipe to delayed or tensorwise\."):
        check_gpu(recipe("mxfp8"), (9, 0), "12.8")
    old = r"=blockwise needs CUDA 12\.9 or newer, and torch is built for CUDA 12\.8\. Set .* to delayed or tensorwise\."
    with pytest.raises(UserError, match=old):
        check_gpu(recipe("blockwise"), (9, 0), "12.8")
    for cuda in ("12.9", "12.10", "13.0"):
        check_gpu(recipe("blockwise"), (9, 0), cuda)
    check_gpu(recipe("tensorwise"), (9, 0), "12.8")
    check_gpu(settings_of("model.fp8_recipe=mxfp8"), (8, 0), "12.8")
    monkeypatch.setattr("nemo_bt.config.device.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs Transformer Engine: run make gpu-setup"):
        check_device(recipe("tensorwise"), on_gpu=True)


def test_names_are_those_of_nemos_plugin_and_of_megatrons_configuration() -> None:
    from megatron.core.transformer.transformer_config import TransformerConfig
    from nemo.lightning import MegatronMixedPrecision

    options = fp8_options(settings_of(*FP8, "model.fp8_recipe=delayed").model)
    assert options["fp8"] == "hybrid"
    assert options.keys() <= inspect.signature(MegatronMixedPrecision).parameters.keys()
    assert options.keys() <= {field.name for field in fields(TransformerConfig)}
    assert fp8_options(settings_of("model.fp8_recipe=delayed").model) == {}


def test_streams_are_as_long_as_the_recipe_takes_them() -> None:
    def multiple(*overrides: str) -> int:
        model = settings_of(*overrides).model
        return layout_rules(model, row_multiple(model)).tokens_multiple_of

    assert multiple("model.fp8_recipe=blockwise") == 1
    assert [multiple(*FP8, f"model.fp8_recipe={name}") for name in ("delayed", "tensorwise", "blockwise", "mxfp8")] == [
        16, 16, 128, 32,
    ]  # fmt: skip
    assert multiple(*FP8, *TP2) == 32
    assert multiple(*FP8, *TP2[:2]) == 16
    assert multiple(*FP8, "trainer.devices=4", *TP2[1:], "model.context_parallel_size=2") == 64


@pytest.mark.parametrize(
    ("budget", "multiple"), [(99, 1), (300, 2), (6144, 32), (12_799, 64), (12_800, 128), (65_536, 128)]
)
def test_streams_on_gpus_have_few_lengths(budget: int, multiple: int) -> None:
    """At most 1 % of the budget is filled up, and nothing on a CPU."""
    named = [f"model.data.tokens_per_micro_batch={budget}", "model.encoder_seq_length=32"]
    assert step_rules(settings_of(*named)).tokens_multiple_of == multiple <= max(1, budget / 100)
    assert step_rules(settings_of(*named, "trainer.accelerator=cpu")).tokens_multiple_of == 1
    assert step_rules(settings_of(*named, *FP8, "model.fp8_recipe=tensorwise")).tokens_multiple_of == max(16, multiple)


def note_rows(rows: list[int], module: Any, inputs: Any, output: torch.Tensor) -> None:
    rows.append(len(output))


@pytest.mark.skipif(find_spec("transformer_engine") is not None, reason="Transformer Engine would compute in FP8")
@pytest.mark.parametrize("shape", ["llama3.1, head size", "gemma2", "mixtral"])
def test_rows_filled_up_for_fp8_change_nothing(shape: str, one_rank: None, tmp_path: Path) -> None:
    from nemo_bt.model.config import reward_config
    from nemo_bt.model.reward_model import RewardModel

    build(shape).save_pretrained(tmp_path)
    pretrained, found = find_pretrained(str(tmp_path)), []
    for fp8 in (None, "hybrid"):
        config = reward_config(pretrained.architecture, seq_length=256)
        config.fp8, config.fp8_recipe = fp8, "blockwise"
        model = RewardModel(config, LossSettings())
        model.initial_weights, model._trainer = open_weights(pretrained, 0), None
        model.configure_model()
        stream = build_stream(random_groups(3, shared=True, seed=5), 0, multiple_of=row_multiple(config))
        rows: list[int] = []
        model.module.decoder.final_layernorm.register_forward_hook(partial(note_rows, rows))
        reward_C = model.module(stream.tokens_1T, stream.positions_1T, stream.segments_C5)
        (reward_C * torch.linspace(-1, 2, len(reward_C))).sum().backward()
        gradients = {name: p.grad for name, p in model.module.named_parameters()}
        assert (stream.tokens_1T.shape[1] % 128, rows[0] % 128) == (0, 0) if fp8 else rows == [len(reward_C)]
        found.append((reward_C, gradients))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-6)
    differences = {name: relative_difference(found[1][1][name], gradient) for name, gradient in found[0][1].items()}
    assert max(differences.values()) < 5e-6, max(differences, key=differences.__getitem__)
