"""Results of nemo-bt evaluate -> what a report shows of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_bt.errors import UserError
from nemo_bt.evaluation.tables import Table, tables_of
from nemo_bt.reporting.pictures import draw_best_of_n

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = dict[str, Any]


def read_results(folders: Iterable[Path]) -> dict[str, Results]:
    """Read the results of folders that `nemo-bt evaluate` has written, by the name of their set or folder.

    Raises:
        UserError: a folder has no results, or two have the same name.
    """
    found: dict[str, Results] = {}
    for folder in folders:
        file = folder / "results.json"
        try:
            read = json.loads(file.read_text())
            sets = {folder.resolve().name: read} if "kind" in read else dict(read)
            if not sets:
                raise ValueError("nothing")
            for one in sets.values():
                shown(one)
                pictures_of_results(one)
        except OSError as error:
            raise UserError(
                f"--results {folder}: expected a folder of nemo-bt evaluate (evaluate.output), found no results.json."
            ) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{file}: expected results of nemo-bt evaluate, found something else: {error!r}") from error
        for name, one in sets.items():
            if name in found:
                raise UserError(f"--results: two sets are called {name}. Evaluate them in one command, or rename one.")
            found[name] = one
    return found


def pictures_of_results(results: Results) -> dict[str, Figure]:
    """Draw the curve of answers whose quality is known; other kinds have tables alone."""
    return {"best-of-n": draw_best_of_n(results["curve"], results["labels"])} if "curve" in results else {}


def shown(results: Results) -> dict[str, Any]:
    """Give what the page has of results: facts of them, and tables."""
    tables: Sequence[Table] = tables_of(results)
    return {
        "kind": results["kind"],
        "model": results["model"],
        "rows": results["rows"],
        "without": results["rows_without_reward"],
        "tables": tables,
    }
