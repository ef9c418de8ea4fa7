"""The robot's side of a policy server: a controller here, the policy over there.

This module imports numpy, websockets and msgpack, not torch. Queue, limits and fallbacks run in
this process. If the server is slow, wrong or gone, only new plans are missing: the robot continues,
holds, slows down or stops as its settings say, and every tick tries to reconnect.
"""

import contextlib
import time
from collections import deque
from dataclasses import replace
from typing import Any

from pcm_policy.checks import number, text
from pcm_policy.control.background import PlanThread
from pcm_policy.control.controller import Command, Controller
from pcm_policy.control.delay import DelayEstimator, to_steps
from pcm_policy.control.images import ImageForm, frame_message
from pcm_policy.control.plan import Actions, Frame, Plan, PlanRequest
from pcm_policy.control.settings import ControlSettings, PolicySpec
from pcm_policy.control.wire import (
    KEPT_FRAMES,
    MAX_BYTES,
    VERSION,
    WireError,
    decode,
    encode,
    plan_message,
    read_chunk,
)
from pcm_policy.errors import PcmError
from pcm_policy.optional import require

BACKOFF_S = (0.05, 1.0)


class Link:
    """One connection to a server, which is opened again when it was lost.

    Args:
        uri: ``ws://HOST:PORT``.
        token: for a server that asks for one.
        connect_timeout_s: time to open a connection.
        reply_timeout_s: time to wait for a plan; after that the connection counts as lost.
        images: how the images of cameras are sent.

    Attributes:
        connects: connections opened so far.
        timing: the server's timing of the last plan, in milliseconds.
    """

    def __init__(
        self,
        uri: str,
        token: str | None = None,
        connect_timeout_s: float = 2.0,
        reply_timeout_s: float = 5.0,
        images: ImageForm | None = None,
    ) -> None:
        self.images = images or ImageForm()
        self._there: deque[int] = deque()
        self.uri = text("uri", uri)
        for name, value in (
            ("connect_timeout_s", connect_timeout_s),
            ("reply_timeout_s", reply_timeout_s),
        ):
            number(name, value, above=0)
        self.spec: PolicySpec | None = None
        self.connects, self.timing = 0, dict[str, float]()
        self.welcome: dict[str, Any] = {}
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._connect_timeout, self._reply_timeout = connect_timeout_s, reply_timeout_s
        self._socket: Any = None
        self._opened = contextlib.ExitStack()
        self._wait, self._not_before = BACKOFF_S[0], 0.0

    def open(self) -> PolicySpec:
        """Connect and shake hands, unless that is done already.

        Raises:
            PcmError: no server, no valid handshake, or another policy than before.
        """
        if self._socket is not None and self.spec is not None:
            return self.spec
        if time.monotonic() < self._not_before:
            raise PcmError(f"no connection to {self.uri}; will be tried again")
        try:
            spec = self._connect()
        except Exception as error:
            self._back_off()
            if isinstance(error, PcmError):
                raise
            raise PcmError(_refusal(self.uri, error)) from error
        self.connects += 1
        self.spec = spec
        return spec

    def ask(self, request: PlanRequest) -> Plan:
        """Have a request solved.

        Raises:
            PcmError: the connection was lost, the server refused, or it answered nonsense.
        """
        spec = self.open()
        # a new connection has no memory of what an old one solved
        known = isinstance(request.memory, tuple) and request.memory[0] == self.connects
        after = request.memory[1] if known else None
        new = [f for f in dict.fromkeys(request.frames) if f.number not in self._there]
        frames = [frame_message(frame, self.images) for frame in new]
        asked = plan_message(request, after, self._reply_timeout) | {"new": frames}
        message = self._asked(asked, "chunk", "id", request.id)
        self._there.extend(frame.number for frame in new)
        plan = read_chunk(message, spec)
        self._wait = BACKOFF_S[0]  # it connects and answers: a server as it should be
        timing = message.get("timing")
        given = timing.items() if isinstance(timing, dict) else ()
        self.timing = {str(k): float(v) for k, v in given if isinstance(v, int | float)}
        encode_ms = self.timing.get("encode_ms", 0.0)
        return replace(plan, memory=(self.connects, plan.id), encode_ms=encode_ms)

    def show(self, frame: Frame) -> float:
        """Send a frame that will be needed, where there is a connection; returns milliseconds.

        Raises:
            PcmError: the connection was lost, the server refused, or it answered nonsense.
        """
        if self._socket is None or frame.number in self._there:
            return 0.0
        begin = time.perf_counter()
        self._asked(frame_message(frame, self.images), "seen", "number", frame.number)
        self._there.append(frame.number)
        return (time.perf_counter() - begin) * 1e3

    def _asked(self, message: dict[str, Any], kind: str, name: str, value: int) -> dict[str, Any]:
        """Return the server's answer, a message of a kind whose ``name`` is ``value``."""
        try:
            self._socket.send(encode(message))
            answer = decode(self._socket.recv(timeout=self._reply_timeout))
        except Exception as error:
            self._back_off()
            raise PcmError(f"connection to {self.uri} lost: {error or type(error)}") from error
        if answer["type"] == "error":
            self._there.clear()  # what it has kept of this message it does not say
            raise PcmError(_said(answer))
        if answer["type"] != kind or answer.get(name) != value:
            self._back_off()  # out of step: its next answer would be to an old question
            raise WireError("type", "the server did not answer the question")
        return answer

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            with contextlib.suppress(Exception):  # it is of no use any more
                self._opened.close()
            self._socket = None

    def _back_off(self) -> None:
        """Close the connection, and leave the server alone for a while: longer every time."""
        self.close()
        self._not_before = time.monotonic() + self._wait
        self._wait = min(2 * self._wait, BACKOFF_S[1])

    def _connect(self) -> PolicySpec:
        client = require("websockets.sync.client", "the client of a policy server", "serve")
        opening = client.connect(
            self.uri,
            additional_headers=self._headers,
            open_timeout=self._connect_timeout,
            close_timeout=0.5,
            compression=None,
            max_size=MAX_BYTES,
            proxy=None,
        )
        self._socket = self._opened.enter_context(opening)
        self._socket.send(encode({"type": "hello", "version": VERSION}))
        welcome = decode(self._socket.recv(timeout=self._connect_timeout))
        if welcome["type"] == "error":
            raise PcmError(_said(welcome))
        if welcome.get("protocol") is not None:
            raise PcmError(
                f"{self.uri} serves {welcome['protocol']!s:.40}: give serve.protocol=pcm"
            )
        if welcome["type"] != "welcome" or welcome.get("version") != VERSION:
            raise WireError("version", f"no policy server of version {VERSION} at {self.uri}")
        if not isinstance(welcome.get("spec"), dict):
            raise WireError("field", "the server's welcome does not describe its policy")
        spec = PolicySpec.from_dict(welcome["spec"])
        if welcome.get("latency_ms") is not None:
            number("the server's latency_ms", welcome["latency_ms"], 0, 1e9)
        if self.spec not in (None, spec):
            raise PcmError(f"{self.uri} serves another policy now: make a new controller")
        self.welcome = welcome
        if spec.cameras and self.images.form not in welcome.get("images", ()):
            raise PcmError(f"{self.uri} takes no JPEG: start it with serve.jpeg=true, or send raw")
        self._there = deque(maxlen=KEPT_FRAMES * spec.obs_steps)
        return spec


