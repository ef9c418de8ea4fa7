"""Server and robots with cameras: frames go over the wire once, and clients stay apart."""

import runpy
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from websockets.sync.client import connect

from pcm_policy import DiffusionPolicy
from pcm_policy.control import Controller, ControlSettings, PlanRequest
from pcm_policy.control.client import Link, RemoteController
from pcm_policy.control.images import ImageForm, encode_images, frame_message
from pcm_policy.control.wire import VERSION, encode, plan_message
from pcm_policy.errors import PcmError
from pcm_policy.policy.vision import VisionConfig
from pcm_policy.serving.options import ServeOptions
from pcm_policy.serving.planner import Planner
from pcm_policy.serving.server import PolicyServer
from tests.seeing import glance, make
from tests.serving import running

RAW = ImageForm()


def serving(policy: DiffusionPolicy | None = None, **options: Any) -> Any:
    """Serve to controllers."""
    planner = None if policy is None else Planner(policy)
    return running.serving(planner, **{"max_wait_s": 60.0, "batching": True} | options)


@pytest.fixture
def server(quick: None) -> Iterator[tuple[str, PolicyServer]]:
    with serving(batching=False, max_errors=1000) as found:
        yield found


def asked(seeds: list[int], episode: int = 0) -> PlanRequest:
    """Return the request of a robot that has seen these in turn."""
    controller = Controller(Planner(make()).spec, seed=episode)
    for seed in seeds:
        controller.observe(glance(seed))
    request = controller.request()
    assert request is not None
    return request


def test_plans_are_the_planners_own(server: tuple[str, PolicyServer]) -> None:
    link, request = Link(server[0], reply_timeout_s=60), asked([1, 2])
    assert link.open() == server[1].planner.spec
    assert link.show(request.frames[0]) > 0
    assert link.show(request.frames[0]) == 0  # it is there
    served, own = link.ask(request), Planner(make()).plan(request)
    np.testing.assert_allclose(served.actions, own.actions, atol=1e-5)
    assert link.timing["encode_ms"] == served.encode_ms > 0
    again = link.ask(replace(request, id=2))
    np.testing.assert_array_equal(again.actions, served.actions)
    assert again.encode_ms == 0  # both are encoded
    link.close()


