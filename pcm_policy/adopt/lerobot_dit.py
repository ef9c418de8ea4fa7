"""LeRobot ``multi_task_dit`` policies (from 0.5): state, cameras and an instruction.

``MultiTaskDiTPolicy`` has an ``observation_encoder`` of two CLIP towers and a ``noise_predictor``.
Each observed frame is state, the cameras' class tokens and the instruction's features side by side
(``ObservationEncoder.encode``). Here the instruction is fixed at import: its features become a part
of the network (``fixed``), and CLIP's text tower stays behind.

With flow matching LeRobot's time runs from noise (0) to actions (1) and the network predicts
actions less noise; here time is the noise level and the velocity noise less actions. So the network
is shown ``1 - t`` (``ascending``) and its last layer changes sign, both exactly.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcm_policy.adopt.build import Imported
from pcm_policy.adopt.clip import (
    Language,
    model_folder,
    text_features,
    token_ids,
    tower_config,
    tower_weights,
)
from pcm_policy.adopt.lerobot_features import Features, features
from pcm_policy.adopt.lerobot_files import ACTION, STATE
from pcm_policy.adopt.lerobot_normalizers import (
    from_processors,
    observed,
    range_notes,
    seen,
    steps,
)
from pcm_policy.adopt.scheduler import LEROBOT, Scheduling, euler_flow, scheduling
from pcm_policy.adopt.settings import Settings
from pcm_policy.adopt.sizes import Shapes
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.tensors import load_tensors
from pcm_policy.policy.vision import VisionConfig

_TOKENIZER = "tokenizer_processor"
_NETWORK, _SEEN = "noise_predictor.", "observation_encoder."
_TEXT = f"{_SEEN}text_encoder."
_NAMES = (
    (r"^transformer_blocks\.(\d+)\.", r"blocks.\1."),
    (r"^(blocks\.\d+\.)attn\.qkv_proj\.(weight|bias)$", r"\1attn.in_proj_\2"),
    (r"^(blocks\.\d+\.)multihead_attn\.", r"\1attn."),
    (r"^time_mlp\.(\d)\.", lambda m: f"time_mlp.{int(m[1]) - 1}."),  # theirs counts the embedding
    (r"^pos_embedding$", "positions"),
)


def read(folder: Path, where: str, config: Mapping[str, Any], language: Language) -> Imported:
    """Translate a LeRobot ``multi_task_dit`` policy.

    Args:
        folder: it.
        where: its config's file.
        config: what that holds.
        language: the instruction, which it needs.

    Raises:
        PcmError: no instruction; or a file or entry that is missing, damaged or of a kind that this
            package does not have.
    """
    settings = Settings(where, config)
    found = features(where, config, (STATE, ACTION), "multi_task_dit")
    file = folder / "model.safetensors"
    tensors = {k.replace("_orig_mod.", ""): v for k, v in load_tensors(file).items()}
    affine, renamed = from_processors(folder, found.widths, found.modes, _TOKENIZER)
    text = _instruction(str(file), tensors, folder, settings, language)
    vision, encoders = _vision(str(file), settings, tensors, found, language.clip)
    sampling = _sampling(settings)
    obs_dim = found.widths[STATE] if vision is None else vision.obs_dim
    options, weights = _network(str(file), tensors, settings, obs_dim, text)
    ours = PolicyConfig(
        obs_dim=obs_dim,
        action_dim=found.widths[ACTION],
        horizon=settings.count("horizon"),
        obs_steps=settings.count("n_obs_steps"),
        action_steps=settings.count("n_action_steps"),
        network="dit",
        network_options=options,
        schedule=sampling.schedule,
        prediction=sampling.prediction,
        clip=sampling.clip,
        sampler=sampling.sampler,
        task=str(language.instruction),
        obs_fields=(renamed.get(STATE, STATE),),
        action_field=ACTION,
        vision=vision,
    )
    said = f"the instruction is fixed: {language.instruction!r}; import again for another one"
    return Imported(
        "multi_task_dit",
        str(file),
        ours,
        weights,
        observed(affine, [STATE], vision),
        affine[ACTION],
        {
            "folder": str(folder.resolve()),
            "instruction": language.instruction,
            "clip": None if language.clip is None else str(Path(language.clip).resolve()),
        },
        (said, *range_notes(affine, [STATE]), *found.notes),
        extra={"instruction": text},
        vision=seen(affine, vision, encoders),
    )


def _sampling(settings: Settings) -> Scheduling:
    """Return schedule and sampler of the policy's objective."""
    objective = settings.get("objective", str, "diffusion")
    if objective == "diffusion":
        given = {k: settings.values[k] for k in LEROBOT if k in settings.values}
        name = settings.get("noise_scheduler_type", str)
        count = settings.get("num_inference_steps", int | None, None)
        return scheduling(settings.file, name, given, count)
    if objective != "flow_matching":
        raise PcmError(f"{settings.file}: objective={objective!r} is unknown")
    settings.refuse("integration_method", "euler", "only euler can be imported", "euler")
    return euler_flow(settings.count("num_integration_steps"))


def _instruction(
    file: str,
    tensors: Mapping[str, Tensor],
    folder: Path,
    settings: Settings,
    language: Language,
) -> Tensor:
    """Return the features of the instruction, ``(hidden_dim,)``."""
    if language.instruction is None or not language.instruction.strip():
        raise PcmError(
            f"{settings.file}: a multi_task_dit policy is told what to do, and here the text is "
            "fixed at import: give instruction='...', as LeRobot's task"
        )
    step = _tokenizer(folder / "policy_preprocessor.json")
    name = step.get("tokenizer_name", settings.get("text_encoder_name", str))
    cut = step.get("max_length", 77) if step.get("truncation", True) else None
    words = model_folder(settings.file, name, language.clip)
    tokens = token_ids(words, language.instruction, cut)
    model = model_folder(settings.file, settings.get("text_encoder_name", str), language.clip)
    tower = tower_weights(tensors, f"{_TEXT}text_encoder.")
    shape = Shapes(file, tensors, "multi_task_dit")
    shape(f"{_TEXT}projection.weight", 2), shape(f"{_TEXT}projection.bias", 1)
    weight, bias = (tensors[f"{_TEXT}projection.{k}"].double() for k in ("weight", "bias"))
    return (weight @ text_features(file, tower, model, tokens) + bias).float()


