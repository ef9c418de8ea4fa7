"""LeRobot folders in the layouts of all its versions; expected values from diffusers and numpy."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pcm_policy.adopt import read
from pcm_policy.adopt.lerobot_files import ACTION
from pcm_policy.adopt.lerobot_normalizers import affine
from pcm_policy.cli.adopt import import_main
from pcm_policy.cli.compose import compose
from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.noise import Noise
from tests.adopt.fixtures import (
    CAMERAS,
    CROP,
    DA,
    TA,
    TO,
    WIDTHS,
    T,
    camera_statistics,
    camera_weights,
    lerobot_config,
    statistics,
    write_lerobot,
    write_lerobot_cameras,
)
from tests.adopt.reference import draw, loop, ours, scheduler
from tests.reference_vision import encode

BATCH = 3
TOLERANCE = 1e-4  # float32, normalised units; the float64 self-check is 1e-6


def raw_observations() -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    parts = []
    for i, name in enumerate(list(WIDTHS)[:2]):
        s = statistics(WIDTHS[name], i)
        u = torch.rand(BATCH, TO, WIDTHS[name], generator=g)
        parts.append(s["min"] + u * (s["max"] - s["min"]))
    return torch.cat(parts, dim=-1)


def expected(
    network: Any, config: dict[str, Any], noise: Noise, features: torch.Tensor | None = None
) -> tuple[torch.Tensor, Any]:
    """LeRobot's formulas: mean and deviation for the state, range for the rest."""
    state, env = raw_observations().split([2, 3], dim=-1)
    s, e, a = (statistics(width, i) for i, width in enumerate(WIDTHS.values()))
    seen = [(state - s["mean"]) / (s["std"] + 1e-8)]
    seen += [] if features is None else [features]
    seen.append(2 * (env - e["min"]) / (e["max"] - e["min"]) - 1)
    keys = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end")
    keys += ("clip_sample", "clip_sample_range", "prediction_type")
    made = scheduler(config["noise_scheduler_type"], **{k: config[k] for k in keys})
    steps = config["num_inference_steps"] or config["num_train_timesteps"]
    chunk = loop(network, made, steps, torch.cat(seen, dim=-1).flatten(1), noise)
    raw = (chunk + 1) / 2 * (a["max"] - a["min"]) + a["min"]
    return chunk, raw[:, TO - 1 : TO - 1 + TA]


@pytest.mark.parametrize("layout", ["processors", "buffers", "shapes"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"noise_scheduler_type": "DDPM", "num_inference_steps": None},
        {"noise_scheduler_type": "DDPM", "num_inference_steps": 5, "prediction_type": "sample"},
        {"clip_sample_range": 1.5, "beta_schedule": "linear", "num_inference_steps": 7},
        {"clip_sample": False},
    ],
    ids=["ddim", "ddpm", "ddpm-sample", "linear", "unclipped"],
)
def test_chunk_and_actions(tmp_path: Path, layout: str, changes: dict[str, Any]) -> None:
    network = write_lerobot(tmp_path / "p", layout, **changes)
    config = json.loads((tmp_path / "p" / "config.json").read_text())
    imported = read(tmp_path / "p")
    stochastic = config["noise_scheduler_type"] == "DDPM"
    noise = draw(BATCH, T, DA, imported.config.sampler.steps)
    noise = noise if stochastic else Noise(noise.initial)
    chunk, action = expected(network, config, noise)
    found, executed = ours(imported, raw_observations(), noise)
    torch.testing.assert_close(found, chunk, rtol=0, atol=TOLERANCE * max(1, chunk.abs().max()))
    torch.testing.assert_close(executed, action, rtol=TOLERANCE, atol=20 * TOLERANCE)
    assert imported.config.obs_fields == ("observation.state", "observation.environment_state")


