"""Types of transformer_engine_torch: enumerations whose numbers matter, and names that are only compared."""

from __future__ import annotations

import enum
from typing import Any

import torch


class DType(enum.IntEnum):
    """Transformer Engine's dtypes."""

    kByte = 0
    kInt16 = 1
    kInt32 = 2
    kInt64 = 3
    kFloat32 = 4
    kFloat16 = 5
    kBFloat16 = 6
    kFloat8E4M3 = 7
    kFloat8E5M2 = 8
    kFloat8E8M0 = 9
    kFloat4E2M1 = 10


TORCH_DTYPES = {
    DType.kByte: torch.uint8,
    DType.kInt16: torch.int16,
    DType.kInt32: torch.int32,
    DType.kInt64: torch.int64,
    DType.kFloat32: torch.float32,
    DType.kFloat16: torch.float16,
    DType.kBFloat16: torch.bfloat16,
    DType.kFloat8E4M3: torch.float8_e4m3fn,
    DType.kFloat8E5M2: torch.float8_e5m2,
}

_GEMMS = (1, 2, 3)
FP8FwdTensors = enum.IntEnum(  # type: ignore[misc]
    "FP8FwdTensors", [f"GEMM{n}_{of}" for n in _GEMMS for of in ("INPUT", "WEIGHT", "OUTPUT")], start=0
)
FP8BwdTensors = enum.IntEnum(  # type: ignore[misc]
    "FP8BwdTensors", [f"GRAD_{of}{n}" for n in _GEMMS for of in ("OUTPUT", "INPUT")], start=0
)
FusedAttention = enum.IntEnum(  # type: ignore[misc]
    "NVTE_Fused_Attn_Backend",
    ["NVTE_F16_max512_seqlen", "NVTE_F16_arbitrary_seqlen", "NVTE_FP8", "NVTE_No_Backend"],
    start=0,
)


class FP8TensorMeta:
    """What delayed scaling keeps of a kind of tensor."""

    scale: Any = None
    scale_inv: Any = None
    amax_history: Any = None


class _NamedValues(type):
    """Gives each attribute a value of its own: its name."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


_COMPARED = (
    "NVTE_QKV_Layout", "NVTE_Mask_Type", "NVTE_Bias_Type", "NVTE_Softmax_Type", "NVTE_QKV_Format", "CommOverlapType",
    "CommOverlapAlgo", "Float8BlockScaleTensorFormat", "CommGemmOverlapAlgoConfig",
)  # fmt: skip
_NEVER_MADE = ("CommOverlapHelper", "CommOverlap", "CommOverlapP2P", "CommOverlapCore", "CommOverlapBase")


def types() -> dict[str, Any]:
    """Give all types by name."""
    return {
        "DType": DType,
        "FP8FwdTensors": FP8FwdTensors,
        "FP8BwdTensors": FP8BwdTensors,
        "NVTE_Fused_Attn_Backend": FusedAttention,
        "FP8TensorMeta": FP8TensorMeta,
        **{name: _NamedValues(name, (), {}) for name in _COMPARED},
        **{name: type(name, (), {}) for name in _NEVER_MADE},
    }
