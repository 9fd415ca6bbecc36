"""Upload of an export to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from nemo_bt.errors import UserError, first_line

_ERRORS = (HfHubHTTPError, HFValidationError, OSError, ValueError)


def check_upload(repo: str) -> None:
    """Check the repository's name and the login before anything is converted.

    Raises:
        UserError: the name is none of a repository, nobody is logged in, or the hub does not answer.
    """
    try:
        validate_repo_id(repo)
        HfApi().whoami()
    except _ERRORS as error:
        raise UserError(f"--push-to-hub {repo}: {first_line(error)} Nothing was converted.") from error


def push(folder: Path, repo: str, private: bool) -> str:
    """Upload every file of an export in one commit, and give the commit's address.

    The repository, organisation/model, is made if it is not there; only then `private` counts.

    Raises:
        UserError: the hub refuses, or cannot be reached; the folder stays.
    """
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Reward model from nemo_bt")
        return commit.commit_url
    except _ERRORS as error:
        raise UserError(
            f"--push-to-hub {repo} failed: {first_line(error)} The export is whole in {folder}; upload it from there."
        ) from error
