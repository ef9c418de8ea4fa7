"""multi_task_dit folders in LeRobot 0.6.1's layout, small and random, made without it."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.adopt.fixtures import camera_statistics, statistics, write_processors
from tests.reference_dit import State, draw_predictor, draw_text, draw_vision

DA, DS, TO, TA, T = 3, 4, 2, 5, 8
WIDTH, HEADS, STEP, HIDDEN, SIGHT, TEXT = 16, 2, 8, 16, 12, 16
SIZE = (40, 48)
CAMERAS = ("observation.images.b", "observation.images.a")
WORDS = ["<start>", "<end>", "push", "the", "block", "now", "!", "."]
INSTRUCTION = "push the block now"
TOKENS = [0, 2, 3, 4, 5, 1]


def clip_folder(folder: Path, **text: Any) -> Path:
    """CLIP's config and a tokenizer of few words."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {"num_attention_heads": 2, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    config = {"text_config": said | {"eos_token_id": 1} | text, "vision_config": said}
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    around = [{"SpecialToken": {"id": "<start>", "type_id": 0}}]
    around += [{"Sequence": {"id": "A", "type_id": 0}}]  # type: ignore[dict-item]
    around += [{"SpecialToken": {"id": "<end>", "type_id": 0}}]
    special = {w: {"id": w, "ids": [vocabulary[w]], "tokens": [w]} for w in WORDS[:2]}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": around,
            "pair": around,
            "special_tokens": special,
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "!"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def dit_config(clip: Path, cameras: bool = True, **changes: Any) -> dict[str, Any]:
    """``config.json`` as LeRobot 0.6.1 writes it, less what does not concern inference."""
    seen: dict[str, Any] = {"observation.state": {"type": "STATE", "shape": [DS]}}
    images = {name: {"type": "VISUAL", "shape": [3, *SIZE]} for name in CAMERAS}
    return {
        "type": "multi_task_dit",
        "n_obs_steps": TO,
        "input_features": seen | (images if cameras else {}),
        "output_features": {"action": {"type": "ACTION", "shape": [DA]}},
        "normalization_mapping": {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"},
        "horizon": T,
        "n_action_steps": TA,
        "objective": "diffusion",
        "noise_scheduler_type": "DDPM",
        "num_train_timesteps": 20,
        "beta_schedule": "squaredcos_cap_v2",
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "prediction_type": "epsilon",
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "num_inference_steps": None,
        "num_integration_steps": 12,
        "integration_method": "euler",
        "hidden_dim": WIDTH,
        "num_heads": HEADS,
        "dropout": 0.1,
        "use_rope": True,
        "rope_base": 100.0,
        "vision_encoder_name": str(clip),
        "text_encoder_name": str(clip),
        "use_separate_rgb_encoder_per_camera": False,
        "image_resize_shape": None,
        "image_crop_shape": [32, 32],
        "tokenizer_max_length": 8,
    } | changes


def write_dit(
    folder: Path, clip: Path | None = None, cameras: bool = True, **changes: Any
) -> State:
    """Write a policy's folder; return its weights under LeRobot's names."""
    clip = clip_folder(folder.with_name("clip")) if clip is None else clip
    config = dit_config(clip, cameras, **changes)
    frame = DS + HIDDEN + (len(CAMERAS) * SIGHT if cameras else 0)
    sizes = (DA, WIDTH, 2, STEP, TO * frame, T, config["use_rope"])
    weights = {f"noise_predictor.{k}": v for k, v in draw_predictor(0, *sizes).items()}
    separate = config["use_separate_rgb_encoder_per_camera"]
    for i in range((len(CAMERAS) if separate else 1) if cameras else 0):
        at = f"vision_encoders.{i}" if separate else "vision_encoder"
        at = f"observation_encoder.{at}.model.vision_model."
        weights |= {at + k: v for k, v in draw_vision(i + 1, SIGHT).items()}
    at = "observation_encoder.text_encoder."
    weights |= {f"{at}text_encoder.text_model.{k}": v for k, v in draw_text(9, TEXT).items()}
    weights[f"{at}projection.weight"] = torch.eye(HIDDEN, TEXT) * 0.7
    weights[f"{at}projection.bias"] = torch.linspace(-1, 1, HIDDEN)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    stats = {"observation.state": statistics(DS, 0), "action": statistics(DA, 2)}
    stats |= {name: camera_statistics(i) for i, name in enumerate(CAMERAS) if cameras}
    write_processors(folder, config, stats)
    file = folder / "policy_preprocessor.json"
    text = json.loads(file.read_text())
    step = {"tokenizer_name": str(clip), "max_length": 8, "padding_side": "right"}
    text["steps"].insert(2, {"registry_name": "tokenizer_processor", "config": step})
    file.write_text(json.dumps(text))
    return weights
