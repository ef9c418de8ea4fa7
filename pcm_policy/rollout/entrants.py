"""Who can be evaluated: a policy that plans while the simulator waits, a controller, a baseline."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from pcm_policy.control.settings import ControlSettings
from pcm_policy.errors import PcmError
from pcm_policy.measure.bench import time_encoding, time_predictions
from pcm_policy.measure.conditions import conditions, hardware, made_by
from pcm_policy.measure.rows import certificate, described
from pcm_policy.measure.timing import time_call
from pcm_policy.policy.fingerprint import whole_fingerprint
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.rollout.chunks import ChunkAgent
from pcm_policy.rollout.controlled import ControlAgent
from pcm_policy.rollout.episode_policy import EpisodePolicy
from pcm_policy.rollout.episodes import Agent, Run
from pcm_policy.rollout.records import Record
from pcm_policy.rollout.robomimic_policy import RobomimicPolicy
from pcm_policy.solvers.registry import Solver


class Entrant(ABC):
    """Someone to evaluate; every result has the same layout, whoever it is."""

    agent: Agent
    device = "cpu"

    @abstractmethod
    def check_rows(self) -> None:
        """Raise PcmError where the episodes of one solve influence each other."""

    @abstractmethod
    def solver_used(self) -> dict[str, Any]:
        """Return the solver's label and settings."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """Return how it is controlled and what it runs on, known before the first episode."""

    @abstractmethod
    def identity(self) -> str:
        """Return a digest of all that the policy is: weights, ranges, config."""

    def record(self, run: Run) -> Record:
        """Return what is kept of an episode that is over."""
        return Record.of(run)

    @abstractmethod
    def observations(self) -> Sequence[Any]:
        """Return some of the observations that it acted on."""

    @abstractmethod
    def timed(self, calls: int) -> dict[str, float]:
        """Time single predictions on observations of the episodes, in milliseconds."""


class PolicyEntrant(Entrant):
    """A policy whose chunks are executed whole while the simulator waits.

    Args:
        policy: the policy.
        solver: how to solve.
        solve_batch: rows of every prediction.
    """

    def __init__(self, policy: DiffusionPolicy, solver: Solver, solve_batch: int) -> None:
        self.policy, self.solver, self.device = policy, solver, policy.device.type
        self.solve_batch = solve_batch
        self.runner = EpisodePolicy(policy, solver)
        steps, work = policy.config.obs_steps, self.runner.work
        self.agent = ChunkAgent(self.runner, steps, solve_batch, work)

    def solver_used(self) -> dict[str, Any]:
        """Return the solver's label and settings."""
        return described(self.solver) | certificate(self.policy, self.solver)

    def about(self) -> dict[str, Any]:
        """Return its conditions; nobody controls it, and no time passes."""
        return {"control": None, "latency": {"kind": "none"}, **conditions(self.policy)}

    def identity(self) -> str:
        """Return the policy's digest."""
        return whole_fingerprint(self.policy)

    def check_rows(self) -> None:
        """Raise PcmError where the episodes of one solve influence each other."""
        check_rows(self.solver, self.solve_batch)

    def observations(self) -> Sequence[Any]:
        """Return some of the observations that it acted on."""
        return self.runner.observations()

    def timed(self, calls: int) -> dict[str, float]:
        """Time ``predict``, and with cameras the encoding alone."""
        return time_policy(self.policy, self.solver, self.runner.observations(), calls)


class ControlledEntrant(Entrant):
    """A policy behind a controller, in a world that keeps moving.

    Args:
        agent: the controllers.
        latency: the settings of its latency, for the record.
    """

    def __init__(self, agent: ControlAgent, latency: dict[str, Any]) -> None:
        self.agent: ControlAgent = agent
        self.latency, self.device = latency, agent.planner.policy.device.type

    def solver_used(self) -> dict[str, Any]:
        """Return the solver's label and settings."""
        planner = self.agent.planner
        return described(planner.solver) | certificate(planner.policy, planner.solver)

    def about(self) -> dict[str, Any]:
        """Return control settings, latency and conditions."""
        agent = self.agent
        return {
            "control": asdict(agent.settings) | {"period_ms": agent.period_ms},
            "latency": self.latency,
            **conditions(agent.planner.policy),
        }

    def identity(self) -> str:
        """Return the policy's digest."""
        return whole_fingerprint(self.agent.planner.policy)

    def check_rows(self) -> None:
        """Raise PcmError where the episodes of one solve influence each other."""
        check_rows(self.agent.planner.solver, self.agent.batch)

    def record(self, run: Run) -> Record:
        """Return what is kept of an episode that is over, with what its controller did."""
        return Record.of(run, self.agent.flight(run))

    def observations(self) -> Sequence[Any]:
        """Return some of the observations that were planned from."""
        return self.agent.observations()

    def timed(self, calls: int) -> dict[str, float]:
        """Time ``predict``."""
        planner = self.agent.planner
        return time_policy(planner.policy, planner.solver, self.agent.observations(), calls)


class BaselineEntrant(Entrant):
    """A policy that robomimic trained.

    Args:
        runner: the policy.
        solve_batch: rows of every prediction.
    """

    def __init__(self, runner: RobomimicPolicy, solve_batch: int) -> None:
        self.runner = runner
        self.agent = ChunkAgent(runner, 1, solve_batch, lambda: [(1, 1)] * solve_batch)

    def solver_used(self) -> dict[str, Any]:
        """Return its algorithm."""
        return {"label": self.runner.label}

    def about(self) -> dict[str, Any]:
        """Return what it runs on."""
        return {
            "control": None,
            "latency": {"kind": "none"},
            **made_by(),
            "hardware": hardware(torch.device("cpu")),
        }

    def identity(self) -> str:
        """Return a digest of the checkpoint."""
        return hashlib.sha256(self.runner.path.read_bytes()).hexdigest()[:16]

    def check_rows(self) -> None:
        """Do nothing: they do not."""

    def observations(self) -> Sequence[Any]:
        """Return some of the observations that it acted on."""
        return self.runner.observations()

    def timed(self, calls: int) -> dict[str, float]:
        """Time single actions."""
        frames, row = self.runner.observations(), np.zeros(1, np.int64)
        batched = [{key: values[None] for key, values in frame.items()} for frame in frames]
        return time_call(lambda call: self.runner(batched[call % len(batched)], row, row), calls)


def time_policy(
    policy: DiffusionPolicy, solver: Solver, frames: Sequence[Any], calls: int
) -> dict[str, float]:
    """Time ``predict`` at batch 1, and with cameras the encoding alone."""
    timed = time_predictions(policy, [solver], frames, calls)[0]
    if policy.vision is not None:
        timed["encode"] = time_encoding(policy, frames, calls)["p50"]
    return timed


def check_rows(solver: Solver, solve_batch: int) -> None:
    """Check that an episode's bits do not depend on those that are solved beside it.

    Raises:
        PcmError: rows of a solve end one by one and leave it, which changes the shape of the
            others' matrix products, and so their last bits.
    """
    if solver.stop.reads and solve_batch > 1:
        raise PcmError(
            f"with {solver.label} rows of a solve end one by one, which changes the last bits of "
            "those beside them: give solve_batch=1, so that an episode is the same in every shard"
        )


def needs_controller(settings: ControlSettings, latency: str) -> bool:
    """Whether an evaluation goes through a controller.

    Without latency and with every setting as it is by default a controller changes no episode, so
    that there is none: its policy may then be another package's.
    """
    return latency != "none" or settings != ControlSettings()
