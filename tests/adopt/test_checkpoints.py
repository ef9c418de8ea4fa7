"""diffusion_policy and robomimic checkpoints; expected values from diffusers and their formulas."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pcm_policy.adopt import read
from pcm_policy.errors import PcmError
from pcm_policy.sampling.noise import Noise
from tests.adopt.fixtures import (
    DA,
    ROBOMIMIC_SHAPES,
    TA,
    TO,
    T,
    diffusion_policy_payload,
    inpainting_payload,
    robomimic_config,
    robomimic_payload,
    robomimic_stats,
    statistics,
    transformer_payload,
)
from tests.adopt.reference import draw, loop, ours, scheduler

BATCH = 3
TOLERANCE = 1e-4  # float32, normalised units
DDIM = {"_target_": "diffusers.schedulers.scheduling_ddim.DDIMScheduler"}


def saved(path: Path, payload: Any) -> Path:
    torch.save(payload, path)
    return path


def close(found: torch.Tensor, expected: torch.Tensor, unit: float = 1.0) -> None:
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE * unit)


@pytest.mark.parametrize(
    "make", [diffusion_policy_payload, transformer_payload, inpainting_payload]
)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scheduler": {"prediction_type": "sample", "variance_type": "fixed_large"}},
        {"scheduler": DDIM | {"set_alpha_to_one": False, "steps_offset": 1}}
        | {"num_inference_steps": 6},
        {"scheduler": DDIM, "num_inference_steps": 4, "eta": 0.5},
    ],
    ids=["ddpm", "ddpm-sample", "ddim-offset", "ddim-eta"],
)
def test_diffusion_policy(tmp_path: Path, changes: dict[str, Any], make: Any) -> None:
    payload, network = make(**changes)
    arguments = dict(payload["cfg"].policy.noise_scheduler)
    name = arguments.pop("_target_").rpartition(".")[2].removesuffix("Scheduler")
    if name == "DDIM":
        del payload["cfg"].policy.noise_scheduler["variance_type"]
        del arguments["variance_type"]
    imported = read(saved(tmp_path / "latest.ckpt", payload))
    obs, action = statistics(5, 0), statistics(DA, 2)
    raw = obs["min"] + torch.rand(BATCH, TO, 5) * (obs["max"] - obs["min"])
    inpainting = make is inpainting_payload
    noise = draw(BATCH, T, DA + 5 * inpainting, imported.config.sampler.steps)
    stochastic = name == "DDPM" or "eta" in changes
    noise = noise if stochastic else Noise(noise.initial)
    seen = 2 * (raw - obs["min"]) / (obs["max"] - obs["min"]) - 1
    written = (slice(TO), slice(DA, None)) if inpainting else None
    made = scheduler(name, **arguments)
    if "eta" in changes:
        made.step = lambda *a, step=made.step: step(*a, eta=changes["eta"])
    steps = payload["cfg"].policy.num_inference_steps
    seen = seen if inpainting else seen.flatten(1)
    chunk = loop(network, made, steps, seen, noise, written)[..., :DA]
    found, executed = ours(imported, raw, noise)
    close(found[..., :DA], chunk, 3)
    expected = (chunk + 1) / 2 * (action["max"] - action["min"]) + action["min"]
    close(executed, expected[:, TO - 1 : TO - 1 + TA], 20)
    assert imported.config.obs_fields == ("keypoint", "state[0:2]")
    assert imported.obs.low.float().tolist() == obs["min"].tolist()


def test_without_average_the_last_weights_are_taken(tmp_path: Path) -> None:
    payload, averaged = diffusion_policy_payload()
    payload["cfg"].training.use_ema = False
    found = read(saved(tmp_path / "a.ckpt", payload)).weights["final_conv.1.bias"]
    assert not torch.equal(found, averaged.state_dict()["final_conv.1.bias"])
    payload["cfg"].training.use_ema = True
    del payload["state_dicts"]["ema_model"]
    with pytest.raises(PcmError, match=r"b.ckpt holds no state_dicts.ema_model"):
        read(saved(tmp_path / "b.ckpt", payload))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_target_": "x.BETLowdimPolicy"}, "policy BETLowdimPolicy: DiffusionUnetLowdimPolicy, "),
        ({"obs_as_global_cond": False}, "has shape"),
        ({"obs_as_local_cond": True}, "local conditioning is not here"),
        ({"pred_action_steps_only": True}, "oldest frame"),
        ({"oa_step_convention": False}, "newest frame"),
        ({"horizon": "${horizon}"}, "reference never resolved|cannot be read"),
        ({"horizon": 2.5}, "horizon=2.5"),
        ({"horizon": 10**9}, "horizon=1000000000: use a whole number"),
        ({"obs_dim": 6}, "has shape"),
        ({"some_option": 1}, "policy.some_option, which is unknown"),
        ({"scheduler": {"num_train_timesteps": 10**12}}, "is no schedule"),
        ({"scheduler": {"variance_type": "learned"}}, "variance='learned'"),
        ({"scheduler": {"thresholding": True}}, "thresholding=True"),
    ],
)
def test_what_is_not_here_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    payload, _ = diffusion_policy_payload(**changes)
    with pytest.raises(PcmError, match=message):
        read(saved(tmp_path / "latest.ckpt", payload)).policy()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"n_head": 3}}, "no even multiple of n_head 3"),
        ({"model": {"n_head": "two"}}, "n_head='two'"),
        ({"n_obs_steps": 1}, "cut into obs_steps=2"),
        ({"horizon": 9}, "pos_emb has shape"),
        ({"obs_as_cond": False}, "holds cond_obs_emb.bias|has shape"),
        ({"oa_step_convention": True}, "oa_step_convention, which is unknown"),
    ],
)
def test_transformers_that_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    payload, _ = transformer_payload(**changes)
    with pytest.raises(PcmError, match=message):
        read(saved(tmp_path / "latest.ckpt", payload)).policy()


@pytest.mark.parametrize("stats", [True, False])
@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_robomimic(tmp_path: Path, stats: bool, name: str) -> None:
    config = robomimic_config()
    config["algo"]["ddpm"]["enabled"] = name == "ddpm"
    payload, network = robomimic_payload(config, stats)
    imported = read(saved(tmp_path / "model.pth", payload))
    assert imported.config.obs_fields == ("object", "robot0_eef_pos")  # shape_metadata's order
    assert imported.config.control_hz == 20
    raw = torch.randn(BATCH, TO, 5)
    settings = dict(config["algo"][name])
    steps = settings.pop("num_inference_timesteps")
    del settings["enabled"]
    noise = draw(BATCH, T, DA, steps)
    noise = noise if name == "ddpm" else Noise(noise.initial)
    observed, acted = robomimic_stats()
    seen = raw
    if stats:
        keys = [k for k in ROBOMIMIC_SHAPES if k != "unused"]
        offset, scale = (
            torch.tensor([x for k in keys for x in observed[k][part][0]])
            for part in ("offset", "scale")
        )
        seen = (raw - offset) / scale
    made = scheduler(name.upper(), **settings)
    chunk = loop(network, made, steps, seen.flatten(1), noise)
    found, executed = ours(imported, raw, noise)
    close(found, chunk, 3)
    if stats:
        part = acted["actions"]
        chunk = chunk * torch.tensor(part["scale"]) + torch.tensor(part["offset"])
    close(executed, chunk[:, TO - 1 : TO - 1 + TA], 3)


def test_robomimic_refusals(tmp_path: Path) -> None:
    def seen(config: Any) -> Any:
        return config["observation"]["modalities"]["obs"]

    def refused(message: str, change: Any) -> None:
        payload, _ = robomimic_payload()
        config = json.loads(payload["config"])
        change(payload, config)
        payload["config"] = json.dumps(config) if config else payload["config"]
        with pytest.raises(PcmError, match=message):
            read(saved(tmp_path / "model.pth", payload)).policy()

    refused("algorithm 'bc'", lambda p, c: p.update(algo_name="bc"))
    refused("lacks the observation front", lambda p, c: seen(c)["rgb"].append("front"))
    refused("obs depth front", lambda p, c: seen(c)["depth"].append("front"))
    refused("lacks model.ema", lambda p, c: p["model"].pop("ema"))
    refused("observation encoder", lambda p, c: p["model"]["ema"].update({ENCODER: torch.ones(1)}))
    refused("neither algo.ddpm", lambda p, c: c["algo"]["ddim"].update(enabled=False))
    refused("lacks algo.horizon", lambda p, c: c["algo"].pop("horizon"))
    refused("6-D rotation", lambda p, c: c["train"].update(action_config=ROTATION))
    refused("lacks offset of object", lambda p, c: p["obs_normalization_stats"].pop("object"))
    refused("scale is not positive", lambda p, c: p["action_normalization_stats"].update(NEGATIVE))
    refused(r"has shape .* asks for", lambda p, c: p["shape_metadata"].update(ac_dim=3))
    refused("no JSON", lambda p, c: (p.update(config="{"), c.clear()))


ENCODER = "policy.obs_encoder.nets.obs.weight"
ROTATION = {"actions": {"format": "rot_6d"}}
NEGATIVE = {"actions": {"offset": [[0.0, 0.0]], "scale": [[1.0, -1.0]]}}