def _tokenizer(file: Path) -> Mapping[str, Any]:
    """Return the settings of the step that cuts a text into tokens."""
    for step in steps(file, _TOKENIZER):
        if step.get("registry_name") == _TOKENIZER:
            found: Mapping[str, Any] = step.get("config") or {}
            if found.get("padding_side", "right") != "right":
                raise PcmError(
                    f"{file}: padding_side={found['padding_side']!r}: only right is here"
                )
            return found
    raise PcmError(f"{file} has no {_TOKENIZER}: it is no processor of a multi_task_dit policy")


def _vision(
    file: str,
    settings: Settings,
    tensors: Mapping[str, Tensor],
    found: Features,
    clip: str | None,
) -> tuple[VisionConfig | None, list[dict[str, Tensor]]]:
    """Return how the cameras are encoded, and the encoders' weights; None and [] without any."""
    cameras = found.cameras
    if not cameras:
        return None, []
    separate = settings.get("use_separate_rgb_encoder_per_camera", bool, False)
    name = f"{_SEEN}vision_encoder"
    places = (
        [f"{name}s.{i}.model." for i in range(len(cameras))] if separate else [f"{name}.model."]
    )
    encoders = [tower_weights(tensors, place) for place in places]
    model = model_folder(settings.file, settings.get("vision_encoder_name", str), clip)
    vit = tower_config(file, encoders[0], model, "vision")
    resize = settings.get("image_resize_shape", list | None, None)
    crop = settings.get("image_crop_shape", list | None, None)
    for size in cameras.values():  # as LeRobot: a crop that does not fit is none
        if crop is not None and any(c > n for c, n in zip(crop, resize or size, strict=True)):
            crop = None
    vision = VisionConfig(
        layout=(found.widths[STATE], *cameras),
        cameras=cameras,
        shared=not separate,
        resize=None if resize is None else (resize[0], resize[1]),
        crop=None if crop is None else (crop[0], crop[1]),
        backbone="clip",
        norm="layer",
        keypoints=0,
        features=0,
        vit=vit,
    )
    return vision, [{f"backbone.{k}": v for k, v in part.items()} for part in encoders]


def _network(
    file: str, tensors: Mapping[str, Tensor], settings: Settings, obs_dim: int, text: Tensor
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return options and weights of :class:`~pcm_policy.networks.dit.DiffusionTransformer`.

    Args:
        file: of the weights, for messages.
        tensors: all weights of the policy.
        settings: its config.
        obs_dim: numbers of a frame before the instruction's features.
        text: those features.
    """
    theirs = {k.removeprefix(_NETWORK): v for k, v in tensors.items() if k.startswith(_NETWORK)}
    shape = Shapes(file, theirs, "noise predictor of multi_task_dit")
    frames, depth = settings.count("n_obs_steps"), shape.count("transformer_blocks.{}.mlp.0.weight")
    step = shape("time_mlp.1.weight", 2)[1]
    flow = settings.get("objective", str, "diffusion") == "flow_matching"
    options = {
        "width": shape("input_proj.weight", 2)[0],
        "depth": depth,
        "heads": settings.count("num_heads"),
        "dropout": settings.get("dropout", float, 0.1),
        "rope_base": settings.get("rope_base", float, 10_000.0)
        if "transformer_blocks.0.attn.qkv_proj.weight" in theirs
        else 0.0,
        "positions": "pos_embedding" in theirs,
        "step_embed_dim": step,
        "fixed_dim": frames * len(text),
        "ascending": flow,
    }
    films, others = _films(shape, theirs, depth)
    want = step + frames * (obs_dim + len(text))
    if films["weight"].shape[1] != want:
        raise PcmError(
            f"{file}: the condition of the blocks has width {films['weight'].shape[1]}, state, "
            f"cameras and instruction of {settings.file} make {want}"
        )
    rest = films["weight"][:, step:].reshape(-1, frames, obs_dim + len(text))
    weights = {_ours(k): v for k, v in others.items()}
    weights |= {
        "step_films.weight": films["weight"][:, :step],
        "cond_films.weight": rest[..., :obs_dim].flatten(1),
        "cond_films.bias": films["bias"],
        "fixed_films.weight": rest[..., obs_dim:].flatten(1),
        "fixed": text.repeat(frames),
    }
    for name in ("output_proj.weight", "output_proj.bias"):
        if flow and name in weights:
            weights[name] = -weights[name]
    return options, weights


def _films(
    shape: Shapes, theirs: Mapping[str, Tensor], depth: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Put the layers of all blocks that read the condition into one; return it, and the rest."""
    names = [f"transformer_blocks.{i}.adaLN_modulation.1" for i in range(depth)]
    for name in names:
        shape(f"{name}.weight", 2), shape(f"{name}.bias", 1)
    parts = {
        part: torch.cat([theirs[f"{name}.{part}"] for name in names]) for part in ("weight", "bias")
    }
    used = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    return parts, {k: v for k, v in theirs.items() if k not in used}


def _ours(name: str) -> str:
    """Give a weight of LeRobot's network the name that ours has for it."""
    for theirs, ours in _NAMES:
        name = re.sub(theirs, ours, name)
    return name
