"""Rewards of a part of the rows -> its new columns, written beside the old ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from nemo_bt.scoring.parts import Parts
from nemo_bt.scoring.reading import Part
from nemo_bt.scoring.rows import Reward


def write_part(
    parts: Parts, number: int, part: Part, rewards: Sequence[Reward], attributes: Mapping[str, Sequence[Reward]]
) -> None:
    """Write a part with the rewards of its conversations, and a column of its own for each attribute."""
    values = part.values(rewards)
    for name, of_attribute in attributes.items():
        own = replace(part, chunks=[(reader.of_attribute(name), chunk) for reader, chunk in part.chunks])
        values = [row | more for row, more in zip(values, own.values(of_attribute), strict=True)]
    if not parts.is_table:
        rows = [row | value for row, value in zip(part.rows, values, strict=True)]
        parts.write_lines(number, rows, part.drop_report)
        return
    tables = [pa.ipc.open_stream(chunk.payload).read_all() for _, chunk in part.chunks]
    table = pa.concat_tables(tables, promote_options="default")
    reader, _ = part.chunks[0]
    kind = pa.list_(pa.float64()) if reader.is_list else pa.float64()
    for column in [reader, *(reader.of_attribute(name) for name in attributes)]:
        for name in column.columns:
            table = table.append_column(name, pa.array([value[name] for value in values], kind))
    parts.write_table(number, table, part.drop_report)


def column(found: Sequence[Sequence[float] | None], at: int) -> list[Reward]:
    """Take the reward (0) or an attribute (from 1) of each conversation; None where it has none."""
    return [None if one is None else one[at] for one in found]
