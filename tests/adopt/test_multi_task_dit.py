"""LeRobot's multi_task_dit imported; expected values from diffusers and a rewrite of LeRobot."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pcm_policy import DiffusionPolicy
from pcm_policy.adopt import Language, clip, read
from pcm_policy.cli.adopt import import_main
from pcm_policy.cli.compose import compose
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.sampling.noise import Noise
from tests.adopt.dit_folder import (
    CAMERAS,
    DS,
    HEADS,
    INSTRUCTION,
    SIZE,
    TA,
    TO,
    TOKENS,
    T,
    clip_folder,
    write_dit,
)
from tests.adopt.dit_folder import DA as DIM
from tests.adopt.fixtures import camera_statistics, statistics
from tests.adopt.reference import draw, loop, scheduler
from tests.reference_dit import State, clip_text, clip_vision, noise_predictor

B = 3
CLOSE = 1e-5
BLOCK = "noise_predictor.transformer_blocks.0."
TEXT = "observation_encoder.text_encoder."
FLOW = {"objective": "flow_matching", "num_integration_steps": 12}
FORMS: dict[str, dict[str, Any]] = {
    "ddpm": {},
    "ddim": {"noise_scheduler_type": "DDIM", "num_inference_steps": 7, "prediction_type": "sample"}
    | {"use_rope": False, "use_positional_encoding": True},
    "flow": FLOW,
}
SIGHTS: dict[str, dict[str, Any]] = {
    "blind": {"cameras": False},
    "one encoder": {},
    "two encoders": {"use_separate_rgb_encoder_per_camera": True, "image_resize_shape": [36, 34]},
    "no crop fits": {"image_resize_shape": [32, 32], "image_crop_shape": [99, 99]},
}


@pytest.fixture(autouse=True)
def _words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package that cuts texts is missing, the words of the one text here are known."""
    try:
        import tokenizers  # noqa: F401
    except ModuleNotFoundError:
        monkeypatch.setattr("pcm_policy.adopt.lerobot_dit.token_ids", lambda *a: TOKENS)


def wide(tensors: State) -> State:
    """In float64: what the random networks here make of a rounding is not small."""
    return {k: v.double() for k, v in tensors.items()}


def within(weights: State, prefix: str) -> State:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def observed() -> tuple[Tensor, dict[str, Tensor]]:
    g, s = torch.Generator().manual_seed(3), statistics(DS, 0)
    state = s["min"] + torch.rand(B, TO, DS, generator=g) * (s["max"] - s["min"])
    shape = (B, TO, *SIZE, 3)
    return state, {k: torch.randint(256, shape, generator=g, dtype=torch.uint8) for k in CAMERAS}


