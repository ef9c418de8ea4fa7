"""Where policies and demonstrations are: in a folder, in the package, on the hub."""

from pathlib import Path

from pcm_policy.errors import PcmError
from pcm_policy.policy.hub import POLICY_FILES, download, hub_id

RELEASED = Path(__file__).parents[1] / "released"


def resolve(path: str | Path) -> Path:
    """Return the folder that ``policy=...`` names.

    ``released/NAME`` ships with the package; ``OWNER/NAME``, ``OWNER/NAME@REVISION`` or
    ``hf://OWNER/NAME`` is fetched from the Hugging Face hub, unless a folder has that name.

    Raises:
        PcmError: there is no such folder or model.
    """
    folder = Path(path)
    if not folder.exists() and folder.parts[:1] == ("released",):
        folder = RELEASED.joinpath(*folder.parts[1:])
    elif not folder.exists() and (named := hub_id(path)) is not None:
        return download(*named, POLICY_FILES)
    if not folder.is_dir():
        shipped = ", ".join(f"released/{p.name}" for p in sorted(RELEASED.glob("*/")))
        raise PcmError(
            f"no policy folder {path}: name one written by pcm-train, OWNER/NAME on the hub, or "
            f"use {shipped}"
        )
    return folder


def resolve_data(path: str) -> str:
    """Return the replay buffer that a path names; ``released/NAME`` ships with the package."""
    file = Path(path)
    if not file.exists() and file.parts[:1] == ("released",):
        return str(RELEASED / f"{file.name}.zarr.zip")
    return path
