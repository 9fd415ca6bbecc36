"""What check-nodes has devices try: known products on this CPU, and who is named."""

from dataclasses import replace

import pytest
import torch

from nemo_bt.cli.sniff import Tried, _multiply, rates_of, slow_devices, try_products, wrong_results

TRIED = Tried("float32 product", "cuda:0", 100.0, "TFLOP/s", 0)


def test_products_of_integers_are_right_to_the_bit() -> None:
    found = try_products("cpu")
    assert [(one.what, one.device, one.num_wrong) for one in found] == [
        ("float32 product", "cpu", 0),
        ("bfloat16 product", "cpu", 0),
    ]
    assert all(one.rate > 0 for one in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_changed_bit_of_a_factor_is_counted_in_each_number_that_it_reaches(dtype: torch.dtype) -> None:
    a, b = torch.ones(4, 8, dtype=dtype), torch.ones(8, 6, dtype=dtype)
    wrong = torch.zeros((), dtype=torch.int64)
    _multiply(a, b, torch.full((4, 6), 8, dtype=dtype), wrong)
    assert wrong == 0
    a[2, 3] = -1
    _multiply(a, b, torch.full((4, 6), 8, dtype=dtype), wrong)
    assert wrong == 6


def test_a_node_with_a_wrong_number_is_named() -> None:
    found = {"n1": [TRIED], "n2": [TRIED, replace(TRIED, device="cuda:3", num_wrong=2)]}
    assert wrong_results(found) == ["node n2, cuda:3: float32 product gave 2 wrong numbers"]


def test_a_device_a_tenth_below_the_median_of_the_same_work_is_named() -> None:
    sent = Tried("all_reduce", "cuda:0", 50.0, "GB/s", 0)
    found = {name: [replace(TRIED, rate=rate), sent] for name, rate in (("a", 100.0), ("b", 91.0), ("c", 104.0))}
    assert slow_devices(found) == []
    found["b"][0] = replace(TRIED, rate=89.0)
    assert slow_devices(found) == ["node b, cuda:0: float32 product at 89 TFLOP/s, where the median is 100"]
    assert rates_of(found) == "float32 product 89 to 104 TFLOP/s, all_reduce 50 to 50 GB/s"
