"""Settings of ``pcm-serve``: address, access and time limits."""

from dataclasses import dataclass
from typing import Annotated

from pcm_policy.checks import LARGEST, flag, number, one_of, text, whole
from pcm_policy.control.settings import PolicySpec
from pcm_policy.control.wire import MAX_BYTES
from pcm_policy.errors import PcmError
from pcm_policy.optional import require
from pcm_policy.serving.planner import KINDS, Kind
from pcm_policy.settings import Count, Range

LOOPBACK = ("127.0.0.1", "::1", "localhost")
PREPARED = ("plain", "prefix")  # where every kind is compiled, unless others are named
LONGEST_S = 1e6
LEAST_BYTES = 1024
Seconds = Annotated[float, Range(above=0, most=LONGEST_S)]


@dataclass(frozen=True)
class ServeOptions:
    """How to serve.

    Attributes:
        host: address to listen on.
        port: port; 0 takes a free one.
        token: clients must send it as ``Authorization: Bearer TOKEN``; None for no check.
        anonymous: allow addresses other than loopback without a token.
        max_clients: connections at a time.
        max_bytes: largest message; None is 1 MiB and the images of ``To`` observations.
        hello_timeout_s: time for the handshake.
        idle_timeout_s: a client that says nothing for this long is disconnected.
        max_errors: a client with more errors than this is disconnected.
        jpeg: take images as JPEG as well, which is not exact.
        batching: solve the requests of several clients together where that is faster.
        max_wait_s: a request that has waited longer than this is refused: its observation is old.
        kinds: kinds of requests that are solved, each compiled before the first robot is let in;
            of :data:`~pcm_policy.serving.planner.KINDS`. None is all of them where nothing is
            compiled, and :data:`PREPARED` in the other modes of ``runtime``.

    Raises:
        PcmError: a value of another type or out of range, or an open door without a token.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Range(least=0, most=65535)] = 8765
    token: str | None = None
    anonymous: bool = False
    max_clients: Count = 32
    max_bytes: Annotated[int, Range(least=LEAST_BYTES, most=LARGEST)] | None = None
    hello_timeout_s: Seconds = 5.0
    idle_timeout_s: Seconds = 60.0
    max_errors: Count = 20
    jpeg: bool = False
    batching: bool = True
    max_wait_s: Seconds = 1.0
    kinds: tuple[Kind, ...] | None = None

    def __post_init__(self) -> None:
        text("serve.host", self.host)
        whole("serve.port", self.port, 0, 65535)
        if self.token is not None and not text("serve.token", self.token).strip():
            raise PcmError("serve.token is empty: give one, or null for no check")
        for name in ("anonymous", "batching", "jpeg"):
            flag(f"serve.{name}", getattr(self, name))
        for name in ("max_clients", "max_errors"):
            whole(f"serve.{name}", getattr(self, name), 1)
        self._check_images()
        for name in ("hello_timeout_s", "idle_timeout_s", "max_wait_s"):
            number(f"serve.{name}", getattr(self, name), most=LONGEST_S, above=0)
        if self.kinds is not None:
            if not isinstance(self.kinds, list | tuple):
                raise PcmError(f"serve.kinds={self.kinds!r}: use a list of {', '.join(KINDS)}")
            for kind in self.kinds:
                one_of("serve.kinds", kind, KINDS)
        if self.host not in LOOPBACK and not self.token and not self.anonymous:
            raise PcmError(
                f"host={self.host} can be reached by others: give token=..., or anonymous=true"
            )

    def _check_images(self) -> None:
        if self.max_bytes is not None:
            whole("serve.max_bytes", self.max_bytes, LEAST_BYTES)
        if self.jpeg:
            require("PIL.Image", "images as JPEG", "serve")

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
