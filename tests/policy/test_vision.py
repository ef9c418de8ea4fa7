"""Policies with cameras: what they take, refuse and store; images are encoded once a solve."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pcm_policy import DiffusionPolicy, PolicyConfig
from pcm_policy.errors import PcmError
from pcm_policy.networks.camera import CameraEncoder
from pcm_policy.policy.vision import VisionConfig
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.execute import Runtime
from pcm_policy.solvers.registry import Solver
from tests.reference_vision import encode
from tests.seeing import DDIM, VISION, draw, make


def test_the_vector_is_laid_out_as_the_config_says() -> None:
    policy, obs = make(), draw()
    assert policy.vision is not None
    policy.vision.scale[1] = torch.tensor([1.0, 2.0, 3.0])
    found = policy.observe(obs)
    assert found.shape == (2, 2, 9)
    state = torch.from_numpy(obs["state"])
    assert VISION.state_columns == [0, 1, 5]
    assert torch.equal(found[..., VISION.state_columns], state)
    at = 2
    for i, (name, (h, w)) in enumerate(VISION.cameras.items()):
        image = torch.from_numpy(obs[name]).flatten(0, 1).float() / 255
        image = (image * policy.vision.scale[i] + policy.vision.shift[i]).movedim(-1, 1)
        top, left = (h - 34) // 2, round((w - 33) / 2)
        with torch.no_grad():
            weights = policy.vision.encoders[i].state_dict()
            expected = encode(weights, image[:, :, top : top + 34, left : left + 33]).view(2, 2, 3)
        assert expected.std((0, 1)).max() > 1e-3
        torch.testing.assert_close(found[..., at : at + 3], expected, rtol=1e-4, atol=1e-5)
        at += 4
    seen = policy.condition(found).view(2, 2, 9)
    assert torch.equal(seen[..., 0], state[..., 0] * 0.5 + 1)
    assert torch.equal(seen[..., 2:5], found[..., 2:5])


@pytest.mark.parametrize("method", ["sequential", "picard"])
def test_images_are_encoded_once_a_solve(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, calls = make(), []
    inner = CameraEncoder.forward
    monkeypatch.setattr(
        CameraEncoder, "forward", lambda s, x, at: calls.append(len(x)) or inner(s, x, at)
    )
    solver = Solver.of(method, DDIM, tolerance=1e-6 if method == "picard" else None)
    noise = policy.draw_noise(2, solver.sampler)
    found = policy.predict(draw(), solver=solver, noise=noise)
    assert calls == [4, 4]
    assert int(torch.as_tensor(found.solve.rounds).max()) >= 3
    exact = policy.predict(draw(), solver=Solver.of("sequential", DDIM), noise=noise)
    np.testing.assert_allclose(found.chunk, exact.chunk, atol=1e-4)
    other = draw()
    other["wrist"] = 255 - other["wrist"]
    changed = policy.predict(other, solver=solver, noise=noise)
    assert np.abs(changed.chunk - found.chunk).max() > 1e-4


def test_without_a_batch_axis_and_in_a_runtime() -> None:
    policy, obs = make(), draw(None)
    noise = policy.draw_noise(1, DDIM)
    alone = policy.predict(obs, noise=noise)
    assert alone.action.shape == (1, 4, 2)
    batch = policy.predict({k: v[None] for k, v in obs.items()}, noise=noise)
    np.testing.assert_array_equal(alone.chunk, batch.chunk)
    policy.use(Runtime(policy, RuntimeConfig()))
    np.testing.assert_allclose(policy.predict(obs, noise=noise).chunk, alone.chunk, atol=1e-6)


def test_cameras_alone_and_a_shared_encoder() -> None:
    vision = VisionConfig(("a", "b"), {"a": (33, 40), "b": (40, 33)}, shared=True, resize=(32, 32))
    policy = make(vision)
    assert len(policy.vision.encoders) == 1  # type: ignore[union-attr, arg-type]
    rng = np.random.default_rng(0)
    obs = {k: rng.integers(0, 256, (2, *s, 3), dtype=np.uint8) for k, s in vision.cameras.items()}
    assert policy.predict(obs).chunk.shape == (1, 8, 2)
    assert policy.observe(obs).shape == (1, 2, 128)


def test_saved_and_loaded(tmp_path: Path) -> None:
    policy = make()
    policy.save_pretrained(tmp_path / "p")
    again = DiffusionPolicy.from_pretrained(tmp_path / "p")
    assert again.config == policy.config
    assert again.config.vision == VISION
    assert torch.equal(again.observe(draw()), policy.observe(draw()))
    file = tmp_path / "p/config.json"
    config = json.loads(file.read_text())
    config["policy"]["vision"]["crop"] = [64, 64]
    file.write_text(json.dumps(config))
    with pytest.raises(PcmError, match=r"config.json: vision.crop=\(64, 64\) is larger than top's"):
        DiffusionPolicy.from_pretrained(tmp_path / "p")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"top": None},
            r"give a dictionary of \['state', 'top', 'wrist'\], not \['state', 'wrist'\]",
        ),
        ({"side": np.zeros(1)}, "not .*side"),
        (
            {"top": draw()["top"].astype(np.float32)},
            "observation top is float32: give images as uint8",
        ),
        ({"top": draw()["top"].transpose(0, 1, 4, 2, 3)}, r"top has shape \(2, 2, 3, 40, 52\)"),
        ({"top": draw()["top"][:1]}, "has shape"),
        ({"top": draw()["top"][0]}, "has shape"),
        ({"wrist": draw()["wrist"][:, :1]}, r"wrist has shape .* takes \(2, 36, 36, 3\)"),
        ({"state": draw()["state"][..., :2]}, r"state has shape \(2, 2, 2\): .* takes \(2, 3\)"),
        ({"state": np.full((2, 2, 3), np.nan)}, "not finite at batch 0, step 0, dimension 0"),
        ({"state": np.full((2, 2, 3), 50.0)}, "out of range at batch 0, step 0, dimension 0: 50"),
    ],
)
def test_observations_that_are_refused(change: dict[str, Any], message: str) -> None:
    obs = {k: v for k, v in (draw() | change).items() if v is not None}
    with pytest.raises(PcmError, match=message) as caught:
        make().predict(obs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flipped", [(-2,), (-3,), (-1,), (1,), (0, -2)])
def test_views_of_images_are_taken_as_they_are(flipped: tuple[int, ...]) -> None:
    """A mirrored camera is a view with negative strides."""
    policy, obs = make(), draw()
    views = {k: np.flip(v, flipped) for k, v in obs.items() if v.ndim == 5}
    copies = {k: v.copy() for k, v in views.items()}
    found, expected = (policy.observe(obs | images) for images in (views, copies))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("batch", [None, 2])
def test_grey_images_are_named_and_not_the_state(batch: int | None) -> None:
    obs = draw(batch)
    obs["top"] = obs["top"][..., 0]
    with pytest.raises(PcmError, match=r"observation top has shape \(.*2, 40, 52\): .* 40, 52, 3"):
        make().predict(obs)


def test_arrays_and_dictionaries_are_not_mixed_up() -> None:
    with pytest.raises(PcmError, match="has cameras: give a dictionary"):
        make().predict(np.zeros((2, 9)))
    plain = DiffusionPolicy(PolicyConfig(3, 2, sampler=DDIM))
    with pytest.raises(PcmError, match="does not say which entries it sees"):
        plain.predict({"state": np.zeros((2, 3))})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": (2, "top")}, "must name every camera"),
        ({"layout": (2, "top", "wrist", "wrist")}, "must name every camera"),
        ({"layout": ("state",), "cameras": {"state": (9, 9)}}, "no camera is called 'state'"),
        ({"layout": (3,), "cameras": {}}, "must name every camera"),
        ({"cameras": {"top": (40, 0), "wrist": (36, 36)}}, "heights and widths in pixels"),
        ({"resize": (16, 16)}, "is larger than top's images"),
        ({"keypoints": -1}, "are not numbers of values"),
        ({"shared": True, "crop": None}, "need a crop or resize"),
        ({"backbone": "vit"}, "backbone 'vit'"),
        ({"shared": "no"}, "vision.shared='no': use true or false"),
    ],
)
def test_configs_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PcmError, match=message):
        make(replace(VISION, **changes))


def test_sizes_that_contradict() -> None:
    with pytest.raises(PcmError, match="make 9 numbers"):
        make(obs_dim=10)
