"""What a trace counts: bytes alive, what holds them, waits, messages; and its record as JSON."""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nemo_bt.phantom.flops import count_attention
from nemo_bt.phantom.ledger import Ledger
from nemo_bt.phantom.places import places, places_of
from nemo_bt.phantom.record import Failure, Record, read_record
from nemo_bt.phantom.spec import Gpu, Spec, read_spec, write_spec

KIB = 1024


def made(ledger: Ledger, num_bytes: int) -> torch.Tensor:
    tensor = torch.empty(num_bytes, dtype=torch.uint8)
    ledger.allocated(tensor, "empty")
    return tensor


def test_bytes_are_rounded_up_as_the_allocator_does() -> None:
    ledger = Ledger()
    kept = made(ledger, 513)
    assert ledger.alive == 1024
    ledger.allocated(kept[:3], "a view of it")
    assert ledger.alive == 1024


def test_the_peak_and_what_held_it() -> None:
    ledger = Ledger()
    weights = made(ledger, 4 * KIB)
    ledger.held_by("weights", [weights])
    ledger.phase = "forward"
    first = made(ledger, 2 * KIB)
    second = made(ledger, KIB)
    del first
    third = made(ledger, KIB)
    section = ledger.close("0", {})
    assert (section.peak, section.alive) == (7 * KIB, 6 * KIB)
    assert section.holders == {"weights": 4 * KIB, "activations": 3 * KIB}
    assert section.peaks == {"build": 4 * KIB, "forward": 7 * KIB}
    assert [(one.holder, one.size, one.count) for one in section.held] == [
        ("weights", 4 * KIB, 1),
        ("activations", 2 * KIB, 1),
        ("activations", KIB, 1),
    ]
    del second, third
    assert ledger.close("1", {}).peak == 6 * KIB


def test_what_micro_batches_leave_is_kept() -> None:
    ledger = Ledger()
    ledger.phase = "forward"
    cache = made(ledger, KIB)
    ledger.keep()
    assert ledger.close("0", {}).holders == {"kept between steps": KIB}
    del cache


def test_of_one_kernel_only_what_it_leaves_is_counted() -> None:
    ledger = Ledger()
    with ledger.one_kernel("fused"):
        on_the_way = made(ledger, 8 * KIB)
        ledger.launched("mul")
        out = made(ledger, KIB)
        del on_the_way
    section = ledger.close("0", {})
    assert section.peak == KIB
    assert section.launches == {"fused": 1}
    del out


def test_a_wait_has_its_place() -> None:
    ledger = Ledger()
    ledger.waited("item")
    (wait,) = ledger.close("0", {}).waits
    assert wait.places[0].startswith("tests/unit/test_phantom_ledger.py:")
    assert wait.places[0].endswith(" test_a_wait_has_its_place")


def test_frames_of_torch_and_of_the_trace_are_left_out() -> None:
    found = []
    torch.utils._pytree.tree_map(lambda _: found.append(places()), [1])
    assert all("torch" not in place.split(" ")[0] for place in found[0])
    with pytest.raises(RuntimeError) as raised:
        torch.zeros(2) + torch.zeros(3)
    (place, *_) = places_of(raised.value)
    assert "test_phantom_ledger.py" in place


def test_attention_counts_the_keys_that_each_query_sees() -> None:
    """Two sequences: 2 queries on 4 keys see 3 + 4, 3 on 3 see 1 + 2 + 3."""
    ledger = Ledger()
    starts = torch.tensor([0, 2, 5]), torch.tensor([0, 4, 7])
    for one in starts:
        ledger.remember(one, one)
    count_attention(ledger, torch.empty(5, 8, 16), torch.empty(7, 2, 16), *starts, 1.0)
    assert ledger.close("0", {}).flops == {"build": 4.0 * 13 * 8 * 16}


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    ledger = Ledger()
    kept = made(ledger, KIB)
    ledger.waited("item")
    ledger.copied("to_cpu")
    ledger.sent("all_reduce", (0, 1), 4)
    ledger.multiplied(2, 3, 4, "bfloat16")
    ledger.launched("mm")
    section = ledger.close("build", {(0, 1): "dp"}, [128])
    assert section.messages[0].group == "dp"
    failure = Failure("ValueError", "no", "forward", ("a.py:1 f",))
    record = Record(3, 8, {"torch": "2"}, (section,), failure)
    (tmp_path / "record.json").write_text(record.dumps())
    assert read_record(tmp_path / "record.json") == record
    del kept


def test_a_spec_is_read_as_it_was_written(tmp_path: Path) -> None:
    spec = Spec("a.so", "te", "settings", 1, 2, "record.json", Gpu("B200", (10, 0)))
    write_spec(spec, tmp_path / "spec.json")
    assert read_spec(tmp_path / "spec.json") == spec


def test_fake_tensors_stand_for_those_of_a_gpu() -> None:
    ledger = Ledger()
    with FakeTensorMode():
        tensor = torch.empty(4, 256, dtype=torch.bfloat16, device="cuda:0")
    ledger.allocated(tensor, "empty")
    assert ledger.alive == 2 * KIB
