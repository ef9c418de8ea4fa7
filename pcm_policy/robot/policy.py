"""A policy of an exported folder: observations in, actions out, and plans for a controller."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pcm_policy.checks import LARGEST_SEED, whole
from pcm_policy.control.controller import Controller
from pcm_policy.control.plan import Frame, Plan, PlanRequest
from pcm_policy.control.safety import chunk_fault
from pcm_policy.control.settings import ControlSettings
from pcm_policy.draws import Draws, draw
from pcm_policy.errors import PcmError
from pcm_policy.robot.engine import Engine
from pcm_policy.robot.inputs import drawn, guessed, known, observed, shaped
from pcm_policy.robot.memory import Floats, Memory, clean_predictions, shift_chunk, shift_noise
from pcm_policy.robot.opened import OpenFolder
from pcm_policy.robot.program import Solve


@dataclass(frozen=True)
class Prediction:
    """What :meth:`RobotPolicy.predict` returns.

    Attributes:
        action: ``(1, Ta, Da)`` actions to execute, raw units, finite, within the limits.
        chunk: ``(1, T, Da)`` the whole predicted chunk, raw units, not limited.
        solve: the solve: its rounds, its error bound, why it ended.
    """

    action: NDArray[np.float32]
    chunk: NDArray[np.float32]
    solve: Solve


def load(folder: str | Path, *, engine: Engine = "onnxruntime", threads: int = 1) -> "RobotPolicy":
    """Load a folder that ``pcm-export formats=[robot]`` wrote, without torch.

    The folder's example is solved once and compared with the policy that it was made from.

    Args:
        folder: the folder.
        engine: ``onnxruntime`` or ``openvino``.
        threads: CPU threads of every call.

    Raises:
        PcmError: the folder is damaged, of another version or from another policy; the engine is
            not installed, cannot open a graph, or gives another chunk.
    """
    return RobotPolicy(Path(folder), engine, threads)


class RobotPolicy(OpenFolder):
    """A policy on a robot; see :func:`load`.

    Args:
        folder: as :func:`load` takes it.
        engine: the same.
        threads: the same.

    Attributes:
        spec: shapes, rate and ranges, for a controller.
        control: settings of a controller, as they were exported.
        package: all that the folder says.
        sight: encodes images and keeps the features of frames.
    """

    def __init__(self, folder: Path, engine: Engine = "onnxruntime", threads: int = 1) -> None:
        super().__init__(folder, engine, threads)
        self._limits = self.control.limits()
        self.reset()

    def reset(self, seed: int = 0) -> None:
        """Start an episode: its seed names the noise of :meth:`predict`.

        Raises:
            PcmError: no seed.
        """
        self._seed, self._tick = whole("seed", seed, 0, LARGEST_SEED), 0

    def predict(
        self,
        obs: ArrayLike | Mapping[str, ArrayLike],
        *,
        noise: Draws | None = None,
        guess: ArrayLike | None = None,
        prefix: ArrayLike | None = None,
        previous: ArrayLike | None = None,
    ) -> Prediction:
        """Predict the actions to execute next.

        Args:
            obs: ``(To, Do)`` raw observations, oldest first, or a dictionary of the entries that
                ``spec.obs_fields`` name. With cameras a dictionary of ``state`` ``(To, n)`` and
                ``(To, H, W, 3)`` uint8 of every camera, as the policy's own ``predict`` takes it.
            noise: all the randomness; None draws it, by :func:`pcm_policy.draws.draw`, for the seed
                of :meth:`reset` and the number of predictions since.
            guess: ``(1, T, D)`` or ``(N, 1, T, D)`` normalised guess of the chunk.
            prefix: ``(n, Da)`` raw actions that are known; the first belongs to the newest
                observation.
            previous: ``(Da,)`` action executed last, for the rate limit.

        Raises:
            PcmError: an input of another shape, not finite, or far outside the training range; or
                an action that is not finite.
        """
        package, spec = self.package, self.spec
        state, images = observed(spec, obs)
        features = [self.sight.encode(one) for one in images]
        fault = self.sight.fault(features)
        if fault is not None:
            raise PcmError(fault)
        own = guess if guess is None else guessed(guess, package.chunk, package.steps)
        ahead = (
            np.zeros((0, spec.action_dim), np.float32) if prefix is None else known(spec, prefix)
        )
        last = None
        if previous is not None:
            last = shaped("previous", np.reshape(previous, -1), (spec.action_dim,))[None]
        if noise is None:
            noise = draw([self._seed], [self._tick], *self._drawn)
            self._tick += 1
        seen = self.sight.join(state, features)
        solve = self.solve(seen, drawn(noise, *self._drawn), own, ahead)
        if not np.isfinite(solve.chunk).all():
            raise PcmError("the solve gave a non-finite action; nothing was returned")
        first = spec.obs_steps - 1
        action = solve.chunk[:, first : first + spec.action_steps]
        return Prediction(self._limits.apply(action, last), solve.chunk, solve)

    def see(self, frame: Frame) -> float:
        """Encode a frame when it comes, before a plan needs it; returns the milliseconds.

        Raises:
            PcmError: an image is missing, or of another shape or type.
        """
        return self.sight.features.see(frame)

    def plan(self, request: PlanRequest) -> Plan:
        """Solve a controller's request, as :class:`pcm_policy.serving.planner.Planner` does.

        Frames that were not encoded when they came are, before the solve.

        Raises:
            PcmError: the folder was not exported for this kind of request.
        """
        warm = request.warm_start
        if warm == "auto":
            warm = "off" if self.package.starts else "trajectory"
        if len(request.prefix) and request.prefix_input != self.control.prefix_input:
            raise PcmError(
                f"the folder was exported with control.prefix_input={self.control.prefix_input}, "
                f"the request says {request.prefix_input}: export it again with that"
            )
        noise, guess = self._noise(request), self._guess(request, warm)
        state = shaped("observation", request.obs, (self.spec.obs_steps, self.spec.obs_dim))
        late, spent = self.sight.features.late(request), sum(map(self.see, request.frames))
        obs, fault = self.sight.requested(request, state)
        found = self.solve(obs, noise, guess, request.prefix, request.past)
        actions = found.chunk[0, self.spec.obs_steps - 1 :].copy()
        fault, memory = fault or chunk_fault(actions, self.spec), None
        if fault is None and (request.couple_noise or warm != "off"):
            left = found.sample[None]
            if warm == "trajectory":
                left = clean_predictions(self._mixing, found.trajectory, found.forced)
            memory = Memory(noise, left, found.sample)
        return Plan(
            id=request.id,
            actions=actions,
            memory=memory,
            rounds=found.rounds,
            bound=float(found.bound[0]),
            certified=bool(found.certified[0]),
            fault=fault,
            encode_ms=spent,
            late_frames=late,
        )

    def controller(self, settings: ControlSettings | None = None, seed: int = 0) -> Controller:
        """Return a controller of this policy; without settings, with the folder's own."""
        return Controller(self.spec, settings or self.control, seed)

    def _noise(self, request: PlanRequest) -> Draws:
        """Draw the noise that (seed, tick) names; coupled noise keeps the old one's."""
        fresh = draw([request.seed], [request.tick], *self._drawn)
        if request.couple_noise and isinstance(request.memory, Memory):
            return shift_noise(request.memory.noise, fresh, request.executed)
        return fresh

    def _guess(self, request: PlanRequest, warm: str) -> Floats | None:
        """Shift the remembered plan; a first solve that shall start warm starts from NaN, cold."""
        if warm == "off":
            return None
        shape = (self.package.steps, 1, *self.package.chunk)
        if not isinstance(request.memory, Memory):
            return np.full(shape, np.nan, np.float32)
        kept = request.memory.guess if warm == "trajectory" else request.memory.sample[None]
        return np.array(np.broadcast_to(shift_chunk(kept, request.executed), shape))
