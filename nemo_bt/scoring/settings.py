"""What `nemo-bt score` is told beside a model and its layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nemo_bt.config.model import Settings


@dataclass(frozen=True)
class ScoreSettings:
    """Rows in, the same rows with rewards out."""

    input: str | list[str]
    """One or several of: a file, glob or URL (parquet, jsonl, json, arrow; .gz, .zst), or the id of a data set of the
    hub."""
    output: str
    """A file that ends in .jsonl, or in .parquet where all inputs are tables."""
    column: str
    """The new column; of pairs two, with _chosen and _rejected behind it."""
    normalize: bool
    """Take the mean of the model's rewards on validation off each one, and divide it by their deviation."""
    rows_per_part: int
    """Rows that are computed together and written as one; what is written need not be computed again."""


@dataclass(frozen=True)
class ScoreRun(Settings):
    """Settings of a model's layout, and of what it scores."""

    score: ScoreSettings
    needs: ClassVar[tuple[str, ...]] = ()
    """Kinds of rows (nemo_bt.scoring.rows) that it can use; none: any."""
