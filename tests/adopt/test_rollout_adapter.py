"""robomimic's interface: what is observed, what is executed, and when a chunk is solved."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pcm_policy import DiffusionPolicy, PolicyConfig
from pcm_policy.adopt.rollout_policy import RolloutPolicy
from pcm_policy.errors import PcmError
from tests import seeing
from tests.seeing import quick  # noqa: F401

CONFIG = PolicyConfig(
    obs_dim=5,
    action_dim=2,
    horizon=8,
    action_steps=3,
    network_options={"width": 16, "depth": 1},
    obs_fields=("object", "pose[1:3]"),
)


def make() -> DiffusionPolicy:
    torch.manual_seed(0)
    policy = DiffusionPolicy(CONFIG, seed=1)
    for value in policy.network.parameters():
        value.data += 0.2 * torch.randn_like(value)
    policy.obs_normalizer.low.fill_(-9)
    policy.obs_normalizer.high.fill_(9)
    return policy


def observations(steps: int, batch: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "object": rng.normal(size=(batch, steps, 3)),
        "pose": rng.normal(size=(batch, steps, 4)),
    }


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_it_executes_what_predict_says(stacked: bool, batch: int) -> None:
    steps = 8
    seen = observations(steps, batch)
    joined = np.concatenate([seen["object"], seen["pose"][..., 1:3]], axis=-1)
    rollout, reference = RolloutPolicy(make(), frame_stack=stacked), make()
    rollout.start_episode()
    expected = []
    for t in range(steps):
        before = max(t - 1, 0)
        if t % 3 == 0:
            expected = list(reference.predict(joined[:, [before, t]]).action.swapaxes(0, 1))
        rows = [before, t] if stacked else t
        ob = {k: v[:, rows] for k, v in seen.items()}
        if batch == 1:
            action = rollout({k: v[0] for k, v in ob.items()})[None]
        else:
            action = rollout(ob, batched_ob=True)
        assert action.shape == (batch, 2)
        np.testing.assert_array_equal(action, expected[t % 3])


def test_an_episode_starts_anew() -> None:
    seen = {k: v[0, 0] for k, v in observations(1).items()}
    rollout, reference = RolloutPolicy(make()), make()
    rollout(seen)
    rollout.start_episode()
    joined = np.concatenate([seen["object"], seen["pose"][1:3]])
    reference.predict(np.stack([joined, joined]))
    second = reference.predict(np.stack([joined, joined])).action[0, 0]
    np.testing.assert_array_equal(rollout(seen), second)


def test_refusals() -> None:
    rollout = RolloutPolicy(make())
    seen = {k: v[0, 0] for k, v in observations(1).items()}
    with pytest.raises(PcmError, match="trained without goals"):
        rollout(seen, goal={})
    with pytest.raises(PcmError, match="lacks pose: it has object"):
        rollout({"object": seen["object"]})
    with pytest.raises(PcmError, match=r"observation has shape \(1, 2, 6\)"):
        rollout(seen | {"object": np.zeros(4)})
    with pytest.raises(PcmError, match="not finite"):
        RolloutPolicy(make())(seen | {"object": np.full(3, np.nan)})
    policy = make()
    policy.config = replace(CONFIG, obs_fields=())
    with pytest.raises(PcmError, match="does not say which entries it sees"):
        RolloutPolicy(policy)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("stacked", [False, True])
def test_a_policy_with_cameras_acts_as_predict_does(stacked: bool) -> None:
    policy = seeing.make(obs_fields=("arm",))
    rollout = RolloutPolicy(policy, frame_stack=stacked)
    seen = [seeing.glance(i) for i in range(5)]
    found = []
    for i, frame in enumerate(seen):
        pair = [seen[max(i - 1, 0)], frame]
        one = {k: np.stack([p[k] for p in pair]) for k in frame} if stacked else dict(frame)
        one["arm"] = one.pop("state")
        found.append(rollout(one))
    again, chunks = seeing.make(obs_fields=("arm",)), []
    for a, b in ((0, 0), (3, 4)):
        pair = {k: np.stack([seen[a][k], seen[b][k]]) for k in seen[0]}
        chunks.append(again.predict(pair).action[0])
    np.testing.assert_allclose(found, np.concatenate(chunks)[:5], atol=1e-5)
    with pytest.raises(PcmError, match="lacks the camera top: it has arm, wrist"):
        rollout({"arm": one["arm"], "wrist": one["wrist"]})
    rollout.start_episode()
    with pytest.raises(PcmError, match="observation top is float64: give images as uint8"):
        rollout(one | {"top": one["top"] / 255})


@pytest.mark.parametrize(("first", "then"), [(3, 2), (1, 3), (2, 1)])
def test_an_episode_keeps_its_batch(first: int, then: int) -> None:
    """What is left of a chunk belongs to the observations it was solved for."""
    rollout = RolloutPolicy(make())
    entries = [{k: v[:, 0] for k, v in observations(1, n).items()} for n in (first, then)]
    rollout(entries[0], batched_ob=True)
    with pytest.raises(PcmError, match=f"began with {first} .* now there are {then}"):
        rollout(entries[1], batched_ob=True)
    rollout.start_episode()
    assert rollout(entries[1], batched_ob=True).shape == (then, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"object": "text"},
        {"object": [[1.0], [1.0, 2.0]]},
        {"object": None},
        {"object": np.zeros((2, 3))},
        {"pose": 1.0},
    ],
)
def test_entries_that_are_no_rows_are_lines(changes: dict[str, object]) -> None:
    seen = {k: v[:, 0] for k, v in observations(1).items()}
    with pytest.raises(PcmError, match="observation"):
        RolloutPolicy(make())(seen | changes, batched_ob=True)  # type: ignore[arg-type]
