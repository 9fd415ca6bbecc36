"""FP8 on the device with numbers: rounding, scales, both sides of a matrix, products."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from nemo_bt.phantom.numbers import fp8, gemm, quantize
from nemo_bt.phantom.te_types import TORCH_DTYPES, DType
from tests.support.quantizers import as_it_is, blockwise, normal, tensorwise, written
from tests.support.rounding import E4M3, E5M2, Format, relative_error, to_format

FORMATS = {"E4M3": (DType.kFloat8E4M3, E4M3), "E5M2": (DType.kFloat8E5M2, E5M2)}


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
    x = normal(144, 200) * torch.logspace(-1, 1, 200)
    out = written(x, quantizer)
    for by_rows in (True, False):
        found = fp8.matrix(out, by_rows, as_it_is)
        assert found.shape == x.shape
        # a number is at most half a unit off, and one below the least exponent half of the least unit, with a scale
        # that takes the largest of all to at least half of 448
        floor = x.abs().max() / 224 * 2.0**-10
        assert ((found - x).abs() <= (x.abs() * 2.0**-4).clamp(min=floor)).all()


@pytest.mark.parametrize("quantizer", [tensorwise(), blockwise(1), blockwise(2)])
def test_what_is_written_again_is_new_on_both_sides(quantizer: Any) -> None:
    out = written(normal(128, 128), quantizer)
    quantize.write(normal(128, 128, seed=1), quantizer, out, as_it_is)
    again = written(normal(128, 128, seed=1), quantizer)
    for by_rows in (True, False):
        assert torch.equal(fp8.matrix(out, by_rows, as_it_is), fp8.matrix(again, by_rows, as_it_is))


@pytest.mark.parametrize(("quantizer", "side"), [(tensorwise(), "_transpose"), (blockwise(2), "_rowwise_data")])
def test_a_stale_side_is_refused(quantizer: Any, side: str) -> None:
    out = written(normal(128, 128), quantizer)
    setattr(out, side, getattr(written(normal(128, 128, seed=1), quantizer), side))
    with pytest.raises(
        ValueError, match=r"expected a transpose of the bytes of \(128, 128\), got others: one is stale"
    ):
        fp8.matrix(out, False, as_it_is)


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
    x, w = normal(256, inner, seed=1), normal(256, inner, seed=2)
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
    x, w, grad = (to_format(normal(*shape, seed=i), E4M3) for i, shape in enumerate([(32, 64), (96, 64), (32, 96)]))
    fp8_x, fp8_w = (written(one, SimpleNamespace(**vars(tensorwise(power_of_2=True)))) for one in (x, w))
    fp8_grad = written(to_format(grad, E5M2), tensorwise(DType.kFloat8E5M2, power_of_2=True))
    there = normal(96, 64, seed=9)
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


def test_delayed_scaling_keeps_the_largest_number_of_a_step() -> None:
    quantizer = SimpleNamespace(dtype=DType.kFloat8E4M3, amax=torch.zeros(1), scale=torch.full((1,), 2.0))
    for largest, expected in ((3.0, 3.0), (1.0, 3.0), (5.0, 5.0)):
        out = written(torch.tensor([[largest, -0.5]]), quantizer)
        assert quantizer.amax.item() == expected
        assert out._scale_inv.item() == 0.5


def test_the_errors_of_rounding_are_those_of_evenly_spread_numbers() -> None:
    for form in (E4M3, E5M2):
        x = 2.0 ** (torch.rand(200_000, generator=torch.Generator().manual_seed(1)) * 6 - 3)
        measured = ((to_format(x, Format(*form)) - x) / x).square().mean().sqrt()
        assert measured / relative_error(form) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("quantizer", [tensorwise(), blockwise(2)])
def test_a_weight_in_fp8_outlives_a_checkpoint_in_bf16(quantizer: Any, seed: int) -> None:
    """What a run that goes on rounds again is what was rounded before, bytes and scales."""
    x = normal(256, 384, seed=seed, dtype=torch.bfloat16) * 10.0 ** (seed - 4)
    out = written(x, quantizer)
    for by_rows in (True, False):
        saved = fp8.matrix(out, by_rows, as_it_is).to(torch.bfloat16)
        assert torch.equal(fp8.matrix(written(saved, quantizer), by_rows, as_it_is), fp8.matrix(out, by_rows, as_it_is))


@pytest.mark.parametrize("bounds", [(0, 1000), (1000, 30_000), (30_000, 256 * 384)])
def test_a_rank_casts_its_part_of_a_weight_by_blocks(bounds: tuple[int, int]) -> None:
    """With the scales of the whole weight, and each block's largest value of its own part."""
    x, (start, end) = normal(256, 384), bounds
    whole = written(x, blockwise(2))
    kernels = quantize.functions(as_it_is)
    amax = torch.zeros(2, 4)
    kernels["fp8_block_scaling_compute_partial_amax"](None, x.flatten()[start:end], amax, 256, 384, start, 128)
    alone = torch.zeros(256 * 384)
    alone[start:end] = x.flatten()[start:end]
    assert torch.equal(amax[:, :3], alone.view(2, 128, 3, 128).abs().amax((1, 3)))
    data, scale = torch.zeros(end - start, dtype=torch.uint8), 1 / whole._rowwise_scale_inv
    kernels["fp8_block_scaling_partial_cast"](
        None, x.flatten()[start:end], data, scale, 256, 384, start, 128, DType.kFloat8E4M3
    )
    assert torch.equal(data, whole._rowwise_data.flatten()[start:end])
