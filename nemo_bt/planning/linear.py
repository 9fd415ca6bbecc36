"""Bytes that the linear layers of one transformer layer keep of their inputs, for the gradients of their weights.

Transformer Engine in FP8 keeps an input as its kernels read it, in a byte for each value; but the projection behind
attention, which keeps what attention keeps anyway, unless scaling is delayed. A frozen weight needs no input; an
adapter beside it does. Source: transformer-engine 2.9, pytorch/module/{layernorm_linear,linear,grouped_linear}.py;
megatron-core 0.15.3, transformer/attention.py; nemo_toolkit 2.7.3, collections/llm/peft/{lora,utils}.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_bt.config.model import ModelSettings
from nemo_bt.planning.rows import sequence_ranks

SCALE_BYTES = {"delayed": 0.0, "tensorwise": 0.0, "blockwise": 4 / 128, "mxfp8": 1 / 32}
"""Bytes of scales for each value of an input, by recipe: one in fp32 for 128 values, or one of a byte for 32."""
QKV, PROJECTION, FC1, FC2 = "linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"


@dataclass(frozen=True)
class Linears:
    """Linear layers of one transformer layer.

    Args:
        dtype_bytes: size of a value that is not in FP8.
        on_gpu: they are Transformer Engine's, which keeps a norm's output whether or not the weight is frozen.
        in_fp8: they compute in FP8.
    """

    model: ModelSettings
    dtype_bytes: int
    on_gpu: bool
    in_fp8: bool

    def normed(self, name: str, rows: int, width: int) -> int:
        """Count what is kept of a norm's output, the input of the linear layer behind it.

        Args:
            rows: rows of the norm, of which sequence-parallel ranks have a share.
        """
        lora = self.model.peft.lora
        if not lora:
            return self._as_computed(rows * width)
        if name not in lora.target_modules:
            return 0
        gathered = rows * sequence_ranks(self.model)
        is_another = self.in_fp8 or gathered > rows or lora.adapter_dropout  # than what the adapter keeps
        own = self._as_computed(rows * width) if self.on_gpu and is_another else 0
        return own + self._adapter(gathered, width)

    def input(self, name: str, rows: int, width: int, is_shared: bool = False) -> int:
        """Count what is kept of the input of a linear layer without a norm.

        Args:
            width: columns of this tensor-parallel rank.
            is_shared: attention keeps it too.
        """
        lora = self.model.peft.lora
        if lora:
            return self._adapter(rows, width) if name in lora.target_modules else 0
        if is_shared and self.in_fp8 and self.model.fp8_recipe != "delayed":
            return self.dtype_bytes * rows * width
        return self._as_computed(rows * width)

    def gradient(self, elements: int) -> int:
        """Count the copies in FP8, by rows and by columns, of a gradient that a linear layer is given."""
        return round(2 * elements * (1 + SCALE_BYTES[self.model.fp8_recipe])) if self.in_fp8 else 0

    def _as_computed(self, elements: int) -> int:
        if self.in_fp8:
            return round(elements * (1 + SCALE_BYTES[self.model.fp8_recipe]))
        return self.dtype_bytes * elements

    def _adapter(self, rows: int, width: int) -> int:
        """Count an adapter's input, with a mask of what is dropped of it, and the product with its first matrix."""
        lora = self.model.peft.lora_tuning
        mask = rows * width if lora.adapter_dropout else 0
        return self.dtype_bytes * rows * (width + lora.adapter_dim) + mask
