"""Kernels of Transformer Engine that go over many tensors, and questions about the machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nemo_bt.phantom.ledger import Ledger
from nemo_bt.phantom.te_shapes import empty, expect_on_device

_ADAM = (
    "multi_tensor_adam", "multi_tensor_adam_param_remainder", "multi_tensor_adam_fp8", "multi_tensor_adam_capturable",
    "multi_tensor_adam_capturable_master", "multi_tensor_sgd", "multi_tensor_compute_scale_and_scale_inv",
)  # fmt: skip
_CUBLAS = 130000


def functions(ledger: Ledger) -> dict[str, Callable[..., Any]]:
    """Give the functions by name."""

    def multi_tensor_l2norm(chunk: int, noop: Any, lists: Any, per_tensor: bool = False) -> Any:
        _expect(lists)
        return empty((1,), torch.float32), empty((len(lists[0]) if per_tensor else 0,), torch.float32)

    def multi_tensor_unscale_l2norm(chunk: int, noop: Any, lists: Any, *_: Any) -> Any:
        return multi_tensor_l2norm(chunk, noop, lists)

    def in_place(chunk: int, noop: Any, lists: Any, *_: Any) -> None:
        _expect(lists)

    def device_supports_multicast(*_: Any) -> bool:
        return False

    def get_stream_priority_range(*_: Any) -> tuple[int, int]:
        return 0, -5

    answers: dict[str, Any] = {
        "get_cudnn_version": torch.backends.cudnn.version(),
        "get_cublasLt_version": _CUBLAS,
        "get_num_cublas_streams": 4,
        "ubuf_built_with_mpi": False,
    }
    made = (multi_tensor_l2norm, multi_tensor_unscale_l2norm, device_supports_multicast, get_stream_priority_range)
    return {
        **{one.__name__: one for one in made},
        **dict.fromkeys((*_ADAM, "multi_tensor_scale"), in_place),
        **{name: _answering(answer) for name, answer in answers.items()},
    }


def _answering(answer: Any) -> Callable[..., Any]:
    return lambda *_: answer


def _expect(lists: Any) -> None:
    """Check that the lists run in step, on the device.

    Raises:
        ValueError: tensors at one place of the lists differ in size.
    """
    for tensors in zip(*lists, strict=True):
        expect_on_device(**{f"list {number}": tensor for number, tensor in enumerate(tensors)})
        sizes = {tensor.numel() for tensor in tensors}
        if len(sizes) > 1 and all(tensor.numel() > 1 for tensor in tensors):
            raise ValueError(f"expected tensors of one size, got {sorted(sizes)}")
