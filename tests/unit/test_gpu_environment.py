"""What CUDA, NCCL and Transformer Engine are told before they start."""

import os

import pytest

from nemo_bt.config.job import ParallelSettings
from nemo_bt.training.gpu_environment import gpu_environment, own_gpu, set_gpu_environment

HOPPER, BLACKWELL = (9, 0), (10, 0)


@pytest.mark.parametrize("axis", ["tensor_model_parallel_size", "context_parallel_size"])
def test_kernels_start_in_the_order_of_the_program_where_messages_overlap_with_them(axis: str) -> None:
    layout = ParallelSettings(**{axis: 2})
    name = "CUDA_DEVICE_MAX_CONNECTIONS"
    assert name not in gpu_environment(ParallelSettings(), HOPPER)
    assert gpu_environment(layout, HOPPER)[name] == gpu_environment(layout, None)[name] == "1"
    assert gpu_environment(layout, BLACKWELL)[name] == "32"


def test_messages_of_pipelines_go_in_large_pieces() -> None:
    name = "NCCL_P2P_NET_CHUNKSIZE"
    assert name not in gpu_environment(ParallelSettings(), HOPPER)
    assert gpu_environment(ParallelSettings(pipeline_model_parallel_size=2), HOPPER)[name] == "2097152"


def test_what_a_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in gpu_environment(ParallelSettings(tensor_model_parallel_size=2), HOPPER):
        monkeypatch.setenv(name, "mine")  # what is set below is taken away again
        monkeypatch.delenv(name)
    monkeypatch.setenv("TORCH_NCCL_HIGH_PRIORITY", "0")
    set_gpu_environment(ParallelSettings(tensor_model_parallel_size=2))  # without a GPU too
    assert os.environ["TORCH_NCCL_HIGH_PRIORITY"] == "0"
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF")
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:False")
    set_gpu_environment(ParallelSettings())
    assert "PYTORCH_CUDA_ALLOC_CONF" not in os.environ


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 0),
        ({"LOCAL_RANK": "3"}, 3),
        ({"SLURM_LOCALID": "2"}, 2),
        ({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "4,6"}, 6),
        ({"SLURM_LOCALID": "2", "CUDA_VISIBLE_DEVICES": "5"}, 5),
        ({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b"}, "GPU-b"),
    ],
)
def test_the_gpu_that_is_asked_is_the_ranks(
    environment: dict[str, str], expected: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_RANK", "SLURM_LOCALID", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert own_gpu() == expected
