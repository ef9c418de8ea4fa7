"""The client before servers that are none: a line, or a robot that goes on; never a raw error."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any

import msgpack
import numpy as np
import pytest
from websockets.sync.server import ServerConnection, serve

from pcm_policy.control import ControlSettings, PlanRequest, PolicySpec
from pcm_policy.control import client as module
from pcm_policy.control.client import Link, RemoteController
from pcm_policy.control.wire import VERSION, encode_array
from pcm_policy.errors import PcmError

SPEC = PolicySpec(2, 2, 10, 2, 4, 10.0, (0.0, 0.0), (1.0, 1.0), (-9.0, -9.0), (9.0, 9.0))
WELCOME: dict[str, Any] = {"type": "welcome", "version": VERSION, "policy": "x", "latency_ms": 1.0}
Answer = Callable[[dict[str, Any]], Any]


@contextmanager
def server(
    welcome: dict[str, Any], answer: Answer | None = None, status: HTTPStatus | None = None
) -> Iterator[str]:
    """A server that says what it is told to say."""

    def handler(socket: ServerConnection) -> None:
        with suppress(Exception):
            socket.recv()
            socket.send(msgpack.packb(welcome))
            while True:
                message = msgpack.unpackb(socket.recv())
                if answer is not None:
                    socket.send(answer(message))

    def refuse(socket: ServerConnection, request: Any) -> Any:
        return None if status is None else socket.respond(status, "no\n")

    made = serve(handler, "127.0.0.1", 0, compression=None, process_request=refuse)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{made.socket.getsockname()[1]}"
    finally:
        made.shutdown()
        thread.join(5)


def request(i: int = 1) -> PlanRequest:
    none = np.zeros((0, 2), np.float32)
    return PlanRequest(id=i, seed=1, tick=0, clock=0.0, obs=np.zeros((2, 2), "f4"), prefix=none)


@pytest.mark.parametrize(
    "changes",
    [
        *[{"obs_steps": v} for v in (-1, 0, "2", 2.0, None, 10**9)],
        *[{"control_hz": v} for v in (0.0, -1.0, "10", float("nan"), None, [1.0])],
        *[{"max_excess": v} for v in ("x", float("nan"), -1.0, None)],
        *[{"horizon": v} for v in (16.0, "16", 1, 10**12)],
        {"obs_low": [float("nan"), 0.0]},
        {"action_low": [0.0]},
        {"action_high": "high"},
        {"more": 1},
        {"obs_fields": [1]},
    ],
)
def test_a_wrong_description_is_a_line(changes: dict[str, Any]) -> None:
    with (
        server(WELCOME | {"spec": SPEC.to_dict() | changes}) as uri,
        pytest.raises(PcmError) as caught,
    ):
        RemoteController(uri, ControlSettings(control_hz=20.0))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "welcome",
    [
        *[WELCOME | {"spec": SPEC.to_dict(), "latency_ms": v} for v in (float("nan"), "fast", -1)],
        WELCOME,
        WELCOME | {"spec": [1]},
        WELCOME | {"version": VERSION + 1},
        {"type": "error", "message": "\x1b[31mno\n"},
        {"type": "welcome"},
        {"no": "type"},
    ],
)
def test_a_wrong_welcome_is_a_line(welcome: dict[str, Any]) -> None:
    with server(welcome) as uri, pytest.raises(PcmError) as caught:
        RemoteController(uri)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("status", "match"),
    [
        (HTTPStatus.UNAUTHORIZED, "wants another token .401.: give token="),
        (HTTPStatus.SERVICE_UNAVAILABLE, "is full .503.: raise its serve.max_clients"),
        (HTTPStatus.FORBIDDEN, "no policy server at .*403"),
    ],
)
def test_refusals_say_what_to_do(status: HTTPStatus, match: str) -> None:
    with server(WELCOME, status=status) as uri, pytest.raises(PcmError, match=match):
        Link(uri).open()


@pytest.mark.parametrize("uri", ["nonsense", "http://a", "ws://", "ws://127.0.0.1:99999", 5, ""])
def test_addresses_that_are_none(uri: Any) -> None:
    with pytest.raises(PcmError):
        Link(uri).open()


@pytest.mark.parametrize("name", ["connect_timeout_s", "reply_timeout_s", "wait_share"])
@pytest.mark.parametrize("value", [float("nan"), -1.0, "1", None, float("inf")])
def test_times_of_the_client(name: str, value: Any) -> None:
    with pytest.raises(PcmError, match=f"^{name}="):
        RemoteController("ws://127.0.0.1:9", **{name: value})


def test_a_server_that_answers_nonsense_is_left_alone_longer_every_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The back-off starts again with a plan, not with a handshake."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    sane = [False]

    def answer(message: dict[str, Any]) -> Any:
        if not sane[0]:
            return b"\x00nonsense"
        plan = {"type": "chunk", "id": message["id"], "rounds": 1, "timing": {"a": "b", "c": 1}}
        return msgpack.packb(plan | {"actions": encode_array(np.zeros((9, 2), np.float32))})

    with server(WELCOME | {"spec": SPEC.to_dict()}, answer) as uri:
        link, waits = Link(uri), []
        for _ in range(7):
            with pytest.raises(PcmError, match="lost"):
                link.ask(request())
            with pytest.raises(PcmError, match="tried again"):
                link.ask(request())
            waits.append(round(link._not_before - now[0], 3))
            now[0] = link._not_before
        assert waits == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
        sane[0] = True
        assert link.ask(request()).id == 1
        assert link.timing == {"c": 1.0}
        assert link._wait == 0.05
        link.close()


def test_the_server_is_told_how_long_its_answer_is_of_use() -> None:
    seen = []

    def answer(message: dict[str, Any]) -> Any:
        seen.append(message["patience_s"])
        return msgpack.packb({"type": "error", "id": 1, "message": "busy: ask again"})

    with server(WELCOME | {"spec": SPEC.to_dict()}, answer) as uri:
        link = Link(uri, reply_timeout_s=3.0)
        for _ in range(2):  # an error is an answer: the connection stays
            with pytest.raises(PcmError, match="server: busy: ask again"):
                link.ask(request())
        assert link.connects == 1
        link.close()
    assert seen == [3.0, 3.0]


@pytest.mark.parametrize(
    ("settings", "lacking"),
    [
        (ControlSettings(), None),
        (ControlSettings(mode="async", prefix=True), "prefix"),
        (ControlSettings(warm_start="chunk"), "warm"),
        (ControlSettings(warm_start="auto"), None),
    ],
)
def test_settings_that_the_server_does_not_serve(
    settings: ControlSettings, lacking: str | None
) -> None:
    with server(WELCOME | {"spec": SPEC.to_dict(), "kinds": ["plain"]}) as uri:
        if lacking is None:
            RemoteController(uri, settings).close()
        else:
            with pytest.raises(PcmError, match=rf"kind {lacking}, .*serve.kinds=\[...,{lacking}\]"):
                RemoteController(uri, settings)
