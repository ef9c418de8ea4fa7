"""Refuse a checkout whose links are plain files; everything else is in pyproject.toml.

``pcm_policy/envs``, ``datasets`` and ``configs`` are links to the folders beside the package. Git
writes such a link as a text file where links are switched off, as they are on Windows by default;
an install would then succeed, and nothing could be imported from it.
"""

from pathlib import Path

HERE = Path(__file__).parent
for name in ("configs", "datasets", "envs"):
    if not (HERE / "pcm_policy" / name).is_dir():
        raise SystemExit(
            f"pcm_policy/{name} is no folder but the text of a link: clone again with "
            "`git clone -c core.symlinks=true` (on Windows with developer mode switched on)"
        )

from setuptools import setup  # noqa: E402  the message must not depend on setuptools

setup()
