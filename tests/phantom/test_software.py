"""Runs on GPUs whose software lacks something: what they compute with instead, what they say, and where they end."""

import os
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.errors import UserError
from nemo_bt.observability.events import read_events
from nemo_bt.phantom.record import Record
from nemo_bt.phantom.spec import Gpu
from tests.support.phantom import traced
from tests.support.traced_runs import LLAMA_8B, Traced

pytestmark = pytest.mark.skipif(not os.environ.get("NEMO_BT_TEST_PHANTOM"), reason="make test-phantom")

FUSED = Traced([*LLAMA_8B, "model.attention_backend=fused"])


def attention_of(record: Record, folder: Path) -> Any:
    """What the run's facts say of it."""
    assert record.failure is None
    (event,) = [event for event in read_events(folder / "run") if event["event"] == "attention"]
    return event["kernels"], event["warnings"]


def test_a_faulty_cudnn_computes_no_attention(dataset: Path, tmp_path: Path) -> None:
    record = traced(FUSED, dataset, tmp_path, Gpu(cudnn=91001))
    kernels, warnings = attention_of(record, tmp_path)
    assert kernels == {"layers": "flash (FlashAttention 2)"}
    (warning,) = warnings
    assert warning.startswith("model.attention_backend=fused: it needs cuDNN 9.6.0 or newer, and not 9.10.0 and 9.10.1")
    assert warning.endswith("found 9.10.1. flash computes attention in its place.")
    launches = record.steps[-1].launches
    assert launches["_flash_attention_forward"] > 0
    assert "fused_attn_fwd" not in launches


def test_another_cudnn_does(dataset: Path, tmp_path: Path) -> None:
    record = traced(FUSED, dataset, tmp_path, Gpu(cudnn=91002))
    assert attention_of(record, tmp_path) == ({"layers": "fused"}, [])
    assert record.steps[-1].launches["fused_attn_fwd"] > 0


def test_a_package_of_flash_attention_3_is_used(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    operators = "".join(f'library.define("{name}(Tensor q) -> Tensor")\n' for name in ("fwd", "bwd"))
    package = f'from torch.library import Library\nlibrary = Library("flash_attn_3", "DEF")\n{operators}'
    (tmp_path / "flash_attn_interface.py").write_text(package)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    record = traced(Traced(LLAMA_8B), dataset, tmp_path)
    assert attention_of(record, tmp_path) == ({"layers": "flash (FlashAttention 3)"}, [])


def test_blockwise_ends_with_an_older_cuda_before_anything_starts(dataset: Path, tmp_path: Path) -> None:
    run = Traced([*LLAMA_8B, "model.fp8=hybrid", "model.fp8_recipe=blockwise"])
    with pytest.raises(UserError, match=r"=blockwise needs CUDA 12\.9 or newer, and torch is built for CUDA 12\.8\."):
        traced(run, dataset, tmp_path, Gpu(cuda="12.8"))
    assert not (tmp_path / "run" / "events.jsonl").exists()
