"""Imports of NeMo: ten thousand modules, and a million objects that stay."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from nemo_bt.foreign.put_off import put_off


def import_nemo(on_gpu: bool) -> None:
    """Import NeMo and what nemo_bt builds on it, for GPUs or for the CPU."""
    from nemo_bt.cpu import device as cpu

    if on_gpu:  # Transformer Engine asks cuBLAS for TF32 whenever matrices are fp32; this is read before the first one
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    with _kept_from_collection(), put_off():
        cpu.leave_out_extension()
        if not on_gpu:
            cpu.install()
        import nemo.collections.llm.modelopt.distill.utils
        import nemo.collections.llm.modelopt.model_utils  # noqa: F401

        import nemo_bt.training.trainer  # noqa: F401

        if not on_gpu:
            cpu.after_nemo_import()


def import_nemo_here() -> None:
    """Import NeMo for what this machine has: GPUs, or the CPU."""
    import torch

    import_nemo(torch.cuda.is_available())


@contextmanager
def _kept_from_collection() -> Iterator[None]:
    """Keep the garbage collector from looking through what is imported, now and later.

    A whole collection takes half a second with NeMo's objects: several of them during the import, and at each save of
    Megatron's distributed optimizer (distrib_optimizer.py:1265).
    """
    if "nemo.lightning" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
