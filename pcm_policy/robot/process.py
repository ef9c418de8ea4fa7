"""A robot's policy in a process of its own, so that no solve keeps the control loop waiting.

The process holds what one solve leaves for the next; requests and plans alone go back and forth.
If it dies, the request under way fails, as a failed solve does, and the next one starts it again.
"""

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from pcm_policy.checks import number
from pcm_policy.control.controller import Controller
from pcm_policy.control.plan import Plan, PlanRequest
from pcm_policy.control.settings import ControlSettings, PolicySpec
from pcm_policy.errors import PcmError
from pcm_policy.robot.engine import Engine

KEPT = 8
"""Latest plans whose memory is kept: a controller may drop some before it accepts one."""
START_S = 60.0


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
        found = self._ask(pipe, replace(request, memory=memory), self._patience_s)
        assert isinstance(found, Plan)
        kept = None if found.memory is None else (self.starts, found.memory)
        return replace(found, memory=kept)

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
        self._pipe, theirs = Pipe()
        with theirs:  # a program of its own: it imports nothing that this one has
            command = [sys.executable, "-m", __name__, str(theirs.fileno()), *self._words]
            self._worker = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        found = self._ask(self._pipe, None, START_S)
        self.spec, self.control = found
        self.starts += 1
        return self._pipe

    def _ask(self, pipe: Connection, request: PlanRequest | None, patience_s: float) -> Any:
        """Send a request, if there is one, and return the answer."""
        try:
            if request is not None:
                pipe.send(request)
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
        while True:
            request = pipe.recv()
            pipe.send(_answered(robot.plan, request, memories))


def _answered(
    plan: Callable[[PlanRequest], Plan], request: PlanRequest, memories: dict[int, Any]
) -> Plan | PcmError:
    """Solve a request whose memory is the id of an earlier plan, and keep the new one's."""
    try:
        found = plan(replace(request, memory=memories.get(request.memory)))
    except PcmError as error:
        return PcmError(str(error))
    except Exception as error:  # a robot must not stop because a solve raised
        return PcmError(f"{type(error).__name__}: {error}")
    if found.memory is None:
        return found
    memories[found.id] = found.memory
    while len(memories) > KEPT:
        del memories[next(iter(memories))]
    return replace(found, memory=found.id)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), sys.argv[2], sys.argv[3], int(sys.argv[4]))
