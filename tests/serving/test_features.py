"""Controllers with cameras: every frame is encoded once, and nobody gets another's features."""

import gc
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pcm_policy.control import Controller, ControlSettings, Frame, Plan, PlanRequest
from pcm_policy.control.background import PlanThread
from pcm_policy.policy.vision import Vision, VisionConfig
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.sampling.noise import episode_noise
from pcm_policy.serving.planner import Planner
from tests.seeing import ALONE, SHARED, VISION, drive, glance, make

REALTIME = ControlSettings(
    mode="async", prefix=True, prefix_past=True, warm_start="trajectory", delay_steps=1
)


@pytest.mark.parametrize(
    ("vision", "early"),
    [(VISION, True), (SHARED, False), (ALONE, True)],
    ids=["own", "shared", "no state"],
)
def test_features_and_plans_are_those_of_predict(vision: VisionConfig, early: bool) -> None:
    policy = make(vision, sharp=1.0)  # which would enlarge rounding as well
    planner = Planner(policy)
    controller = Controller(planner.spec, ControlSettings(replan_steps=1), seed=5)
    for request, plan in drive(controller, planner, [glance(i) for i in range(2)], early):
        assert plan.fault is None
        want = policy.observe(request.observation)
        found = planner.features.observations([request])
        torch.testing.assert_close(found, want, rtol=0, atol=1e-6)
        noise = episode_noise([5], [request.tick], policy.config.chunk_shape)
        chunk = policy.predict(request.observation, noise=noise).chunk[0]
        np.testing.assert_allclose(plan.actions, chunk[1:], atol=1e-5)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("settings", [ControlSettings(replan_steps=1), ControlSettings(), REALTIME])
@pytest.mark.parametrize("early", [True, False])
def test_a_frame_is_encoded_once(
    settings: ControlSettings, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    inner = Vision.encode

    def counted(self: Vision, images: Any) -> Any:
        assert {len(v) for v in images.values()} == {1}
        encoded.append(int(sum(v.long().sum() for v in images.values())))
        return inner(self, images)

    monkeypatch.setattr(Vision, "encode", counted)
    planner = Planner(make())
    controller = Controller(planner.spec, settings)
    plans = drive(controller, planner, [glance(i) for i in range(12)], early)
    assert len(plans) >= 2
    assert len(set(encoded)) == len(encoded)  # never twice the same
    used = {frame for request, _ in plans for frame in request.frames}
    assert len(encoded) == (12 if early else len(used))
    assert all((plan.encode_ms > 0) == bool(encoded) for _, plan in plans)
    late = sum(plan.late_frames for _, plan in plans)
    assert (
        late == controller.record.counts["late_frame"] == (0 if early else len(used) - len(plans))
    )


@pytest.mark.usefixtures("quick")
def test_features_go_with_their_frames() -> None:
    """A reset forgets them; nothing of one episode or robot is in another's."""
    planner = Planner(make())
    one, other = (Controller(planner.spec, seed=i) for i in range(2))
    drive(one, planner, [glance(i) for i in range(6)])
    drive(other, planner, [glance(50 + i) for i in range(6)])
    gc.collect()
    assert len(planner.features) == 4
    one.reset(1)
    gc.collect()
    assert len(planner.features) == 2
    fresh = Controller(planner.spec, seed=1)
    again, first = (drive(c, planner, [glance(9)])[0][1] for c in (one, fresh))
    np.testing.assert_array_equal(again.actions, first.actions)
    del one, other, fresh
    gc.collect()
    assert len(planner.features) == 0


def test_rows_do_not_know_each_other() -> None:
    planner, requests = Planner(make()), []
    for i in range(2):
        controller = Controller(planner.spec, seed=i)
        controller.observe(glance(i))
        requests.append(controller.request())
    together = planner.plan_batch([r for r in requests if r is not None], [0, 1], 4)
    for row, request in enumerate(requests):
        assert request is not None
        anew = replace(request, frames=tuple(Frame(f.state, f.images) for f in request.frames))
        (alone,) = planner.plan_batch([anew], [row], 4)
        np.testing.assert_array_equal(alone.actions, together[row].actions)


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        ({"top": None}, "missing_frame", "lacks the camera top"),
        ({"wrist": glance(0)["wrist"][:9]}, "bad_observation", r"wrist has shape \(9, 36, 3\)"),
        ({"wrist": glance(0)["wrist"] / 255}, "bad_observation", "wrist is float64: .* uint8"),
        ({"top": glance(0)["top"].tolist()}, "bad_observation", "top is list"),
        ({"top": "near"}, "bad_observation", "top is str"),
        ({"state": np.full(3, np.nan)}, "bad_observation", "not finite"),
        ({"state": np.full(3, 90.0)}, "bad_observation", "out of range in dimension 0"),
        ({"state": np.zeros(4)}, "bad_observation", r"shape \(4,\): this policy takes \(3,\)"),
        ({"state": None}, "bad_observation", "state"),
    ],
)
def test_a_bad_frame_is_named_counted_and_not_kept(
    change: dict[str, Any], kind: str, reason: str
) -> None:
    controller = Controller(Planner(make()).spec)
    controller.observe({k: v for k, v in (glance(0) | change).items() if v is not None})
    assert controller.request() is None
    assert controller.newest is None
    ((_, found, why),) = controller.record.events
    assert found == kind
    assert controller.record.counts[kind] == 1
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(why)
    controller.observe(glance(1))
    request = controller.request()
    assert request is not None
    assert request.frames[0] is request.frames[1] is controller.newest


