"""``config.json`` of a policy folder."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pcm_policy.errors import PcmError
from pcm_policy.files import read_json
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.places import resolve

FORMAT_VERSION = 1
LEFT_OUT: dict[str, dict[str, Any]] = {
    "window": {"width": 96, "nodes": None, "newton": False, "guess_width": 0, "guess_noises": 1},
    "unet1d": {"down_dims": [256, 512, 1024], "step_embed_dim": 256},
    "transformer": {"n_layer": 8, "n_emb": 256, "p_drop_attn": 0.1},
}
"""What a file of this version means by options of a network or head that it does not have: they
were other classes' defaults once, and stay what they were whatever these become."""


def config_of(path: str | Path) -> PolicyConfig:
    """Read what a policy folder says of its policy, without its weights.

    Raises:
        PcmError: there is no such policy, or it is damaged.
    """
    return read_config(resolve(path) / "config.json")


def read_config(file: Path) -> PolicyConfig:
    """Read the file of a policy's config.

    Raises:
        PcmError: it is missing, damaged, of another version, or an entry is wrong.
    """
    if not file.is_file():
        raise PcmError(f"{file} does not exist: name a policy folder written by pcm-train")
    try:
        data = read_json(file)
    except PcmError as error:
        raise PcmError(f"{file} is not a policy config: {error}") from error
    if not isinstance(data, dict) or not {"format_version", "policy"} <= set(data):
        raise PcmError(f"{file} is not a policy config: it lacks format_version or policy")
    version = data["format_version"]
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise PcmError(
            f"{file} has format version {version}, this package reads {FORMAT_VERSION}: "
            "use the matching version of pcm_policy"
        )
    try:
        if not isinstance(data["policy"], dict):
            raise PcmError("policy is not a dictionary of settings")
        config = PolicyConfig.from_dict(data["policy"])
    except PcmError as error:
        raise PcmError(f"{file}: {error}") from error
    own = _meant(config.network, config.network_options)
    head = config.head
    if head is not None:
        head = replace(head, options=_meant(head.name, head.options))
    return replace(config, network_options=own, head=head)


def _meant(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a network or head, with those that a file leaves out."""
    left = {k: v for k, v in LEFT_OUT.get(name, {}).items() if k not in options}
    return {**options, **left}
