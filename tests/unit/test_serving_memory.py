"""What a server has freed does not stay its own."""

import asyncio

import psutil
import pytest

from nemo_bt.serving import memory


def test_freed_blocks_between_used_ones_go_back_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_EVERY_S", 0.05)
    process = psutil.Process()
    blocks = [bytes(b"x" * 100_000) for _ in range(4_000)]
    full = process.memory_info().rss
    kept = blocks[::10]
    del blocks
    read_bytes = 0

    async def serve() -> tuple[int, int]:
        nonlocal read_bytes
        task = asyncio.create_task(memory.give_back(lambda: read_bytes))
        await asyncio.sleep(0.3)
        before = process.memory_info().rss
        read_bytes = 400_000_000
        await asyncio.sleep(0.5)
        after = process.memory_info().rss
        task.cancel()
        return before, after

    before, after = asyncio.run(serve())
    assert full - before < 100_000_000, "nothing has to be given back: this shows nothing"
    assert full - after > 300_000_000
    assert len(kept) == 400