def sight(weights: State, config: dict[str, Any]) -> list[Tensor]:
    """What LeRobot's encoders make of the images, camera by camera."""
    found = []
    for i, image in enumerate(observed()[1].values()):
        s = wide(camera_statistics(i))
        x = (image.flatten(0, 1).movedim(-1, 1) / 255 - s["mean"]) / (s["std"] + 1e-8)
        if config["image_resize_shape"] is not None:
            x = torch.nn.functional.interpolate(
                x, config["image_resize_shape"], mode="bilinear", antialias=True
            )
        h, w = ((n - 32) // 2 for n in x.shape[2:])
        at = f"vision_encoders.{i}" if config["use_separate_rgb_encoder_per_camera"] else ""
        prefix = f"observation_encoder.{at or 'vision_encoder'}.model.vision_model."
        features = clip_vision(within(weights, prefix), x[:, :, h : h + 32, w : w + 32], 2)
        found.append(features.view(B, TO, -1))
    return found


def told(weights: State) -> Tensor:
    """LeRobot's features of the instruction."""
    at = "observation_encoder.text_encoder."
    pooled = clip_text(within(weights, f"{at}text_encoder.text_model."), TOKENS, 5, 2)
    return weights[f"{at}projection.weight"] @ pooled + weights[f"{at}projection.bias"]


def expected(weights: State, config: dict[str, Any], noise: Noise) -> Tensor:
    """LeRobot's chunk."""
    s = wide(statistics(DS, 0))
    seen = [2 * (observed()[0] - s["min"]) / (s["max"] - s["min"]) - 1]
    seen += sight(weights, config) if len(config["input_features"]) > 1 else []
    frames = torch.cat([*seen, told(weights).expand(B, TO, -1)], -1).flatten(1)
    own = within(weights, "noise_predictor.")

    def network(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return noise_predictor(own, x, t, cond, HEADS, 100.0 * config["use_rope"])

    if config["objective"] == "flow_matching":
        x, n = noise.initial, config["num_integration_steps"]
        for i in range(n):
            x = x + network(x, torch.full((B,), i / n), frames) / n
        return x
    keys = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end")
    keys += ("clip_sample", "clip_sample_range", "prediction_type")
    made = scheduler(config["noise_scheduler_type"], **{k: config[k] for k in keys})
    return loop(network, made, config["num_inference_steps"] or 20, frames, noise)


@pytest.mark.parametrize("seen", SIGHTS)
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_chunk_and_actions(tmp_path: Path, form: str, seen: str) -> None:
    weights = wide(write_dit(tmp_path / "p", **FORMS[form] | SIGHTS[seen]))
    config = json.loads((tmp_path / "p/config.json").read_text())
    imported = read(tmp_path / "p", Language(INSTRUCTION))
    policy = imported.policy().double()
    drawn = draw(B, T, DIM, imported.config.sampler.steps)
    assert drawn.steps is not None
    noise = Noise(drawn.initial.double(), drawn.steps.double() if form == "ddpm" else None)
    chunk = expected(weights, config, noise)
    state, images = observed()
    given = {"state": state.numpy()} | {k: v.numpy() for k, v in images.items()}
    obs = given if policy.vision is not None else state.numpy()
    found = policy.predict(obs, noise=noise)
    torch.testing.assert_close(found.solve.sample, chunk, rtol=0, atol=CLOSE)
    picard = policy.solver({"method": "picard", "tolerance": 1e-6})
    torch.testing.assert_close(
        policy.predict(obs, solver=picard, noise=noise).solve.sample, chunk, rtol=0, atol=CLOSE
    )
    a = wide(statistics(DIM, 2))
    raw = (chunk + 1) / 2 * (a["max"] - a["min"]) + a["min"]
    np.testing.assert_allclose(found.action, raw[:, TO - 1 : TO - 1 + TA], rtol=1e-4, atol=2e-4)
    assert imported.config.task == INSTRUCTION
    assert INSTRUCTION in imported.notes[0]


def test_command_and_another_instruction(tmp_path: Path) -> None:
    write_dit(tmp_path / "p")
    words = [f"source={tmp_path}/p", f"output_dir={tmp_path}/out", f"instruction='{INSTRUCTION}'"]
    folder = import_main(compose("import", [*words, "self_check=false"]))
    policy = DiffusionPolicy.from_pretrained(folder)
    assert f"the instruction is fixed: '{INSTRUCTION}'" in (folder / "README.md").read_text()
    assert PolicyConfig.from_dict(policy.config.to_dict()) == policy.config
    same = read(tmp_path / "p", Language(INSTRUCTION)).policy()
    pytest.importorskip("tokenizers")
    other = read(tmp_path / "p", Language("the block")).policy()
    state, images = observed()
    obs = {"state": state.numpy()} | {k: v.numpy() for k, v in images.items()}
    noise = draw(B, T, DIM, 20)
    chunks = [one.predict(obs, noise=noise).solve.sample for one in (policy, same, other)]
    assert torch.equal(chunks[0], chunks[1])
    assert (chunks[0] - chunks[2]).abs().max() > 1e-2


def rewritten(folder: Path, name: str, change: Any) -> None:
    """Change a JSON file of a folder."""
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))