def _said(message: dict[str, Any]) -> str:
    """Return what a server says is wrong."""
    return f"server: {str(message.get('message'))[:500]}"


def _refusal(uri: str, error: Exception) -> str:
    """Say why there is no connection, and what to do about it."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return f"the policy server at {uri} wants another token (401): give token=..."
    if status == 503:
        return f"the policy server at {uri} is full (503): raise its serve.max_clients, or wait"
    return f"no policy server at {uri}: {str(error) or type(error).__name__}"


def _kinds(settings: ControlSettings) -> list[str]:
    """Return the kinds of requests that a controller will make; ``auto`` is the server's choice."""
    if settings.warm_start == "auto":
        return []
    warm = [] if settings.warm_start == "off" else ["warm"]
    prefix = ["prefix_input" if settings.prefix_input else "prefix"] if settings.prefix else []
    return ["_".join(warm) or "plain", "_".join(warm + prefix) or "plain"]


class RemoteController:
    """A controller whose plans come from a server.

    Args:
        uri: ``ws://HOST:PORT``.
        settings: as for any controller.
        seed: of the first episode.
        token: for a server that asks for one.
        wait_share: share of a tick that ``mode="sync"`` waits for its plan.
        connect_timeout_s: time to open a connection.
        reply_timeout_s: time after which a server that does not answer counts as lost.
        images: how the images of cameras are sent; None for their bytes as they are.

    Raises:
        PcmError: there is no server to begin with, or the settings do not fit its policy.
    """

    def __init__(
        self,
        uri: str,
        settings: ControlSettings | None = None,
        *,
        seed: int = 0,
        token: str | None = None,
        wait_share: float = 0.8,
        connect_timeout_s: float = 2.0,
        reply_timeout_s: float = 5.0,
        images: ImageForm | None = None,
    ) -> None:
        number("wait_share", wait_share, 0, 1)
        self.link = Link(uri, token, connect_timeout_s, reply_timeout_s, images)
        spec = self.link.open()
        settings = settings or ControlSettings()
        offered = self.link.welcome.get("kinds")
        lacking = [k for k in _kinds(settings) if isinstance(offered, list) and k not in offered]
        if lacking:
            self.link.close()
            raise PcmError(
                f"{uri} solves no requests of kind {lacking[0]}, which these settings need: start "
                f"it with serve.kinds=[...,{lacking[0]}]"
            )
        self.period_s = settings.period_ms(spec) / 1e3
        latency = self.link.welcome.get("latency_ms")
        first = to_steps(float(latency), 1e3 * self.period_s) if latency else 1
        delay = DelayEstimator(1e3 * self.period_s, initial_steps=first)
        self.controller = Controller(spec, settings, seed, delay)
        self._wait_s = wait_share * self.period_s if settings.mode == "sync" else 0.0
        self._thread = PlanThread(self.link.ask, self.link.show, spec.obs_steps)
        self._connects = self.link.connects

    def reset(self, seed: int, rest: Actions | None = None) -> None:
        """Start an episode; see :meth:`.Controller.reset`."""
        self.controller.reset(seed, rest)

    def step(self, frame: Any) -> Command:
        """Turn the newest observation into this tick's command; see :meth:`.Controller.observe`."""
        end = time.perf_counter() + self._wait_s
        controller = self.controller
        controller.observe(frame)
        self._take(0.0)
        request = controller.request()
        if request is not None:
            self._thread.submit(request)
        elif controller.newest is not None:
            controller.drop(self._thread.show(controller.newest))
        while controller.waiting is not None and time.perf_counter() < end:
            self._take(end - time.perf_counter())
        if self.link.connects != self._connects:
            self._connects = self.link.connects
            controller.record.event(controller.tick, "reconnected", self.link.uri)
        return controller.act()

    def close(self) -> None:
        """Disconnect."""
        self.link.close()
        self._thread.close()

    def __enter__(self) -> "RemoteController":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, timeout_s: float) -> None:
        solved = self._thread.take(max(timeout_s, 0.0))
        if solved is None:
            return
        if solved.plan is None:
            self.controller.reject(solved.request.id, solved.error)
        else:
            self.controller.accept(solved.plan, solved.latency_ms)
