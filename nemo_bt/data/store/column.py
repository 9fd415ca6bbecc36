"""Columns of Arrow files, memory-mapped. A block is compared with its checksum when something of it is first read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nemo_bt.data.store.sums import BLOCK_BYTES, block_sum, note_damage
from nemo_bt.errors import UserError


class CheckedBytes:
    """The bytes of a file, memory-mapped, with the checksums of its blocks."""

    def __init__(self, file: Path, sums: Any) -> None:
        self.file = file
        self.buffer = pa.memory_map(str(file)).read_buffer()
        self._bytes = memoryview(self.buffer)
        self._sums = sums
        self._unread = bytearray(b"\1") * len(sums)
        self._is_unread = np.frombuffer(self._unread, dtype=bool)

    def check(self, start: int, end: int) -> None:
        """Check the blocks that hold the bytes from start to before end.

        Raises:
            UserError: one is not as it was written. Whoever opens the folder next makes it again.
        """
        first, last = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        while (block := self._unread.find(1, first, last)) >= 0:
            self._check(block)

    def check_at(self, byte_P: Any) -> None:
        """Check the blocks that hold some bytes, [P]."""
        block_P = byte_P // BLOCK_BYTES
        for block in np.unique(block_P[self._is_unread[block_P]]).tolist():
            self._check(block)

    def _check(self, block: int) -> None:
        start = block * BLOCK_BYTES
        if block_sum(self._bytes[start : start + BLOCK_BYTES]) != self._sums[block]:
            what_next = "Start again: its source will be tokenised anew."
            try:
                note_damage(self.file, block, int(self._sums[block]))
            except (OSError, ValueError):
                what_next = f"Delete {self.file.parent} and start again."
            raise UserError(
                f"{self.file} has other contents than were written, within {BLOCK_BYTES:,} bytes of byte {start:,}. "
                f"{what_next}"
            )
        self._unread[block] = 0


class Column:
    """One column, [N], read as an array is: by number, slice, numbers or as a whole.

    Raises:
        UserError: on each read, if what is read is not as it was written.
    """

    def __init__(self, checked: CheckedBytes, values_N: Any) -> None:
        self._checked = checked
        self._values_N = values_N
        self._start = values_N.ctypes.data - checked.buffer.address
        self.dtype: Any = values_N.dtype

    def __len__(self) -> int:
        return len(self._values_N)

    def __getitem__(self, at: Any) -> Any:
        size = self.dtype.itemsize
        if isinstance(at, int | np.integer):
            start = self._start + (at + len(self) if at < 0 else at) * size
            self._checked.check(start, start + size)
        elif isinstance(at, slice):
            rows = range(len(self))[at]
            first, last = sorted((rows[0], rows[-1])) if rows else (0, -1)
            self._checked.check(self._start + first * size, self._start + (last + 1) * size)
        else:
            rows_P = np.arange(len(self))[at].ravel() if np.asarray(at).dtype == bool else np.ravel(at)
            rows_P = np.where(rows_P < 0, rows_P + len(self), rows_P).astype(np.int64)
            self._checked.check_at(self._start + size * rows_P)
        return self._values_N[at]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.array(self[:], dtype=dtype, copy=copy) if copy else np.asarray(self[:], dtype=dtype)


def open_columns(file: Path, sums: Any) -> dict[str, Column]:
    """Open the columns of an Arrow file of one batch, without reading them."""
    checked = CheckedBytes(file, sums)
    batch = pa.ipc.open_file(pa.BufferReader(checked.buffer)).get_batch(0)
    return {name: Column(checked, np.from_dlpack(batch.column(name))) for name in batch.schema.names}  # no pandas
