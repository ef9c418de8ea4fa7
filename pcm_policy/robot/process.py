"""A robot's policy in a process of its own, so that no solve keeps the control loop waiting.

The process holds what one solve leaves for the next, and encodes each frame once. Requests and
plans go back and forth, and the images of each frame, once. If it dies, the request under way
fails, as a failed solve does, and the next one starts it again.
"""

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, TypeVar

from pcm_policy.checks import number
from pcm_policy.control.controller import Controller
from pcm_policy.control.plan import Frame, Plan, PlanRequest
from pcm_policy.control.settings import ControlSettings, PolicySpec
from pcm_policy.errors import PcmError
from pcm_policy.robot.engine import Engine
from pcm_policy.robot.sending import Asked, Receiver, Sender

KEPT = 8
"""Latest plans whose memory is kept: a controller may drop some before it accepts one."""
START_S = 60.0
G = TypeVar("G")
T = TypeVar("T")


class PlanProcess:
    """A folder that solves in a process of its own; ``plan`` is what a controller's thread calls.

    Args:
        folder: as :func:`pcm_policy.robot.load` takes it.
        engine: the same.
        threads: the same.
        patience_s: a solve that takes longer counts as failed, and the process is started again.

    Attributes:
        spec: shapes, rate and ranges, for a controller.
        control: settings of a controller, as they were exported.
        starts: how many times the process was started.

    Raises:
        PcmError: as :func:`pcm_policy.robot.load` does.
    """

    spec: PolicySpec
    control: ControlSettings

    def __init__(
        self,
        folder: str | Path,
        *,
        engine: Engine = "onnxruntime",
        threads: int = 1,
        patience_s: float = 5.0,
    ) -> None:
        self._words = (str(folder), engine, str(threads))
        self._patience_s = number("patience_s", patience_s, above=0)
        self._worker: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._sender = Sender()
        self.starts = 0
        self._open()

    def plan(self, request: PlanRequest) -> Plan:
        """Solve a controller's request.

        Raises:
            PcmError: the process died or took too long, or what
                :meth:`pcm_policy.robot.RobotPolicy.plan` raises.
        """
        pipe = self._open()
        mine = isinstance(request.memory, tuple) and request.memory[0] == self.starts
        memory = request.memory[1] if mine else None
        asked = self._sender.ask(request.frames, replace(request, memory=memory))
        found = self._ask(pipe, asked, self._patience_s)
        assert isinstance(found, Plan)
        kept = None if found.memory is None else (self.starts, found.memory)
        return replace(found, memory=kept)

    def see(self, frame: Frame) -> float:
        """Encode a frame when it comes, before a plan needs it; returns the milliseconds.

        Raises:
            PcmError: the process died or took too long, or what
                :meth:`pcm_policy.robot.RobotPolicy.see` raises.
        """
        pipe = self._open()
        return float(self._ask(pipe, self._sender.ask([frame]), self._patience_s))

    def controller(self, settings: ControlSettings | None = None, seed: int = 0) -> Controller:
        """Return a controller of this policy; without settings, with the folder's own."""
        return Controller(self.spec, settings or self.control, seed)

    def close(self) -> None:
        """End the process."""
        if self._pipe is not None:
            with suppress(OSError):
                self._pipe.close()
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()
        self._worker = self._pipe = None

    def __enter__(self) -> "PlanProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> Connection:
        """Start the process if it does not run."""
        if self._pipe is not None and self._worker is not None and self._worker.poll() is None:
            return self._pipe
        self.close()
        self._sender = Sender()
        self._pipe, theirs = Pipe()
        with theirs:  # a program of its own: it imports nothing that this one has
            command = [sys.executable, "-m", __name__, str(theirs.fileno()), *self._words]
            self._worker = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        found = self._ask(self._pipe, None, START_S)
        self.spec, self.control = found
        self.starts += 1
        return self._pipe

    def _ask(self, pipe: Connection, asked: Asked | None, patience_s: float) -> Any:
        """Send a message, if there is one, and return the answer."""
        try:
            if asked is not None:
                pipe.send(asked)
            if not pipe.poll(patience_s):
                raise TimeoutError(f"no answer within {patience_s:g} s")
            found = pipe.recv()
        except (OSError, EOFError) as error:
            self.close()
            why = str(error) or "it died"
            raise PcmError(f"the process that solves failed ({why}): it is started again") from None
        if isinstance(found, PcmError):
            raise found
        return found


def serve(pipe: Connection, folder: str, engine: Any, threads: int) -> None:
    """Answer requests until the other side is gone."""
    from pcm_policy.robot.policy import load

    with suppress(EOFError, OSError, KeyboardInterrupt):
        try:
            robot = load(folder, engine=engine, threads=threads)
        except PcmError as error:
            pipe.send(error)
            return
        pipe.send((robot.spec, robot.control))
        memories: dict[int, Any] = {}
        receiver = Receiver()
        while True:
            asked = pipe.recv()
            frames = receiver.frames(asked)
            if asked.request is None:
                pipe.send(_caught(lambda one: sum(map(robot.see, one)), frames))
            else:
                request = replace(asked.request, frames=frames)
                pipe.send(_answered(robot.plan, request, memories))


def _answered(
    plan: Callable[[PlanRequest], Plan], request: PlanRequest, memories: dict[int, Any]
) -> Plan | PcmError:
    """Solve a request whose memory is the id of an earlier plan, and keep the new one's."""
    found = _caught(plan, replace(request, memory=memories.get(request.memory)))
    if isinstance(found, PcmError) or found.memory is None:
        return found
    memories[found.id] = found.memory
    while len(memories) > KEPT:
        del memories[next(iter(memories))]
    return replace(found, memory=found.id)


def _caught(call: Callable[[G], T], given: G) -> T | PcmError:
    """Return what a call returns or raises: a robot must not stop because a solve raised."""
    try:
        return call(given)
    except PcmError as error:
        return PcmError(str(error))
    except Exception as error:
        return PcmError(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), sys.argv[2], sys.argv[3], int(sys.argv[4]))
