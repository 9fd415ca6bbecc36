"""The kernels of the device with numbers, beside closed forms and torch's own."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from nemo_bt.phantom.numbers import attention, fp8, gemm, norm, optimizer, quantize
from nemo_bt.phantom.numbers.kernels import kernels
from nemo_bt.phantom.numbers.memory import Memory
from nemo_bt.phantom.te_types import DType
from tests.support.quantizers import as_it_is, blockwise, normal, tensorwise, written
from tests.support.rounding import E4M3, to_format


@pytest.mark.parametrize("kind", ["rmsnorm", "layernorm"])
@pytest.mark.parametrize("centered", [False, True])
def test_norms(kind: str, centered: bool) -> None:
    run = norm.functions(as_it_is)
    x, weight, bias, grad = normal(6, 64) + 1, normal(64, seed=1), normal(64, seed=2), normal(6, 64, seed=3)
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
    run, x = norm.functions(as_it_is)["rmsnorm_fwd"], normal(64, 128, dtype=torch.bfloat16)
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
    x, grad = normal(6, 64).requires_grad_(), normal(6, 32, seed=1)
    expected = F.silu(x[:, :32]) * x[:, 32:]
    (wanted,) = torch.autograd.grad(expected, x, grad)
    out, of_x = torch.zeros(6, 32), torch.zeros(6, 64)
    with torch.no_grad():
        run["swiglu"](out, x)
        run["dswiglu"](of_x, grad, x)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(of_x, wanted)
    heads, angles = normal(5, 1, 2, 8), normal(5, 1, 1, 6)
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
    query, key, value = (normal(7, 4, 8), normal(12, 2, 8, seed=1), normal(12, 2, 8, seed=2))
    for x in (query, key, value):
        x.requires_grad_()
    grad, starts = normal(7, 4, 8, seed=3), (torch.tensor([0, 3, 7]), torch.tensor([0, 5, 12]))
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
    parameter = normal(5, 3).requires_grad_()
    reference = torch.optim.AdamW([parameter], lr=0.1, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)
    main, low = parameter.detach().clone(), torch.zeros(5, 3, dtype=torch.bfloat16)
    state = [torch.zeros(5, 3), torch.zeros(5, 3)]
    for step in (1, 2, 3):
        parameter.grad = normal(5, 3, seed=step)
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
    assert memory.of(tensor)[0].tolist() == [0.0, 1.0, 2.0]
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
    memory.keep(other, torch.arange(6.0).view(3, 2).T)
    memory.of(first).zero_()
    assert memory.of(second).sum() == 6.0
    assert memory.of(other).tolist() == [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]


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
    with pytest.raises(NotImplementedError, match="SimpleNamespace: the device with numbers has no values for it"):
        quantize.write(torch.ones(2, 2), SimpleNamespace(dtype=DType.kFloat8E4M3), None, as_it_is)
    with pytest.raises(NotImplementedError, match="rotation of neighbouring dimensions"):
        norm.functions(as_it_is)["fused_rope_forward"](None, None, None, None, "sbhd", True)
