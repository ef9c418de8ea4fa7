"""Real-time chunking: LeRobot's own engine drives our policies; what is left of a chunk."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from pcm_policy.errors import PcmError
from pcm_policy.policy.places import RELEASED
from tests.adopt.in_lerobot import ROOT, call

_SPEC = importlib.util.spec_from_file_location(
    "pcm_ticks", ROOT / "lerobot_policy_pcm/src/lerobot_policy_pcm/ticks.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
ticks = importlib.util.module_from_spec(_SPEC)  # its package needs LeRobot, this file does not
_SPEC.loader.exec_module(ticks)


def handed_back(chunk: Tensor, passed: int, steps: int) -> Tensor:
    """What LeRobot's engine makes of a chunk of which ``passed`` actions are gone."""
    left = chunk[:, passed:]
    return (
        left[:, :steps] if left.shape[1] >= steps else pad(left, (0, 0, 0, steps - left.shape[1]))
    )


@settings(max_examples=200)
@given(
    values=st.lists(st.sampled_from([0.0, 1.0, -2.5]), min_size=2, max_size=24),
    width=st.integers(1, 2),
    passed=st.integers(0, 12),
    steps=st.integers(1, 16),
)
def test_what_is_left_is_found_whatever_the_padding(
    values: list[float], width: int, passed: int, steps: int
) -> None:
    """Zeros among the actions and at rest too: what is returned is what was left, or equals it."""
    chunk = torch.tensor(values[: len(values) // width * width]).view(1, -1, width)
    passed = min(passed, chunk.shape[1])
    given_back = handed_back(chunk, passed, steps)
    found, _ = ticks.left_over(given_back, chunk)
    real = min(steps, chunk.shape[1] - passed)
    assert found.shape[1] >= real
    assert torch.equal(found[:, :real], chunk[:, passed : passed + real])
    assert torch.equal(found, given_back[:, : found.shape[1]])
    if bool(chunk.ne(0).all()):
        assert found.shape[1] == real


def test_ticks_since_the_last_chunk() -> None:
    chunk = torch.arange(1.0, 31.0).view(1, 15, 2)
    for passed in range(16):
        found, since = ticks.left_over(handed_back(chunk, passed, 10), chunk)
        assert since == passed
        assert found.shape[1] == min(10, 15 - passed)
    other = handed_back(chunk, 9, 10) + torch.tensor([0.5, 0.0])
    other[:, 6:] = 0
    found, since = ticks.left_over(other, chunk)  # of nobody's chunk: zeros end it
    assert since == 1
    assert torch.equal(found, other[:, :6])
    assert ticks.left_over(torch.zeros(1, 10, 2), None)[0].shape == (1, 0, 2)


def seen(*ages: int, steps: int = 2, rows: int = 3) -> list[float]:
    """What stands for each tick after observations that are so many ticks apart."""
    history = ticks.Seen(steps)
    now = 0
    for age in ages:
        now += age
        history.add({"x": torch.full((rows, 1), float(now))}, age)
    stacked = history.stacked()["x"]
    assert stacked.shape == (rows, steps, 1)
    return [float(v) for v in stacked[0, :, 0]]


def test_the_nearest_observation_stands_for_a_tick() -> None:
    assert seen(1) == [1, 1]  # the first stands for those before it
    assert seen(1, 1, 1) == [2, 3]
    assert seen(1, 2) == [3, 3]  # the newer of two
    assert seen(1, 5) == [6, 6]
    assert seen(1, 5, 1) == [6, 7]
    assert seen(1, 1, 0) == [1, 2]  # the same tick again
    assert seen(1, 3, 1, steps=4) == [1, 4, 4, 5]
    assert seen(4, 9, steps=1) == [13]


def test_another_batch_within_an_episode_is_refused() -> None:
    history = ticks.Seen(2)
    history.add({"x": torch.zeros(3, 1)})
    with pytest.raises(PcmError, match=r"1 observations after 3 in the same episode: call reset"):
        history.add({"x": torch.zeros(1, 1)})


def test_a_copy_is_kept() -> None:
    history, frame = ticks.Seen(2), torch.zeros(1, 1)
    history.add({"x": frame})
    frame.fill_(5)
    assert float(history.stacked()["x"].sum()) == 0


@pytest.mark.slow
def test_lerobots_engine_with_a_slow_solve(lerobot_python: str, tmp_path: Path) -> None:
    """Executed actions are the prefix bit by bit, and the seam is no larger than without."""
    has = "import importlib.util as u; print(bool(u.find_spec('lerobot.rollout')))"
    if call(lerobot_python, "-c", has).strip().splitlines()[-1] != "True":
        pytest.skip("this LeRobot has no lerobot.rollout, which does real-time chunking")
    source, folders = RELEASED / "pusht_mlp", []
    (tmp_path / "observations.safetensors").symlink_to(source / "observations.safetensors")
    for solver in ("pcm", "picard"):
        words = ["released/pusht_mlp", tmp_path / solver, "--obs", "observation.state"]
        call(Path(lerobot_python).with_name("lerobot-pcm"), *words, "--solver", solver)
        folders.append(tmp_path / solver)
    engine = Path(__file__).with_name("rtc_engine.py")
    log = call(lerobot_python, engine, *folders, "6", "4")
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert len(lines) == 2
    for found in lines:
        assert found["kept"] == found["of"] == 20
        assert found["rows"] == [15, 2]
        assert found["step"] < found["jump"] < found["jump_without"]
