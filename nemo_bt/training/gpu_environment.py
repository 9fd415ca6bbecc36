"""Environment that CUDA, NCCL and Transformer Engine read when they start: one place for every way to launch a run.

Source: nemo/lightning/run/plugins.py, PerfEnvPlugin; megatron/core/model_parallel_config.py, tp_comm_overlap.
"""

from __future__ import annotations

import os

from nemo_bt.config.job import ParallelSettings

_BLACKWELL = (10, 0)
_OTHER_NAMES = {"PYTORCH_CUDA_ALLOC_CONF": "PYTORCH_ALLOC_CONF"}
"""torch reads the first of them that is there."""


def gpu_environment(layout: ParallelSettings, capability: tuple[int, int] | None) -> dict[str, str]:
    """Give the variables of a layout on a kind of GPU, by name.

    Args:
        capability: compute capability of the GPUs; None where it is not known.
    """
    found = {
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",  # streams of ever new lengths leave no holes
        "TORCH_NCCL_HIGH_PRIORITY": "1",
        "NVTE_FWD_LAYERNORM_SM_MARGIN": "16",  # multiprocessors that norms leave to messages
        "NVTE_BWD_LAYERNORM_SM_MARGIN": "16",
    }
    if layout.tensor_model_parallel_size > 1 or layout.context_parallel_size > 1:
        # Messages begin before the kernels that they overlap with only if kernels start in the order of the program.
        found["CUDA_DEVICE_MAX_CONNECTIONS"] = "32" if capability and capability >= _BLACKWELL else "1"
    if layout.pipeline_model_parallel_size > 1:
        found["NCCL_P2P_NET_CHUNKSIZE"] = str(2 * 2**20)
    return found


def set_gpu_environment(layout: ParallelSettings) -> None:
    """Set what nobody has set yet, by this name or another. CUDA must not have started: NVML is asked for the GPU."""
    for name, value in gpu_environment(layout, _capability()).items():
        if _OTHER_NAMES.get(name, name) not in os.environ:
            os.environ[name] = value


def _capability() -> tuple[int, int] | None:
    import pynvml

    try:
        pynvml.nvmlInit()
        name = own_gpu()
        by = pynvml.nvmlDeviceGetHandleByIndex if isinstance(name, int) else pynvml.nvmlDeviceGetHandleByUUID
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(by(name))
        return int(major), int(minor)
    except pynvml.NVMLError:  # some containers lack its library
        return None


def own_gpu() -> int | str:
    """Give the number or the UUID by which NVML knows this rank's GPU."""
    rank = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if visible == [""]:
        return rank
    name = visible[rank % len(visible)].strip()  # Slurm may show a task its own alone
    return int(name) if name.isdecimal() else name
