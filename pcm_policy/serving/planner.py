"""Solves plan requests, one or many at once, on a policy: the torch side of the controller."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pcm_policy.control.plan import Frame, Plan, PlanRequest
from pcm_policy.control.safety import chunk_fault
from pcm_policy.control.settings import PolicySpec
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.execute import Runtime
from pcm_policy.sampling.affine import clean_predictions
from pcm_policy.sampling.denoise import Prefix
from pcm_policy.sampling.noise import Noise, episode_noise
from pcm_policy.serving.features import Features
from pcm_policy.serving.memory import Memory, shift_chunk, shift_noise
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.result import SolveResult
from pcm_policy.solvers.system import forcing


def describe(policy: DiffusionPolicy) -> PolicySpec:
    """Return what a controller must know of a policy."""
    config, obs, action = policy.config, policy.obs_normalizer, policy.action_normalizer
    vision = config.vision
    seen = range(config.obs_dim) if vision is None else vision.state_columns
    return PolicySpec(
        obs_dim=len(seen),
        action_dim=config.action_dim,
        horizon=config.horizon,
        obs_steps=config.obs_steps,
        action_steps=config.action_steps,
        control_hz=config.control_hz,
        obs_low=tuple(obs.low[list(seen)].tolist()),
        obs_high=tuple(obs.high[list(seen)].tolist()),
        action_low=tuple(action.low.tolist()),
        action_high=tuple(action.high.tolist()),
        max_excess=config.max_excess,
        obs_fields=tuple(config.obs_fields),
        cameras={} if vision is None else dict(vision.cameras),
    )


Kind = Literal["plain", "prefix", "prefix_input", "warm", "warm_prefix", "warm_prefix_input"]
KINDS: tuple[str, ...] = get_args(Kind)
"""Requests that have something of their own in a solve; see :meth:`Planner.kind`."""


class Planner:
    """A policy with a solver.

    Args:
        policy: the policy.
        solver: how every request is solved; None for the policy's default.
    """

    def __init__(self, policy: DiffusionPolicy, solver: Solver | None = None) -> None:
        self.policy = policy
        self.solver = policy.solver() if solver is None else policy.complete(solver)
        self.spec = describe(policy)
        self.features = Features(policy)
        self._sampler = policy.sampler(self.solver.sampler)
        self._noise_steps = self._sampler.noise_steps
        starts = self.solver.uses_head and policy.head is not None and policy.head.starts
        self._auto = "off" if starts else "trajectory"

    def see(self, frame: Frame) -> float:
        """Encode a frame when it comes, before a plan needs it; returns the milliseconds."""
        return self.features.see(frame)

    def plan(self, request: PlanRequest) -> Plan:
        """Solve one request."""
        return self.plan_batch([request])[0]

    @property
    def compiles(self) -> bool:
        """Whether every kind and size of solve is prepared when it first comes."""
        execute = self.policy.execute
        return isinstance(execute, Runtime) and execute.mode.prepares

    def kind(self, request: PlanRequest) -> str:
        """Return the one of :data:`KINDS` that a request is; only its like is solved with it."""
        request = self._resolved(request)
        warm = "warm" if request.warm_start != "off" else ""
        prefix = (
            ("prefix_input" if request.prefix_input else "prefix") if len(request.prefix) else ""
        )
        return "_".join(part for part in (warm, prefix) if part) or "plain"

    def example(self, kind: str) -> PlanRequest:
        """Return a request of a kind, in the middle of what the policy has seen."""
        spec = self.spec
        with np.errstate(invalid="ignore"):  # a policy without ranges has infinite ones
            middle = (np.asarray(spec.obs_low) + np.asarray(spec.obs_high)) / 2
        frame = np.where(np.isfinite(middle), middle, 0.0).astype(np.float32)
        low, high = np.asarray(spec.action_low), np.asarray(spec.action_high)
        action = np.where(np.isfinite(low), (low + high) / 2, 0.0).astype(np.float32)
        images = {k: np.full((*size, 3), 128, np.uint8) for k, size in spec.cameras.items()}
        return PlanRequest(
            id=0,
            seed=0,
            tick=0,
            clock=0.0,
            obs=np.repeat(frame[None], spec.obs_steps, axis=0),
            prefix=np.repeat(action[None], 1 if "prefix" in kind else 0, axis=0),
            warm_start="trajectory" if kind.startswith("warm") else "off",
            prefix_input=kind.endswith("prefix_input"),
            frames=(Frame(frame, images),) * spec.obs_steps if images else (),
        )

    def _resolved(self, request: PlanRequest) -> PlanRequest:
        return replace(request, warm_start=self._auto) if request.warm_start == "auto" else request

    @torch.inference_mode()
    def plan_batch(
        self, requests: Sequence[PlanRequest], rows: Sequence[int] | None = None, batch: int = 0
    ) -> list[Plan]:
        """Solve requests together; frames that were not encoded when they came are, before it.

        Args:
            requests: one a row; what is wrong with one does not touch the others. Each kind of
                them is a solve of its own, see :meth:`kind`.
            rows: row of each request; None counts them.
            batch: rows of a solve, filled up with its first request; 0 takes just enough. At one
                ``batch`` and row, a request's result does not depend on the others.

        Returns:
            One plan a request, in their order; a diverged one says so in ``fault``.
        """
        places = list(range(len(requests)) if rows is None else rows)
        size = max(batch, max(places) + 1)
        late = [self.features.late(request) for request in requests]
        spent = [sum(self.features.see(f) for f in request.frames) for request in requests]
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(self.kind(request), []).append(i)
        found: dict[int, Plan] = {}
        for chosen in groups.values():
            same = [self._resolved(requests[i]) for i in chosen]
            plans = self._solve(same, [places[i] for i in chosen], size)
            found.update(zip(chosen, plans, strict=True))
        return [
            replace(found[i], encode_ms=spent[i], late_frames=late[i]) for i in range(len(requests))
        ]

    def _solve(
        self, requests: Sequence[PlanRequest], rows: Sequence[int], batch: int
    ) -> list[Plan]:
        """Solve requests of one kind."""
        seats = [requests[0]] * batch
        for row, request in zip(rows, requests, strict=True):
            seats[row] = request
        noise = self._noise(seats)
        obs = self.features.observations(seats)
        faults = self.features.faults(obs)
        found = self.policy.solve(obs, self.solver, noise, self._guess(seats), self._prefix(seats))
        assert found.chunk is not None
        chunks = found.chunk.cpu().numpy()
        predictions = None
        if any(r.warm_start == "trajectory" for r in requests):
            fixed = forcing(self._sampler, noise.to(self.policy.device, self.policy.dtype))
            predictions = clean_predictions(self._sampler, found.trajectory, fixed)
        return [
            self._answer(request, row, chunks[row], found, noise, predictions, faults[row])
            for row, request in zip(rows, requests, strict=True)
        ]

    def _answer(
        self,
        request: PlanRequest,
        row: int,
        chunk: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
        found: SolveResult,
        noise: Noise,
        predictions: Tensor | None,
        fault: str | None,
    ) -> Plan:
        actions = chunk[self.spec.obs_steps - 1 :].copy()
        fault = fault or chunk_fault(actions, self.spec)
        memory, own = None, found.row_rounds
        if fault is None and (request.couple_noise or request.warm_start != "off"):
            sample = found.sample[row : row + 1].clone()
            guess = sample[None] if predictions is None else predictions[:, row : row + 1].clone()
            memory = Memory(noise.row(row), guess, sample)
        return Plan(
            id=request.id,
            actions=actions,
            memory=memory,
            rounds=found.rounds if own is None else int(own[row]),
            bound=float(found.bound[row]),
            certified=bool(found.certified[row]),
            fault=fault,
        )

    def _noise(self, seats: Sequence[PlanRequest]) -> Noise:
        """Draw the noise that (seed, tick) names; rows with coupled noise keep the old one's."""
        shape = self.policy.config.chunk_shape
        fresh = episode_noise(
            [r.seed for r in seats], [r.tick for r in seats], shape, self._noise_steps
        )
        if not any(r.couple_noise and r.memory is not None for r in seats):
            return fresh
        parts = []
        for row, request in enumerate(seats):
            part = fresh.row(row)
            if request.couple_noise and isinstance(request.memory, Memory):
                part = shift_noise(request.memory.noise, part, request.executed)
            parts.append(part)
        steps = [p.steps for p in parts if p.steps is not None]
        initial = torch.cat([p.initial for p in parts])
        return Noise(initial, torch.cat(steps, dim=1) if steps else None)

    def _guess(self, seats: Sequence[PlanRequest]) -> Tensor | None:
        """Shift the remembered plans; a row without one is marked as such, and starts cold."""
        if all(r.warm_start == "off" for r in seats):
            return None
        config, steps = self.policy.config, self.solver.sampler.steps
        cold = torch.full((steps, 1, *config.chunk_shape), torch.nan)
        cold = cold.to(self.policy.device, self.policy.dtype)
        parts = []
        for request in seats:
            part = cold
            if request.warm_start != "off" and isinstance(request.memory, Memory):
                memory = request.memory
                whole = request.warm_start == "trajectory"
                kept = memory.guess if whole else memory.sample[None]
                part = shift_chunk(kept, request.executed).expand_as(cold)
            parts.append(part)
        return torch.cat(parts, dim=1)

    def _prefix(self, seats: Sequence[PlanRequest]) -> Prefix | None:
        """Join prefixes of different lengths; a row without one is left alone."""
        if all(len(r.prefix) == 0 for r in seats):
            return None
        config, device = self.policy.config, self.policy.device
        values = torch.zeros(len(seats), config.horizon, config.action_dim)
        values = values.to(device, self.policy.dtype)
        known = torch.zeros(len(seats), config.horizon, 1, dtype=torch.bool)
        for row, request in enumerate(seats):
            begin = config.obs_steps - 1 - request.past
            end = begin + len(request.prefix)
            raw = torch.from_numpy(request.prefix).to(values)
            values[row, begin:end] = self.policy.action_normalizer.normalize(raw)
            known[row, begin:end] = True
        return Prefix(values, known.to(device), seats[0].prefix_input)  # one kind: all or none
