"""A policy of an exported folder: observations in, actions out, and plans for a controller."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pcm_policy.checks import LARGEST_SEED, whole
from pcm_policy.control.controller import Controller
from pcm_policy.control.plan import Actions, Frame, Plan, PlanRequest
from pcm_policy.control.safety import chunk_fault
from pcm_policy.control.settings import ControlSettings
from pcm_policy.draws import Draws, draw
from pcm_policy.errors import PcmError
from pcm_policy.robot.cameras import Sight
from pcm_policy.robot.engine import Engine, opener
from pcm_policy.robot.example import read_example
from pcm_policy.robot.folder import EXAMPLE, MIXING, read_array, read_package
from pcm_policy.robot.inputs import drawn, guessed, known, observed, shaped
from pcm_policy.robot.memory import Floats, Memory, clean_predictions, shift_chunk, shift_noise
from pcm_policy.robot.program import Runner, Solve

TOLERANCE = 1e-4
"""Largest difference to the policy that a folder was made from, in its actions' ranges; of features
relative to theirs where these are above 1."""


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


class RobotPolicy:
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
        open_graph = opener(engine, threads)
        self.package = package = read_package(folder)
        self.spec, self.control = package.spec, package.control
        self._limits = package.control.limits()
        self._drawn = package.chunk, package.steps if package.stochastic else 0
        self._mixing = read_array(folder / MIXING, (package.steps + 1, package.steps))
        self._plain = Runner(package.programs["plain"], folder, open_graph)
        warm = package.programs.get("warm")
        self._warm = self._plain if warm is None else Runner(warm, folder, open_graph)
        self.sight = Sight(package.cameras, package.spec, folder, open_graph)
        self.reset()
        self._compare(folder / EXAMPLE, engine)

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

    def solve(
        self,
        obs: Floats,
        noise: Draws,
        guess: Floats | None,
        prefix: Actions,
        past: int = 0,
        timed: bool = True,
    ) -> Solve:
        """Solve for checked inputs, without checks of its own.

        Args:
            obs: ``(1, To, Do)`` raw observations.
            noise: all the randomness.
            guess: ``(N, 1, T, D)`` normalised, or None.
            prefix: ``(n, Da)`` known raw actions.
            past: how many of them lie before the newest observation.
            timed: whether the solver's deadline counts, if it has one.
        """
        spec, (horizon, width) = self.spec, self.package.chunk
        values = np.zeros((1, horizon, spec.action_dim), np.float32)
        fixed = np.zeros((1, horizon, 1), np.bool_)
        begin = spec.obs_steps - 1 - past
        values[0, begin : begin + len(prefix)] = prefix
        fixed[0, begin : begin + len(prefix)] = True
        runner = self._plain if guess is None else self._warm
        if guess is None:
            guess = np.full((self.package.steps, 1, horizon, width), np.nan, np.float32)
        steps = [] if noise.steps is None else [noise.steps]
        return runner([obs, noise.initial, *steps, guess, values, fixed], timed)

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

    def _compare(self, path: Path, engine: str) -> None:
        """Solve the folder's example, and refuse an engine that gives another chunk."""
        example, frames = read_example(path), self.spec.obs_steps
        noise, prefix = drawn(example.noise, *self._drawn), known(self.spec, example.prefix)
        state = shaped("state", example.state, (frames, self.spec.obs_dim))
        features = [self.sight.encode(example.images)] * frames if self.spec.cameras else []
        obs = self.sight.join(state, features)
        found = self.solve(obs, noise, None, prefix, timed=False).chunk
        for what, off in (
            ("other features", example.features_differ(obs)),
            ("another chunk", example.chunks_differ(found)),
        ):
            if not off <= TOLERANCE:
                raise PcmError(
                    f"{engine} gives {what} for {path} than the policy, {off:.1e} off: do not use "
                    "it; try another engine or version"
                )
