"""Settings of ``pcm-serve``: address, protocol, access and time limits."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from pcm_policy.checks import LARGEST, MOST_STEPS, flag, number, one_of, text, whole
from pcm_policy.control.settings import Executed, PolicySpec
from pcm_policy.control.wire import MAX_BYTES
from pcm_policy.errors import PcmError
from pcm_policy.fields import parse_field
from pcm_policy.optional import require
from pcm_policy.serving.planner import KINDS, Kind
from pcm_policy.settings import Count, Natural, Range

LOOPBACK = ("127.0.0.1", "::1", "localhost")
LONGEST_S = 1e6
LEAST_BYTES = 1024
MOST_PROCESSES = 256
CAN_HAND_OVER = hasattr(socket, "send_fds")
Seconds = Annotated[float, Range(above=0, most=LONGEST_S)]
Speech = Literal["pcm", "openpi", "vla-eval"]
Past = Literal["steps", "newest", "message"]


@dataclass(frozen=True)
class ObserveOptions:
    """What is needed of clients that only send observations: openpi's and vla-eval's.

    Attributes:
        images: entry of an observation that holds each camera's image, as
            {camera: observation/image}; a camera that is not named has an entry of its own name,
            with vla-eval images/camera.
        state: entries with the numbers, in order, as [observation/state] or with columns; null: the
            policy's own, or the entry ``state``.
        history: where a policy of several observations has those before the newest one from:
            ``steps``, the last ones of the connection, which sends one in every control step;
            ``newest``, the newest one stands for them too; ``message``, every entry comes with its
            history, ``(To, ...)``, which the other two take as well. null: steps with vla-eval or
            replan_steps; openpi's clients often send one a chunk, so that it must be said there.
        replan_steps: clients send an observation in every control step, and a chunk is solved every
            so many of them; in between the rest of the last one is the answer. null: with openpi
            every observation is answered by a chunk of its own, with vla-eval the policy's own
            number.
        seed: names the noise: of a connection this and its number, with vla-eval of an episode
            this and its number in the task.

    Raises:
        PcmError: entries that are no names, or numbers out of range.
    """

    images: Mapping[str, str] = field(default_factory=dict)
    state: tuple[str, ...] | None = None
    history: Past | None = None
    replan_steps: Executed | None = None
    seed: Natural = 0

    def __post_init__(self) -> None:
        if not isinstance(self.images, Mapping):
            raise PcmError(f"serve.observe.images={self.images!r}: use camera: entry")
        for camera, name in self.images.items():
            if not text(f"serve.observe.images.{camera}", name):
                raise PcmError(f"serve.observe.images.{camera} is empty: name an entry")
        if self.state is not None and not (isinstance(self.state, list | tuple) and self.state):
            raise PcmError(f"serve.observe.state={self.state!r}: use a list of entries, or null")
        for name in self.state or ():
            parse_field(text("serve.observe.state", name))
        if self.history is not None:
            one_of("serve.observe.history", self.history, get_args(Past))
        if self.replan_steps is not None and self.history == "newest":
            raise PcmError(
                "serve.observe.replan_steps with serve.observe.history=newest: whoever sends an "
                "observation in every control step has the history; leave one of them out"
            )
        if self.replan_steps is not None:
            whole("serve.observe.replan_steps", self.replan_steps, 1, MOST_STEPS)
        whole("serve.observe.seed", self.seed)

    def check(self, spec: PolicySpec) -> None:
        """Refuse what does not fit a policy.

        Raises:
            PcmError: a camera that it does not have, or more steps than a chunk has.
        """
        unknown = [camera for camera in self.images if camera not in spec.cameras]
        if unknown:
            raise PcmError(
                f"serve.observe.images names the camera {unknown[0]}: this policy has "
                f"{', '.join(spec.cameras) or 'none'}"
            )
        if self.replan_steps is not None and self.replan_steps > spec.usable:
            raise PcmError(
                f"serve.observe.replan_steps={self.replan_steps}: a chunk has {spec.usable} usable "
                "steps"
            )


@dataclass(frozen=True)
class ServeOptions:
    """How to serve.

    Attributes:
        host: address to listen on.
        port: port; 0 takes a free one.
        processes: policy processes behind the address, each with a policy of its own. A robot stays
            with one of them; one that dies is started again.
        protocol: ``pcm`` for the controllers of :mod:`pcm_policy.control`, ``openpi`` for openpi's
            clients, ``vla-eval`` for that harness.
        observe: what the latter two send.
        token: clients must send it as ``Authorization: Bearer TOKEN``, openpi's as their API key;
            None for no check.
        anonymous: allow addresses other than loopback without a token.
        max_clients: connections at a time, to all processes together.
        max_bytes: largest message; None is 1 MiB and the images of ``To`` observations.
        hello_timeout_s: time for the handshake.
        idle_timeout_s: a client that says nothing for this long is disconnected; None is 60 s, and
            an hour with the other protocols, whose clients do not connect again.
        max_errors: a client with more errors than this is disconnected.
        jpeg: take images as JPEG as well, which is not exact.
        batching: solve the requests of several clients together where that is faster.
        max_wait_s: a request that has waited longer than this is refused: its observation is old;
            None is 1 s, longer with the other protocols, whose clients stand still while they wait.
        drain_s: after SIGTERM nobody else is let in, and those who are there may go on for so long
            until they hang up; 0 ends at once.
        kinds: kinds of requests that are solved, each compiled before the first robot is let in;
            of :data:`~pcm_policy.serving.planner.KINDS`. None is all of them where nothing is
            compiled, and ``plain`` and ``prefix`` in the other modes of ``runtime``; those of
            other protocols are all ``plain``.

    Raises:
        PcmError: a value of another type or out of range, a setting of another protocol, or an
            open door without a token.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Range(least=0, most=65535)] = 8765
    processes: Annotated[int, Range(least=1, most=MOST_PROCESSES)] = 1
    protocol: Speech = "pcm"
    observe: ObserveOptions = field(default_factory=ObserveOptions)
    token: str | None = None
    anonymous: bool = False
    max_clients: Count = 32
    max_bytes: Annotated[int, Range(least=LEAST_BYTES, most=LARGEST)] | None = None
    hello_timeout_s: Seconds = 5.0
    idle_timeout_s: Seconds | None = None
    max_errors: Count = 20
    jpeg: bool = False
    batching: bool = True
    max_wait_s: Seconds | None = None
    drain_s: Annotated[float, Range(least=0, most=LONGEST_S)] = 0.0
    kinds: tuple[Kind, ...] | None = None

    def __post_init__(self) -> None:
        text("serve.host", self.host)
        whole("serve.port", self.port, 0, 65535)
        self._check_processes()
        one_of("serve.protocol", self.protocol, get_args(Speech))
        if self.token is not None and not text("serve.token", self.token).strip():
            raise PcmError("serve.token is empty: give one, or null for no check")
        for name in ("anonymous", "batching", "jpeg"):
            flag(f"serve.{name}", getattr(self, name))
        for name in ("max_clients", "max_errors"):
            whole(f"serve.{name}", getattr(self, name), 1)
        self._check_images()
        for name in ("hello_timeout_s", "idle_timeout_s", "max_wait_s"):
            if name == "hello_timeout_s" or getattr(self, name) is not None:
                number(f"serve.{name}", getattr(self, name), most=LONGEST_S, above=0)
        number("serve.drain_s", self.drain_s, 0, LONGEST_S)
        self._check_kinds()
        self._check_protocol()
        if self.host not in LOOPBACK and not self.token and not self.anonymous:
            raise PcmError(
                f"serve.host={self.host} can be reached by others: give serve.token=..., or "
                "serve.anonymous=true"
            )

    def _check_processes(self) -> None:
        several = whole("serve.processes", self.processes, 1, MOST_PROCESSES) > 1
        if several and not CAN_HAND_OVER:
            raise PcmError("serve.processes needs Unix sockets: leave it at 1 on this system")

    def _check_kinds(self) -> None:
        if self.kinds is None:
            return
        if not isinstance(self.kinds, list | tuple):
            raise PcmError(f"serve.kinds={self.kinds!r}: use a list of {', '.join(KINDS)}")
        for kind in self.kinds:
            one_of("serve.kinds", kind, KINDS)

    def _check_protocol(self) -> None:
        """Refuse what the protocol would ignore."""
        if self.protocol == "pcm" and self.observe != ObserveOptions():
            raise PcmError("serve.observe is of other protocols: give serve.protocol=openpi")
        if self.protocol != "pcm" and self.kinds is not None:
            raise PcmError(f"serve.kinds with serve.protocol={self.protocol}: all are plain there")
        if self.protocol == "openpi" and self.jpeg:
            raise PcmError("serve.jpeg with serve.protocol=openpi: its images are arrays")

    def _check_images(self) -> None:
        if self.max_bytes is not None:
            whole("serve.max_bytes", self.max_bytes, LEAST_BYTES)
        if self.jpeg:
            require("PIL.Image", "images as JPEG", "serve")

    def check(self, spec: PolicySpec) -> None:
        """Refuse what does not fit a policy.

        Raises:
            PcmError: too little room for its images, or entries for cameras that it does not have.
        """
        self.room(spec)
        self.observe.check(spec)
        known = self.observe.history or self.observe.replan_steps or spec.obs_steps == 1
        if self.protocol == "openpi" and not known:
            raise PcmError(
                f"this policy sees {spec.obs_steps} observations: say what clients send: "
                "serve.observe.history=steps (one in every control step), newest (one when they "
                "want a chunk; fewer tasks succeed) or message (all of them in every message)"
            )

    def room(self, spec: PolicySpec) -> int:
        """Return how many bytes the largest message may have.

        Raises:
            PcmError: ``max_bytes`` has no room for the images of ``To`` observations.
        """
        images = spec.obs_steps * spec.frame_bytes
        if self.max_bytes is None:
            return MAX_BYTES + images
        if images and self.max_bytes < images + LEAST_BYTES:
            raise PcmError(
                f"serve.max_bytes={self.max_bytes}: the images of {spec.obs_steps} observations "
                f"take {images} bytes: give {MAX_BYTES + images}, or null"
            )
        return self.max_bytes
