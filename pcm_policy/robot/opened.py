"""A robot's folder whose graphs are open: it solves what others have checked."""

from pathlib import Path

import numpy as np

from pcm_policy.control.plan import Actions
from pcm_policy.draws import Draws
from pcm_policy.errors import PcmError
from pcm_policy.robot.cameras import Sight
from pcm_policy.robot.engine import Engine, opener
from pcm_policy.robot.example import read_example
from pcm_policy.robot.folder import EXAMPLE, MIXING, read_array, read_package
from pcm_policy.robot.inputs import drawn, known, shaped
from pcm_policy.robot.memory import Floats
from pcm_policy.robot.program import Runner, Solve

TOLERANCE = 1e-4
"""Largest difference to the policy that a folder was made from, in its actions' ranges; of features
relative to theirs where these are above 1."""


class OpenFolder:
    """Graphs of a solve and, with cameras, of their encoder; the example is solved once.

    Args:
        folder: as :func:`pcm_policy.robot.load` takes it, as all that follow.
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
        self._drawn = package.chunk, package.steps if package.stochastic else 0
        self._mixing = read_array(folder / MIXING, (package.steps + 1, package.steps))
        self._plain = Runner(package.programs["plain"], folder, open_graph)
        warm = package.programs.get("warm")
        self._warm = self._plain if warm is None else Runner(warm, folder, open_graph)
        self.sight = Sight(package.cameras, package.spec, folder, open_graph)
        self._compare(folder / EXAMPLE, engine)

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