def test_four_clients_stay_apart(server: tuple[str, PolicyServer]) -> None:
    """Frames have the same numbers in all of them; a new connection begins with nothing."""
    planner, found = Planner(make()), dict[int, np.ndarray[Any, Any]]()

    def be(client: int) -> None:
        link = Link(server[0], reply_timeout_s=60)
        link.open()
        for turn in range(3):
            request = asked([10 * client + turn, 10 * client + turn + 1], client)
            if turn == 1:
                link.close()
            elif turn == 2:
                link.show(request.frames[0])
            found[3 * client + turn] = link.ask(replace(request, id=turn)).actions
        link.close()

    threads = [threading.Thread(target=be, args=(client,)) for client in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    for which, actions in found.items():
        client, turn = divmod(which, 3)
        request = asked([10 * client + turn, 10 * client + turn + 1], client)
        np.testing.assert_allclose(actions, planner.plan(request).actions, atol=1e-5)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("form", [RAW, ImageForm("jpeg", 95)], ids=["raw", "jpeg"])
def test_a_remote_controller(form: ImageForm) -> None:
    settings = ControlSettings(control_hz=0.5)
    with serving(jpeg=True) as (uri, served):
        with RemoteController(uri, settings, images=form) as robot:
            robot.reset(3)
            for tick in range(10):
                command = robot.step(glance(tick))
            seen = dict(glance(99))
            del seen["top"]
            command = robot.step(seen)
            counts = robot.controller.record.counts
            assert command.why == "bad observation"
            assert counts["missing_frame"] == 1
            assert counts["failed_solve"] == 0
        assert served.health()["errors"] == {}
        report = served.health()["frames"]
        assert set(report) == {"seen", "dropped", "late", "encode_ms"}
        assert report["encode_ms"]["count"] >= 1


@pytest.mark.usefixtures("quick")
def test_jpeg_is_taken_where_both_sides_say_so(server: tuple[str, PolicyServer]) -> None:
    with pytest.raises(PcmError, match=r"takes no JPEG: start it with serve\.jpeg=true"):
        RemoteController(server[0], images=ImageForm("jpeg"))
    with pytest.raises(PcmError, match=r"images\.form='png'"):
        ImageForm("png")  # type: ignore[arg-type]
    with pytest.raises(PcmError, match=r"images\.quality"):
        ImageForm("jpeg", 0)
    assert len(encode_images(glance(0), RAW)) == 3
    with serving(jpeg=True) as (uri, host):
        link, request = Link(uri, reply_timeout_s=60, images=ImageForm("jpeg", 95)), asked([1, 2])
        link.open()
        served = link.ask(request)
        own = host.planner.plan(request)
        assert 0 < np.abs(served.actions - own.actions).max() < 1
        link.close()


@pytest.mark.usefixtures("quick")
def test_room_for_the_images() -> None:
    with pytest.raises(PcmError, match=r"serve\.max_bytes=2000: the images of 2 observations"):
        PolicyServer(Planner(make()), "seeing", ServeOptions(max_bytes=2000))
    spec = Planner(make()).spec
    assert spec.frame_bytes == 3 * (40 * 52 + 36 * 36)
    assert ServeOptions().room(spec) == (1 << 20) + 2 * spec.frame_bytes
    assert ServeOptions(max_bytes=1 << 16).room(spec) == 1 << 16


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("form", ["raw", "jpeg"])
def test_the_example_with_a_camera(
    form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    top = VisionConfig((2, "image"), {"image": (96, 96)}, crop=(84, 84), keypoints=4, features=3)
    policy = make(top, obs_fields=("agent_pos",), max_excess=1e6)
    with serving(policy, jpeg=True) as (uri, _):
        monkeypatch.setattr(sys, "argv", ["robot_cameras.py", uri, "12", "20", form])
        runpy.run_path(str(Path(__file__).parents[2] / "examples/robot_cameras.py"))
    said = capsys.readouterr().out
    assert "score" in said
    assert "'plans'" in said
    assert "bad_observation" not in said


def raw(size: tuple[int, int], **changes: Any) -> dict[str, Any]:
    data = np.zeros((*size, 3), np.uint8).tobytes()
    return {"form": "raw", "shape": [*size, 3], "data": data} | changes


TOP, WRIST = raw((40, 52)), raw((36, 36))
BAD: dict[str, tuple[Any, str, str]] = {
    "no images": (None, "field", "images is a map with the cameras top, wrist"),
    "a camera less": ({"top": TOP}, "field", "top, wrist"),
    "a camera more": ({"top": TOP, "wrist": WRIST, "side": TOP}, "field", "top, wrist"),
    "another size": ({"top": raw((40, 40)), "wrist": WRIST}, "shape", "images.top has shape"),
    "channels first": ({"top": TOP | {"shape": [3, 40, 52]}, "wrist": WRIST}, "shape", "top"),
    "bytes lack": ({"top": TOP | {"data": b"x"}, "wrist": WRIST}, "shape", "images.top.data has 1"),
    "floats": (
        {"top": TOP | {"data": b"x" * 4 * 3 * 40 * 52}, "wrist": WRIST},
        "shape",
        "images.top.data",
    ),
    "no bytes": ({"top": TOP | {"data": "x"}, "wrist": WRIST}, "field", "images.top.data"),
    "no form": ({"top": {"data": b""}, "wrist": WRIST}, "field", "images.top.form is one of"),
    "png": ({"top": TOP | {"form": "png"}, "wrist": WRIST}, "field", "images.top.form"),
    "jpeg": ({"top": TOP | {"form": "jpeg"}, "wrist": WRIST}, "field", "serve.jpeg=true"),
    "huge": (
        {"top": TOP | {"shape": [2**40, 2**40, 3]}, "wrist": WRIST},
        "shape",
        "images.top has shape",
    ),
    "an array": ({"top": [1, 2], "wrist": WRIST}, "field", "images.top.form"),
}


@pytest.mark.parametrize("way", ["frame", "plan"])
def test_bad_images_are_named(server: tuple[str, PolicyServer], way: str) -> None:
    request = asked([1, 2])
    with connect(server[0], compression=None, proxy=None) as link:
        link.send(encode({"type": "hello", "version": VERSION}))
        link.recv(timeout=20)
        for images, code, reason in BAD.values():
            frame = {"type": "frame", "number": 5, "images": images}
            if way == "plan":
                plan = plan_message(request, None) | {"new": [frame]}
                frame = msgpack.unpackb(encode(plan))
            link.send(msgpack.packb(frame))
            reply = msgpack.unpackb(link.recv(timeout=20))
            assert (reply["type"], reply["code"]) == ("error", code), reply
            assert reason in reply["message"]


@pytest.mark.parametrize(
    ("changes", "code", "reason"),
    [
        ({"new": []}, "frame", " is not here any more: send its images"),
        ({"new": None}, "field", "new are at most 2 frames"),
        ({"new": [1]}, "field", "a frame is a map"),
        ({"new": [{}] * 3}, "field", "new are at most 2 frames"),
        ({"frames": [0]}, "field", "frames are the numbers of 2 frames"),
        ({"frames": []}, "field", "frames are the numbers of 2 frames"),
        ({"frames": [0, -1]}, "field", "frames is a whole number"),
        ({"frames": [2**31 - 1] * 2}, "frame", "is not here"),
    ],
)
def test_frames_of_a_request_are_checked(
    server: tuple[str, PolicyServer], changes: dict[str, Any], code: str, reason: str
) -> None:
    request = asked([1, 2])
    with connect(server[0], compression=None, proxy=None) as link:
        link.send(encode({"type": "hello", "version": VERSION}))
        link.recv(timeout=20)
        new = [frame_message(frame, RAW) for frame in request.frames]
        link.send(encode(plan_message(request, None) | {"new": new} | changes))
        reply = msgpack.unpackb(link.recv(timeout=20))
        assert (reply["type"], reply["code"]) == ("error", code), reply
        assert reason in reply["message"]


@pytest.mark.usefixtures("quick")
def test_a_damaged_jpeg_is_refused() -> None:
    good = encode_images(glance(0) | {"state": glance(0)["top"]}, ImageForm("jpeg"))
    swapped = {"top": good["wrist"], "wrist": good["wrist"]}
    with serving(jpeg=True) as (uri, _), connect(uri, compression=None, proxy=None) as link:
        link.send(encode({"type": "hello", "version": VERSION}))
        link.recv(timeout=20)
        for top, code in [
            (good["top"] | {"data": good["top"]["data"][:200]}, "value"),
            (good["top"] | {"data": b"GIF89a"}, "value"),
            (swapped["top"], "shape"),
        ]:
            frame = {"type": "frame", "number": 1, "images": {"top": top, "wrist": good["wrist"]}}
            link.send(msgpack.packb(frame))
            reply = msgpack.unpackb(link.recv(timeout=20))
            assert (reply["type"], reply.get("code")) == ("error", code), reply


def test_a_policy_without_cameras_takes_no_frames(planner: Planner) -> None:
    from pcm_policy.control.images import read_frame
    from pcm_policy.control.wire import WireError

    with pytest.raises(WireError, match="has no cameras"):
        read_frame({"number": 1, "images": {}}, planner.spec)
