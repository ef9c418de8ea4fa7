"""CLIP's towers in a checkpoint of another project: their weights, sizes, and a text's features.

Weights carry transformers' names. What no weight shows (heads, activation, which token ends a text)
is in CLIP's own ``config.json``, and the words in its ``tokenizer.json``: a checkpoint names the
model and holds neither.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pcm_policy.adopt.build import compare
from pcm_policy.adopt.lerobot_files import load_json
from pcm_policy.adopt.sizes import Shapes
from pcm_policy.errors import PcmError
from pcm_policy.networks.clip import TextTower, TowerConfig
from pcm_policy.optional import require
from pcm_policy.policy.hub import download, hub_id

_FILES = ("config.json", "tokenizer.json")
_LAYER = (
    ("layer_norm1.", "norm1."),
    ("layer_norm2.", "norm2."),
    ("mlp.fc1.", "linear1."),
    ("mlp.fc2.", "linear2."),
)
_OTHER = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "patch_embedding.weight",
    "embeddings.position_embedding.weight": "position_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "pre_layrnorm.weight": "pre_norm.weight",
    "pre_layrnorm.bias": "pre_norm.bias",
    "final_layer_norm.weight": "final_norm.weight",
    "final_layer_norm.bias": "final_norm.bias",
}
_UNUSED = ("embeddings.position_ids", "post_layernorm.weight", "post_layernorm.bias")
_FIRST_EOS = 49407  # transformers' default
_HIGHEST = 2  # an eos_token_id of 2 stands for the highest id of a text: old configs have it


@dataclass(frozen=True)
class Language:
    """What a policy is told to do.

    Attributes:
        instruction: the text, fixed at import.
        clip: folder with the ``config.json`` and ``tokenizer.json`` of the policy's CLIP; None
            where the checkpoint's own name of it leads to them.
    """

    instruction: str | None = None
    clip: str | None = None

    @property
    def given(self) -> str:
        """What was given, for a message; empty for nothing."""
        pairs = (("instruction", self.instruction), ("clip", self.clip))
        return " ".join(f"{name}={value!r}" for name, value in pairs if value is not None)


NOTHING_SAID = Language()


def model_folder(where: str, name: Any, given: str | None) -> Path:
    """Find the files of a CLIP model.

    Args:
        where: the file that names it, for messages.
        name: a folder, or ``OWNER/NAME`` on the hub.
        given: a folder that a user named in its place.

    Raises:
        PcmError: they are nowhere.
    """
    folder = Path(str(given or name))
    if given is None and not folder.is_dir() and (named := hub_id(folder)) is not None:
        try:
            folder = download(*named, _FILES)
        except PcmError as error:
            raise PcmError(f"{where} names the CLIP {name!r}: {error}; or clip=FOLDER") from error
    for file in _FILES:
        if not (folder / file).is_file():
            raise PcmError(
                f"{where} names the CLIP {name!r}, and {folder} holds no {file}: give clip=FOLDER, "
                "a folder with its config.json and tokenizer.json"
            )
    return folder


def tower_weights(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return one tower's weights under the names of :mod:`pcm_policy.networks.clip`.

    Args:
        tensors: a state dict.
        prefix: of the tower, with or without transformers' ``vision_model.`` or ``text_model.``.
    """
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if not name.startswith(prefix):
            continue
        rest = re.sub("^(vision|text)_model[.]", "", name.removeprefix(prefix))
        if rest in _UNUSED:
            continue
        rest = _OTHER.get(rest, rest.removeprefix("encoder."))
        for theirs, ours in _LAYER:
            rest = re.sub(rf"^(layers[.]\d+[.]){re.escape(theirs)}", rf"\g<1>{ours}", rest)
        one = re.fullmatch(r"(layers[.]\d+[.]self_attn[.])([qkv])_proj[.](weight|bias)", rest)
        if one is None:
            found[rest] = value
        else:
            parts.setdefault(f"{one[1]}in_proj_{one[3]}", {})[one[2]] = value
    whole = {k: v for k, v in parts.items() if len(v) == len("qkv")}
    return found | {k: torch.cat([v[part] for part in "qkv"]) for k, v in whole.items()}


def tower_config(
    file: str, weights: Mapping[str, Tensor], model: Path, which: Literal["vision", "text"]
) -> TowerConfig:
    """Read a tower's sizes off its weights, and the rest from CLIP's config.

    Args:
        file: of the weights, for messages.
        weights: from :func:`tower_weights`.
        model: from :func:`model_folder`.
        which: the tower.

    Raises:
        PcmError: a weight that shows a size is missing or misshapen, or a setting is unknown.
    """
    shape = Shapes(file, weights, f"CLIP {which} encoder")
    said = _said(model, which)
    depth = shape.count("layers.{}.linear1.weight")
    positions, width = shape("position_embedding", 2)
    return TowerConfig(
        width=width,
        depth=depth,
        heads=said.get("num_attention_heads", 12 if which == "vision" else 8),
        inner=shape("layers.0.linear1.weight", 2)[0] if depth else width,
        activation=said.get("hidden_act", "quick_gelu"),
        eps=said.get("layer_norm_eps", 1e-5),
        patch=shape("patch_embedding.weight", 4)[2] if which == "vision" else 0,
        positions=positions,
    )


@torch.no_grad()
def text_features(
    file: str, weights: Mapping[str, Tensor], model: Path, tokens: list[int]
) -> Tensor:
    """Return what the text tower makes of a text, ``(width,)`` float64.

    Args:
        file: of the weights, for messages.
        weights: from :func:`tower_weights`.
        model: from :func:`model_folder`.
        tokens: from :func:`token_ids`.

    Raises:
        PcmError: weights that do not fit, or a text longer than the tower has places for.
    """
    config = tower_config(file, weights, model, "text")
    vocabulary = Shapes(file, weights, "CLIP text encoder")("token_embedding.weight", 2)[0]
    if len(tokens) > config.positions or max(tokens) >= vocabulary:
        raise PcmError(
            f"{model / 'tokenizer.json'} makes {len(tokens)} tokens up to {max(tokens)} of the "
            f"instruction, {file} has {config.positions} places and {vocabulary} words: they do "
            "not belong together"
        )
    tower = TextTower(config, vocabulary)
    compare(file, weights, tower.state_dict())
    tower.load_state_dict(dict(weights))
    ids = torch.tensor([tokens])
    eos = _said(model, "text").get("eos_token_id", _FIRST_EOS)
    end = ids.argmax(1) if eos == _HIGHEST else (ids == eos).int().argmax(1)
    found: Tensor = tower.double().eval()(ids, end)[0]
    return found


def token_ids(model: Path, text: str, most: int | None) -> list[int]:
    """Cut a text into the tokens of a CLIP, first and last ones included.

    Args:
        model: from :func:`model_folder`.
        text: the text.
        most: number of tokens after which it is cut; None for no cut.

    Raises:
        PcmError: the package tokenizers is not installed, or the file is damaged.
    """
    file = model / "tokenizer.json"
    tokenizers = require("tokenizers", "an instruction for CLIP", "clip")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # of a library in another language, which raises nothing narrower
        raise PcmError(f"{file} is damaged ({error}): download it again") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if most is not None:
        tokenizer.enable_truncation(most)
    found: list[int] = tokenizer.encode(text).ids
    return found


def _said(model: Path, which: str) -> dict[str, Any]:
    """Return the settings of a tower in CLIP's config, whole or its own."""
    config = load_json(model / "config.json")
    part = config.get(f"{which}_config", config)
    return part if isinstance(part, dict) else {}
