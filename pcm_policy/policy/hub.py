"""Policies on the Hugging Face hub, through the optional package huggingface_hub.

Only configs, safetensors and cards are fetched: nothing that could be executed.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcm_policy.errors import PcmError
from pcm_policy.optional import require

POLICY_FILES = (
    "config.json",
    "model.safetensors",
    "observations.safetensors",
    "certificates.json",
    "README.md",
)
_ID = re.compile(r"(?:hf://)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def hub_id(name: str | Path) -> tuple[str, str | None] | None:
    """Split ``owner/name``, ``owner/name@revision`` or ``hf://owner/name`` into id and revision.

    Returns:
        None for anything else, and for ``folder/name`` where ``folder`` exists here: that is a
        mistyped path.
    """
    text = re.sub("^hf:/+", "hf://", str(name))  # Path makes one slash of two
    match = _ID.fullmatch(text)
    if match is None or match[1].startswith(".") or "/." in match[1]:
        return None
    if not text.startswith("hf://") and Path(match[1].partition("/")[0]).exists():
        return None
    return match[1], match[2]


def download(repo: str, revision: str | None, files: Sequence[str]) -> Path:
    """Fetch files of a model into the hub's own cache and return their folder.

    Args:
        repo: ``owner/name``.
        revision: branch, tag or commit; None for the main branch.
        files: names, or patterns of names.

    Raises:
        PcmError: huggingface_hub is not installed, there is no such model, or no connection.
    """
    hub = _hub()
    try:
        found = hub.snapshot_download(repo, revision=revision, allow_patterns=list(files))
    except Exception as error:  # of the hub, of its HTTP client, or of the disk
        raise _failed(f"no policy folder {repo}, and the hub gave none", error) from error
    return Path(found)


def upload(folder: Path, repo: str, *, private: bool, token: str | None, message: str) -> str:
    """Create a model if there is none, commit a folder to it, and return the commit's address.

    Raises:
        PcmError: huggingface_hub is not installed, there is no connection or no permission.
    """
    hub = _hub()
    try:
        api = hub.HfApi(token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message=message,
            allow_patterns=list(POLICY_FILES),
        )
    except Exception as error:
        raise _failed(f"cannot push to {repo}", error) from error
    return str(done.commit_url)


def _hub() -> Any:
    return require("huggingface_hub", "a policy on the hub", "hub")


def _failed(what: str, error: Exception) -> PcmError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return PcmError(f"{what} ({reason[:300]}): check the name, the connection and `hf auth login`")