def step(data: dict[str, Any]) -> dict[str, Any]:
    """The settings of the tokenizer's step."""
    found: dict[str, Any] = data["steps"][2]["config"]
    return found


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", {"objective": "score"}, "objective='score' is unknown"),
        ("config.json", FLOW | {"integration_method": "rk4"}, "only euler can be imported"),
        ("config.json", FLOW | {"num_integration_steps": 0}, "num_integration_steps=0"),
        ("config.json", {"noise_scheduler_type": "PNDM"}, "noise scheduler 'PNDM'"),
        ("config.json", {"num_heads": 3}, "width 16 is no multiple of heads 3"),
        ("config.json", {"horizon": "8"}, "horizon='8'"),
        ("config.json", {"n_obs_steps": 3}, "has width 96, .* make 140"),
        ("config.json", {"image_crop_shape": [30, 30]}, "have 9 patches"),
        ("config.json", {"use_separate_rgb_encoder_per_camera": True}, "lacks the layer"),
        ("config.json", {"text_encoder_name": "no/such"}, "names the CLIP 'no/such'"),
        ("config.json", {"text_encoder_name": "nowhere"}, "nowhere holds no config.json.*clip=F"),
        ("policy_preprocessor.json", lambda d: d["steps"].pop(2), "has no tokenizer_processor"),
        ("policy_preprocessor.json", lambda d: step(d).update(padding_side="left"), "only right"),
        ("policy_preprocessor.json", lambda d: d["steps"].pop(3), "has no normalizer_processor"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, name: str, change: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_dit(tmp_path / "p")
    edit = change if callable(change) else lambda data: data.update(change)
    rewritten(tmp_path / "p", name, edit)
    with pytest.raises(PcmError, match=message) as caught:
        read(tmp_path / "p", Language(INSTRUCTION)).policy()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{BLOCK}adaLN_modulation.1.bias"), "adaLN_modulation.1.bias"),
        (lambda t: t.pop(f"{BLOCK}attn.out_proj.bias"), "lacks the layer blocks.0.attn.out_proj"),
        (lambda t: t.pop(f"{TEXT}text_encoder.text_model.final_layer_norm.bias"), "final_norm"),
        (lambda t: t.pop(f"{TEXT}projection.bias"), "projection.bias"),
        (lambda t: t.update({"noise_predictor.more": torch.ones(1)}), "holds more"),
        (lambda t: t[f"{BLOCK}attn.out_proj.bias"].fill_(torch.nan), "holds NaN or inf"),
        (lambda t: t.clear(), "lacks the layer"),
    ],
)
def test_weights_that_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    write_dit(tmp_path / "p", cameras=False)
    tensors = load_file(tmp_path / "p/model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "p/model.safetensors")
    with pytest.raises(PcmError, match=message) as caught:
        read(tmp_path / "p", Language(INSTRUCTION)).policy()
    assert "model.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_instructions_and_their_words(tmp_path: Path) -> None:
    write_dit(tmp_path / "p", cameras=False)
    with pytest.raises(PcmError, match=r"give instruction='...'"):
        read(tmp_path / "p")
    with pytest.raises(PcmError, match=r"give instruction='...'"):
        read(tmp_path / "p", Language("  "))
    pytest.importorskip("tokenizers")
    assert clip.token_ids(tmp_path / "clip", INSTRUCTION, None) == TOKENS
    assert clip.token_ids(tmp_path / "clip", INSTRUCTION, 4) == [*TOKENS[:3], TOKENS[-1]]
    rewritten(tmp_path / "p", "policy_preprocessor.json", lambda d: step(d).pop("max_length"))
    with pytest.raises(PcmError, match=r"makes 9 tokens up to 7 .* 8 places and 12 words"):
        read(tmp_path / "p", Language("push push push now now the . ")).policy()
    moved = clip_folder(tmp_path / "moved")
    rewritten(tmp_path / "p", "config.json", lambda d: d.update(text_encoder_name="nowhere"))
    read(tmp_path / "p", Language(INSTRUCTION, str(moved))).policy()
    (moved / "tokenizer.json").write_text("{")
    with pytest.raises(PcmError, match=r"tokenizer.json is damaged"):
        read(tmp_path / "p", Language(INSTRUCTION, str(moved)))


def test_the_highest_word_ends_a_text_where_an_old_config_says_so(tmp_path: Path) -> None:
    """``eos_token_id`` 2 stands for no word of its own, as in OpenAI's published configs."""
    old = clip_folder(tmp_path / "old", eos_token_id=2)
    new = clip_folder(tmp_path / "new", eos_token_id=5)
    write_dit(tmp_path / "p", cameras=False)
    tensors = load_file(tmp_path / "p/model.safetensors")
    tower = clip.tower_weights(tensors, f"{TEXT}text_encoder.")
    same = [clip.text_features("f", tower, model, TOKENS) for model in (old, new)]
    assert torch.equal(*same)  # 5 is the highest of the instruction's
    at = within(tensors, f"{TEXT}text_encoder.text_model.")
    torch.testing.assert_close(same[0].float(), clip_text(at, TOKENS, 4, 2))
