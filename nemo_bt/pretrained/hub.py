"""Models of the Hugging Face hub: downloaded, and named with the commit that was found."""

from __future__ import annotations

import re
from pathlib import Path

from nemo_bt.errors import UserError, first_line

_HUB_ID = re.compile(r"^(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?$")
_OTHER_FORMATS = ["consolidated*", "original/*", "*/*.safetensors"]
"""Files with the same weights in another form."""


def download(given: str, files: tuple[str, ...], key: str) -> tuple[Path, str]:
    """Download a model, and give its folder and its name with the commit.

    Args:
        given: `organisation/model@revision`.
        files: patterns of the files that are wanted.
        key: what the user calls it, for messages.

    Raises:
        UserError: the hub has no such model, or cannot be reached.
    """
    hub_id = _HUB_ID.match(given)
    if not hub_id:
        raise UserError(f"{key}: {given} does not exist, nor is it organisation/model of a hub.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    repo = hub_id["repo"]
    revision = hub_id["revision"]
    try:
        path = Path(snapshot_download(repo, revision=revision, allow_patterns=[*files], ignore_patterns=_OTHER_FORMATS))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(
            f"{key}: {given} is not a path here, and not a model that the hub gives: {first_line(error)}"
        ) from error
    return path, f"{repo}@{path.name}"  # snapshots lie in a folder named after their commit
