"""Shape functions in the place of Transformer Engine's kernels: what they give, and what they refuse."""

import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nemo_bt.phantom import te_attention, te_gemm, te_norm, te_optimizer, te_quantize
from nemo_bt.phantom.flops import count_flops
from nemo_bt.phantom.ledger import Ledger
from nemo_bt.phantom.te_types import DType, FP8BwdTensors, FP8FwdTensors


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes tensors of a GPU, whatever stands for one in this process (nemo_bt.cpu.device)."""
    for name in ("zeros", "tensor", "empty", "empty_like"):
        monkeypatch.setattr(torch, name, inspect.unwrap(getattr(torch, name)))

    def tensor(*shape: int, dtype: torch.dtype = torch.bfloat16, device: str = "cuda:0") -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    with FakeTensorMode():
        yield tensor


def gemm(ledger: Ledger, left: Any, right: Any, transa: bool = True, transb: bool = False, out: Any = None) -> Any:
    function = te_gemm.functions(ledger)["generic_gemm"]
    return function(left, transa, right, transb, out, None, None, None, None, False, None, False, None, 0, False, False)


def in_fp8(rows: int, columns: int, by_rows: bool = True, by_columns: bool = True) -> Any:
    """What Transformer Engine makes of a matrix, as far as a product looks at it."""
    data = torch.empty(rows, columns, dtype=torch.uint8) if by_rows else None
    transpose = torch.empty(columns, rows, dtype=torch.uint8) if by_columns else None
    return SimpleNamespace(
        _quantizer=None,
        _data=data,
        _transpose=transpose,
        size=lambda: torch.Size((rows, columns)),
        dtype=torch.bfloat16,
    )


def test_a_linear_layer(ledger: Ledger, gpu: Any) -> None:
    out, *_ = gemm(ledger, gpu(96, 64), gpu(10, 1, 64))
    assert tuple(out.shape) == (10, 1, 96)
    section = ledger.close("0", {})
    assert [(one.rows, one.inner, one.columns, one.dtype) for one in section.gemms] == [(10, 64, 96, "bfloat16")]
    assert section.flops == {"build": 2.0 * 10 * 64 * 96}


def test_the_gradient_of_its_weight(ledger: Ledger, gpu: Any) -> None:
    out, *_ = gemm(ledger, gpu(10, 64), gpu(10, 96), transa=False, transb=True, out=gpu(96, 64, dtype=torch.float32))
    assert tuple(out.shape) == (96, 64)


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        ((96, 64), (10, 32), "one inner dimension, got 64 and 32"),
        ((96, 64), (10, 64, torch.float32), "one dtype, got torch.bfloat16 and torch.float32"),
        ((96, 64), (10, 64, torch.bfloat16, "cpu"), "second_factor: expected a tensor of the GPU, got one of cpu"),
    ],
)
def test_factors_that_no_kernel_takes(ledger: Ledger, gpu: Any, left: Any, right: Any, message: str) -> None:
    *shape, last = right if isinstance(right[-1], str) else (*right, "cuda:0")
    dtype = shape.pop() if isinstance(shape[-1], torch.dtype) else torch.bfloat16
    with pytest.raises(ValueError, match=message):
        gemm(ledger, gpu(*left), gpu(*shape, dtype=dtype, device=last))


def test_an_output_of_another_size(ledger: Ledger, gpu: Any) -> None:
    with pytest.raises(ValueError, match="expected an output of"):
        gemm(ledger, gpu(96, 64), gpu(10, 64), out=gpu(10, 95))


def test_fp8_wants_sides_of_16(ledger: Ledger) -> None:
    with FakeTensorMode():
        gemm(ledger, in_fp8(96, 64), in_fp8(32, 64))
        with pytest.raises(ValueError, match="multiples of 16, got \\(30, 64, 96\\)"):
            gemm(ledger, in_fp8(96, 64), in_fp8(30, 64))


def test_fp8_is_read_along_the_side_that_is_summed(ledger: Ledger) -> None:
    with FakeTensorMode():
        gemm(ledger, in_fp8(96, 64, by_columns=False), in_fp8(32, 64, by_columns=False))
        with pytest.raises(ValueError, match="first factor is not quantised by columns"):
            gemm(ledger, in_fp8(96, 64, by_columns=False), in_fp8(32, 96), transa=False)


def test_fp8_and_bf16_are_no_product(ledger: Ledger, gpu: Any) -> None:
    with pytest.raises(ValueError, match="factors of one kind"):
        gemm(ledger, in_fp8(96, 64), gpu(32, 64))


def test_norms(ledger: Ledger, gpu: Any) -> None:
    functions = te_norm.functions(ledger)
    out, _, rsigma = functions["rmsnorm_fwd"](gpu(10, 1, 64), gpu(64), 1e-5, None, None, DType.kBFloat16, 0, False)
    assert (tuple(out.shape), tuple(rsigma.shape)) == ((10, 1, 64), (10,))
    with pytest.raises(ValueError, match="expected a weight of 64, got 32"):
        functions["rmsnorm_fwd"](gpu(10, 64), gpu(32), 1e-5, None, None, DType.kBFloat16, 0, False)
    with pytest.raises(ValueError, match="expected a gradient like"):
        functions["rmsnorm_bwd"](gpu(10, 64, dtype=torch.float32), gpu(10, 64), rsigma, gpu(64), 0, False)


def test_angles_are_in_fp32(ledger: Ledger, gpu: Any) -> None:
    rotate = te_norm.functions(ledger)["fused_rope_forward"]
    rotate(gpu(10, 1, 4, 64), gpu(10, 1, 1, 64, dtype=torch.float32))
    with pytest.raises(ValueError, match="expected 10 angles in float32"):
        rotate(gpu(10, 1, 4, 64), gpu(10, 1, 1, 64))


def test_swiglu_halves_the_columns(ledger: Ledger, gpu: Any) -> None:
    functions = te_norm.functions(ledger)
    assert tuple(functions["swiglu"](gpu(10, 64), None).shape) == (10, 32)
    assert tuple(functions["dswiglu"](gpu(10, 32), gpu(10, 64), None).shape) == (10, 64)


def test_fused_attention_wants_int32_and_contiguous_rows(ledger: Ledger, gpu: Any) -> None:
    attend = te_attention.functions(ledger)["fused_attn_fwd"]
    rule = (64, 64, True, 1.0, 0.0, False, None, None, None, None, None)
    starts = gpu(3, dtype=torch.int32)
    out, statistics, _ = attend(*rule, starts, starts, gpu(10, 4, 64), gpu(12, 2, 64), gpu(12, 2, 64))
    assert (tuple(out.shape), tuple(statistics.shape)) == ((10, 4, 64), (10, 4, 1))
    with pytest.raises(ValueError, match=r"query_starts: expected int32, got torch.int64"):
        attend(*rule, starts.long(), starts, gpu(10, 4, 64), gpu(12, 2, 64), gpu(12, 2, 64))
    with pytest.raises(ValueError, match="key: expected bfloat16 or float16, contiguous"):
        attend(*rule, starts, starts, gpu(10, 4, 64), gpu(2, 12, 64).transpose(0, 1), gpu(12, 2, 64))


def test_lists_of_the_optimizer_run_in_step(ledger: Ledger, gpu: Any) -> None:
    adam = te_optimizer.functions(ledger)["multi_tensor_adam"]
    adam(1, None, [[gpu(4, 8)], [gpu(32)]])
    with pytest.raises(ValueError, match="expected tensors of one size"):
        adam(1, None, [[gpu(4, 8)], [gpu(31)]])


def test_a_transpose(ledger: Ledger, gpu: Any) -> None:
    transpose = te_quantize.functions(ledger)["fp8_transpose"]
    assert tuple(transpose(gpu(4, 8, dtype=torch.uint8), DType.kFloat8E4M3).shape) == (8, 4)


def test_products_of_torch_have_one_dtype(ledger: Ledger, gpu: Any) -> None:
    mm = torch.ops.aten.mm.default
    count_flops(ledger, mm, (gpu(2, 3), gpu(3, 4)), None)
    with pytest.raises(TypeError, match="factors of one dtype"):
        count_flops(ledger, mm, (gpu(2, 3), gpu(3, 4, dtype=torch.float32)), None)


def test_numbers_that_transformer_engine_counts_on() -> None:
    """Source: transformer_engine/common/include, transformer_engine.h, and pytorch/csrc/common.h."""
    assert [one.name for one in FP8FwdTensors][:3] == ["GEMM1_INPUT", "GEMM1_WEIGHT", "GEMM1_OUTPUT"]
    assert [one.value for one in FP8BwdTensors] == list(range(6))
