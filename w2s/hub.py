"""Finding out commits on the Hugging Face hub; w2s pins them, so that a name always means the same content."""

import re
from pathlib import Path
from typing import Literal

from w2s.errors import DataError, ModelError

RepoType = Literal["model", "dataset"]
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT = 20.0  # seconds


def resolve_revision(repo_id: str, revision: str | None = None, *, repo_type: RepoType = "dataset") -> str:
    """The commit that a branch, tag or pull request of a hub repository stands for; a commit stands for itself.

    When the hub cannot be reached, what the local cache last saw under that name is taken.

    Args:
        repo_id: E.g. "EleutherAI/pythia-70m".
        revision: None means the main branch.
        repo_type: Models and datasets have separate names.

    Raises:
        DataError: For a dataset: no such repository or revision, no access, or no connection; and what to do.
        ModelError: The same for a model.
    """
    if revision and _COMMIT.fullmatch(revision):
        return revision
    error = ModelError if repo_type == "model" else DataError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        commit = HfApi().repo_info(repo_id, revision=revision, repo_type=repo_type, timeout=_TIMEOUT).sha
    except GatedRepoError as cause:
        raise error(
            f"{repo_type} {repo_id}: its owner grants access one by one; ask on its hub page and set HF_TOKEN"
        ) from cause
    except RevisionNotFoundError as cause:
        raise error(f"{repo_type} {repo_id}: has no revision {revision!r}") from cause
    except (RepositoryNotFoundError, HFValidationError) as cause:
        raise error(
            f"{repo_type} {repo_id}: no such folder here, and no such {repo_type} on the Hugging Face hub"
        ) from cause
    except Exception as cause:  # no connection, a time-out, offline mode: whatever the HTTP client of the day raises
        commit = cached_commit(repo_id, revision, repo_type=repo_type)
        if commit is None:
            raise error(
                f"{repo_type} {repo_id}: no such folder here, and the Hugging Face hub cannot be reached ({cause}). "
                + how_to_copy(repo_id, repo_type)
            ) from cause
    return str(commit)


def cached_commit(repo_id: str, revision: str | None, *, repo_type: RepoType) -> str | None:
    """The commit under which the local hub cache knows a revision; None if it does not."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    if revision and _COMMIT.fullmatch(revision):
        return revision
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type=repo_type)
    reference = folder / "refs" / (revision or "main")
    return reference.read_text().strip() if reference.is_file() else None


def how_to_copy(repo_id: str, repo_type: RepoType) -> str:
    """What to type on a machine that has a connection."""
    option = " --repo-type dataset" if repo_type == "dataset" else ""
    folder = repo_id.rsplit("/", 1)[-1]
    command = f"hf download {repo_id}{option} --local-dir {folder}"
    return f"On a machine with a connection run `{command}`, and name that folder instead"