def test_an_array_is_no_frame() -> None:
    controller = Controller(Planner(make()).spec)
    controller.observe(np.zeros(3))
    ((_, _, why),) = controller.record.events
    assert "this policy has cameras, give a dictionary with top, wrist" in why


def test_frames_are_copied() -> None:
    controller, seen = Controller(Planner(make()).spec), glance(0)
    controller.observe(seen)
    seen["top"][:] = 0
    assert controller.newest is not None
    np.testing.assert_array_equal(controller.newest.images["top"], glance(0)["top"])


@pytest.mark.usefixtures("quick")
def test_features_out_of_range_are_a_fault() -> None:
    policy = make()
    policy.obs_normalizer.low[2:5], policy.obs_normalizer.high[2:5] = 90.0, 91.0
    planner = Planner(policy)
    controller = Controller(planner.spec)
    ((_, plan),) = drive(controller, planner, [glance(0)])
    assert plan.fault is not None
    assert "features of the images" in plan.fault
    assert not controller.accept(plan)


def test_frames_that_wait_too_long_are_given_up_and_counted() -> None:
    begun, gate = threading.Event(), threading.Event()
    seen: list[int] = []

    def see(frame: Frame) -> float:
        begun.set()
        gate.wait(20)
        seen.append(frame.number)
        if frame.number == 3:
            raise RuntimeError("broken")
        return 2.0

    def solve(request: PlanRequest) -> Plan:
        return Plan(request.id, np.zeros((7, 2), np.float32))

    thread = PlanThread(solve, see, waiting_frames=2)
    frames = [Frame(np.zeros(3, np.float32), number=i) for i in range(6)]
    assert thread.show(frames[0]) == 0
    assert begun.wait(20)
    assert [thread.show(frame) for frame in frames[1:5]] == [0, 0, 1, 1]
    none = np.zeros((0, 2), np.float32)
    request = PlanRequest(1, 0, 0, 0.0, np.zeros((2, 3), np.float32), none, frames=(frames[4],) * 2)
    thread.submit(request)  # which encodes its frames itself
    gate.set()
    assert thread.take(20) is not None
    thread.show(frames[5])
    thread.close()
    assert seen[:2] in ([0, 3], [0])
    assert 4 not in seen
    assert thread.encoded()[0] == 2.0


def test_a_controller_counts_what_was_given_up() -> None:
    controller = Controller(Planner(make()).spec)
    controller.observe(glance(0))
    controller.drop(2)
    assert controller.record.counts["dropped_frame"] == 2
    assert {kind for _, kind, _ in controller.record.events} == {"dropped_frame"}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["onnx", "openvino"])
def test_the_engine_that_solves_encodes(mode: Any) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(mode, mode))
    policy = make(SHARED, sharp=1.0)
    policy.use(RuntimeConfig(mode=mode))
    planner = Planner(policy)
    controller = Controller(planner.spec)
    ((request, plan),) = drive(controller, planner, [glance(1)])
    assert plan.fault is None
    found = planner.features.observations([request])
    torch.testing.assert_close(found, policy.observe(request.observation), rtol=0, atol=1e-6)
