"""A data set of the hub -> the Arrow files that `datasets` makes of it, in its own cache."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from nemo_bt.config.data import SourceSettings
from nemo_bt.errors import UserError


def arrow_files(path: str, source: SourceSettings) -> list[str]:
    """Fetch a data set of the hub, or find it in the cache, and name its files.

    A revision that is named has a cache of its own: where the hub cannot be asked, `datasets` takes what it has made
    last of a data set, of whatever revision (datasets 5.0, packaged_modules/cache/cache.py, _find_hash_in_cache).

    Args:
        path: organisation/name.
        source: has its split, subset and revision.

    Raises:
        UserError: the hub has no such data set, or does not give it.
    """
    import datasets
    from datasets.exceptions import DatasetsError

    if "[" in source.split:
        raise UserError(
            f"{path}: split {source.split} is a part of one. Give the whole split, and a fraction or count."
        )
    revision = source.revision
    own = str(Path(datasets.config.HF_DATASETS_CACHE) / f"of_{quote(revision, safe='')}") if revision else None
    try:
        found = datasets.load_dataset(path, source.subset, split=source.split, revision=revision, cache_dir=own)
    except (OSError, ValueError, DatasetsError) as error:  # the hub's own errors are OSErrors
        told = " ".join(str(error).split()).rstrip(".")
        at = f" at revision {revision}" if revision else ""
        raise UserError(
            f"{path}: no such file, and as a data set of the hub it cannot be had{at}: {told}. Mend the path, set "
            "split, subset and revision of the source, or HF_TOKEN where it is private."
        ) from error
    return [str(part["filename"]) for part in found.cache_files]
