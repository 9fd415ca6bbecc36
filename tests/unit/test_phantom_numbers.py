"""The kernels of the device with numbers, beside closed forms and torch's own."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from nemo_bt.phantom.numbers import attention, fp8, gemm, norm, optimizer, quantize
from nemo_bt.phantom.numbers.kernels import kernels
from nemo_bt.phantom.numbers.memory import Memory
from nemo_bt.phantom.te_types import TORCH_DTYPES, DType
from tests.support.rounded_llama import E4M3, E5M2, Format, relative_error, to_format

FORMATS = {"E4M3": (DType.kFloat8E4M3, E4M3), "E5M2": (DType.kFloat8E5M2, E5M2)}


def as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tensorwise(dtype: DType = DType.kFloat8E4M3, power_of_2: bool = False) -> Any:
    """A quantizer of current scaling, as far as a kernel looks at it."""
    state = {"amax": torch.zeros(1), "scale": torch.zeros(1)}
    return SimpleNamespace(dtype=dtype, force_pow_2_scales=power_of_2, amax_epsilon=0.0, **state)


def blockwise(dim: int, dtype: DType = DType.kFloat8E4M3) -> Any:
    options = {"amax_epsilon": 0.0, "force_pow_2_scales": True, "all_gather_usage": False}
    return SimpleNamespace(dtype=dtype, block_scaling_dim=dim, **options)


def written(x: Tensor, quantizer: Any) -> Any:
    """What a quantizer writes of a matrix, by rows and by columns."""
    data, transpose = (torch.zeros(shape, dtype=torch.uint8) for shape in (x.shape, x.T.shape))
    out = SimpleNamespace(_fp8_dtype=quantizer.dtype)
    if hasattr(quantizer, "block_scaling_dim"):
        out._is_2D_scaled = quantizer.block_scaling_dim == 2
        out._rowwise_data, out._columnwise_data = data, transpose
        out._rowwise_scale_inv, out._columnwise_scale_inv = (
            torch.full(places_of_scales(*shape, out._is_2D_scaled), torch.nan) for shape in (x.shape, x.T.shape)
        )
    else:
        out._data, out._transpose, out._transpose_invalid, out._scale_inv = data, transpose, False, torch.zeros(1)
    quantize.write(x, quantizer, out, as_it_is)
    return out


def places_of_scales(rows: int, columns: int, is_square: bool) -> tuple[int, int]:
    """As Transformer Engine's quantizers make room for them: the second number a multiple of 4."""
    high, wide = (-(-rows // 128), -(-columns // 128)) if is_square else (-(-columns // 128), rows)
    return high, -(-wide // 4) * 4


@pytest.mark.parametrize("name", FORMATS)
def test_rounding_is_that_of_the_format(name: str) -> None:
    """Every bf16 number from far below the format's least to above its largest."""
    dtype, form = FORMATS[name]
    x = torch.arange(2**15, dtype=torch.int16).view(torch.bfloat16).float()
    x = x[x.isfinite()]
    found = fp8.rounded(x, torch.ones(()), TORCH_DTYPES[dtype]).view(TORCH_DTYPES[dtype]).float()
    torch.testing.assert_close(found, to_format(x, form), rtol=0, atol=0)
    inside = (x >= 2.0**form.least) & (x <= form.most)
    error = ((found - x) / x)[inside].abs().max()
    half_unit = 2.0 ** -(form.bits + 1)
    assert error == pytest.approx(half_unit / (1 + half_unit))  # in the middle of 1 and its neighbour


def test_scales_take_the_largest_number_to_the_formats() -> None:
    amax = torch.tensor([3.0, 0.0, float("inf"), 1e-45])
    most = torch.finfo(torch.float32).max
    assert fp8.scale_of(amax, torch.float8_e4m3fn).tolist() == [pytest.approx(448 / 3), 1.0, 1.0, most]
    assert fp8.scale_of(amax, torch.float8_e4m3fn, is_power_of_2=True).tolist() == [128.0, 1.0, 1.0, 2.0**127]
    assert fp8.scale_of(amax, torch.float8_e5m2, epsilon=7.0).tolist()[:2] == [8192.0, 8192.0]


@pytest.mark.parametrize("quantizer", [tensorwise(), tensorwise(power_of_2=True), blockwise(1), blockwise(2)])
def test_both_sides_of_a_matrix_are_read_as_they_were_written(quantizer: Any) -> None:
    x = random(144, 200) * torch.logspace(-1, 1, 200)
    out = written(x, quantizer)
    for by_rows in (True, False):
        found = fp8.matrix(out, by_rows, as_it_is)
        assert found.shape == x.shape
        # a number is at most half a unit off, and one below the least exponent half of the least unit, with a scale
        # that takes the largest of all to at least half of 448
        floor = x.abs().max() / 224 * 2.0**-10
        assert ((found - x).abs() <= (x.abs() * 2.0**-4).clamp(min=floor)).all()


def test_blocks_have_their_own_scales() -> None:
    x = torch.ones(2, 256)
    x[0, 128:] = 1000.0
    out = written(x, blockwise(1))
    assert out._rowwise_scale_inv[:, :2].tolist() == [[2.0**-8, 2.0**-8], [4.0, 2.0**-8]]
    torch.testing.assert_close(fp8.matrix(out, True, as_it_is), torch.where(x == 1000, 1024.0, x), rtol=0, atol=0)


def product(left: Any, right: Any, transa: bool, transb: bool, out: Tensor, **options: Any) -> Tensor:
    run = gemm.functions(as_it_is)["generic_gemm"]
    rest = (None, None, None, None, False, None, False, None, 0, options.pop("accumulate", False), False)
    run((out, None, None, None), left, transa, right, transb, out, *rest, **options)
    return out


@pytest.mark.parametrize("inner", [64, 1024])
def test_errors_of_products_are_those_of_independent_roundings(inner: int) -> None:
    """E[error^2] = sum_k a_k^2 b_k^2 (da^2 + db^2), with d the relative error of a factor."""
    x, w = random(256, inner, seed=1), random(256, inner, seed=2)
    found = product(written(w, tensorwise()), written(x, tensorwise()), True, False, torch.zeros(256, 256))
    expected = (2 * relative_error(E4M3) ** 2 * (x.square() @ w.square().T)).mean().sqrt()
    assert (found - x @ w.T).square().mean().sqrt() / expected == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("inner", [64, 1024])
def test_relative_errors_of_products_of_one_sign_shrink_with_the_root_of_their_terms(inner: int) -> None:
    """Numbers evenly spread over 1 to 2 are 1/8 apart in E4M3: E[error^2] = (1/8)^2 / 12 each."""
    x, w = (1 + torch.rand(256, inner, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    by_powers = [written(one, tensorwise(power_of_2=True)) for one in (w, x)]
    found = product(*by_powers, True, False, torch.zeros(256, 256))
    error = ((found - x @ w.T) / (x @ w.T)).square().mean().sqrt()
    mean, mean_square = 3 / 2, 7 / 3
    expected = (2 * mean_square / 8**2 / 12 / inner) ** 0.5 / mean**2
    assert error / expected == pytest.approx(1.0, abs=0.1)


def test_the_three_products_of_a_linear_layer() -> None:
    """Output, gradient of the input, and gradient of the weight, added to what is there."""
    x, w, grad = (to_format(random(*shape, seed=i), E4M3) for i, shape in enumerate([(32, 64), (96, 64), (32, 96)]))
    fp8_x, fp8_w = (written(one, SimpleNamespace(**vars(tensorwise(power_of_2=True)))) for one in (x, w))
    fp8_grad = written(to_format(grad, E5M2), tensorwise(DType.kFloat8E5M2, power_of_2=True))
    there = random(96, 64, seed=9)
    exact = {"rtol": 1e-5, "atol": 1e-4}
    torch.testing.assert_close(product(fp8_w, fp8_x, True, False, torch.zeros(32, 96)), x @ w.T, **exact)
    torch.testing.assert_close(
        product(fp8_w, fp8_grad, False, False, torch.zeros(32, 64)), to_format(grad, E5M2) @ w, **exact
    )
    summed = product(fp8_x, fp8_grad, False, True, there.clone(), accumulate=True, beta=1.0)
    torch.testing.assert_close(summed, there + to_format(grad, E5M2).T @ x, **exact)


def test_delayed_scaling_follows_its_history() -> None:
    update = quantize.functions(as_it_is)["fused_amax_and_scale_update_after_reduction"]
    history, scale = torch.zeros(3, 2), torch.ones(2)
    for newest, expected in (((7.0, 0.0), (64.0, 1.0)), ((14.0, 0.0), (32.0, 1.0)), ((1.0, 0.0), (32.0, 1.0))):
        history[0] = torch.tensor(newest)
        update(None, history[0].clone(), [history], [scale], "max", DType.kFloat8E4M3, 0)
        assert scale.tolist() == list(expected)
        assert history[0].tolist() == [0.0, 0.0]
    history[0] = 7.0
    update(None, history[0].clone(), [history], [scale], "most_recent", DType.kFloat8E4M3, 1)
    assert scale.tolist() == [32.0, 32.0]


@pytest.mark.parametrize("kind", ["rmsnorm", "layernorm"])
@pytest.mark.parametrize("centered", [False, True])
def test_norms(kind: str, centered: bool) -> None:
    run = norm.functions(as_it_is)
    x, weight, bias, grad = random(6, 64) + 1, random(64, seed=1), random(64, seed=2), random(6, 64, seed=3)
    for tensor in (x, weight, bias):
        tensor.requires_grad_()
    factor = weight + 1 if centered else weight
    if kind == "rmsnorm":
        expected, biases = F.rms_norm(x, (64,), factor, 1e-5), []
    else:
        expected, biases = F.layer_norm(x, (64,), factor, bias, 1e-5), [bias]
    wanted = torch.autograd.grad(expected, [x, weight, *biases], grad)
    with torch.no_grad():
        made = [torch.zeros(6, 64), torch.zeros(6), torch.zeros(6)]
        run[f"{kind}_fwd"](made, x, weight, *biases, 1e-5, None, None, DType.kFloat32, 0, centered)
        torch.testing.assert_close(made[0], expected)
        statistics = made[1:] if biases else made[2:]
        grads = [torch.zeros(one.shape) for one in wanted]
        run[f"{kind}_bwd"](grads, grad, x, *statistics, weight, 0, centered)
    for found, one in zip(grads, wanted, strict=True):
        torch.testing.assert_close(found, one, rtol=1e-4, atol=1e-5)


def test_a_norm_with_delayed_scaling_is_rounded_once() -> None:
    """From fp32 to FP8; with the other recipes the norm is bf16 in between."""
    run, x = norm.functions(as_it_is)["rmsnorm_fwd"], random(64, 128, dtype=torch.bfloat16)
    exact = F.rms_norm(x.float(), (128,), None, 1e-5)
    delayed = SimpleNamespace(dtype=DType.kFloat8E4M3, amax=torch.zeros(1), scale=torch.full((1,), 8.0))
    current, scale = tensorwise(), 448 / exact.bfloat16().float().abs().max()
    for quantizer, expected in (
        (delayed, to_format(exact * 8, E4M3) / 8),
        (current, to_format(exact.bfloat16().float() * scale, E4M3) * (1 / scale)),
    ):
        out = written(torch.zeros(64, 128), tensorwise())
        run((out, None, torch.zeros(64)), x, torch.ones(128), 1e-5, None, quantizer, DType.kBFloat16, 0, False)
        torch.testing.assert_close(fp8.matrix(out, True, as_it_is), expected, rtol=0, atol=0)
    assert delayed.amax == exact.abs().max()


def test_swiglu_and_rotation() -> None:
    run = norm.functions(as_it_is)
    x, grad = random(6, 64).requires_grad_(), random(6, 32, seed=1)
    expected = F.silu(x[:, :32]) * x[:, 32:]
    (wanted,) = torch.autograd.grad(expected, x, grad)
    out, of_x = torch.zeros(6, 32), torch.zeros(6, 64)
    with torch.no_grad():
        run["swiglu"](out, x)
        run["dswiglu"](of_x, grad, x)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(of_x, wanted)
    heads, angles = random(5, 1, 2, 8), random(5, 1, 1, 6)
    angles = torch.cat([angles[..., :3], angles[..., :3]], -1)
    turned, back = torch.zeros(5, 1, 2, 8), torch.zeros(5, 1, 2, 8)
    run["fused_rope_forward"](turned, heads, angles, None, "sbhd", False)
    run["fused_rope_backward"](back, turned, angles, "sbhd", False)
    as_complex = torch.complex(heads[..., :3], heads[..., 3:6]) * torch.polar(torch.ones(()), angles[..., :3])
    torch.testing.assert_close(turned, torch.cat([as_complex.real, as_complex.imag, heads[..., 6:]], -1))
    torch.testing.assert_close(back, heads)


@pytest.mark.parametrize("window", [None, 3])
def test_attention(window: int | None) -> None:
    """Two sequences, of more keys than queries, beside torch's with a mask."""
    query, key, value = (random(7, 4, 8), random(12, 2, 8, seed=1), random(12, 2, 8, seed=2))
    for x in (query, key, value):
        x.requires_grad_()
    grad, starts = random(7, 4, 8, seed=3), (torch.tensor([0, 3, 7]), torch.tensor([0, 5, 12]))
    parts = []
    for rows, keys in ((slice(0, 3), slice(0, 5)), (slice(3, 7), slice(5, 12))):
        before = torch.arange(keys.stop - keys.start) - (keys.stop - keys.start) + rows.stop - rows.start
        behind = torch.arange(rows.stop - rows.start)[:, None] - before
        mask = (behind >= 0) & (behind <= (window if window is not None else 99))
        given = (x.transpose(0, 1) for x in (query[rows], key[keys], value[keys]))
        parts.append(F.scaled_dot_product_attention(*given, attn_mask=mask, enable_gqa=True).transpose(0, 1))
    wanted = torch.autograd.grad(torch.cat(parts), [query, key, value], grad)
    options = {"window_size_left": -1 if window is None else window, "window_size_right": 0}
    with torch.no_grad():
        out, lse, *_ = attention.flash_forward(query, key, value, *starts, 0, 0, 0.0, True, False, **options)
        rest = (out, lse, *starts, 0, 0, 0.0, True, torch.zeros(2), torch.zeros(()))
        grads = attention.flash_backward(grad, query, key, value, *rest, **options)
    torch.testing.assert_close(out, torch.cat(parts))
    for found, one in zip(grads, wanted, strict=True):
        torch.testing.assert_close(found, one)
    with pytest.raises(NotImplementedError, match=r"expected a causal one without dropout, got 0\.1"):
        attention.flash_forward(query, key, value, *starts, 0, 0, 0.1, True, False)


def test_adam_is_torchs() -> None:
    adam = optimizer.functions(as_it_is)["multi_tensor_adam"]
    parameter = random(5, 3).requires_grad_()
    reference = torch.optim.AdamW([parameter], lr=0.1, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)
    main, low = parameter.detach().clone(), torch.zeros(5, 3, dtype=torch.bfloat16)
    state = [torch.zeros(5, 3), torch.zeros(5, 3)]
    for step in (1, 2, 3):
        parameter.grad = random(5, 3, seed=step)
        reference.step()
        lists = [[parameter.grad], [low], [state[0]], [state[1]], [main]]
        adam(None, 1, None, lists, 0.1, 0.9, 0.98, 1e-6, step, 1, 1, 0.1)
    torch.testing.assert_close(main, parameter.detach())
    torch.testing.assert_close(low, parameter.detach().bfloat16(), rtol=0, atol=0)


def test_norms_of_gradients_and_overflow() -> None:
    run, noop = optimizer.functions(as_it_is), torch.zeros(1)
    total, each = torch.zeros(1), torch.zeros(2)
    run["multi_tensor_l2norm"]((total, each), 1, noop, [[torch.full((4,), 1.5), torch.full((1,), 4.0)]], True)
    assert (total.item(), each.tolist()) == (5.0, [3.0, 4.0])
    source, target = torch.tensor([1.0, 2.0]), torch.zeros(2, dtype=torch.bfloat16)
    run["multi_tensor_scale"](None, 1, noop, [[source], [target]], 0.5)
    assert (target.tolist(), noop.item()) == ([0.5, 1.0], 0)
    run["multi_tensor_scale"](None, 1, noop, [[source / 0], [target]], 0.5)
    assert noop.item() == 1


def test_memory_is_shared_by_views_and_unwritten_until_it_is_written() -> None:
    memory = Memory()
    with FakeTensorMode():
        tensor = torch.empty(4, 3, device="cuda")
        column, row, turned = tensor.select(1, 1).narrow(0, 1, 3), tensor.select(0, 2), tensor.T
    memory.keep(tensor, None)
    assert memory.of(tensor).isnan().all()
    memory.of(tensor).copy_(torch.arange(12.0).view(4, 3))
    assert memory.of(column).tolist() == [4.0, 7.0, 10.0]
    memory.of(row).zero_()
    assert memory.of(turned)[:, 2].tolist() == [0.0, 0.0, 0.0]
    memory.keep(tensor, torch.ones(4, 3))
    assert memory.of(tensor)[0, 1] == 1.0
    with FakeTensorMode():
        unknown = torch.empty(2, device="cuda")
    with pytest.raises(RuntimeError, match=r"got one of \(2,\) in torch.float32 without values"):
        memory.of(unknown)


def test_values_that_another_holds_are_copied() -> None:
    memory = Memory()
    with FakeTensorMode():
        first, second, other = (torch.empty(2, 3, device="cuda") for _ in range(3))
    values = torch.ones(2, 3)
    memory.keep(first, values)
    memory.keep(second, values)
    memory.keep(other, torch.ones(3, 2).T)
    memory.of(first).zero_()
    assert memory.of(second).sum() == memory.of(other).sum() == 6.0
    assert memory.of(other).is_contiguous()


def test_what_it_does_not_compute_is_refused() -> None:
    compute = kernels(Memory())
    with pytest.raises(
        NotImplementedError, match=r"te_general_grouped_gemm: the device with numbers does not compute it"
    ):
        compute("te_general_grouped_gemm", None, (), {})
    run, fits = gemm.functions(as_it_is)["generic_gemm"], torch.ones(2, 2)
    with_gelu = (None, None, None, None, True, None, False, None, 0, False, False)
    with pytest.raises(NotImplementedError, match="GELU or in FP8"):
        run((), fits, True, fits, False, None, *with_gelu)
    gathered = SimpleNamespace(**vars(blockwise(1)) | {"all_gather_usage": True})
    with pytest.raises(NotImplementedError, match="tensors that ranks gather"):
        quantize.write(torch.ones(2, 2), gathered, None, as_it_is)
    with pytest.raises(NotImplementedError, match="rotation of neighbouring dimensions"):
        norm.functions(as_it_is)["fused_rope_forward"](None, None, None, None, "sbhd", True)


def test_the_errors_of_rounding_are_those_of_evenly_spread_numbers() -> None:
    for form in (E4M3, E5M2):
        x = 2.0 ** (torch.rand(200_000, generator=torch.Generator().manual_seed(1)) * 6 - 3)
        measured = ((to_format(x, Format(*form)) - x) / x).square().mean().sqrt()
        assert measured / relative_error(form) == pytest.approx(1.0, abs=0.02)