def images() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(4)
    return {
        name: torch.randint(256, (BATCH, TO, h // 5, w // 5, 3), generator=g, dtype=torch.uint8)
        .repeat_interleave(5, 2)
        .repeat_interleave(5, 3)
        for name, (h, w) in CAMERAS.items()
    }


def camera_features(separate: bool) -> torch.Tensor:
    """What LeRobot's encoders make of the images: normalised, cut out of the middle, encoded."""
    found = []
    for i, image in enumerate(images().values()):
        s = camera_statistics(i)
        x = image.flatten(0, 1).movedim(-1, 1) / 255
        x = (x - s["mean"]) / (s["std"] + 1e-8)
        x = x[:, :, 6 : 6 + CROP[0], 2 : 2 + CROP[1]]
        found.append(encode(camera_weights(i if separate else 0), x).view(BATCH, TO, -1))
    return torch.cat(found, dim=-1)


@pytest.mark.parametrize("layout", ["processors", "buffers", "shapes"])
@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("name", ["DDIM", "DDPM"])
@torch.no_grad()
def test_cameras(tmp_path: Path, layout: str, separate: bool, name: str) -> None:
    changes = {"noise_scheduler_type": name, "num_inference_steps": 5, "prediction_type": "sample"}
    network = write_lerobot_cameras(tmp_path / "p", layout, separate, **changes)
    imported = read(tmp_path / "p")
    policy = imported.policy()
    assert list(policy.config.vision.cameras) == list(CAMERAS)  # type: ignore[union-attr]
    features = camera_features(separate)
    assert features.std((0, 1)).mean() > 1e-2
    state, env = raw_observations().split([2, 3], dim=-1)
    obs = {"state": torch.cat([state, env], dim=-1)} | images()
    vector = policy.observe({k: v.numpy() for k, v in obs.items()})
    torch.testing.assert_close(vector[..., 2:-3], features, rtol=0, atol=TOLERANCE)
    noise = draw(BATCH, T, DA, 5)
    noise = noise if name == "DDPM" else Noise(noise.initial)
    config = lerobot_config(**changes)
    chunk, action = expected(network, config, noise, features)
    found = policy.predict({k: v.numpy() for k, v in obs.items()}, noise=noise)
    torch.testing.assert_close(found.solve.sample, chunk, rtol=0, atol=TOLERANCE)
    executed = torch.from_numpy(found.action)
    torch.testing.assert_close(executed, action, rtol=TOLERANCE, atol=20 * TOLERANCE)


@pytest.mark.parametrize(
    ("config", "edit", "message"),
    [
        (
            {},
            lambda t: t.pop(f"{ENCODER}backbone.7.1.conv2.weight"),
            "lacks the layer .*layer4.1.conv2",
        ),
        (
            {},
            lambda t: t.pop(f"{ENCODER}backbone.0.weight"),
            "lacks the layer backbone.conv1.weight",
        ),
        ({}, lambda t: t.pop(f"{ENCODER}out.bias"), "lacks the layer encoders.0.out.bias"),
        ({}, lambda t: t.pop(f"{ENCODER}backbone.5.1.conv1.weight"), "backbone is neither of"),
        (
            {},
            lambda t: t.update({f"{ENCODER}backbone.4.9.x": torch.ones(1)}),
            "holds encoders.0.*9.x",
        ),
        ({}, lambda t: t.update({f"{ENCODER}out.bias": torch.ones(3)}), "out.bias has shape"),
        ({}, lambda t: t.update({f"{ENCODER}out.bias": torch.ones(8).half()}), "is torch.float16"),
        ({}, lambda t: t[f"{ENCODER}out.bias"].fill_(torch.nan), "holds NaN or inf"),
        ({"crop_shape": [99, 99]}, None, r"crop=\(99, 99\) is larger than observation.images.b"),
        ({"crop_shape": "all"}, None, "crop|sizes"),
        ({"resize_shape": [10**9, 8]}, None, "not heights and widths|is larger"),
        ({"use_separate_rgb_encoder_per_camera": True}, None, "lacks the layer backbone.conv1"),
    ],
)
def test_cameras_that_are_refused(
    tmp_path: Path, config: dict[str, Any], edit: Any, message: str
) -> None:
    write_lerobot_cameras(tmp_path / "p", **config)
    if edit is not None:
        edit_weights(tmp_path / "p", edit)
    with pytest.raises(PcmError, match=message) as caught:
        read(tmp_path / "p").policy()
    assert "\n" not in str(caught.value)


ENCODER = "diffusion.rgb_encoder."


def test_command_writes_a_policy_that_loads_and_says_what_it_is(tmp_path: Path) -> None:
    write_lerobot(tmp_path / "p")
    words = [f"source={tmp_path}/p", f"output_dir={tmp_path}/out", "control_hz=20", "name=mine"]
    folder = import_main(compose("import", words))
    policy = DiffusionPolicy.from_pretrained(folder)
    assert (policy.config.control_hz, policy.config.task) == (20, "mine")
    assert "control_hz is 10" not in (folder / "README.md").read_text()  # it was given
    report = json.loads((tmp_path / "out/import.json").read_text())
    assert report["kind"] == "lerobot"
    assert "not_run" in report["self_check"] or report["self_check"]["chunk"] < 1e-6
    assert "executes steps 1 to 5" in (folder / "README.md").read_text()


def test_the_processor_wins_over_the_config(tmp_path: Path) -> None:
    write_lerobot(tmp_path / "p")
    file = tmp_path / "p/policy_preprocessor.json"
    text = json.loads(file.read_text())
    text["steps"][2]["config"]["norm_map"]["STATE"] = "IDENTITY"
    text["steps"][0]["config"]["rename_map"] = {"observation.joints": "observation.state"}
    file.write_text(json.dumps(text))
    found = read(tmp_path / "p")
    assert found.obs.scale[:2].tolist() == [1, 1]
    assert found.obs.low[:2].tolist() == statistics(2, 0)["min"].tolist()
    assert found.config.obs_fields[0] == "observation.joints"


def test_a_type_that_the_mapping_leaves_out_is_not_normalised(tmp_path: Path) -> None:
    """LeRobot's own default mapping has no ENV."""
    mapping = {"STATE": "MEAN_STD", "ACTION": "MIN_MAX"}
    write_lerobot(tmp_path / "p", "buffers", normalization_mapping=mapping)
    prefix = "normalize_inputs.buffer_observation_environment_state."
    edit_weights(tmp_path / "p", lambda t: [t.pop(prefix + k) for k in ("min", "max")])
    found = read(tmp_path / "p")
    assert found.obs.scale[2:].tolist() == [1, 1, 1]
    assert found.obs.low[2:].isinf().all()
    assert any("no recorded range" in note for note in found.notes)
    far = torch.full((1, TO, 5), 1e6)
    far[..., :2] = statistics(2, 0)["mean"]
    assert found.policy().predict(far.numpy()).action.shape == (1, TA, DA)


def test_dimensions_that_never_change(tmp_path: Path) -> None:
    write_lerobot(tmp_path / "p")
    for file in (tmp_path / "p").glob("policy_*.safetensors"):
        tensors = load_file(file)
        tensors["observation.environment_state.max"] = tensors["observation.environment_state.min"]
        tensors["action.max"] = tensors["action.min"].clone()
        save_file({k: v.clone() for k, v in tensors.items()}, file)
    policy = read(tmp_path / "p").policy()
    low = statistics(3, 1)["min"]
    at = policy.obs_normalizer.normalize(torch.cat([torch.zeros(2), low]))[2:]
    assert (at + 1).abs().max() < 1e-5
    action = policy.action_normalizer.unnormalize(torch.tensor([[-1.0, 1.0]]))
    assert (action - statistics(2, 2)["min"]).abs().max() < 2e-4


def edit_config(folder: Path, **changes: Any) -> None:
    text = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(text | changes))


def edit_weights(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


IMAGE = {"observation.image": {"type": "VISUAL", "shape": [3, 96, 96]}}
FIRST = "diffusion.unet.down_modules.0.0.conv1.block.0.weight"
LAST = "diffusion.unet.final_conv.1.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(LAST), "lacks the layer final_conv.1.bias"),
        (lambda t: t.pop(FIRST), "lacks the layer down_modules.0.0.blocks.0.block.0.weight"),
        (lambda t: t.update({LAST: t[LAST].half()}), "final_conv.1.bias is torch.float16"),
        (lambda t: t.update({LAST: torch.ones(7)}), r"has shape \(7,\).* asks for \(2,\)"),
        (lambda t: t.update({LAST: t[LAST] * torch.nan}), "holds NaN or inf"),
        (lambda t: t.update({"diffusion.unet.more": torch.ones(1)}), "holds more .*has not"),
        (lambda t: t.clear(), "holds no diffusion.unet"),
    ],
)
def test_bad_weights(tmp_path: Path, change: Any, message: str) -> None:
    write_lerobot(tmp_path / "p")
    edit_weights(tmp_path / "p", change)
    with pytest.raises(PcmError, match=message) as caught:
        read(tmp_path / "p").policy()
    assert "model.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "act"}, "policy type 'act'"),
        ({"beta_schedule": "scaled_linear"}, "beta_schedule='scaled_linear'"),
        ({"noise_scheduler_type": "PNDM"}, "noise scheduler 'PNDM'"),
        ({"num_inference_steps": 21}, "trained with 20 denoising steps"),
        ({"n_action_steps": 8}, "horizon=8 is too short"),
        ({"horizon": "8"}, "horizon='8'"),
        ({"output_features": {}}, "no action"),
        (
            {"input_features": {"observation.image": {"type": "VISUAL", "shape": [3, 96, 96]}}},
            "image",
        ),
    ],
)
def test_bad_config(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_lerobot(tmp_path / "p")
    edit_config(tmp_path / "p", **changes)
    with pytest.raises(PcmError, match=message):
        read(tmp_path / "p")


def test_missing_statistics_are_refused(tmp_path: Path) -> None:
    write_lerobot(tmp_path / "a")
    for file in (tmp_path / "a").glob("*unnormalizer*.safetensors"):
        save_file({"action.mean": torch.ones(2)}, file)
    with pytest.raises(PcmError, match=r"lacks finite statistics of action \(min\)"):
        read(tmp_path / "a")
    write_lerobot(tmp_path / "b", "buffers")
    edit_weights(tmp_path / "b", lambda t: t.pop("normalize_inputs.buffer_observation_state.std"))
    with pytest.raises(PcmError, match="never runs without its normaliser"):
        read(tmp_path / "b")


@pytest.mark.parametrize("end", ["min", "max"])
@pytest.mark.parametrize("mode", ["IDENTITY", "MEAN_STD"])
def test_one_end_of_a_range_is_no_range(mode: str, end: str) -> None:
    """A gate that lets anything pass at the other end would look like one."""
    stats = {"mean": torch.zeros(2), "std": torch.ones(2), end: torch.ones(2)}
    found = affine("file", ACTION, mode, stats, 2, eps=1e-8).normalizer("action")
    assert found.low.tolist() == [-torch.inf] * 2
    assert found.high.tolist() == [torch.inf] * 2


def test_processor_files_lead_nowhere_else_and_do_nothing_unknown(tmp_path: Path) -> None:
    write_lerobot(tmp_path / "p")
    file = tmp_path / "p/policy_preprocessor.json"
    text = json.loads(file.read_text())
    kept = text["steps"][2]["state_file"]
    text["steps"][2]["state_file"] = "../elsewhere.safetensors"
    file.write_text(json.dumps(text))
    with pytest.raises(PcmError, match="expected a file beside it"):
        read(tmp_path / "p")
    text["steps"][2]["state_file"] = kept
    text["steps"][1] = {"class": "os.system", "config": {"command": "true"}}
    file.write_text(json.dumps(text))
    with pytest.raises(PcmError, match=r"step 'os.system' cannot be imported"):
        read(tmp_path / "p")


def test_nothing_to_import(tmp_path: Path) -> None:
    with pytest.raises(PcmError, match="does not exist"):
        read(tmp_path / "none")
    with pytest.raises(PcmError, match="no policy that can be imported"):
        read(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100000)
    with pytest.raises(PcmError, match="cannot be read as JSON"):
        read(tmp_path)


@pytest.mark.parametrize("layout", ["processors", "buffers"])
@pytest.mark.parametrize(
    ("where", "name", "about"),
    [
        ("input_features", "observation.effort", {"type": "STATE", "shape": [2]}),
        ("input_features", "observation.velocity", {"type": "STATE", "shape": [3, 4]}),
        ("input_features", "task", {"type": "LANGUAGE", "shape": [1]}),
        ("output_features", "action.hand", {"type": "ACTION", "shape": [3]}),
    ],
)
def test_entries_that_the_policy_does_not_use(
    tmp_path: Path, layout: str, where: str, name: str, about: dict[str, Any]
) -> None:
    """LeRobot lists all that was recorded; the import is that of the folder without them."""
    write_lerobot(tmp_path / "plain", layout)
    write_lerobot(tmp_path / "more", layout)
    config = json.loads((tmp_path / "more/config.json").read_text())
    edit_config(tmp_path / "more", **{where: config[where] | {name: about}})
    plain, more = read(tmp_path / "plain"), read(tmp_path / "more")
    assert more.notes == (*plain.notes, f"{name} is not used, as by LeRobot's diffusion policy")
    one, two = plain.policy(), more.policy()
    assert one.config.obs_fields == two.config.obs_fields
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["smolvla", "pi0", "pi05", "act"])
def test_another_policy_is_told_where_it_can_be_solved(tmp_path: Path, kind: str) -> None:
    write_lerobot(tmp_path / "a", "buffers")
    config = json.loads((tmp_path / "a/config.json").read_text()) | {"type": kind}
    (tmp_path / "a/config.json").write_text(json.dumps(config))
    with pytest.raises(PcmError, match=f"policy type '{kind}': only LeRobot's") as raised:
        read(tmp_path / "a")
    assert ("docs/vla.md" in str(raised.value)) == (kind != "act")
    assert "\n" not in str(raised.value)


def test_a_config_without_its_type(tmp_path: Path) -> None:
    """As LeRobot 0.1 wrote it: ``noise_scheduler_type`` is that of a diffusion policy."""
    write_lerobot(tmp_path / "a", "buffers")
    config = json.loads((tmp_path / "a/config.json").read_text())
    config.pop("type")
    (tmp_path / "a/config.json").write_text(json.dumps(config))
    assert read(tmp_path / "a").policy().config.obs_dim == 5
    config.pop("noise_scheduler_type")
    (tmp_path / "a/config.json").write_text(json.dumps(config))
    with pytest.raises(PcmError, match="policy type 'unknown': only LeRobot's diffusion"):
        read(tmp_path / "a")
